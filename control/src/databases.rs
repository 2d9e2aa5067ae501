//! Makes the databases that deployments name, and migrates them, one after another.
//!
//! What is to be done is read from `_config` each time, so that a start goes on where the last process was killed. A
//! migration is rehearsed before it is done: what fails then has changed nothing. Before the databases of a deployment are
//! ready it is not prepared, whatever its PoPs say.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use selvedge_replication::{SqlError, chain};
use thiserror::Error;

use crate::api::Control;
use crate::api::problem::Problem;
use crate::artifacts::{ArtifactError, Digest};
use crate::compatible::incompatible;
use crate::store::change::ChangeError;
use crate::store::databases::{DatabaseState, Pending};
use crate::store::{StoreError, may_pass};

/// Time between two looks, if nobody asks for one.
const EVERY: Duration = Duration::from_secs(10);
/// Pause after what could not be done now.
const PAUSE: Duration = Duration::from_secs(1);
/// All migrations of one database together; the agent takes no larger request than 64 MiB.
const MIGRATIONS_BYTES: i64 = 16 * 1024 * 1024;

#[derive(Debug, Error)]
enum WorkError {
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("reading the migrations")]
    Artifact(#[from] ArtifactError),
    #[error("at the primary")]
    Primary(#[source] SqlError),
}

impl From<StoreError> for WorkError {
    fn from(error: StoreError) -> WorkError {
        WorkError::Change(error.into())
    }
}

/// One file of a deployment's migrations.
struct File {
    name: String,
    sql: String,
}

pub(crate) async fn run(control: Arc<Control>) {
    loop {
        match step(&control).await {
            Ok(true) => {}
            Ok(false) => {
                // Asked for or not, it looks.
                let _ = tokio::time::timeout(EVERY, control.databases.notified()).await;
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "databases cannot be made or migrated now; trying again"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Does one thing, if there is one.
async fn step(control: &Control) -> Result<bool, WorkError> {
    let store = &control.store;
    if let Some(gone) = store.next_deletion().await? {
        let until_ms = store.delete_at_primary(&gone.name).await.map_err(WorkError::Primary)?;
        store.end_deletion(&gone.name, until_ms).await?;
        return Ok(true);
    }
    let Some(pending) = store.next_migration().await? else {
        return Ok(false);
    };
    let outcome = migrate(control, &pending).await?;
    let outcome = outcome.as_deref().map_err(String::as_str);
    store.end_migration(&pending, outcome).await?;
    if let Err(message) = outcome {
        tracing::warn!(
            database = pending.database,
            deployment = pending.deployment,
            message,
            "not migrated"
        );
    }
    if let Some(deployment) = store.deployment(&pending.deployment).await? {
        let judged: Result<(), Problem> = crate::api::reconsider(control, "control", &deployment).await;
        if judged.is_err() {
            tracing::warn!(
                deployment = deployment.id,
                "it is judged when a PoP reports, or when it is activated"
            );
        }
    }
    Ok(true)
}

/// The files that were applied, or why none was.
async fn migrate(control: &Control, pending: &Pending) -> Result<Result<Vec<String>, String>, WorkError> {
    let (store, name) = (&control.store, pending.database.as_str());
    let files = match files(control, pending).await? {
        Ok(files) => files,
        Err(message) => return Ok(Err(message)),
    };
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|file| (file.name.as_str(), file.sql.as_str()))
        .collect();
    match store.make_database(name).await {
        Ok(is_empty) if pending.state == DatabaseState::Wanted && !is_empty => {
            let message = "a database of this name was there before, and no app's; choose another name";
            return Ok(Err(message.to_owned()));
        }
        Ok(_) => {}
        Err(error) => return final_or_passing(error),
    }
    if pending.state == DatabaseState::Wanted {
        store.note_made(name).await?;
    }
    let new = match store.rehearse(name, &files).await {
        Ok(new) => new,
        Err(error) => return final_or_passing(error),
    };
    if let Some(message) = in_the_way(control, pending, &files, &new).await? {
        return Ok(Err(message));
    }
    match store.migrate(name, &files).await {
        Ok(()) => Ok(Ok(new)),
        Err(error) => final_or_passing(error),
    }
}

fn final_or_passing<T>(error: SqlError) -> Result<Result<T, String>, WorkError> {
    match may_pass(&error) {
        true => Err(WorkError::Primary(error)),
        false => Ok(Err(error.to_string())),
    }
}

/// Why the new files must not run while another version serves.
async fn in_the_way(
    control: &Control,
    pending: &Pending,
    files: &[(&str, &str)],
    new: &[String],
) -> Result<Option<String>, WorkError> {
    let store = &control.store;
    let manifest = store.manifest(&pending.deployment).await?.unwrap_or_default();
    let database = &manifest["databases"][&pending.database];
    if database["allow_incompatible"] == true || !store.serves_another(&pending.deployment, &pending.database).await? {
        return Ok(None);
    }
    let mut made = BTreeSet::new();
    for (file, sql) in files.iter().filter(|(file, _)| new.iter().any(|new| new == file)) {
        if let Some(statement) = incompatible(sql, &mut made) {
            return Ok(Some(format!(
                "{file}: `{statement}` takes away what the serving version may use; let no version use it first, or say \
                 `allow_incompatible: true` for the database"
            )));
        }
    }
    Ok(None)
}

/// The migrations of one database, from the blobs of its deployment.
async fn files(control: &Control, pending: &Pending) -> Result<Result<Vec<File>, String>, WorkError> {
    let store = &control.store;
    let manifest = store.manifest(&pending.deployment).await?.unwrap_or_default();
    let Some(folder) = manifest["databases"][&pending.database]["migrations"].as_str() else {
        return Ok(Ok(Vec::new()));
    };
    let folder = Path::new(folder)
        .components()
        .filter(|part| *part != std::path::Component::CurDir);
    let folder: std::path::PathBuf = folder.collect();
    let blobs = store.blobs(&pending.deployment).await?;
    let of_folder = blobs.iter().filter(|blob| {
        let path = Path::new(&blob.path);
        path.parent() == Some(&folder) && path.extension().is_some_and(|extension| extension == "sql")
    });
    let of_folder: Vec<_> = of_folder.collect();
    if of_folder.iter().map(|blob| blob.bytes).sum::<i64>() > MIGRATIONS_BYTES {
        return Ok(Err(format!("its migrations have more than {MIGRATIONS_BYTES} bytes")));
    }
    let mut files = Vec::new();
    for blob in of_folder {
        let Some(digest) = Digest::parse(&blob.digest) else {
            continue;
        };
        let body = control.artifacts.get(&digest, None).await?;
        let bytes = axum::body::to_bytes(body, blob.bytes as usize)
            .await
            .map_err(ArtifactError::Body)?;
        let Ok(sql) = String::from_utf8(bytes.to_vec()) else {
            return Ok(Err(format!("{} is not UTF-8", blob.path)));
        };
        let name = Path::new(&blob.path).file_name().unwrap_or_default();
        files.push(File {
            name: name.to_string_lossy().into_owned(),
            sql,
        });
    }
    Ok(Ok(files))
}
