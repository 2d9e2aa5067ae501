//! The levels: what is merged when, and how long it is kept. Litestream's own numbers where it has them.
//!
//! Any second of the retention must be restorable, so what was uploaded is kept: first as the files themselves, then, once
//! an hour is over, as one history object. The merged levels only make restoring fast.

use std::time::Duration;

use super::layout::{Inventory, Item, Kind, SNAPSHOTS, UPLOADS};
use crate::position::Txid;

/// A level of merged files.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) number: u8,
    /// The files of the level below that were stored in one such span of time become one.
    window: Duration,
    /// How long its files are kept after the level above has them; `None` is as long as snapshots are.
    kept: Option<Duration>,
}

/// The windows of the levels 1, 2 and 3, unless the settings say otherwise.
pub(super) const WINDOWS: [Duration; 3] = [
    Duration::from_secs(30),
    Duration::from_secs(300),
    Duration::from_secs(3600),
];
/// The level whose files have a history each.
pub(super) const HIGHEST: Kind = Kind::Level(3);

/// What is merged and what is kept, all measured in windows. In brackets what that is with [`WINDOWS`].
#[derive(Debug)]
pub(crate) struct Levels {
    pub(crate) merged: [Level; 3],
    /// How long uploads are kept after a history has them, and anything that is no longer needed: whoever restores just
    /// now may have listed it (10 minutes).
    listed: Duration,
    /// Time between two looks for what may be removed (5 minutes).
    pub(crate) remove: Duration,
}

impl Levels {
    pub(crate) fn of(windows: [Duration; 3]) -> Levels {
        let [first, second, third] = windows;
        let level = |number, window, kept| Level { number, window, kept };
        Levels {
            merged: [
                // (1 hour)
                level(1, first, Some(second * 12)),
                // (1 day)
                level(2, second, Some(third * 24)),
                level(3, third, None),
            ],
            listed: first * 20,
            remove: first * 10,
        }
    }
}

/// Files merged at once: each is read through a buffer of its own. What is left is merged in the next round.
pub(crate) const MERGED_FILES: usize = 64;
/// Bytes merged at once: the disk holds them meanwhile. One file may be larger.
pub(crate) const MERGED_BYTES: u64 = 1024 * 1024 * 1024;
/// Files of one history; its index is held in memory.
pub(crate) const HISTORY_FILES: usize = 10_000;

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The files that are to become one file of `level` now; none while their window has not ended.
pub(crate) fn due(items: &Inventory, level: &Level, now_ms: i64) -> Vec<Item> {
    let below = Kind::Level(level.number - 1);
    let mut waiting = items.above(below, items.top(Kind::Level(level.number)));
    let Some(first) = waiting.next().copied() else {
        return Vec::new();
    };
    let window = ms(level.window);
    let end = (first.stored_ms.div_euclid(window) + 1) * window;
    if now_ms < end {
        return Vec::new();
    }
    let (mut bytes, mut max) = (first.bytes, first.max);
    let rest = waiting.take_while(|item| {
        bytes += item.bytes;
        // Not beyond a gap: a merged file has none.
        let taken = item.stored_ms < end && item.continues(max) && bytes <= MERGED_BYTES;
        max = item.max;
        taken
    });
    std::iter::once(first).chain(rest.copied()).take(MERGED_FILES).collect()
}

/// The uploads that are to become one history now: those that the highest level covers, and no history.
pub(crate) fn due_history(items: &Inventory) -> Vec<Item> {
    let done = items.top(Kind::History);
    let uploads_of = |whole: &Item| {
        let uploads = items.above(UPLOADS, done.max(Txid(whole.min.0 - 1)));
        let those = uploads.take_while(|item| item.max <= whole.max).take(HISTORY_FILES);
        those.copied().collect::<Vec<_>>()
    };
    let mut wholes = items.above(HIGHEST, done).map(uploads_of);
    wholes.find(|uploads| !uploads.is_empty()).unwrap_or_default()
}

/// What no restore to a time within `retention` needs any more, and no merge.
pub(crate) fn removable(items: &Inventory, levels: &Levels, retention: Duration, now_ms: i64) -> Vec<Item> {
    let older = |item: &Item, age: Duration| item.stored_ms.saturating_add(ms(age)) <= now_ms;
    // A restore to the oldest time that must be possible begins here.
    let oldest = items.of(SNAPSHOTS).rev().find(|item| older(item, retention));
    let cut = oldest.map_or(Txid(0), |snapshot| snapshot.max);
    let covered = |item: &Item| -> Option<(Txid, Duration)> {
        let above = |number: u8| items.top(Kind::Level(number));
        match item.kind {
            UPLOADS => Some((above(1).min(items.top(Kind::History)), levels.listed)),
            Kind::Level(number) => {
                let level = levels.merged.iter().find(|level| level.number == number)?;
                Some((above(number + 1), level.kept?))
            }
            Kind::History => None,
        }
    };
    let removable = |item: &&Item| {
        let past = match item.kind {
            SNAPSHOTS => item.max < cut,
            _ => item.max <= cut,
        };
        let thinned = covered(item).is_some_and(|(top, kept)| item.max <= top && older(item, kept));
        older(item, levels.listed) && (past || thinned)
    };
    items.iter().filter(removable).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;

    const SECOND: i64 = 1000;
    const HOUR: i64 = 3600 * SECOND;
    const DAY: i64 = 24 * HOUR;

    fn item(kind: Kind, min: u64, max: u64, stored_ms: i64) -> Item {
        Item {
            kind,
            min: Txid(min),
            max: Txid(max),
            bytes: 1000,
            stored_ms,
        }
    }

    fn ranges(items: &[Item]) -> Vec<(u64, u64)> {
        items.iter().map(|item| (item.min.0, item.max.0)).collect()
    }

    #[test]
    fn a_window_is_merged_when_it_has_ended_and_never_over_a_gap() {
        let levels = Levels::of(WINDOWS);
        let uploads = [(2, 3, 1), (4, 4, 20), (5, 9, 29), (10, 10, 30), (12, 12, 31)];
        let mut items: Inventory = uploads
            .iter()
            .map(|(min, max, at)| item(UPLOADS, *min, *max, at * SECOND))
            .collect();
        assert!(due(&items, &levels.merged[0], 29 * SECOND).is_empty());
        let mut found = Vec::new();
        for now in [30, 30, 60, 60, 60] {
            let batch = due(&items, &levels.merged[0], now * SECOND);
            if let (Some(first), Some(last)) = (batch.first(), batch.last()) {
                items.insert(item(Kind::Level(1), first.min.0, last.max.0, now * SECOND));
                found.push(ranges(&batch));
            }
        }
        assert_eq!(found, [vec![(2, 3), (4, 4), (5, 9)], vec![(10, 10)], vec![(12, 12)]]);
    }

    #[test]
    fn a_merge_is_bounded() {
        let levels = Levels::of(WINDOWS);
        let items: Inventory = (2..=200).map(|txid| item(UPLOADS, txid, txid, 0)).collect();
        assert_eq!(due(&items, &levels.merged[0], HOUR).len(), MERGED_FILES);
    }

    /// Two months of uploads every 20 seconds for a few minutes a day, all the work done as it becomes due, looked at
    /// each day: every upload of the retention can be restored exactly, and nothing older is kept but its snapshot.
    #[test]
    fn every_upload_of_the_retention_stays_restorable() {
        let levels = Levels::of(WINDOWS);
        let retention = Duration::from_secs(10 * 24 * 3600);
        let mut items = Inventory::default();
        let mut txid = 1;
        let mut uploads = Vec::new();
        items.insert(item(SNAPSHOTS, 1, txid, 0));
        for day in 0..60 {
            for step in 0..(24 * 60 * 3) {
                let now = day * DAY + step * 20 * SECOND;
                if step < 40 || (2000..2010).contains(&step) {
                    txid += 1;
                    items.insert(item(UPLOADS, txid, txid, now));
                    uploads.push((now, txid));
                }
                for level in &levels.merged {
                    loop {
                        let batch = due(&items, level, now);
                        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
                            break;
                        };
                        items.insert(item(Kind::Level(level.number), first.min.0, last.max.0, now));
                    }
                }
                let batch = due_history(&items);
                if let (Some(first), Some(last)) = (batch.first(), batch.last()) {
                    items.insert(item(Kind::History, first.min.0, last.max.0, now));
                }
                if step == 3000 {
                    items.insert(item(SNAPSHOTS, 1, txid, now));
                }
                if step % 100 == 0 {
                    for gone in removable(&items, &levels, retention, now) {
                        items.remove(&gone);
                    }
                }
            }
            let now = (day + 1) * DAY;
            for (at, txid) in &uploads {
                if *at > now - 10 * DAY {
                    plan(&items, Txid(*txid)).unwrap_or_else(|error| panic!("day {day}, {txid}: {error}"));
                }
            }
            assert!(items.iter().count() < 250, "day {day}: {}", items.iter().count());
        }
        let oldest = items.of(SNAPSHOTS).next().unwrap();
        assert!(oldest.stored_ms > 48 * DAY, "{oldest:?}");
    }
}
