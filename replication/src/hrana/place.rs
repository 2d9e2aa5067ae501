//! Where a stream's statements run: at the primary in its own database, at a replica on the local file, or through the
//! write queue.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Hrana;
use super::bounds;
use super::failure::Failure;
use super::stream::Stream;
use crate::agent::replica_site::ReplicaSite;
use crate::agent::{Refusal, Site, State};
use crate::execute::Read;
use crate::position::Position;
use crate::queue::Operation;
use crate::read_transaction::ReadTransaction;
use crate::replica_file::{Open, ReplicaFile};
use crate::{Database, DatabaseSettings, Interactive, Rows, SqlError, Statement};

impl Hrana {
    /// Reads at least what the client has seen; `None` when the statement may write, and nothing of it has run.
    pub(super) async fn read(&self, stream: &mut Stream, statement: Statement) -> Result<Option<Rows>, Failure> {
        let site = match &*self.site {
            Site::Primary(site) => {
                let database = site.database(&stream.database).await?;
                let (rows, position) = database.read(statement).await?;
                stream.see(position);
                return Ok(rows);
            }
            Site::Replica(site) => site,
        };
        let mut statement = statement;
        if let Some(open) = self.replica(stream).await? {
            let (returned, answer, position) = open.readers.read(statement).await?;
            match answer? {
                Read::NeedsWriter => return Ok(None),
                Read::Rows(rows) if position >= stream.wanted => {
                    stream.see(position);
                    return Ok(Some(rows));
                }
                // The file was replaced meanwhile.
                Read::Rows(_) => statement = returned,
            }
        }
        self.read_at_primary(site, stream, &statement).await
    }

    /// Executes the statements in one transaction: all of them, or none.
    pub(super) async fn write(&self, stream: &mut Stream, statements: Vec<Statement>) -> Result<Vec<Rows>, Failure> {
        stream.may_write()?;
        match &*self.site {
            Site::Primary(site) => {
                let database = site.database(&stream.database).await?;
                let committed = database.commit(statements).await?;
                stream.see(committed.position.unwrap_or_default());
                Ok(committed.rows)
            }
            Site::Replica(site) => {
                let operation = Operation {
                    id: uuid::Uuid::now_v7().to_string(),
                    statements,
                };
                let executed = site.execute(&stream.database, operation).await?;
                stream.see(executed.position);
                Ok(executed.rows)
            }
        }
    }

    /// Begins a transaction on the writer, which is only at the primary.
    pub(super) async fn begin(&self, stream: &Stream) -> Result<Interactive, Failure> {
        stream.may_write()?;
        let database = self.primary_database(stream).await?;
        match tokio::time::timeout(bounds::BEGIN_WAIT, database.begin_with(stream.foreign_keys)).await {
            Ok(begun) => Ok(begun?),
            Err(_elapsed) => Err(Failure::TransactionBusy),
        }
    }

    /// Begins to read one state, here if it is new enough.
    pub(super) async fn begin_reading(&self, stream: &mut Stream) -> Result<ReadTransaction, Failure> {
        let permits = Arc::clone(&self.reading);
        let permit = permits.try_acquire_owned().map_err(|_| Failure::TransactionBusy)?;
        let path = match &*self.site {
            Site::Primary(site) => site.path(&stream.database),
            Site::Replica(_) => self.current(stream).await,
        };
        let path = path.ok_or(Failure::Refused(Refusal::Behind))?;
        let mut settings = DatabaseSettings::new(&stream.database, path);
        settings.replicated = true;
        let transaction = ReadTransaction::begin(settings, permit).await?;
        if matches!(*self.site, Site::Replica(_)) && transaction.position() < stream.wanted {
            return Err(Failure::Refused(Refusal::Behind));
        }
        if let Site::Primary(site) = &*self.site {
            let database = site.database(&stream.database).await?;
            database.confirm(transaction.position()).await?;
        }
        stream.see(transaction.position());
        Ok(transaction)
    }

    /// Returns when the replica shows what the stream has seen, or after a while.
    pub(super) async fn wait_until_visible(&self, stream: &Stream) {
        let seen = stream.seen;
        let board = &self.shared.board;
        let visible = board.wait_for(&stream.database, |status| status.head.position >= seen);
        // Afterwards the bookmark does the rest.
        let _ = tokio::time::timeout(bounds::VISIBLE_WAIT, visible).await;
    }

    /// Whether what the stream wants to read can be read here.
    pub(super) async fn is_current(&self, stream: &Stream) -> bool {
        self.current(stream).await.is_some()
    }

    async fn primary_database(&self, stream: &Stream) -> Result<Arc<Database>, Failure> {
        match &*self.site {
            Site::Primary(site) => Ok(site.database(&stream.database).await?),
            Site::Replica(_) => Err(Failure::Refused(Refusal::NotPrimary)),
        }
    }

    async fn read_at_primary(
        &self,
        site: &ReplicaSite,
        stream: &mut Stream,
        statement: &Statement,
    ) -> Result<Option<Rows>, Failure> {
        match site.read_strong(&stream.database, statement).await {
            Ok(mut executed) => {
                stream.see(executed.position);
                Ok(executed.rows.pop())
            }
            // It may write.
            Err(Refusal::Sql(SqlError::Remote { code, .. })) if code == "malformed" => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The readers of this replica's file, if it is new enough soon.
    async fn replica(&self, stream: &Stream) -> Result<Option<Arc<Open>>, Failure> {
        match self.current(stream).await {
            Some(path) => Ok(Some(self.replicas.of(&stream.database).open(path).await?)),
            None => Ok(None),
        }
    }

    /// This replica's file, if it is new enough soon.
    async fn current(&self, stream: &Stream) -> Option<PathBuf> {
        let wanted = stream.wanted;
        if wanted != Position::default() {
            let board = &self.shared.board;
            let reached = board.wait_for(&stream.database, |status| status.head.position >= wanted);
            tokio::time::timeout(bounds::BOOKMARK_WAIT, reached).await.ok()?;
        }
        let status = self.shared.board.get(&stream.database)?;
        status.path.filter(|_| status.state != State::Quarantined)
    }
}

/// The readers of replicas, those asked last.
#[derive(Default)]
pub(super) struct Replicas {
    /// The last one asked is the last.
    files: Mutex<Vec<(String, Arc<ReplicaFile>)>>,
}

impl Replicas {
    fn of(&self, database: &str) -> Arc<ReplicaFile> {
        let mut files = self.files.lock();
        let (name, file) = match files.iter().position(|(name, _)| name == database) {
            Some(index) => files.remove(index),
            None => {
                if files.len() == bounds::OPEN_REPLICAS {
                    files.remove(0);
                }
                let mut settings = DatabaseSettings::new(database, "");
                settings.replicated = true;
                settings.readers = bounds::READERS;
                (database.to_owned(), Arc::new(ReplicaFile::new(settings)))
            }
        };
        files.push((name, Arc::clone(&file)));
        file
    }
}
