//! Purging the caches of every PoP.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Control;
use super::body::Received;
use super::problem::{Kind, Problem};
use crate::auth::access::Action;
use crate::auth::caller::Caller;

const VALUE_BYTES: usize = 8 * 1024;

/// What is purged: one of `{ "url": … }`, `{ "tag": … }`, `{ "everything": true }`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum Purge {
    /// One page, as its readers ask for it.
    Url(String),
    /// All pages with this tag.
    Tag(String),
    /// All pages.
    Everything(bool),
}

/// A purge that was given out.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Purged {
    id: i64,
    /// `GET /v1/changes/{revision}` waits until every PoP has done it.
    revision: i64,
}

/// Purges at every PoP.
#[utoipa::path(post, path = "/v1/purge", tag = "purge", request_body = Purge, responses((status = 200, body = Purged)))]
pub(super) async fn purge(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Received(asked): Received<Purge>,
) -> Result<Json<Purged>, Problem> {
    caller.may(Action::Purge, None)?;
    let (kind, value) = match &asked {
        Purge::Url(url) if url.starts_with("http://") || url.starts_with("https://") => ("url", url.as_str()),
        Purge::Url(url) => {
            return Err(
                Problem::new(Kind::Invalid, format!("{url:?} is no URL")).help("begin with http:// or https://")
            );
        }
        Purge::Tag(tag) if !tag.is_empty() => ("tag", tag.as_str()),
        Purge::Everything(true) => ("everything", ""),
        Purge::Tag(_) | Purge::Everything(false) => {
            return Err(
                Problem::new(Kind::Invalid, "this purges nothing").help("name a tag, or say `\"everything\": true`")
            );
        }
    };
    if value.len() > VALUE_BYTES {
        return Err(Problem::new(
            Kind::Invalid,
            format!("a URL or tag has at most {VALUE_BYTES} bytes"),
        ));
    }
    let (id, revision) = control.store.purge(&caller.id, kind, value).await?;
    Ok(Json(Purged { id, revision }))
}
