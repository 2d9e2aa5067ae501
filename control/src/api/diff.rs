//! What another deployment does differently.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Control;
use super::body::Named;
use super::deployments::{ShownDeployment, find};
use super::problem::Problem;
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::difference::{ChangedFiles, ChangedValue, of_files, of_manifests};

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Difference {
    before: ShownDeployment,
    after: ShownDeployment,
    manifest: Vec<ChangedValue>,
    files: ChangedFiles,
}

/// How `other` differs from `id`: what the one is before, the other is after.
#[utoipa::path(
    get, path = "/v1/deployments/{id}/diff/{other}", tag = "deployments",
    params(("id" = String, Path), ("other" = String, Path)), responses((status = 200, body = Difference))
)]
pub(super) async fn diff(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named((id, other)): Named<(String, String)>,
) -> Result<Json<Difference>, Problem> {
    let (before, after) = (find(&control, &id).await?, find(&control, &other).await?);
    for deployment in [&before, &after] {
        caller.may(Action::Read, Some(&deployment.app))?;
    }
    let manifests = of_manifests(&manifest(&control, &id).await?, &manifest(&control, &other).await?);
    let files = of_files(control.store.blobs(&id).await?, control.store.blobs(&other).await?);
    Ok(Json(Difference {
        before: ShownDeployment::of(&control, before),
        after: ShownDeployment::of(&control, after),
        manifest: manifests,
        files,
    }))
}

async fn manifest(control: &Control, id: &str) -> Result<Value, Problem> {
    let found = control.store.manifest(id).await?;
    found.ok_or_else(|| Problem::not_found("deployment", id))
}
