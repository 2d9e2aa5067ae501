//! What a database has done since it was opened, for metrics and readiness.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseStats {
    /// Statements answered by a reader, whatever the answer.
    pub reads: u64,
    /// Statements and batches answered by the writer, whatever the answer.
    pub writes: u64,
    /// Transactions committed; less than `writes` when writes shared a commit.
    pub commits: u64,
    /// Statements ended by their time limit.
    pub timeouts: u64,
    /// Readers at work now.
    pub readers_busy: usize,
    /// Statements waiting for a reader now.
    pub reads_waiting: usize,
    /// Writes waiting for the writer now.
    pub writes_waiting: usize,
    /// Size of the write-ahead log.
    pub wal_bytes: u64,
    /// Damage was found in the file: writes are refused from then on.
    pub damaged: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) commits: Counter,
    pub(crate) timeouts: Counter,
    damaged: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Remembers how a statement ended. Damage is logged once: the log ends here, callers only pass the error on.
    pub(crate) fn note(&self, database: &str, error: &crate::SqlError) {
        match error.code() {
            "timeout" => self.timeouts.add(),
            "corrupt" if !self.damaged.swap(true, Ordering::Relaxed) => {
                tracing::error!(database, %error, "the database is damaged: writes are refused; restore it from a backup");
            }
            _ => {}
        }
    }
}
