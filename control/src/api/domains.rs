//! Host names, and the apps that answer for them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::apps::find as find_app;
use super::body::{Asked, Named};
use super::etag::{IfMatch, etag};
use super::names::check_host;
use super::page::{Page, Paging};
use super::problem::Problem;
use super::{Control, Revised};
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::store::apps::Domain;

/// An app's domains.
#[utoipa::path(
    get, path = "/v1/apps/{app}/domains", tag = "domains", params(("app" = String, Path), Paging),
    responses((status = 200, body = Page<Domain>))
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(app): Named<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Domain>>, Problem> {
    caller.may(Action::Read, Some(&app))?;
    find_app(&control, &app).await?;
    let domains = control.store.domains(&app, &paging.after()?, paging.wanted()?).await?;
    Ok(Json(paging.page(domains, |domain| domain.host.clone())))
}

/// The app answers for the host. One that another app has is refused. With `If-Match`, only if it is still what was read; with `If-None-Match: *`, only if it is new.
#[utoipa::path(
    put, path = "/v1/apps/{app}/domains/{host}", tag = "domains",
    params(("app" = String, Path), ("host" = String, Path), ("if-match" = Option<String>, Header), ("if-none-match" = Option<String>, Header)),
    responses((status = 200, body = Revised))
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named((app, host)): Named<(String, String)>,
    IfMatch(expected): IfMatch,
) -> Result<Response, Problem> {
    caller.may(Action::Configure, Some(&app))?;
    check_host(&host)?;
    find_app(&control, &app).await?;
    let revision = control.store.set_domain(&caller.id, &app, &host, expected).await?;
    Ok((etag(revision), Json(Revised { revision })).into_response())
}

/// The app does not answer for the host any more.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/domains/{host}", tag = "domains",
    params(("app" = String, Path), ("host" = String, Path), ("if-match" = Option<String>, Header)),
    responses((status = 200, body = Revised))
)]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named((app, host)): Named<(String, String)>,
    IfMatch(expected): IfMatch,
) -> Result<Json<Revised>, Problem> {
    caller.may(Action::Configure, Some(&app))?;
    let revision = control.store.delete_domain(&caller.id, &app, &host, expected).await?;
    Ok(Json(Revised { revision }))
}
