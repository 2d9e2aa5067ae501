//! A primary that has lost its disk takes its databases from the store.
//!
//! Only when the data directory has no epoch, which every primary notes before it serves; and a database that is there is
//! never replaced. The epoch rises far above what the store knows, because leaderships during which the store could not be
//! reached are not noted in it.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::objects::{Store, StoreError};
use super::restore::{RestoreError, Target};
use crate::folder::Folder;
use crate::position::Epoch;

/// More starts than a primary has without ever reaching its store.
const UNSEEN_EPOCHS: u32 = 1000;

#[derive(Debug, Error)]
pub enum RecoverError {
    #[error("asking the store for what this machine may have lost; start without `store` if it never had anything")]
    Store(#[from] StoreError),
    #[error("restoring {database} from the store; move its folder there away to start without it")]
    Restore {
        database: String,
        source: Box<RestoreError>,
    },
    #[error("{path} cannot be made")]
    Folder { path: PathBuf, source: std::io::Error },
}

/// What was taken from the store.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) databases: Vec<String>,
    /// The primary's epoch must be higher.
    pub(crate) epoch: Epoch,
}

/// Restores every database of the store that `databases_dir` does not have.
pub(crate) async fn recover(store: &Store, databases_dir: &Path) -> Result<Recovered, RecoverError> {
    let mut recovered = Recovered {
        epoch: store.epoch().await?,
        ..Recovered::default()
    };
    for database in store.databases().await? {
        let folder = Folder::of(databases_dir, &database);
        if folder.current().is_some() {
            continue;
        }
        let failed = |source| RecoverError::Folder {
            path: databases_dir.join(&database),
            source,
        };
        let path = folder.next().map_err(failed)?;
        tracing::info!(database, "this machine has no data; restoring from the store");
        let mut told = 0;
        let restored = store.restore(&database, Target::Latest, &path, |done, total| {
            let tenth = (done * 10).checked_div(total).unwrap_or(10);
            if tenth > told {
                told = tenth;
                tracing::info!(database, bytes = done, of = total, "restoring");
            }
        });
        match restored.await {
            Ok(head) => {
                folder.switch_to(&path).map_err(failed)?;
                tracing::warn!(database, position = %head.position, time_ms = head.timestamp_ms, "restored from the store; what was committed after its newest upload is lost");
                recovered.epoch = recovered.epoch.max(head.position.epoch);
                recovered.databases.push(database);
            }
            Err(RestoreError::NoDatabase(_)) => {}
            Err(RestoreError::NoSnapshot(_)) => {
                tracing::error!(database, "was lost: the store never had a complete snapshot of it");
            }
            Err(source) => {
                return Err(RecoverError::Restore {
                    database,
                    source: Box::new(source),
                });
            }
        }
    }
    if recovered.epoch > Epoch(0) {
        recovered.epoch = Epoch(recovered.epoch.0.saturating_add(UNSEEN_EPOCHS));
    }
    Ok(recovered)
}
