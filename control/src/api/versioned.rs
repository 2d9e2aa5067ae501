//! What flags and settings share: versions, their history, and the way back.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::etag::etag;
use super::names::check_name;
use super::page::{Page, Paging};
use super::problem::{Kind as Refusal, Problem};
use super::{Control, Revised};
use crate::auth::caller::Caller;
use crate::store::change::Expected;
use crate::store::versions::{Kind, Version, Versioned};

/// Every PoP holds all of them in memory.
const VALUE_BYTES: usize = 256 * 1024;

/// What is so now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Set {
    #[serde(flatten)]
    versioned: Versioned,
    /// `GET /v1/changes/{revision}` waits until every PoP has it.
    revision: i64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollBack {
    /// The version whose value becomes that of a new one.
    to: i64,
}

pub(super) async fn list(control: &Control, kind: Kind, paging: &Paging) -> Result<Json<Page<Versioned>>, Problem> {
    let all = control
        .store
        .all_versioned(kind, &paging.after()?, paging.wanted()?)
        .await?;
    Ok(Json(paging.page(all, |one| one.name.clone())))
}

pub(super) async fn show(control: &Control, kind: Kind, name: &str) -> Result<Response, Problem> {
    let found = find(control, kind, name).await?;
    Ok((etag(found.version), Json(found)).into_response())
}

pub(super) async fn set(
    control: &Control,
    kind: Kind,
    caller: &Caller,
    name: &str,
    value: &Value,
    expected: Expected,
) -> Result<Response, Problem> {
    check_name(&format!("the name of a {}", kind.word()), name)?;
    if value.to_string().len() > VALUE_BYTES {
        return Err(Problem::new(
            Refusal::TooLarge,
            format!("a value has at most {VALUE_BYTES} bytes of JSON"),
        ));
    }
    let revision = control
        .store
        .set_versioned(kind, &caller.id, name, value, expected)
        .await?;
    let versioned = find(control, kind, name).await?;
    Ok((etag(versioned.version), Json(Set { versioned, revision })).into_response())
}

pub(super) async fn delete(
    control: &Control,
    kind: Kind,
    caller: &Caller,
    name: &str,
    expected: Expected,
) -> Result<Json<Revised>, Problem> {
    let revision = control.store.delete_versioned(kind, &caller.id, name, expected).await?;
    Ok(Json(Revised { revision }))
}

pub(super) async fn history(
    control: &Control,
    kind: Kind,
    name: &str,
    paging: &Paging,
) -> Result<Json<Page<Version>>, Problem> {
    let versions = control
        .store
        .history(kind, name, paging.after_number()?, paging.wanted()?)
        .await?;
    if versions.is_empty() && paging.after()?.is_empty() {
        return Err(Problem::not_found(kind.word(), name));
    }
    Ok(Json(paging.page(versions, |version| version.version.to_string())))
}

pub(super) async fn rollback(
    control: &Control,
    kind: Kind,
    caller: &Caller,
    name: &str,
    asked: RollBack,
) -> Result<Response, Problem> {
    let version = control.store.version(kind, name, asked.to).await?;
    let version = version.ok_or_else(|| Problem::not_found(&format!("version of {name}"), &asked.to.to_string()))?;
    match version.value {
        Some(value) => set(control, kind, caller, name, &value, Expected::Anything).await,
        None => {
            let problem = Problem::new(
                Refusal::Conflict,
                format!("version {} of {name} is its deletion", asked.to),
            );
            Err(problem.help("delete it, or name another version"))
        }
    }
}

async fn find(control: &Control, kind: Kind, name: &str) -> Result<Versioned, Problem> {
    let found = control.store.versioned(kind, name).await?;
    found.ok_or_else(|| Problem::not_found(kind.word(), name))
}
