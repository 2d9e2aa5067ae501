//! Every refusal of the API, as RFC 9457 has it. The only file that turns errors into statuses.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use selvedge_replication::chain;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::artifacts::ArtifactError;
use crate::auth::access::Action;
use crate::sealing::SealingError;
use crate::store::change::ChangeError;
use crate::store::{Refused, StoreError};
use crate::vault::VaultError;

/// Why a request was not done, and what to do about it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `urn:selvedge:problem:` and the code.
    #[schema(value_type = String)]
    r#type: Box<str>,
    /// The same for every problem of this type.
    title: &'static str,
    status: u16,
    /// What is wrong with this request.
    detail: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    /// Further members, by the type of the problem.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    more: Map<String, Value>,
    #[serde(skip)]
    #[schema(ignore)]
    retry_after: Option<u32>,
}

/// The types there are: code, status, title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Malformed,
    NoKey,
    WrongKey,
    Forbidden,
    NotFound,
    Method,
    Exists,
    Conflict,
    Changed,
    Invalid,
    TooLarge,
    Range,
    TooOften,
    Unavailable,
    Internal,
}

impl Kind {
    fn words(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Kind::Malformed => ("malformed", StatusCode::BAD_REQUEST, "The request cannot be read"),
            Kind::NoKey => ("no_key", StatusCode::UNAUTHORIZED, "A key is needed"),
            Kind::WrongKey => ("wrong_key", StatusCode::UNAUTHORIZED, "The key is not valid"),
            Kind::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "The key may not do this"),
            Kind::NotFound => ("not_found", StatusCode::NOT_FOUND, "There is no such thing"),
            Kind::Method => ("method", StatusCode::METHOD_NOT_ALLOWED, "There is no such method"),
            Kind::Exists => ("exists", StatusCode::CONFLICT, "It exists already"),
            Kind::Conflict => ("conflict", StatusCode::CONFLICT, "It cannot be done as things are"),
            Kind::Changed => ("changed", StatusCode::PRECONDITION_FAILED, "It has changed meanwhile"),
            Kind::Invalid => (
                "invalid",
                StatusCode::UNPROCESSABLE_ENTITY,
                "What was sent is not valid",
            ),
            Kind::TooLarge => ("too_large", StatusCode::PAYLOAD_TOO_LARGE, "What was sent is too large"),
            Kind::Range => ("range", StatusCode::RANGE_NOT_SATISFIABLE, "There are no such bytes"),
            Kind::TooOften => ("too_often", StatusCode::TOO_MANY_REQUESTS, "The key asks too often"),
            Kind::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "It cannot be done now"),
            Kind::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Control has failed"),
        }
    }
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        let (code, status, title) = kind.words();
        Problem {
            r#type: format!("urn:selvedge:problem:{code}").into(),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            help: None,
            more: Map::new(),
            retry_after: (kind == Kind::Unavailable).then_some(1),
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn with(mut self, member: &str, value: impl Into<Value>) -> Problem {
        self.more.insert(member.to_owned(), value.into());
        self
    }

    pub(crate) fn not_found(what: &str, name: &str) -> Problem {
        Problem::new(Kind::NotFound, format!("there is no {what} {name}"))
    }

    pub(crate) fn no_key() -> Problem {
        Problem::new(Kind::NoKey, "the request shows no key")
            .help("send `Authorization: Bearer sel_…`; control shows the first key at its first start")
    }

    pub(crate) fn wrong_key() -> Problem {
        Problem::new(Kind::WrongKey, "the key is mistyped, unknown, expired or revoked")
            .help("ask an admin for a new one: POST /v1/keys")
    }

    pub(crate) fn forbidden(action: Action, app: Option<&str>) -> Problem {
        let action = crate::store::keys::word(&action);
        let of = app.map(|app| format!(" on {app}")).unwrap_or_default();
        Problem::new(Kind::Forbidden, format!("this key may not `{action}`{of}"))
            .help("ask an admin for a key whose role and scope have it")
    }

    pub(crate) fn too_often(seconds: u32) -> Problem {
        let mut problem = Problem::new(Kind::TooOften, "this key has used up its requests");
        problem.retry_after = Some(seconds);
        problem.help(format!("wait {seconds} s"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        let detail = refused.to_string();
        match refused {
            Refused::NotFound { .. } => Problem::new(Kind::NotFound, detail),
            Refused::Exists { .. } => Problem::new(Kind::Exists, detail),
            Refused::Changed { .. } => Problem::new(Kind::Changed, detail).help("read it again, and send its new ETag"),
            Refused::Conflict(_) => Problem::new(Kind::Conflict, detail),
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Problem {
        match error {
            ChangeError::Refused(refused) => refused.into(),
            ChangeError::Store(error) => error.into(),
        }
    }
}

/// What went wrong inside is for the log; who asked learns whether another try makes sense.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        tracing::error!(error = chain(&error), "a request could not be done");
        match error.is_passing() {
            true => Problem::new(Kind::Unavailable, "the databases cannot be reached now")
                .help("try again; is the agent beside control running, and does it reach the primary?"),
            false => Problem::new(Kind::Internal, "the databases did not answer as expected").help("see control's log"),
        }
    }
}

impl From<SealingError> for Problem {
    fn from(error: SealingError) -> Problem {
        match error {
            SealingError::Change(error) => error.into(),
            SealingError::Vault(error) => error.into(),
        }
    }
}

/// Where the file is, and what is wrong with it, is for who runs control.
impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Problem {
        tracing::error!(error = chain(&error), "secrets cannot be decrypted");
        Problem::new(Kind::Internal, "secrets cannot be decrypted")
            .help("see control's log; the file of keys needs care")
    }
}

impl From<ArtifactError> for Problem {
    fn from(error: ArtifactError) -> Problem {
        let detail = error.to_string();
        match error {
            ArtifactError::Digest { .. } => {
                Problem::new(Kind::Invalid, detail).help("compute SHA-256 of the file anew, and send it whole")
            }
            ArtifactError::TooLarge { .. } => {
                Problem::new(Kind::TooLarge, detail).help("raise `control.max_artifact`, or make the file smaller")
            }
            ArtifactError::Body(_) => Problem::new(Kind::Malformed, detail).help("send it again"),
            ArtifactError::Missing => Problem::new(Kind::NotFound, detail),
            ArtifactError::Objects(_) => {
                tracing::error!(error = chain(&error), "artifacts cannot be read or written");
                Problem::new(Kind::Internal, "artifacts cannot be read or written").help("see control's log")
            }
        }
    }
}
