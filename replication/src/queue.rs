//! The write queue of a PoP: what a reader was told is queued survives this process and this machine's power.
//!
//! A SQLite file of its own, `synchronous=FULL`, on a thread of its own; what arrives together shares an fsync. First in,
//! first out for each database. It is bounded in rows and bytes: what does not fit is refused, and then it was not done.

use std::path::Path;
use std::thread::JoinHandle;

use rusqlite::{Connection, OptionalExtension};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::plant::{Plant, is_planted};
use crate::publish::now_ms;
use crate::value::Statement;

/// Commands that share a transaction.
const GROUP: usize = 256;
/// Commands waiting for the thread.
const WAITING: usize = 4096;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS operations (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        database TEXT NOT NULL,
        id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        statements TEXT NOT NULL,
        UNIQUE (database, id)
    ) STRICT";

/// What a PoP wants done at the primary.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Operation {
    pub id: String,
    pub statements: Vec<Statement>,
}

/// An operation in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Queued {
    /// Its place: rises.
    pub number: i64,
    /// When it was queued, in milliseconds since 1970.
    pub at_ms: i64,
    pub database: String,
    pub operation: Operation,
}

#[derive(Debug, Clone, Copy)]
pub struct QueueBounds {
    pub rows: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    pub rows: u64,
    pub bytes: u64,
}

/// Why an operation was not queued. It was not done then.
#[derive(Debug, Clone, Error)]
pub enum QueueError {
    #[error("the write queue is full")]
    Full,
    #[error("the write queue cannot be written: {message}")]
    Disk { message: String },
    #[error("the write queue has been closed")]
    Closed,
}

#[derive(Debug, Error)]
#[error("opening the write queue")]
pub struct QueueOpenError(#[from] rusqlite::Error);

enum Command {
    Put {
        database: String,
        operation: Operation,
        reply: oneshot::Sender<Result<Queued, QueueError>>,
    },
    Remove {
        number: i64,
    },
    Find {
        database: String,
        id: String,
        reply: oneshot::Sender<bool>,
    },
}

/// The handle that others hold. The thread ends after what was asked when the last one is dropped.
#[derive(Clone)]
pub struct Queue {
    commands: mpsc::Sender<Command>,
    depth: tokio::sync::watch::Receiver<QueueDepth>,
}

impl Queue {
    /// Opens or creates the file, and returns what it holds, oldest first. Blocks.
    pub fn open(path: &Path, bounds: QueueBounds) -> Result<(Queue, Vec<Queued>, JoinHandle<()>), QueueOpenError> {
        let connection = open_file(path)?;
        let held = read_all(&connection)?;
        let mut depth = QueueDepth::default();
        for queued in &held {
            depth.add(&queued.operation);
        }
        let (commands, receiver) = mpsc::channel(WAITING);
        let (sender, watched) = tokio::sync::watch::channel(depth);
        let thread = Thread {
            connection,
            bounds,
            unremoved: Vec::new(),
            depth: sender,
        };
        let thread = std::thread::Builder::new()
            .name("write-queue".to_owned())
            .spawn(move || thread.serve(receiver))
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok((
            Queue {
                commands,
                depth: watched,
            },
            held,
            thread,
        ))
    }

    /// Returns when the operation is on disk. An id that is queued already keeps its first place.
    pub async fn put(&self, database: &str, operation: Operation) -> Result<Queued, QueueError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Put {
            database: database.to_owned(),
            operation,
            reply,
        };
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => QueueError::Full,
            mpsc::error::TrySendError::Closed(_) => QueueError::Closed,
        })?;
        answer.await.map_err(|_| QueueError::Closed)?
    }

    /// The operation is done. If this is lost, it is sent again, and the primary knows it.
    pub async fn remove(&self, number: i64) {
        // Closed when the process ends.
        let _ = self.commands.send(Command::Remove { number }).await;
    }

    /// Whether the operation waits.
    pub async fn has(&self, database: &str, id: &str) -> bool {
        let (reply, answer) = oneshot::channel();
        let command = Command::Find {
            database: database.to_owned(),
            id: id.to_owned(),
            reply,
        };
        self.commands.send(command).await.is_ok() && answer.await.unwrap_or(false)
    }

    pub fn depth(&self) -> QueueDepth {
        *self.depth.borrow()
    }
}

struct Thread {
    connection: Connection,
    bounds: QueueBounds,
    /// Done, but the disk did not take it: removed with the next group.
    unremoved: Vec<i64>,
    depth: tokio::sync::watch::Sender<QueueDepth>,
}

/// An answer that waits for the commit.
enum Reply {
    Put(oneshot::Sender<Result<Queued, QueueError>>, Result<Queued, QueueError>),
    Found(oneshot::Sender<bool>, bool),
}

impl Reply {
    /// Refused when whoever asked has gone; the operation stays.
    fn send(self, outcome: &rusqlite::Result<()>) {
        match (self, outcome) {
            (Reply::Put(reply, answer), Ok(())) => drop(reply.send(answer)),
            (Reply::Put(reply, _), Err(error)) => {
                let message = error.to_string();
                drop(reply.send(Err(QueueError::Disk { message })));
            }
            (Reply::Found(reply, found), _) => drop(reply.send(found)),
        }
    }
}

impl Thread {
    fn serve(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut group = Vec::new();
        while commands.blocking_recv_many(&mut group, GROUP) > 0 {
            self.run(std::mem::take(&mut group));
        }
    }

    fn run(&mut self, group: Vec<Command>) {
        let mut depth = *self.depth.borrow();
        let mut replies = Vec::new();
        let outcome = self.transact(group, &mut depth, &mut replies);
        if outcome.is_ok() {
            self.unremoved.clear();
            self.depth.send_replace(depth);
        } else if !self.connection.is_autocommit() {
            // Closing the connection undoes it as well.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        for reply in replies {
            reply.send(&outcome);
        }
    }

    fn transact(
        &mut self,
        group: Vec<Command>,
        depth: &mut QueueDepth,
        replies: &mut Vec<Reply>,
    ) -> rusqlite::Result<()> {
        let begun = self.connection.execute_batch("BEGIN IMMEDIATE");
        let mut failed = begun.err();
        let removals = group.iter().filter_map(|command| match command {
            Command::Remove { number } => Some(*number),
            _ => None,
        });
        self.unremoved.extend(removals);
        for number in &self.unremoved {
            failed = failed.or_else(|| self.remove(*number, depth).err());
        }
        for command in group {
            match command {
                // Every asker gets an answer, also when the disk has failed before its turn.
                Command::Put { reply, .. } if failed.is_some() => {
                    replies.push(Reply::Put(reply, Err(QueueError::Closed)))
                }
                Command::Put {
                    database,
                    operation,
                    reply,
                } => match self.put(database, operation, depth) {
                    Ok(answer) => replies.push(Reply::Put(reply, answer)),
                    Err(error) => {
                        failed = Some(error);
                        replies.push(Reply::Put(reply, Err(QueueError::Closed)));
                    }
                },
                Command::Remove { .. } => {}
                Command::Find { database, id, reply } => {
                    let sql = "SELECT 1 FROM operations WHERE database = ?1 AND id = ?2";
                    let found = self
                        .connection
                        .prepare_cached(sql)
                        .and_then(|mut found| found.exists((database, id)));
                    replies.push(Reply::Found(reply, found.unwrap_or(false)));
                }
            }
        }
        failed.map_or_else(|| self.connection.execute_batch("COMMIT"), Err)
    }

    fn put(
        &self,
        database: String,
        operation: Operation,
        depth: &mut QueueDepth,
    ) -> rusqlite::Result<Result<Queued, QueueError>> {
        let mut find = self
            .connection
            .prepare_cached("SELECT number, at_ms FROM operations WHERE database = ?1 AND id = ?2")?;
        if let Some((number, at_ms)) = find
            .query_row((&database, &operation.id), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?
        {
            return Ok(Ok(Queued {
                number,
                at_ms,
                database,
                operation,
            }));
        }
        let mut after = *depth;
        after.add(&operation);
        if after.rows > self.bounds.rows || after.bytes > self.bounds.bytes {
            return Ok(Err(QueueError::Full));
        }
        let statements = serde_json::to_string(&operation.statements).expect("statements are JSON");
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO operations (database, id, at_ms, statements) VALUES (?1, ?2, ?3, ?4)")?;
        let at_ms = now_ms();
        let number = insert.insert((&database, &operation.id, at_ms, statements))?;
        *depth = after;
        Ok(Ok(Queued {
            number,
            at_ms,
            database,
            operation,
        }))
    }

    fn remove(&self, number: i64, depth: &mut QueueDepth) -> rusqlite::Result<()> {
        let mut remove = self
            .connection
            .prepare_cached("DELETE FROM operations WHERE number = ?1 RETURNING id, statements")?;
        let removed = remove.query_row([number], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
        if let Some((id, statements)) = removed.optional()?
            && let Ok(statements) = serde_json::from_str(&statements)
        {
            depth.subtract(&Operation { id, statements });
        }
        Ok(())
    }
}

impl QueueDepth {
    fn add(&mut self, operation: &Operation) {
        self.rows += 1;
        self.bytes += operation.size_bytes();
    }

    fn subtract(&mut self, operation: &Operation) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(operation.size_bytes());
    }
}

impl Operation {
    /// What it takes in memory and, about, on disk.
    pub(crate) fn size_bytes(&self) -> u64 {
        use crate::value::Value;
        let value = |value: &Value| match value {
            Value::Text(text) => text.len() + 8,
            Value::Blob(bytes) => bytes.len() + 8,
            _ => 8,
        };
        let statement = |statement: &Statement| statement.sql.len() + statement.params.iter().map(value).sum::<usize>();
        (self.id.len() + 64 + self.statements.iter().map(statement).sum::<usize>()) as u64
    }
}

fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    let synchronous = if is_planted(Plant::NoQueueFsync) { "off" } else { "full" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

fn read_all(connection: &Connection) -> rusqlite::Result<Vec<Queued>> {
    let mut statement =
        connection.prepare("SELECT number, at_ms, database, id, statements FROM operations ORDER BY number")?;
    let rows = statement.query_map([], |row| {
        let statements: String = row.get(4)?;
        let statements = serde_json::from_str(&statements)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, error.into()))?;
        Ok(Queued {
            number: row.get(0)?,
            at_ms: row.get(1)?,
            database: row.get(2)?,
            operation: Operation {
                id: row.get(3)?,
                statements,
            },
        })
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: QueueBounds = QueueBounds { rows: 5, bytes: 1000 };

    fn operation(id: &str, bytes: usize) -> Operation {
        let params = vec![crate::Value::Blob(vec![1; bytes]), crate::Value::Real(1.0)];
        Operation {
            id: id.to_owned(),
            statements: vec![Statement::new("INSERT INTO t VALUES (?1, ?2)", params)],
        }
    }

    #[tokio::test]
    async fn what_was_queued_is_there_after_a_restart_in_order_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let (queue, held, thread) = Queue::open(&path, BOUNDS).unwrap();
        assert!(held.is_empty());
        let first = queue.put("a", operation("1", 10)).await.unwrap();
        queue.put("b", operation("1", 10)).await.unwrap();
        let second = queue.put("a", operation("2", 10)).await.unwrap();
        assert_eq!(queue.put("a", operation("1", 10)).await.unwrap().number, first.number);
        queue.remove(first.number).await;
        assert!(!queue.has("a", "1").await && queue.has("a", "2").await && queue.has("b", "1").await);
        drop(queue);
        thread.join().unwrap();
        let (queue, held, _) = Queue::open(&path, BOUNDS).unwrap();
        assert_eq!(
            held.iter()
                .map(|queued| (&*queued.database, &*queued.operation.id))
                .collect::<Vec<_>>(),
            [("b", "1"), ("a", "2")]
        );
        assert_eq!(held[1], second);
        assert_eq!(queue.depth().rows, 2);
        for queued in held {
            queue.remove(queued.number).await;
        }
        assert!(!queue.has("a", "2").await);
        assert_eq!(queue.depth(), QueueDepth::default());
    }

    #[test]
    fn what_was_done_while_the_disk_failed_does_not_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let connection = open_file(&path).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        let mut thread = Thread {
            connection,
            bounds: BOUNDS,
            unremoved: Vec::new(),
            depth: tokio::sync::watch::Sender::default(),
        };
        let put = |id: &str| {
            let (reply, mut answer) = oneshot::channel();
            let command = Command::Put {
                database: "a".to_owned(),
                operation: operation(id, 10),
                reply,
            };
            (command, move || answer.try_recv().unwrap())
        };
        let (first, mut answer) = put("1");
        thread.run(vec![first]);
        let number = answer().unwrap().number;
        // Nothing can be written while another process holds the file.
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (second, mut answer) = put("2");
        thread.run(vec![Command::Remove { number }, second]);
        assert!(answer().is_err());
        other.execute_batch("ROLLBACK").unwrap();
        let (third, mut answer) = put("3");
        thread.run(vec![third]);
        answer().unwrap();
        let left = read_all(&thread.connection).unwrap();
        assert_eq!(
            left.iter().map(|queued| &*queued.operation.id).collect::<Vec<_>>(),
            ["3"]
        );
        assert_eq!(thread.depth.borrow().rows, 1);
    }

    #[test]
    fn what_it_takes_is_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let connection = open_file(&directory.path().join("queue.db")).unwrap();
        let synchronous = connection.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0));
        assert_eq!(synchronous.unwrap(), 2, "FULL");
    }

    #[tokio::test]
    async fn it_is_bounded_in_rows_and_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let (queue, _, _) = Queue::open(&directory.path().join("queue.db"), BOUNDS).unwrap();
        let full = |result| assert!(matches!(result, Err(QueueError::Full)), "{result:?}");
        full(queue.put("a", operation("large", 1000)).await);
        let mut last = 0;
        for number in 0..5 {
            last = queue.put("a", operation(&number.to_string(), 1)).await.unwrap().number;
        }
        full(queue.put("a", operation("5", 1)).await);
        queue.remove(last).await;
        queue.put("a", operation("5", 1)).await.unwrap();
    }
}
