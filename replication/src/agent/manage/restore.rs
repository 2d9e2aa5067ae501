//! A database as it was, from the store: in its place, or as a new one.
//!
//! In its place, what is there goes on until the earlier state was read whole and has the checksum it had.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::Refusal;
use super::super::api::{Api, line};
use super::super::primary_site::blocking;
use crate::error::chain;
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
    /// Whether the answer tells how far it is, as lines of JSON.
    #[serde(default)]
    progress: bool,
}

/// Bytes read of the store's objects, and bytes of those objects.
type Progress = (u64, u64);

pub(super) async fn restore(
    State(api): State<Api>,
    Path(database): Path<String>,
    Json(restore): Json<Restore>,
) -> Result<Response, Refusal> {
    let progress = watch::Sender::new((0, 0));
    if restore.progress {
        return Ok(told(progress, api, database, restore));
    }
    let restored = run(&api, &database, restore, progress).await?;
    Ok(Json(restored).into_response())
}

/// Lines of JSON: `bytes_done` and `bytes` as often as somebody reads, at the end `done` or `problem`. It ends with whoever
/// reads.
fn told(progress: watch::Sender<Progress>, api: Api, database: String, restore: Restore) -> Response {
    let told = progress.subscribe();
    let mut work = JoinSet::new();
    work.spawn(async move { run(&api, &database, restore, progress).await });
    let lines = futures::stream::unfold(Some((work, told)), async |state| {
        let (mut work, mut told) = state?;
        tokio::select! {
            biased;
            Ok(()) = told.changed() => {
                let (done, all) = *told.borrow_and_update();
                Some((line(&json!({ "bytes_done": done, "bytes": all })), Some((work, told))))
            }
            Some(ended) = work.join_next() => Some((last_line(ended), None)),
            else => None,
        }
    });
    Body::from_stream(futures::StreamExt::map(lines, Ok::<_, std::convert::Infallible>)).into_response()
}

fn last_line(ended: Result<Result<Value, Refusal>, tokio::task::JoinError>) -> Vec<u8> {
    let ended = ended.unwrap_or_else(|error| Err(Refusal::Internal(error.to_string())));
    line(&match ended {
        Ok(done) => json!({ "done": done }),
        Err(refusal) => json!({ "problem": { "code": refusal.code(), "message": refusal.to_string() } }),
    })
}

async fn run(api: &Api, database: &str, restore: Restore, progress: watch::Sender<Progress>) -> Result<Value, Refusal> {
    let target = match (restore.at_ms, restore.txid) {
        (Some(at_ms), None) => Target::At(at_ms),
        (None, Some(txid)) => Target::Txid(Txid(txid)),
        _ => return Err(Refusal::Malformed("give either `at_ms` or `txid`".to_owned())),
    };
    let site = api.primary()?;
    let store = site.current_store().await?;
    let name = restore.r#as.as_deref().unwrap_or(database);
    let (draft, drafting) = site.draft(name).await?;
    if restore.r#as.is_some() && site.exists(name) {
        return Err(Refusal::Conflict(format!(
            "the database {name} exists; choose another name"
        )));
    }
    let restored = store.restore(database, target, draft.path(), |done, all| {
        progress.send_replace((done, all));
    });
    let restored = restored.await.map_err(|error| refused(&error))?;
    let cleaned = blocking(move || {
        draft.clean().map_err(|error| Refusal::of(&error))?;
        Ok::<_, Refusal>(draft)
    });
    let draft = cleaned.await?;
    let head = site.replace((draft, drafting)).await?;
    Ok(json!({
        "database": name, "of": database, "position": restored.position.to_string(),
        "time_ms": restored.timestamp_ms, "head": head,
    }))
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
