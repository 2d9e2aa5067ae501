//! A replica's agent passes requests on to the primary, and the answers back, as they are.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::super::api::Api;
use super::super::{Refusal, Site};
use crate::error::chain;

/// What of a message is about its content. The rest is between two neighbours.
const PASSED_ON: [HeaderName; 3] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    HeaderName::from_static("x-selvedge-position"),
];

pub(super) async fn to_primary(State(api): State<Api>, request: Request, next: Next) -> Response {
    let Site::Replica(site) = &*api.site else {
        return next.run(request).await;
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut forwarded = site.link().request(request.method().clone(), path);
    for name in PASSED_ON {
        if let Some(value) = request.headers().get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let body = reqwest::Body::wrap_stream(request.into_body().into_data_stream());
    let answer = match forwarded.body(body).send().await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(error = chain(&error), "a request could not be passed on");
            return Refusal::PrimaryUnreachable.into_response();
        }
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    for name in PASSED_ON {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    response
}
