//! What happens next to one database's queued operations: the decisions, without network, disk and clock.
//!
//! An operation is queued, forwarded, has an outcome, is visible here, and is answered. Invariants:
//! * First in, first out: operations are sent in the order of their numbers, and one request is under way at a time.
//! * An operation leaves the queue only with an outcome of its own: done, or refused for a reason that lies in itself (SQL, a
//!   constraint, a database that does not exist). Whatever is wrong with the primary, the way to it or the token keeps
//!   it, and all behind it, where it is: they would fail alike, and to pass it by would change the order.
//! * An operation that is older than [`SENT_MS`] is not sent: it may have been done, and the primary forget that.
//! * A request the primary does not take as a whole is split, so that one bad operation stops none but itself.
//! * Waiting for visibility holds up nothing but the one answer, and not for long.

use std::collections::{BTreeMap, VecDeque};

use super::replica_state::Moment;
use crate::operations::SENT_MS;
use crate::position::Position;

/// Operations sent to the primary in one request: as many as share a commit there.
const OPERATIONS_PER_REQUEST: usize = 64;
/// Bytes in one request, unless one operation alone has more. Far below what the primary takes.
const BYTES_PER_REQUEST: u64 = 8 * 1024 * 1024;
/// Pause before a request that did not succeed is sent again, doubled up to the second.
pub(crate) const RETRY_MS: (u64, u64) = (50, 2000);
/// How long an answer waits until its transaction is visible here; afterwards the bookmark in it does the rest.
pub(crate) const VISIBLE_MS: u64 = 2000;
/// Answers that wait for that; more than these are given at once.
const VISIBLE_WAITING: usize = 1024;

/// An operation's place in the queue.
pub(crate) type Number = i64;

pub(crate) struct Lane {
    /// What has no outcome yet.
    queued: BTreeMap<Number, Queued>,
    sending: Sending,
    /// Requests that did not succeed, one after another.
    failures: u32,
    /// Up to this one, operations are sent alone: together they were not taken.
    alone_until: Option<Number>,
    /// Where the replica stands.
    here: Position,
    visible: VecDeque<Waiting>,
    /// What the wall clock said last.
    wall_ms: i64,
}

struct Queued {
    bytes: u64,
    at_ms: i64,
}

#[derive(Debug)]
enum Sending {
    Nothing,
    These(Vec<Number>),
    /// Nothing until then.
    Pausing(Moment),
}

/// Has an outcome, and waits to be visible.
#[derive(Debug)]
struct Waiting {
    number: Number,
    position: Position,
    until: Moment,
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// It is on disk. One that is known already changes nothing.
    Queued { number: Number, bytes: u64, at_ms: i64 },
    /// What became of the operations of the request, in their order.
    Answered(Vec<Verdict>),
    /// What became of the request as a whole.
    Unanswered(Failure),
    /// The primary is heard (again).
    Reachable,
    /// The replica has come this far.
    Here(Position),
    /// Time has passed.
    Tick,
}

/// What became of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done(Position),
    /// It will never be done, for a reason in itself.
    Refused,
    /// The primary could not do it now.
    NotYet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may have arrived or not, or the primary does nothing at present.
    Passing,
    /// The primary does not understand it.
    NotTaken,
    /// The primary has no such database.
    NoDatabase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send these in one request.
    Send(Vec<Number>),
    /// Take it out of the queue: it has an outcome. Refused for the request's reason, if that had no outcomes.
    Forget(Number),
    /// Tell whoever waits for it.
    Answer(Number),
    /// Take it out of the queue, and tell whoever waits for it that its outcome stays unknown.
    Expire(Number),
}

impl Lane {
    pub(crate) fn new() -> Lane {
        Lane {
            queued: BTreeMap::new(),
            sending: Sending::Nothing,
            failures: 0,
            alone_until: None,
            here: Position::default(),
            visible: VecDeque::new(),
            wall_ms: 0,
        }
    }

    /// Milliseconds since 1970: the clock that goes on while this process or its machine does not run.
    pub(crate) fn set_wall_clock(&mut self, wall_ms: i64) {
        self.wall_ms = wall_ms;
    }

    /// Whether there is nothing to do and nobody to answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.visible.is_empty()
    }

    /// Whether [`Event::Here`] is of interest.
    pub(crate) fn waits_for_visibility(&self) -> bool {
        !self.visible.is_empty()
    }

    pub(crate) fn on(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Queued { number, bytes, at_ms } => {
                self.queued.entry(number).or_insert(Queued { bytes, at_ms });
            }
            Event::Answered(verdicts) => self.settle(&verdicts, now, &mut actions),
            Event::Unanswered(failure) => self.fail(failure, now, &mut actions),
            Event::Reachable if matches!(self.sending, Sending::Pausing(_)) => self.sending = Sending::Nothing,
            Event::Here(position) => self.here = position,
            Event::Reachable | Event::Tick => {}
        }
        self.answer_visible(now, &mut actions);
        self.send_next(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due, if nothing else comes before.
    pub(crate) fn due(&self) -> Option<Moment> {
        let pause = match self.sending {
            Sending::Pausing(until) => Some(until),
            Sending::Nothing | Sending::These(_) => None,
        };
        let visible = self.visible.front().map(|waiting| waiting.until);
        pause.into_iter().chain(visible).min()
    }

    fn settle(&mut self, verdicts: &[Verdict], now: Moment, actions: &mut Vec<Action>) {
        let Sending::These(numbers) = std::mem::replace(&mut self.sending, Sending::Nothing) else {
            return;
        };
        // One that the primary says nothing of is sent again.
        let verdicts = verdicts.iter().copied().chain(std::iter::repeat(Verdict::NotYet));
        let mut all = true;
        for (number, verdict) in numbers.into_iter().zip(verdicts) {
            match verdict {
                Verdict::NotYet => all = false,
                Verdict::Refused => {
                    self.forget(number, actions);
                    actions.push(Action::Answer(number));
                }
                Verdict::Done(position) => {
                    self.forget(number, actions);
                    self.visible.push_back(Waiting {
                        number,
                        position,
                        until: now + VISIBLE_MS,
                    });
                }
            }
        }
        if all {
            self.failures = 0;
        } else {
            self.pause(now);
        }
    }

    fn fail(&mut self, failure: Failure, now: Moment, actions: &mut Vec<Action>) {
        let Sending::These(numbers) = std::mem::replace(&mut self.sending, Sending::Nothing) else {
            return;
        };
        match (failure, &numbers[..]) {
            (Failure::Passing, _) => self.pause(now),
            (Failure::NotTaken, [.., _, last]) => self.alone_until = Some(*last),
            (Failure::NotTaken | Failure::NoDatabase, _) => {
                for number in numbers {
                    self.forget(number, actions);
                    actions.push(Action::Answer(number));
                }
            }
        }
    }

    fn forget(&mut self, number: Number, actions: &mut Vec<Action>) {
        self.queued.remove(&number);
        actions.push(Action::Forget(number));
    }

    fn pause(&mut self, now: Moment) {
        let (first, longest) = RETRY_MS;
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        self.sending = Sending::Pausing(now + pause);
    }

    fn answer_visible(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let excess = self.visible.len().saturating_sub(VISIBLE_WAITING);
        let mut index = 0;
        let here = self.here;
        self.visible.retain(|waiting| {
            index += 1;
            let stays = index > excess && waiting.position > here && waiting.until > now;
            if !stays {
                actions.push(Action::Answer(waiting.number));
            }
            stays
        });
    }

    fn send_next(&mut self, now: Moment, actions: &mut Vec<Action>) {
        match self.sending {
            Sending::These(_) => return,
            Sending::Pausing(until) if until > now => return,
            Sending::Pausing(_) | Sending::Nothing => self.sending = Sending::Nothing,
        }
        let mut batch = Vec::new();
        let mut size = 0;
        for (number, queued) in &self.queued {
            if self.is_too_old(queued) {
                actions.push(Action::Expire(*number));
                continue;
            }
            size += queued.bytes;
            let alone = self.alone_until.is_some_and(|until| *number <= until);
            let full = batch.len() >= OPERATIONS_PER_REQUEST || size > BYTES_PER_REQUEST;
            if !batch.is_empty() && (full || alone) {
                break;
            }
            batch.push(*number);
            if alone {
                break;
            }
        }
        for action in &*actions {
            if let Action::Expire(number) = action {
                self.queued.remove(number);
            }
        }
        if !batch.is_empty() {
            self.sending = Sending::These(batch.clone());
            actions.push(Action::Send(batch));
        }
    }

    /// Whether it may have been done and forgotten. One that was queued in the future, as the clock says, has an unknown age.
    fn is_too_old(&self, queued: &Queued) -> bool {
        self.wall_ms.abs_diff(queued.at_ms) > SENT_MS.unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Txid};

    fn at(txid: u64) -> Position {
        Position {
            epoch: Epoch(1),
            txid: Txid(txid),
        }
    }

    fn queued(number: Number) -> Event {
        queued_at(number, 0)
    }

    fn queued_at(number: Number, at_ms: i64) -> Event {
        Event::Queued {
            number,
            bytes: 1,
            at_ms,
        }
    }

    /// Actions in short: s = send, f = forget, a = answer, e = expire.
    fn short(actions: &[Action]) -> String {
        let one = |action: &Action| match action {
            Action::Send(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(Number::to_string).collect();
                format!("s{}", numbers.join("+"))
            }
            Action::Forget(number) => format!("f{number}"),
            Action::Answer(number) => format!("a{number}"),
            Action::Expire(number) => format!("e{number}"),
        };
        actions.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn check(steps: impl IntoIterator<Item = (Moment, Event, &'static str)>) -> Lane {
        let mut lane = Lane::new();
        for (step, (now, event, expected)) in steps.into_iter().enumerate() {
            let text = format!("step {step}: {event:?}");
            assert_eq!(short(&lane.on(event, now)), expected, "{text}");
        }
        lane
    }

    #[test]
    fn an_answer_leaves_when_its_transaction_is_visible_and_holds_up_nobody() {
        let lane = check([
            (0, queued(1), "s1"),
            (0, queued(2), ""),
            (0, queued(3), ""),
            // A repetition.
            (0, queued(2), ""),
            (1, Event::Answered(vec![Verdict::Done(at(5))]), "f1 s2+3"),
            (2, Event::Here(at(4)), ""),
            (3, Event::Here(at(5)), "a1"),
            (
                4,
                Event::Answered(vec![Verdict::Done(at(6)), Verdict::Refused]),
                "f2 f3 a3",
            ),
            (VISIBLE_MS + 3, Event::Tick, ""),
            (VISIBLE_MS + 4, Event::Tick, "a2"),
        ]);
        assert!(lane.is_empty() && lane.due().is_none());
    }

    #[test]
    fn what_the_primary_cannot_do_now_stays_in_its_order() {
        check([
            (0, queued(1), "s1"),
            (0, queued(2), ""),
            (0, queued(3), ""),
            (0, Event::Unanswered(Failure::Passing), ""),
            (49, queued(4), ""),
            (50, Event::Tick, "s1+2+3+4"),
            (60, Event::Answered(vec![Verdict::Refused, Verdict::NotYet]), "f1 a1"),
            (159, Event::Tick, ""),
            (160, Event::Tick, "s2+3+4"),
            (161, Event::Unanswered(Failure::Passing), ""),
            // Up to two seconds; it does not wait for that when the primary is back.
            (162, Event::Reachable, "s2+3+4"),
            (
                163,
                Event::Answered(vec![Verdict::Done(Position::default()); 3]),
                "f2 f3 f4 a2 a3 a4",
            ),
            // From the beginning.
            (200, queued(5), "s5"),
            (200, Event::Unanswered(Failure::Passing), ""),
            (250, Event::Tick, "s5"),
        ]);
        let mut lane = check([(0, queued(1), "s1")]);
        let mut now = 0;
        for _ in 0..20 {
            lane.on(Event::Unanswered(Failure::Passing), now);
            let due = lane.due().unwrap();
            assert!(due <= now + RETRY_MS.1);
            now = due;
            assert_eq!(short(&lane.on(Event::Tick, now)), "s1");
        }
    }

    #[test]
    fn one_operation_that_is_not_taken_stops_none_but_itself() {
        check([
            (0, queued(1), "s1"),
            (0, queued(2), ""),
            (0, queued(3), ""),
            (0, Event::Answered(vec![Verdict::Refused]), "f1 a1 s2+3"),
            (0, Event::Unanswered(Failure::NotTaken), "s2"),
            (0, queued(4), ""),
            (0, queued(5), ""),
            (0, Event::Unanswered(Failure::NotTaken), "f2 a2 s3"),
            (
                0,
                Event::Answered(vec![Verdict::Done(Position::default())]),
                "f3 a3 s4+5",
            ),
            (0, Event::Unanswered(Failure::NoDatabase), "f4 a4 f5 a5"),
        ]);
    }

    #[test]
    fn requests_are_bounded() {
        let mut lane = check([(0, queued(0), "s0")]);
        for number in 1..=100 {
            lane.on(queued(number), 0);
        }
        for (number, bytes) in [
            (101, BYTES_PER_REQUEST - 10),
            (102, 100),
            (103, 10 * BYTES_PER_REQUEST),
            (104, 1),
        ] {
            lane.on(
                Event::Queued {
                    number,
                    bytes,
                    at_ms: 0,
                },
                0,
            );
        }
        let mut sizes = Vec::new();
        let mut last = vec![0];
        while !last.is_empty() {
            let actions = lane.on(Event::Answered(vec![Verdict::Done(Position::default()); last.len()]), 0);
            last = actions
                .into_iter()
                .find_map(|action| match action {
                    Action::Send(numbers) => Some(numbers),
                    _ => None,
                })
                .unwrap_or_default();
            sizes.push(last.len());
        }
        assert_eq!(sizes, [64, 36, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn what_the_primary_may_have_forgotten_is_not_sent() {
        let mut lane = check([
            (0, queued_at(1, 0), "s1"),
            (0, queued_at(2, 1000), ""),
            (0, Event::Unanswered(Failure::Passing), ""),
        ]);
        lane.set_wall_clock(SENT_MS);
        assert_eq!(short(&lane.on(Event::Tick, 50)), "s1+2");
        // Not while it is under way: it may be done yet.
        lane.set_wall_clock(SENT_MS + 1);
        assert_eq!(short(&lane.on(queued_at(3, SENT_MS), 60)), "");
        assert_eq!(short(&lane.on(Event::Unanswered(Failure::Passing), 60)), "");
        assert_eq!(short(&lane.on(Event::Tick, 160)), "e1 s2+3");
        assert_eq!(
            short(&lane.on(Event::Answered(vec![Verdict::Refused; 2]), 170)),
            "f2 a2 f3 a3"
        );
        // The clock was set back by more than any age could be, and then right again.
        lane.set_wall_clock(0);
        assert_eq!(short(&lane.on(queued_at(4, SENT_MS + 1), 200)), "e4");
        assert_eq!(short(&lane.on(queued_at(5, 10), 200)), "s5");
        lane.set_wall_clock(SENT_MS * 2);
        assert_eq!(short(&lane.on(queued_at(6, SENT_MS * 2), 200)), "");
        assert_eq!(short(&lane.on(Event::Unanswered(Failure::Passing), 200)), "");
        assert_eq!(short(&lane.on(Event::Reachable, 210)), "e5 s6");
        assert_eq!(short(&lane.on(Event::Answered(vec![Verdict::Refused]), 220)), "f6 a6");
        assert!(lane.is_empty());
    }

    #[test]
    fn answers_to_nothing_change_nothing() {
        check([
            (0, Event::Answered(vec![Verdict::Refused]), ""),
            (0, Event::Unanswered(Failure::NoDatabase), ""),
            (0, Event::Here(at(1)), ""),
            (0, Event::Reachable, ""),
            (0, Event::Tick, ""),
        ]);
    }
}
