//! The databases of a primary: all are known, some are open.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::Database;

/// One database.
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) migrations: Option<PathBuf>,
    pub(crate) seed: Option<PathBuf>,
    /// Held while it is opened, closed, replaced or deleted.
    pub(crate) turn: tokio::sync::Mutex<()>,
    open: Mutex<Option<Arc<Database>>>,
    used: AtomicU64,
}

impl Slot {
    pub(crate) fn new(name: &str) -> Slot {
        Slot {
            name: name.to_owned(),
            migrations: None,
            seed: None,
            turn: tokio::sync::Mutex::default(),
            open: Mutex::default(),
            used: AtomicU64::new(0),
        }
    }

    /// The database, if it is open.
    pub(crate) fn get(&self) -> Option<Arc<Database>> {
        self.open.lock().clone()
    }

    pub(crate) fn put(&self, database: Arc<Database>) {
        *self.open.lock() = Some(database);
    }

    pub(crate) fn take(&self) -> Option<Arc<Database>> {
        self.open.lock().take()
    }

    /// Takes it unless somebody uses it.
    fn take_unused(&self) -> Option<Arc<Database>> {
        self.open.lock().take_if(|database| Arc::strong_count(database) == 1)
    }

    fn is_open(&self) -> bool {
        self.open.lock().is_some()
    }
}

#[derive(Default)]
pub(crate) struct Slots {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    /// Counts uses: the order of use needs no time.
    uses: AtomicU64,
}

impl Slots {
    /// The slot of a database, as one that is used now.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Slot>> {
        let slot = self.slots.lock().get(name).cloned()?;
        slot.used
            .store(self.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        Some(slot)
    }

    /// Whether it is the slot of its database still: it may have been deleted meanwhile.
    pub(crate) fn has(&self, slot: &Arc<Slot>) -> bool {
        let slots = self.slots.lock();
        slots.get(&slot.name).is_some_and(|known| Arc::ptr_eq(known, slot))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.slots.lock().contains_key(name)
    }

    pub(crate) fn insert(&self, slot: Arc<Slot>) {
        self.slots.lock().insert(slot.name.clone(), slot);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.slots.lock().remove(name);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.lock().values().cloned().collect()
    }

    pub(crate) fn open_count(&self) -> usize {
        self.slots.lock().values().filter(|slot| slot.is_open()).count()
    }

    /// Closes the least recently used until at most `keep` are open, but none that is in use.
    pub(crate) async fn close_unused(&self, keep: usize) {
        let mut open: Vec<_> = self.all().into_iter().filter(|slot| slot.is_open()).collect();
        if open.len() <= keep {
            return;
        }
        open.sort_unstable_by_key(|slot| slot.used.load(Ordering::Relaxed));
        let mut left = open.len() - keep;
        for slot in open {
            if left == 0 {
                return;
            }
            // Whoever has the turn opens or closes it; it is not unused.
            let Ok(_turn) = slot.turn.try_lock() else { continue };
            if let Some(database) = slot.take_unused() {
                database.close().await;
                left -= 1;
            }
        }
    }
}
