//! What fails, and how it ends.

use std::collections::BTreeSet;

use super::model::Op;
use super::world::{Event, HEARTBEAT, Incarnation, Mend, World};
use super::{DATABASES, POPS, Plant};
use crate::log::Log;
use crate::position::{Epoch, Txid};

impl World {
    pub(super) fn fault(&mut self) -> Result<(), String> {
        let pop = self.rng.usize(0..POPS);
        let current = self.current();
        match self.rng.u32(0..24) {
            0..=3 => {
                let both = self.chance(40);
                let up = both || self.chance(50);
                (self.pops[pop].blocked_up, self.pops[pop].blocked_down) = (up, both || !up);
                let length = self.rng.u64(100..6000);
                self.after(length, Event::Mend(Mend::Network(pop)));
            }
            4..=5 => self.disconnect(pop)?,
            6..=8 if self.pops[pop].alive => {
                let power = self.chance(50);
                if power && self.plant == Some(Plant::QueueNotDurable) {
                    let newest: Vec<_> = self.pops[pop].queue.keys().rev().take(3).copied().collect();
                    for number in newest {
                        self.pops[pop].queue.remove(&number);
                    }
                }
                self.pops[pop].crash(power);
                self.happened.pop_crashes += 1;
                let length = self.rng.u64(50..3000);
                self.after(length, Event::Mend(Mend::Pop(pop)));
            }
            9..=11 if self.primaries[current].alive => {
                self.stop_primary(current)?;
                self.happened.primary_crashes += 1;
                let (length, power) = (self.rng.u64(50..4000), self.chance(50));
                self.after(length, Event::Mend(Mend::Primary(power)));
            }
            12 if self.primaries[current].alive => {
                // Moved to another machine, while the old one lives on where not everybody sees it.
                self.happened.moves += 1;
                self.replace_primary(current, false);
                self.check_primary()?;
                let length = self.rng.u64(500..8000);
                self.after(length, Event::Mend(Mend::Deposed(current)));
            }
            13 => {
                self.primaries[current].full = true;
                let length = self.rng.u64(100..4000);
                self.after(length, Event::Mend(Mend::PrimaryDisk(current)));
            }
            14 => {
                self.pops[pop].full = true;
                let length = self.rng.u64(100..4000);
                self.after(length, Event::Mend(Mend::PopDisk(pop)));
            }
            15 => {
                let database = DATABASES[self.rng.usize(0..DATABASES.len())];
                if let Some(content) = self.pops[pop]
                    .locals
                    .get_mut(database)
                    .and_then(|local| local.content.as_mut())
                {
                    content.rotten = true;
                    content.ops.push((0, content.head.position));
                }
            }
            16..=17 => {
                let primary = &mut self.primaries[current];
                primary.checkpoint();
                for database in DATABASES {
                    if let Some(head) = primary.log.head(database) {
                        primary.log.forget(database, head.position.txid);
                    }
                }
            }
            18..=19 => self.pops[pop].overflows = self.rng.u32(1..5),
            20 => self.pops[pop].damages = true,
            21 => self.backup = Some(current),
            22 if self.backup.is_some_and(|backup| backup != current) => {
                if let Some(backup) = self.backup.take() {
                    self.stop_primary(current)?;
                    self.happened.restores += 1;
                    self.replace_primary(backup, true);
                }
            }
            _ => {}
        }
        let pause = self.rng.u64(50..1500);
        self.after(pause, Event::Fault);
        Ok(())
    }

    pub(super) fn mend(&mut self, mend: Mend) -> Result<(), String> {
        match mend {
            Mend::Network(pop) => (self.pops[pop].blocked_up, self.pops[pop].blocked_down) = (false, false),
            Mend::Pop(pop) if !self.pops[pop].alive => {
                self.pops[pop].alive = true;
                self.start_pop(pop);
            }
            Mend::PopDisk(pop) => self.pops[pop].full = false,
            Mend::PrimaryDisk(at) => self.primaries[at].full = false,
            Mend::Primary(power) if !self.primaries[self.current()].alive => {
                self.replace_primary(self.current(), !power);
                self.check_primary()?;
            }
            Mend::Deposed(at) => self.stop_primary(at)?,
            Mend::Pop(_) | Mend::Primary(_) => {}
        }
        Ok(())
    }

    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.healed = true;
        for at in 0..self.current() {
            self.stop_primary(at)?;
        }
        let current = self.current();
        self.primaries[current].full = false;
        self.mend(Mend::Primary(true))?;
        for pop in 0..POPS {
            self.mend(Mend::Network(pop))?;
            self.mend(Mend::PopDisk(pop))?;
            self.mend(Mend::Pop(pop))?;
            (self.pops[pop].overflows, self.pops[pop].damages) = (0, false);
        }
        self.after(500, Event::Look);
        Ok(())
    }

    pub(super) fn stop_primary(&mut self, at: Incarnation) -> Result<(), String> {
        self.primaries[at].alive = false;
        let connections: Vec<_> = self.primaries[at].followers.keys().copied().collect();
        for connection in connections {
            self.close(connection)?;
        }
        Ok(())
    }

    /// A primary begins with what is on the disk of `of`; `whole` is all that its process wrote, else what its fsyncs
    /// kept and chance left of the rest.
    pub(super) fn replace_primary(&mut self, of: Incarnation, whole: bool) {
        let before = self.primaries.last().expect("there is one").databases.values();
        let known: BTreeSet<Op> = before
            .flat_map(|database| &database.content.ops)
            .map(|(op, _)| *op)
            .collect();
        let is_restore = of != self.current();
        self.highest_epoch += self.rng.u32(1..3);
        let kept = if whole { u64::MAX } else { self.rng.u64(0..3) };
        let mut rng = self.rng.fork();
        let new = self.primaries[of].restarted(Epoch(self.highest_epoch), kept, |checkpoint, newest| match whole {
            true => newest,
            false => Txid(rng.u64(checkpoint.0..=newest.0)),
        });
        if is_restore {
            let there: BTreeSet<Op> = new
                .databases
                .values()
                .flat_map(|database| &database.content.ops)
                .map(|(op, _)| *op)
                .collect();
            self.excused.extend(known.difference(&there));
            // Whatever the primaries since have acknowledged and is on its way.
            self.excused
                .extend(self.acknowledged.iter().filter(|op| !there.contains(op)));
        }
        self.primaries.push(new);
        let at = self.current();
        self.note_history(at);
        self.after(HEARTBEAT, Event::Heartbeat { at });
    }
}
