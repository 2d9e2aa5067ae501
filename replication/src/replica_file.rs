//! The readers of a replica's current file: opened when it is first read, and anew when another file took its place.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::SqlError;
use crate::agent::primary_site::blocking;
use crate::readers::Readers;
use crate::settings::DatabaseSettings;

pub(crate) struct ReplicaFile {
    settings: DatabaseSettings,
    open: ArcSwapOption<Open>,
    opening: tokio::sync::Mutex<()>,
}

/// The readers of one generation's file.
pub(crate) struct Open {
    path: PathBuf,
    pub(crate) readers: Readers,
}

impl ReplicaFile {
    /// The settings' own path does not matter.
    pub(crate) fn new(settings: DatabaseSettings) -> ReplicaFile {
        ReplicaFile {
            settings,
            open: ArcSwapOption::empty(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) async fn open(&self, path: PathBuf) -> Result<Arc<Open>, SqlError> {
        let current = || self.open.load_full().filter(|open| open.path == path);
        if let Some(open) = current() {
            return Ok(open);
        }
        let _turn = self.opening.lock().await;
        if let Some(open) = current() {
            return Ok(open);
        }
        let settings = DatabaseSettings {
            path: path.clone(),
            ..self.settings.clone()
        };
        let opened = blocking(move || Readers::open(&settings)).await;
        let (readers, _threads) = opened.map_err(|error| SqlError::Io {
            message: error.to_string(),
        })?;
        let open = Arc::new(Open { path, readers });
        self.open.store(Some(Arc::clone(&open)));
        Ok(open)
    }
}
