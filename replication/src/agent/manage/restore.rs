//! A database as it was, from the store: in its place, or as a new one.
//!
//! In its place, what is there goes on until the earlier state was read whole and has the checksum it had.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Refusal;
use super::super::api::Api;
use super::super::primary_site::{blocking, chain};
use crate::position::Txid;
use crate::store::{RestoreError, Target};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restore {
    /// Milliseconds since 1970.
    at_ms: Option<i64>,
    /// A transaction, instead of a time.
    txid: Option<u64>,
    /// Name of a new database; without one the state replaces what the database has.
    r#as: Option<String>,
}

pub(super) async fn restore(
    State(api): State<Api>,
    Path(database): Path<String>,
    Json(restore): Json<Restore>,
) -> Result<Json<Value>, Refusal> {
    let target = match (restore.at_ms, restore.txid) {
        (Some(at_ms), None) => Target::At(at_ms),
        (None, Some(txid)) => Target::Txid(Txid(txid)),
        _ => return Err(Refusal::Malformed("give either `at_ms` or `txid`".to_owned())),
    };
    let site = api.primary()?;
    let store = site.current_store().await?;
    let name = restore.r#as.as_deref().unwrap_or(&database);
    let (draft, drafting) = site.draft(name).await?;
    if restore.r#as.is_some() && site.exists(name) {
        return Err(Refusal::Conflict(format!(
            "the database {name} exists; choose another name"
        )));
    }
    let restored = store.restore(&database, target, draft.path(), |_, _| {}).await;
    let restored = restored.map_err(|error| refused(&error))?;
    let cleaned = blocking(move || {
        draft.clean().map_err(|error| Refusal::of(&error))?;
        Ok::<_, Refusal>(draft)
    });
    let draft = cleaned.await?;
    let head = site.replace((draft, drafting)).await?;
    Ok(Json(json!({
        "database": name, "of": database, "position": restored.position.to_string(),
        "time_ms": restored.timestamp_ms, "head": head,
    })))
}

fn refused(error: &RestoreError) -> Refusal {
    match error {
        RestoreError::NoDatabase(_)
        | RestoreError::NoSnapshot(_)
        | RestoreError::BeforeFirst { .. }
        | RestoreError::NotKept { .. } => Refusal::Content(chain(error)),
        other => Refusal::of(other),
    }
}
