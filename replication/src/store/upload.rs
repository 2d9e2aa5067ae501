//! The primary's log on its way into the store: for each database a task that sends what the log has taken on.
//!
//! What was committed within one sync interval becomes one file of level 0. What is in the store is found by listing it,
//! so there is no state to lose: after a restart the task goes on behind the newest object, if the log knows that state.
//! If it does not, the store holds another past, and a new chain begins; if the log has forgotten what comes next, a
//! snapshot bridges the gap.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::compact::merge;
use super::layout::{ChainFolder, ChainName, Inventory, Item, SNAPSHOTS, UPLOADS};
use super::levels::Levels;
use super::objects::{Store, StoreError};
use super::plan::reach;
use super::status::{StoreStatus, seconds_since};
use crate::agent::primary_site::blocking;
use crate::error::chain as explain;
use crate::log::{Head, Known, Log, LogError};
use crate::ltx::Header;
use crate::position::{Epoch, Txid};
use crate::publish::now_ms;

/// Bytes of the log in one upload. One transaction may be larger.
const UPLOAD_BYTES: usize = 4 * 1024 * 1024;
/// Databases that upload at one time, each holding about twice that.
const UPLOADS_AT_ONCE: usize = 8;
/// Databases that merge, take snapshots or remove objects at one time.
const WORK_AT_ONCE: usize = 2;
/// Time between two looks for databases that are new.
const NEW_DATABASES: Duration = Duration::from_secs(1);
/// Waits between tries, doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(30);

/// Where the transactions come from.
pub(crate) struct Source {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) databases_dir: PathBuf,
    /// Of this leadership.
    pub(crate) epoch: Epoch,
    /// For files that are merged.
    pub(crate) temporary_dir: PathBuf,
}

/// Keeps a store in step with a log. Dropped, it stops; what was uploaded stays.
pub(crate) struct Uploader {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) source: Source,
    pub(super) levels: Levels,
    uploads: Semaphore,
    pub(super) work: Semaphore,
    epoch_noted: OnceCell<()>,
    databases: Mutex<BTreeMap<String, Arc<Stored>>>,
}

/// One database and what the store has of it.
pub(super) struct Stored {
    pub(super) database: String,
    pub(super) chain: Mutex<Option<Chain>>,
    /// Held by the one upload under way.
    turn: tokio::sync::Mutex<()>,
    pub(super) health: Mutex<Health>,
    /// Asks for a snapshot now.
    pub(super) asked: Notify,
}

#[derive(Default)]
pub(super) struct Health {
    behind_since_ms: Option<i64>,
    uploaded_ms: Option<i64>,
    upload_error: Option<String>,
    pub(super) keep_error: Option<String>,
}

/// The chain that is uploaded to.
#[derive(Clone)]
pub(super) struct Chain {
    pub(super) name: ChainName,
    pub(super) folder: ChainFolder,
    pub(super) items: Inventory,
    /// Up to where it has everything, or would have but for the snapshot below.
    pub(super) uploaded: Head,
    /// Without a snapshot that reaches this, what is uploaded leads nowhere.
    pub(super) needs_snapshot: Option<Txid>,
}

impl Uploader {
    pub(crate) fn start(store: Store, source: Source) -> Uploader {
        let shared = Arc::new(Shared {
            levels: Levels::of(store.settings.merge_windows),
            store,
            source,
            uploads: Semaphore::new(UPLOADS_AT_ONCE),
            work: Semaphore::new(WORK_AT_ONCE),
            epoch_noted: OnceCell::new(),
            databases: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).run());
        Uploader { shared, _tasks: tasks }
    }

    /// What the store has of every database.
    pub(crate) fn statuses(&self) -> Vec<StoreStatus> {
        let stored: Vec<_> = self.shared.databases.lock().values().cloned().collect();
        stored.iter().map(|stored| self.shared.status(stored)).collect()
    }

    /// Asks for a snapshot of a database, whatever its age; `false` when there is no such database.
    pub(crate) fn ask_for_snapshot(&self, database: &str) -> bool {
        let stored = self.shared.databases.lock().get(database).cloned();
        stored.inspect(|stored| stored.asked.notify_one()).is_some()
    }

    /// Uploads what the log has more than the store, once.
    pub(crate) async fn flush(&self) {
        let stored: Vec<_> = self.shared.databases.lock().values().cloned().collect();
        let uploads = stored.iter().map(|stored| self.shared.upload(stored));
        for result in futures::future::join_all(uploads).await {
            if let Err(error) = result {
                tracing::warn!(
                    error = explain(&error),
                    "not everything could be uploaded; it is when this primary starts again"
                );
            }
        }
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        let mut look = tokio::time::interval(NEW_DATABASES.min(self.store.settings.sync_interval));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            for database in self.source.log.heads().into_keys() {
                let mut databases = self.databases.lock();
                if databases.contains_key(&database) {
                    continue;
                }
                let stored = Arc::new(Stored {
                    database: database.clone(),
                    chain: Mutex::new(None),
                    turn: tokio::sync::Mutex::new(()),
                    health: Mutex::default(),
                    asked: Notify::new(),
                });
                databases.insert(database, Arc::clone(&stored));
                tasks.spawn(Arc::clone(&self).keep_uploading(Arc::clone(&stored)));
                tasks.spawn(Arc::clone(&self).keep_in_order(stored));
            }
        }
    }

    async fn keep_uploading(self: Arc<Self>, stored: Arc<Stored>) {
        let mut tick = tokio::time::interval(self.store.settings.sync_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wait = Wait::default();
        loop {
            tick.tick().await;
            match self.upload(&stored).await {
                Ok(()) => {
                    if stored.health.lock().upload_error.take().is_some() {
                        tracing::info!(database = stored.database, "the store takes uploads again");
                    }
                    wait = Wait::default();
                }
                Err(error) => {
                    let error = explain(&error);
                    if stored.health.lock().upload_error.replace(error.clone()).is_none() {
                        tracing::warn!(
                            database = stored.database,
                            error,
                            "the store does not take uploads; writes go on"
                        );
                    }
                    tokio::time::sleep(wait.next()).await;
                }
            }
        }
    }

    /// Uploads what the log has more than the store.
    async fn upload(&self, stored: &Stored) -> Result<(), StoreError> {
        let _turn = stored.turn.lock().await;
        let log = &self.source.log;
        loop {
            let Some(head) = log.head(&stored.database) else {
                return Ok(());
            };
            let known = stored.chain.lock().as_ref().map(|chain| (chain.name, chain.uploaded));
            let (name, uploaded) = match known {
                Some((name, uploaded)) if name.lineage() == head.lineage => (name, uploaded),
                _ => {
                    self.note_behind(stored);
                    let _permit = self.uploads.acquire().await;
                    let chain = self.open_chain(&stored.database, head).await?;
                    let known = (chain.name, chain.uploaded);
                    *stored.chain.lock() = Some(chain);
                    known
                }
            };
            if uploaded.position.txid >= head.position.txid {
                stored.health.lock().behind_since_ms = None;
                return Ok(());
            }
            self.note_behind(stored);
            let _permit = self.uploads.acquire().await;
            if !self.upload_next(stored, name, uploaded, head).await? {
                return Ok(());
            }
        }
    }

    fn note_behind(&self, stored: &Stored) {
        stored.health.lock().behind_since_ms.get_or_insert_with(now_ms);
    }

    /// Uploads one file; `false` when that has to wait for the next turn.
    async fn upload_next(
        &self,
        stored: &Stored,
        name: ChainName,
        uploaded: Head,
        head: Head,
    ) -> Result<bool, StoreError> {
        let (log, database) = (Arc::clone(&self.source.log), stored.database.clone());
        let read = blocking(move || {
            let files = log.read_after(&database, uploaded.position.txid, UPLOAD_BYTES)?;
            match files.len() {
                0 => Ok(None),
                1 => Ok(files.into_iter().next().map(|file| file.to_vec())),
                _ => {
                    let inputs = files.iter().map(|file| &file[..]).collect();
                    Ok::<_, StoreError>(Some(merge(inputs, Vec::new())?.1))
                }
            }
        });
        let bytes = match read.await {
            Ok(Some(bytes)) => bytes,
            // Not durable yet.
            Ok(None) => return Ok(false),
            Err(StoreError::Log(LogError::Gone { .. })) => {
                tracing::warn!(database = stored.database, from = %uploaded.position, to = %head.position, "the log no longer has what the store lacks; a snapshot bridges the gap");
                self.change(stored, name, |chain| chain.begin_at(head));
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let header = header_of(&bytes)?;
        if !uploaded.is_continued_by(&header) {
            // The log was begun anew meanwhile: what the store has is judged again.
            *stored.chain.lock() = None;
            return Ok(false);
        }
        self.note_epoch().await?;
        let folder = self.store.chain(&stored.database, name);
        let item = Item {
            kind: UPLOADS,
            min: header.min_txid,
            max: header.max_txid,
            bytes: bytes.len() as u64,
            stored_ms: now_ms(),
        };
        self.store.put(&item.key(&folder), &bytes).await?;
        self.change(stored, name, |chain| {
            chain.items.insert(item);
            chain.uploaded = Head::after(&header);
        });
        stored.health.lock().uploaded_ms = Some(now_ms());
        Ok(true)
    }

    /// Changes the chain, if it is still the one.
    pub(super) fn change(&self, stored: &Stored, name: ChainName, change: impl FnOnce(&mut Chain)) {
        if let Some(chain) = stored.chain.lock().as_mut().filter(|chain| chain.name == name) {
            change(chain);
        }
    }

    /// Nothing of this leadership is uploaded before its epoch is noted.
    pub(super) async fn note_epoch(&self) -> Result<(), StoreError> {
        let note = || self.store.note_epoch(self.source.epoch);
        self.epoch_noted.get_or_try_init(note).await.copied()
    }

    /// Finds the chain that ends in a state of the log, or begins one.
    async fn open_chain(&self, database: &str, head: Head) -> Result<Chain, StoreError> {
        let chains = self.store.chains(database).await?;
        let last = chains.last().copied();
        if let Some(name) = last.filter(|name| name.lineage() == head.lineage) {
            let folder = self.store.chain(database, name);
            let items = self.store.inventory(&folder).await?;
            if let Some(newest) = items.newest() {
                let header = self.store.header(&newest.key(&folder)).await?;
                let mut chain = Chain {
                    name,
                    folder,
                    uploaded: Head::after(&header),
                    needs_snapshot: None,
                    items,
                };
                let log = &self.source.log;
                match log.find(database, &chain.uploaded) {
                    Known::Here if reach(&chain.items) >= Some(chain.uploaded.position.txid) => return Ok(chain),
                    Known::Here => {
                        chain.begin_at(chain.uploaded);
                        return Ok(chain);
                    }
                    Known::TooOld => {
                        tracing::warn!(database, from = %chain.uploaded.position, to = %head.position, "the log no longer has what the store lacks; a snapshot bridges the gap");
                        chain.begin_at(head);
                        return Ok(chain);
                    }
                    Known::Never => {
                        tracing::warn!(database, store = %chain.uploaded.position, log = %head.position, "the store has another past than the log; a new history begins in it");
                    }
                }
            }
        }
        let name = ChainName::after(last, head.lineage);
        let mut chain = Chain {
            name,
            folder: self.store.chain(database, name),
            items: Inventory::default(),
            uploaded: head,
            needs_snapshot: None,
        };
        chain.begin_at(head);
        Ok(chain)
    }

    fn status(&self, stored: &Stored) -> StoreStatus {
        let now = now_ms();
        let mut status = StoreStatus {
            database: stored.database.clone(),
            ..StoreStatus::default()
        };
        if let Some(chain) = stored.chain.lock().as_ref() {
            let snapshot = chain.items.of(SNAPSHOTS).next_back();
            status.folder = Some(format!("{}/{}", stored.database, chain.name));
            status.uploaded_txid = match chain.needs_snapshot {
                // Not restorable yet.
                Some(_) => reach(&chain.items).unwrap_or_default(),
                None => chain.uploaded.position.txid,
            };
            status.snapshot_txid = snapshot.map(|item| item.max);
            status.snapshot_ms = snapshot.map(|item| item.stored_ms);
            status.snapshot_age_seconds = snapshot.map(|item| seconds_since(item.stored_ms, now));
            status.objects = chain.items.iter().count() as u64;
            status.bytes = chain.items.bytes();
        }
        let health = stored.health.lock();
        status.uploaded_ms = health.uploaded_ms;
        status.lag_seconds = health.behind_since_ms.map_or(0.0, |since| seconds_since(since, now));
        status.last_error = health.upload_error.clone().or_else(|| health.keep_error.clone());
        status
    }
}

impl Chain {
    /// From `head` on everything is uploaded; what was before, a snapshot must have.
    fn begin_at(&mut self, head: Head) {
        self.uploaded = head;
        self.needs_snapshot = Some(head.position.txid);
    }
}

fn header_of(bytes: &[u8]) -> Result<Header, StoreError> {
    let short = crate::ltx::LtxError::Field { what: "the length" };
    let first = bytes.first_chunk().ok_or(short).map_err(LogError::File)?;
    Ok(Header::parse(first).map_err(LogError::File)?)
}

/// How long to wait before the next try, somewhat at random, so that many do not come at once.
#[derive(Default)]
pub(super) struct Wait {
    tries: u32,
}

impl Wait {
    pub(super) fn next(&mut self) -> Duration {
        let wait = FIRST_WAIT.saturating_mul(1 << self.tries.min(16)).min(LAST_WAIT);
        self.tries += 1;
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}
