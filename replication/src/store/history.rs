//! A history: the uploads of an hour in one object, so that every one of them stays restorable and few objects remain.
//!
//! `docs/formats/store.md` has the byte table: the files as they were, one after another, then an index with a checksum.

use crc_fast::{CrcAlgorithm, checksum};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use super::layout::{ChainFolder, Item};
use super::objects::{Store, StoreError};
use crate::ltx::{HEADER_BYTES, Header, LtxError};
use crate::position::Txid;

const MAGIC: &[u8; 8] = b"SELVHIST";
const ENTRY_BYTES: usize = 32;
/// Number of entries, checksum of the index, magic.
const FOOTER_BYTES: usize = 24;
/// Files read at once while one is written.
const READS_AHEAD: usize = 8;

/// Where a file lies in a history, and what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) min: Txid,
    pub(super) max: Txid,
    pub(super) timestamp_ms: i64,
}

/// Bytes after the files of a history of so many.
pub(super) fn index_size(files: usize) -> u64 {
    (files * ENTRY_BYTES + FOOTER_BYTES) as u64
}

fn index_bytes(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES + FOOTER_BYTES);
    for entry in entries {
        for number in [entry.offset, entry.min.0, entry.max.0, entry.timestamp_ms as u64] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
    }
    let sum = checksum(CrcAlgorithm::Crc64GoIso, &bytes);
    bytes.extend_from_slice(&(entries.len() as u64).to_be_bytes());
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes.extend_from_slice(MAGIC);
    bytes
}

/// The number of bytes before the index of a history of `length` bytes that ends with `footer`, and the index's checksum.
fn parse_footer(footer: &[u8], length: u64) -> Option<(u64, u64)> {
    let (numbers, magic) = footer.split_at_checked(16)?;
    let number = |at: usize| Some(u64::from_be_bytes(*numbers[at..].first_chunk()?));
    let index = number(0)?.checked_mul(ENTRY_BYTES as u64)?;
    let start = length.checked_sub(index)?.checked_sub(FOOTER_BYTES as u64)?;
    (magic == MAGIC).then_some((start, number(8)?))
}

fn parse_entries(bytes: &[u8], sum: u64) -> Option<Vec<Entry>> {
    if checksum(CrcAlgorithm::Crc64GoIso, bytes) != sum {
        return None;
    }
    let number = |bytes: &[u8], at: usize| Some(u64::from_be_bytes(*bytes[at..].first_chunk()?));
    let entries = bytes.chunks_exact(ENTRY_BYTES).map(|bytes| {
        Some(Entry {
            offset: number(bytes, 0)?,
            min: Txid(number(bytes, 8)?),
            max: Txid(number(bytes, 16)?),
            timestamp_ms: number(bytes, 24)? as i64,
        })
    });
    entries.collect()
}

impl Store {
    /// Writes one history of `uploads` and returns its size in bytes.
    pub(super) async fn write_history(
        &self,
        chain: &ChainFolder,
        uploads: &[Item],
        key: &Path,
    ) -> Result<u64, StoreError> {
        let mut upload = self.begin(key);
        let read = |item: Item| {
            let key = item.key(chain);
            async move { self.read(&key, 0..item.bytes).await.map(|bytes| (item, bytes)) }
        };
        let mut files = futures::stream::iter(uploads.iter().copied().map(read)).buffered(READS_AHEAD);
        let (mut entries, mut offset) = (Vec::new(), 0);
        while let Some((item, bytes)) = files.try_next().await? {
            let damaged = |source| StoreError::Damaged {
                place: item.key(chain).to_string(),
                source,
            };
            let head = bytes.first_chunk::<HEADER_BYTES>();
            let header = head.ok_or(LtxError::Field { what: "the length" }).map_err(damaged)?;
            let header = Header::parse(header).map_err(damaged)?;
            entries.push(Entry {
                offset,
                min: header.min_txid,
                max: header.max_txid,
                timestamp_ms: header.timestamp_ms,
            });
            offset += bytes.len() as u64;
            upload.write(&bytes).await?;
        }
        let index = index_bytes(&entries);
        offset += index.len() as u64;
        upload.write(&index).await?;
        upload.finish().await?;
        Ok(offset)
    }

    /// What is in a history, in order.
    pub(super) async fn read_index(&self, key: &Path, bytes: u64) -> Result<Vec<Entry>, StoreError> {
        let damaged = || StoreError::Damaged {
            place: key.to_string(),
            source: LtxError::Field {
                what: "the index of a history",
            },
        };
        let at = bytes.checked_sub(FOOTER_BYTES as u64).ok_or_else(damaged)?;
        let footer = self.read(key, at..bytes).await?;
        let (start, sum) = parse_footer(&footer, bytes).ok_or_else(damaged)?;
        if start == at {
            return Ok(Vec::new());
        }
        let index = self.read(key, start..at).await?;
        parse_entries(&index, sum).ok_or_else(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_as_it_was_written_and_damage_is_found() {
        let entries: Vec<Entry> = (0..5)
            .map(|number| Entry {
                offset: 1000 * number,
                min: Txid(2 * number + 1),
                max: Txid(2 * number + 2),
                timestamp_ms: 17 * number as i64,
            })
            .collect();
        let bytes = index_bytes(&entries);
        let read = |bytes: &[u8]| {
            let footer = bytes.len().checked_sub(FOOTER_BYTES)?;
            let (start, sum) = parse_footer(&bytes[footer..], 777 + bytes.len() as u64)?;
            parse_entries(bytes.get((start as usize).checked_sub(777)?..footer)?, sum)
        };
        assert_eq!(read(&bytes), Some(entries.clone()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_ne!(read(&damaged), Some(entries.clone()), "byte {at}");
        }
    }
}
