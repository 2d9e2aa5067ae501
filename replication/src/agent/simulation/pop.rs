//! A replica of the simulation: the real machines of its databases and lanes, the queue's file, and what stands for the
//! databases' files.

use std::collections::BTreeMap;

use super::DATABASES;
use super::model::{Content, Op};
use super::primary::{Connection, RequestId};
use crate::agent::lane::{Lane, Number, Verdict};
use crate::agent::replica_state::{Leave, ReplicaState};
use crate::position::Epoch;

/// Time between two scrubs, in milliseconds.
const SCRUB_MS: u64 = 10_000;

pub(super) struct Pop {
    /// Rises with every crash: what belonged to an earlier life is nobody's.
    pub(super) life: u32,
    pub(super) alive: bool,
    pub(super) connection: Option<Connection>,
    /// When the primary was heard last.
    pub(super) heard_at: u64,
    pub(super) reconnect_ms: u64,
    /// The highest epoch followed.
    pub(super) epoch: Epoch,
    /// What the network does not let pass.
    pub(super) blocked_up: bool,
    pub(super) blocked_down: bool,
    /// Its disk takes no pages.
    pub(super) full: bool,
    /// Frames that its tasks will not take.
    pub(super) overflows: u32,
    /// The next file is damaged on its way.
    pub(super) damages: bool,
    pub(super) locals: BTreeMap<&'static str, Local>,
    /// The queue's file.
    pub(super) queue: BTreeMap<Number, (&'static str, Op)>,
    /// Removed from it, perhaps not durably.
    pub(super) removed: Vec<(Number, (&'static str, Op))>,
    pub(super) next_number: Number,
}

pub(super) struct Local {
    pub(super) state: ReplicaState,
    /// The file as readers see it.
    pub(super) content: Option<Content>,
    /// The file as it is after a power cut.
    pub(super) durable: Option<Content>,
    pub(super) left: Option<Leave>,
    pub(super) lane: Lane,
    /// The request under way, and its operations.
    pub(super) request: Option<(RequestId, Vec<Number>)>,
    /// Of operations whose answers wait; whether the primary that said it is the one whose word counts.
    pub(super) outcomes: BTreeMap<Number, (Op, Verdict, bool)>,
}

impl Pop {
    pub(super) fn new() -> Pop {
        Pop {
            life: 0,
            alive: true,
            connection: None,
            heard_at: 0,
            reconnect_ms: 50,
            epoch: Epoch(0),
            blocked_up: false,
            blocked_down: false,
            full: false,
            overflows: 0,
            damages: false,
            locals: DATABASES.into_iter().map(|name| (name, Local::of(None))).collect(),
            queue: BTreeMap::new(),
            removed: Vec::new(),
            next_number: 1,
        }
    }

    /// The process ends; with `power`, only what was fsynced is left.
    pub(super) fn crash(&mut self, power: bool) {
        self.alive = false;
        self.life += 1;
        self.connection = None;
        self.epoch = Epoch(0);
        for local in self.locals.values_mut() {
            let file = if power {
                local.durable.take()
            } else {
                local.content.take()
            };
            *local = Local::of(file);
        }
        if power {
            self.queue.extend(self.removed.drain(..));
        }
        self.removed.clear();
    }
}

impl Local {
    fn of(file: Option<Content>) -> Local {
        Local {
            state: ReplicaState::new(SCRUB_MS),
            content: file.clone(),
            durable: file,
            left: None,
            lane: Lane::new(),
            request: None,
            outcomes: BTreeMap::new(),
        }
    }
}
