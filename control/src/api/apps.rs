//! Apps: made, shown, rolled back, deleted.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use selvedge_replication::chain;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Asked, Named, Received};
use super::deployments::ShownDeployment;
use super::etag::{IfMatch, etag};
use super::names::check_app;
use super::page::{Page, Paging};
use super::problem::{Kind, Problem};
use super::{Control, Revised};
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::store::apps::App;
use crate::store::change::{Expected, Refused};
use crate::store::deployments::Why;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateApp {
    /// A DNS label.
    name: String,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// Without a version: a rollout ends, or else the deployment that served before serves again.
    #[serde(default)]
    to: Option<i64>,
}

/// An app, and where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownApp {
    #[serde(flatten)]
    app: App,
    /// Where PoPs serve it, besides its domains.
    url: String,
}

impl ShownApp {
    fn of(control: &Control, app: App) -> ShownApp {
        let url = control.sites.app(&app.name);
        ShownApp { app, url }
    }
}

/// What serves after a rollback.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RolledBack {
    revision: i64,
    deployment: ShownDeployment,
}

/// The apps the key reaches.
#[utoipa::path(get, path = "/v1/apps", tag = "apps", params(Paging), responses((status = 200, body = Page<ShownApp>)))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<ShownApp>>, Problem> {
    caller.may_somewhere(Action::Read)?;
    let apps = match &caller.access.app {
        None => control.store.apps(&paging.after()?, paging.wanted()?).await?,
        Some(app) => control.store.app(app).await?.into_iter().collect(),
    };
    let apps = apps.into_iter().map(|app| ShownApp::of(&control, app)).collect();
    Ok(Json(paging.page(apps, |shown: &ShownApp| shown.app.name.clone())))
}

/// Makes an app, which serves nothing yet.
#[utoipa::path(post, path = "/v1/apps", tag = "apps", request_body = CreateApp, responses((status = 201, body = ShownApp)))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Received(asked): Received<CreateApp>,
) -> Result<(StatusCode, Json<ShownApp>), Problem> {
    caller.may(Action::Apps, Some(&asked.name))?;
    check_app(&asked.name)?;
    control.store.add_app(&caller.id, &asked.name).await?;
    let app = find(&control, &asked.name).await?;
    Ok((StatusCode::CREATED, Json(ShownApp::of(&control, app))))
}

/// One app; its revision is its ETag.
#[utoipa::path(get, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path)), responses((status = 200, body = ShownApp)))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(app): Named<String>,
) -> Result<Response, Problem> {
    caller.may(Action::Read, Some(&app))?;
    let app = find(&control, &app).await?;
    Ok((etag(app.revision), Json(ShownApp::of(&control, app))).into_response())
}

/// Deletes the app with its deployments, domains, environment and secrets; PoPs stop serving it.
#[utoipa::path(
    delete, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path), ("if-match" = Option<String>, Header)),
    responses((status = 200, body = Revised))
)]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(app): Named<String>,
    IfMatch(expected): IfMatch,
) -> Result<Json<Revised>, Problem> {
    caller.may(Action::Apps, Some(&app))?;
    let revision = control.store.delete_app(&caller.id, &app, expected).await?;
    if let Err(error) = control.store.forget_secrets_of_gone_apps().await {
        tracing::warn!(
            error = chain(&error),
            app,
            "its secrets are used by nobody and removed later"
        );
    }
    Ok(Json(Revised { revision }))
}

/// Goes back, by one change. With `If-Match`, only if the app is still what was read.
#[utoipa::path(
    post, path = "/v1/apps/{app}/rollback", tag = "deployments",
    params(("app" = String, Path), ("if-match" = Option<String>, Header)),
    request_body = Rollback, responses((status = 200, body = RolledBack))
)]
pub(super) async fn rollback(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(app): Named<String>,
    IfMatch(expected): IfMatch,
    Received(asked): Received<Rollback>,
) -> Result<Json<RolledBack>, Problem> {
    caller.may(Action::Deploy, Some(&app))?;
    let app = find(&control, &app).await?;
    if matches!(expected, Expected::Version(version) if version != app.revision) || expected == Expected::Nothing {
        let (what, name) = ("app", app.name);
        return Err(Refused::Changed { what, name }.into());
    }
    // What goes back where was decided by what was read here.
    let expected = Expected::Version(app.revision);
    let store = &control.store;
    let ending = app.rollout.as_ref().filter(|_| asked.to.is_none());
    let (revision, serving) = match (ending, asked.to) {
        (Some(rollout), _) => (
            store.end_rollout(&caller.id, &app.name, rollout, expected).await?,
            app.active.clone(),
        ),
        (None, to) => {
            let target = match (to, &app.previous) {
                (Some(version), _) => store.deployment_of_version(&app.name, version).await?,
                (None, Some(previous)) => store.deployment(previous).await?,
                (None, None) => {
                    let problem = Problem::new(Kind::Conflict, format!("{} has served no other deployment", app.name));
                    return Err(problem.help("name a version: { \"to\": 1 }"));
                }
            };
            let named = to.map_or("before".to_owned(), |version| version.to_string());
            let target = target.ok_or_else(|| Problem::not_found("version", &named))?;
            let revision = store.activate(&caller.id, &target, Why::RolledBack, expected).await?;
            (revision, Some(target.id))
        }
    };
    let deployment = match &serving {
        Some(id) => store.deployment(id).await?,
        None => None,
    };
    let deployment = deployment.ok_or_else(|| Problem::not_found("app", &app.name))?;
    let deployment = ShownDeployment::of(&control, deployment);
    Ok(Json(RolledBack { revision, deployment }))
}

pub(super) async fn find(control: &Control, app: &str) -> Result<App, Problem> {
    let found = control.store.app(app).await?;
    found.ok_or_else(|| Problem::not_found("app", app).help("POST /v1/apps makes one"))
}
