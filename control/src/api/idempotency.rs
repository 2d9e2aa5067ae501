//! `Idempotency-Key`: a POST that is sent again gets the answer it got.
//!
//! The first request with a key reserves it, for its caller. An answer that shows a secret is not kept, and a failure of
//! ours is forgotten, so that it can be tried again.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::Control;
use super::body::BODY_BYTES;
use super::problem::{Kind, Problem};
use crate::auth::caller::Caller;
use crate::chain::hex;
use crate::store::idempotency::{Answer, Reservation};

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// On an answer that is given again.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEY_BYTES: usize = 255;
/// Every answer to a POST is small; one that is not is not kept.
const ANSWER_BYTES: usize = 1024 * 1024;

/// Marks an answer that shows a secret.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShowsSecret;

pub(crate) async fn replay(
    State(control): State<Arc<Control>>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Some(key) = request
        .headers()
        .get(HEADER)
        .filter(|_| request.method() == Method::POST)
    else {
        return Ok(next.run(request).await);
    };
    let key = key.to_str().ok().filter(|key| (1..=KEY_BYTES).contains(&key.len()));
    let key = key.ok_or_else(|| {
        Problem::new(
            Kind::Malformed,
            format!("an Idempotency-Key has 1 to {KEY_BYTES} letters"),
        )
    })?;
    let key = key.to_owned();
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES)
        .await
        .map_err(|_| Problem::new(Kind::TooLarge, format!("a body has at most {BODY_BYTES} bytes")))?;
    let fingerprint = fingerprint(&parts.method, &parts.uri.to_string(), &body);
    match control.store.reserve(&caller.id, &key, &fingerprint).await? {
        Reservation::Ours => {}
        Reservation::Answered(answer) => return Ok(again(answer)),
        Reservation::Other => {
            return Err(
                Problem::new(Kind::Invalid, "this Idempotency-Key was used for another request")
                    .help("make a new key for each request, and send it again only with the same body"),
            );
        }
        Reservation::UnderWay => {
            let problem = Problem::new(
                Kind::Conflict,
                "the first request with this Idempotency-Key is not answered yet",
            );
            return Err(problem.help("try again in a moment"));
        }
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    // Whoever asked may be gone; what was done is remembered all the same.
    let remembered = tokio::spawn(remember(control, caller.id, key, response));
    remembered
        .await
        .map_err(|_| Problem::new(Kind::Internal, "the answer was lost"))?
}

async fn remember(control: Arc<Control>, caller: String, key: String, response: Response) -> Result<Response, Problem> {
    if response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS {
        control.store.forget_reservation(&caller, &key).await?;
        return Ok(response);
    }
    let secret = response.extensions().get::<ShowsSecret>().is_some();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, ANSWER_BYTES)
        .await
        .map_err(|_| Problem::new(Kind::Internal, "the answer is too long"))?;
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let answer = match secret {
        true => Answer {
            status: StatusCode::CONFLICT.as_u16(),
            content_type: None,
            body: Bytes::new(),
        },
        false => Answer {
            status: parts.status.as_u16(),
            content_type: content_type.and_then(|value| value.to_str().ok()).map(str::to_owned),
            body: body.clone(),
        },
    };
    control.store.answer(&caller, &key, answer).await?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn again(answer: Answer) -> Response {
    let Some(content_type) = answer.content_type.filter(|_| !answer.body.is_empty()) else {
        if answer.status == StatusCode::CONFLICT.as_u16() {
            return Problem::new(
                Kind::Conflict,
                "this request was done; its answer showed a secret and is not kept",
            )
            .help("remove what it made, and make another with a new Idempotency-Key")
            .into_response();
        }
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
        return (status, [(REPLAYED, "true")]).into_response();
    };
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Ok(content_type) = HeaderValue::from_str(&content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    response
}

fn fingerprint(method: &Method, uri: &str, body: &[u8]) -> String {
    let mut digest = Sha256::new();
    for part in [method.as_str().as_bytes(), uri.as_bytes(), body] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    hex(&digest.finalize())
}
