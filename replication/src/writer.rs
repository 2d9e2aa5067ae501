//! The writer: the one connection that changes the database, on a thread of its own.
//!
//! Writes that arrive together share a commit, because a commit is an fsync. Sharing is invisible: each write is atomic
//! by itself, and when anything ends the shared transaction (a deferred constraint at COMMIT, a full disk, a timeout,
//! RAISE(ROLLBACK)), all of it is undone and every write runs again in a transaction of its own. That is safe because
//! none has been acknowledged yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::wal::CheckpointMode;
use tokio::sync::{mpsc, oneshot};

use crate::bounds;
use crate::connection::Connection;
use crate::deadline::Cancellation;
use crate::error::{OpenError, SqlError};
use crate::execute::{self, ResultBounds};
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
}

/// The rows of each statement of the task.
type Answer = Result<Vec<Rows>, SqlError>;

struct Write {
    task: Task,
    reply: oneshot::Sender<Answer>,
}

impl Writer {
    /// `readers` are the threads of the other connections: the writer closes last, because only a connection that can
    /// write moves the log into the file when it closes.
    pub(crate) fn start(
        settings: &DatabaseSettings,
        connection: Connection,
        readers: Vec<JoinHandle<()>>,
        counters: Arc<Counters>,
    ) -> Result<Writer, OpenError> {
        let (queue, writes) = mpsc::channel(bounds::WRITES_WAITING);
        let thread = WriterThread {
            connection,
            limit: settings.statement_timeout,
            results: ResultBounds::of(settings),
            counters,
            wal: Wal::of(&settings.path),
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

    /// Returns once the task is committed and on disk, or undone. A task whose asker is gone before it began is
    /// not run; one that has begun is finished.
    pub(crate) async fn write(&self, task: Task) -> Answer {
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
        place.send(Write { task, reply });
        answer.await.map_err(|_| SqlError::Closed)?
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

struct WriterThread {
    connection: Connection,
    limit: Duration,
    results: ResultBounds,
    counters: Arc<Counters>,
    wal: Wal,
    readers: Vec<JoinHandle<()>>,
}

/// How a shared transaction ended.
enum Shared {
    /// Each write's own result, all of them committed or undone.
    Committed(Vec<Answer>),
    /// Nothing of it was kept. `culprit` is the write during which it ended, with its error, unless it was at COMMIT.
    Undone { culprit: Option<(usize, SqlError)> },
}

impl WriterThread {
    fn serve(mut self, mut writes: mpsc::Receiver<Write>) {
        let mut group = Vec::with_capacity(bounds::WRITES_PER_COMMIT);
        while let Some(first) = writes.blocking_recv() {
            group.push(first);
            while group.len() < bounds::WRITES_PER_COMMIT {
                match writes.try_recv() {
                    Ok(next) => group.push(next),
                    Err(_) => break,
                }
            }
            group.retain(|write| !write.reply.is_closed());
            self.commit(std::mem::take(&mut group));
            self.wal.restart_if_large(&self.connection);
        }
        for reader in self.readers {
            // A reader that panicked has closed its connection all the same.
            let _ = reader.join();
        }
    }

    fn commit(&mut self, group: Vec<Write>) {
        if group.len() < 2 {
            return group.into_iter().for_each(|write| self.answer_alone(write));
        }
        match self.run_shared(&group) {
            Shared::Committed(answers) => {
                for (write, answer) in group.into_iter().zip(answers) {
                    self.reply(write.reply, answer);
                }
            }
            Shared::Undone { mut culprit } => {
                for (index, write) in group.into_iter().enumerate() {
                    match culprit.take_if(|(guilty, _)| *guilty == index) {
                        Some((_, error)) => self.reply(write.reply, Err(error)),
                        None => self.answer_alone(write),
                    }
                }
            }
        }
    }

    fn run_shared(&self, group: &[Write]) -> Shared {
        if self.control("BEGIN IMMEDIATE").is_err() {
            return Shared::Undone { culprit: None };
        }
        let mut answers = Vec::with_capacity(group.len());
        for (index, write) in group.iter().enumerate() {
            let answer = self.control("SAVEPOINT write").and_then(|()| self.run(&write.task));
            let closed = match &answer {
                _ if !self.connection.in_transaction() => Err(()),
                Ok(_) => self.control("RELEASE write").map_err(drop),
                Err(_) => self.control("ROLLBACK TO write; RELEASE write").map_err(drop),
            };
            if closed.is_err() {
                self.roll_back();
                return Shared::Undone {
                    culprit: answer.err().map(|error| (index, error)),
                };
            }
            answers.push(answer);
        }
        match self.control("COMMIT") {
            Ok(()) => {
                self.counters.commits.add();
                Shared::Committed(answers)
            }
            Err(_) => {
                self.roll_back();
                Shared::Undone { culprit: None }
            }
        }
    }

    fn answer_alone(&mut self, write: Write) {
        let answer = self.run_alone(&write.task);
        self.reply(write.reply, answer);
    }

    fn run_alone(&mut self, task: &Task) -> Answer {
        self.control("BEGIN IMMEDIATE")?;
        let answer = self.run(task).and_then(|rows| self.control("COMMIT").map(|()| rows));
        match &answer {
            Ok(_) => self.counters.commits.add(),
            Err(_) => self.roll_back(),
        }
        answer
    }

    /// The statements of one task, in the open transaction, sharing one time limit.
    fn run(&self, task: &Task) -> Answer {
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

    fn restart_if_large(&mut self, connection: &Connection) {
        let size = size_bytes(&self.path);
        if size < self.restart_at_bytes {
            return;
        }
        let restarted = connection.ours(|raw| {
            raw.busy_timeout(bounds::WAL_RESTART_WAIT)?;
            let result = raw.wal_checkpoint_v2(None::<&str>, CheckpointMode::TRUNCATE);
            raw.busy_timeout(bounds::BUSY_WAIT)?;
            result
        });
        self.restart_at_bytes = match restarted {
            Ok(_) => bounds::WAL_BYTES,
            Err(error) => {
                tracing::debug!(%error, size, "the write-ahead log could not be restarted; readers hold it");
                size + bounds::WAL_BYTES / 4
            }
        };
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
        let writer = Writer::start(&settings, connection, Vec::new(), Arc::default()).unwrap();
        (directory, writer)
    }

    async fn write(writer: &Writer, sql: &str) -> Answer {
        writer.write(Task::Statement(Statement::new(sql, vec![]))).await
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
        assert_eq!(count[0].rows, [[crate::Value::Integer(6)]]);
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
