//! Why an agent did not do what it was asked: one place turns it into a status and a text.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::SqlError;
use crate::queue::QueueError;

#[derive(Debug, Clone, Error)]
pub enum Refusal {
    #[error("there is no database {0}")]
    NoDatabase(String),
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
    #[error("this agent is not the primary")]
    NotPrimary,
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("{0}")]
    Internal(String),
}

/// A refusal between processes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// Seconds after which another try makes sense.
const RETRY_AFTER: &str = "1";

impl Refusal {
    pub fn code(&self) -> &str {
        match self {
            Refusal::NoDatabase(_) => "no_database",
            Refusal::Malformed(_) => "malformed",
            Refusal::Token => "token",
            Refusal::QueueFull => "queue_full",
            Refusal::Queue(_) => "queue",
            Refusal::PrimaryUnreachable => "primary_unreachable",
            Refusal::OutcomeUnknown(_) => "outcome_unknown",
            Refusal::NotPrimary => "not_primary",
            Refusal::Sql(error) => error.code(),
            Refusal::Internal(_) => "internal",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Refusal::NoDatabase(_) => StatusCode::NOT_FOUND,
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::Token => StatusCode::UNAUTHORIZED,
            Refusal::QueueFull | Refusal::Queue(_) | Refusal::PrimaryUnreachable => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::OutcomeUnknown(_) => StatusCode::GATEWAY_TIMEOUT,
            Refusal::NotPrimary => StatusCode::MISDIRECTED_REQUEST,
            Refusal::Sql(error) if error.is_final() => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Sql(SqlError::Remote { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Sql(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
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
        let mut response = (status, Json(problem)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}
