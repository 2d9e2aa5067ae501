//! Settings: any JSON, for handlers to read.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde_json::Value;

use super::body::{Asked, Named, Received};
use super::etag::IfMatch;
use super::page::{Page, Paging};
use super::problem::Problem;
use super::versioned::{self, RollBack, Set};
use super::{Control, Revised};
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::store::versions::{Kind, Version, Versioned};

/// All settings.
#[utoipa::path(get, path = "/v1/settings", tag = "settings", params(Paging), responses((status = 200, body = Page<Versioned>)))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Versioned>>, Problem> {
    caller.may_somewhere(Action::Read)?;
    versioned::list(&control, Kind::Setting, &paging).await
}

/// One setting; its version is its ETag.
#[utoipa::path(get, path = "/v1/settings/{name}", tag = "settings", params(("name" = String, Path)), responses((status = 200, body = Versioned)))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
) -> Result<Response, Problem> {
    caller.may_somewhere(Action::Read)?;
    versioned::show(&control, Kind::Setting, &name).await
}

/// Sets a setting: any JSON. With `If-Match`, only if it is still what was read; with `If-None-Match: *`, only if it is new.
#[utoipa::path(
    put, path = "/v1/settings/{name}", tag = "settings",
    params(("name" = String, Path), ("if-match" = Option<String>, Header), ("if-none-match" = Option<String>, Header)),
    request_body = Value, responses((status = 200, body = Set))
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
    IfMatch(expected): IfMatch,
    Received(value): Received<Value>,
) -> Result<Response, Problem> {
    caller.may(Action::Configure, None)?;
    versioned::set(&control, Kind::Setting, &caller, &name, &value, expected).await
}

/// Removes a setting; its history stays.
#[utoipa::path(
    delete, path = "/v1/settings/{name}", tag = "settings",
    params(("name" = String, Path), ("if-match" = Option<String>, Header)), responses((status = 200, body = Revised))
)]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
    IfMatch(expected): IfMatch,
) -> Result<Json<Revised>, Problem> {
    caller.may(Action::Configure, None)?;
    versioned::delete(&control, Kind::Setting, &caller, &name, expected).await
}

/// Every version there was, newest first.
#[utoipa::path(
    get, path = "/v1/settings/{name}/history", tag = "settings", params(("name" = String, Path), Paging),
    responses((status = 200, body = Page<Version>))
)]
pub(super) async fn history(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Version>>, Problem> {
    caller.may_somewhere(Action::Read)?;
    versioned::history(&control, Kind::Setting, &name, &paging).await
}

/// Sets it to what it was, as a new version.
#[utoipa::path(
    post, path = "/v1/settings/{name}/rollback", tag = "settings", params(("name" = String, Path)),
    request_body = RollBack, responses((status = 200, body = Set))
)]
pub(super) async fn rollback(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
    Received(asked): Received<RollBack>,
) -> Result<Response, Problem> {
    caller.may(Action::Configure, None)?;
    versioned::rollback(&control, Kind::Setting, &caller, &name, asked).await
}
