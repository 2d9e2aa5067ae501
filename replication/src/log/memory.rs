//! A log in memory, for tests and simulations: durable when it is told so, and forgetful on demand.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Head, Log, LogError};
use crate::ltx::Header;
use crate::position::Txid;

/// A handle; its clones are the same log, as if it was opened again.
#[derive(Clone)]
pub(crate) struct MemoryLog {
    state: Arc<Mutex<State>>,
    appended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    chains: BTreeMap<String, Chain>,
    /// Records written, and how many of them are durable.
    written: u64,
    synced: u64,
    shows_unsynced: bool,
}

struct Chain {
    base: Head,
    files: Vec<Entry>,
}

struct Entry {
    header: Header,
    file: Bytes,
    record: u64,
}

impl Default for MemoryLog {
    fn default() -> MemoryLog {
        MemoryLog {
            state: Arc::default(),
            appended: watch::Sender::new(0),
        }
    }
}

impl MemoryLog {
    /// The same content in a log of its own.
    pub(crate) fn fork(&self) -> MemoryLog {
        let state = self.state.lock();
        let chain = |(name, chain): (&String, &Chain)| {
            let copy = |entry: &Entry| Entry {
                file: entry.file.clone(),
                ..*entry
            };
            let files = chain.files.iter().map(copy).collect();
            (
                name.clone(),
                Chain {
                    base: chain.base,
                    files,
                },
            )
        };
        let copy = State {
            chains: state.chains.iter().map(chain).collect(),
            ..*state
        };
        MemoryLog {
            state: Arc::new(Mutex::new(copy)),
            appended: watch::Sender::new(0),
        }
    }

    /// Plants a fault: what is not durable yet is shown.
    pub(crate) fn show_unsynced(&self) {
        self.state.lock().shows_unsynced = true;
    }

    /// Takes a file that is not durable before [`MemoryLog::sync`].
    pub(crate) fn write(&self, database: &str, file: Bytes) -> Result<(), LogError> {
        let mut state = self.state.lock();
        let header = Header::of(&file).ok_or(crate::ltx::LtxError::Magic)?;
        state.written += 1;
        let record = state.written;
        let chain = state.chains.get_mut(database);
        match chain {
            Some(chain) if chain.newest().is_continued_by(&header) => {
                chain.files.push(Entry { header, file, record });
                Ok(())
            }
            other => Err(LogError::Fenced {
                database: database.to_owned(),
                head: other.map_or_else(|| "not begun".to_owned(), |chain| chain.newest().position.to_string()),
            }),
        }
    }

    pub(crate) fn sync(&self) {
        let mut state = self.state.lock();
        state.synced = state.written;
        drop(state);
        self.appended.send_modify(|count| *count += 1);
    }

    /// What is left after the power was cut: of what was not durable, the first `kept` records.
    pub(crate) fn cut_power(&self, kept: u64) {
        let mut state = self.state.lock();
        let last = state.written.min(state.synced.saturating_add(kept));
        for chain in state.chains.values_mut() {
            chain.files.retain(|entry| entry.record <= last);
        }
        (state.written, state.synced) = (last, last);
    }

    /// Forgets what is durable up to `txid`.
    pub(crate) fn forget(&self, database: &str, txid: Txid) {
        let mut state = self.state.lock();
        let synced = state.synced;
        let Some(chain) = state.chains.get_mut(database) else {
            return;
        };
        while let Some(entry) = chain.files.first()
            && entry.record <= synced
            && entry.header.max_txid <= txid
        {
            chain.base = Head::after(&chain.files.remove(0).header);
        }
    }
}

impl State {
    fn is_shown(&self, entry: &Entry) -> bool {
        self.shows_unsynced || entry.record <= self.synced
    }
}

impl Chain {
    fn newest(&self) -> Head {
        self.files.last().map_or(self.base, |entry| Head::after(&entry.header))
    }
}

impl Log for MemoryLog {
    fn append(&self, database: &str, file: Bytes) -> Result<(), LogError> {
        self.write(database, file)?;
        self.sync();
        Ok(())
    }

    fn begin(&self, database: &str, head: Head) -> Result<(), LogError> {
        let chain = Chain {
            base: head,
            files: Vec::new(),
        };
        self.state.lock().chains.insert(database.to_owned(), chain);
        self.sync();
        Ok(())
    }

    fn end(&self, database: &str) -> Result<(), LogError> {
        self.state.lock().chains.remove(database);
        self.appended.send_modify(|count| *count += 1);
        Ok(())
    }

    fn head(&self, database: &str) -> Option<Head> {
        self.heads().remove(database)
    }

    fn heads(&self) -> BTreeMap<String, Head> {
        let state = self.state.lock();
        let head = |chain: &Chain| {
            let newest = chain.files.iter().rfind(|entry| state.is_shown(entry));
            newest.map_or(chain.base, |entry| Head::after(&entry.header))
        };
        state
            .chains
            .iter()
            .map(|(name, chain)| (name.clone(), head(chain)))
            .collect()
    }

    fn state_at(&self, database: &str, txid: Txid) -> Option<Head> {
        let state = self.state.lock();
        let chain = state.chains.get(database)?;
        let after = chain.files.iter().filter(|entry| state.is_shown(entry));
        let mut known = std::iter::once(chain.base).chain(after.map(|entry| Head::after(&entry.header)));
        known.find(|head| head.position.txid == txid)
    }

    fn read_after(&self, database: &str, txid: Txid, max_bytes: usize) -> Result<Vec<Bytes>, LogError> {
        let state = self.state.lock();
        let gone = || LogError::Gone {
            database: database.to_owned(),
            txid,
        };
        let chain = state.chains.get(database).ok_or_else(gone)?;
        if txid < chain.base.position.txid || txid > chain.newest().position.txid {
            return Err(gone());
        }
        let mut files = Vec::new();
        let mut size = 0;
        let wanted = chain.files.iter().filter(|entry| entry.header.min_txid > txid);
        for entry in wanted.take_while(|entry| state.is_shown(entry)) {
            size += entry.file.len();
            if size > max_bytes && !files.is_empty() {
                break;
            }
            files.push(entry.file.clone());
        }
        Ok(files)
    }

    fn release(&self, _database: &str, _txid: Txid) {}

    fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::suite;

    #[test]
    fn it_is_a_log() {
        let log = MemoryLog::default();
        suite::run(|| Box::new(log.clone()));
    }

    #[test]
    fn what_is_not_durable_is_not_shown_and_may_be_lost() {
        let log = MemoryLog::default();
        log.begin("a", suite::head(1, 0)).unwrap();
        for txid in 1..=2 {
            log.write("a", suite::file(suite::head(1, txid - 1), suite::head(1, txid)))
                .unwrap();
        }
        assert_eq!(log.head("a"), Some(suite::head(1, 0)));
        assert_eq!(log.state_at("a", Txid(1)), None);
        log.cut_power(1);
        assert_eq!(log.head("a"), Some(suite::head(1, 1)));
        assert_eq!(log.read_after("a", Txid(0), usize::MAX).unwrap().len(), 1);
    }
}
