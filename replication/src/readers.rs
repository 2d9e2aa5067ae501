//! The reader pool: a fixed number of read-only connections, each on a thread of its own.
//!
//! Asking is asynchronous and bounded in time and number. A reader whose asker has gone stops within microseconds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

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
type Idle = Mutex<Vec<mpsc::Sender<Job>>>;

struct Job {
    statement: Statement,
    cancellation: Cancellation,
    reply: oneshot::Sender<Answer>,
    /// Both go back to the pool with the reader. While it works, `sender` is the only one of its channel: a pool that
    /// was dropped meanwhile takes it along, and the thread ends.
    sender: mpsc::Sender<Job>,
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
            let connection = Connection::open_reader(path)?;
            let (sender, jobs) = mpsc::channel();
            idle.lock().push(sender);
            let reader = Reader {
                connection,
                limit: *limit,
                results,
                replicated: settings.replicated,
                idle: Arc::downgrade(&idle),
            };
            let thread = format!("{name}-read-{number}");
            let started = std::thread::Builder::new()
                .name(thread.clone())
                .spawn(move || reader.serve(&jobs));
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
        let permit = self.wait_for_permit().await?;
        let sender = self.idle.lock().pop().ok_or(SqlError::Closed)?;
        let cancellation = Cancellation::default();
        let _cancel = CancelOnDrop(&cancellation);
        let (reply, answer) = oneshot::channel();
        let reader = sender.clone();
        let job = Job {
            statement,
            cancellation: cancellation.clone(),
            reply,
            sender,
            permit,
        };
        reader.send(job).map_err(|_| SqlError::Closed)?;
        drop(reader);
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
    idle: Weak<Idle>,
}

impl Reader {
    fn serve(self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(Job {
            statement,
            cancellation,
            reply,
            sender,
            permit,
        }) = jobs.recv()
        {
            let (result, position) = self.read(&statement, cancellation);
            if let Some(idle) = self.idle.upgrade() {
                idle.lock().push(sender);
            }
            drop(permit);
            // Refused when whoever asked has gone.
            let _ = reply.send((statement, result, position));
        }
    }
}

impl Reader {
    fn read(&self, statement: &Statement, cancellation: Cancellation) -> (Result<Read, SqlError>, Position) {
        if !self.replicated {
            self.connection.start_deadline(self.limit, cancellation);
            return (
                execute::read(&self.connection, statement, self.results),
                Position::default(),
            );
        }
        let control = |sql| {
            self.connection
                .ours(|raw| raw.execute_batch(sql))
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
                self.connection.start_deadline(self.limit, cancellation);
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
