//! How the store is reached and kept.

use std::fmt;
use std::time::Duration;

/// Where the store is and how much it keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// A folder (`/var/backups/edge`, `file:///var/backups/edge`) or `s3://bucket/prefix`.
    pub url: String,
    /// Of an S3-compatible service other than Amazon's, such as `https://minio.example.com`.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Without keys they are taken from the environment or the machine's role, as Amazon's own tools do.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// Whether the endpoint may be reached without TLS.
    pub allow_http: bool,
    /// Time between two snapshots of a database that changes.
    pub snapshot_interval: Duration,
    /// Any second of this time can be restored.
    pub retention: Duration,
    /// What is committed within this time is uploaded as one file; so this is what a lost disk may cost.
    pub sync_interval: Duration,
    /// Uploads within the first of these spans of time are merged into one file of level 1, those within the second into
    /// one of level 2, then 3.
    pub merge_windows: [Duration; 3],
}

impl StoreSettings {
    pub fn new(url: impl Into<String>) -> StoreSettings {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        StoreSettings {
            url: url.into(),
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            allow_http: false,
            snapshot_interval: DAY,
            retention: DAY * 30,
            sync_interval: Duration::from_secs(1),
            merge_windows: super::levels::WINDOWS,
        }
    }
}

/// The keys are not shown.
impl fmt::Debug for StoreSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StoreSettings")
            .field("url", &self.url)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_shown() {
        let mut settings = StoreSettings::new("s3://bucket/prefix");
        settings.access_key_id = Some("the-key-id".to_owned());
        settings.secret_access_key = Some("the-secret".to_owned());
        let text = format!("{settings:?}");
        assert!(text.contains("s3://bucket/prefix"), "{text}");
        assert!(!text.contains("the-key-id") && !text.contains("the-secret"), "{text}");
    }
}
