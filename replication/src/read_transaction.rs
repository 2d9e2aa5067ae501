//! One state of a database, read with several statements: a connection and a thread of its own, for a few seconds.
//!
//! It takes no reader from the pool, so that somebody who thinks between two statements keeps nobody waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::bounds;
use crate::connection::Connection;
use crate::deadline::Cancellation;
use crate::describe::{self, Description};
use crate::error::SqlError;
use crate::execute::{self, Read, ResultBounds};
use crate::pages;
use crate::position::Position;
use crate::settings::DatabaseSettings;
use crate::value::Statement;

/// An open one. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct ReadTransaction {
    steps: Sender<Step>,
    ended: Arc<AtomicBool>,
    position: Position,
}

enum Step {
    Read(Statement, oneshot::Sender<Result<Read, SqlError>>),
    Describe(String, oneshot::Sender<Result<Description, SqlError>>),
}

impl ReadTransaction {
    /// Begins one on a replicated database's file. The permit is held as long as its thread lives.
    pub(crate) async fn begin(
        settings: DatabaseSettings,
        permit: OwnedSemaphorePermit,
    ) -> Result<ReadTransaction, SqlError> {
        let (steps, asked) = channel();
        let (reply, begun) = oneshot::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name(format!("{}-snapshot", settings.name));
        let started = thread.spawn(move || {
            match begin(&settings) {
                Ok((connection, position)) => {
                    // Refused when whoever asked has gone; then nobody asks.
                    let _ = reply.send(Ok(position));
                    serve(&connection, &settings, &asked);
                }
                Err(error) => drop(reply.send(Err(error))),
            }
            flag.store(true, Ordering::Release);
            drop(permit);
        });
        started.map_err(|error| SqlError::Io {
            message: error.to_string(),
        })?;
        let position = begun.await.map_err(|_| SqlError::Closed)??;
        Ok(ReadTransaction { steps, ended, position })
    }

    /// The state it reads.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    pub(crate) async fn read(&self, statement: Statement) -> Result<Read, SqlError> {
        self.ask(|reply| Step::Read(statement, reply)).await
    }

    pub(crate) async fn describe(&self, sql: String) -> Result<Description, SqlError> {
        self.ask(|reply| Step::Describe(sql, reply)).await
    }

    async fn ask<T>(&self, step: impl FnOnce(oneshot::Sender<Result<T, SqlError>>) -> Step) -> Result<T, SqlError> {
        let ended = || SqlError::Busy {
            message: "the transaction has ended: it was open for too long",
        };
        let (reply, answer) = oneshot::channel();
        self.steps.send(step(reply)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn begin(settings: &DatabaseSettings) -> Result<(Connection, Position), SqlError> {
    let connection = Connection::open_reader(&settings.path).map_err(|error| SqlError::Io {
        message: error.to_string(),
    })?;
    let position = connection
        .ours(|raw| {
            raw.execute_batch("BEGIN")?;
            pages::position(raw, "main")
        })
        .map_err(SqlError::from_sqlite)?;
    Ok((connection, position.1))
}

fn serve(connection: &Connection, settings: &DatabaseSettings, asked: &Receiver<Step>) {
    let ends = Instant::now() + bounds::INTERACTIVE_TRANSACTION;
    while let Ok(step) = asked.recv_timeout(ends.saturating_duration_since(Instant::now())) {
        connection.start_deadline(settings.statement_timeout, Cancellation::default());
        // The answer is refused when whoever asked has gone.
        match step {
            Step::Read(statement, reply) => {
                let _ = reply.send(execute::read(connection, &statement, ResultBounds::of(settings)));
            }
            Step::Describe(sql, reply) => {
                let _ = reply.send(describe::describe(connection, &sql));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Database;

    #[tokio::test]
    async fn it_reads_one_state_and_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = Database::open(DatabaseSettings::new("test", &path)).unwrap();
        let run = async |sql: &str| database.query(sql, vec![]).await.unwrap();
        run("CREATE TABLE t (a INTEGER)").await;
        {
            // The tables of a replicated database, which only a publication makes.
            let connection = Connection::open_writer(&path).unwrap();
            pages::create_tables(&connection, crate::position::Epoch(3)).unwrap();
        }
        let permits = Arc::new(tokio::sync::Semaphore::new(1));
        let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
        let settings = DatabaseSettings::new("test", &path);
        let reading = ReadTransaction::begin(settings, permit).await.unwrap();
        assert_eq!(reading.position().epoch, crate::position::Epoch(3));
        run("INSERT INTO t VALUES (1)").await;
        let count = || Statement::new("SELECT count(*) FROM t", vec![]);
        match reading.read(count()).await.unwrap() {
            Read::Rows(rows) => assert_eq!(rows.rows, [[crate::Value::Integer(0)]]),
            Read::NeedsWriter => panic!("a count only reads"),
        }
        let insert = Statement::new("INSERT INTO t VALUES (2)", vec![]);
        assert!(matches!(reading.read(insert).await.unwrap(), Read::NeedsWriter));
        let described = reading
            .describe("SELECT a, :b FROM t WHERE a = ?".to_owned())
            .await
            .unwrap();
        assert_eq!(described.parameters, [Some(":b".to_owned()), None]);
        assert_eq!(described.columns[0].decltype.as_deref(), Some("INTEGER"));
        assert_eq!(described.columns[1].decltype, None);
        assert!(described.is_readonly && reading.is_open());
        drop(reading);
        // The thread gives its permit back.
        let _permit = permits.acquire().await.unwrap();
    }
}
