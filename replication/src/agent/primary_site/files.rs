//! The files of a primary's databases: opened and brought into agreement with the log, replaced, closed, and kept closed
//! when they are damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{PrimarySite, blocking};
use crate::agent::draft::{self, Draft, DraftError};
use crate::agent::slots::Slot;
use crate::agent::{Refusal, Shared, State};
use crate::error::chain;
use crate::log::{Head, Log};
use crate::position::{Position, Txid};
use crate::snapshot::SnapshotError;
use crate::{Database, DatabaseSettings, OpenError, damage, pages, sums};

/// Reader connections of one database: reads at a primary are those that must be strong.
const READERS: usize = 2;

impl PrimarySite {
    pub(super) async fn open_slot(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Arc<Database>, Refusal> {
        let database = {
            let _turn = slot.turn.lock().await;
            if let Some(database) = slot.get() {
                return Ok(database);
            }
            if !self.slots.has(slot) {
                return Err(self.missing(&slot.name));
            }
            let opened = self.open_files(slot).await;
            let database = opened.map_err(|error| match error.is_damage() {
                true => Refusal::Damaged {
                    name: slot.name.clone(),
                    reason: chain(&error),
                },
                false => Refusal::of(&error),
            })?;
            slot.put(Arc::clone(&database));
            database
        };
        self.slots.close_unused(self.shared.settings.open_databases).await;
        Ok(database)
    }

    /// Opens the current file, or makes the first.
    pub(super) async fn open_files(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Arc<Database>, OpenError> {
        let (site, slot) = (Arc::clone(self), Arc::clone(slot));
        let opened = blocking(move || {
            let folder = site.folder(&slot.name);
            if let Some(path) = folder.current() {
                return Ok((site.open_existing(&slot, &path)?, path));
            }
            let unreadable = |source| OpenError::Unreadable {
                path: PathBuf::from(&slot.name),
                source,
            };
            let path = folder.next().map_err(unreadable)?;
            if let Some(seed) = &slot.seed {
                pages::copy(seed, &path).map_err(|source| OpenError::Sqlite {
                    doing: "copying the seed",
                    path: seed.clone(),
                    source,
                })?;
            }
            if site.deleted.get(&slot.name).is_some() {
                draft::adopt(&path, site.next_position(&slot.name)).map_err(|error| match error {
                    DraftError::Open(error) => error,
                    other => unreadable(std::io::Error::other(other)),
                })?;
            }
            let database = site.open_primary(&slot, &path)?;
            folder.switch_to(&path).map_err(unreadable)?;
            Ok((database, path))
        });
        let (database, path) = opened.await?;
        self.show_while_open(&database, path);
        Ok(database)
    }

    fn open_existing(&self, slot: &Slot, path: &Path) -> Result<Arc<Database>, OpenError> {
        if let Some(reason) = damage::noted(path) {
            return Err(OpenError::Damaged { reason });
        }
        self.open_primary(slot, path).inspect_err(|error| {
            if error.is_damage() {
                self.note_damage(&slot.name, path, error);
            }
        })
    }

    /// Nobody opens the file from now on.
    fn note_damage(&self, name: &str, path: &Path, error: &dyn std::error::Error) {
        let reason = chain(error);
        tracing::error!(
            database = name,
            reason,
            "the database is damaged; it is neither read nor written here until other content replaces it"
        );
        if let Err(error) = damage::note(path, &reason) {
            tracing::error!(database = name, %error, "this could not be noted for the next start");
        }
        self.shared.board.update(name, |status| {
            (status.state, status.path) = (State::Damaged, None);
        });
    }

    /// Takes a database out of service.
    pub(crate) async fn close_damaged(self: &Arc<Self>, name: &str, path: &Path, error: &SnapshotError) {
        let Some(slot) = self.slots.find(name) else { return };
        let _turn = slot.turn.lock().await;
        // It may have been replaced meanwhile.
        if !self.slots.has(&slot) || self.path(name).as_deref() != Some(path) {
            return;
        }
        self.note_damage(name, path, error);
        if let Some(open) = slot.take() {
            open.close().await;
        }
    }

    fn open_primary(&self, slot: &Slot, path: &std::path::Path) -> Result<Arc<Database>, OpenError> {
        let mut settings = DatabaseSettings::new(&slot.name, path);
        settings.migrations = slot.migrations.clone();
        settings.readers = READERS;
        Database::open_primary(settings, self.publication.clone())
    }

    /// Opens the draft as the database, then makes it the current file. Nothing that fails touches the file before it.
    pub(super) async fn open_draft(self: &Arc<Self>, slot: &Arc<Slot>, draft: Draft) -> Result<Arc<Database>, Refusal> {
        let (site, working) = (Arc::clone(self), Arc::clone(slot));
        let opened = blocking(move || {
            let folder = site.folder(&working.name);
            draft
                .adopt(site.next_position(&working.name))
                .map_err(|error| Refusal::of(&error))?;
            folder
                .prepare_switch(draft.path())
                .map_err(|error| Refusal::of(&error))?;
            let database = site
                .open_primary(&working, draft.path())
                .map_err(|error| Refusal::of(&error))?;
            if let Err(error) = folder.finish_switch(draft.path()) {
                // Either file is whole. The one that `current` names is opened next.
                if folder.current().as_deref() != Some(draft.path()) {
                    return Err(Refusal::of(&error));
                }
                tracing::debug!(%error, "old files could not be removed");
            }
            let path = draft.path().to_owned();
            draft.keep();
            Ok((database, path))
        });
        let (database, path) = opened.await?;
        self.show_while_open(&database, path);
        Ok(database)
    }

    /// After everything that any content under this name ever had.
    fn next_position(&self, name: &str) -> Position {
        let logged = self.log.head(name).map(|head| head.position.txid);
        let deleted = self.deleted.get(name).map(|entry| entry.txid);
        Position {
            epoch: self.publication.epoch,
            txid: logged.max(deleted).map_or(Txid(1), Txid::next),
        }
    }

    /// Closes the database with all that the log has of it in its file. The turn is the caller's.
    pub(super) async fn settle(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<(), Refusal> {
        let open = match (slot.take(), self.path(&slot.name)) {
            (Some(open), _) => open,
            (None, None) => return Ok(()),
            (None, Some(path)) => {
                let closed_well = self
                    .log
                    .head(&slot.name)
                    .is_some_and(|head| sums::is_current(&path, &head));
                if closed_well {
                    return Ok(());
                }
                match self.open_files(slot).await {
                    Ok(open) => open,
                    // Damaged: replacing it is how it is mended.
                    Err(error) => {
                        tracing::warn!(
                            database = slot.name,
                            error = chain(&error),
                            "what is replaced cannot be opened"
                        );
                        return Ok(());
                    }
                }
            }
        };
        open.close().await;
        Ok(())
    }

    /// Keeps the board current until the database is closed.
    fn show_while_open(&self, database: &Arc<Database>, path: PathBuf) {
        let Some(mut durable) = database.durable() else { return };
        let (shared, name) = (Arc::clone(&self.shared), database.name().to_owned());
        show(&shared, &name, &path, *durable.borrow_and_update());
        tokio::spawn(async move {
            while durable.changed().await.is_ok() {
                let head = *durable.borrow_and_update();
                shared.board.update(&name, |status| {
                    // Unless it was replaced or deleted since.
                    if status.path.as_ref() == Some(&path) {
                        (status.head, status.primary) = (head, head);
                    }
                });
            }
        });
    }
}

pub(super) fn show(shared: &Shared, name: &str, path: &std::path::Path, head: Head) {
    let is_sound = damage::noted(path).is_none();
    shared.board.update(name, |status| {
        status.state = if is_sound { State::Primary } else { State::Damaged };
        status.path = is_sound.then(|| path.to_owned());
        (status.head, status.primary, status.primary_reachable) = (head, head, true);
    });
}
