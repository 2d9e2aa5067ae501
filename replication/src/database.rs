//! A database: opened once, asked by many.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{oneshot, watch};

use crate::agent::{DatabaseStatus, State};
use crate::bookmark::Session;
use crate::bounds;
use crate::client::{AgentClient, Level, ReplicaReader};
use crate::connection::Connection;
use crate::describe::Description;
use crate::error::{MigrationError, OpenError, SqlError};
use crate::execute::Read;
use crate::linked;
use crate::log::Head;
use crate::migrate;
use crate::operations;
use crate::position::Position;
use crate::publish::{Publication, Publisher};
use crate::readers::Readers;
use crate::savepoint::Savepoint;
use crate::settings::DatabaseSettings;
use crate::stats::{Counters, DatabaseStats};
use crate::value::{Rows, Statement, Value};
use crate::writer::{self, Committed, Migrate, Order, Step, Steps, Task, Writer};

/// An open database. The threads end when it is dropped, after what they have begun.
pub struct Database {
    settings: DatabaseSettings,
    place: Place,
    counters: Arc<Counters>,
}

/// Where the database's writer is.
enum Place {
    Here(Here),
    /// At the primary; this machine has a replica.
    Elsewhere(Box<ReplicaReader>),
}

struct Here {
    readers: Readers,
    writer: Writer,
    /// The newest state in the log.
    durable: Option<watch::Receiver<Head>>,
}

impl Database {
    /// Opens or creates the file, applies the migrations and starts the threads. Reads and writes the disk: call it
    /// where blocking is allowed.
    pub fn open(settings: DatabaseSettings) -> Result<Arc<Database>, OpenError> {
        Database::open_with(settings, None)
    }

    /// Like [`Database::open`], as the primary: what is committed is in the log before it is acknowledged.
    pub fn open_primary(settings: DatabaseSettings, publication: Publication) -> Result<Arc<Database>, OpenError> {
        Database::open_with(settings, Some(publication))
    }

    fn open_with(mut settings: DatabaseSettings, publication: Option<Publication>) -> Result<Arc<Database>, OpenError> {
        settings.replicated = publication.is_some();
        linked::assert_fit()?;
        let path = &settings.path;
        look_at(path)?;
        let connection = Connection::open_writer(path)?;
        let publisher = publication.map(|publication| Publisher::open(publication, &settings.name, path, &connection));
        let mut publisher = publisher.transpose().map_err(|error| error.at_open(path))?;
        let migrated = migrate::apply(&connection, settings.migrations.as_deref());
        migrated.map_err(|source| OpenError::Migration {
            path: path.clone(),
            source,
        })?;
        if let Some(publisher) = &mut publisher {
            publisher
                .publish_ours(&connection)
                .map_err(|error| error.at_open(path))?;
        }
        let durable = publisher.as_ref().map(Publisher::durable);

        let counters = Arc::new(Counters::default());
        let (readers, threads) = Readers::open(&settings)?;
        let writer = Writer::start(&settings, connection, publisher, threads, Arc::clone(&counters))?;
        Ok(Arc::new(Database {
            settings,
            place: Place::Here(Here {
                readers,
                writer,
                durable,
            }),
            counters,
        }))
    }

    /// A database whose replica is kept by the agent of this machine: reads are local, writes go through the agent. The
    /// file may come later; until then, and while it may not be read, the primary is asked.
    pub fn of_agent(mut settings: DatabaseSettings, agent: Arc<AgentClient>) -> Arc<Database> {
        settings.replicated = true;
        Arc::new(Database {
            place: Place::Elsewhere(Box::new(ReplicaReader::new(settings.clone(), agent))),
            settings,
            counters: Arc::default(),
        })
    }

    /// Runs one statement: on a reader if it only reads, else in a transaction of its own on the writer.
    ///
    /// Dropping the future stops a read. It withdraws a write that has not begun; one that has begun is finished.
    pub async fn query(&self, sql: &str, params: Vec<Value>) -> Result<Rows, SqlError> {
        self.query_in(&Session::default(), Statement::new(sql, params)).await
    }

    /// Like [`Database::query`], as part of a session, which says what a replica must have at least, and learns what
    /// was read and written.
    pub async fn query_in(&self, session: &Session, statement: Statement) -> Result<Rows, SqlError> {
        let result = match &self.place {
            Place::Here(here) => self.read_or_write(here, statement, session).await,
            Place::Elsewhere(replica) => replica.query(statement, session, &self.counters).await,
        };
        self.noted(result)
    }

    /// How the data layer is, as far as this database is concerned.
    pub fn level(&self) -> Level {
        match &self.place {
            Place::Here(_) => Level::Normal,
            Place::Elsewhere(replica) => replica.level(),
        }
    }

    /// What the agent says of the replica; `None` when the writer is here, or the agent was never heard.
    pub fn replica_status(&self) -> Option<DatabaseStatus> {
        match &self.place {
            Place::Here(_) => None,
            Place::Elsewhere(replica) => replica.status(),
        }
    }

    /// Runs the statements in order in one transaction on the writer: all of them, or none.
    pub async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Rows>, SqlError> {
        Ok(self.commit(statements).await?.rows)
    }

    /// Like [`Database::batch`], and says where the batch is in the database's history.
    pub async fn commit(&self, statements: Vec<Statement>) -> Result<Committed, SqlError> {
        check_batch(&statements)?;
        self.noted(self.write(Task::Batch(statements), None).await)
    }

    /// Runs the statements in one transaction on the writer, once for each `operation`: asked again with the same id, it
    /// answers what it answered.
    pub async fn execute(&self, statements: Vec<Statement>, operation: String) -> Result<Committed, SqlError> {
        check_operation(&statements, &operation)?;
        self.noted(self.write(Task::Batch(statements), Some(operation)).await)
    }

    /// Like [`Database::execute`] for each of them, in their order: none is done after one that was not done and may yet be.
    pub async fn execute_in_order(
        &self,
        operations: impl IntoIterator<Item = (Vec<Statement>, String)>,
    ) -> Vec<Result<Committed, SqlError>> {
        let order = Order::default();
        let mut answers = Vec::new();
        for (statements, operation) in operations {
            answers.push(self.submit_in_order(statements, operation, &order).await);
        }
        let answers = answers.into_iter().map(async |submitted| match submitted {
            Ok(answer) => answer.await.map_err(|_| SqlError::Closed)?,
            Err(error) => Err(error),
        });
        let answers = futures::future::join_all(answers).await;
        answers.into_iter().map(|answer| self.noted(answer)).collect()
    }

    async fn submit_in_order(
        &self,
        statements: Vec<Statement>,
        operation: String,
        order: &Order,
    ) -> Result<oneshot::Receiver<Result<Committed, SqlError>>, SqlError> {
        check_operation(&statements, &operation)?;
        self.check_sound()?;
        let writer = &self.here()?.writer;
        writer
            .submit(Task::Batch(statements), Some(operation), order.clone())
            .await
    }

    /// Runs one statement that only reads, and says which state it read; `None` in place of rows when it may write.
    pub async fn read(&self, statement: Statement) -> Result<(Option<Rows>, Position), SqlError> {
        let here = self.here()?;
        let (_, answer, position) = here.readers.read(statement).await?;
        self.counters.reads.add();
        let rows = match self.noted(answer)? {
            Read::Rows(rows) => Some(rows),
            Read::NeedsWriter => None,
        };
        here.wait_until_durable(position).await?;
        Ok((rows, position))
    }

    /// Begins a transaction whose statements come one after another; it holds the writer, for a few seconds at most.
    pub async fn begin(&self) -> Result<Interactive, SqlError> {
        self.begin_with(true).await
    }

    /// Like [`Database::begin`], with foreign keys enforced or not.
    pub async fn begin_with(&self, foreign_keys: bool) -> Result<Interactive, SqlError> {
        let (steps, ended, receiver) = Steps::channel(foreign_keys);
        self.write(Task::Interactive(receiver), None).await?;
        Ok(Interactive { steps, ended })
    }

    /// Returns when a state that was read may be told of: at a primary, when it is in the log.
    pub(crate) async fn confirm(&self, position: Position) -> Result<(), SqlError> {
        self.here()?.wait_until_durable(position).await
    }

    /// Applies the migrations that are new, in order, each in a transaction of its own; with `dry_run`, all of them in one
    /// that is undone. Returns their files.
    pub async fn migrate(&self, files: migrate::Files, dry_run: bool) -> Result<Vec<String>, MigrationError> {
        let gone = |source| MigrationError::Failed {
            file: "the first".to_owned(),
            source,
        };
        let (report, outcome) = oneshot::channel();
        let task = Task::Migrate(Migrate { files, dry_run, report });
        // The report says all there is.
        let _answer = self
            .here()
            .map_err(gone)?
            .writer
            .submit(task, None, Order::default())
            .await
            .map_err(gone)?;
        outcome.await.map_err(|_| gone(SqlError::Closed))?
    }

    /// Finishes what was asked before, moves everything into the file and ends the writer, also while others hold the
    /// database: they hear that it is closed, and their reads see what was there last.
    pub async fn close(&self) {
        if let Ok(here) = self.here() {
            // A full queue is being worked on; any other error says that it is closed already.
            while let Err(SqlError::Busy { .. }) = here.writer.write(Task::Close, None).await {}
        }
    }

    /// The newest state that is in the log; `None` when the database is not published.
    pub fn durable(&self) -> Option<watch::Receiver<Head>> {
        match &self.place {
            Place::Here(here) => here.durable.clone(),
            Place::Elsewhere(_) => None,
        }
    }

    fn here(&self) -> Result<&Here, SqlError> {
        match &self.place {
            Place::Here(here) => Ok(here),
            Place::Elsewhere(_) => Err(SqlError::Busy {
                message: "the writer of this database is at the primary",
            }),
        }
    }

    pub fn stats(&self) -> DatabaseStats {
        let here = self.here().ok();
        DatabaseStats {
            reads: self.counters.reads.get(),
            writes: self.counters.writes.get(),
            commits: self.counters.commits.get(),
            timeouts: self.counters.timeouts.get(),
            readers_busy: here.map_or(0, |here| here.readers.busy()),
            reads_waiting: here.map_or(0, |here| here.readers.waiting()),
            writes_waiting: here.map_or(0, |here| here.writer.waiting()),
            wal_bytes: writer::size_bytes(&writer::wal_path(&self.settings.path)),
            damaged: self.counters.damaged()
                || self
                    .replica_status()
                    .is_some_and(|status| status.state == State::Damaged),
        }
    }

    /// The name it has in the configuration.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    async fn read_or_write(&self, here: &Here, statement: Statement, session: &Session) -> Result<Rows, SqlError> {
        let (statement, answer, position) = here.readers.read(statement).await?;
        if let Ok(Read::NeedsWriter) = answer {
            let committed = self.write(Task::Statement(statement), None).await?;
            if let Some(position) = committed.position {
                session.see(&self.settings.name, position);
            }
            return Ok(committed.rows.into_iter().next().expect("a statement has one result"));
        }
        self.counters.reads.add();
        if self.settings.replicated {
            session.see(&self.settings.name, position);
        }
        answer.map(|read| match read {
            Read::Rows(rows) => rows,
            Read::NeedsWriter => unreachable!("answered above"),
        })
    }

    async fn write(&self, task: Task, operation: Option<String>) -> Result<Committed, SqlError> {
        self.check_sound()?;
        self.here()?.writer.write(task, operation).await
    }

    fn check_sound(&self) -> Result<(), SqlError> {
        if self.counters.damaged() {
            return Err(SqlError::Corrupt {
                message: "damage was found earlier, writes are refused".to_owned(),
            });
        }
        Ok(())
    }

    fn noted<T>(&self, result: Result<T, SqlError>) -> Result<T, SqlError> {
        result.inspect_err(|error| self.counters.note(&self.settings.name, error))
    }
}

impl Here {
    /// What a reader has seen may be confirmed to nobody before it is in the log.
    async fn wait_until_durable(&self, position: Position) -> Result<(), SqlError> {
        let Some(mut durable) = self.durable.clone() else {
            return Ok(());
        };
        match tokio::time::timeout(bounds::QUEUE_WAIT, durable.wait_for(|head| head.position >= position)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(SqlError::Closed),
            Err(_elapsed) => Err(SqlError::Log {
                message: "the log does not take commits".to_owned(),
            }),
        }
    }
}

/// An open transaction on the writer. Dropped, it is rolled back.
#[derive(Debug)]
pub struct Interactive {
    steps: std::sync::mpsc::Sender<Step>,
    ended: Arc<AtomicBool>,
}

impl Interactive {
    /// Runs one statement in the transaction. After an error it is still open, unless it has ended by itself.
    pub async fn run(&self, statement: Statement) -> Result<Rows, SqlError> {
        self.ask(|reply| Step::Run(statement, reply)).await
    }

    /// What a statement would be here.
    pub async fn describe(&self, sql: String) -> Result<Description, SqlError> {
        self.ask(|reply| Step::Describe(sql, reply)).await
    }

    pub async fn savepoint(&self, savepoint: Savepoint) -> Result<(), SqlError> {
        self.ask(|reply| Step::Savepoint(savepoint, reply)).await
    }

    /// Whether it can still be committed: it was not open for too long, and no statement has rolled it back.
    pub fn is_open(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    pub async fn commit(self) -> Result<Committed, SqlError> {
        self.ask(Step::Commit).await
    }

    async fn ask<T>(&self, step: impl FnOnce(oneshot::Sender<Result<T, SqlError>>) -> Step) -> Result<T, SqlError> {
        let ended = || SqlError::Busy {
            message: "the transaction has ended: it was open for too long, or a statement rolled it back",
        };
        let (reply, answer) = oneshot::channel();
        self.steps.send(step(reply)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn check_operation(statements: &[Statement], operation: &str) -> Result<(), SqlError> {
    if operation.is_empty() || operation.len() > operations::ID_BYTES {
        let message = format!("an operation id has 1 to {} bytes", operations::ID_BYTES);
        return Err(SqlError::TooLarge { message });
    }
    check_batch(statements)
}

fn check_batch(statements: &[Statement]) -> Result<(), SqlError> {
    if statements.len() > bounds::BATCH_STATEMENTS {
        let message = format!("a batch has at most {} statements", bounds::BATCH_STATEMENTS);
        return Err(SqlError::TooLarge { message });
    }
    Ok(())
}

/// What SQLite would only call "unable to open database file". The file itself is not opened here: closing it would
/// drop the locks of every connection this process already has on it (sqlite.org/howtocorrupt.html, 2.2).
fn look_at(path: &Path) -> Result<(), OpenError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        return Err(OpenError::NoDirectory {
            directory: directory.to_owned(),
        });
    }
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(OpenError::IsDirectory { path: path.to_owned() }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}
