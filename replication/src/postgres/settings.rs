//! How a PostgreSQL is reached.

use std::path::PathBuf;
use std::time::Duration;

use super::error::PostgresOpenError;
use super::pool;

#[derive(Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// The name it has in the configuration.
    pub name: String,
    /// `postgres://user:password@host:port/database?sslmode=…`, also as `host=… user=…`.
    pub url: String,
    /// Connections at one time; at least one.
    pub pool: usize,
    /// How long one statement may run. Waiting for a connection is not counted.
    pub statement_timeout: Duration,
    /// PEM file of the authorities to believe; `None` takes the system's.
    pub ca: Option<PathBuf>,
}

impl PostgresSettings {
    /// Whether a pool could be made of them; the server is not asked.
    pub fn check(&self) -> Result<(), PostgresOpenError> {
        pool::manager(self).map(drop)
    }
}

/// The address holds a password and is not shown.
impl std::fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("name", &self.name)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> PostgresSettings {
        PostgresSettings {
            name: "legacy".to_owned(),
            url: url.to_owned(),
            pool: 1,
            statement_timeout: Duration::from_secs(1),
            ca: None,
        }
    }

    #[test]
    fn an_address_is_checked_without_being_shown() {
        for (url, accepted) in [
            ("postgres://app:hunter2@db.example.com/shop?sslmode=disable", true),
            ("host=/run/postgresql user=app password=hunter2 sslmode=disable", true),
            ("postgres://app:hunter2@db.example.com/shop?sslmode=verify-full", false),
            ("postgres://app:hunter2@db.example.com:port/shop", false),
            ("hunter2", false),
        ] {
            let outcome = settings(url).check();
            assert_eq!(outcome.is_ok(), accepted, "{url}");
            let shown = format!("{:?} {outcome:?}", settings(url));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
