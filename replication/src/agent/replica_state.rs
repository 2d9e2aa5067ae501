//! What a replica does next with one database: the decisions, without connection, files and clock.
//!
//! Invariants:
//! * Pages are applied in the order of the chain only. What does not continue what is there is dropped, and the primary is
//!   asked anew from where the replica really stands: nothing is assumed.
//! * One question is open at a time. Answers to an older one are not looked at, so that what was on its way cannot be
//!   taken for an answer about another state.
//! * One thing is done to the file at a time: pages applied, all of it read through, or a new copy fetched.
//! * What waits is bounded; beyond it all that comes is dropped, until what waits is applied and more is asked for.
//! * Whatever keeps failing ends in a new copy, and whatever cannot be copied is tried again: it never stands still.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::log::Head;
use crate::ltx::Header;

/// A moment, in milliseconds since some start.
pub(crate) type Moment = u64;

/// Files that wait to be applied, and their bytes. Together with what is being applied, a few times what one turn brings.
pub(crate) const FILES_WAITING: usize = 256;
const BYTES_WAITING: usize = 32 * 1024 * 1024;
/// Bytes applied in one transaction.
const BYTES_AT_ONCE: usize = 16 * 1024 * 1024;
/// Pause after a replica could not be written or copied (a full disk).
pub(crate) const RETRY_MS: u64 = 1000;
/// Answers that do not fit, one after another, before a new copy is preferred to asking once more: what the primary has
/// there may be damaged.
const MISFITS: u32 = 3;

pub(crate) struct ReplicaState {
    phase: Phase,
    /// Number of the last question.
    ask: u64,
    connected: bool,
    scrub_every_ms: u64,
}

enum Phase {
    /// The file that is there is read.
    Opening,
    /// A new copy is fetched; after a failure, again from then on.
    Copying {
        again_at: Option<Moment>,
    },
    Following(Following),
}

struct Following {
    head: Head,
    /// Where it stands when all that is being applied and all that waits is applied.
    tail: Head,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    question: Question,
    work: Work,
    /// The replica is left as soon as nothing is done to it.
    leaving: Option<Leave>,
    misfits: u32,
    scrub_at: Moment,
}

#[derive(Clone, Copy, PartialEq)]
enum Question {
    /// To be asked, when what waits is applied.
    Due,
    /// Asked, and answered by files until there is another answer.
    Open,
    /// The primary has no such database. To be asked when it has.
    Unknown,
}

#[derive(Clone, Copy, PartialEq)]
enum Work {
    None,
    Applying,
    Scrubbing,
    /// The disk did not take it; nothing is done until then.
    Pausing(Moment),
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The file that was there, read; `None` when there is none, or none that can be used.
    Opened(Option<Head>),
    /// A new stream to the primary stands, instead of any before.
    Connected,
    Disconnected,
    /// From the stream.
    Said {
        ask: u64,
        answer: Answer,
    },
    /// The primary has the database.
    Named,
    /// Something the primary said was not passed on.
    Dropped,
    Applied(Result<Head, Failure>),
    Scrubbed(Result<(), Failure>),
    Copied(Result<Head, Failure>),
    /// Time has passed.
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    File(Bytes),
    Resync { diverged: bool },
    Unknown,
}

/// How something done to the file failed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Failure {
    /// The replica is not what it should be.
    Broken(String),
    /// What came from the primary cannot be used.
    Misfit,
    /// The disk or the network did not take it; nothing is wrong with the replica.
    Passing,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Ask {
        ask: u64,
        state: Head,
    },
    Apply(Vec<Bytes>),
    /// Read all of the file, and compare.
    Scrub,
    /// The replica is given up; [`Action::Copy`] follows.
    Leave(Leave),
    /// Fetch a snapshot.
    Copy,
}

/// Why a replica is given up for a new copy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Leave {
    /// It is whole, only too old to be continued; it is read until the new copy is there.
    TooOld,
    /// It must not be read any more.
    Quarantined(String),
}

impl ReplicaState {
    pub(crate) fn new(scrub_every_ms: u64) -> ReplicaState {
        ReplicaState {
            phase: Phase::Opening,
            ask: 0,
            connected: false,
            scrub_every_ms,
        }
    }

    pub(crate) fn on(&mut self, event: Event, now: Moment) -> Vec<Action> {
        match event {
            Event::Connected => self.connected = true,
            Event::Disconnected => self.connected = false,
            _ => {}
        }
        match (&mut self.phase, event) {
            (Phase::Opening, Event::Opened(None)) => self.phase = Phase::Copying { again_at: Some(now) },
            (Phase::Copying { again_at }, Event::Copied(Err(_))) => *again_at = Some(now + RETRY_MS),
            (Phase::Opening, Event::Opened(Some(head))) | (Phase::Copying { .. }, Event::Copied(Ok(head))) => {
                self.phase = Phase::Following(Following::from(head, now + self.scrub_every_ms));
            }
            (Phase::Following(following), event) => following.on(event, self.ask, now, self.scrub_every_ms),
            // Nothing was asked yet.
            (Phase::Opening | Phase::Copying { .. }, _) => {}
        }
        self.proceed(now)
    }

    /// When [`Event::Tick`] is due, if nothing else comes before.
    pub(crate) fn due(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Opening => None,
            Phase::Copying { again_at } => *again_at,
            Phase::Following(following) => match following.work {
                Work::None => Some(following.scrub_at),
                Work::Pausing(until) => Some(until),
                Work::Applying | Work::Scrubbing => None,
            },
        }
    }

    /// Starts what can be started.
    fn proceed(&mut self, now: Moment) -> Vec<Action> {
        match &mut self.phase {
            Phase::Opening => vec![],
            Phase::Copying { again_at } => match *again_at {
                Some(at) if at <= now => {
                    *again_at = None;
                    vec![Action::Copy]
                }
                _ => vec![],
            },
            Phase::Following(following) => {
                if matches!(following.work, Work::Pausing(until) if until <= now) {
                    following.work = Work::None;
                }
                if following.work != Work::None {
                    return vec![];
                }
                if let Some(leave) = following.leaving.take() {
                    self.phase = Phase::Copying { again_at: None };
                    return vec![Action::Leave(leave), Action::Copy];
                }
                if following.scrub_at <= now {
                    following.work = Work::Scrubbing;
                    return vec![Action::Scrub];
                }
                if !following.waiting.is_empty() {
                    following.work = Work::Applying;
                    return vec![Action::Apply(following.next_batch())];
                }
                if self.connected && following.question == Question::Due {
                    following.question = Question::Open;
                    self.ask += 1;
                    return vec![Action::Ask {
                        ask: self.ask,
                        state: following.head,
                    }];
                }
                vec![]
            }
        }
    }
}

impl Following {
    fn from(head: Head, scrub_at: Moment) -> Following {
        Following {
            head,
            tail: head,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            question: Question::Due,
            work: Work::None,
            leaving: None,
            misfits: 0,
            scrub_at,
        }
    }

    fn on(&mut self, event: Event, ask: u64, now: Moment, scrub_every_ms: u64) {
        match event {
            Event::Connected | Event::Disconnected | Event::Dropped => self.question = Question::Due,
            Event::Named if self.question == Question::Unknown => self.question = Question::Due,
            Event::Said { ask: of, answer } if of == ask && self.question == Question::Open => match answer {
                Answer::File(file) => self.take(file),
                Answer::Resync { diverged: false } => self.leaving = Some(Leave::TooOld),
                Answer::Resync { diverged: true } => {
                    let reason = "it has another history than the primary".to_owned();
                    self.leaving = Some(Leave::Quarantined(reason));
                }
                Answer::Unknown => self.question = Question::Unknown,
            },
            Event::Applied(outcome) => {
                self.work = Work::None;
                match outcome {
                    Ok(head) => (self.head, self.misfits) = (head, 0),
                    Err(failure) => self.failed(failure, now),
                }
            }
            Event::Scrubbed(outcome) => {
                self.work = Work::None;
                self.scrub_at = now + scrub_every_ms;
                if let Err(Failure::Broken(reason)) = outcome {
                    self.leaving = Some(Leave::Quarantined(reason));
                }
            }
            Event::Opened(_) | Event::Copied(_) | Event::Named | Event::Said { .. } | Event::Tick => {}
        }
    }

    /// Puts a file behind what waits, if it fits there and there is room.
    fn take(&mut self, file: Bytes) {
        let tail = self.tail;
        let Some(header) = Header::of(&file) else {
            return self.misfit();
        };
        if header.max_txid <= tail.position.txid && header.provenance.lineage == tail.lineage {
            return;
        }
        if !tail.is_continued_by(&header) {
            return self.misfit();
        }
        let bytes = self.waiting_bytes + file.len();
        if self.waiting.len() >= FILES_WAITING || bytes > BYTES_WAITING && !self.waiting.is_empty() {
            self.question = Question::Due;
            return;
        }
        self.waiting_bytes = bytes;
        self.tail = Head::after(&header);
        self.waiting.push_back(file);
    }

    fn next_batch(&mut self) -> Vec<Bytes> {
        let mut batch = Vec::new();
        let mut size = 0;
        while let Some(file) = self.waiting.front() {
            size += file.len();
            if size > BYTES_AT_ONCE && !batch.is_empty() {
                break;
            }
            if let Some(file) = self.waiting.pop_front() {
                self.waiting_bytes -= file.len();
                batch.push(file);
            }
        }
        batch
    }

    fn failed(&mut self, failure: Failure, now: Moment) {
        // They continue what did not come about.
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.tail = self.head;
        self.question = Question::Due;
        match failure {
            Failure::Broken(reason) => self.leaving = Some(Leave::Quarantined(reason)),
            Failure::Passing => self.work = Work::Pausing(now + RETRY_MS),
            Failure::Misfit => self.misfit(),
        }
    }

    fn misfit(&mut self) {
        self.question = Question::Due;
        self.misfits += 1;
        if self.misfits >= MISFITS {
            self.leaving = Some(Leave::TooOld);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::suite::{file, head};
    use crate::position::Lineage;

    const SCRUB_MS: u64 = 1_000_000;

    fn said(ask: u64, answer: Answer) -> Event {
        Event::Said { ask, answer }
    }

    /// The file that leads to `txid`.
    fn to(txid: u64) -> Answer {
        Answer::File(file(head(1, txid - 1), head(1, txid)))
    }

    fn applied(txid: u64) -> Event {
        Event::Applied(Ok(head(1, txid)))
    }

    fn resync(diverged: bool) -> Answer {
        Answer::Resync { diverged }
    }

    /// Actions in short.
    fn short(actions: &[Action]) -> String {
        let number = |file: &Bytes| Header::of(file).unwrap().max_txid.0.to_string();
        let one = |action: &Action| match action {
            Action::Ask { ask, state } => format!("ask {ask} {}", state.position.txid.0),
            Action::Apply(files) => format!("apply {}", files.iter().map(number).collect::<Vec<_>>().join("+")),
            Action::Scrub => "scrub".to_owned(),
            Action::Leave(Leave::TooOld) => "leave".to_owned(),
            Action::Leave(Leave::Quarantined(_)) => "quarantine".to_owned(),
            Action::Copy => "copy".to_owned(),
        };
        actions.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn run(state: &mut ReplicaState, steps: impl IntoIterator<Item = (Event, &'static str)>) {
        for (step, (event, expected)) in steps.into_iter().enumerate() {
            let text = format!("step {step}: {event:?}");
            assert_eq!(short(&state.on(event, 0)), expected, "{text}");
        }
    }

    fn check(steps: impl IntoIterator<Item = (Event, &'static str)>) -> ReplicaState {
        let mut state = ReplicaState::new(SCRUB_MS);
        run(&mut state, steps);
        state
    }

    /// A replica at 5 that has asked its first question.
    fn following() -> ReplicaState {
        check([(Event::Connected, ""), (Event::Opened(Some(head(1, 5))), "ask 1 5")])
    }

    #[test]
    fn it_opens_or_copies_and_asks_when_it_is_connected() {
        check([
            (Event::Opened(Some(head(1, 5))), ""),
            (Event::Connected, "ask 1 5"),
            (Event::Disconnected, ""),
            (Event::Connected, "ask 2 5"),
            // A new stream that came before the end of the old one was seen.
            (Event::Connected, "ask 3 5"),
        ]);
        let mut state = check([
            (Event::Connected, ""),
            (Event::Opened(None), "copy"),
            (said(0, resync(true)), ""),
            (Event::Copied(Err(Failure::Passing)), ""),
        ]);
        assert_eq!(state.due(), Some(RETRY_MS));
        assert_eq!(short(&state.on(Event::Tick, RETRY_MS - 1)), "");
        assert_eq!(short(&state.on(Event::Tick, RETRY_MS)), "copy");
        run(&mut state, [(Event::Copied(Ok(head(1, 7))), "ask 1 7")]);
    }

    #[test]
    fn files_are_applied_in_batches_of_what_has_come() {
        run(
            &mut following(),
            [
                (said(1, to(6)), "apply 6"),
                (said(1, to(7)), ""),
                (said(1, to(8)), ""),
                // Again, as after a reconnection.
                (said(1, to(6)), ""),
                (said(1, to(8)), ""),
                (applied(6), "apply 7+8"),
                (applied(8), ""),
                (said(1, to(8)), ""),
                (said(1, to(9)), "apply 9"),
            ],
        );
    }

    #[test]
    fn what_does_not_continue_is_dropped_and_asked_for() {
        let other_lineage = Head {
            lineage: Lineage(9),
            ..head(1, 6)
        };
        let other_content = Head {
            checksum: 0,
            ..head(1, 5)
        };
        for misfit in [
            to(7),
            Answer::File(file(head(0, 5), head(0, 6))),
            Answer::File(file(head(1, 5), other_lineage)),
            Answer::File(file(other_content, head(1, 6))),
            Answer::File(Bytes::from_static(b"nonsense")),
        ] {
            run(
                &mut following(),
                [
                    (said(1, misfit.clone()), "ask 2 5"),
                    // On its way before the question arrived.
                    (said(1, to(6)), ""),
                    (said(1, resync(true)), ""),
                    (said(2, to(6)), "apply 6"),
                    // Asked when what fits is applied, not for less.
                    (said(2, to(7)), ""),
                    (said(2, to(9)), ""),
                    (said(2, to(8)), ""),
                    (applied(6), "apply 7"),
                    (applied(7), "ask 3 7"),
                ],
            );
            // Again and again the same: the primary's log may be damaged there.
            run(
                &mut following(),
                [
                    (said(1, misfit.clone()), "ask 2 5"),
                    (said(2, misfit.clone()), "ask 3 5"),
                    (said(3, misfit), "leave, copy"),
                ],
            );
        }
    }

    #[test]
    fn what_was_not_passed_on_is_asked_for() {
        run(&mut following(), [(Event::Dropped, "ask 2 5"), (said(1, to(6)), "")]);
        run(
            &mut following(),
            [
                (said(1, to(6)), "apply 6"),
                (Event::Dropped, ""),
                (said(1, to(7)), ""),
                (applied(6), "ask 2 6"),
            ],
        );
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut state = following();
        run(&mut state, [(said(1, to(6)), "apply 6")]);
        for txid in 7..7 + 2 * FILES_WAITING as u64 {
            run(&mut state, [(said(1, to(txid)), "")]);
        }
        let Action::Apply(files) = state.on(applied(6), 0).remove(0) else {
            panic!()
        };
        assert_eq!(files.len(), FILES_WAITING);
        let last = 6 + FILES_WAITING as u64;
        assert_eq!(short(&state.on(applied(last), 0)), format!("ask 2 {last}"));
    }

    #[test]
    fn a_snapshot_is_copied_when_nothing_is_done_to_the_file() {
        run(
            &mut following(),
            [
                (said(1, resync(false)), "leave, copy"),
                (said(1, resync(true)), ""),
                (said(1, to(6)), ""),
                (Event::Disconnected, ""),
                (Event::Connected, ""),
                (Event::Copied(Ok(head(1, 9))), "ask 2 9"),
                // Of the first question.
                (said(1, resync(true)), ""),
            ],
        );
        run(
            &mut following(),
            [
                (said(1, to(6)), "apply 6"),
                (said(1, to(7)), ""),
                (said(1, resync(true)), ""),
                (applied(6), "quarantine, copy"),
            ],
        );
    }

    #[test]
    fn a_database_the_primary_does_not_have_is_kept_and_asked_for_when_it_has() {
        run(
            &mut following(),
            [
                (said(1, Answer::Unknown), ""),
                (Event::Tick, ""),
                (Event::Named, "ask 2 5"),
                (Event::Named, ""),
            ],
        );
    }

    #[test]
    fn failures_lead_to_another_try_or_to_a_new_copy() {
        let failed = |failure| Event::Applied(Err(failure));
        let mut state = following();
        run(
            &mut state,
            [
                (said(1, to(6)), "apply 6"),
                (said(1, to(7)), ""),
                (failed(Failure::Passing), ""),
                (said(1, to(8)), ""),
                (Event::Connected, ""),
            ],
        );
        assert_eq!(state.due(), Some(RETRY_MS));
        assert_eq!(short(&state.on(Event::Tick, RETRY_MS)), "ask 2 5");
        let broken = || Failure::Broken("torn".to_owned());
        run(
            &mut following(),
            [(said(1, to(6)), "apply 6"), (failed(broken()), "quarantine, copy")],
        );
        // Its checksum was wrong, three times.
        run(
            &mut following(),
            [
                (said(1, to(6)), "apply 6"),
                (failed(Failure::Misfit), "ask 2 5"),
                (said(2, to(6)), "apply 6"),
                (failed(Failure::Misfit), "ask 3 5"),
                (said(3, to(6)), "apply 6"),
                (failed(Failure::Misfit), "leave, copy"),
            ],
        );
    }

    #[test]
    fn scrubs_come_between() {
        let mut state = following();
        run(&mut state, [(said(1, to(6)), "apply 6")]);
        assert_eq!(state.due(), None);
        assert_eq!(short(&state.on(said(1, to(7)), SCRUB_MS)), "");
        assert_eq!(short(&state.on(applied(6), SCRUB_MS)), "scrub");
        assert_eq!(short(&state.on(Event::Scrubbed(Ok(())), SCRUB_MS)), "apply 7");
        assert_eq!(short(&state.on(applied(7), SCRUB_MS)), "");
        assert_eq!(state.due(), Some(2 * SCRUB_MS));
        assert_eq!(short(&state.on(Event::Tick, 2 * SCRUB_MS)), "scrub");
        let broken = Failure::Broken("page 3".to_owned());
        assert_eq!(
            short(&state.on(Event::Scrubbed(Err(broken)), 2 * SCRUB_MS)),
            "quarantine, copy"
        );
    }
}
