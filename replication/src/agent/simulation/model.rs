//! What stands for a SQLite file: the operations done in it, in their order, and where it stands.
//!
//! The checksum is that of all operations, so two contents with the same are the same. Transaction files are real ones,
//! whose only page holds the operations.

use std::collections::HashMap;

use bytes::Bytes;

use crate::agent::replica_state::Failure;
use crate::log::Head;
use crate::ltx::{self, Header, Provenance, TransactionFile};
use crate::position::{Epoch, Lineage, Position, Txid};

/// An operation of the simulation.
pub(super) type Op = u32;

/// Operations of one commit: as many as its page has room for.
pub(super) const OPS_PER_COMMIT: usize = 100;
const PAGE_BYTES: u32 = 512;

#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) head: Head,
    pub(super) ops: Vec<(Op, Position)>,
    /// Something else has written to it. Nobody knows before it is looked at.
    pub(super) rotten: bool,
}

impl Content {
    pub(super) fn new(lineage: u32, epoch: Epoch) -> Content {
        Content {
            head: Head {
                lineage: Lineage(lineage),
                position: Position { epoch, txid: Txid(1) },
                checksum: u64::from(lineage),
                timestamp_ms: 0,
            },
            ops: Vec::new(),
            rotten: false,
        }
    }

    /// The checksum of what is there, whatever the head says.
    pub(super) fn checksum(&self) -> u64 {
        self.ops
            .iter()
            .fold(u64::from(self.head.lineage.0), |sum, (op, _)| add(sum, *op))
    }

    pub(super) fn positions(&self) -> HashMap<Op, Position> {
        self.ops.iter().copied().collect()
    }

    /// Does operations and returns the file for the log.
    pub(super) fn commit(&mut self, epoch: Epoch, ops: &[Op]) -> Bytes {
        let position = Position {
            epoch,
            txid: self.head.position.txid.next(),
        };
        let after = ops.iter().fold(self.head.checksum, |sum, op| add(sum, *op));
        let header = Header {
            page_size: PAGE_BYTES,
            page_count: 1,
            min_txid: position.txid,
            max_txid: position.txid,
            timestamp_ms: 0,
            provenance: Provenance {
                epoch,
                lineage: self.head.lineage,
                before: self.head.checksum,
                after,
            },
        };
        let mut page = vec![ops.len() as u8];
        page.extend(ops.iter().flat_map(|op| op.to_be_bytes()));
        page.resize(PAGE_BYTES as usize, 0);
        self.ops.extend(ops.iter().map(|op| (*op, position)));
        self.head = Head::after(&header);
        ltx::encode(header, [(1, &page[..])]).into()
    }

    /// As [`crate::replica::Replica::apply`] does.
    pub(super) fn apply(&mut self, files: &[Bytes], believes: bool) -> Result<Head, Failure> {
        let mut new = self.clone();
        for file in files {
            let file = TransactionFile::parse(file).map_err(|_| Failure::Misfit)?;
            if !believes && !new.head.is_continued_by(&file.header) {
                return Err(Failure::Misfit);
            }
            let page = &file.pages[0].1;
            let ops = page[1..].chunks_exact(4).take(usize::from(page[0]));
            new.head = Head::after(&file.header);
            let position = new.head.position;
            new.ops
                .extend(ops.map(|op| (u32::from_be_bytes([op[0], op[1], op[2], op[3]]), position)));
        }
        if !believes && (new.rotten || new.checksum() != new.head.checksum) {
            return Err(Failure::Broken("not what the primary has".to_owned()));
        }
        *self = new;
        Ok(self.head)
    }

    /// What it was after `txid`; every commit has operations.
    pub(super) fn at(&self, txid: Txid, first: &Content) -> Content {
        let mut content = first.clone();
        content.ops = self.ops.iter().copied().filter(|(_, at)| at.txid <= txid).collect();
        if let Some((_, position)) = content.ops.last() {
            content.head.position = *position;
        }
        content.head.checksum = content.checksum();
        content
    }
}

fn add(sum: u64, op: Op) -> u64 {
    // FNV-1a, a word at a time.
    (sum ^ u64::from(op)).wrapping_mul(0x0000_0100_0000_01b3) | 1 << 63
}
