//! The object store: where a primary also keeps every database, second by second.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{positive, resolve};
use crate::config;
use crate::text::{PositiveDuration, Text};

/// Where a primary keeps its databases besides its own disk, so that any second of the last days can be restored, by
/// `selvedge` and by `litestream restore`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    /// A folder, or `s3://bucket/prefix`.
    #[schemars(regex(pattern = r"^(s3://[^/]+(/.*)?|file:///.*|[^:]+)$"))]
    url: String,
    /// An S3-compatible service other than Amazon's, such as `https://minio.example.com`.
    #[schemars(regex(pattern = r"^https?://[^/]+/?$"))]
    endpoint: Option<String>,
    /// The region of the bucket.
    region: Option<String>,
    /// Without keys they come from the environment or the machine's role, as for Amazon's own tools.
    access_key_id: Option<String>,
    /// `${file:…}` and `${VAR}` keep it out of this file.
    secret_access_key: Option<String>,
    /// Whether `endpoint` may be reached without TLS.
    #[serde(default)]
    allow_http: bool,
    /// Time between two snapshots of a database that changes.
    #[serde(default = "snapshot_interval")]
    snapshot_interval: Text<PositiveDuration>,
    /// Any second of this time can be restored.
    #[serde(default = "retention")]
    retention: Text<PositiveDuration>,
    /// What is committed within this time is uploaded as one file: the most that a lost disk costs.
    #[serde(default = "sync_interval")]
    sync_interval: Text<PositiveDuration>,
}

fn snapshot_interval() -> Text<PositiveDuration> {
    positive(config::AgentStore::SNAPSHOT_INTERVAL)
}

fn retention() -> Text<PositiveDuration> {
    positive(config::AgentStore::RETENTION)
}

fn sync_interval() -> Text<PositiveDuration> {
    positive(config::AgentStore::SYNC_INTERVAL)
}

impl Store {
    pub(super) fn into_used(self, base: &Path) -> config::AgentStore {
        let is_folder = !self.url.contains("://");
        let url = match is_folder {
            true => resolve(base, PathBuf::from(self.url)).display().to_string(),
            false => self.url,
        };
        config::AgentStore {
            url,
            endpoint: self.endpoint,
            region: self.region,
            access_key_id: self.access_key_id,
            secret_access_key: self.secret_access_key,
            allow_http: self.allow_http,
            snapshot_interval: self.snapshot_interval.0.0,
            retention: self.retention.0.0,
            sync_interval: self.sync_interval.0.0,
        }
    }
}

/// The keys are not shown.
impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("url", &self.url).finish_non_exhaustive()
    }
}
