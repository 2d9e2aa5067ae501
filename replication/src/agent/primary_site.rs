//! The primary: opens databases when they are first asked for, and executes operations.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::{AgentError, Refusal, Shared, State};
use crate::folder::Folder;
use crate::lease::{Lease, StaticLease};
use crate::log::SegmentLog;
use crate::queue::Operation;
use crate::{Committed, Database, DatabaseSettings, OpenError, Publication, SqlError};

pub(crate) struct PrimarySite {
    shared: Arc<Shared>,
    log: Arc<SegmentLog>,
    publication: Publication,
    databases: Mutex<HashMap<String, Arc<Database>>>,
}

impl PrimarySite {
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<PrimarySite, AgentError> {
        let data_dir = shared.settings.data_dir.clone();
        let retain = shared.settings.log_retain_bytes;
        let opened = blocking(move || {
            let log = SegmentLog::open(&data_dir.join("log"), retain)?;
            let epoch = StaticLease::at(&data_dir.join("epoch")).acquire()?;
            Ok::<_, AgentError>((Arc::new(log), epoch))
        });
        let (log, epoch) = opened.await?;
        let site = PrimarySite {
            publication: Publication {
                log: log.clone(),
                epoch,
            },
            log,
            databases: Mutex::default(),
            shared,
        };
        for database in site.shared.settings.databases.clone() {
            if !Folder::is_valid_name(&database.name) {
                return Err(AgentError::Name { name: database.name });
            }
            site.open_database(&database.name, database.migrations)
                .await
                .map_err(|source| AgentError::Database {
                    name: database.name.clone(),
                    source: Box::new(source),
                })?;
        }
        let root = site.shared.settings.databases_dir();
        let names = Folder::names(&root).map_err(|source| AgentError::Folder { path: root, source })?;
        for name in names {
            site.open_database(&name, None)
                .await
                .map_err(|source| AgentError::Database {
                    name: name.clone(),
                    source: Box::new(source),
                })?;
        }
        Ok(site)
    }

    pub(crate) fn log(&self) -> Arc<SegmentLog> {
        Arc::clone(&self.log)
    }

    pub(crate) async fn database(&self, name: &str) -> Result<Arc<Database>, Refusal> {
        let found = self.databases.lock().await.get(name).cloned();
        found.ok_or_else(|| Refusal::NoDatabase(name.to_owned()))
    }

    /// The file of a database.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        Folder::of(&self.shared.settings.databases_dir(), name).current()
    }

    /// Makes an empty database; one that exists stays as it is.
    pub(crate) async fn create(&self, name: &str) -> Result<(), Refusal> {
        if !Folder::is_valid_name(name) {
            return Err(Refusal::Malformed(
                AgentError::Name { name: name.to_owned() }.to_string(),
            ));
        }
        self.open_database(name, None)
            .await
            .map_err(|error| Refusal::Internal(chain(&error)))
    }

    /// Executes operations in their order, all of them known to the writer before the first is waited for, so that
    /// they can share a commit.
    pub(crate) async fn execute(
        &self,
        name: &str,
        operations: Vec<Operation>,
    ) -> Result<Vec<Result<Committed, SqlError>>, Refusal> {
        let database = self.database(name).await?;
        let running = operations
            .into_iter()
            .map(|operation| database.execute(operation.statements, operation.id));
        Ok(futures::future::join_all(running).await)
    }

    async fn open_database(&self, name: &str, migrations: Option<PathBuf>) -> Result<(), OpenError> {
        let mut databases = self.databases.lock().await;
        if databases.contains_key(name) {
            return Ok(());
        }
        let folder = Folder::of(&self.shared.settings.databases_dir(), name);
        let (publication, owned) = (self.publication.clone(), name.to_owned());
        let opened = blocking(move || {
            let unreadable = |source| OpenError::Unreadable {
                path: PathBuf::from(&owned),
                source,
            };
            let current = folder.current();
            let path = match &current {
                Some(path) => path.clone(),
                None => folder.next().map_err(unreadable)?,
            };
            let mut settings = DatabaseSettings::new(&owned, &path);
            settings.migrations = migrations;
            let database = Database::open_primary(settings, publication)?;
            if current.is_none() {
                folder.switch_to(&path).map_err(unreadable)?;
            }
            Ok::<_, OpenError>((database, path))
        });
        let (database, path) = opened.await?;
        if let Some(mut durable) = database.durable() {
            let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
            tokio::spawn(async move {
                loop {
                    let head = *durable.borrow_and_update();
                    shared.board.update(&name, |status| {
                        status.state = State::Primary;
                        status.path = Some(path.clone());
                        (status.head, status.primary, status.primary_reachable) = (head, head, true);
                    });
                    // Ends when the database is closed.
                    if durable.changed().await.is_err() {
                        return;
                    }
                }
            });
        }
        databases.insert(name.to_owned(), database);
        Ok(())
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}
