//! Bodies and queries of requests, read whole; what is wrong with them is said as a problem.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{StatusCode, request::Parts};
use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};

/// Besides blobs, the largest is a manifest with its list of files.
pub(crate) const BODY_BYTES: usize = 4 * 1024 * 1024;

/// JSON.
pub(crate) struct Received<T>(pub(crate) T);

/// JSON with a secret in it: what is wrong is said without what was sent.
pub(crate) struct Confidential<T>(pub(crate) T);

async fn whole<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let bytes = Bytes::from_request(request, state).await;
    bytes.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Kind::TooLarge, format!("a body has at most {BODY_BYTES} bytes")),
        _ => Problem::new(Kind::Malformed, "the body did not arrive whole"),
    })
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Confidential<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Confidential<T>, Problem> {
        let bytes = whole(request, state).await?;
        serde_json::from_slice(&bytes).map(Confidential).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            Problem::new(
                Kind::Malformed,
                format!("the body is not the JSON it should be, at {place}"),
            )
            .help("GET /openapi.json says what each request holds")
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Received<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Received<T>, Problem> {
        let bytes = whole(request, state).await?;
        let value = serde_json::from_slice(&bytes);
        value.map(Received).map_err(|error| {
            Problem::new(
                Kind::Malformed,
                format!("the body is not the JSON it should be: {error}"),
            )
            .help("GET /openapi.json says what each request holds")
        })
    }
}

/// The query of a URL.
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Asked<T>, Problem> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        query.map(|query| Asked(query.0)).map_err(|error| {
            Problem::new(Kind::Malformed, format!("the query is not valid: {error}"))
                .help("GET /openapi.json says what each query may hold")
        })
    }
}

/// A parameter of the path.
pub(crate) struct Named<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named<T>, Problem> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|path| Named(path.0))
            .map_err(|error| Problem::new(Kind::Malformed, format!("the path is not valid: {error}")))
    }
}
