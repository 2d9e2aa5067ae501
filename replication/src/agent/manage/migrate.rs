//! Migrations that are sent to the primary, instead of lying beside it.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Refusal;
use super::super::api::Api;
use crate::error::chain;
use crate::log::Head;
use crate::migrate::{Migration, by_number};
use crate::{MigrationError, SqlError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Migrate {
    /// All of the directory, also those that were applied before.
    files: Vec<Sent>,
    /// Say what would be done, and undo it.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    file: String,
    sql: String,
}

pub(super) async fn migrate(
    State(api): State<Api>,
    Path(database): Path<String>,
    Json(Migrate { files, dry_run }): Json<Migrate>,
) -> Result<Json<Value>, Refusal> {
    let files = files.into_iter().map(|sent| Migration::new(sent.file, sent.sql));
    let files = files.collect::<Result<Vec<_>, _>>().and_then(by_number);
    let files = files.map_err(refused)?;
    let open = api.primary()?.database(&database).await?;
    let applied = open.migrate(files, dry_run).await.map_err(refused)?;
    let head = open.durable().map_or(Head::NONE, |durable| *durable.borrow());
    Ok(Json(
        json!({ "database": database, "dry_run": dry_run, "applied": applied, "head": head }),
    ))
}

fn refused(error: MigrationError) -> Refusal {
    match error {
        MigrationError::Failed { source, .. } if is_passing(&source) => Refusal::Sql(source),
        MigrationError::Record { .. } => Refusal::of(&error),
        other => Refusal::Content(chain(&other)),
    }
}

/// Not the file's fault.
fn is_passing(error: &SqlError) -> bool {
    !error.is_final()
}
