//! The agent: the process beside each proxy that keeps its databases current, queues its writes, and at the primary site
//! executes them.
//!
//! A write's way, in the order of the files: `api` takes it, `replica_site` queues and `lanes` forward it, `primary_site`
//! executes and logs it, `follow` sends its pages to every replica, `following` takes them, `replica_task` applies them, and
//! then the answer leaves. A proxy reads the database files itself; `board` tells it where they are and how current.
//!
//! What is decided on this way is decided by three state machines without I/O, which `simulation` runs: `follower` (what a
//! primary sends), `replica_state` (what a replica does with it) and `lane` (which operation is sent when).

pub(crate) mod api;
mod board;
pub(crate) mod deleted;
mod draft;
mod follow;
pub(crate) mod follower;
mod following;
mod frames;
mod lane;
mod lanes;
pub(crate) mod link;
mod manage;
mod metrics;
mod postgres;
pub(crate) mod primary_site;
pub(crate) mod refusal;
pub(crate) mod replica_site;
mod replica_state;
mod replica_task;
mod replicas;
mod scrub;
mod settings;
#[cfg(test)]
mod simulation;
mod slots;
mod tls;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use board::{DatabaseStatus, State};
pub use deleted::Deleted;
pub use refusal::Refusal;
pub use replicas::FollowingReplica;
pub use settings::{AgentClientToken, AgentDatabase, AgentSettings, ClientRole, Role};
pub use tls::{AgentTls, TlsError, TlsListener, acceptor};

use crate::bookmark::BookmarkKey;
use crate::postgres::pool::Pools;
use crate::store::StoreStatus;
use board::Board;
use primary_site::PrimarySite;
use replica_site::ReplicaSite;
use replicas::Replicas;

/// How long requests under way may take when the agent stops.
const STOPPING: Duration = Duration::from_secs(5);
/// How long the last uploads may take then.
const UPLOADING: Duration = Duration::from_secs(3);

/// Why an agent did not start.
#[derive(Debug, Error)]
pub enum AgentError {
    #[error("{path} cannot be made")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("taking the lease")]
    Lease(#[from] crate::lease::LeaseError),
    #[error("opening the store")]
    Store(#[from] crate::store::StoreError),
    #[error("recovering from the store")]
    Recover(#[from] crate::store::RecoverError),
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
    #[error("the PostgreSQL {name} cannot be used")]
    Postgres {
        name: String,
        source: crate::postgres::PostgresOpenError,
    },
    #[error("preparing the client for the primary")]
    Client(#[from] reqwest::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    pub(crate) metrics: metrics::Metrics,
    /// Names of databases that were deleted, at a primary.
    pub(crate) gone: Mutex<BTreeSet<String>>,
    /// Who follows a primary.
    pub(crate) replicas: Replicas,
    /// At the primary only.
    pub(crate) postgres: Pools,
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
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

pub(crate) enum Site {
    Primary(Arc<PrimarySite>),
    Replica(ReplicaSite),
}

/// A running agent. Dropped, it stops; what was acknowledged is safe.
pub struct Agent {
    address: Option<SocketAddr>,
    tasks: JoinSet<()>,
    site: Arc<Site>,
    shared: Arc<Shared>,
}

impl Agent {
    pub async fn start(settings: AgentSettings) -> Result<Agent, AgentError> {
        install_crypto();
        std::fs::create_dir_all(&settings.data_dir).map_err(|source| AgentError::Folder {
            path: settings.data_dir.clone(),
            source,
        })?;
        let postgres = Pools::open(&settings.postgres);
        let shared = Arc::new(Shared {
            postgres: postgres.map_err(|(name, source)| AgentError::Postgres { name, source })?,
            key: BookmarkKey::derive(settings.token.as_deref().unwrap_or_default()),
            board: Board::default(),
            metrics: metrics::Metrics::default(),
            gone: Mutex::default(),
            replicas: Replicas::default(),
            ending: watch::Sender::new(false),
            settings,
        });
        let mut tasks = JoinSet::new();
        let site = match &shared.settings.role {
            Role::Primary => Site::Primary(PrimarySite::open(Arc::clone(&shared)).await?),
            Role::Replica { .. } => Site::Replica(ReplicaSite::open(Arc::clone(&shared), &mut tasks)?),
        };
        let site = Arc::new(site);
        let tending = primary_site::tend(Arc::clone(&site));
        let ended = Arc::clone(&shared).ended();
        tasks.spawn(async move {
            tokio::select! {
                () = tending => {}
                () = ended => {}
            }
        });
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
            // Accepting never fails for good.
            match &shared.settings.tls {
                None => tasks.spawn(async move {
                    let listener = listener.tap_io(tls::send_at_once);
                    let _ = axum::serve(listener, router).with_graceful_shutdown(ended).await;
                }),
                Some(tls) => {
                    let listener = TlsListener::new(listener, tls::acceptor(tls)?).map_err(failed)?;
                    tasks.spawn(async move {
                        let _ = axum::serve(listener, router).with_graceful_shutdown(ended).await;
                    })
                }
            };
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
        Ok(Agent {
            address,
            tasks,
            site,
            shared,
        })
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

    /// What the object store has of every database; empty unless this is a primary with a store.
    pub fn store(&self) -> Vec<StoreStatus> {
        match &*self.site {
            Site::Primary(site) => site.store_statuses(),
            Site::Replica(_) => Vec::new(),
        }
    }

    /// Finishes requests, uploads what the store lacks, and ends its tasks.
    pub async fn stop(mut self) {
        self.shared.ending.send_replace(true);
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOPPING, finished).await.is_err() {
            self.tasks.shutdown().await;
        }
        if let Site::Primary(site) = &*self.site {
            site.close_all().await;
            if tokio::time::timeout(UPLOADING, site.flush_store()).await.is_err() {
                tracing::warn!("not everything is in the store yet; it is when this primary starts again");
            }
        }
    }
}
