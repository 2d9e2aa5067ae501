//! Databases of apps: deployments make them by naming them; here they are looked at, and deleted.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::body::{Asked, Named};
use super::page::{Page, Paging};
use super::problem::Problem;
use super::{Control, Revised};
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::store::databases::AppDatabase;

/// The databases of the apps the key reaches, also those that were deleted.
#[utoipa::path(
    get, path = "/v1/databases", tag = "databases", params(Paging), responses((status = 200, body = Page<AppDatabase>))
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<AppDatabase>>, Problem> {
    caller.may_somewhere(Action::Read)?;
    let app = caller.access.app.as_deref();
    let databases = control
        .store
        .app_databases(app, &paging.after()?, paging.wanted()?)
        .await?;
    Ok(Json(paging.page(databases, |database| database.name.clone())))
}

/// One database.
#[utoipa::path(
    get, path = "/v1/databases/{name}", tag = "databases", params(("name" = String, Path)),
    responses((status = 200, body = AppDatabase))
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
) -> Result<Json<AppDatabase>, Problem> {
    caller.may_somewhere(Action::Read)?;
    let database = find(&control, &name).await?;
    caller.may(Action::Read, Some(&database.app))?;
    Ok(Json(database))
}

/// Deletes a database that nothing serves from: at once for everybody, its files after the agent's grace.
#[utoipa::path(
    delete, path = "/v1/databases/{name}", tag = "databases", params(("name" = String, Path)),
    responses((status = 200, body = Revised))
)]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named<String>,
) -> Result<Json<Revised>, Problem> {
    caller.may_somewhere(Action::Apps)?;
    let database = find(&control, &name).await?;
    caller.may(Action::Apps, Some(&database.app))?;
    let revision = control.store.begin_deletion(&caller.id, &name).await?;
    control.databases.notify_one();
    Ok(Json(Revised { revision }))
}

async fn find(control: &Control, name: &str) -> Result<AppDatabase, Problem> {
    let found = control.store.app_database(name).await?;
    found.ok_or_else(|| Problem::not_found("database", name).help("a deployment makes those that it names"))
}
