//! Which databases there are: made, branched, deleted, brought back.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::api::Api;
use super::super::primary_site::{Maker, PrimarySite, blocking};
use super::super::{FollowingReplica, Refusal, Site};
use super::content;
use crate::dump::Dump;
use crate::folder::Folder;
use crate::log::Head;
use crate::writer::{size_bytes, wal_path};

/// How long a replica waits for what only the primary knows.
pub(super) const ASKING: Duration = Duration::from_secs(5);
/// How long a deleted database can be had back unless the request says otherwise.
const GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A longer grace is a mistake.
const LONGEST_GRACE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Every database of this agent, with its size here, and those that were deleted.
pub(super) async fn list(State(api): State<Api>) -> Json<Value> {
    let statuses = api.shared.board.all();
    let databases = blocking(move || {
        let with_size = statuses.into_iter().map(|status| {
            let bytes = status
                .path
                .as_deref()
                .map_or(0, |path| size_bytes(path) + size_bytes(&wal_path(path)));
            let mut entry = serde_json::to_value(status).expect("a status is JSON");
            entry["size_bytes"] = json!(bytes);
            entry
        });
        with_size.collect::<Vec<_>>()
    })
    .await;
    let (role, open, deleted) = match &*api.site {
        Site::Primary(site) => ("primary", json!(site.open_count()), deleted_of(site)),
        Site::Replica(site) => {
            // Only the primary knows; without it the list is shorter.
            let answer = site.link().get("/v1/databases").timeout(ASKING).send().await.ok();
            let list = match answer {
                Some(answer) => answer.json::<Value>().await.ok(),
                None => None,
            };
            let deleted = list.map_or(Value::Null, |mut list| list["deleted"].take());
            ("replica", Value::Null, deleted)
        }
    };
    Json(json!({
        "agent": api.shared.settings.name, "role": role, "open": open, "databases": databases, "deleted": deleted,
    }))
}

/// Those that can be had back.
fn deleted_of(site: &PrimarySite) -> Value {
    let waiting = site.deleted().into_iter().filter(|(_, entry)| entry.until_ms.is_some());
    let entries = waiting
        .map(|(name, entry)| json!({ "database": name, "deleted_ms": entry.deleted_ms, "until_ms": entry.until_ms }));
    entries.collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    name: String,
    /// Whether control asks, for a database of the platform's.
    #[serde(default)]
    platform: bool,
}

pub(super) async fn create(
    State(api): State<Api>,
    Json(create): Json<Create>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let site = api.primary()?;
    let maker = if create.platform { Maker::Platform } else { Maker::User };
    let created = site.create(&create.name, maker).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let database = site.database(&create.name).await?;
    let head = database.durable().map_or(Head::NONE, |durable| *durable.borrow());
    Ok((
        status,
        Json(json!({ "database": create.name, "created": created, "head": head })),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grace {
    grace_seconds: Option<u64>,
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path(database): Path<String>,
    Query(grace): Query<Grace>,
) -> Result<Json<Value>, Refusal> {
    let grace = grace
        .grace_seconds
        .map_or(GRACE, Duration::from_secs)
        .min(LONGEST_GRACE);
    if Folder::is_platform_name(&database) {
        let message = format!("{database} is the platform's; it goes when control and its agent are removed");
        return Err(Refusal::Conflict(message));
    }
    let entry = api.primary()?.delete(&database, grace).await?;
    Ok(Json(json!({ "database": database, "until_ms": entry.until_ms })))
}

pub(super) async fn undelete(State(api): State<Api>, Path(database): Path<String>) -> Result<Json<Value>, Refusal> {
    let site = api.primary()?;
    site.undelete(&database).await?;
    let head = head_of(site, &database).await?;
    Ok(Json(json!({ "database": database, "head": head })))
}

pub(super) async fn vacuum(State(api): State<Api>, Path(database): Path<String>) -> Result<Json<Value>, Refusal> {
    let site = api.primary()?;
    // What is not in the file yet is in the write-ahead log.
    let on_disk = |path: std::path::PathBuf| size_bytes(&path) + size_bytes(&wal_path(&path));
    let bytes = || site.path(&database).map_or(0, on_disk);
    let before = bytes();
    let head = site.vacuum(&database).await?;
    Ok(Json(
        json!({ "database": database, "head": head, "bytes_before": before, "bytes": bytes() }),
    ))
}

async fn head_of(site: &Arc<PrimarySite>, database: &str) -> Result<Head, Refusal> {
    let database = site.database(database).await?;
    Ok(database.durable().map_or(Head::NONE, |durable| *durable.borrow()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Branch {
    /// Name of the copy.
    r#as: String,
}

/// Copies a database, as it is now, to a new one.
pub(super) async fn branch(
    State(api): State<Api>,
    Path(database): Path<String>,
    Json(branch): Json<Branch>,
) -> Result<Json<Value>, Refusal> {
    let site = api.primary()?;
    // Open, it agrees with its log; held, it stays open.
    let open = site.database(&database).await?;
    let path = site
        .path(&database)
        .ok_or_else(|| Refusal::NoDatabase(database.clone()))?;
    let (draft, drafting) = site.draft(&branch.r#as).await?;
    if site.exists(&branch.r#as) {
        let message = format!("the database {} exists; choose another name", branch.r#as);
        return Err(Refusal::Conflict(message));
    }
    let name = branch.r#as;
    let log = site.log();
    let copied = blocking(move || {
        let copy = || {
            let file = File::create_new(draft.path()).map_err(|error| Refusal::of(&error))?;
            let dump = Dump::open(&path).map_err(|error| Refusal::of(&error))?;
            let dump = content::confirmed(dump, &*log, &database)?;
            let writer = std::io::BufWriter::with_capacity(1024 * 1024, &file);
            dump.write_file(writer).map_err(|error| Refusal::of(&error))?;
            file.sync_all().map_err(|error| Refusal::of(&error))?;
            draft.clean().map_err(|error| Refusal::of(&error))?;
            Ok::<_, Refusal>(dump.position())
        };
        let position = copy()?;
        Ok::<_, Refusal>((draft, position, database))
    });
    let (draft, position, database) = copied.await?;
    drop(open);
    let head = site.replace((draft, drafting)).await?;
    Ok(Json(json!({
        "database": name, "of": database, "position": position.to_string(), "head": head,
    })))
}

pub(super) async fn replicas(State(api): State<Api>) -> Result<Json<Vec<FollowingReplica>>, Refusal> {
    api.primary()?;
    Ok(Json(api.shared.replicas.all()))
}
