//! What can go wrong, one enum an operation, and how SQLite's result codes map to it.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::ErrorCode;
use thiserror::Error;

use crate::guard::Refusal;

/// Why a statement or a batch was not done. Nothing of it is in the database then, except after [`SqlError::Closed`]
/// and [`SqlError::Io`], where a write may have been done although its answer was lost.
#[derive(Debug, Clone, Error)]
pub enum SqlError {
    /// Not valid SQL, or not valid against the schema.
    #[error("{message}")]
    Sql { message: String },
    /// A UNIQUE, NOT NULL, CHECK, foreign key, … constraint.
    #[error("{message}")]
    Constraint { message: String },
    #[error("{0}")]
    Refused(Refusal),
    #[error("the statement has {expected} parameters, {given} values were given")]
    Parameters { expected: usize, given: usize },
    #[error("no value was given for the parameter {name}")]
    Parameter { name: String },
    #[error("column {column} holds text that is not UTF-8; select CAST({column} AS BLOB)")]
    NotUtf8 { column: String },
    #[error("the statement did not finish within {limit:?}")]
    Timeout { limit: Duration },
    /// Whoever asked has gone. Only seen by code that still looks.
    #[error("the statement was cancelled")]
    Cancelled,
    #[error("{message}")]
    TooLarge { message: String },
    #[error("{message}")]
    Busy { message: &'static str },
    #[error("the disk is full")]
    Full,
    #[error("the database is damaged: {message}")]
    Corrupt { message: String },
    #[error("the database file could not be read or written: {message}")]
    Io { message: String },
    #[error("the database has been closed")]
    Closed,
    /// The log has not taken the commit. It may be in the database; repeated with its operation id, the write is done
    /// once.
    #[error("the write is not confirmed: {message}")]
    Log { message: String },
    /// The outcome of an earlier try of the same operation, or of another process.
    #[error("{message}")]
    Remote { code: String, message: String },
    /// A statement of a batch; the whole batch was undone.
    #[error("statement {index} of the batch: {source}")]
    InBatch { index: usize, source: Box<SqlError> },
}

/// Why a database was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("SQLite {linked} is linked, but {needed} or newer is needed: older ones can lose commits")]
    OldSqlite { linked: String, needed: &'static str },
    #[error(
        "SQLite was built without {option}; build in the workspace, whose .cargo/config.toml sets LIBSQLITE3_FLAGS"
    )]
    MissingOption { option: &'static str },
    #[error("the directory {directory} does not exist; create it or change the database's path")]
    NoDirectory { directory: PathBuf },
    #[error("{path} is a directory, not a database file")]
    IsDirectory { path: PathBuf },
    #[error("{path} cannot be read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a SQLite database")]
    NotADatabase { path: PathBuf },
    #[error("the database {path} is damaged; restore it from a backup")]
    Corrupt { path: PathBuf, source: rusqlite::Error },
    /// Found earlier, and noted beside the file.
    #[error(
        "{reason}; restore it with `selvedge db restore`, or take a replica's file with `selvedge db import --replace`"
    )]
    Damaged { reason: String },
    #[error("the database {path} cannot be written; check the permissions of the file and of its directory")]
    ReadOnly { path: PathBuf },
    #[error("{doing} {path}")]
    Sqlite {
        doing: &'static str,
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("the thread {name} could not be started")]
    Thread { name: String, source: std::io::Error },
    #[error("preparing {path} for replication")]
    Publish { path: PathBuf, source: PublishError },
    #[error("migrating {path}")]
    Migration { path: PathBuf, source: MigrationError },
}

/// Why a commit is not in the log, or a database does not agree with its log.
#[derive(Debug, Error)]
pub enum PublishError {
    #[error("the write-ahead log cannot be read")]
    Wal(#[source] std::io::Error),
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    #[error("the tables of the platform cannot be read or written")]
    Sqlite(#[from] rusqlite::Error),
    #[error(
        "the file is at {file}, its log at {log}, and the two have different histories; restore the database with `selvedge db restore`"
    )]
    Diverged { file: String, log: String },
    #[error("page {page} is not as it was written, and nobody has written the file since: look at the disk")]
    DamagedPage { page: u32 },
}

impl OpenError {
    /// Whether what is on the disk cannot be trusted.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(
            self,
            OpenError::Corrupt { .. }
                | OpenError::NotADatabase { .. }
                | OpenError::Damaged { .. }
                | OpenError::Publish {
                    source: PublishError::DamagedPage { .. },
                    ..
                }
        )
    }
}

/// Why the migrations of a database were not applied. Those before the named one are.
#[derive(Debug, Error)]
pub enum MigrationError {
    #[error("the migrations directory {directory} cannot be read")]
    Directory { directory: PathBuf, source: std::io::Error },
    #[error("{file} cannot be read")]
    File { file: PathBuf, source: std::io::Error },
    #[error("{file} is not named like 0001_create_users.sql")]
    Name { file: String },
    #[error("{first} and {second} have the same number")]
    SameNumber { first: String, second: String },
    #[error("{file} was changed after it had been applied; undo the change and write a new migration")]
    Changed { file: String },
    #[error("{file} has been applied to this database but is missing from the directory")]
    Missing { file: String },
    #[error("{file} comes before {applied}, which has already been applied; give it a higher number")]
    OutOfOrder { file: String, applied: String },
    #[error("{file} was undone")]
    Failed { file: String, source: SqlError },
    #[error("reading which migrations have been applied")]
    Record { source: rusqlite::Error },
}

impl SqlError {
    /// A stable name for programs, logs and metrics.
    pub fn code(&self) -> &str {
        match self {
            SqlError::Log { .. } => "unconfirmed",
            SqlError::Remote { code, .. } => code,
            SqlError::Sql { .. } => "sql",
            SqlError::Constraint { .. } => "constraint",
            SqlError::Refused(_) => "refused",
            SqlError::Parameters { .. } | SqlError::Parameter { .. } => "parameters",
            SqlError::NotUtf8 { .. } => "not_utf8",
            SqlError::Timeout { .. } => "timeout",
            SqlError::Cancelled => "cancelled",
            SqlError::TooLarge { .. } => "too_large",
            SqlError::Busy { .. } => "busy",
            SqlError::Full => "disk_full",
            SqlError::Corrupt { .. } => "corrupt",
            SqlError::Io { .. } => "io",
            SqlError::Closed => "closed",
            SqlError::InBatch { source, .. } => source.code(),
        }
    }

    /// Which statement of a batch it is about.
    pub fn statement_index(&self) -> Option<usize> {
        match self {
            SqlError::InBatch { index, .. } => Some(*index),
            SqlError::Remote { message, .. } => {
                let rest = message.strip_prefix("statement ")?;
                rest.split_once(" of the batch: ")?.0.parse().ok()
            }
            _ => None,
        }
    }

    /// Whether another try of the same operation would end the same way: nothing of it was done, and the statements
    /// themselves are the reason.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            SqlError::Sql { .. }
            | SqlError::Constraint { .. }
            | SqlError::Refused(_)
            | SqlError::Parameters { .. }
            | SqlError::Parameter { .. }
            | SqlError::NotUtf8 { .. }
            | SqlError::Timeout { .. }
            | SqlError::TooLarge { .. } => true,
            SqlError::InBatch { source, .. } => source.is_final(),
            _ => false,
        }
    }

    /// The meaning of SQLite's result code, where neither the guard nor the deadline caused it.
    pub(crate) fn from_sqlite(error: rusqlite::Error) -> SqlError {
        let (sqlite, message) = match error {
            rusqlite::Error::SqliteFailure(sqlite, message) => {
                let message = message.unwrap_or_else(|| rusqlite::ffi::code_to_str(sqlite.extended_code).to_owned());
                (sqlite, message)
            }
            rusqlite::Error::SqlInputError { msg, offset, .. } => {
                return SqlError::Sql {
                    message: format!("{msg} (at byte {offset})"),
                };
            }
            rusqlite::Error::InvalidParameterCount(given, expected) => {
                return SqlError::Parameters { expected, given };
            }
            rusqlite::Error::Empty => {
                return SqlError::Sql {
                    message: "the statement is empty".to_owned(),
                };
            }
            rusqlite::Error::MultipleStatement => {
                return SqlError::Sql {
                    message: "more than one statement; send them as a batch".to_owned(),
                };
            }
            other => {
                return SqlError::Sql {
                    message: other.to_string(),
                };
            }
        };
        match sqlite.code {
            // FTS5's own integrity check and the like: an index disagrees with its content, the file is sound.
            ErrorCode::DatabaseCorrupt if sqlite.extended_code == rusqlite::ffi::SQLITE_CORRUPT_VTAB => {
                SqlError::Sql { message }
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => SqlError::Corrupt { message },
            ErrorCode::ConstraintViolation => SqlError::Constraint { message },
            ErrorCode::DiskFull => SqlError::Full,
            ErrorCode::TooBig | ErrorCode::OutOfMemory => SqlError::TooLarge { message },
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => SqlError::Busy {
                message: "another process holds the database",
            },
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::NoLargeFileSupport => SqlError::Io { message },
            _ => SqlError::Sql { message },
        }
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}
