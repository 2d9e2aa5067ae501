//! Why an agent did not do what it was asked: one place turns it into a status and a text.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::SqlError;
use crate::error::chain;
use crate::postgres::PostgresError;
use crate::queue::QueueError;

#[derive(Debug, Clone, Error)]
pub enum Refusal {
    #[error("there is no database {0}")]
    NoDatabase(String),
    #[error("the database {0} was deleted; `undelete` brings it back, deleting it with no grace makes its name free")]
    Deleted(String),
    /// It is in the way of what is there.
    #[error("{0}")]
    Conflict(String),
    /// What was sent is not what it should be.
    #[error("{0}")]
    Content(String),
    #[error("the disk is full; nothing was done")]
    Full,
    #[error("{0}")]
    Malformed(String),
    #[error("the token is missing or wrong")]
    Token,
    /// Nothing was done.
    #[error("the write queue is full; nothing was done, try again")]
    QueueFull,
    #[error("{0}; nothing was done")]
    Queue(String),
    /// Nothing was done.
    #[error("the primary cannot be reached; nothing was done, reads go on")]
    PrimaryUnreachable,
    /// The operation is queued and may still be done.
    #[error("operation {0} was accepted, but its outcome is not known yet; ask for it, or repeat it with the same id")]
    OutcomeUnknown(String),
    #[error(
        "operation {0} could not be confirmed for 12 hours and is not sent again; whether it was done is not known: read what it would have written"
    )]
    Expired(String),
    #[error("this agent is not the primary")]
    NotPrimary,
    /// Whoever asked has followed a primary of a higher epoch.
    #[error(
        "this primary leads under epoch {ours}, but epoch {seen} was followed already: another has taken its place; stop this one, or restart it to take it back"
    )]
    Deposed { ours: u32, seen: u32 },
    /// Its transaction, if it had one, was undone.
    #[error("the stream has expired, or its baton was used before")]
    Stream,
    #[error("the primary did not answer; whether the transaction was committed is not known")]
    TransactionLost,
    #[error("this replica does not have yet what was seen elsewhere; nothing was done, try again")]
    Behind,
    #[error("{0}; try again")]
    Busy(&'static str),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error("the database {name} is damaged at the primary: {reason}")]
    Damaged { name: String, reason: String },
    #[error("{0}")]
    Internal(String),
}

/// A refusal between processes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Problem {
    /// Whether another try of the same operation would end the same way: the statements themselves are the reason, as
    /// [`SqlError::is_final`] judges where they ran. What is not known to be final is not.
    pub(crate) fn is_final(&self) -> bool {
        let final_codes = [
            "sql",
            "constraint",
            "refused",
            "parameters",
            "not_utf8",
            "timeout",
            "too_large",
        ];
        final_codes.contains(&self.code.as_str())
    }
}

/// A refusal with everything PostgreSQL said.
#[derive(Serialize)]
struct PostgresProblem<'e> {
    #[serde(flatten)]
    problem: Problem,
    postgres: &'e PostgresError,
}

/// Seconds after which another try makes sense.
const RETRY_AFTER: &str = "1";

impl Refusal {
    pub fn code(&self) -> &str {
        match self {
            Refusal::NoDatabase(_) => "no_database",
            Refusal::Deleted(_) => "deleted",
            Refusal::Conflict(_) => "conflict",
            Refusal::Content(_) => "content",
            Refusal::Full => "disk_full",
            Refusal::Malformed(_) => "malformed",
            Refusal::Token => "token",
            Refusal::QueueFull => "queue_full",
            Refusal::Queue(_) => "queue",
            Refusal::PrimaryUnreachable => "primary_unreachable",
            Refusal::OutcomeUnknown(_) => "outcome_unknown",
            Refusal::Expired(_) => "expired",
            Refusal::NotPrimary => "not_primary",
            Refusal::Deposed { .. } => "deposed",
            // libSQL's own name, which clients know.
            Refusal::Stream => "STREAM_EXPIRED",
            Refusal::TransactionLost => "transaction_lost",
            Refusal::Behind => "replica_behind",
            Refusal::Busy(_) => "busy",
            Refusal::Sql(error) => error.code(),
            Refusal::Postgres(error) => error.code(),
            Refusal::Damaged { .. } => "damaged",
            Refusal::Internal(_) => "internal",
        }
    }

    /// Of something that failed here: a full disk is said as such, also when it is deep in the causes.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Refusal {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let full_disk = error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull);
            let full_database = error
                .downcast_ref::<rusqlite::Error>()
                .is_some_and(|error| error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull));
            if full_disk || full_database {
                return Refusal::Full;
            }
            cause = error.source();
        }
        Refusal::Internal(chain(error))
    }

    fn status(&self) -> StatusCode {
        match self {
            Refusal::NoDatabase(_) => StatusCode::NOT_FOUND,
            Refusal::Deleted(_) => StatusCode::GONE,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Content(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Full => StatusCode::INSUFFICIENT_STORAGE,
            Refusal::Malformed(_) | Refusal::Stream => StatusCode::BAD_REQUEST,
            Refusal::Token => StatusCode::UNAUTHORIZED,
            Refusal::QueueFull
            | Refusal::Queue(_)
            | Refusal::PrimaryUnreachable
            | Refusal::Behind
            | Refusal::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::OutcomeUnknown(_) | Refusal::Expired(_) | Refusal::TransactionLost => StatusCode::GATEWAY_TIMEOUT,
            Refusal::NotPrimary | Refusal::Deposed { .. } => StatusCode::MISDIRECTED_REQUEST,
            Refusal::Sql(error) if error.is_final() => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Sql(SqlError::Remote { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Sql(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Postgres(PostgresError::Unknown { .. }) => StatusCode::NOT_FOUND,
            Refusal::Postgres(
                PostgresError::Unreachable { .. } | PostgresError::Busy { .. } | PostgresError::Agent { .. },
            ) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Postgres(PostgresError::Lost { .. } | PostgresError::Silent { .. }) => StatusCode::GATEWAY_TIMEOUT,
            Refusal::Postgres(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Damaged { .. } | Refusal::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<QueueError> for Refusal {
    fn from(error: QueueError) -> Refusal {
        match error {
            QueueError::Full => Refusal::QueueFull,
            other => Refusal::Queue(other.to_string()),
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        let Problem { code, message } = problem;
        Refusal::Sql(SqlError::Remote { code, message })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let problem = Problem {
            code: self.code().to_owned(),
            message: self.to_string(),
        };
        let mut response = match &self {
            Refusal::Postgres(error) => (
                status,
                Json(PostgresProblem {
                    problem,
                    postgres: error,
                }),
            )
                .into_response(),
            _ => (status, Json(problem)).into_response(),
        };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}
