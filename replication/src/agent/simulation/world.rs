//! The world of the simulation: what there is, what happens next, and the clients.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use fastrand::Rng;

use super::model::{Content, Op};
use super::pop::Pop;
use super::primary::{Connection, Primary, RequestId};
use super::{DATABASES, POPS, Plant};
use crate::agent::frames::{Frame, Request};
use crate::agent::lane::{self, Failure as Unanswered, Number, Verdict};
use crate::agent::replica_state;
use crate::position::{Lineage, Position, Txid};

/// All times are milliseconds.
pub(super) const FAULTS_END: u64 = 30_000;
/// How long it may take afterwards until everything is level: a request that was lost is given up, a scrub finds damage.
pub(super) const RECOVERY: u64 = 30_000;
/// Shorter than the real one, so that more requests arrive twice.
pub(super) const FORWARD_TIMEOUT: u64 = 4_000;
pub(super) const SILENCE: u64 = 3_000;
pub(super) const HEARTBEAT: u64 = 1_000;
/// Bytes read from the log at once: a few files, so that there is something between two reads.
pub(super) const BYTES_PER_TURN: usize = 1500;

pub(super) type PopId = usize;
/// Place of a primary's life in the order of their beginnings.
pub(super) type Incarnation = usize;

pub(super) enum Event {
    /// A client writes.
    Write,
    /// The queue's fsync has returned.
    Queued {
        pop: PopId,
        life: u32,
        database: &'static str,
        number: Number,
        op: Op,
    },
    Wake {
        pop: PopId,
    },
    Done {
        pop: PopId,
        life: u32,
        database: &'static str,
        work: Work,
    },
    /// A snapshot is asked for.
    Snapshot {
        pop: PopId,
        life: u32,
        database: &'static str,
        from: Incarnation,
    },
    Connect {
        pop: PopId,
        life: u32,
    },
    Connected {
        pop: PopId,
        life: u32,
        to: Incarnation,
    },
    ToPop {
        connection: Connection,
        frame: Frame,
    },
    ToPrimary {
        connection: Connection,
        request: Request,
    },
    Operations {
        pop: PopId,
        life: u32,
        database: &'static str,
        request: RequestId,
        ops: Vec<Op>,
        to: Incarnation,
    },
    Outcome {
        request: RequestId,
        outcome: Result<Vec<Verdict>, Unanswered>,
        counts: bool,
    },
    Read {
        at: Incarnation,
        connection: Connection,
        database: String,
        ask: u64,
        after: Txid,
    },
    Synced {
        at: Incarnation,
    },
    Heartbeat {
        at: Incarnation,
    },
    Fault,
    Mend(Mend),
    Heal,
    Look,
}

pub(super) enum Work {
    Opened,
    Applied(Vec<Bytes>),
    Scrubbed,
    Copied(Option<(Content, Incarnation)>),
}

/// The end of a fault.
pub(super) enum Mend {
    Network(PopId),
    Pop(PopId),
    PopDisk(PopId),
    PrimaryDisk(Incarnation),
    Primary(bool),
    Deposed(Incarnation),
}

pub(super) struct Stream {
    pub(super) pop: PopId,
    pub(super) primary: Incarnation,
    pub(super) open: bool,
    /// A message was lost, so what comes after it never arrives.
    pub(super) stalled: bool,
    /// When the last message in each direction arrives: they do not overtake each other.
    pub(super) up_at: u64,
    pub(super) down_at: u64,
}

/// Where a lane's request belongs.
pub(super) struct Asked {
    pub(super) pop: PopId,
    pub(super) life: u32,
    pub(super) database: &'static str,
}

/// How often things happened, to see that they do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) writes: u64,
    pub(super) applied: u64,
    pub(super) copied: u64,
    pub(super) diverged: u64,
    pub(super) too_old: u64,
    pub(super) asked: u64,
    pub(super) dropped: u64,
    pub(super) streams: u64,
    pub(super) pop_crashes: u64,
    pub(super) primary_crashes: u64,
    pub(super) moves: u64,
    pub(super) restores: u64,
    pub(super) refused_by_epoch: u64,
    pub(super) not_yet: u64,
    pub(super) longest_recovery_ms: u64,
}

impl Happened {
    pub(super) fn add(&mut self, other: &Happened) {
        let longest = self.longest_recovery_ms.max(other.longest_recovery_ms);
        for (sum, one) in self.fields().into_iter().zip(other.clone().fields()) {
            *sum += *one;
        }
        self.longest_recovery_ms = longest;
    }

    pub(super) fn assert_everything(&mut self) {
        let text = format!("{self:?}");
        assert!(self.fields().into_iter().all(|count| *count > 0), "{text}");
    }

    fn fields(&mut self) -> [&mut u64; 15] {
        [
            &mut self.writes,
            &mut self.applied,
            &mut self.copied,
            &mut self.diverged,
            &mut self.too_old,
            &mut self.asked,
            &mut self.dropped,
            &mut self.streams,
            &mut self.pop_crashes,
            &mut self.primary_crashes,
            &mut self.moves,
            &mut self.restores,
            &mut self.refused_by_epoch,
            &mut self.not_yet,
            &mut self.longest_recovery_ms,
        ]
    }
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) plant: Option<Plant>,
    pub(super) now: u64,
    pub(super) events: BTreeMap<(u64, u64), Event>,
    pub(super) event_count: u64,
    pub(super) wakes: BTreeSet<(PopId, u64)>,
    /// Every life of a primary; the last is the one whose word counts.
    pub(super) primaries: Vec<Primary>,
    pub(super) highest_epoch: u32,
    pub(super) backup: Option<Incarnation>,
    pub(super) pops: Vec<Pop>,
    pub(super) streams: BTreeMap<Connection, Stream>,
    pub(super) requests: BTreeMap<RequestId, Asked>,
    pub(super) ids: u64,
    /// Each operation's queue and place there.
    pub(super) ops: Vec<(PopId, &'static str, Number)>,
    /// On a disk of a PoP: to be done.
    pub(super) accepted: BTreeSet<Op>,
    pub(super) acknowledged: BTreeSet<Op>,
    /// Gone with what an operator gave up: a backup's future, a deposed primary's present.
    pub(super) excused: BTreeSet<Op>,
    /// Every state that was in a primary's log.
    pub(super) history: HashSet<(&'static str, Lineage, Position, u64)>,
    pub(super) healed: bool,
    pub(super) happened: Happened,
}

impl World {
    pub(super) fn new(seed: u64, plant: Option<Plant>) -> World {
        let mut world = World {
            rng: Rng::with_seed(seed),
            plant,
            now: 0,
            events: BTreeMap::new(),
            event_count: 0,
            wakes: BTreeSet::new(),
            primaries: vec![Primary::new(plant)],
            highest_epoch: 1,
            backup: None,
            pops: (0..POPS).map(|_| Pop::new()).collect(),
            streams: BTreeMap::new(),
            requests: BTreeMap::new(),
            ids: 0,
            ops: Vec::new(),
            accepted: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            excused: BTreeSet::new(),
            history: HashSet::new(),
            healed: false,
            happened: Happened::default(),
        };
        world.note_history(0);
        world.at(1, Event::Heartbeat { at: 0 });
        for pop in 0..POPS {
            world.start_pop(pop);
        }
        world.after(100, Event::Write);
        world.after(500, Event::Fault);
        world.at(FAULTS_END, Event::Heal);
        world
    }

    /// Runs to the end, or to what must not be.
    pub(super) fn run(mut self) -> Result<Happened, String> {
        while let Some(((now, _), event)) = self.events.pop_first() {
            self.now = now;
            let ends = matches!(event, Event::Look) && self.healed && self.is_level();
            self.step(event).map_err(|what| format!("at {now} ms: {what}"))?;
            if ends {
                self.check_primary().map_err(|what| format!("at the end: {what}"))?;
                self.happened.longest_recovery_ms = now - FAULTS_END;
                return Ok(self.happened);
            }
            if now > FAULTS_END + RECOVERY {
                return Err(format!(
                    "not level half a minute after the last fault: {}",
                    self.differences()
                ));
            }
        }
        Err("nothing happens any more".to_owned())
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.event_count += 1;
        self.events.insert((time, self.event_count), event);
    }

    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    /// Mostly short, sometimes long.
    pub(super) fn delay(&mut self, usual: u64, longest: u64) -> u64 {
        if self.chance(3) {
            self.rng.u64(usual..longest)
        } else {
            self.rng.u64(0..usual)
        }
    }

    pub(super) fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub(super) fn current(&self) -> Incarnation {
        self.primaries.len() - 1
    }

    pub(super) fn lives(&self, pop: PopId, life: u32) -> bool {
        self.pops[pop].alive && self.pops[pop].life == life
    }

    pub(super) fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Write => self.client_writes(),
            Event::Queued {
                pop,
                life,
                database,
                number,
                op,
            } if self.lives(pop, life) => {
                self.accepted.insert(op);
                self.pops[pop].queue.insert(number, (database, op));
                self.tell_lane(
                    pop,
                    database,
                    lane::Event::Queued {
                        number,
                        bytes: 100,
                        at_ms: 0,
                    },
                );
            }
            Event::Wake { pop } => {
                self.wakes.remove(&(pop, self.now));
                if !self.pops[pop].alive {
                    return Ok(());
                }
                let silent = self.pops[pop].connection.is_some() && self.now >= self.pops[pop].heard_at + SILENCE;
                if silent {
                    self.disconnect(pop)?;
                }
                for database in DATABASES {
                    self.tell(pop, database, replica_state::Event::Tick)?;
                    self.tell_lane(pop, database, lane::Event::Tick);
                }
            }
            Event::Done {
                pop,
                life,
                database,
                work,
            } if self.lives(pop, life) => self.done(pop, database, work)?,
            Event::Snapshot {
                pop,
                life,
                database,
                from,
            } => self.send_snapshot(pop, life, database, from),
            Event::Connect { pop, life } if self.lives(pop, life) => self.connect(pop),
            Event::Connected { pop, life, to } if self.lives(pop, life) => self.connected(pop, to)?,
            Event::ToPop { connection, frame } => self.arrives_at_pop(connection, frame)?,
            Event::ToPrimary { connection, request } => self.arrives_at_primary(connection, request)?,
            Event::Operations {
                pop,
                life,
                database,
                request,
                ops,
                to,
            } => {
                self.operations_arrive((pop, life, database), request, ops, to);
            }
            Event::Outcome {
                request,
                outcome,
                counts,
            } => self.outcome_arrives(request, outcome, counts),
            Event::Read {
                at,
                connection,
                database,
                ask,
                after,
            } => self.read(at, connection, database, ask, after)?,
            Event::Synced { at } if self.primaries[at].alive => self.synced(at)?,
            Event::Heartbeat { at } if self.primaries[at].alive => self.heartbeat(at),
            Event::Fault if !self.healed => self.fault()?,
            Event::Mend(mend) => self.mend(mend)?,
            Event::Heal => self.heal()?,
            Event::Look => self.after(500, Event::Look),
            // Belongs to a life that has ended.
            _ => {}
        }
        Ok(())
    }

    pub(super) fn client_writes(&mut self) {
        let (pop, database) = (self.rng.usize(0..POPS), DATABASES[self.rng.usize(0..DATABASES.len())]);
        if self.pops[pop].alive {
            for _ in 0..self.rng.u32(1..6) {
                self.ops.push((pop, database, self.pops[pop].next_number));
                let (op, number) = (self.ops.len() as Op, self.pops[pop].next_number);
                self.pops[pop].next_number += 1;
                self.happened.writes += 1;
                let life = self.pops[pop].life;
                // An fsync for all that arrive together: they are queued in the order of their numbers.
                self.after(
                    3,
                    Event::Queued {
                        pop,
                        life,
                        database,
                        number,
                        op,
                    },
                );
            }
        }
        if self.now < FAULTS_END {
            let pause = self.delay(120, 2000);
            self.after(pause, Event::Write);
        }
    }
}
