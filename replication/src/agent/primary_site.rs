//! The primary: knows every database, opens those that are used, and executes operations.
//!
//! What is not open is known from the log: its newest state, for the board and for replicas. Opening, closing, replacing
//! and deleting a database happens in its turn, in a task that nobody's leaving interrupts. Whoever has a database open
//! while it is closed hears so; whoever asks for it then waits for the new one.

mod files;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;

use super::deleted::{Deleted, DeletedList};
use super::draft::Draft;
use super::slots::{Slot, Slots};
use super::{AgentError, AgentSettings, Refusal, Shared, Site, scrub};
use crate::error::chain;
use crate::folder::Folder;
use crate::lease::{Lease, StaticLease};
use crate::log::{Head, Log, SegmentLog};
use crate::position::{Epoch, Txid};
use crate::queue::Operation;
use crate::store::recover::{Recovered, recover};
use crate::store::{Source, Store, StoreStatus, Uploader};
use crate::{Committed, Database, Publication, SqlError, pages, sums};

/// Time between two looks for deleted databases whose grace has passed.
const TENDING: Duration = Duration::from_secs(1);
/// Databases closed at the same time when the agent stops: each waits for the disk.
const CLOSING: usize = 8;

/// Who makes a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    User,
    Platform,
}

pub(crate) struct PrimarySite {
    shared: Arc<Shared>,
    log: Arc<SegmentLog>,
    publication: Publication,
    slots: Slots,
    deleted: DeletedList,
    /// Databases that get new content now.
    drafting: Mutex<HashSet<String>>,
    store: Option<Store>,
    /// Started once file and log of every database agree.
    uploader: OnceLock<Uploader>,
}

/// How long a start waits for a store that it can do without.
const STORE_WAIT: Duration = Duration::from_secs(5);

impl PrimarySite {
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<Arc<PrimarySite>, AgentError> {
        let data_dir = shared.settings.data_dir.clone();
        let retain = shared.settings.log_retain_bytes;
        let store = shared.settings.store.as_ref().map(Store::open).transpose()?;
        let recovered = match &store {
            Some(store) => ask_store(store, &shared.settings).await?,
            None => Recovered::default(),
        };
        let opened = blocking(move || {
            let log = SegmentLog::open(&data_dir.join("log"), retain)?;
            let deleted = DeletedList::open(&data_dir).map_err(|source| AgentError::Folder {
                path: data_dir.join("deleted.json"),
                source,
            })?;
            let lease = StaticLease::at(&data_dir.join("epoch")).above(recovered.epoch);
            Ok::<_, AgentError>((Arc::new(log), lease.acquire()?, deleted))
        });
        let (log, epoch, deleted) = opened.await?;
        let site = Arc::new(PrimarySite {
            publication: Publication {
                log: log.clone(),
                epoch,
            },
            log,
            slots: Slots::default(),
            deleted,
            drafting: Mutex::default(),
            store,
            uploader: OnceLock::new(),
            shared,
        });
        site.finish_deletions().await?;
        site.know_what_is_there().await?;
        site.make_what_is_configured().await?;
        for name in recovered.databases {
            site.begin_anew(&name).await;
        }
        // Now that file and log of every database agree.
        if let Some(store) = site.store.clone() {
            let source = Source {
                log: site.log.clone(),
                databases_dir: site.shared.settings.databases_dir(),
                epoch: site.publication.epoch,
                temporary_dir: site.shared.settings.data_dir.join("merging"),
            };
            site.uploader.get_or_init(|| Uploader::start(store, source));
        }
        Ok(site)
    }

    /// A transaction under the new epoch, so that what the lost primary wrote last is behind what this one has.
    async fn begin_anew(self: &Arc<Self>, name: &str) {
        let Ok(database) = self.database(name).await else {
            return;
        };
        let operation = format!("recovery-{}", uuid::Uuid::now_v7());
        if let Err(error) = database.execute(Vec::new(), operation).await {
            tracing::warn!(database = name, %error, "the recovered database has no transaction of this epoch yet");
        }
    }

    /// What the store has of every database; empty without a store.
    pub(crate) fn store_statuses(&self) -> Vec<StoreStatus> {
        self.uploader.get().map(Uploader::statuses).unwrap_or_default()
    }

    /// Asks for a snapshot in the store.
    pub(crate) fn snapshot_to_store(&self, name: &str) -> Result<(), Refusal> {
        let uploader = self.uploader.get();
        let uploader = uploader.ok_or_else(|| Refusal::Malformed("this agent has no store".to_owned()))?;
        match uploader.ask_for_snapshot(name) {
            true => Ok(()),
            false => Err(Refusal::NoDatabase(name.to_owned())),
        }
    }

    /// Where earlier states are, with all that was acknowledged until now in it.
    pub(crate) async fn current_store(&self) -> Result<&Store, Refusal> {
        self.flush_store().await;
        self.store
            .as_ref()
            .ok_or_else(|| Refusal::Content("the primary keeps no earlier states; give its agent a `store`".to_owned()))
    }

    /// Uploads what is left.
    pub(crate) async fn flush_store(&self) {
        if let Some(uploader) = self.uploader.get() {
            uploader.flush().await;
        }
    }

    pub(crate) fn log(&self) -> Arc<SegmentLog> {
        Arc::clone(&self.log)
    }

    /// Of this leadership.
    pub(crate) fn epoch(&self) -> Epoch {
        self.publication.epoch
    }

    /// The database, opened if it was not.
    pub(crate) async fn database(self: &Arc<Self>, name: &str) -> Result<Arc<Database>, Refusal> {
        let slot = self.slots.find(name).ok_or_else(|| self.missing(name))?;
        match slot.get() {
            Some(database) => Ok(database),
            None => {
                let site = Arc::clone(self);
                uninterrupted(async move { site.open_slot(&slot).await }).await
            }
        }
    }

    /// The file of a database.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.folder(name).current()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.slots.all().iter().map(|slot| slot.name.clone()).collect()
    }

    pub(crate) fn scrub_interval(&self) -> Duration {
        self.shared.settings.scrub_interval
    }

    /// All of the database was read and is what its log says.
    pub(crate) fn scrubbed(&self, name: &str) {
        self.shared.board.update(name, |status| status.scrubs += 1);
    }

    /// Databases that are open.
    pub(crate) fn open_count(&self) -> usize {
        self.slots.open_count()
    }

    /// Databases that were deleted; of those with a time the files wait.
    pub(crate) fn deleted(&self) -> std::collections::BTreeMap<String, Deleted> {
        self.deleted.all()
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.slots.contains(name)
    }

    /// Makes an empty database, and says whether it did; one that exists stays as it is.
    pub(crate) async fn create(self: &Arc<Self>, name: &str, maker: Maker) -> Result<bool, Refusal> {
        match maker {
            Maker::Platform if Folder::is_platform_name(name) => self.check_free_name(name)?,
            Maker::Platform => return Err(Refusal::Malformed(format!("{name} is no name of the platform's"))),
            Maker::User => self.check_new_name(name)?,
        }
        if self.slots.contains(name) {
            return Ok(false);
        }
        let drafting = self.draft_turn(name)?;
        let site = Arc::clone(self);
        let slot = Arc::new(Slot::new(name));
        uninterrupted(async move {
            let _drafting = drafting;
            if site.slots.contains(&slot.name) {
                return Ok(false);
            }
            site.make(slot).await.map(|()| true)
        })
        .await
    }

    /// Executes operations in their order; none is done after one that was not. All are known to the writer before the
    /// first is waited for, so that they can share a commit.
    pub(crate) async fn execute(
        self: &Arc<Self>,
        name: &str,
        operations: Vec<Operation>,
    ) -> Result<Vec<Result<Committed, SqlError>>, Refusal> {
        let database = self.database(name).await?;
        let operations = operations
            .into_iter()
            .map(|operation| (operation.statements, operation.id));
        let began = std::time::Instant::now();
        let outcomes = database.execute_in_order(operations).await;
        self.shared.metrics.committed(name, began.elapsed());
        Ok(outcomes)
    }

    /// A file for new content of a database, which may not exist yet. Nobody else gets one until it is dropped.
    pub(crate) async fn draft(self: &Arc<Self>, name: &str) -> Result<(Draft, Drafting), Refusal> {
        self.check_new_name(name)?;
        let drafting = self.draft_turn(name)?;
        let folder = self.folder(name);
        let draft = blocking(move || Draft::begin(folder)).await;
        let draft = draft.map_err(|error| Refusal::of(&error))?;
        Ok((draft, drafting))
    }

    /// Makes the draft the database's content: whole, or not at all. What was there goes on until then.
    pub(crate) async fn replace(self: &Arc<Self>, draft: (Draft, Drafting)) -> Result<Head, Refusal> {
        self.fill_and_replace(draft, |_| Ok(())).await
    }

    /// Writes a database anew, without free pages and in order (sqlite.org/lang_vacuum.html). What was done in it stays
    /// known. Whoever writes meanwhile waits or tries again; replicas copy it anew.
    pub(crate) async fn vacuum(self: &Arc<Self>, name: &str) -> Result<Head, Refusal> {
        // Damaged, it would be made to look whole.
        self.database(name).await?;
        let folder = self.folder(name);
        let missing = self.missing(name);
        let fill = move |draft: &Draft| {
            let current = folder.current().ok_or(missing)?;
            pages::copy(&current, draft.path()).map_err(|error| Refusal::of(&error))?;
            let file = std::fs::File::open(draft.path());
            file.and_then(|file| file.sync_all())
                .map_err(|error| Refusal::of(&error))
        };
        self.fill_and_replace(self.draft(name).await?, fill).await
    }

    /// `fill` sees the file of before with everything in it, while nobody else uses it.
    async fn fill_and_replace(
        self: &Arc<Self>,
        draft: (Draft, Drafting),
        fill: impl FnOnce(&Draft) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<Head, Refusal> {
        let site = Arc::clone(self);
        let (draft, drafting) = draft;
        uninterrupted(async move {
            let name = drafting.name.clone();
            let slot = site.slots.find(&name);
            let is_new = slot.is_none();
            let slot = slot.unwrap_or_else(|| Arc::new(Slot::new(&name)));
            let _turn = slot.turn.lock().await;
            if !is_new && !site.slots.has(&slot) {
                return Err(site.missing(&name));
            }
            site.settle(&slot).await?;
            let draft = blocking(move || fill(&draft).map(|()| draft)).await?;
            let database = site.open_draft(&slot, draft).await?;
            site.note_there(&name);
            let head = database.durable().map_or(Head::NONE, |durable| *durable.borrow());
            slot.put(database);
            if is_new {
                site.slots.insert(Arc::clone(&slot));
            }
            if site.deleted.get(&name).is_some() {
                let forgetting = Arc::clone(&site);
                blocking(move || forgetting.deleted.remove(&name))
                    .await
                    .map_err(|error| Refusal::of(&error))?;
            }
            tracing::info!(database = slot.name, position = %head.position, "the content was replaced");
            drop(_turn);
            site.slots.close_unused(site.shared.settings.open_databases).await;
            Ok(head)
        })
        .await
    }

    /// Deletes a database: at once for everybody; its files after the grace, until which it can be had back. For one that
    /// is deleted already the grace begins anew.
    pub(crate) async fn delete(self: &Arc<Self>, name: &str, grace: Duration) -> Result<Deleted, Refusal> {
        let (site, name) = (Arc::clone(self), name.to_owned());
        uninterrupted(async move {
            let Some(slot) = site.slots.find(&name) else {
                let Some(entry) = site.deleted.get(&name).filter(|entry| entry.until_ms.is_some()) else {
                    return Err(site.missing(&name));
                };
                let noted = Arc::clone(&site);
                let again = blocking(move || {
                    let entry = noted.deleted.add(&name, grace, entry.txid)?;
                    noted.purge_at_once(&name, grace)?;
                    Ok(entry)
                });
                return again.await.map_err(|error: std::io::Error| Refusal::of(&error));
            };
            let _drafting = site.draft_turn(&name)?;
            let _turn = slot.turn.lock().await;
            if !site.slots.has(&slot) {
                return Err(site.missing(&name));
            }
            site.settle(&slot).await?;
            let working = Arc::clone(&site);
            let entry = blocking(move || working.set_aside(&name, grace)).await?;
            site.slots.remove(&slot.name);
            site.shared.gone.lock().insert(slot.name.clone());
            site.shared.board.delete(&slot.name);
            site.shared.replicas.forget_database(&slot.name);
            tracing::info!(database = slot.name, "deleted");
            let (working, name) = (Arc::clone(&site), slot.name.clone());
            blocking(move || working.purge_at_once(&name, grace))
                .await
                .map_err(|error| Refusal::of(&error))?;
            Ok(entry)
        })
        .await
    }

    /// Brings a deleted database back.
    pub(crate) async fn undelete(self: &Arc<Self>, name: &str) -> Result<(), Refusal> {
        if self.slots.contains(name) {
            return Err(Refusal::Conflict(format!(
                "the database {name} is there; nothing to undelete"
            )));
        }
        if !self.deleted.is_waiting(name) {
            return Err(self.missing(name));
        }
        let drafting = self.draft_turn(name)?;
        let (site, name) = (Arc::clone(self), name.to_owned());
        uninterrupted(async move {
            let _drafting = drafting;
            let working = Arc::clone(&site);
            let back = blocking(move || {
                let moved = working.deleted.folder(&name).move_to(&working.folder(&name));
                if !moved.map_err(|error| Refusal::of(&error))? {
                    return Err(Refusal::NoDatabase(name));
                }
                working.deleted.remove(&name).map_err(|error| Refusal::of(&error))?;
                Ok(name)
            });
            let name = back.await?;
            let slot = Arc::new(Slot::new(&name));
            site.slots.insert(Arc::clone(&slot));
            site.note_there(&name);
            site.open_slot(&slot).await.map(drop)
        })
        .await
    }

    /// Closes everything, so that the next start reads no file.
    pub(crate) async fn close_all(&self) {
        let closing = self.slots.all().into_iter().map(|slot| async move {
            let _turn = slot.turn.lock().await;
            if let Some(database) = slot.take() {
                database.close().await;
            }
        });
        futures::stream::iter(closing)
            .for_each_concurrent(CLOSING, |closing| closing)
            .await;
    }

    fn folder(&self, name: &str) -> Folder {
        Folder::of(&self.shared.settings.databases_dir(), name)
    }

    /// Why there is no such database.
    fn missing(&self, name: &str) -> Refusal {
        if self.deleted.is_waiting(name) {
            Refusal::Deleted(name.to_owned())
        } else {
            Refusal::NoDatabase(name.to_owned())
        }
    }

    /// A database of the platform's can be replaced, as by restoring it, but only the platform makes one.
    fn check_new_name(&self, name: &str) -> Result<(), Refusal> {
        if Folder::is_platform_name(name) && !self.slots.contains(name) {
            let name = name.to_owned();
            return Err(Refusal::Malformed(AgentError::Name { name }.to_string()));
        }
        self.check_free_name(name)
    }

    fn check_free_name(&self, name: &str) -> Result<(), Refusal> {
        if !Folder::is_valid_name(name) {
            let name = name.to_owned();
            return Err(Refusal::Malformed(AgentError::Name { name }.to_string()));
        }
        if !self.slots.contains(name) && self.deleted.is_waiting(name) {
            return Err(Refusal::Deleted(name.to_owned()));
        }
        Ok(())
    }

    fn draft_turn(self: &Arc<Self>, name: &str) -> Result<Drafting, Refusal> {
        if self.drafting.lock().insert(name.to_owned()) {
            Ok(Drafting {
                site: Arc::clone(self),
                name: name.to_owned(),
            })
        } else {
            let message = format!("{name} is being imported, restored or deleted; try again when that is done");
            Err(Refusal::Conflict(message))
        }
    }

    /// It is not among the deleted any more.
    fn note_there(&self, name: &str) {
        self.shared.gone.lock().remove(name);
    }

    /// Deletions that a process had begun when it was killed.
    async fn finish_deletions(self: &Arc<Self>) -> Result<(), AgentError> {
        let site = Arc::clone(self);
        blocking(move || {
            for (name, entry) in site.deleted.all() {
                if entry.until_ms.is_none() {
                    // Its end was noted, and then the process.
                    let _ = site.deleted.folder(&name).remove();
                }
                if entry.until_ms.is_some() {
                    let moved = site.folder(&name).move_to(&site.deleted.folder(&name));
                    moved.map_err(|source| AgentError::Folder {
                        path: site.shared.settings.databases_dir().join(&name),
                        source,
                    })?;
                    site.log.end(&name)?;
                    site.shared.gone.lock().insert(name);
                } else if site.folder(&name).current().is_none() {
                    site.shared.gone.lock().insert(name);
                }
            }
            Ok(())
        })
        .await
    }

    /// Every folder is a database. Those the log knows are not opened.
    async fn know_what_is_there(self: &Arc<Self>) -> Result<(), AgentError> {
        let site = Arc::clone(self);
        let unlogged = blocking(move || {
            let root = site.shared.settings.databases_dir();
            let failed = |source| AgentError::Folder {
                path: root.clone(),
                source,
            };
            Folder::tidy_all(&root).map_err(failed)?;
            let mut unlogged = Vec::new();
            for name in Folder::names(&root).map_err(failed)? {
                let mut slot = Slot::new(&name);
                let configured = site.shared.settings.databases.iter();
                if let Some(configured) = configured.into_iter().find(|configured| configured.name == name) {
                    slot.migrations = configured.migrations.clone();
                }
                let opens = slot.migrations.is_some();
                site.slots.insert(Arc::new(slot));
                let head = site.log.head(&name);
                match (head, site.path(&name)) {
                    (Some(head), Some(path)) if !opens => {
                        if sums::is_current(&path, &head) {
                            site.log.release(&name, head.position.txid);
                        }
                        files::show(&site.shared, &name, &path, head);
                    }
                    _ => unlogged.push(name),
                }
            }
            Ok::<_, AgentError>(unlogged)
        });
        for name in unlogged.await? {
            let slot = self.slots.find(&name).expect("inserted above");
            self.open_at_start(&slot).await?;
        }
        Ok(())
    }

    async fn make_what_is_configured(self: &Arc<Self>) -> Result<(), AgentError> {
        for database in self.shared.settings.databases.clone() {
            if !Folder::is_valid_name(&database.name) || Folder::is_platform_name(&database.name) {
                return Err(AgentError::Name { name: database.name });
            }
            if self.slots.contains(&database.name) {
                continue;
            }
            if self.deleted.is_waiting(&database.name) {
                tracing::warn!(
                    database = database.name,
                    "configured, but deleted; it is made anew when its grace has passed, or undelete it"
                );
                continue;
            }
            let mut slot = Slot::new(&database.name);
            (slot.migrations, slot.seed) = (database.migrations, database.seed);
            let slot = Arc::new(slot);
            self.slots.insert(Arc::clone(&slot));
            self.open_at_start(&slot).await?;
            self.note_there(&slot.name);
        }
        Ok(())
    }

    async fn open_at_start(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<(), AgentError> {
        let _turn = slot.turn.lock().await;
        let opened = self.open_files(slot).await.map_err(|source| AgentError::Database {
            name: slot.name.clone(),
            source: Box::new(source),
        })?;
        slot.put(opened);
        drop(_turn);
        self.slots.close_unused(self.shared.settings.open_databases).await;
        Ok(())
    }

    /// Makes a database that does not exist.
    async fn make(self: &Arc<Self>, slot: Arc<Slot>) -> Result<(), Refusal> {
        let name = slot.name.clone();
        let opened = self.open_files(&slot).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let folder = self.folder(&name);
                let _ = blocking(move || folder.tidy()).await;
                return Err(Refusal::of(&error));
            }
        };
        slot.put(opened);
        self.slots.insert(slot);
        self.note_there(&name);
        if self.deleted.get(&name).is_some() {
            let site = Arc::clone(self);
            blocking(move || site.deleted.remove(&name))
                .await
                .map_err(|error| Refusal::of(&error))?;
        }
        self.slots.close_unused(self.shared.settings.open_databases).await;
        Ok(())
    }

    /// Removes the files of a database that was deleted without grace. Blocks.
    fn purge_at_once(&self, name: &str, grace: Duration) -> std::io::Result<()> {
        match grace.is_zero() {
            true => self.deleted.purge(name),
            false => Ok(()),
        }
    }

    /// Moves a closed database out of the way, durably. Blocks.
    fn set_aside(&self, name: &str, grace: Duration) -> Result<Deleted, Refusal> {
        let txid = self.log.head(name).map_or(Txid(0), |head| head.position.txid);
        let failed = |error: std::io::Error| Refusal::of(&error);
        let entry = self.deleted.add(name, grace, txid).map_err(failed)?;
        if let Err(error) = self.folder(name).move_to(&self.deleted.folder(name)) {
            self.deleted.remove(name).map_err(failed)?;
            return Err(failed(error));
        }
        self.log.end(name).map_err(|error| Refusal::of(&error))?;
        Ok(entry)
    }
}

/// Holds the right to give a database new content.
pub(crate) struct Drafting {
    site: Arc<PrimarySite>,
    name: String,
}

impl Drop for Drafting {
    fn drop(&mut self) {
        self.site.drafting.lock().remove(&self.name);
    }
}

/// What a primary does by itself: brings forward what was not closed well, and removes what was deleted.
pub(crate) async fn tend(site: Arc<Site>) {
    let Site::Primary(site) = &*site else { return };
    for slot in site.slots.all() {
        let head = site.log.head(&slot.name);
        let path = site.path(&slot.name);
        let closed_well = head
            .zip(path)
            .is_some_and(|(head, path)| sums::is_current(&path, &head));
        if slot.get().is_none()
            && !closed_well
            && let Err(error) = site.database(&slot.name).await
        {
            tracing::error!(database = slot.name, %error, "it cannot be opened");
        }
    }
    tokio::join!(remove_deleted(site), scrub::run(site));
}

async fn remove_deleted(site: &Arc<PrimarySite>) {
    loop {
        for name in site.deleted.due() {
            let (working, purged) = (Arc::clone(site), name.clone());
            match blocking(move || working.deleted.purge(&purged)).await {
                Ok(()) => tracing::info!(database = name, "the files of a deleted database were removed"),
                Err(error) => tracing::warn!(database = name, %error, "its files cannot be removed; trying again"),
            }
        }
        tokio::time::sleep(TENDING).await;
    }
}

/// Runs `work` to its end, also when whoever waits for it goes away.
async fn uninterrupted<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process ends.
            Err(_) => std::future::pending().await,
        },
    }
}

/// What the store knows of this primary's past. A machine that has an epoch has not lost its disk: it only asks whether the
/// store has seen a higher one, and can do without the answer.
async fn ask_store(store: &Store, settings: &AgentSettings) -> Result<Recovered, AgentError> {
    if !settings.data_dir.join("epoch").exists() {
        return Ok(recover(store, &settings.databases_dir()).await?);
    }
    let epoch = match tokio::time::timeout(STORE_WAIT, store.epoch()).await {
        Ok(Ok(epoch)) => epoch,
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "the store does not answer; starting without it");
            Epoch(0)
        }
        Err(_elapsed) => {
            tracing::warn!("the store does not answer in time; starting without it");
            Epoch(0)
        }
    };
    Ok(Recovered {
        epoch,
        ..Recovered::default()
    })
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
