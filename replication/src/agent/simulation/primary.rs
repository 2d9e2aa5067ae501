//! A primary of the simulation: the real follower machines and judgements on a log in memory; commits that wait for the
//! log's fsync; crashes that lose what was not fsynced.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::model::{Content, OPS_PER_COMMIT, Op};
use super::{DATABASES, Plant};
use crate::agent::follower::Follower;
use crate::agent::lane::Verdict;
use crate::log::memory::MemoryLog;
use crate::log::{Known, Log};
use crate::position::{Epoch, Txid};

/// A connection of a follower.
pub(super) type Connection = u64;
/// A request of a lane.
pub(super) type RequestId = u64;

pub(super) struct Primary {
    pub(super) epoch: Epoch,
    pub(super) alive: bool,
    pub(super) log: MemoryLog,
    pub(super) databases: BTreeMap<&'static str, Database>,
    pub(super) followers: BTreeMap<Connection, Follower>,
    /// The log's fsync is under way.
    pub(super) syncing: bool,
    /// The disk takes nothing.
    pub(super) full: bool,
    plant: Option<Plant>,
}

pub(super) struct Database {
    pub(super) content: Content,
    /// As it was made.
    first: Content,
    positions: HashMap<Op, crate::position::Position>,
    /// Durable in the file, whatever the log has.
    checkpoint: Txid,
    /// Waits for the writer, which waits for the log.
    waiting: VecDeque<(RequestId, Vec<Op>)>,
    /// Answers that leave when the log is durable.
    gated: Vec<(RequestId, Vec<Verdict>)>,
}

/// Refused for ever, as a constraint would.
pub(super) fn is_refused(op: Op) -> bool {
    op % 13 == 5
}

/// Not even understood.
pub(super) fn is_poison(op: Op) -> bool {
    op % 29 == 7
}

impl Primary {
    pub(super) fn new(plant: Option<Plant>) -> Primary {
        let epoch = Epoch(1);
        let log = MemoryLog::default();
        if plant == Some(Plant::ShowUnsynced) {
            log.show_unsynced();
        }
        let mut databases = BTreeMap::new();
        for (number, name) in DATABASES.into_iter().enumerate() {
            let content = Content::new(number as u32 + 7, epoch);
            log.begin(name, content.head).expect("a log in memory takes it");
            databases.insert(name, Database::of(content.clone(), content));
        }
        Primary {
            epoch,
            alive: true,
            log,
            databases,
            followers: BTreeMap::new(),
            syncing: false,
            full: false,
            plant,
        }
    }

    /// A primary that starts under a new epoch with what is durable here: `kept` of the log's records that were not, and
    /// of each file what `file_txid` chooses between the checkpoint and the newest commit.
    pub(super) fn restarted(&self, epoch: Epoch, kept: u64, mut file_txid: impl FnMut(Txid, Txid) -> Txid) -> Primary {
        let log = self.log.fork();
        log.cut_power(kept);
        let mut databases = BTreeMap::new();
        for (name, database) in &self.databases {
            let txid = file_txid(database.checkpoint, database.content.head.position.txid);
            let content = agree(
                &log,
                name,
                database.content.at(txid, &database.first),
                &database.content,
            );
            databases.insert(*name, Database::of(content, database.first.clone()));
        }
        Primary {
            epoch,
            alive: true,
            log,
            databases,
            followers: BTreeMap::new(),
            syncing: false,
            full: false,
            plant: self.plant,
        }
    }

    /// Takes a request of a lane. Answers come from here and from [`Primary::synced`].
    pub(super) fn request(
        &mut self,
        database: &str,
        request: RequestId,
        ops: Vec<Op>,
    ) -> Vec<(RequestId, Vec<Verdict>)> {
        let Some(database) = self.databases.get_mut(database) else {
            return vec![];
        };
        database.waiting.push_back((request, ops));
        self.run_writers()
    }

    /// Every commit that was written is durable.
    pub(super) fn synced(&mut self) -> Vec<(RequestId, Vec<Verdict>)> {
        self.syncing = false;
        self.log.sync();
        let gated = |database: &mut Database| std::mem::take(&mut database.gated);
        let mut answers: Vec<_> = self.databases.values_mut().flat_map(gated).collect();
        answers.extend(self.run_writers());
        answers
    }

    fn run_writers(&mut self) -> Vec<(RequestId, Vec<Verdict>)> {
        let mut answers = Vec::new();
        for (name, database) in &mut self.databases {
            while database.gated.is_empty()
                && let Some((request, ops)) = database.waiting.pop_front()
            {
                let (verdicts, new) = database.execute(&ops, self.epoch, self.full, self.plant);
                if new.is_empty() {
                    answers.push((request, verdicts));
                    continue;
                }
                let file = database.content.commit(self.epoch, &new);
                self.log.write(name, file).expect("it continues the log");
                self.syncing = true;
                if self.plant == Some(Plant::NoFsync) {
                    answers.push((request, verdicts));
                    database.gated.push((0, vec![]));
                } else {
                    database.gated.push((request, verdicts));
                }
            }
        }
        answers
    }

    /// Moves what the log has into the files.
    pub(super) fn checkpoint(&mut self) {
        for (name, database) in &mut self.databases {
            if let Some(head) = self.log.head(name) {
                database.checkpoint = head.position.txid;
            }
        }
    }

    /// What a snapshot of the database would be now; `None` while its newest commit is not in the log.
    pub(super) fn snapshot(&self, name: &str) -> Option<Content> {
        let content = &self.databases.get(name)?.content;
        let known = self.log.state_at(name, content.head.position.txid)?;
        known.is_same(&content.head).then(|| content.clone())
    }
}

impl Database {
    fn of(content: Content, first: Content) -> Database {
        Database {
            positions: content.positions(),
            checkpoint: content.head.position.txid,
            content,
            first,
            waiting: VecDeque::new(),
            gated: Vec::new(),
        }
    }

    /// As the writer does: in order, each once, none after one that could not be done now.
    fn execute(&mut self, ops: &[Op], epoch: Epoch, full: bool, plant: Option<Plant>) -> (Vec<Verdict>, Vec<Op>) {
        let position = crate::position::Position {
            epoch,
            txid: self.content.head.position.txid.next(),
        };
        let mut new = Vec::new();
        let mut broken = false;
        let mut verdicts = Vec::new();
        for op in ops {
            verdicts.push(match self.positions.get(op) {
                _ if broken && plant != Some(Plant::OutOfOrder) => Verdict::NotYet,
                Some(position) if plant != Some(Plant::NoDedupe) => Verdict::Done(*position),
                _ if is_refused(*op) => Verdict::Refused,
                // Large ones find no room.
                _ if full && op % 3 == 0 || new.len() >= OPS_PER_COMMIT => {
                    broken = true;
                    Verdict::NotYet
                }
                _ => {
                    new.push(*op);
                    self.positions.insert(*op, position);
                    Verdict::Done(position)
                }
            });
        }
        (verdicts, new)
    }
}

/// As `publish.rs` brings file and log into agreement at open. `newest` is all that was ever committed.
fn agree(log: &MemoryLog, name: &str, file: Content, newest: &Content) -> Content {
    let mut content = file;
    let logged = log.head(name).expect("it was begun");
    if content.head.position.txid < logged.position.txid {
        assert_eq!(log.find(name, &content.head), Known::Here, "the file is in its log");
        let files = log
            .read_after(name, content.head.position.txid, usize::MAX)
            .expect("not forgotten");
        content.apply(&files, false).expect("the log continues the file");
    } else if content.head.position.txid > logged.position.txid {
        // Committed, not logged, acknowledged to nobody.
        let (last, before): (Vec<_>, Vec<_>) = content.ops.iter().partition(|(_, at)| *at == content.head.position);
        assert_eq!(
            content.head.position.txid,
            logged.position.txid.next(),
            "one commit waits for the log"
        );
        let epoch = content.head.position.epoch;
        content.ops = before;
        content.head = logged;
        let file = content.commit(epoch, &last.iter().map(|(op, _)| *op).collect::<Vec<_>>());
        log.append(name, file).expect("it continues the log");
    }
    assert!(content.ops.len() <= newest.ops.len());
    content
}
