//! Blobs: what deployments are made of, by their digest.

use std::ops::Range;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Control;
use super::body::Named;
use super::problem::{Kind, Problem};
use crate::artifacts::Digest;
use crate::auth::access::Action;
use crate::auth::caller::Caller;

/// A blob that is kept.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Blob {
    digest: String,
    bytes: u64,
}

pub(super) fn router() -> OpenApiRouter<Arc<Control>> {
    // The size of a blob is bounded where it is written.
    OpenApiRouter::new()
        .routes(routes!(put, get, head))
        .layer(DefaultBodyLimit::disable())
}

fn digest(text: &str) -> Result<Digest, Problem> {
    Digest::parse(text).ok_or_else(|| {
        Problem::new(Kind::Malformed, format!("{text:?} is no digest"))
            .help("use SHA-256 in lower-case hex, 64 letters")
    })
}

/// Keeps a blob, if its content has the digest. One that is there already is not read again.
#[utoipa::path(
    put, path = "/v1/blobs/{digest}", tag = "blobs", params(("digest" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Blob), (status = 201, body = Blob))
)]
pub(super) async fn put(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(text): Named<String>,
    body: Body,
) -> Result<(StatusCode, Json<Blob>), Problem> {
    caller.may_somewhere(Action::Deploy)?;
    let digest = digest(&text)?;
    let known = control.store.need(&[digest.as_str()]).await?;
    if let Some((digest, bytes)) = known.into_iter().next() {
        let bytes = bytes as u64;
        return Ok((StatusCode::OK, Json(Blob { digest, bytes })));
    }
    let store = &control.store;
    let kept = control.artifacts.put(&digest, body, async |bytes| {
        store.add_artifact(&digest, bytes).await.map(|()| bytes)
    });
    let bytes = kept.await??;
    let digest = digest.as_str().to_owned();
    Ok((StatusCode::CREATED, Json(Blob { digest, bytes })))
}

/// The content, or with `Range: bytes=…` a part of it.
#[utoipa::path(
    get, path = "/v1/blobs/{digest}", tag = "blobs",
    params(("digest" = String, Path), ("range" = Option<String>, Header)),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream"),
    )
)]
pub(super) async fn get(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(text): Named<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !caller.access.may(Action::Report, None) {
        caller.may_somewhere(Action::Read)?;
    }
    let digest = digest(&text)?;
    let bytes = size(&control, &digest).await?;
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let part = match asked.map(|asked| range(asked, bytes)) {
        None | Some(Asked::Everything) => None,
        Some(Asked::Part(part)) => Some(part),
        Some(Asked::Nothing) => {
            let problem = Problem::new(Kind::Range, format!("the blob has {bytes} bytes"));
            return Ok(([(header::CONTENT_RANGE, format!("bytes */{bytes}"))], problem).into_response());
        }
    };
    let status = if part.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let content_range = part
        .as_ref()
        .map(|part| format!("bytes {}-{}/{bytes}", part.start, part.end - 1));
    let length = part.as_ref().map_or(bytes, |part| part.end - part.start);
    let body = control.artifacts.get(&digest, part).await?;
    let mut response = (status, described(&digest, length), body).into_response();
    if let Some(value) = content_range.and_then(|text| text.parse().ok()) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

/// Whether there is such a blob, and how large it is.
#[utoipa::path(
    head, path = "/v1/blobs/{digest}", tag = "blobs", params(("digest" = String, Path)), responses((status = 200))
)]
pub(super) async fn head(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(text): Named<String>,
) -> Result<Response, Problem> {
    if !caller.access.may(Action::Report, None) {
        caller.may_somewhere(Action::Read)?;
    }
    let digest = digest(&text)?;
    let bytes = size(&control, &digest).await?;
    Ok((described(&digest, bytes), ()).into_response())
}

async fn size(control: &Control, digest: &Digest) -> Result<u64, Problem> {
    let size = control.store.artifact(digest).await?;
    size.ok_or_else(|| Problem::not_found("blob", digest.as_str()))
}

fn described(digest: &Digest, length: u64) -> [(header::HeaderName, String); 5] {
    [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, format!("\"{}\"", digest.as_str())),
        // What has a digest never changes.
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned()),
    ]
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Several ranges, or another unit, which RFC 9110 lets us pass over.
    Everything,
    Part(Range<u64>),
    Nothing,
}

/// One range of bytes (RFC 9110, 14.1.2).
fn range(asked: &str, bytes: u64) -> Asked {
    let Some((first, last)) = asked
        .trim()
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Asked::Everything;
    };
    let part = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..bytes.min(last.saturating_add(1)),
        (Ok(first), Err(_)) if last.is_empty() => first..bytes,
        (Err(_), Ok(length)) if first.is_empty() => bytes.saturating_sub(length)..bytes,
        _ => return Asked::Everything,
    };
    match part.is_empty() {
        true => Asked::Nothing,
        false => Asked::Part(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (asked, expected) in [
            ("bytes=0-3", Asked::Part(0..4)),
            ("bytes=4-", Asked::Part(4..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-30", Asked::Part(0..10)),
            ("bytes=8-99", Asked::Part(8..10)),
            ("bytes=0-18446744073709551615", Asked::Part(0..10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=3-1", Asked::Everything),
            ("bytes=0-1,4-5", Asked::Everything),
            ("lines=0-1", Asked::Everything),
            ("bytes=a-b", Asked::Everything),
        ] {
            assert_eq!(range(asked, 10), expected, "{asked}");
        }
    }
}
