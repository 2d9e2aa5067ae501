//! Databases that were deleted: kept aside until their grace has passed, so that they can be had back, and remembered
//! afterwards, so that replicas that were away drop them too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::folder::Folder;
use crate::position::Txid;
use crate::publish::now_ms;

/// Databases remembered after their files were removed; beyond it the oldest are forgotten.
const REMEMBERED: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    pub deleted_ms: i64,
    /// When the files are removed, in milliseconds since 1970; `None` when they are.
    pub until_ms: Option<i64>,
    /// Where it stood: a database made later under its name begins after it, so that no bookmark of the old one is
    /// taken for the new one's.
    pub txid: Txid,
}

/// The list, in a file, and the place where the folders wait.
pub(crate) struct DeletedList {
    path: PathBuf,
    waiting: PathBuf,
    entries: Mutex<BTreeMap<String, Deleted>>,
}

impl DeletedList {
    /// Reads the list below an agent's folder. Blocks.
    pub(crate) fn open(data_dir: &std::path::Path) -> io::Result<DeletedList> {
        let path = data_dir.join("deleted.json");
        let entries = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(DeletedList {
            path,
            waiting: data_dir.join("deleted"),
            entries: Mutex::new(entries),
        })
    }

    pub(crate) fn all(&self) -> BTreeMap<String, Deleted> {
        self.entries.lock().clone()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Deleted> {
        self.entries.lock().get(name).cloned()
    }

    /// Whether its files still wait.
    pub(crate) fn is_waiting(&self, name: &str) -> bool {
        self.get(name).is_some_and(|entry| entry.until_ms.is_some())
    }

    /// Where the folder of a deleted database waits.
    pub(crate) fn folder(&self, name: &str) -> Folder {
        Folder::of(&self.waiting, name)
    }

    /// Notes a deletion, durably. Blocks.
    pub(crate) fn add(&self, name: &str, grace: Duration, txid: Txid) -> io::Result<Deleted> {
        let now = now_ms();
        let entry = Deleted {
            deleted_ms: now,
            until_ms: Some(now.saturating_add(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX))),
            txid,
        };
        self.change(|entries| {
            entries.insert(name.to_owned(), entry.clone());
        })?;
        Ok(entry)
    }

    /// Forgets a deletion, durably. Blocks.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|entries| {
            entries.remove(name);
        })
    }

    /// Removes the files of a database whose grace has passed. Blocks.
    pub(crate) fn purge(&self, name: &str) -> io::Result<()> {
        // First the list: from then on nobody takes the files for ones that can be had back.
        self.change(|entries| {
            if let Some(entry) = entries.get_mut(name) {
                entry.until_ms = None;
            }
            let mut gone: Vec<(i64, String)> = entries
                .iter()
                .filter(|(_, entry)| entry.until_ms.is_none())
                .map(|(name, entry)| (entry.deleted_ms, name.clone()))
                .collect();
            gone.sort_unstable();
            for (_, name) in gone.iter().take(gone.len().saturating_sub(REMEMBERED)) {
                entries.remove(name);
            }
        })?;
        self.folder(name).remove()
    }

    /// Databases whose grace has passed.
    pub(crate) fn due(&self) -> Vec<String> {
        let now = now_ms();
        let entries = self.entries.lock();
        let due = entries
            .iter()
            .filter(|(_, entry)| entry.until_ms.is_some_and(|until| until <= now));
        due.map(|(name, _)| name.clone()).collect()
    }

    /// The list is what the file says: a change that cannot be written does not happen.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Deleted>)) -> io::Result<()> {
        let mut entries = self.entries.lock();
        let mut changed = entries.clone();
        change(&mut changed);
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&changed)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        if let Some(parent) = self.path.parent() {
            File::open(parent)?.sync_all()?;
        }
        *entries = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_lasts_until_it_is_undone_and_its_name_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let open = || DeletedList::open(directory.path()).unwrap();
        let list = open();
        list.add("kept", Duration::from_secs(3600), Txid(7)).unwrap();
        list.add("due", Duration::ZERO, Txid(1)).unwrap();
        list.add("back", Duration::ZERO, Txid(1)).unwrap();
        list.remove("back").unwrap();
        for list in [list, open()] {
            assert_eq!(list.due(), ["due"]);
            assert!(list.is_waiting("kept") && list.is_waiting("due") && !list.is_waiting("back"));
        }
        let list = open();
        list.purge("due").unwrap();
        let list = open();
        assert!(list.due().is_empty() && !list.is_waiting("due"));
        assert_eq!(list.get("due").unwrap().until_ms, None);
        assert_eq!(list.get("kept").unwrap().txid, Txid(7));
    }
}
