//! How an agent is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::AgentTls;
use crate::postgres::PostgresSettings;
use crate::queue::QueueBounds;
use crate::store::StoreSettings;

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
    /// A SQLite file that the primary copies when the database does not exist.
    pub seed: Option<PathBuf>,
}

/// Who may reach one database through the agent with a client of libSQL's.
#[derive(Clone)]
pub struct AgentClientToken {
    pub token: String,
    pub database: String,
    pub role: ClientRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientRole {
    Read,
    Write,
}

/// The token is not shown.
impl std::fmt::Debug for AgentClientToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentClientToken")
            .field("database", &self.database)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
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
    /// The certificate shown on `listen`; without one, plain HTTP.
    pub tls: Option<AgentTls>,
    /// PEM file with the certificates of authorities believed at the primary, besides the machine's own.
    pub ca: Option<PathBuf>,
    /// Clients that reach one database each.
    pub clients: Vec<AgentClientToken>,
    /// Databases that exist from the start.
    pub databases: Vec<AgentDatabase>,
    /// Names of the platform's databases that a replica follows.
    pub platform_databases: Vec<String>,
    /// What a primary reaches for handlers everywhere.
    pub postgres: Vec<PostgresSettings>,
    pub queue: QueueBounds,
    /// Bytes of the log that are kept for replicas that were away.
    pub log_retain_bytes: u64,
    /// How long a write waits for its outcome before its fate is called unknown.
    pub write_timeout: Duration,
    /// Databases that a primary holds open at one time; those not used for longest are closed.
    pub open_databases: usize,
    /// Where a primary also keeps what its log has; `None` for nowhere.
    pub store: Option<StoreSettings>,
    /// Time between two full comparisons of a replica with what was applied to it, and of a primary's database with its log.
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
            tls: None,
            ca: None,
            clients: Vec::new(),
            databases: Vec::new(),
            platform_databases: Vec::new(),
            postgres: Vec::new(),
            queue: QueueBounds {
                rows: 100_000,
                bytes: 256 * 1024 * 1024,
            },
            log_retain_bytes: 1024 * 1024 * 1024,
            write_timeout: Duration::from_secs(10),
            open_databases: 200,
            store: None,
            scrub_interval: Duration::from_secs(600),
        }
    }

    /// The folder of the databases' folders.
    pub(crate) fn databases_dir(&self) -> PathBuf {
        self.data_dir.join("databases")
    }
}
