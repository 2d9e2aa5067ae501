//! Who follows this primary, and what each has applied, as far as it has said.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::log::Head;
use crate::publish::now_ms;

/// One agent that follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FollowingReplica {
    pub agent: String,
    /// When it was last heard, in milliseconds since 1970.
    pub heard_ms: i64,
    pub databases: BTreeMap<String, Head>,
}

/// By connection: two agents may have the same name.
#[derive(Default)]
pub(crate) struct Replicas {
    connections: Mutex<(u64, BTreeMap<u64, FollowingReplica>)>,
}

impl Replicas {
    /// A connection's number.
    pub(crate) fn arrive(&self) -> u64 {
        let mut connections = self.connections.lock();
        connections.0 += 1;
        connections.0
    }

    pub(crate) fn named(&self, number: u64, agent: &str) {
        let replica = FollowingReplica {
            agent: agent.to_owned(),
            heard_ms: now_ms(),
            databases: BTreeMap::new(),
        };
        self.connections.lock().1.insert(number, replica);
    }

    pub(crate) fn applied(&self, number: u64, heads: BTreeMap<String, Head>) {
        if let Some(replica) = self.connections.lock().1.get_mut(&number) {
            replica.heard_ms = now_ms();
            replica.databases.extend(heads);
        }
    }

    pub(crate) fn forget_database(&self, name: &str) {
        for replica in self.connections.lock().1.values_mut() {
            replica.databases.remove(name);
        }
    }

    pub(crate) fn leave(&self, number: u64) {
        self.connections.lock().1.remove(&number);
    }

    pub(crate) fn all(&self) -> Vec<FollowingReplica> {
        self.connections.lock().1.values().cloned().collect()
    }
}
