//! LTX version 3: one or more transactions as the pages they left behind (github.com/superfly/ltx, README "File Format").
//!
//! `docs/formats/ltx.md` has the byte table. Pages ascend; a snapshot has all of them but the lock page. Files carry flag
//! `NO_CHECKSUM`, as Litestream writes and restores them; what we need beyond that (epoch, checksums of the whole
//! database, lineage) is in the node id and in the reserved bytes, see [`Provenance`].

use std::io::{self, Read, Write};

use crc_fast::{CrcAlgorithm, Digest};
use thiserror::Error;

use crate::position::{Epoch, Lineage, Txid};

pub const HEADER_BYTES: usize = 100;
const PAGE_HEADER_BYTES: usize = 6;
const TRAILER_BYTES: usize = 16;

const MAGIC: &[u8; 4] = b"LTX1";
/// The header's checksums are not LTX's own.
const NO_CHECKSUM: u32 = 0x2;
/// The page's compressed size follows its header.
const SIZE_FOLLOWS: u16 = 0x1;
/// Set in every checksum, so that none is zero.
const CHECKSUM_BIT: u64 = 1 << 63;

/// Who wrote a file and what the database was before and after it. Not part of LTX: other readers ignore it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Provenance {
    pub epoch: Epoch,
    pub lineage: Lineage,
    /// [`crate::checksum`] of the whole database before the first and after the last transaction of the file; before a
    /// snapshot it is zero.
    pub before: u64,
    pub after: u64,
}

/// What a file is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub page_size: u32,
    /// Pages of the database after the file.
    pub page_count: u32,
    pub min_txid: Txid,
    pub max_txid: Txid,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    pub provenance: Provenance,
}

/// Why a file cannot be read.
#[derive(Debug, Error)]
pub enum LtxError {
    #[error("reading the transaction file")]
    Io(#[from] io::Error),
    #[error("not an LTX file")]
    Magic,
    #[error("header flags {0:#x} are not supported")]
    Flags(u32),
    #[error("{what} is not valid")]
    Field { what: &'static str },
    #[error("page {0} cannot be decompressed")]
    Page(u32),
    #[error("page {next} follows page {previous}")]
    Order { previous: u32, next: u32 },
    #[error("the checksum of the file is wrong: it was damaged")]
    Checksum,
}

/// The page that SQLite never uses, because its locks lie there (sqlite.org/fileformat2.html, 1.4).
pub fn lock_page(page_size: u32) -> u32 {
    0x4000_0000 / page_size + 1
}

impl Header {
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == Txid(1)
    }

    /// Of a file held whole; `None` when it does not begin like one.
    pub(crate) fn of(file: &[u8]) -> Option<Header> {
        Header::parse(file.first_chunk()?).ok()
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&NO_CHECKSUM.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.page_count.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.min_txid.0.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.max_txid.0.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        // 40..72: the LTX checksum before, and the place in the WAL, which no longer matters once it was read.
        bytes[72..80].copy_from_slice(&u64::from(self.provenance.epoch.0).to_be_bytes());
        bytes[80..88].copy_from_slice(&self.provenance.before.to_be_bytes());
        bytes[88..96].copy_from_slice(&self.provenance.after.to_be_bytes());
        bytes[96..100].copy_from_slice(&self.provenance.lineage.0.to_be_bytes());
        bytes
    }

    /// Reads and judges the first [`HEADER_BYTES`] bytes of a file.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, LtxError> {
        let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| (u64::from(u32_at(at)) << 32) | u64::from(u32_at(at + 4));
        if &bytes[0..4] != MAGIC {
            return Err(LtxError::Magic);
        }
        if u32_at(4) != NO_CHECKSUM {
            return Err(LtxError::Flags(u32_at(4)));
        }
        let header = Header {
            page_size: u32_at(8),
            page_count: u32_at(12),
            min_txid: Txid(u64_at(16)),
            max_txid: Txid(u64_at(24)),
            timestamp_ms: u64_at(32) as i64,
            provenance: Provenance {
                epoch: Epoch(u32_at(76)),
                lineage: Lineage(u32_at(96)),
                before: u64_at(80),
                after: u64_at(88),
            },
        };
        let valid_page_size = header.page_size.is_power_of_two() && (512..=65_536).contains(&header.page_size);
        let problem = match () {
            () if !valid_page_size => Some("the page size"),
            () if header.min_txid.0 == 0 || header.min_txid > header.max_txid => Some("the range of transactions"),
            () if header.page_count == 0 => Some("the number of pages"),
            () => None,
        };
        problem.map_or(Ok(header), |what| Err(LtxError::Field { what }))
    }
}

/// Writes one file, page by page in ascending order.
pub struct Encoder<W> {
    writer: W,
    crc: Digest,
    /// (page, offset, size) of each page written.
    index: Vec<(u32, u64, u64)>,
    offset: u64,
}

impl<W: Write> Encoder<W> {
    pub fn new(writer: W, header: Header) -> io::Result<Encoder<W>> {
        let mut encoder = Encoder {
            writer,
            crc: Digest::new(CrcAlgorithm::Crc64GoIso),
            index: Vec::new(),
            offset: 0,
        };
        encoder.write(&header.to_bytes())?;
        Ok(encoder)
    }

    pub fn page(&mut self, number: u32, data: &[u8]) -> io::Result<()> {
        let start = self.offset;
        let compressed = lz4_flex::block::compress(data);
        let mut head = [0; PAGE_HEADER_BYTES + 4];
        head[0..4].copy_from_slice(&number.to_be_bytes());
        head[4..6].copy_from_slice(&SIZE_FOLLOWS.to_be_bytes());
        head[6..10].copy_from_slice(&(compressed.len() as u32).to_be_bytes());
        self.write(&head)?;
        self.crc.update(data);
        self.writer.write_all(&compressed)?;
        self.offset += compressed.len() as u64;
        self.index.push((number, start, self.offset - start));
        Ok(())
    }

    /// Ends the file and hands the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.write(&[0; PAGE_HEADER_BYTES])?;
        let mut index = Vec::with_capacity(self.index.len() * 8);
        for (page, offset, size) in std::mem::take(&mut self.index) {
            for number in [u64::from(page), offset, size] {
                put_uvarint(&mut index, number);
            }
        }
        index.push(0);
        let length = index.len() as u64;
        index.extend_from_slice(&length.to_be_bytes());
        self.write(&index)?;
        // The checksum of the database after the file, which `NO_CHECKSUM` says is absent.
        self.write(&[0; 8])?;
        let checksum = self.crc.finalize() | CHECKSUM_BIT;
        self.writer.write_all(&checksum.to_be_bytes())?;
        Ok(self.writer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.offset += bytes.len() as u64;
        self.writer.write_all(bytes)
    }
}

/// Reads one file, page by page. Nothing of it may be believed before [`Decoder::next`] has returned `None`: only then
/// was its checksum compared.
pub struct Decoder<R> {
    reader: R,
    crc: Digest,
    header: Header,
    previous: u32,
    compressed: Vec<u8>,
}

impl<R: Read> Decoder<R> {
    pub fn new(mut reader: R) -> Result<Decoder<R>, LtxError> {
        let mut bytes = [0; HEADER_BYTES];
        reader.read_exact(&mut bytes)?;
        let header = Header::parse(&bytes)?;
        let mut crc = Digest::new(CrcAlgorithm::Crc64GoIso);
        crc.update(&bytes);
        Ok(Decoder {
            reader,
            crc,
            header,
            previous: 0,
            compressed: Vec::new(),
        })
    }

    pub fn header(&self) -> Header {
        self.header
    }

    /// Puts the next page into `page`, which is resized to the page size, and returns its number; `None` at the end of
    /// a whole file.
    pub fn next(&mut self, page: &mut Vec<u8>) -> Result<Option<u32>, LtxError> {
        let mut head = [0; PAGE_HEADER_BYTES];
        self.read(&mut head)?;
        let number = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if number == 0 {
            return self.end().map(|()| None);
        }
        if number <= self.previous {
            return Err(LtxError::Order {
                previous: self.previous,
                next: number,
            });
        }
        self.previous = number;
        if u16::from_be_bytes([head[4], head[5]]) != SIZE_FOLLOWS {
            return Err(LtxError::Field { what: "a page header" });
        }
        let mut size = [0; 4];
        self.read(&mut size)?;
        let size = u32::from_be_bytes(size) as usize;
        let page_size = self.header.page_size as usize;
        if size > lz4_flex::block::get_maximum_output_size(page_size) {
            return Err(LtxError::Page(number));
        }
        self.compressed.resize(size, 0);
        self.reader.read_exact(&mut self.compressed)?;
        page.resize(page_size, 0);
        let length = lz4_flex::block::decompress_into(&self.compressed, page).map_err(|_| LtxError::Page(number))?;
        if length != page_size {
            return Err(LtxError::Page(number));
        }
        self.crc.update(page);
        Ok(Some(number))
    }

    fn end(&mut self) -> Result<(), LtxError> {
        while read_uvarint(&mut self.reader, &mut self.crc)? != 0 {
            read_uvarint(&mut self.reader, &mut self.crc)?;
            read_uvarint(&mut self.reader, &mut self.crc)?;
        }
        let mut rest = [0; 8 + TRAILER_BYTES];
        self.reader.read_exact(&mut rest)?;
        let (summed, checksum) = rest.split_at(16);
        self.crc.update(summed);
        let stored = u64::from_be_bytes(checksum.try_into().map_err(|_| LtxError::Checksum)?);
        if self.crc.clone().finalize() | CHECKSUM_BIT != stored {
            return Err(LtxError::Checksum);
        }
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), LtxError> {
        self.reader.read_exact(bytes)?;
        self.crc.update(bytes);
        Ok(())
    }
}

/// A file held whole: one group of transactions, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionFile {
    pub header: Header,
    /// Ascending.
    pub pages: Vec<(u32, Vec<u8>)>,
}

impl TransactionFile {
    pub fn parse(bytes: &[u8]) -> Result<TransactionFile, LtxError> {
        let mut decoder = Decoder::new(bytes)?;
        let mut pages = Vec::new();
        let mut page = Vec::new();
        while let Some(number) = decoder.next(&mut page)? {
            pages.push((number, std::mem::take(&mut page)));
        }
        Ok(TransactionFile {
            header: decoder.header(),
            pages,
        })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        encode(
            self.header,
            self.pages.iter().map(|(number, page)| (*number, &page[..])),
        )
    }
}

/// A whole file from ascending pages.
pub fn encode<'a>(header: Header, pages: impl IntoIterator<Item = (u32, &'a [u8])>) -> Vec<u8> {
    let written = Encoder::new(Vec::new(), header).and_then(|mut encoder| {
        pages
            .into_iter()
            .try_for_each(|(number, page)| encoder.page(number, page))?;
        encoder.finish()
    });
    written.expect("memory takes every write")
}

fn put_uvarint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// An unsigned LEB128 number, at most ten bytes.
fn read_uvarint(reader: &mut impl Read, crc: &mut Digest) -> Result<u64, LtxError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        crc.update(&byte);
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(LtxError::Field { what: "the page index" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pages: &[u32]) -> TransactionFile {
        TransactionFile {
            header: Header {
                page_size: 4096,
                page_count: 300_000,
                min_txid: Txid(7),
                max_txid: Txid(9),
                timestamp_ms: 1_700_000_000_123,
                provenance: Provenance {
                    epoch: Epoch(3),
                    lineage: Lineage(0xdead_beef),
                    before: 1,
                    after: u64::MAX,
                },
            },
            pages: pages.iter().map(|page| (*page, vec![*page as u8; 4096])).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for pages in [&[][..], &[1], &[1, 2, 200_000]] {
            let file = file(pages);
            assert_eq!(TransactionFile::parse(&file.to_bytes()).unwrap(), file);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let file = file(&[1, 2]);
        let bytes = file.to_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            // Two compressed forms may mean the same page: then nothing was damaged.
            let read = TransactionFile::parse(&damaged);
            assert!(read.is_err() || read.unwrap() == file, "byte {at}");
            assert!(TransactionFile::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_checksum_is_the_one_of_go() {
        assert_eq!(
            crc_fast::checksum(CrcAlgorithm::Crc64GoIso, b"123456789"),
            0xb909_56c7_75a4_1001
        );
    }

    #[test]
    fn the_lock_page() {
        assert_eq!(lock_page(4096), 262_145);
    }
}
