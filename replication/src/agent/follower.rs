//! What a primary sends one follower: the decisions, without the connection and without the disk.
//!
//! Invariants:
//! * Of each database the follower gets a chain: every file continues what it had or was sent before, or it is told to
//!   take a snapshot.
//! * Every question is answered, at once or as soon as there is something to say, under its number.
//! * One read of the log is under way for each database, so that a slow disk or connection holds one piece and no more.
//! * A follower that knows a newer leadership is told nothing: its primary is another.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::frames::{Notice, Request};
use crate::log::{Head, Known, Log};
use crate::ltx::Header;
use crate::position::{Epoch, Txid};

pub(crate) struct Follower {
    /// Of this leadership.
    epoch: Epoch,
    agent: String,
    followed: BTreeMap<String, Followed>,
}

/// A database that is sent.
struct Followed {
    /// The question that is answered.
    ask: u64,
    /// What the follower has when all that was sent has arrived.
    sent: Head,
    /// Whether it was part of this log's history: then it is whole, also when its content is replaced at the primary.
    known: bool,
    reading: bool,
}

#[derive(Debug)]
pub(crate) enum Event {
    Said(Request),
    /// The log has gained something, or began a chain anew.
    LogChanged,
    /// What [`Action::Read`] brought.
    Read {
        database: String,
        ask: u64,
        found: Found,
    },
}

#[derive(Debug)]
pub(crate) enum Found {
    /// Oldest first; none when what is there is not durable yet.
    Files(Vec<Bytes>),
    /// The log no longer has what comes next.
    Gone,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Notice(Notice),
    File {
        database: String,
        ask: u64,
        file: Bytes,
    },
    /// Read the files after `after`, a bounded piece.
    Read {
        database: String,
        ask: u64,
        after: Txid,
    },
    /// End the connection.
    End(&'static str),
}

impl Follower {
    pub(crate) fn new(epoch: Epoch) -> Follower {
        Follower {
            epoch,
            agent: String::new(),
            followed: BTreeMap::new(),
        }
    }

    /// Who follows, once it has said so.
    pub(crate) fn agent(&self) -> &str {
        &self.agent
    }

    pub(crate) fn on(&mut self, event: Event, log: &dyn Log) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Said(Request::Hello { agent }) => self.agent = agent,
            Event::Said(Request::Follow { state, .. }) if state.position.epoch > self.epoch => {
                actions.push(Action::End("the follower has followed a primary of a higher epoch"));
            }
            Event::Said(Request::Follow { database, ask, state }) => {
                let followed = Followed {
                    ask,
                    sent: state,
                    known: false,
                    reading: false,
                };
                self.followed.insert(database.clone(), followed);
                actions.extend(self.proceed(&database, log));
            }
            Event::Said(Request::Applied { .. }) => {}
            Event::LogChanged => {
                let databases: Vec<String> = self.followed.keys().cloned().collect();
                actions.extend(databases.iter().filter_map(|database| self.proceed(database, log)));
            }
            Event::Read { database, ask, found } => {
                actions = self.take(&database, ask, found);
                actions.extend(self.proceed(&database, log));
            }
        }
        actions
    }

    /// The next step for one database.
    fn proceed(&mut self, database: &str, log: &dyn Log) -> Option<Action> {
        let followed = self.followed.get_mut(database).filter(|followed| !followed.reading)?;
        let (ask, database) = (followed.ask, database.to_owned());
        let found = log.find(&database, &followed.sent);
        followed.known |= found == Known::Here;
        let action = match (found, log.head(&database)) {
            (_, None) => Action::Notice(Notice::Unknown { database, ask }),
            (Known::Here, Some(head)) if head.position.txid > followed.sent.position.txid => {
                followed.reading = true;
                let after = followed.sent.position.txid;
                return Some(Action::Read { database, ask, after });
            }
            (Known::Here, Some(_)) => return None,
            (found, Some(head)) => Action::Notice(Notice::Resync {
                diverged: found == Known::Never && !is_only_old(followed, &database, &head, log),
                database,
                ask,
            }),
        };
        if let Action::Notice(Notice::Unknown { database, .. } | Notice::Resync { database, .. }) = &action {
            // It asks again when it can be continued.
            self.followed.remove(database);
        }
        Some(action)
    }

    /// Sends what was read, unless it was read for an older question.
    fn take(&mut self, database: &str, ask: u64, found: Found) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(followed) = self.followed.get_mut(database).filter(|followed| followed.ask == ask) else {
            return actions;
        };
        followed.reading = false;
        match found {
            Found::Gone => {
                self.followed.remove(database);
                actions.push(Action::Notice(Notice::Resync {
                    database: database.to_owned(),
                    ask,
                    diverged: false,
                }));
            }
            Found::Files(files) => {
                for file in files {
                    let Some(header) = Header::of(&file) else {
                        self.followed.remove(database);
                        return vec![Action::End("a file in the log cannot be read")];
                    };
                    // The chain began anew while it was read: what comes next finds out.
                    if !followed.sent.is_continued_by(&header) {
                        break;
                    }
                    followed.sent = Head::after(&header);
                    actions.push(Action::File {
                        database: database.to_owned(),
                        ask,
                        file,
                    });
                }
            }
        }
        actions
    }
}

/// Whether the content was replaced while it followed, and has come after all that it has: a client that has seen the new
/// one carries a higher position, so the old one may be read until the new one is there.
fn is_only_old(followed: &Followed, database: &str, head: &Head, log: &dyn Log) -> bool {
    let sent = &followed.sent;
    let replaced = followed.known && head.lineage != sent.lineage;
    replaced && head.position > sent.position && log.state_at(database, sent.position.txid).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::MemoryLog;
    use crate::log::suite::{file, head};
    use crate::position::Lineage;

    /// A log of "shop" from 2 to 4 in epoch 1.
    fn log() -> MemoryLog {
        let log = MemoryLog::default();
        log.begin("shop", head(1, 2)).unwrap();
        log.append("shop", file(head(1, 2), head(1, 3))).unwrap();
        log.append("shop", file(head(1, 3), head(1, 4))).unwrap();
        log
    }

    fn follow(ask: u64, state: Head) -> Event {
        Event::Said(Request::Follow {
            database: "shop".to_owned(),
            ask,
            state,
        })
    }

    fn read(ask: u64, found: Found) -> Event {
        Event::Read {
            database: "shop".to_owned(),
            ask,
            found,
        }
    }

    fn files(txids: std::ops::RangeInclusive<u64>) -> Found {
        Found::Files(txids.map(|txid| file(head(1, txid - 1), head(1, txid))).collect())
    }

    /// Actions in short.
    fn short(actions: &[Action]) -> String {
        let one = |action: &Action| match action {
            Action::Notice(Notice::Resync { ask, diverged, .. }) => format!("resync {ask} {diverged}"),
            Action::Notice(Notice::Unknown { ask, .. }) => format!("unknown {ask}"),
            Action::Notice(Notice::Heads { .. }) => "heads".to_owned(),
            Action::File { ask, file, .. } => format!("file {ask} {}", Header::of(file).unwrap().max_txid.0),
            Action::Read { ask, after, .. } => format!("read {ask} {}", after.0),
            Action::End(_) => "end".to_owned(),
        };
        actions.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn check(log: &MemoryLog, steps: impl IntoIterator<Item = (Event, &'static str)>) -> Follower {
        let mut follower = Follower::new(Epoch(1));
        for (number, (event, expected)) in steps.into_iter().enumerate() {
            assert_eq!(short(&follower.on(event, log)), expected, "step {number}");
        }
        follower
    }

    #[test]
    fn a_question_is_answered_by_what_the_log_knows_of_the_state() {
        let other = Head {
            checksum: 0,
            ..head(1, 3)
        };
        for (state, expected) in [
            (head(1, 4), ""),
            (head(1, 3), "read 1 3"),
            (head(1, 2), "read 1 2"),
            (head(1, 1), "resync 1 false"),
            (head(1, 5), "resync 1 true"),
            (other, "resync 1 true"),
            (head(0, 4), "resync 1 true"),
            // A newer leadership: not ours to judge.
            (head(2, 4), "end"),
        ] {
            check(&log(), [(follow(1, state), expected)]);
        }
        check(&MemoryLog::default(), [(follow(1, head(1, 1)), "unknown 1")]);
    }

    #[test]
    fn files_are_read_piece_by_piece_until_it_is_level() {
        let log = log();
        let mut follower = check(
            &log,
            [
                (follow(1, head(1, 2)), "read 1 2"),
                (Event::LogChanged, ""),
                (read(1, files(3..=3)), "file 1 3, read 1 3"),
                (read(1, files(4..=4)), "file 1 4"),
                (Event::LogChanged, ""),
            ],
        );
        log.append("shop", file(head(1, 4), head(1, 5))).unwrap();
        assert_eq!(short(&follower.on(Event::LogChanged, &log)), "read 1 4");
        // Not durable yet: the log changes once more when it is.
        let nothing = read(1, Found::Files(vec![]));
        assert_eq!(short(&follower.on(nothing, &log)), "read 1 4");
    }

    #[test]
    fn what_was_read_for_an_older_question_is_not_sent() {
        check(
            &log(),
            [
                (follow(1, head(1, 2)), "read 1 2"),
                (follow(2, head(1, 3)), "read 2 3"),
                (read(1, files(3..=4)), ""),
                (read(2, files(4..=4)), "file 2 4"),
                (follow(3, head(1, 3)), "read 3 3"),
            ],
        );
    }

    #[test]
    fn what_is_forgotten_or_begun_anew_while_it_is_sent_needs_a_snapshot() {
        check(
            &log(),
            [
                (follow(1, head(1, 2)), "read 1 2"),
                (read(1, Found::Gone), "resync 1 false"),
                (Event::LogChanged, ""),
            ],
        );
        // Level, and nothing will ever follow.
        let log = log();
        let mut follower = check(&log, [(follow(1, head(1, 4)), "")]);
        let restored = Head {
            lineage: Lineage(9),
            ..head(1, 3)
        };
        log.begin("shop", restored).unwrap();
        // A client that has seen transaction 4 of the new content must not be shown the old one.
        assert_eq!(short(&follower.on(Event::LogChanged, &log)), "resync 1 true");
        // Read from the chain that is no more.
        let mut follower = check(&log, [(follow(1, restored), "")]);
        log.append(
            "shop",
            file(
                restored,
                Head {
                    lineage: Lineage(9),
                    ..head(1, 4)
                },
            ),
        )
        .unwrap();
        assert_eq!(short(&follower.on(Event::LogChanged, &log)), "read 1 3");
        log.begin("shop", head(1, 8)).unwrap();
        assert_eq!(short(&follower.on(read(1, files(4..=4)), &log)), "resync 1 false");
    }

    /// What a follower of transaction 4 is told when other content begins at `begins`, and `commits` follow it.
    fn replaced(begins: u64, commits: u64) -> String {
        let other = |txid| Head {
            lineage: Lineage(9),
            ..head(1, txid)
        };
        let log = log();
        let mut follower = check(&log, [(follow(1, head(1, 4)), "")]);
        log.begin("shop", other(begins)).unwrap();
        for txid in begins..begins + commits {
            log.append("shop", file(other(txid), other(txid + 1))).unwrap();
        }
        short(&follower.on(Event::LogChanged, &log))
    }

    #[test]
    fn old_content_is_read_on_only_if_no_position_of_the_new_one_is_its_own() {
        for (begins, commits, expected) in [
            (5, 0, "resync 1 false"),
            (5, 9, "resync 1 false"),
            (9, 0, "resync 1 false"),
            (4, 0, "resync 1 true"),
            (3, 0, "resync 1 true"),
            (3, 9, "resync 1 true"),
        ] {
            assert_eq!(replaced(begins, commits), expected, "{begins} {commits}");
        }
    }

    #[test]
    fn an_unreadable_file_ends_the_connection() {
        check(
            &log(),
            [
                (follow(1, head(1, 2)), "read 1 2"),
                (read(1, Found::Files(vec![Bytes::from_static(b"LTX?")])), "end"),
            ],
        );
    }
}
