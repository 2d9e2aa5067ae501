//! The writer: the one connection that changes the database, on a thread of its own.
//!
//! Writes that arrive together share a commit, because a commit is an fsync. Sharing is invisible: each write is atomic
//! by itself, and when anything ends the shared transaction (a deferred constraint at COMMIT, a full disk, a timeout,
//! RAISE(ROLLBACK)), all of it is undone and every write runs again in a transaction of its own. That is safe because
//! none has been acknowledged yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::wal::CheckpointMode;
use tokio::sync::{mpsc, oneshot};

use crate::bounds;
use crate::connection::Connection;
use crate::deadline::Cancellation;
use crate::describe::{self, Description};
use crate::error::{MigrationError, OpenError, SqlError};
use crate::execute::{self, ResultBounds};
use crate::migrate;
use crate::operations;
use crate::plant::{Plant, is_planted};
use crate::position::Position;
use crate::publish::{self, Publisher};
use crate::savepoint::Savepoint;
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
    Interactive(Steps),
    /// Migrations, each in a transaction of its own.
    Migrate(Migrate),
    /// Ends the thread; what was asked before is done before.
    Close,
}

/// Files for a database's migrations, and where the report goes.
#[derive(Debug)]
pub(crate) struct Migrate {
    pub(crate) files: migrate::Files,
    /// Nothing is kept.
    pub(crate) dry_run: bool,
    pub(crate) report: oneshot::Sender<Result<Vec<String>, MigrationError>>,
}

/// The writer's end of an interactive transaction.
#[derive(Debug)]
pub(crate) struct Steps {
    receiver: std::sync::mpsc::Receiver<Step>,
    /// Becomes true when the transaction is over, at the latest when the writer drops its end.
    ended: Arc<AtomicBool>,
    /// Whether foreign keys are enforced; migrations that rebuild tables do without.
    foreign_keys: bool,
}

impl Steps {
    /// What is asked comes through the sender; the flag says when the transaction is over.
    pub(crate) fn channel(foreign_keys: bool) -> (std::sync::mpsc::Sender<Step>, Arc<AtomicBool>, Steps) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let steps = Steps {
            receiver,
            ended: Arc::clone(&ended),
            foreign_keys,
        };
        (sender, ended, steps)
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.end();
    }
}

/// What can be asked of an interactive transaction. It is rolled back when its sender is dropped.
#[derive(Debug)]
pub(crate) enum Step {
    Run(Statement, oneshot::Sender<Result<Rows, SqlError>>),
    Describe(String, oneshot::Sender<Result<Description, SqlError>>),
    Savepoint(Savepoint, oneshot::Sender<Result<(), SqlError>>),
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

impl Task {
    /// Whether it shares its transaction with nobody.
    fn stands_alone(&self) -> bool {
        matches!(self, Task::Interactive(_) | Task::Migrate(_) | Task::Close)
    }
}

/// What the operations of one queue share: none is done after one that was not done and may yet be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order(Arc<AtomicBool>);

impl Order {
    fn is_broken(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn break_off(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Write {
    task: Task,
    /// Done once, however often it is asked for.
    operation: Option<String>,
    order: Order,
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
        let answer = self.submit(task, operation, Order::default()).await?;
        answer.await.map_err(|_| SqlError::Closed)?
    }

    /// Puts a task into the queue.
    pub(crate) async fn submit(
        &self,
        task: Task,
        operation: Option<String>,
        order: Order,
    ) -> Result<oneshot::Receiver<Answer>, SqlError> {
        let place = match tokio::time::timeout(bounds::QUEUE_WAIT, self.queue.reserve()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_closed)) => return Err(SqlError::Closed),
            Err(_elapsed) => {
                order.break_off();
                return Err(SqlError::Busy {
                    message: "too many writes wait for the writer",
                });
            }
        };
        let (reply, answer) = oneshot::channel();
        place.send(Write {
            task,
            operation,
            order,
            reply,
        });
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
                    Task::Migrate(migrate) => self.migrate(migrate),
                    // Whoever comes after it hears that the database is closed. Readers end with the last who holds them.
                    Task::Close => {
                        self.close();
                        // The files are nobody's when the answer is there.
                        drop(self);
                        let _ = write.reply.send(Ok(Committed::default()));
                        return;
                    }
                    _ => group.push(write),
                }
                while !group.is_empty() && group.len() < bounds::WRITES_PER_COMMIT {
                    match writes.try_recv() {
                        Ok(write) if write.task.stands_alone() => {
                            next = Some(write);
                            break;
                        }
                        Ok(write) => group.push(write),
                        Err(_) => break,
                    }
                }
                group.retain(|write| {
                    let asked_for = !write.reply.is_closed();
                    if !asked_for {
                        write.order.break_off();
                    }
                    asked_for
                });
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
            Err(undone) if group.len() == 1 => {
                if !undone.error.is_final() {
                    group[0].order.break_off();
                }
                vec![Err(undone.error)]
            }
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
        if is_planted(Plant::NoOutputGate)
            && let Some(publisher) = &mut self.publisher
        {
            let _ = publisher.publish();
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
        if is_planted(Plant::NoOutputGate) {
            return Ok(answers);
        }
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
        let operation = write.operation.as_ref().filter(|_| !is_planted(Plant::NoDedupe));
        if let Some(id) = operation
            && let Some(done) = operations::find(&self.connection, id).map_err(SqlError::from_sqlite)?
        {
            let position = Some(done.position);
            return Ok(done.outcome.map(|rows| Committed { rows, position }));
        }
        if write.order.is_broken() {
            return Ok(Err(SqlError::Busy {
                message: "an operation before it was not done yet",
            }));
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
        if let (Some(id), Some(position)) = (operation, position)
            && outcome.as_ref().map_or_else(SqlError::is_final, |_| true)
        {
            operations::record(&self.connection, id, position, &outcome).map_err(SqlError::from_sqlite)?;
        }
        if outcome.as_ref().is_err_and(|error| !error.is_final()) {
            write.order.break_off();
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
            Task::Interactive(_) | Task::Migrate(_) | Task::Close => unreachable!("served by itself"),
        }
    }

    /// A transaction of statements that come one after another, with foreign keys as it wants them: the setting is
    /// the connection's, and cannot be changed while a transaction is open.
    fn interact(&mut self, steps: &Steps, reply: oneshot::Sender<Answer>) {
        if steps.foreign_keys {
            return self.serve_steps(steps, reply);
        }
        if let Err(error) = self.control("PRAGMA foreign_keys = OFF") {
            return self.reply(reply, Err(error));
        }
        self.serve_steps(steps, reply);
        self.control("PRAGMA foreign_keys = ON")
            .expect("a setting of an idle connection can be changed");
    }

    /// Others wait meanwhile, so its time is bounded.
    fn serve_steps(&mut self, steps: &Steps, reply: oneshot::Sender<Answer>) {
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
        while let Ok(step) = steps
            .receiver
            .recv_timeout(ends.saturating_duration_since(Instant::now()))
        {
            match step {
                Step::Run(statement, reply) => {
                    self.connection.start_deadline(self.limit, Cancellation::default());
                    let result = execute::write(&self.connection, &statement, self.results);
                    let ended = !self.connection.in_transaction();
                    if ended {
                        steps.end();
                    }
                    let _ = reply.send(result);
                    if ended {
                        return;
                    }
                }
                Step::Describe(sql, reply) => {
                    self.connection.start_deadline(self.limit, Cancellation::default());
                    let _ = reply.send(describe::describe(&self.connection, &sql));
                }
                Step::Savepoint(savepoint, reply) => {
                    let _ = reply.send(self.control(&savepoint.sql()));
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

    /// Applies what is new, each file in a transaction that is published; or all in one that is undone.
    fn migrate(&mut self, migrate: Migrate) {
        let Migrate { files, dry_run, report } = migrate;
        let outcome = if dry_run {
            migrate::rehearse(&self.connection, &files)
        } else {
            self.migrate_each(&files)
        };
        if self.connection.in_transaction() {
            self.roll_back();
        }
        // Refused when whoever asked has gone.
        let _ = report.send(outcome);
    }

    fn migrate_each(&mut self, files: &migrate::Files) -> Result<Vec<String>, MigrationError> {
        let mut done = Vec::new();
        for migration in migrate::new_of(&self.connection, files)? {
            let failed = |source| MigrationError::Failed {
                file: migration.file().to_owned(),
                source,
            };
            if let Some(publisher) = &mut self.publisher {
                publisher.ready().map_err(|error| failed(publish::refused(&error)))?;
            }
            self.control("BEGIN IMMEDIATE").map_err(failed)?;
            migrate::run(&self.connection, migration)?;
            let answers = vec![Ok(Committed::default())];
            let ended = self.end_transaction(answers).map_err(|undone| failed(undone.error))?;
            for answer in ended {
                answer.map_err(failed)?;
            }
            tracing::info!(file = migration.file(), "migration applied");
            done.push(migration.file().to_owned());
        }
        Ok(done)
    }

    /// Moves everything into the file, durably. Where a reader or a full disk does not let it, the write-ahead log stays
    /// and is durable.
    fn close(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        let logged = publisher.ready().is_ok();
        if logged && self.wal.restart(&self.connection).is_ok() {
            publisher.checkpointed();
            return;
        }
        let synced = std::fs::File::open(&self.wal.path).and_then(|wal| wal.sync_all());
        if let Err(error) = synced {
            tracing::debug!(%error, "the write-ahead log of a closed database could not be synced; the log has what it has");
        }
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
        let restarted = self.restart(connection);
        if let Err(error) = &restarted {
            tracing::debug!(%error, size, "the write-ahead log could not be restarted; readers hold it");
        }
        self.restart_at_bytes = match restarted {
            Ok(_) => bounds::WAL_BYTES,
            Err(_) => size + bounds::WAL_BYTES / 4,
        };
        restarted.is_ok()
    }

    /// Moves all of it into the file and empties it.
    fn restart(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.ours(|raw| {
            raw.busy_timeout(bounds::WAL_RESTART_WAIT)?;
            let result = raw.wal_checkpoint_v2(None::<&str>, CheckpointMode::TRUNCATE);
            raw.busy_timeout(bounds::BUSY_WAIT)?;
            result.map(drop)
        })
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
    use crate::log::memory::MemoryLog;
    use crate::position::Epoch;
    use crate::publish::Publication;
    use crate::value::Value;

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

    #[tokio::test]
    async fn no_operation_of_a_queue_is_done_after_one_that_was_not() {
        let directory = tempfile::tempdir().unwrap();
        let settings = DatabaseSettings::new("test", directory.path().join("test.db"));
        let connection = Connection::open_writer(&settings.path).unwrap();
        let publication = Publication {
            log: Arc::new(MemoryLog::default()),
            epoch: Epoch(1),
        };
        let publisher = Publisher::open(publication, "test", &settings.path, &connection).unwrap();
        // As on a disk with room for a few pages.
        connection
            .ours(|raw| raw.pragma_update(None, "max_page_count", 20))
            .unwrap();
        let writer = Writer::start(&settings, connection, Some(publisher), vec![], Arc::default()).unwrap();
        let run = async |operations: &[(&str, &str, usize)]| {
            let order = Order::default();
            let mut answers = Vec::new();
            for (id, sql, bytes) in operations {
                let statement = Statement::new(*sql, vec![Value::Blob(vec![0; *bytes]); sql.matches("?1").count()]);
                let task = Task::Batch(vec![statement]);
                answers.push(
                    writer
                        .submit(task, Some((*id).to_owned()), order.clone())
                        .await
                        .unwrap(),
                );
            }
            let mut codes = Vec::new();
            for answer in answers {
                let answer = answer.await.unwrap();
                codes.push(answer.map_or_else(|error| error.code().to_owned(), |_| "done".to_owned()));
            }
            codes.join(" ")
        };
        let (insert, nonsense) = ("INSERT INTO t VALUES (?1)", "INSERT INTO nowhere VALUES (1)");
        assert_eq!(run(&[("0", "CREATE TABLE t (a)", 0)]).await, "done");
        // What will never be done holds up nothing.
        let operations = [("1", insert, 1), ("2", nonsense, 0), ("3", insert, 1)];
        assert_eq!(run(&operations).await, "done sql done");
        let operations = [
            ("4", insert, 1),
            ("5", insert, 1_000_000),
            ("6", insert, 1),
            ("7", nonsense, 0),
        ];
        assert_eq!(run(&operations).await, "done disk_full busy busy");
        assert_eq!(run(&operations[2..]).await, "done sql");
    }
}
