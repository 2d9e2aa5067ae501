//! Statements for a PostgreSQL: executed at the primary, passed on by a replica as they are.

use axum::Json;
use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::{Refusal, Shared, Site};
use crate::bounds;
use crate::postgres::PostgresError;
use crate::postgres::pool::Request;

pub(super) async fn run(shared: &Shared, site: &Site, name: &str, request: Bytes) -> Result<Response, Refusal> {
    let Site::Replica(site) = site else {
        let request: Request =
            serde_json::from_slice(&request).map_err(|error| Refusal::Malformed(error.to_string()))?;
        return Ok(Json(shared.postgres.run(name, request).await?).into_response());
    };
    if !site.link().is_reachable() {
        return Err(Refusal::PrimaryUnreachable);
    }
    let sent = site
        .link()
        .post(&format!("/v1/postgres/{name}"))
        .timeout(bounds::POSTGRES_REQUEST)
        .header(header::CONTENT_TYPE, "application/json")
        .body(request)
        .send()
        .await;
    let answer = sent.map_err(|error| match error.is_connect() {
        true => Refusal::PrimaryUnreachable,
        false => lost(&error),
    })?;
    let status = answer.status();
    // Whole, so that an answer that breaks off is an error and not a short answer.
    let body = answer.bytes().await.map_err(|error| lost(&error))?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn lost(error: &reqwest::Error) -> Refusal {
    Refusal::Postgres(PostgresError::Lost {
        message: format!("the primary did not answer: {error}"),
    })
}
