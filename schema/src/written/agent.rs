//! The agent: this machine's part in replication.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent_clients::AgentClient;
use super::door::CertificateFiles;
use super::{agent_store, positive, resolve, size};
use crate::config;
use crate::text::{ByteSize, PositiveDuration, Text};

/// The agent beside the proxy, started with `selvedge agent`: keeps the databases of this machine current and forwards
/// writes to the primary; or is the primary.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Agent {
    /// What logs and metrics call this agent.
    #[serde(default = "name")]
    #[schemars(length(min = 1))]
    name: String,
    /// Folder for databases, log and write queue.
    data_dir: Option<PathBuf>,
    /// Unix socket on which the proxy of this machine reaches the agent; `agent.sock` in its folder unless given.
    socket: Option<PathBuf>,
    /// IP address and port on which other agents and clients reach it. A primary needs one.
    listen: Option<Text<SocketAddr>>,
    /// Address of the primary's agent, such as `https://primary.example.com:7100`. Without it this agent is the primary.
    #[schemars(regex(pattern = r"^https?://[^/]+/?$"))]
    primary: Option<String>,
    /// The secret that all agents of a cluster share; required unless `listen` is a loopback address.
    #[schemars(length(min = 1))]
    token: Option<String>,
    /// Certificate of `listen`; without one it speaks plain HTTP.
    tls: Option<CertificateFiles>,
    /// PEM file of authorities whose certificates are believed at the primary, besides the machine's own.
    ca: Option<PathBuf>,
    /// Who may reach a database with a client of libSQL's, and in which role.
    #[serde(default)]
    clients: Vec<AgentClient>,
    /// Writes that wait for the primary.
    #[serde(default)]
    queue: Queue,
    /// The primary's log.
    #[serde(default)]
    log: Log,
    /// Where the primary's databases are kept besides its own disk.
    store: Option<agent_store::Store>,
    /// How long a write waits for its outcome.
    #[serde(default = "write_timeout")]
    write_timeout: Text<PositiveDuration>,
    /// Databases that a primary holds open at one time; those not used for longest are closed.
    #[serde(default = "open_databases")]
    #[schemars(range(min = 1))]
    open_databases: usize,
    /// How long a read waits for what its client has seen before the primary is asked instead.
    #[serde(default = "bookmark_wait")]
    bookmark_wait: Text<PositiveDuration>,
    /// When the data layer counts as degraded.
    #[serde(default)]
    levels: Levels,
    /// Time between two comparisons of whole databases: a replica with what was applied to it, the primary with its log.
    #[serde(default = "scrub_interval")]
    scrub_interval: Text<PositiveDuration>,
}

/// Bounds of the write queue. What does not fit is refused with 503.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Queue {
    /// Writes at one time.
    #[schemars(range(min = 1))]
    rows: u64,
    /// Their size together.
    bytes: Text<ByteSize>,
}

/// The log of a primary.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Log {
    /// What is kept for replicas that were away; those away for longer copy a snapshot.
    retain: Text<ByteSize>,
}

/// Thresholds of the levels of degradation.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Levels {
    /// Level 1: a replica has been behind for longer.
    replica_lag: Text<PositiveDuration>,
    /// Level 2: a write took longer.
    primary_slow: Text<PositiveDuration>,
}

impl Default for Levels {
    fn default() -> Self {
        Levels {
            replica_lag: positive(config::Agent::REPLICA_LAG),
            primary_slow: positive(config::Agent::PRIMARY_SLOW),
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            rows: config::Agent::QUEUE_ROWS,
            bytes: size(config::Agent::QUEUE_BYTES),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log {
            retain: size(config::Agent::LOG_RETAIN_BYTES),
        }
    }
}

fn name() -> String {
    "agent".to_owned()
}

fn write_timeout() -> Text<PositiveDuration> {
    positive(config::Agent::WRITE_TIMEOUT)
}

fn open_databases() -> usize {
    config::Agent::OPEN_DATABASES
}

fn bookmark_wait() -> Text<PositiveDuration> {
    positive(config::Agent::BOOKMARK_WAIT)
}

fn scrub_interval() -> Text<PositiveDuration> {
    positive(config::Agent::SCRUB_INTERVAL)
}

impl Agent {
    pub(super) fn into_used(self, base: &Path, data_dir: &Path) -> config::Agent {
        let data_dir = self
            .data_dir
            .map_or_else(|| data_dir.join("agent"), |path| resolve(base, path));
        config::Agent {
            name: self.name,
            socket: self
                .socket
                .map_or_else(|| data_dir.join("agent.sock"), |path| resolve(base, path)),
            data_dir,
            listen: self.listen.map(|address| address.0),
            primary: self.primary,
            token: self.token,
            tls: self.tls.map(|files| files.into_used(base)),
            ca: self.ca.map(|path| resolve(base, path)),
            clients: self.clients.into_iter().map(AgentClient::into_used).collect(),
            queue_rows: self.queue.rows,
            queue_bytes: self.queue.bytes.0.0,
            log_retain_bytes: self.log.retain.0.0,
            store: self.store.map(|store| store.into_used(base)),
            write_timeout: self.write_timeout.0.0,
            open_databases: self.open_databases,
            bookmark_wait: self.bookmark_wait.0.0,
            replica_lag: self.levels.replica_lag.0.0,
            primary_slow: self.levels.primary_slow.0.0,
            scrub_interval: self.scrub_interval.0.0,
        }
    }
}

/// The token is not shown.
impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
