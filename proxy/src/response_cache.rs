//! The response cache as the phases use it: storage, one writer per page, back-off, and purges that win over fills.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use pingora_cache::{
    CacheKey,
    key::{CacheHashKey, HashBinary},
    lock::{CacheKeyLockImpl, CacheLock},
    predictor::{CacheablePredictor, Predictor},
};
use selvedge_cache::{Backoff, MemoryStorage, StorageStats};
use selvedge_schema::{CacheBudget, LONGEST_FILL};
use tokio::sync::Semaphore;

/// Pages regenerated at the same time: a quarter of what a handler serves at once by default (256), so that readers who
/// wait for a page find a free slot however many pages turned stale together.
const REGENERATIONS: usize = 64;
/// Pages remembered as not cacheable, so that their readers do not wait for each other. Eight bytes each.
const NOT_CACHEABLE: usize = 8 * 1024;
/// A purge is remembered for longer than any request takes to reach its response header.
const PURGE_MEMORY: Duration = Duration::from_secs(10 * 60);
/// Purges remembered by page; beyond it one moment stands for all that were forgotten.
const PURGES: usize = 50_000;

pub(crate) struct ResponseCache {
    pub(crate) storage: &'static MemoryStorage,
    pub(crate) lock: &'static CacheKeyLockImpl,
    pub(crate) predictor: &'static (dyn CacheablePredictor + Sync),
    pub(crate) backoff: Backoff,
    pub(crate) regenerations: Arc<Semaphore>,
    purges: Mutex<Purges>,
}

#[derive(Default)]
struct Purges {
    by_page: HashMap<HashBinary, SystemTime>,
    /// Fills that began before this moment may be of a page whose purge was forgotten, or everything was purged.
    floor: Option<SystemTime>,
}

impl ResponseCache {
    /// Lives as long as the process: pingora wants its parts `'static`.
    pub(crate) fn new(budget: &CacheBudget) -> ResponseCache {
        ResponseCache {
            storage: MemoryStorage::leak(budget.memory, budget.max_object),
            lock: Box::leak(CacheLock::new_boxed(LONGEST_FILL)),
            predictor: Box::leak(Box::new(Predictor::<32>::new(NOT_CACHEABLE / 32, None))),
            backoff: Backoff::default(),
            regenerations: Arc::new(Semaphore::new(REGENERATIONS)),
            purges: Mutex::default(),
        }
    }

    /// Removes the page and whatever fill of it began before now. True when something was there.
    pub(crate) fn purge(&self, key: &CacheKey, soft: bool) -> bool {
        let now = SystemTime::now();
        let mut purges = self.purges.lock();
        if purges.by_page.len() >= PURGES {
            purges
                .by_page
                .retain(|_, at| now.duration_since(*at).unwrap_or_default() < PURGE_MEMORY);
            if purges.by_page.len() >= PURGES {
                purges.by_page.clear();
                purges.floor = Some(now);
            }
        }
        purges.by_page.insert(key.primary_bin(), now);
        drop(purges);
        self.storage.purge_page(key, soft)
    }

    /// Removes every page, and every fill that began before now. Says how many pages there were.
    pub(crate) fn purge_everything(&self) -> usize {
        let mut purges = self.purges.lock();
        purges.by_page.clear();
        purges.floor = Some(SystemTime::now());
        drop(purges);
        self.storage.purge_everything()
    }

    /// Whether the page was purged at or after `since`, the moment its fill began.
    pub(crate) fn purged_since(&self, page: &HashBinary, since: SystemTime) -> bool {
        let purges = self.purges.lock();
        let purged = purges.by_page.get(page).copied().max(purges.floor);
        purged.is_some_and(|at| at >= since)
    }

    pub(crate) fn stats(&self) -> StorageStats {
        self.storage.stats()
    }
}
