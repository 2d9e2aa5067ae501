//! Streams that break, stall and delay, and whom they lead to; what a primary sends and what a PoP takes from them.

use std::collections::BTreeSet;

use super::primary::{Connection, RequestId};
use super::world::{BYTES_PER_TURN, Event, HEARTBEAT, Incarnation, PopId, SILENCE, Stream, World};
use super::{DATABASES, Plant};
use crate::agent::follower::{self, Follower, Found};
use crate::agent::frames::{Frame, Notice, Request};
use crate::agent::lane::{self, Verdict};
use crate::agent::replica_state::{self, Answer};
use crate::log::Log;
use crate::position::{Epoch, Txid};
use bytes::Bytes;

impl World {
    pub(super) fn note_history(&mut self, at: Incarnation) {
        for database in DATABASES {
            if let Some(head) = self.primaries[at].log.head(database) {
                self.history
                    .insert((database, head.lineage, head.position, head.checksum));
            }
        }
    }

    pub(super) fn start_sync(&mut self, at: Incarnation, was_syncing: bool) {
        if self.primaries[at].syncing && !was_syncing {
            let delay = 1 + self.delay(6, 300);
            self.after(delay, Event::Synced { at });
        }
    }

    pub(super) fn synced(&mut self, at: Incarnation) -> Result<(), String> {
        let answers = self.primaries[at].synced();
        self.note_history(at);
        self.start_sync(at, false);
        self.answer(at, answers);
        self.log_changed(at)
    }

    pub(super) fn answer(&mut self, at: Incarnation, answers: Vec<(RequestId, Vec<Verdict>)>) {
        for (request, verdicts) in answers {
            self.respond(at, request, Ok(verdicts));
        }
    }

    pub(super) fn log_changed(&mut self, at: Incarnation) -> Result<(), String> {
        let connections: Vec<_> = self.primaries[at].followers.keys().copied().collect();
        for connection in connections {
            self.tell_follower(at, connection, follower::Event::LogChanged)?;
        }
        Ok(())
    }

    pub(super) fn tell_follower(
        &mut self,
        at: Incarnation,
        connection: Connection,
        event: follower::Event,
    ) -> Result<(), String> {
        let primary = &mut self.primaries[at];
        let Some(follower) = primary.followers.get_mut(&connection) else {
            return Ok(());
        };
        for action in follower.on(event, &primary.log) {
            match action {
                follower::Action::Notice(notice) => self.send_down(connection, Frame::Notice(notice)),
                follower::Action::File { database, ask, file } => {
                    self.send_down(connection, Frame::File { database, ask, file });
                }
                follower::Action::Read { database, ask, after } => {
                    let delay = self.delay(10, 200);
                    self.after(
                        delay,
                        Event::Read {
                            at,
                            connection,
                            database,
                            ask,
                            after,
                        },
                    );
                }
                follower::Action::End(_) => {
                    self.happened.refused_by_epoch += 1;
                    self.close(connection)?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        at: Incarnation,
        connection: Connection,
        database: String,
        ask: u64,
        after: Txid,
    ) -> Result<(), String> {
        if !self.primaries[at].alive {
            return Ok(());
        }
        let found = match self.primaries[at].log.read_after(&database, after, BYTES_PER_TURN) {
            Ok(files) => Found::Files(files),
            Err(_) => Found::Gone,
        };
        self.tell_follower(at, connection, follower::Event::Read { database, ask, found })
    }

    pub(super) fn heartbeat(&mut self, at: Incarnation) {
        let connections: Vec<_> = self.primaries[at].followers.keys().copied().collect();
        for connection in connections {
            self.send_heads(at, connection);
        }
        if self.chance(30) {
            self.primaries[at].checkpoint();
        }
        self.after(HEARTBEAT, Event::Heartbeat { at });
    }

    pub(super) fn send_heads(&mut self, at: Incarnation, connection: Connection) {
        let epoch = self.primaries[at].epoch;
        let heads = self.primaries[at].log.heads();
        self.send_down(
            connection,
            Frame::Notice(Notice::Heads {
                epoch,
                heads,
                gone: BTreeSet::new(),
            }),
        );
    }

    pub(super) fn connect(&mut self, pop: PopId) {
        let life = self.pops[pop].life;
        let to = self.route();
        let passes = !self.pops[pop].blocked_up && !self.pops[pop].blocked_down;
        if passes && self.primaries[to].alive && self.is_let_in(pop, to) {
            let delay = 1 + self.delay(20, 500);
            self.after(delay, Event::Connected { pop, life, to });
        } else {
            self.connect_later(pop);
        }
    }

    /// Where a new connection of a PoP ends: at the primary, or at one that does not know that it was deposed.
    pub(super) fn route(&mut self) -> Incarnation {
        let deposed = (0..self.current()).rev().find(|at| self.primaries[*at].alive);
        match deposed {
            Some(deposed) if self.chance(40) => deposed,
            _ => self.current(),
        }
    }

    /// Whether the primary talks to the PoP, which says what it has seen.
    pub(super) fn is_let_in(&mut self, pop: PopId, to: Incarnation) -> bool {
        let passes = self.plant == Some(Plant::NoFencing) || self.primaries[to].epoch >= self.pops[pop].epoch;
        if !passes {
            self.happened.refused_by_epoch += 1;
        }
        passes
    }

    pub(super) fn connect_later(&mut self, pop: PopId) {
        let longest = self.pops[pop].reconnect_ms;
        self.pops[pop].reconnect_ms = (longest * 2).min(2000);
        let (delay, life) = (self.rng.u64(longest / 2..=longest), self.pops[pop].life);
        self.after(delay, Event::Connect { pop, life });
    }

    pub(super) fn connected(&mut self, pop: PopId, to: Incarnation) -> Result<(), String> {
        if !self.primaries[to].alive {
            self.connect_later(pop);
            return Ok(());
        }
        let connection = self.id();
        let stream = Stream {
            pop,
            primary: to,
            open: true,
            stalled: false,
            up_at: 0,
            down_at: 0,
        };
        self.streams.insert(connection, stream);
        let epoch = match self.plant {
            Some(Plant::NoFencing) => Epoch(u32::MAX),
            _ => self.primaries[to].epoch,
        };
        self.primaries[to].followers.insert(connection, Follower::new(epoch));
        self.pops[pop].connection = Some(connection);
        self.pops[pop].heard_at = self.now;
        self.wake_at(pop, self.now + SILENCE);
        self.happened.streams += 1;
        self.send_heads(to, connection);
        Ok(())
    }

    pub(super) fn disconnect(&mut self, pop: PopId) -> Result<(), String> {
        let Some(connection) = self.pops[pop].connection.take() else {
            return Ok(());
        };
        if let Some(stream) = self.streams.get_mut(&connection) {
            stream.open = false;
            let primary = stream.primary;
            // Otherwise the primary does not hear of it.
            if !self.pops[pop].blocked_up {
                self.primaries[primary].followers.remove(&connection);
            }
        }
        self.connect_later(pop);
        for database in DATABASES {
            self.tell(pop, database, replica_state::Event::Disconnected)?;
            self.tell_lane(pop, database, lane::Event::Tick);
        }
        Ok(())
    }

    /// The primary's end is closed.
    pub(super) fn close(&mut self, connection: Connection) -> Result<(), String> {
        let Some(stream) = self.streams.get(&connection) else {
            return Ok(());
        };
        let (pop, primary) = (stream.pop, stream.primary);
        self.primaries[primary].followers.remove(&connection);
        // Otherwise the silence tells.
        if self.pops[pop].connection == Some(connection) && !self.pops[pop].blocked_down {
            self.disconnect(pop)?;
        }
        Ok(())
    }

    pub(super) fn send_down(&mut self, connection: Connection, frame: Frame) {
        let delay = 1 + self.delay(15, 400);
        if let Some(stream) = self.streams.get_mut(&connection) {
            stream.down_at = stream.down_at.max(self.now + delay);
            let at = stream.down_at;
            self.at(at, Event::ToPop { connection, frame });
        }
    }

    pub(super) fn send_up(&mut self, connection: Connection, request: Request) {
        let delay = 1 + self.delay(15, 400);
        if let Some(stream) = self.streams.get_mut(&connection) {
            stream.up_at = stream.up_at.max(self.now + delay);
            let at = stream.up_at;
            self.at(at, Event::ToPrimary { connection, request });
        }
    }

    /// Whether a message arrives. On a connection that has lost one nothing ever does, in neither direction: what is not
    /// acknowledged stops the sender.
    pub(super) fn passes(&mut self, connection: Connection) -> Option<(PopId, Incarnation)> {
        let stream = self.streams.get_mut(&connection)?;
        let pop = &self.pops[stream.pop];
        stream.stalled |= pop.blocked_up || pop.blocked_down;
        (stream.open && !stream.stalled).then_some((stream.pop, stream.primary))
    }

    pub(super) fn arrives_at_primary(&mut self, connection: Connection, request: Request) -> Result<(), String> {
        match self.passes(connection) {
            Some((_, at)) if self.primaries[at].alive => {
                self.tell_follower(at, connection, follower::Event::Said(request))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn arrives_at_pop(&mut self, connection: Connection, frame: Frame) -> Result<(), String> {
        let Some((id, from)) = self.passes(connection) else {
            return Ok(());
        };
        if self.pops[id].connection != Some(connection) {
            return Ok(());
        }
        let from_epoch = self.primaries[from].epoch;
        if from_epoch < self.pops[id].epoch && self.plant != Some(Plant::NoFencing) {
            self.happened.refused_by_epoch += 1;
            return self.disconnect(id);
        }
        self.pops[id].heard_at = self.now;
        self.wake_at(id, self.now + SILENCE);
        if !matches!(frame, Frame::Notice(Notice::Heads { .. })) && from_epoch < self.pops[id].epoch {
            return Err(format!(
                "PoP {id} listens to a primary of {from_epoch:?} after one of {:?}",
                self.pops[id].epoch
            ));
        }
        let (database, ask, answer) = match frame {
            Frame::Notice(Notice::Heads { epoch, heads, .. }) => {
                return self.heads_arrive(id, connection, epoch, heads.keys());
            }
            Frame::Notice(Notice::Resync {
                database,
                ask,
                diverged,
            }) => (database, ask, Answer::Resync { diverged }),
            Frame::Notice(Notice::Unknown { database, ask }) => (database, ask, Answer::Unknown),
            Frame::File { database, ask, file } => {
                let file = match std::mem::take(&mut self.pops[id].damages) {
                    true => self.damaged(&file),
                    false => file,
                };
                (database, ask, Answer::File(file))
            }
        };
        let Some(database) = DATABASES.into_iter().find(|name| **name == *database) else {
            return Ok(());
        };
        if self.pops[id].overflows > 0 {
            self.pops[id].overflows -= 1;
            self.happened.dropped += 1;
            return match self.plant {
                Some(Plant::ForgetToAsk) => Ok(()),
                _ => self.tell(id, database, replica_state::Event::Dropped),
            };
        }
        self.tell(id, database, replica_state::Event::Said { ask, answer })
    }

    pub(super) fn damaged(&mut self, file: &Bytes) -> Bytes {
        let mut bytes = file.to_vec();
        let at = self.rng.usize(0..bytes.len());
        bytes[at] ^= 1 << self.rng.u32(0..8);
        bytes.into()
    }

    pub(super) fn heads_arrive<'a>(
        &mut self,
        id: PopId,
        connection: Connection,
        epoch: Epoch,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        self.pops[id].epoch = epoch.max(self.pops[id].epoch);
        self.pops[id].reconnect_ms = 50;
        let first = self.streams.get(&connection).is_some_and(|stream| stream.up_at == 0);
        if first {
            // So that it is the first once.
            self.send_up(connection, Request::Hello { agent: id.to_string() });
            for database in DATABASES {
                self.tell(id, database, replica_state::Event::Connected)?;
                self.tell_lane(id, database, lane::Event::Reachable);
            }
        }
        for name in names {
            if let Some(database) = DATABASES.into_iter().find(|database| database == name) {
                self.tell(id, database, replica_state::Event::Named)?;
            }
        }
        Ok(())
    }
}
