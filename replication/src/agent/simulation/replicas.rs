//! Replicas and their lanes: what their machines decide is done, after a while.

use super::model::Op;
use super::primary::{RequestId, is_poison};
use super::world::{Asked, Event, FORWARD_TIMEOUT, Incarnation, PopId, Work, World};
use super::{DATABASES, Plant};
use crate::agent::frames::Request;
use crate::agent::lane::{self, Failure as Unanswered, Verdict};
use crate::agent::replica_state::{self, Failure, Leave};

impl World {
    pub(super) fn start_pop(&mut self, pop: PopId) {
        let life = self.pops[pop].life;
        for database in DATABASES {
            self.after(
                5,
                Event::Done {
                    pop,
                    life,
                    database,
                    work: Work::Opened,
                },
            );
        }
        self.after(10, Event::Connect { pop, life });
        let held: Vec<_> = self.pops[pop]
            .queue
            .iter()
            .map(|(number, (database, _))| (*number, *database))
            .collect();
        for (number, database) in held {
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
    }

    pub(super) fn wake_at(&mut self, pop: PopId, time: u64) {
        if self.wakes.insert((pop, time)) {
            self.at(time, Event::Wake { pop });
        }
    }

    pub(super) fn tell(
        &mut self,
        id: PopId,
        database: &'static str,
        event: replica_state::Event,
    ) -> Result<(), String> {
        let now = self.now;
        let pop = &mut self.pops[id];
        let (life, connection) = (pop.life, pop.connection);
        let Some(local) = pop.locals.get_mut(database) else {
            return Ok(());
        };
        let actions = local.state.on(event, now);
        if let Some(due) = local.state.due() {
            self.wake_at(id, due.max(now + 1));
        }
        for action in actions {
            let later = |work| Event::Done {
                pop: id,
                life,
                database,
                work,
            };
            match action {
                replica_state::Action::Ask { ask, state } => {
                    self.happened.asked += 1;
                    let database = database.to_owned();
                    if let Some(connection) = connection {
                        self.send_up(connection, Request::Follow { database, ask, state });
                    }
                }
                replica_state::Action::Apply(files) => {
                    let delay = 1 + self.delay(30, 1500);
                    self.after(delay, later(Work::Applied(files)));
                }
                replica_state::Action::Scrub => self.after(20, later(Work::Scrubbed)),
                replica_state::Action::Leave(leave) => {
                    match &leave {
                        Leave::TooOld => self.happened.too_old += 1,
                        Leave::Quarantined(_) => self.happened.diverged += 1,
                    }
                    if let Some(local) = self.pops[id].locals.get_mut(database) {
                        local.left = Some(leave);
                    }
                }
                replica_state::Action::Copy => {
                    let from = self.route();
                    let delay = 1 + self.delay(50, 1000);
                    self.after(
                        delay,
                        Event::Snapshot {
                            pop: id,
                            life,
                            database,
                            from,
                        },
                    );
                }
            }
        }
        Ok(())
    }

    pub(super) fn send_snapshot(&mut self, pop: PopId, life: u32, database: &'static str, from: Incarnation) {
        let passes = !self.pops[pop].blocked_up && !self.pops[pop].blocked_down;
        let copied = match passes && self.primaries[from].alive && self.lives(pop, life) && self.is_let_in(pop, from) {
            true => self.primaries[from].snapshot(database).map(|content| (content, from)),
            false => None,
        };
        let delay = 10 + self.delay(300, 3000);
        let work = Work::Copied(copied);
        self.after(
            delay,
            Event::Done {
                pop,
                life,
                database,
                work,
            },
        );
    }

    pub(super) fn done(&mut self, id: PopId, database: &'static str, work: Work) -> Result<(), String> {
        let believes = self.plant == Some(Plant::NoChecksum);
        let unfenced = self.plant == Some(Plant::NoFencing);
        let full = self.pops[id].full;
        let (seen, fsyncs) = (self.pops[id].epoch, self.chance(20));
        let local = self.pops[id].locals.get_mut(database).expect("every database is there");
        let event = match work {
            Work::Opened => {
                let head = local.content.as_ref().map(|content| content.head);
                if let Some(head) = head {
                    self.pops[id].epoch = seen.max(head.position.epoch);
                }
                replica_state::Event::Opened(head)
            }
            Work::Applied(files) => {
                let before = local.content.as_ref().map(|content| content.head.position);
                let applied = match (&mut local.content, full) {
                    (Some(content), false) => content.apply(&files, believes),
                    _ => Err(Failure::Passing),
                };
                if let Ok(head) = &applied {
                    if before.is_some_and(|before| before >= head.position) {
                        return Err(format!("PoP {id} went from {before:?} to {:?}", head.position));
                    }
                    self.happened.applied += 1;
                    if fsyncs {
                        local.durable = local.content.clone();
                    }
                }
                replica_state::Event::Applied(applied)
            }
            Work::Scrubbed => {
                let rotten = !believes && local.content.as_ref().is_some_and(|content| content.rotten);
                let broken = Failure::Broken("it was written to".to_owned());
                replica_state::Event::Scrubbed(if rotten { Err(broken) } else { Ok(()) })
            }
            Work::Copied(Some((content, from))) if !full && (self.primaries[from].epoch >= seen || unfenced) => {
                let before = local.content.as_ref().map(|content| content.head.position);
                let left = local.left.take();
                local.durable = Some(content.clone());
                let head = content.head;
                local.content = Some(content);
                self.happened.copied += 1;
                if self.primaries[from].epoch < seen {
                    let epoch = self.primaries[from].epoch;
                    return Err(format!(
                        "PoP {id} copies from a primary of {epoch:?} after one of {seen:?}"
                    ));
                }
                self.pops[id].epoch = seen.max(self.primaries[from].epoch);
                if left == Some(Leave::TooOld) && before.is_some_and(|before| before > head.position) {
                    // Unless the primary was replaced by one that knows less meanwhile.
                    if self.happened.restores + self.happened.moves == 0 {
                        return Err(format!(
                            "PoP {id} went from {before:?} to {:?} by a copy",
                            head.position
                        ));
                    }
                }
                replica_state::Event::Copied(Ok(head))
            }
            Work::Copied(_) => replica_state::Event::Copied(Err(Failure::Passing)),
        };
        self.check_replica(id, database)?;
        self.tell(id, database, event)?;
        let local = &self.pops[id].locals[database];
        let here = local.content.as_ref().map(|content| content.head.position);
        self.tell_lane(id, database, lane::Event::Here(here.unwrap_or_default()));
        Ok(())
    }

    pub(super) fn tell_lane(&mut self, id: PopId, database: &'static str, event: lane::Event) {
        let now = self.now;
        let pop = &mut self.pops[id];
        let life = pop.life;
        let Some(local) = pop.locals.get_mut(database) else {
            return;
        };
        let actions = local.lane.on(event, now);
        if let Some(due) = local.lane.due() {
            self.wake_at(id, due.max(now + 1));
        }
        for action in actions {
            match action {
                lane::Action::Send(numbers) => {
                    let pop = &self.pops[id];
                    let ops = numbers
                        .iter()
                        .filter_map(|number| pop.queue.get(number))
                        .map(|(_, op)| *op)
                        .collect();
                    let (request, to) = (self.id(), self.route());
                    self.requests.insert(
                        request,
                        Asked {
                            pop: id,
                            life,
                            database,
                        },
                    );
                    if let Some(local) = self.pops[id].locals.get_mut(database) {
                        local.request = Some((request, numbers));
                    }
                    let delay = 1 + self.delay(20, 2000);
                    self.after(
                        delay,
                        Event::Operations {
                            pop: id,
                            life,
                            database,
                            request,
                            ops,
                            to,
                        },
                    );
                    let lost = Err(Unanswered::Passing);
                    self.after(
                        FORWARD_TIMEOUT,
                        Event::Outcome {
                            request,
                            outcome: lost,
                            counts: false,
                        },
                    );
                }
                lane::Action::Forget(number) => {
                    if let Some(removed) = self.pops[id].queue.remove(&number) {
                        self.pops[id].removed.push((number, removed));
                        if self.chance(30) {
                            self.pops[id].removed.clear();
                        }
                    }
                }
                lane::Action::Answer(number) => {
                    let outcome = self.pops[id]
                        .locals
                        .get_mut(database)
                        .and_then(|local| local.outcomes.remove(&number));
                    if let Some((op, Verdict::Done(_), true)) = outcome {
                        self.acknowledged.insert(op);
                    }
                }
                // Its clock does not go that far.
                lane::Action::Expire(number) => unreachable!("operation {number} is not old"),
            }
        }
    }

    pub(super) fn operations_arrive(
        &mut self,
        (pop, life, database): (PopId, u32, &'static str),
        request: RequestId,
        ops: Vec<Op>,
        to: Incarnation,
    ) {
        let up = self.pops[pop].blocked_up || !self.primaries[to].alive;
        if up || !self.lives(pop, life) && self.chance(50) {
            // Refused connections are noticed, what is swallowed is not.
            if self.chance(50) {
                self.after(
                    100,
                    Event::Outcome {
                        request,
                        outcome: Err(Unanswered::Passing),
                        counts: false,
                    },
                );
            }
        } else if !self.is_let_in(pop, to) {
            self.respond(to, request, Err(Unanswered::Passing));
        } else if ops.iter().any(|op| is_poison(*op)) {
            self.respond(to, request, Err(Unanswered::NotTaken));
        } else {
            let syncing = self.primaries[to].syncing;
            let answers = self.primaries[to].request(database, request, ops);
            self.start_sync(to, syncing);
            self.answer(to, answers);
        }
    }

    pub(super) fn respond(&mut self, at: Incarnation, request: RequestId, outcome: Result<Vec<Verdict>, Unanswered>) {
        let counts = at == self.current();
        let delay = 1 + self.delay(20, 2000);
        self.after(
            delay,
            Event::Outcome {
                request,
                outcome,
                counts,
            },
        );
    }

    pub(super) fn outcome_arrives(
        &mut self,
        request: RequestId,
        mut outcome: Result<Vec<Verdict>, Unanswered>,
        counts: bool,
    ) {
        let Some(Asked { pop, life, database }) = self.requests.get(&request) else {
            return;
        };
        let (pop, life, database) = (*pop, *life, *database);
        let lost = self.pops[pop].blocked_down && outcome.is_ok();
        if !self.lives(pop, life) || lost {
            return;
        }
        self.requests.remove(&request);
        let plant = self.plant;
        let local = self.pops[pop]
            .locals
            .get_mut(database)
            .expect("every database is there");
        let Some((_, numbers)) = local.request.take_if(|(under_way, _)| *under_way == request) else {
            return;
        };
        if let Ok(verdicts) = &mut outcome {
            for (number, verdict) in numbers.iter().zip(verdicts) {
                self.happened.not_yet += u64::from(*verdict == Verdict::NotYet);
                if plant == Some(Plant::GiveUp) && *verdict == Verdict::NotYet {
                    *verdict = Verdict::Refused;
                }
                if let Some((_, op)) = self.pops[pop].queue.get(number) {
                    let op = *op;
                    if !counts && matches!(verdict, Verdict::Done(_)) {
                        // The word of one that was deposed, or whose future was given up.
                        self.excused.insert(op);
                    }
                    let local = self.pops[pop]
                        .locals
                        .get_mut(database)
                        .expect("every database is there");
                    local.outcomes.insert(*number, (op, *verdict, counts));
                }
            }
        }
        let event = match outcome {
            Ok(verdicts) => lane::Event::Answered(verdicts),
            Err(failure) => lane::Event::Unanswered(failure),
        };
        self.tell_lane(pop, database, event);
    }
}
