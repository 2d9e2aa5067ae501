//! Feature flags: their rules, as JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use selvedge_schema::Flag;
use serde_json::Value;

use super::body::{Asked, Named, Received};
use super::etag::IfMatch;
use super::page::{Page, Paging};
use super::problem::{Kind as Refusal, Problem};
use super::versioned::{self, RollBack, Set};
use super::{Control, Revised};
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::store::versions::{Kind, Version, Versioned};

/// All flags.
#[utoipa::path(get, path = "/v1/flags", tag = "flags", params(Paging), responses((status = 200, body = Page<Versioned>)))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Versioned>>, Problem> {
    caller.may_somewhere(Action::Read)?;
    versioned::list(&control, Kind::Flag, &paging).await
}

/// One flag; its version is its ETag.
#[utoipa::path(get, path = "/v1/flags/{name}", tag = "flags", params(("name" = String, Path)), responses((status = 200, body = Versioned)))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
) -> Result<Response, Problem> {
    caller.may_somewhere(Action::Read)?;
    versioned::show(&control, Kind::Flag, &name).await
}

/// Sets a flag: variants and the rules that give them. With `If-Match`, only if it is still what was read; with `If-None-Match: *`, only if it is new.
#[utoipa::path(
    put, path = "/v1/flags/{name}", tag = "flags",
    params(("name" = String, Path), ("if-match" = Option<String>, Header), ("if-none-match" = Option<String>, Header)),
    request_body = Object, responses((status = 200, body = Set))
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
    IfMatch(expected): IfMatch,
    Received(value): Received<Value>,
) -> Result<Response, Problem> {
    caller.may(Action::Configure, None)?;
    let flag = Flag::parse(&value).map_err(|error| {
        Problem::new(Refusal::Invalid, error.to_string())
            .help("a flag is like { \"rules\": [{ \"serve\": { \"on\": 25 } }] }")
    })?;
    let value = serde_json::to_value(&flag).map_err(|_| Problem::new(Refusal::Invalid, "the flag is not JSON"))?;
    versioned::set(&control, Kind::Flag, &caller, &name, &value, expected).await
}

/// Removes a flag; its history stays.
#[utoipa::path(
    delete, path = "/v1/flags/{name}", tag = "flags",
    params(("name" = String, Path), ("if-match" = Option<String>, Header)), responses((status = 200, body = Revised))
)]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
    IfMatch(expected): IfMatch,
) -> Result<Json<Revised>, Problem> {
    caller.may(Action::Configure, None)?;
    versioned::delete(&control, Kind::Flag, &caller, &name, expected).await
}

/// Every version there was, newest first.
#[utoipa::path(
    get, path = "/v1/flags/{name}/history", tag = "flags", params(("name" = String, Path), Paging),
    responses((status = 200, body = Page<Version>))
)]
pub(super) async fn history(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Version>>, Problem> {
    caller.may_somewhere(Action::Read)?;
    versioned::history(&control, Kind::Flag, &name, &paging).await
}

/// Sets it to what it was, as a new version.
#[utoipa::path(
    post, path = "/v1/flags/{name}/rollback", tag = "flags", params(("name" = String, Path)),
    request_body = RollBack, responses((status = 200, body = Set))
)]
pub(super) async fn rollback(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
    Received(asked): Received<RollBack>,
) -> Result<Response, Problem> {
    caller.may(Action::Configure, None)?;
    versioned::rollback(&control, Kind::Flag, &caller, &name, asked).await
}
