//! The agent: the process beside each proxy that keeps its databases current, queues its writes, and at the primary site
//! executes them.
//!
//! A write's way, in the order of the files: `api` takes it, `replica_site` queues and forwards it, `primary_site`
//! executes and logs it, `follow` sends its pages to every replica, `following` applies them, and then the answer leaves.
//! A proxy reads the database files itself; `board` tells it where they are and how current.

pub(crate) mod api;
mod board;
mod follow;
mod following;
mod frames;
mod link;
pub(crate) mod primary_site;
pub(crate) mod refusal;
pub(crate) mod replica_site;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use board::{DatabaseStatus, State};
pub use refusal::Refusal;
pub use settings::{AgentDatabase, AgentSettings, Role};

use crate::bookmark::BookmarkKey;
use board::Board;
use primary_site::PrimarySite;
use replica_site::ReplicaSite;

/// How long requests under way may take when the agent stops.
const STOPPING: Duration = Duration::from_secs(5);

/// Why an agent did not start.
#[derive(Debug, Error)]
pub enum AgentError {
    #[error("{path} cannot be made")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("taking the lease")]
    Lease(#[from] crate::lease::LeaseError),
    #[error("opening the log")]
    Log(#[from] crate::log::LogError),
    #[error("opening database {name}")]
    Database {
        name: String,
        source: Box<crate::OpenError>,
    },
    #[error("opening the write queue")]
    Queue(#[from] crate::queue::QueueOpenError),
    #[error("{address} cannot be listened on")]
    Listen { address: String, source: std::io::Error },
    #[error("preparing the client for the primary")]
    Client(#[from] reqwest::Error),
    #[error(
        "{name:?} cannot be a database's name: use up to 64 letters, digits, '-', '_' and '.', not '_' or '.' first"
    )]
    Name { name: String },
}

/// What every part of one agent shares.
pub(crate) struct Shared {
    pub(crate) settings: AgentSettings,
    pub(crate) key: BookmarkKey,
    pub(crate) board: Board,
    /// Becomes true when the agent is told to stop.
    pub(crate) ending: watch::Sender<bool>,
}

impl Shared {
    /// Returns when the agent is told to stop.
    pub(crate) async fn ended(self: Arc<Self>) {
        let mut ending = self.ending.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = ending.wait_for(|ending| *ending).await;
    }
}

/// The process's TLS implementation, unless somebody has chosen one before.
pub(crate) fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

pub(crate) enum Site {
    Primary(PrimarySite),
    Replica(ReplicaSite),
}

/// A running agent. Dropped, it stops; what was acknowledged is safe.
pub struct Agent {
    address: Option<SocketAddr>,
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

impl Agent {
    pub async fn start(settings: AgentSettings) -> Result<Agent, AgentError> {
        install_crypto();
        std::fs::create_dir_all(&settings.data_dir).map_err(|source| AgentError::Folder {
            path: settings.data_dir.clone(),
            source,
        })?;
        let shared = Arc::new(Shared {
            key: BookmarkKey::derive(settings.token.as_deref().unwrap_or_default()),
            board: Board::default(),
            ending: watch::Sender::new(false),
            settings,
        });
        let mut tasks = JoinSet::new();
        let site = match &shared.settings.role {
            Role::Primary => Site::Primary(PrimarySite::open(Arc::clone(&shared)).await?),
            Role::Replica { .. } => Site::Replica(ReplicaSite::open(Arc::clone(&shared), &mut tasks)?),
        };
        let site = Arc::new(site);
        let mut address = None;
        if let Some(listen) = shared.settings.listen {
            let failed = |source| AgentError::Listen {
                address: listen.to_string(),
                source,
            };
            let listener = TcpListener::bind(listen).await.map_err(failed)?;
            address = Some(listener.local_addr().map_err(failed)?);
            let router = api::remote(Arc::clone(&shared), Arc::clone(&site));
            let ended = Arc::clone(&shared).ended();
            tasks.spawn(async move {
                // Accepting never fails for good.
                let _ = axum::serve(listener, router).with_graceful_shutdown(ended).await;
            });
        }
        let socket = &shared.settings.socket;
        let failed = |source| AgentError::Listen {
            address: socket.display().to_string(),
            source,
        };
        // Left by a process that was killed.
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).map_err(failed)?;
        let router = api::local(Arc::clone(&shared), Arc::clone(&site));
        let ended = Arc::clone(&shared).ended();
        tasks.spawn(async move {
            let _ = axum::serve(listener, router).with_graceful_shutdown(ended).await;
        });
        Ok(Agent { address, tasks, shared })
    }

    /// Where other agents and clients reach it.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub fn socket(&self) -> &std::path::Path {
        &self.shared.settings.socket
    }

    /// The state of every database.
    pub fn databases(&self) -> Vec<DatabaseStatus> {
        self.shared.board.all()
    }

    /// Finishes requests and ends its tasks.
    pub async fn stop(mut self) {
        self.shared.ending.send_replace(true);
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOPPING, finished).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}
