//! What must hold.

use std::collections::BTreeSet;

use super::model::Op;
use super::primary::{is_poison, is_refused};
use super::world::{PopId, World};
use super::{DATABASES, POPS};

impl World {
    pub(super) fn check_replica(&self, id: PopId, database: &'static str) -> Result<(), String> {
        let Some(content) = &self.pops[id].locals[database].content else {
            return Ok(());
        };
        let shown = (
            database,
            content.head.lineage,
            content.head.position,
            content.checksum(),
        );
        if !content.rotten && !self.history.contains(&shown) {
            return Err(format!("PoP {id} shows {shown:?}, which was in no log"));
        }
        Ok(())
    }

    pub(super) fn check_primary(&self) -> Result<(), String> {
        for database in DATABASES {
            let content = &self.primaries[self.current()].databases[database].content;
            let mut last = [0; POPS];
            let mut done = BTreeSet::new();
            for (op, _) in &content.ops {
                let (pop, of, number) = self.ops[*op as usize - 1];
                if of != database || !done.insert(*op) {
                    return Err(format!("operation {op} of {of} is done twice in {database}"));
                }
                // One that a backup or a deposed primary took along may come again, from a queue that had not forgotten it
                // durably.
                if self.excused.contains(op) {
                    continue;
                }
                if number <= last[pop] {
                    return Err(format!(
                        "operation {op} of PoP {pop} is done after one that was queued later"
                    ));
                }
                last[pop] = number;
            }
            let here = |op: &&Op| self.ops[**op as usize - 1].1 == database;
            let lost = |op: &&Op| !done.contains(op) && !self.excused.contains(op);
            if let Some(op) = self.acknowledged.iter().filter(here).find(lost) {
                return Err(format!("operation {op} was acknowledged and is lost"));
            }
            let never = |op: &&Op| lost(op) && !is_refused(**op) && !is_poison(**op);
            let ended = self.healed && self.is_level();
            if ended && let Some(op) = self.accepted.iter().filter(here).find(never) {
                return Err(format!("operation {op} was queued and was never done"));
            }
        }
        Ok(())
    }

    pub(super) fn is_level(&self) -> bool {
        self.differences().is_empty()
    }

    pub(super) fn differences(&self) -> String {
        let primary = &self.primaries[self.current()];
        let mut differences = String::new();
        for (id, pop) in self.pops.iter().enumerate() {
            for (database, local) in &pop.locals {
                let wanted = &primary.databases[database].content;
                let is_same = local.content.as_ref().is_some_and(|content| {
                    content.head.is_same(&wanted.head) && content.checksum() == wanted.checksum()
                });
                if !is_same || local.left.is_some() {
                    let here = local.content.as_ref().map(|content| content.head.position.to_string());
                    differences += &format!("PoP {id} has {here:?} of {database}, not {}; ", wanted.head.position);
                }
                if !local.lane.is_empty() {
                    differences += &format!("PoP {id} has operations for {database} in its lane; ");
                }
            }
            if !pop.queue.is_empty() {
                differences += &format!("PoP {id} has {} operations in its queue; ", pop.queue.len());
            }
        }
        differences
    }
}
