//! PostgreSQL databases that exist elsewhere.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{positive, resolve};
use crate::config;
use crate::text::{PositiveDuration, Text};

/// A PostgreSQL database, reached from the primary site through a pool of connections.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Postgres {
    /// Its address, `postgres://user:password@host:port/database?sslmode=require`; keep it in a file with `${file:…}`.
    /// Only the primary has one.
    #[schemars(length(min = 1))]
    url: Option<String>,
    /// Connections at one time.
    #[serde(default = "pool")]
    #[schemars(range(min = 1, max = 1000))]
    pool: usize,
    /// How long one statement may run; at most a minute.
    #[serde(default = "statement_timeout")]
    statement_timeout: Text<PositiveDuration>,
    /// Whom to believe, unless the address says `sslmode=disable`.
    tls: Option<Tls>,
}

/// Certificates of a PostgreSQL.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// PEM file of the authorities to believe; the system's unless given.
    ca: Option<PathBuf>,
}

fn pool() -> usize {
    config::Postgres::POOL
}

fn statement_timeout() -> Text<PositiveDuration> {
    positive(config::Postgres::STATEMENT_TIMEOUT)
}

impl Postgres {
    pub(super) fn into_used(self, base: &Path) -> config::Postgres {
        config::Postgres {
            url: self.url,
            pool: self.pool,
            statement_timeout: self.statement_timeout.0.0,
            ca: self.tls.and_then(|tls| tls.ca).map(|path| resolve(base, path)),
        }
    }
}

/// The address holds a password and is not shown.
impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}
