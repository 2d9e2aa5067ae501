//! What an agent knows of each of its databases, for the proxy, for operators and for metrics.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::log::Head;
use crate::publish::now_ms;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// This agent owns the writer.
    Primary,
    /// Pages are applied as they come.
    Following,
    /// The first copy, or a new one, is on its way.
    Copying,
    /// The copy was damaged or had another history; it is not read any more.
    Quarantined,
    /// At a primary: the file is not what the log says. It is neither read nor written until other content replaces it.
    Damaged,
    /// There is no such database any more.
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseStatus {
    pub database: String,
    pub state: State,
    /// The file to read; `None` when there is none that may be read.
    pub path: Option<PathBuf>,
    /// Where that file stands.
    pub head: Head,
    /// Where the primary stood when it was last heard of.
    pub primary: Head,
    /// Since when the replica has not had all that the primary had, in milliseconds since 1970; `None` when it has.
    pub behind_since_ms: Option<i64>,
    /// Whether the primary is heard.
    pub primary_reachable: bool,
    pub rebuilds: u64,
    pub scrubs: u64,
    /// How long the last commit took to become visible here, in milliseconds by both clocks.
    pub last_apply_lag_ms: i64,
}

impl DatabaseStatus {
    fn new(database: &str) -> DatabaseStatus {
        DatabaseStatus {
            database: database.to_owned(),
            state: State::Copying,
            path: None,
            head: Head::NONE,
            primary: Head::NONE,
            behind_since_ms: None,
            primary_reachable: false,
            rebuilds: 0,
            scrubs: 0,
            last_apply_lag_ms: 0,
        }
    }

    /// Transactions the replica lacks.
    pub fn behind_transactions(&self) -> u64 {
        self.primary.position.txid.0.saturating_sub(self.head.position.txid.0)
    }

    /// Seconds for which the replica has lacked some.
    pub fn behind_seconds(&self) -> u64 {
        let since = self.behind_since_ms.unwrap_or_else(now_ms);
        u64::try_from(now_ms() - since).unwrap_or(0) / 1000
    }
}

/// The statuses, each with the number of its last change.
#[derive(Default)]
pub(crate) struct Board {
    statuses: Mutex<BTreeMap<String, (u64, DatabaseStatus)>>,
    changed: watch::Sender<u64>,
}

impl Board {
    /// Changes one database's status; makes it when there is none.
    pub(crate) fn update(&self, database: &str, change: impl FnOnce(&mut DatabaseStatus)) {
        let mut statuses = self.statuses.lock();
        let number = *self.changed.borrow() + 1;
        let entry = match statuses.get_mut(database) {
            Some(entry) => entry,
            None => statuses
                .entry(database.to_owned())
                .or_insert_with(|| (0, DatabaseStatus::new(database))),
        };
        let before = entry.1.clone();
        change(&mut entry.1);
        if entry.1 != before || entry.0 == 0 {
            entry.0 = number;
            self.changed.send_replace(number);
        }
    }

    pub(crate) fn get(&self, database: &str) -> Option<DatabaseStatus> {
        self.statuses.lock().get(database).map(|(_, status)| status.clone())
    }

    /// Every database there is.
    pub(crate) fn all(&self) -> Vec<DatabaseStatus> {
        let statuses = self.statuses.lock();
        let there = statuses.values().filter(|(_, status)| status.state != State::Deleted);
        there.map(|(_, status)| status.clone()).collect()
    }

    /// The database was deleted. Who watches is told so.
    pub(crate) fn delete(&self, database: &str) {
        self.update(database, |status| {
            *status = DatabaseStatus {
                state: State::Deleted,
                ..DatabaseStatus::new(database)
            };
        });
    }

    /// What changed after change number `after`, and the newest number.
    pub(crate) fn since(&self, after: u64) -> (Vec<DatabaseStatus>, u64) {
        let statuses = self.statuses.lock();
        let changed = statuses.values().filter(|(number, _)| *number > after);
        (
            changed.map(|(_, status)| status.clone()).collect(),
            *self.changed.borrow(),
        )
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns when `fits` holds for the database.
    pub(crate) async fn wait_for(&self, database: &str, fits: impl Fn(&DatabaseStatus) -> bool) {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if self
                .statuses
                .lock()
                .get(database)
                .is_some_and(|(_, status)| fits(status))
            {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
