//! The reader pool: a fixed number of read-only connections, each with a thread of its own.
//!
//! Asking is asynchronous and bounded in time and number. A reader whose asker has gone stops within microseconds.
//!
//! Waking a thread and being woken by it costs more than a point query. So a statement that was quick the last time is
//! run where it is asked, within bounds that a thread of others' futures can spare ([`bounds::AT_ONCE`]). What does not
//! end well within them has told nobody anything, since it only reads, and runs again on the reader's thread.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::bounds;
use crate::connection::Connection;
use crate::deadline::Cancellation;
use crate::error::{OpenError, SqlError};
use crate::execute::{self, Read, ResultBounds};
use crate::pages;
use crate::position::Position;
use crate::settings::DatabaseSettings;
use crate::value::Statement;

pub(crate) struct Readers {
    /// One permit for each idle reader; it travels with the job.
    permits: Arc<Semaphore>,
    idle: Arc<Idle>,
    count: usize,
    waiting: AtomicUsize,
}

/// The last one to finish is asked first: its page cache and statements are warm.
type Idle = Mutex<Vec<Seat>>;

/// A connection, and the way to its thread. Who has it has both to himself.
struct Seat {
    reader: Reader,
    /// The only one of its channel: when the seat is dropped, the thread ends.
    thread: mpsc::Sender<Job>,
}

struct Job {
    statement: Statement,
    cancellation: Cancellation,
    reply: oneshot::Sender<Answer>,
    reader: Reader,
    /// Both go back to the pool with the reader. A pool that was dropped meanwhile takes them along.
    thread: mpsc::Sender<Job>,
    permit: OwnedSemaphorePermit,
}

/// The statement comes back, so that the writer can have it without a copy; then the answer, and the position of the
/// state that was read in a replicated database.
type Answer = (Statement, Result<Read, SqlError>, Position);

impl Readers {
    /// The pool and its threads, which end when the pool is dropped.
    pub(crate) fn open(settings: &DatabaseSettings) -> Result<(Readers, Vec<JoinHandle<()>>), OpenError> {
        let DatabaseSettings {
            name,
            path,
            statement_timeout: limit,
            ..
        } = settings;
        let (count, results) = (settings.readers.max(1), ResultBounds::of(settings));
        let idle: Arc<Idle> = Arc::default();
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let reader = Reader {
                connection: Connection::open_reader(path)?,
                limit: *limit,
                results,
                replicated: settings.replicated,
                quick: HashSet::new(),
            };
            let (thread, jobs) = mpsc::channel();
            idle.lock().push(Seat { reader, thread });
            let pool = Arc::downgrade(&idle);
            let thread = format!("{name}-read-{number}");
            let started = std::thread::Builder::new()
                .name(thread.clone())
                .spawn(move || serve(&pool, &jobs));
            threads.push(started.map_err(|source| OpenError::Thread { name: thread, source })?);
        }
        let permits = Arc::new(Semaphore::new(count));
        Ok((
            Readers {
                permits,
                idle,
                count,
                waiting: AtomicUsize::new(0),
            },
            threads,
        ))
    }

    /// Runs `statement` on the next idle reader. Dropping the future stops it.
    pub(crate) async fn read(&self, statement: Statement) -> Result<Answer, SqlError> {
        // Answers that are there at once must not keep a thread from its other futures.
        tokio::task::coop::consume_budget().await;
        let permit = self.wait_for_permit().await?;
        let Seat { mut reader, thread } = self.idle.lock().pop().ok_or(SqlError::Closed)?;
        if let Some((read, position)) = reader.read_at_once(&statement) {
            self.idle.lock().push(Seat { reader, thread });
            return Ok((statement, Ok(read), position));
        }
        let cancellation = Cancellation::default();
        let _cancel = CancelOnDrop(&cancellation);
        let (reply, answer) = oneshot::channel();
        let job = Job {
            statement,
            cancellation: cancellation.clone(),
            reply,
            reader,
            thread: thread.clone(),
            permit,
        };
        thread.send(job).map_err(|_| SqlError::Closed)?;
        drop(thread);
        answer.await.map_err(|_| SqlError::Closed)
    }

    pub(crate) fn busy(&self) -> usize {
        self.count - self.permits.available_permits().min(self.count)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    async fn wait_for_permit(&self) -> Result<OwnedSemaphorePermit, SqlError> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = Waiting::new(&self.waiting);
        if waiting.before >= bounds::READS_WAITING {
            return Err(SqlError::Busy {
                message: "too many statements wait for a reader",
            });
        }
        match tokio::time::timeout(bounds::QUEUE_WAIT, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(SqlError::Closed),
            Err(_elapsed) => Err(SqlError::Busy {
                message: "no reader became free in time",
            }),
        }
    }
}

struct Reader {
    connection: Connection,
    limit: Duration,
    results: ResultBounds,
    replicated: bool,
    /// Statements that were quick the last time this connection ran them.
    quick: HashSet<String>,
}

/// A reader's thread.
fn serve(idle: &Weak<Idle>, jobs: &mpsc::Receiver<Job>) {
    while let Ok(Job {
        statement,
        cancellation,
        reply,
        mut reader,
        thread,
        permit,
    }) = jobs.recv()
    {
        let (result, position) = reader.read_measured(&statement, cancellation);
        if let Some(idle) = idle.upgrade() {
            idle.lock().push(Seat { reader, thread });
        }
        drop(permit);
        // Refused when whoever asked has gone.
        let _ = reply.send((statement, result, position));
    }
}

impl Reader {
    /// Runs a statement that was quick the last time. `None` when it was not, or is not this time: then it is as if it had
    /// not run.
    fn read_at_once(&mut self, statement: &Statement) -> Option<(Read, Position)> {
        if !self.quick.contains(&statement.sql) {
            return None;
        }
        let read = self.connection.at_once(|| {
            let limit = self.limit.min(bounds::AT_ONCE);
            self.read(statement, limit, Cancellation::default())
        });
        match read {
            (Ok(read), position) => Some((read, position)),
            (Err(_), _) => {
                self.quick.remove(&statement.sql);
                None
            }
        }
    }

    /// Runs a statement on the reader's thread, and notes whether it was quick.
    fn read_measured(
        &mut self,
        statement: &Statement,
        cancellation: Cancellation,
    ) -> (Result<Read, SqlError>, Position) {
        let began = Instant::now();
        let (result, position) = self.read(statement, self.limit, cancellation);
        if result.is_ok() && began.elapsed() < bounds::AT_ONCE {
            if self.quick.len() == bounds::PREPARED_STATEMENTS {
                self.quick.clear();
            }
            self.quick.insert(statement.sql.clone());
        }
        (result, position)
    }

    fn read(
        &self,
        statement: &Statement,
        limit: Duration,
        cancellation: Cancellation,
    ) -> (Result<Read, SqlError>, Position) {
        if !self.replicated {
            self.connection.start_deadline(limit, cancellation);
            return (
                execute::read(&self.connection, statement, self.results),
                Position::default(),
            );
        }
        let control = |sql| {
            self.connection
                .ours_cached(sql, |statement| statement.execute([]).map(drop))
                .map_err(SqlError::from_sqlite)
        };
        let begun = control("BEGIN").and_then(|()| {
            self.connection
                .ours_cached(pages::READ_POSITION, |statement| {
                    statement.query_row([], pages::position_of_row)
                })
                .map_err(SqlError::from_sqlite)
        });
        let (result, position) = match begun {
            Ok((_, position)) => {
                self.connection.start_deadline(limit, cancellation);
                (execute::read(&self.connection, statement, self.results), position)
            }
            Err(error) => (Err(error), Position::default()),
        };
        if self.connection.in_transaction()
            && let Err(error) = control("COMMIT")
        {
            tracing::error!(%error, "a read transaction could not be ended");
        }
        (result, position)
    }
}

struct CancelOnDrop<'a>(&'a Cancellation);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Waiting<'_> {
        Waiting {
            count,
            before: count.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
