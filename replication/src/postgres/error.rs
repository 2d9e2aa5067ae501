//! What can go wrong between a handler and its PostgreSQL.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a statement was not done, or is not known to be done.
#[derive(Debug, Clone, PartialEq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostgresError {
    /// Nothing was done.
    #[error("the primary has no PostgreSQL {name}; name it in the primary's configuration")]
    Unknown { name: String },
    /// Nothing was done.
    #[error("the PostgreSQL {name} cannot be reached: {message}")]
    Unreachable { name: String, message: String },
    /// Nothing was done.
    #[error("all {connections} connections to the PostgreSQL {name} are in use")]
    Busy { name: String, connections: usize },
    /// Nothing was done: the way to the primary is interrupted.
    #[error("{message}")]
    Agent { code: String, message: String },
    /// The statement may have been done.
    #[error("the connection was lost before the answer came, the statement may have been done: {message}")]
    Lost { message: String },
    /// The server is silent; it may still do the statement.
    #[error("there was no answer within {limit_ms} ms, the statement may have been done")]
    Silent { limit_ms: u64 },
    /// Nothing was done.
    #[error("{message}")]
    Refused { message: String },
    /// Nothing was done. Positions count from 1.
    #[error("parameter ${position}: {message}")]
    Parameter { position: usize, message: String },
    /// Nothing was done.
    #[error("the statement has {expected} parameters, {given} values were given")]
    Parameters { expected: usize, given: usize },
    /// Nothing was done, says PostgreSQL. A statement that ran too long is among them, as 57014.
    #[error("{0}")]
    Database(Box<DatabaseError>),
    /// The statement was done, its result cannot be said.
    #[error("column {column}: {message}")]
    Value { column: String, message: String },
    /// The statement may have been done, its result is not returned.
    #[error("{message}")]
    TooLarge { message: String },
}

/// An error message of PostgreSQL (postgresql.org/docs/current/protocol-error-fields.html).
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{severity}: {message} (SQLSTATE {code})")]
pub struct DatabaseError {
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    /// Further fields by name, such as `constraint` and `hint`.
    pub extras: Vec<(String, String)>,
}

/// Why a PostgreSQL cannot be used at all. The address is in none of them.
#[derive(Debug, Error)]
pub enum PostgresOpenError {
    #[error(
        "the address is not valid; write postgres://USER:PASSWORD@HOST/DATABASE?sslmode=MODE with disable, prefer or require, which always verifies the certificate"
    )]
    Url(#[source] tokio_postgres::Error),
    #[error("the address names no host; write postgres://USER:PASSWORD@HOST/DATABASE")]
    NoHost,
    #[error("the authorities in {path} cannot be read")]
    Authorities {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    NoAuthority { path: PathBuf },
    #[error("a certificate among the authorities cannot be used")]
    Authority(#[source] rustls::Error),
    #[error("the pool cannot be made")]
    Pool(#[source] deadpool_postgres::BuildError),
}

impl PostgresError {
    /// A stable name for programs, logs and metrics.
    pub fn code(&self) -> &str {
        match self {
            PostgresError::Unknown { .. } => "no_postgres",
            PostgresError::Unreachable { .. } => "postgres_unreachable",
            PostgresError::Busy { .. } => "postgres_busy",
            PostgresError::Agent { code, .. } => code,
            PostgresError::Lost { .. } => "postgres_lost",
            PostgresError::Silent { .. } => "postgres_silent",
            PostgresError::Refused { .. } => "refused",
            PostgresError::Parameter { .. } | PostgresError::Parameters { .. } => "parameters",
            PostgresError::Database(error) => &error.code,
            PostgresError::Value { .. } => "value",
            PostgresError::TooLarge { .. } => "too_large",
        }
    }

    /// The error of a statement that was sent.
    pub(super) fn of_statement(error: &tokio_postgres::Error) -> PostgresError {
        match error.as_db_error() {
            Some(error) => PostgresError::Database(Box::new(DatabaseError::of(error))),
            None => PostgresError::Lost {
                message: with_causes(error),
            },
        }
    }
}

impl DatabaseError {
    fn of(error: &tokio_postgres::error::DbError) -> DatabaseError {
        let extras = [
            ("hint", error.hint()),
            ("schema", error.schema()),
            ("table", error.table()),
            ("column", error.column()),
            ("datatype", error.datatype()),
            ("constraint", error.constraint()),
            ("where", error.where_()),
        ];
        DatabaseError {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            extras: extras
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect(),
        }
    }
}

/// An error and its causes, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    crate::chain(error)
}
