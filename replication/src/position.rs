//! Where a database stands in its history.
//!
//! Positions order by epoch and then by transaction: whoever leads writes under an epoch of its own, so what two leaders
//! wrote is never taken for the same. A lineage names one history; it changes when a database is restored or copied,
//! and positions of two lineages do not compare.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of a transaction (or group of them), counted from 1 without gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Txid(pub u64);

/// Number of a leadership, rising.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

/// One history of one database, drawn at random.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lineage(pub u32);

/// What a reader has seen: everything up to and including this transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub epoch: Epoch,
    pub txid: Txid,
}

impl Lineage {
    /// A lineage that no other database has, but for chance: never 0, which means none.
    pub fn random() -> Lineage {
        Lineage(fastrand::u32(1..))
    }
}

impl Txid {
    pub fn next(self) -> Txid {
        Txid(self.0 + 1)
    }
}

/// `<epoch: 8 hex digits>-<txid: 16 hex digits>`, so that text order is position order.
impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}-{:016x}", self.epoch.0, self.txid.0)
    }
}

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Position, NotAPosition> {
        let (epoch, txid) = text.split_once('-').ok_or(NotAPosition)?;
        let valid =
            |digits: &str, length| digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !valid(epoch, 8) || !valid(txid, 16) {
            return Err(NotAPosition);
        }
        Ok(Position {
            epoch: Epoch(u32::from_str_radix(epoch, 16).map_err(|_| NotAPosition)?),
            txid: Txid(u64::from_str_radix(txid, 16).map_err(|_| NotAPosition)?),
        })
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position like 00000001-000000000000002a")]
pub struct NotAPosition;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_order_is_position_order() {
        let position = |epoch, txid| Position {
            epoch: Epoch(epoch),
            txid: Txid(txid),
        };
        let ordered = [
            position(0, 0),
            position(1, 1),
            position(1, 0x2a),
            position(2, 1),
            position(16, 0),
        ];
        for pair in ordered.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_string() < pair[1].to_string());
        }
        assert_eq!(position(1, 0x2a).to_string(), "00000001-000000000000002a");
        for position in ordered {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in [
            "",
            "1-2",
            "00000001-000000000000002",
            "0000000g-000000000000002a",
            "+0000001-000000000000002a",
        ] {
            assert_eq!(text.parse::<Position>(), Err(NotAPosition), "{text}");
        }
    }
}
