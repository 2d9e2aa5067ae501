//! The writer: the one connection that changes the database, on a thread of its own.
//!
//! Writes that arrive together share a commit, because a commit is an fsync. Sharing is invisible: each write is atomic
//! by itself, and when anything ends the shared transaction (a deferred constraint at COMMIT, a full disk, a timeout,
//! RAISE(ROLLBACK)), all of it is undone and every write runs again in a transaction of its own. That is safe because
//! none has been acknowledged yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::wal::CheckpointMode;
use tokio::sync::{mpsc, oneshot};

use crate::bounds;
use crate::connection::Connection;
use crate::deadline::Cancellation;
use crate::error::{OpenError, SqlError};
use crate::execute::{self, ResultBounds};
use crate::operations;
use crate::position::Position;
use crate::publish::{self, Publisher};
use crate::settings::DatabaseSettings;
use crate::stats::Counters;
use crate::value::{Rows, Statement};

/// The queue's end that others hold. The thread ends when it is dropped and the queue is empty.
pub(crate) struct Writer {
    queue: mpsc::Sender<Write>,
}

/// What the writer can be asked to do, each in one transaction.
#[derive(Debug)]
pub(crate) enum Task {
    Statement(Statement),
    Batch(Vec<Statement>),
    /// A transaction whose statements come one after another.
    Interactive(std::sync::mpsc::Receiver<Step>),
}

/// What can be asked of an interactive transaction. It is rolled back when its sender is dropped.
#[derive(Debug)]
pub(crate) enum Step {
    Run(Statement, oneshot::Sender<Result<Rows, SqlError>>),
    Commit(oneshot::Sender<Answer>),
}

/// What a write did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Committed {
    /// The rows of each statement.
    pub rows: Vec<Rows>,
    /// Where the write is in the database's history, when it is replicated.
    pub position: Option<Position>,
}

pub(crate) type Answer = Result<Committed, SqlError>;

struct Write {
    task: Task,
    /// Done once, however often it is asked for.
    operation: Option<String>,
    reply: oneshot::Sender<Answer>,
}

impl Writer {
    /// `readers` are the threads of the other connections: the writer closes last, because only a connection that can
    /// write moves the log into the file when it closes.
    pub(crate) fn start(
        settings: &DatabaseSettings,
        connection: Connection,
        publisher: Option<Publisher>,
        readers: Vec<JoinHandle<()>>,
        counters: Arc<Counters>,
    ) -> Result<Writer, OpenError> {
        let (queue, writes) = mpsc::channel(bounds::WRITES_WAITING);
        let thread = WriterThread {
            connection,
            publisher,
            limit: settings.statement_timeout,
            results: ResultBounds::of(settings),
            counters,
            wal: Wal::of(&settings.path),
            groups: 0,
            readers,
        };
        let thread_name = format!("{}-write", settings.name);
        std::thread::Builder::new()
            .name(thread_name.clone())
            .spawn(move || thread.serve(writes))
            .map_err(|source| OpenError::Thread {
                name: thread_name,
                source,
            })?;
        Ok(Writer { queue })
    }

    /// Returns once the task is committed and on disk (in the log, if there is one), or undone. A task whose asker is
    /// gone before it began is not run; one that has begun is finished.
    pub(crate) async fn write(&self, task: Task, operation: Option<String>) -> Answer {
        let answer = self.submit(task, operation).await?;
        answer.await.map_err(|_| SqlError::Closed)?
    }

    /// Puts a task into the queue.
    pub(crate) async fn submit(
        &self,
        task: Task,
        operation: Option<String>,
    ) -> Result<oneshot::Receiver<Answer>, SqlError> {
        let place = match tokio::time::timeout(bounds::QUEUE_WAIT, self.queue.reserve()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_closed)) => return Err(SqlError::Closed),
            Err(_elapsed) => {
                return Err(SqlError::Busy {
                    message: "too many writes wait for the writer",
                });
            }
        };
        let (reply, answer) = oneshot::channel();
        place.send(Write { task, operation, reply });
        Ok(answer)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

struct WriterThread {
    connection: Connection,
    publisher: Option<Publisher>,
    limit: Duration,
    results: ResultBounds,
    counters: Arc<Counters>,
    wal: Wal,
    /// Transactions so far.
    groups: u64,
    readers: Vec<JoinHandle<()>>,
}

/// Why nothing of a transaction was kept.
struct Undone {
    /// The write during which it ended; none when it was at BEGIN or COMMIT.
    culprit: Option<usize>,
    error: SqlError,
}

impl WriterThread {
    fn serve(mut self, mut writes: mpsc::Receiver<Write>) {
        while let Some(first) = writes.blocking_recv() {
            let mut next = Some(first);
            while let Some(write) = next.take() {
                let mut group = Vec::with_capacity(bounds::WRITES_PER_COMMIT);
                match write.task {
                    Task::Interactive(steps) => self.interact(&steps, write.reply),
                    _ => group.push(write),
                }
                while !group.is_empty() && group.len() < bounds::WRITES_PER_COMMIT {
                    match writes.try_recv() {
                        Ok(write) if matches!(write.task, Task::Interactive(_)) => {
                            next = Some(write);
                            break;
                        }
                        Ok(write) => group.push(write),
                        Err(_) => break,
                    }
                }
                group.retain(|write| !write.reply.is_closed());
                self.commit(group);
                self.bound_wal();
            }
        }
        for reader in self.readers {
            // A reader that panicked has closed its connection all the same.
            let _ = reader.join();
        }
    }

    fn bound_wal(&mut self) {
        // A checkpoint would move pages into the file that no log has.
        if self.publisher.as_ref().is_some_and(Publisher::has_pending) {
            return;
        }
        if self.wal.restart_if_large(&self.connection)
            && let Some(publisher) = &self.publisher
        {
            publisher.checkpointed();
        }
    }

    fn commit(&mut self, group: Vec<Write>) {
        if group.is_empty() {
            return;
        }
        let answers = match self.transact(&group) {
            Ok(answers) => answers,
            Err(undone) if group.len() == 1 => vec![Err(undone.error)],
            Err(undone) => {
                for (index, write) in group.into_iter().enumerate() {
                    match undone.culprit {
                        // What ended the transaction would end its own as well; only an operation must be recorded.
                        Some(culprit) if culprit == index && write.operation.is_none() => {
                            self.reply(write.reply, Err(undone.error.clone()));
                        }
                        _ => self.commit(vec![write]),
                    }
                }
                return;
            }
        };
        for (write, answer) in group.into_iter().zip(answers) {
            self.reply(write.reply, answer);
        }
    }

    /// Runs the writes in one transaction, each atomic by itself, and publishes it.
    fn transact(&mut self, group: &[Write]) -> Result<Vec<Answer>, Undone> {
        let undone = |error: SqlError| Undone { culprit: None, error };
        if let Some(publisher) = &mut self.publisher {
            publisher.ready().map_err(|error| undone(publish::refused(&error)))?;
        }
        self.control("BEGIN IMMEDIATE").map_err(undone)?;
        let mut answers = Vec::with_capacity(group.len());
        for (index, write) in group.iter().enumerate() {
            match self.run_once(write) {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    self.roll_back();
                    let alone = group.len() == 1 && write.operation.is_some() && error.is_final();
                    return match alone {
                        true => self.record_failure(write, error),
                        false => Err(Undone {
                            culprit: Some(index),
                            error,
                        }),
                    };
                }
            }
        }
        self.end_transaction(answers)
    }

    /// Numbers, commits and publishes the open transaction.
    fn end_transaction(&mut self, answers: Vec<Answer>) -> Result<Vec<Answer>, Undone> {
        self.groups += 1;
        let prepared = match &self.publisher {
            None => Ok(()),
            Some(publisher) => publisher.number(&self.connection).and_then(|()| {
                if self.groups.is_multiple_of(bounds::GROUPS_PER_FORGETTING) {
                    operations::forget(&self.connection)?;
                }
                Ok(())
            }),
        };
        let committed = prepared
            .map_err(SqlError::from_sqlite)
            .and_then(|()| self.control("COMMIT"));
        if let Err(error) = committed {
            self.roll_back();
            return Err(Undone { culprit: None, error });
        }
        self.counters.commits.add();
        let Some(publisher) = &mut self.publisher else {
            return Ok(answers);
        };
        match publisher.publish() {
            Ok(()) => Ok(answers),
            Err(error) => {
                tracing::error!(%error, "a commit could not be logged; its writes are not confirmed");
                let error = SqlError::Log {
                    message: error.to_string(),
                };
                Ok(answers
                    .iter()
                    .map(|answer| answer.clone().and(Err(error.clone())))
                    .collect())
            }
        }
    }

    /// Runs a write in a savepoint of the open transaction, unless it was done before. An error ends the transaction.
    fn run_once(&self, write: &Write) -> Result<Answer, SqlError> {
        let position = self.publisher.as_ref().map(Publisher::next);
        if let Some(id) = &write.operation
            && let Some(done) = operations::find(&self.connection, id).map_err(SqlError::from_sqlite)?
        {
            let position = Some(done.position);
            return Ok(done.outcome.map(|rows| Committed { rows, position }));
        }
        self.control("SAVEPOINT write")?;
        let outcome = self.run(&write.task);
        match &outcome {
            // RAISE(ROLLBACK), a full disk, a timeout.
            Err(error) if !self.connection.in_transaction() => return Err(error.clone()),
            Ok(_) if !self.connection.in_transaction() => return Err(SqlError::Closed),
            Ok(_) => self.control("RELEASE write")?,
            Err(_) => self.control("ROLLBACK TO write; RELEASE write")?,
        }
        if let (Some(id), Some(position)) = (&write.operation, position)
            && outcome.as_ref().map_or_else(SqlError::is_final, |_| true)
        {
            operations::record(&self.connection, id, position, &outcome).map_err(SqlError::from_sqlite)?;
        }
        Ok(outcome.map(|rows| Committed { rows, position }))
    }

    /// The write ended its transaction; that it failed is remembered in another.
    fn record_failure(&mut self, write: &Write, error: SqlError) -> Result<Vec<Answer>, Undone> {
        let undone = |error: SqlError| Undone { culprit: None, error };
        let (Some(id), Some(publisher)) = (&write.operation, &self.publisher) else {
            return Err(undone(error));
        };
        let position = publisher.next();
        self.control("BEGIN IMMEDIATE").map_err(undone)?;
        let outcome = Err(error);
        if let Err(error) = operations::record(&self.connection, id, position, &outcome) {
            self.roll_back();
            return Err(undone(SqlError::from_sqlite(error)));
        }
        self.end_transaction(vec![outcome.map(|rows| Committed {
            rows,
            position: Some(position),
        })])
    }

    /// The statements of one task, in the open transaction, sharing one time limit.
    fn run(&self, task: &Task) -> Result<Vec<Rows>, SqlError> {
        self.connection.start_deadline(self.limit, Cancellation::default());
        match task {
            Task::Statement(statement) => Ok(vec![execute::write(&self.connection, statement, self.results)?]),
            Task::Batch(statements) => {
                let each = statements.iter().enumerate().map(|(index, statement)| {
                    execute::write(&self.connection, statement, self.results).map_err(|source| SqlError::InBatch {
                        index,
                        source: Box::new(source),
                    })
                });
                each.collect()
            }
            Task::Interactive(_) => unreachable!("served by itself"),
        }
    }

    /// A transaction of statements that come one after another. Others wait meanwhile, so its time is bounded.
    fn interact(&mut self, steps: &std::sync::mpsc::Receiver<Step>, reply: oneshot::Sender<Answer>) {
        let ends = Instant::now() + bounds::INTERACTIVE_TRANSACTION;
        if let Some(publisher) = &mut self.publisher
            && let Err(error) = publisher.ready()
        {
            let error = publish::refused(&error);
            return self.reply(reply, Err(error));
        }
        if let Err(error) = self.control("BEGIN IMMEDIATE") {
            return self.reply(reply, Err(error));
        }
        // The transaction has begun.
        self.reply(reply, Ok(Committed::default()));
        while let Ok(step) = steps.recv_timeout(ends.saturating_duration_since(Instant::now())) {
            match step {
                Step::Run(statement, reply) => {
                    self.connection.start_deadline(self.limit, Cancellation::default());
                    let result = execute::write(&self.connection, &statement, self.results);
                    let ended = !self.connection.in_transaction();
                    let _ = reply.send(result);
                    if ended {
                        return;
                    }
                }
                Step::Commit(reply) => {
                    let position = self.publisher.as_ref().map(Publisher::next);
                    let done = self.end_transaction(vec![Ok(Committed {
                        rows: Vec::new(),
                        position,
                    })]);
                    let answer = match done {
                        Ok(mut answers) => answers.remove(0),
                        Err(undone) => Err(undone.error),
                    };
                    return self.reply(reply, answer);
                }
            }
        }
        self.roll_back();
    }

    fn control(&self, sql: &str) -> Result<(), SqlError> {
        self.connection
            .ours(|raw| raw.execute_batch(sql))
            .map_err(SqlError::from_sqlite)
    }

    /// SQLite has done it already after some errors. If it can do neither, the connection is of no use: every later
    /// BEGIN fails and says so.
    fn roll_back(&self) {
        if self.connection.in_transaction()
            && let Err(error) = self.control("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }

    fn reply(&self, reply: oneshot::Sender<Answer>, answer: Answer) {
        self.counters.writes.add();
        // Refused when whoever asked has gone.
        let _ = reply.send(answer);
    }
}

/// The write-ahead log's size, kept in bounds. Only its directory entry is looked at: opening the file is SQLite's.
struct Wal {
    path: PathBuf,
    /// Grows while readers do not let go, so that not every commit waits for them.
    restart_at_bytes: u64,
}

impl Wal {
    fn of(database: &Path) -> Wal {
        Wal {
            path: wal_path(database),
            restart_at_bytes: bounds::WAL_BYTES,
        }
    }

    /// Whether it was: everything committed is in the file then, durably.
    fn restart_if_large(&mut self, connection: &Connection) -> bool {
        let size = size_bytes(&self.path);
        if size < self.restart_at_bytes {
            return false;
        }
        let restarted = connection.ours(|raw| {
            raw.busy_timeout(bounds::WAL_RESTART_WAIT)?;
            let result = raw.wal_checkpoint_v2(None::<&str>, CheckpointMode::TRUNCATE);
            raw.busy_timeout(bounds::BUSY_WAIT)?;
            result
        });
        if let Err(error) = &restarted {
            tracing::debug!(%error, size, "the write-ahead log could not be restarted; readers hold it");
        }
        self.restart_at_bytes = match restarted {
            Ok(_) => bounds::WAL_BYTES,
            Err(_) => size + bounds::WAL_BYTES / 4,
        };
        restarted.is_ok()
    }
}

pub(crate) fn wal_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

pub(crate) fn size_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(change: impl FnOnce(&Connection)) -> (tempfile::TempDir, Writer) {
        let directory = tempfile::tempdir().unwrap();
        let settings = DatabaseSettings::new("test", directory.path().join("test.db"));
        let connection = Connection::open_writer(&settings.path).unwrap();
        change(&connection);
        let writer = Writer::start(&settings, connection, None, Vec::new(), Arc::default()).unwrap();
        (directory, writer)
    }

    async fn write(writer: &Writer, sql: &str) -> Answer {
        writer.write(Task::Statement(Statement::new(sql, vec![])), None).await
    }

    /// SQLite says the same of a file that may not grow and of a disk that is full.
    #[tokio::test]
    async fn a_full_disk_fails_what_needs_room_and_nothing_else() {
        let (_directory, writer) = open(|connection| {
            connection
                .ours(|raw| raw.execute_batch("PRAGMA max_page_count = 20; CREATE TABLE t (a)"))
                .unwrap();
        });
        let big = "INSERT INTO t VALUES (randomblob(200000))";
        let small = "INSERT INTO t VALUES (1)";
        for _ in 0..3 {
            let (first, second, third) =
                tokio::join!(write(&writer, small), write(&writer, big), write(&writer, small));
            assert_eq!(second.unwrap_err().code(), "disk_full");
            assert!(first.is_ok() && third.is_ok());
        }
        let count = write(&writer, "SELECT count(*) FROM t").await.unwrap();
        assert_eq!(count.rows[0].rows, [[crate::Value::Integer(6)]]);
    }

    #[test]
    fn a_large_log_is_restarted_as_soon_as_readers_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let connection = Connection::open_writer(&path).unwrap();
        let fill = |raw: &rusqlite::Connection| {
            raw.execute_batch("CREATE TABLE IF NOT EXISTS t (a); INSERT INTO t VALUES (randomblob(100000))")
        };
        connection.ours(fill).unwrap();
        let mut wal = Wal {
            path: wal_path(&path),
            restart_at_bytes: 1000,
        };

        let reader = Connection::open_reader(&path).unwrap();
        reader
            .ours(|raw| raw.execute_batch("BEGIN; SELECT count(*) FROM t"))
            .unwrap();
        connection.ours(fill).unwrap();
        wal.restart_if_large(&connection);
        let held = size_bytes(&wal.path);
        assert!(held > 200_000 && wal.restart_at_bytes > held, "{held}");

        reader.ours(|raw| raw.execute_batch("COMMIT")).unwrap();
        wal.restart_at_bytes = 1000;
        wal.restart_if_large(&connection);
        assert_eq!((size_bytes(&wal.path), wal.restart_at_bytes), (0, bounds::WAL_BYTES));
    }
}
