//! A database: opened once, asked by many.

use std::path::Path;
use std::sync::Arc;

use crate::bounds;
use crate::connection::Connection;
use crate::error::{OpenError, SqlError};
use crate::execute::Read;
use crate::linked;
use crate::migrate;
use crate::readers::Readers;
use crate::settings::DatabaseSettings;
use crate::stats::{Counters, DatabaseStats};
use crate::value::{Rows, Statement, Value};
use crate::writer::{self, Task, Writer};

/// An open database. The threads end when it is dropped, after what they have begun.
pub struct Database {
    settings: DatabaseSettings,
    readers: Readers,
    writer: Writer,
    counters: Arc<Counters>,
}

impl Database {
    /// Opens or creates the file, applies the migrations and starts the threads. Reads and writes the disk: call it
    /// where blocking is allowed.
    pub fn open(settings: DatabaseSettings) -> Result<Arc<Database>, OpenError> {
        linked::assert_fit()?;
        let path = &settings.path;
        look_at(path)?;
        let connection = Connection::open_writer(path)?;
        let migrated = migrate::apply(&connection, settings.migrations.as_deref());
        migrated.map_err(|source| OpenError::Migration {
            path: path.clone(),
            source,
        })?;

        let counters = Arc::new(Counters::default());
        let (readers, threads) = Readers::open(&settings)?;
        let writer = Writer::start(&settings, connection, threads, Arc::clone(&counters))?;
        Ok(Arc::new(Database {
            settings,
            readers,
            writer,
            counters,
        }))
    }

    /// Runs one statement: on a reader if it only reads, else in a transaction of its own on the writer.
    ///
    /// Dropping the future stops a read. It withdraws a write that has not begun; one that has begun is finished.
    pub async fn query(&self, sql: &str, params: Vec<Value>) -> Result<Rows, SqlError> {
        self.noted(self.read_or_write(Statement::new(sql, params)).await)
    }

    /// Runs the statements in order in one transaction on the writer: all of them, or none.
    pub async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Rows>, SqlError> {
        if statements.len() > bounds::BATCH_STATEMENTS {
            let message = format!("a batch has at most {} statements", bounds::BATCH_STATEMENTS);
            return Err(SqlError::TooLarge { message });
        }
        self.noted(self.write(Task::Batch(statements)).await)
    }

    pub fn stats(&self) -> DatabaseStats {
        DatabaseStats {
            reads: self.counters.reads.get(),
            writes: self.counters.writes.get(),
            commits: self.counters.commits.get(),
            timeouts: self.counters.timeouts.get(),
            readers_busy: self.readers.busy(),
            reads_waiting: self.readers.waiting(),
            writes_waiting: self.writer.waiting(),
            wal_bytes: writer::size_bytes(&writer::wal_path(&self.settings.path)),
            damaged: self.counters.damaged(),
        }
    }

    /// The name it has in the configuration.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    async fn read_or_write(&self, statement: Statement) -> Result<Rows, SqlError> {
        let (statement, answer) = self.readers.read(statement).await?;
        if let Ok(Read::NeedsWriter) = answer {
            let rows = self.write(Task::Statement(statement)).await?;
            return Ok(rows.into_iter().next().expect("a statement has one result"));
        }
        self.counters.reads.add();
        answer.map(|read| match read {
            Read::Rows(rows) => rows,
            Read::NeedsWriter => unreachable!("answered above"),
        })
    }

    async fn write(&self, task: Task) -> Result<Vec<Rows>, SqlError> {
        if self.counters.damaged() {
            return Err(SqlError::Corrupt {
                message: "damage was found earlier, writes are refused".to_owned(),
            });
        }
        self.writer.write(task).await
    }

    fn noted<T>(&self, result: Result<T, SqlError>) -> Result<T, SqlError> {
        result.inspect_err(|error| self.counters.note(&self.settings.name, error))
    }
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
