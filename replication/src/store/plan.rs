//! Which objects lead to a state: the newest snapshot before it and the fewest files from there.

use thiserror::Error;

use super::layout::{Inventory, Item, Kind};
use crate::position::Txid;

/// Why a state cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    #[error("no snapshot is old enough")]
    NoSnapshot,
    #[error("nothing stored leads on from transaction {}", after.0)]
    Gap { after: Txid },
}

/// The objects to apply in order: first a snapshot; of a history only what is needed. `target` must be the last
/// transaction of some file.
pub(crate) fn plan(items: &Inventory, target: Txid) -> Result<Vec<Item>, PlanError> {
    let snapshot = *items.snapshot_at(target).ok_or(PlanError::NoSnapshot)?;
    let mut at = snapshot.max;
    let mut steps = vec![snapshot];
    while at < target {
        let item = next(items, at, target).ok_or(PlanError::Gap { after: at })?;
        at = item.max.min(target);
        steps.push(item);
    }
    Ok(steps)
}

/// Up to where the newest snapshot and what follows it lead without a gap.
pub(crate) fn reach(items: &Inventory) -> Option<Txid> {
    let mut at = items.top(super::layout::SNAPSHOTS);
    if at == Txid(0) {
        return None;
    }
    while let Some(item) = next(items, at, Txid(u64::MAX)) {
        at = item.max;
    }
    Some(at)
}

/// What leads furthest from `at` but not beyond `target`: taking it every time takes the fewest.
fn next(items: &Inventory, at: Txid, target: Txid) -> Option<Item> {
    let furthest = |kind| {
        items
            .above(kind, at)
            .take_while(|item| item.max <= target)
            .filter(|item| item.continues(at))
            .last()
    };
    let files = (0..super::layout::LEVELS_OF_FILES).filter_map(|level| furthest(Kind::Level(level)));
    let best = files.max_by_key(|item| (item.max, std::cmp::Reverse(item.bytes)));
    // A history ends where the state does; what it holds beyond is left out.
    best.or_else(|| items.above(Kind::History, at).find(|item| item.continues(at)))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::item;
    use super::super::layout::{SNAPSHOTS, UPLOADS};
    use super::*;

    const L1: Kind = Kind::Level(1);
    const L2: Kind = Kind::Level(2);

    fn check(items: &[(Kind, u64, u64)], target: u64, expected: Result<&[(Kind, u64, u64)], PlanError>) {
        let inventory: Inventory = items.iter().map(|(kind, min, max)| item(*kind, *min, *max)).collect();
        let found = plan(&inventory, Txid(target));
        let found = found.map(|steps| {
            let parts = steps.iter().map(|step| (step.kind, step.min.0, step.max.0));
            parts.collect::<Vec<_>>()
        });
        assert_eq!(found, expected.map(<[_]>::to_vec), "to {target}");
    }

    #[test]
    fn the_fewest_files_from_the_newest_snapshot() {
        let items = [
            (SNAPSHOTS, 1, 3),
            (SNAPSHOTS, 1, 8),
            (UPLOADS, 2, 3),
            (UPLOADS, 4, 4),
            (UPLOADS, 5, 6),
            (UPLOADS, 7, 9),
            (UPLOADS, 10, 10),
            (UPLOADS, 11, 12),
            (L1, 2, 6),
            (L1, 7, 12),
            (L2, 2, 6),
        ];
        check(&items, 3, Ok(&[(SNAPSHOTS, 1, 3)]));
        check(&items, 6, Ok(&[(SNAPSHOTS, 1, 3), (L2, 2, 6)]));
        // A snapshot may have been taken in the middle of a file.
        check(&items, 9, Ok(&[(SNAPSHOTS, 1, 8), (UPLOADS, 7, 9)]));
        check(&items, 12, Ok(&[(SNAPSHOTS, 1, 8), (L1, 7, 12)]));
        check(&items, 2, Err(PlanError::NoSnapshot));
        check(&items, 13, Err(PlanError::Gap { after: Txid(12) }));
        check(&[], 1, Err(PlanError::NoSnapshot));
    }

    #[test]
    fn a_gap_is_told_and_a_later_snapshot_bridges_it() {
        let items = [
            (SNAPSHOTS, 1, 2),
            (UPLOADS, 3, 4),
            (UPLOADS, 6, 7),
            (SNAPSHOTS, 1, 7),
            (UPLOADS, 8, 8),
        ];
        check(&items, 4, Ok(&[(SNAPSHOTS, 1, 2), (UPLOADS, 3, 4)]));
        check(&items[..3], 7, Err(PlanError::Gap { after: Txid(4) }));
        check(&items, 8, Ok(&[(SNAPSHOTS, 1, 7), (UPLOADS, 8, 8)]));
        let inventory = |items: &[(Kind, u64, u64)]| -> Inventory {
            items.iter().map(|(kind, min, max)| item(*kind, *min, *max)).collect()
        };
        assert_eq!(reach(&inventory(&items)), Some(Txid(8)));
        assert_eq!(reach(&inventory(&items[..3])), Some(Txid(4)));
        assert_eq!(reach(&inventory(&items[1..3])), None);
    }

    #[test]
    fn a_history_leads_to_where_no_file_ends() {
        let items = [
            (SNAPSHOTS, 1, 2),
            (L2, 3, 9),
            (L2, 10, 20),
            (Kind::History, 3, 9),
            (Kind::History, 10, 20),
        ];
        check(&items, 9, Ok(&[(SNAPSHOTS, 1, 2), (L2, 3, 9)]));
        check(
            &items,
            14,
            Ok(&[(SNAPSHOTS, 1, 2), (L2, 3, 9), (Kind::History, 10, 20)]),
        );
        check(&items, 5, Ok(&[(SNAPSHOTS, 1, 2), (Kind::History, 3, 9)]));
    }
}
