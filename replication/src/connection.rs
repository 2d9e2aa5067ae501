//! One SQLite connection, configured, guarded and with a deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{ErrorCode, OpenFlags};

use crate::bounds;
use crate::deadline::{Cancellation, Deadline};
use crate::error::{OpenError, SqlError};
use crate::guard::{Author, Guard};

pub(crate) struct Connection {
    raw: rusqlite::Connection,
    guard: Guard,
    deadline: Deadline,
    /// Part of the text of our cached statements: the cache is keyed by text, and what we may do an application may not.
    secret: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Writer,
    Reader,
}

impl Connection {
    /// The database's only writing connection. Creates the file when it is missing.
    pub(crate) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
        Connection::open(path, Role::Writer)
    }

    /// Cannot write, whatever it is told to.
    pub(crate) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
        Connection::open(path, Role::Reader)
    }

    fn open(path: &Path, role: Role) -> Result<Connection, OpenError> {
        let access = match role {
            Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        // No mutex: a connection stays with its thread. No URI flag: a path is a path, also with a question mark.
        let raw = rusqlite::Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(|error| open_error("opening the database", path, error))?;
        let mut connection = Connection {
            raw,
            guard: Guard::new(),
            deadline: Deadline::default(),
            secret: fastrand::u128(..),
        };
        connection
            .configure(role)
            .map_err(|error| open_error("configuring the database", path, error))?;
        Ok(connection)
    }

    fn configure(&mut self, role: Role) -> rusqlite::Result<()> {
        let raw = &mut self.raw;
        raw.busy_timeout(bounds::BUSY_WAIT)?;
        // The schema may have been written by an application, so it is as untrusted as its statements.
        raw.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        raw.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        raw.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false)?;
        raw.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false)?;
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_COLUMN, bounds::COLUMNS),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, bounds::COMPOUND_TERMS),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, bounds::EXPRESSION_DEPTH),
            (Limit::SQLITE_LIMIT_LENGTH, bounds::VALUE_BYTES),
            (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, bounds::LIKE_BYTES),
            (Limit::SQLITE_LIMIT_SQL_LENGTH, bounds::SQL_BYTES),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, bounds::TRIGGER_DEPTH),
            (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, bounds::PARAMETERS),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        ] {
            raw.set_limit(limit, value)?;
        }
        raw.set_prepared_statement_cache_capacity(bounds::PREPARED_STATEMENTS);
        match role {
            Role::Writer => {
                raw.pragma_update(None, "journal_mode", "wal")?;
                raw.pragma_update(None, "synchronous", "full")?;
                raw.pragma_update(None, "foreign_keys", true)?;
                raw.pragma_update(None, "journal_size_limit", bounds::WAL_BYTES as i64)?;
            }
            Role::Reader => raw.pragma_update(None, "query_only", true)?,
        }
        // The first read of the schema: a file that is not a database fails here, not in a request.
        raw.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;

        let guard = self.guard.clone();
        raw.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| {
            guard.authorize(&context)
        }))?;
        let deadline = self.deadline.clone();
        raw.progress_handler(bounds::INSTRUCTIONS_PER_CHECK, Some(move || deadline.must_stop()))
    }

    /// SQL of this crate: not judged, not timed. Uses no cached statement, because the cache is keyed by text and an
    /// application must not find ours there.
    pub(crate) fn ours<T>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.guard.expect(Author::Us);
        self.deadline.clear();
        work(&self.raw)
    }

    /// A statement of ours that runs often. It is cached under a text that no application can know.
    pub(crate) fn ours_cached<T>(
        &self,
        sql: &str,
        work: impl FnOnce(&mut rusqlite::CachedStatement<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.ours(|raw| work(&mut raw.prepare_cached(&format!("{sql} -- {:x}", self.secret))?))
    }

    /// SQL of somebody else: judged, and explained when it was refused or stopped.
    pub(crate) fn theirs<T>(
        &self,
        author: Author,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.guard.expect(author);
        let result = work(&self.raw);
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        Err(self
            .guard
            .refusal()
            .map(SqlError::Refused)
            .or_else(|| self.deadline.stopped())
            .unwrap_or(error))
    }

    /// Prepares a statement of somebody else's, inside [`Connection::theirs`].
    ///
    /// A connection knows the schema of its last read, and not every error of a stale one makes SQLite look again: after
    /// ADD COLUMN on the writer, a reader says of RENAME COLUMN that there is no such column. So an error counts only
    /// when the schema is fresh.
    pub(crate) fn prepare(&self, author: Author, sql: &str) -> Result<rusqlite::CachedStatement<'_>, SqlError> {
        let stale = match self.raw.prepare_cached(sql) {
            Ok(statement) => return Ok(statement),
            Err(error) => error,
        };
        self.guard.expect(Author::Us);
        let looked = self
            .raw
            .query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(()));
        self.guard.expect(author);
        match looked {
            Ok(()) | Err(rusqlite::Error::QueryReturnedNoRows) => {
                self.raw.prepare_cached(sql).map_err(SqlError::from_sqlite)
            }
            Err(_) => Err(SqlError::from_sqlite(stale)),
        }
    }

    /// Work that must not hold the thread: a large value, a long pattern or a lock is an error, not a wait.
    pub(crate) fn at_once<T>(&self, work: impl FnOnce() -> T) -> T {
        let bound = |value_bytes, like_bytes, busy_wait| {
            self.raw.set_limit(Limit::SQLITE_LIMIT_LENGTH, value_bytes)?;
            self.raw
                .set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, like_bytes)?;
            self.raw.busy_timeout(busy_wait)
        };
        let set: rusqlite::Result<()> = bound(bounds::AT_ONCE_VALUE_BYTES, bounds::AT_ONCE_LIKE_BYTES, Duration::ZERO);
        let done = work();
        let reset = bound(bounds::VALUE_BYTES, bounds::LIKE_BYTES, bounds::BUSY_WAIT);
        set.and(reset).expect("SQLite takes limits it has taken before");
        done
    }

    /// Statements that run from now on share `limit`.
    pub(crate) fn start_deadline(&self, limit: Duration, cancellation: Cancellation) {
        self.deadline.start(limit, cancellation);
    }

    /// Whether a transaction is open on this connection.
    pub(crate) fn in_transaction(&self) -> bool {
        !self.raw.is_autocommit()
    }
}

/// What a failure at open means to the operator.
fn open_error(doing: &'static str, path: &Path, error: rusqlite::Error) -> OpenError {
    let path: PathBuf = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotADatabase { path },
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Corrupt { path, source: error },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => OpenError::ReadOnly { path },
        _ => OpenError::Sqlite {
            doing,
            path,
            source: error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_writer_commits_is_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Connection::open_writer(&folder.path().join("site.db")).unwrap();
        let pragma = |name: &str| writer.ours(|raw| raw.pragma_query_value(None, name, |row| row.get::<_, String>(0)));
        let number = |name: &str| writer.ours(|raw| raw.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
        assert_eq!(pragma("journal_mode").unwrap(), "wal");
        assert_eq!(
            number("synchronous").unwrap(),
            2,
            "FULL: in a write-ahead log each commit is synced"
        );
    }
}
