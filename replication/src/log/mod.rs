//! The log: every transaction of every database of one primary, in order, durable before it is acknowledged.
//!
//! A [`Log`] holds for each database a chain of transaction files without gaps, and refuses what does not continue it.
//! [`SegmentLog`] keeps it in files of this machine; a cluster's log goes behind the same trait and the same suite.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use crate::ltx::{Header, LtxError};
use crate::position::{Lineage, Position, Txid};

#[cfg(test)]
pub(crate) mod memory;
mod segment;
#[cfg(test)]
pub(crate) mod suite;

pub use segment::SegmentLog;

/// Of [`Head::to_bytes`].
pub(crate) const HEAD_BYTES: usize = 24;

/// The newest state of a database that the log knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub lineage: Lineage,
    pub position: Position,
    /// [`crate::checksum`] of the whole database there.
    pub checksum: u64,
    pub timestamp_ms: i64,
}

impl Head {
    /// Before anything is known.
    pub const NONE: Head = Head {
        lineage: Lineage(0),
        position: Position {
            epoch: crate::position::Epoch(0),
            txid: Txid(0),
        },
        checksum: 0,
        timestamp_ms: 0,
    };

    /// The state after a transaction file.
    pub fn after(header: &Header) -> Head {
        Head {
            lineage: header.provenance.lineage,
            position: Position {
                epoch: header.provenance.epoch,
                txid: header.max_txid,
            },
            checksum: header.provenance.after,
            timestamp_ms: header.timestamp_ms,
        }
    }

    /// Lineage (4 bytes), epoch (4), transaction (8), checksum (8), each big-endian: how a state is noted beside a file.
    pub(crate) fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(&self.lineage.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.position.epoch.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.position.txid.0.to_be_bytes());
        bytes[16..].copy_from_slice(&self.checksum.to_be_bytes());
        bytes
    }

    /// Whether two places have the same state.
    pub fn is_same(&self, other: &Head) -> bool {
        self.lineage == other.lineage && self.position == other.position && self.checksum == other.checksum
    }

    /// Whether a file continues from here.
    pub fn is_continued_by(&self, header: &Header) -> bool {
        header.min_txid == self.position.txid.next()
            && header.provenance.epoch >= self.position.epoch
            && header.provenance.lineage == self.lineage
            && header.provenance.before == self.checksum
    }
}

/// What is known of a state that a follower says it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The log has what follows it.
    Here,
    /// It is older than what the log has kept.
    TooOld,
    /// No such state was ever in the log.
    Never,
}

pub trait Log: Send + Sync + 'static {
    /// Adds a transaction file. When this returns, the file is durable; before, nothing below shows it. Blocks.
    fn append(&self, database: &str, file: Bytes) -> Result<(), LogError>;

    /// Begins a chain anew at a state the database was brought to by other means (created, restored, imported).
    fn begin(&self, database: &str, head: Head) -> Result<(), LogError>;

    /// Ends a chain: the database was deleted. What the log has of it may be forgotten.
    fn end(&self, database: &str) -> Result<(), LogError>;

    fn head(&self, database: &str) -> Option<Head>;

    /// The newest state of every database.
    fn heads(&self) -> BTreeMap<String, Head>;

    /// The state after `txid`, if the log still knows it.
    fn state_at(&self, database: &str, txid: Txid) -> Option<Head>;

    /// Judges a follower's state.
    fn find(&self, database: &str, wanted: &Head) -> Known {
        let (Some(head), known) = (self.head(database), self.state_at(database, wanted.position.txid)) else {
            return Known::Never;
        };
        match known {
            Some(known) if known.is_same(wanted) => Known::Here,
            // Without its checksum it cannot be judged: a snapshot settles it.
            None if wanted.lineage == head.lineage && wanted.position.txid < head.position.txid => Known::TooOld,
            _ => Known::Never,
        }
    }

    /// The files after `txid`, oldest first, at least one if there is any, then as many as fit into `max_bytes`. Blocks.
    fn read_after(&self, database: &str, txid: Txid, max_bytes: usize) -> Result<Vec<Bytes>, LogError>;

    /// The database itself holds everything up to `txid` durably: the log may forget it.
    fn release(&self, database: &str, txid: Txid);

    /// Changes after every append.
    fn appended(&self) -> watch::Receiver<u64>;
}

/// Why the log did not take or give a file.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("the log in {place} cannot be {doing}")]
    Io {
        doing: &'static str,
        place: String,
        source: std::io::Error,
    },
    #[error("the log {place} is damaged at byte {offset}; move it away, and every replica starts from a snapshot")]
    Damaged { place: String, offset: u64 },
    #[error("the transaction file is not valid")]
    File(#[from] LtxError),
    #[error("the file does not continue the log of {database}, which is at {head}: somebody else has written it")]
    Fenced { database: String, head: String },
    #[error("the log no longer has transaction {txid:?} of {database}")]
    Gone { database: String, txid: Txid },
}
