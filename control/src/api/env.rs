//! Environment variables of an app's handlers. They are no secrets: whoever may read the app may read them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::apps::find as find_app;
use super::body::{Asked, Named, Received};
use super::etag::{IfMatch, etag};
use super::names::check_variable;
use super::page::{Page, Paging};
use super::problem::{Kind, Problem};
use super::{Control, Revised};
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::store::apps::Variable;

/// Every PoP holds all of them in memory.
const VALUE_BYTES: usize = 64 * 1024;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetVariable {
    value: String,
}

/// An app's variables.
#[utoipa::path(
    get, path = "/v1/apps/{app}/env", tag = "env", params(("app" = String, Path), Paging),
    responses((status = 200, body = Page<Variable>))
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(app): Named<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Variable>>, Problem> {
    caller.may(Action::Read, Some(&app))?;
    find_app(&control, &app).await?;
    let env = control.store.env(&app, &paging.after()?, paging.wanted()?).await?;
    Ok(Json(paging.page(env, |variable| variable.name.clone())))
}

/// One variable; its revision is its ETag.
#[utoipa::path(
    get, path = "/v1/apps/{app}/env/{name}", tag = "env", params(("app" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Variable))
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named((app, name)): Named<(String, String)>,
) -> Result<Response, Problem> {
    caller.may(Action::Read, Some(&app))?;
    let variable = control.store.variable(&app, &name).await?;
    let variable = variable.ok_or_else(|| Problem::not_found("variable", &name))?;
    Ok((etag(variable.revision), Json(variable)).into_response())
}

/// Sets a variable; handlers see it from their next instance on. With `If-Match`, only if it is still what was read; with `If-None-Match: *`, only if it is new.
#[utoipa::path(
    put, path = "/v1/apps/{app}/env/{name}", tag = "env", 
    params(("app" = String, Path), ("name" = String, Path), ("if-match" = Option<String>, Header), ("if-none-match" = Option<String>, Header)),
    request_body = SetVariable, responses((status = 200, body = Revised))
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named((app, name)): Named<(String, String)>,
    IfMatch(expected): IfMatch,
    Received(asked): Received<SetVariable>,
) -> Result<Response, Problem> {
    caller.may(Action::Configure, Some(&app))?;
    check_variable(&name)?;
    if asked.value.len() > VALUE_BYTES || asked.value.contains('\0') {
        return Err(Problem::new(
            Kind::Invalid,
            format!("a value has at most {VALUE_BYTES} bytes, and no NUL"),
        ));
    }
    let revision = control
        .store
        .set_variable(&caller.id, &app, &name, &asked.value, expected)
        .await?;
    Ok((etag(revision), Json(Revised { revision })).into_response())
}

/// Removes a variable.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/env/{name}", tag = "env",
    params(("app" = String, Path), ("name" = String, Path), ("if-match" = Option<String>, Header)),
    responses((status = 200, body = Revised))
)]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named((app, name)): Named<(String, String)>,
    IfMatch(expected): IfMatch,
) -> Result<Json<Revised>, Problem> {
    caller.may(Action::Configure, Some(&app))?;
    let revision = control.store.delete_variable(&caller.id, &app, &name, expected).await?;
    Ok(Json(Revised { revision }))
}
