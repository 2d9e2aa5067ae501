//! How control is started.

use std::net::SocketAddr;
use std::path::PathBuf;

use selvedge_replication::agent::AgentTls;
use selvedge_schema::{Agent, ControlPlane, FilterSchema, Sites};

#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// Of the API.
    pub listen: SocketAddr,
    /// The certificate shown there; without one, plain HTTP.
    pub tls: Option<AgentTls>,
    /// The socket of the agent beside control.
    pub agent_socket: PathBuf,
    /// Where that agent keeps its files.
    pub agent_data_dir: PathBuf,
    /// The folder of uploaded blobs.
    pub artifacts: PathBuf,
    pub max_artifact_bytes: u64,
    /// The file of the keys that secrets are encrypted with; made when it is missing.
    pub secrets_key: PathBuf,
    /// Where PoPs serve apps.
    pub sites: Sites,
    /// Webhooks may be on this machine and in private networks, and without TLS.
    pub allow_private_webhooks: bool,
    /// The filters that manifests may name.
    pub filters: Vec<FilterSchema>,
}

impl ControlSettings {
    /// What a configuration says of control and the agent beside it.
    pub fn of(plane: &ControlPlane, agent: &Agent, filters: Vec<FilterSchema>) -> ControlSettings {
        ControlSettings {
            listen: plane.listen,
            tls: plane.tls.as_ref().map(|tls| AgentTls {
                cert: tls.cert.clone(),
                key: tls.key.clone(),
            }),
            agent_socket: agent.socket.clone(),
            agent_data_dir: agent.data_dir.clone(),
            artifacts: plane.artifacts.clone(),
            max_artifact_bytes: plane.max_artifact_bytes,
            secrets_key: plane.secrets_key.clone(),
            sites: plane.sites.clone(),
            allow_private_webhooks: plane.allow_private_webhooks,
            filters,
        }
    }
}
