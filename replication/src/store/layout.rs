//! What the objects of one database are called, and what is known of them from their names.
//!
//! Below a chain's folder it is Litestream's layout; histories lie beside it, where Litestream does not look. A chain is
//! one uninterrupted history; the greatest number is the current one.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use object_store::ObjectMeta;
use object_store::path::Path;

use crate::position::{Lineage, Txid};

/// Litestream's level of whole databases.
pub(crate) const SNAPSHOTS: Kind = Kind::Level(9);
/// What the uploader writes.
pub(crate) const UPLOADS: Kind = Kind::Level(0);
/// Levels below the snapshots: 0 as uploaded, the others merged.
pub(crate) const LEVELS_OF_FILES: u8 = 9;
/// Holds the highest epoch of any object; see [`super::epoch`].
pub(crate) const EPOCH: &str = "_epoch";

/// One history of a database. It ends when the database is replaced or its past changes; the next has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChainName {
    pub(crate) number: u32,
    pub(crate) lineage: u32,
}

impl ChainName {
    pub(crate) fn lineage(self) -> Lineage {
        Lineage(self.lineage)
    }

    /// The chain that begins after `last`.
    pub(crate) fn after(last: Option<ChainName>, lineage: Lineage) -> ChainName {
        ChainName {
            number: last.map_or(1, |last| last.number + 1),
            lineage: lineage.0,
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}-{:08x}", self.number, self.lineage)
    }
}

impl FromStr for ChainName {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<ChainName, NotOurs> {
        let (number, lineage) = text.split_once('-').ok_or(NotOurs)?;
        Ok(ChainName {
            number: hex(number, 8)? as u32,
            lineage: hex(lineage, 8)? as u32,
        })
    }
}

/// The name is not one that this store gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotOurs;

fn hex(digits: &str, length: usize) -> Result<u64, NotOurs> {
    let valid = digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
        .ok_or(NotOurs)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Level(u8),
    /// Files of level 0 one after another, see [`super::history`].
    History,
}

/// What Litestream calls the folder of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LevelNames {
    /// `ltx/9`, in a file system.
    Decimal,
    /// `0009`, in S3.
    Hexadecimal,
}

/// Where the objects of one chain are.
#[derive(Debug, Clone)]
pub(crate) struct ChainFolder {
    pub(crate) path: Path,
    pub(crate) levels: LevelNames,
}

impl ChainFolder {
    fn of_kind(&self, kind: Kind) -> Path {
        let path = self.path.clone();
        match (kind, self.levels) {
            (Kind::History, _) => path.join("history"),
            (Kind::Level(level), LevelNames::Decimal) => path.join("ltx").join(level.to_string()),
            (Kind::Level(level), LevelNames::Hexadecimal) => path.join(format!("{level:04x}")),
        }
    }
}

/// One object. They order by kind and then by last transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    pub(crate) max: Txid,
    pub(crate) min: Txid,
    pub(crate) bytes: u64,
    /// When it was stored, in milliseconds since 1970: somewhat after its last transaction.
    pub(crate) stored_ms: i64,
}

impl Item {
    pub(crate) fn key(&self, chain: &ChainFolder) -> Path {
        let ending = match self.kind {
            Kind::Level(_) => "ltx",
            Kind::History => "ltxs",
        };
        let name = format!("{:016x}-{:016x}.{ending}", self.min.0, self.max.0);
        chain.of_kind(self.kind).join(name)
    }

    /// What a listed object below `chain` is; `None` for what is not ours.
    pub(crate) fn of(chain: &ChainFolder, meta: &ObjectMeta) -> Option<Item> {
        let parts: Vec<_> = meta.location.prefix_match(&chain.path)?.collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let (kind, name) = match (chain.levels, &parts[..]) {
            (_, ["history", name]) => (Kind::History, name.strip_suffix(".ltxs")?),
            (LevelNames::Decimal, ["ltx", level, name]) => {
                (Kind::Level(level.parse().ok()?), name.strip_suffix(".ltx")?)
            }
            (LevelNames::Hexadecimal, [level, name]) => {
                let level = hex(level, 4).ok()?.try_into().ok()?;
                (Kind::Level(level), name.strip_suffix(".ltx")?)
            }
            _ => return None,
        };
        let (min, max) = name.split_once('-')?;
        Some(Item {
            kind,
            min: Txid(hex(min, 16).ok()?),
            max: Txid(hex(max, 16).ok()?),
            bytes: meta.size,
            stored_ms: meta.last_modified.timestamp_millis(),
        })
    }

    /// Whether it leads from a state at `txid` to a later one.
    pub(crate) fn continues(&self, txid: Txid) -> bool {
        self.min <= txid.next() && self.max > txid
    }
}

/// The objects of one chain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inventory {
    items: BTreeSet<Item>,
}

impl Inventory {
    pub(crate) fn insert(&mut self, item: Item) {
        self.items.insert(item);
    }

    pub(crate) fn remove(&mut self, item: &Item) {
        self.items.remove(item);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }

    /// The objects of one kind, by last transaction.
    pub(crate) fn of(&self, kind: Kind) -> impl DoubleEndedIterator<Item = &Item> {
        self.above(kind, Txid(0))
    }

    /// Those of them that lead beyond `txid`.
    pub(crate) fn above(&self, kind: Kind, txid: Txid) -> impl DoubleEndedIterator<Item = &Item> {
        let bound = |max: Txid, edge: u64| Item {
            kind,
            max,
            min: Txid(edge),
            bytes: edge,
            stored_ms: if edge == 0 { i64::MIN } else { i64::MAX },
        };
        self.items
            .range(bound(txid.next(), 0)..=bound(Txid(u64::MAX), u64::MAX))
    }

    /// Up to which transaction one kind leads.
    pub(crate) fn top(&self, kind: Kind) -> Txid {
        self.of(kind).next_back().map_or(Txid(0), |item| item.max)
    }

    /// The newest snapshot that is not after `txid`.
    pub(crate) fn snapshot_at(&self, txid: Txid) -> Option<&Item> {
        self.of(SNAPSHOTS).rev().find(|item| item.max <= txid)
    }

    /// The object with the newest state.
    pub(crate) fn newest(&self) -> Option<&Item> {
        self.items
            .iter()
            .filter(|item| item.kind != Kind::History)
            .max_by_key(|item| item.max)
    }
}

impl FromIterator<Item> for Inventory {
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Inventory {
        Inventory {
            items: items.into_iter().collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn item(kind: Kind, min: u64, max: u64) -> Item {
        Item {
            kind,
            min: Txid(min),
            max: Txid(max),
            bytes: 100,
            stored_ms: 0,
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let chain = |levels| ChainFolder {
            path: Path::from("backup/shop/00000001-deadbeef"),
            levels,
        };
        let (folder, s3) = (chain(LevelNames::Decimal), chain(LevelNames::Hexadecimal));
        let meta = |location: Path| ObjectMeta {
            location,
            last_modified: std::time::UNIX_EPOCH.into(),
            size: 100,
            e_tag: None,
            version: None,
        };
        let check = |chain: &ChainFolder, item: Item, expected: &str| {
            let meta = meta(item.key(chain));
            assert_eq!(meta.location.to_string(), format!("{}/{expected}", chain.path));
            assert_eq!(Item::of(chain, &meta), Some(item));
        };
        let upload = item(UPLOADS, 2, 0x1f);
        check(&folder, upload, "ltx/0/0000000000000002-000000000000001f.ltx");
        check(&s3, upload, "0000/0000000000000002-000000000000001f.ltx");
        let snapshot = item(SNAPSHOTS, 1, 7);
        check(&folder, snapshot, "ltx/9/0000000000000001-0000000000000007.ltx");
        check(&s3, snapshot, "0009/0000000000000001-0000000000000007.ltx");
        let history = item(Kind::History, 2, 7);
        for chain in [&folder, &s3] {
            check(chain, history, "history/0000000000000002-0000000000000007.ltxs");
        }
        assert_eq!(Item::of(&s3, &meta(upload.key(&folder))), None);
        assert_eq!(Item::of(&folder, &meta(upload.key(&s3))), None);
    }

    #[test]
    fn the_names_of_chains_are_read_as_they_are_written() {
        let name = ChainName {
            number: 12,
            lineage: 0xdead_beef,
        };
        assert_eq!(name.to_string(), "0000000c-deadbeef");
        assert_eq!(name.to_string().parse(), Ok(name));
        for text in ["", "1-2", "0000000c-deadbeeg", "+000000c-deadbeef"] {
            assert_eq!(text.parse::<ChainName>(), Err(NotOurs), "{text}");
        }
    }

    #[test]
    fn kinds_are_told_apart() {
        let all: Inventory = [
            item(Kind::Level(0), 2, 3),
            item(Kind::Level(0), 4, 9),
            item(Kind::Level(1), 2, 3),
            item(SNAPSHOTS, 1, 1),
            item(SNAPSHOTS, 1, 5),
        ]
        .into_iter()
        .collect();
        assert_eq!(all.of(UPLOADS).count(), 2);
        assert_eq!(all.above(UPLOADS, Txid(3)).count(), 1);
        assert_eq!((all.top(UPLOADS), all.top(Kind::Level(2))), (Txid(9), Txid(0)));
        assert_eq!(all.snapshot_at(Txid(4)).unwrap().max, Txid(1));
        assert_eq!(all.snapshot_at(Txid(0)), None);
        assert_eq!(all.newest().unwrap().max, Txid(9));
    }
}
