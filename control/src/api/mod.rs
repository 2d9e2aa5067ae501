//! The API, one file a subject. `docs/openapi.json` is what these files say of themselves.
//!
//! A request's way: `caller` finds who asks, `idempotency` whether it was asked before, the subject's file does it, and
//! `problem` says why not.

pub(crate) mod body;
mod etag;
mod health;
mod idempotency;
mod names;
mod openapi;
mod page;
pub(crate) mod problem;

mod apps;
mod audit;
mod blobs;
mod databases;
mod deployments;
mod diff;
mod domains;
mod env;
mod flags;
mod keys;
mod ofrep;
mod pops;
mod purge;
mod secrets;
mod settings;
mod versioned;
mod webhooks;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use selvedge_schema::{FilterSchema, Sites};
use serde::Serialize;
use tokio::sync::{Mutex, Notify};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::artifacts::Artifacts;
use crate::auth::caller::{Keys, authenticate};
use crate::fleet::Fleet;
use crate::store::Store;
use crate::vault::Vault;
use problem::{Kind, Problem};

/// What every request shares.
pub(crate) struct Control {
    pub(crate) store: Arc<Store>,
    pub(crate) artifacts: Artifacts,
    pub(crate) fleet: Fleet,
    pub(crate) keys: Keys,
    /// What secrets are encrypted with.
    pub(crate) vault: ArcSwap<Vault>,
    /// One at a time brings PoPs their secrets.
    pub(crate) sealing: Mutex<()>,
    /// Wakes who makes and migrates databases.
    pub(crate) databases: Notify,
    /// Where PoPs serve apps.
    pub(crate) sites: Sites,
    /// Webhooks may be in private networks.
    pub(crate) allow_private_webhooks: bool,
    /// What manifests may name as filters.
    pub(crate) filters: Vec<FilterSchema>,
}

/// A change that PoPs hear of.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Revised {
    /// `GET /v1/changes/{revision}` waits until every PoP has it.
    revision: i64,
}

/// The description of all of it.
pub(crate) fn openapi_text() -> &'static str {
    openapi::text()
}

pub(crate) use deployments::reconsider;

pub(crate) fn router(control: Arc<Control>) -> Router {
    let (open, _) = open().split_for_parts();
    let (guarded, _) = guarded().split_for_parts();
    let guarded = guarded
        .layer(from_fn_with_state(Arc::clone(&control), idempotency::replay))
        .layer(from_fn_with_state(Arc::clone(&control), authenticate));
    open.merge(guarded)
        .fallback(async || {
            Problem::new(Kind::NotFound, "there is nothing at this path").help("GET /openapi.json has all")
        })
        .layer(from_fn(refuse_plainly))
        .layer(DefaultBodyLimit::max(body::BODY_BYTES))
        .with_state(control)
}

/// Without a key.
fn open() -> OpenApiRouter<Arc<Control>> {
    OpenApiRouter::new()
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(openapi::document))
        .routes(routes!(pops::join))
}

fn guarded() -> OpenApiRouter<Arc<Control>> {
    OpenApiRouter::new()
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::show, keys::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(audit::verify))
        .merge(blobs::router())
        .routes(routes!(apps::list, apps::create))
        .routes(routes!(apps::show, apps::delete))
        .routes(routes!(apps::rollback))
        .routes(routes!(deployments::list, deployments::create))
        .routes(routes!(deployments::show))
        .routes(routes!(deployments::activate))
        .routes(routes!(diff::diff))
        .routes(routes!(databases::list))
        .routes(routes!(databases::show, databases::delete))
        .routes(routes!(domains::list))
        .routes(routes!(domains::set, domains::delete))
        .routes(routes!(env::list))
        .routes(routes!(env::show, env::set, env::delete))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::set, secrets::delete))
        .routes(routes!(secrets::rotate))
        .routes(routes!(flags::list))
        .routes(routes!(flags::show, flags::set, flags::delete))
        .routes(routes!(flags::history))
        .routes(routes!(flags::rollback))
        .routes(routes!(settings::list))
        .routes(routes!(settings::show, settings::set, settings::delete))
        .routes(routes!(settings::history))
        .routes(routes!(settings::rollback))
        .routes(routes!(ofrep::evaluate))
        .routes(routes!(ofrep::evaluate_all))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::delete))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(purge::purge))
        .routes(routes!(pops::list))
        .routes(routes!(pops::invite))
        .routes(routes!(pops::remove))
        .routes(routes!(pops::report))
        .routes(routes!(pops::changes))
}

/// What the router itself refuses, as a problem like any other.
async fn refuse_plainly(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let allowed = response.headers().get(axum::http::header::ALLOW).cloned();
    let problem = Problem::new(Kind::Method, format!("{path} has no such method")).help("GET /openapi.json has all");
    let mut response = axum::response::IntoResponse::into_response(problem);
    if let Some(allowed) = allowed {
        response.headers_mut().insert(axum::http::header::ALLOW, allowed);
    }
    response
}
