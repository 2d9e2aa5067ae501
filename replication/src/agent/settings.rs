//! How an agent is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::queue::QueueBounds;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Owns every database's only writer.
    Primary,
    /// Follows the agent at `primary`, such as `https://primary.example.com:7100`.
    Replica { primary: String },
}

#[derive(Debug, Clone)]
pub struct AgentDatabase {
    pub name: String,
    /// Applied by the primary.
    pub migrations: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Of this agent, in logs and metrics.
    pub name: String,
    pub role: Role,
    /// Holds the databases, the log and the queue.
    pub data_dir: PathBuf,
    /// Where the proxy of this machine reaches it.
    pub socket: PathBuf,
    /// Where other agents and clients reach it.
    pub listen: Option<SocketAddr>,
    /// The secret the agents of a cluster share. Without one, anybody who reaches `listen` may do anything.
    pub token: Option<String>,
    /// Databases that exist from the start.
    pub databases: Vec<AgentDatabase>,
    pub queue: QueueBounds,
    /// Bytes of the log that are kept for replicas that were away.
    pub log_retain_bytes: u64,
    /// How long a write waits for its outcome before its fate is called unknown.
    pub write_timeout: Duration,
    /// Time between two full comparisons of a replica with what was applied to it.
    pub scrub_interval: Duration,
}

impl AgentSettings {
    pub fn new(name: impl Into<String>, role: Role, data_dir: impl Into<PathBuf>) -> AgentSettings {
        let data_dir = data_dir.into();
        AgentSettings {
            name: name.into(),
            role,
            socket: data_dir.join("agent.sock"),
            data_dir,
            listen: None,
            token: None,
            databases: Vec::new(),
            queue: QueueBounds {
                rows: 100_000,
                bytes: 256 * 1024 * 1024,
            },
            log_retain_bytes: 1024 * 1024 * 1024,
            write_timeout: Duration::from_secs(10),
            scrub_interval: Duration::from_secs(600),
        }
    }

    pub(crate) fn databases_dir(&self) -> PathBuf {
        self.data_dir.join("databases")
    }
}
