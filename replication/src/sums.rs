//! The checksums of a database's pages, kept beside it whenever everything is in its file.
//!
//! `docs/formats/sums.md` has the byte table. They are believed only for a file of the same size and time of change. A
//! database that was closed with them is not read when it is opened, if the log has exactly their state and the
//! write-ahead log is empty. After a crash the file is read, and a page that has another checksum, though nobody has
//! written the file since, was changed by the disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, checksum};

use crate::checksum::PageChecksums;
use crate::log::{HEAD_BYTES, Head};
use crate::writer::{size_bytes, wal_path};

const MAGIC: &[u8; 8] = b"SLVSUMS1";
/// Magic, state.
const STATE_END: usize = MAGIC.len() + HEAD_BYTES;
/// Then size of the file, its time of change.
const HEADER_BYTES: usize = STATE_END + STAMP_BYTES;
const STAMP_BYTES: usize = 8 + 16;

/// Keeps the checksums of a database that is in `head`, completely in its file.
pub(crate) fn save(database: &Path, head: &Head, checksums: &PageChecksums) -> io::Result<()> {
    let mut bytes = header(database, head)?;
    for page in checksums.pages() {
        bytes.extend(page.to_be_bytes());
    }
    bytes.extend(checksum(CrcAlgorithm::Crc64GoIso, &bytes).to_be_bytes());
    let path = path_of(database);
    let temporary = path.with_extension("db-sums-new");
    File::create(&temporary)?.write_all(&bytes)?;
    fs::rename(temporary, path)
}

/// The checksums of a database that is in `head`, if they were kept.
pub(crate) fn load(database: &Path, head: &Head) -> Option<PageChecksums> {
    if !is_current(database, head) {
        return None;
    }
    let bytes = fs::read(path_of(database)).ok()?;
    parse(&bytes).filter(|checksums| checksums.total() == head.checksum)
}

/// The checksums of the pages that are in the file itself, if they were kept and nobody has written it since. Pages of the
/// write-ahead log are newer.
pub(crate) fn of_file(database: &Path) -> Option<PageChecksums> {
    let bytes = fs::read(path_of(database)).ok()?;
    let stamp = stamp(database).ok()?;
    let same_file = bytes.starts_with(MAGIC) && bytes.get(STATE_END..HEADER_BYTES)? == stamp;
    same_file.then(|| parse(&bytes)).flatten()
}

fn parse(bytes: &[u8]) -> Option<PageChecksums> {
    let (summed, sum) = bytes.split_last_chunk::<8>()?;
    if checksum(CrcAlgorithm::Crc64GoIso, summed) != u64::from_be_bytes(*sum) {
        return None;
    }
    let (pages, rest) = summed.get(HEADER_BYTES..)?.as_chunks::<8>();
    let checksums = PageChecksums::of_pages(pages.iter().map(|page| u64::from_be_bytes(*page)).collect());
    rest.is_empty().then_some(checksums)
}

/// Whether they were kept for this state, by the looks of it.
pub(crate) fn is_current(database: &Path, head: &Head) -> bool {
    let kept = || {
        let mut kept = [0; HEADER_BYTES];
        io::Read::read_exact(&mut File::open(path_of(database))?, &mut kept)?;
        Ok::<_, io::Error>(kept[..] == header(database, head)?[..])
    };
    size_bytes(&wal_path(database)) == 0 && kept().unwrap_or(false)
}

fn header(database: &Path, head: &Head) -> io::Result<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(head.to_bytes());
    bytes.extend(stamp(database)?);
    Ok(bytes)
}

/// What changes whenever the file is written.
fn stamp(database: &Path) -> io::Result<[u8; STAMP_BYTES]> {
    let metadata = fs::metadata(database)?;
    let mut bytes = [0; STAMP_BYTES];
    bytes[..8].copy_from_slice(&metadata.len().to_be_bytes());
    bytes[8..16].copy_from_slice(&metadata.mtime().to_be_bytes());
    bytes[16..].copy_from_slice(&metadata.mtime_nsec().to_be_bytes());
    Ok(bytes)
}

fn path_of(database: &Path) -> PathBuf {
    database.with_extension("db-sums")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Lineage, Position, Txid};

    #[test]
    fn they_are_believed_for_the_file_they_were_made_of_only() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("1.db");
        let pages = vec![vec![7; 4096], vec![8; 4096]];
        fs::write(&database, pages.concat()).unwrap();
        let mut checksums = PageChecksums::default();
        for (number, page) in (1..).zip(&pages) {
            checksums.set(number, page);
        }
        let head = Head {
            lineage: Lineage(5),
            position: Position {
                epoch: Epoch(2),
                txid: Txid(9),
            },
            checksum: checksums.total(),
            timestamp_ms: 0,
        };
        assert_eq!(load(&database, &head), None);
        save(&database, &head, &checksums).unwrap();
        assert_eq!(load(&database, &head), Some(checksums.clone()));

        let mut later = head;
        later.position.txid = Txid(10);
        assert_eq!(load(&database, &later), None, "another state");
        fs::write(wal_path(&database), "frames").unwrap();
        assert_eq!(load(&database, &head), None, "something is not in the file yet");
        assert_eq!(of_file(&database), Some(checksums.clone()));
        fs::remove_file(wal_path(&database)).unwrap();

        let kept = fs::read(path_of(&database)).unwrap();
        for at in 0..kept.len() {
            let mut damaged = kept.clone();
            damaged[at] ^= 1;
            fs::write(path_of(&database), damaged).unwrap();
            assert_eq!(load(&database, &head), None, "byte {at}");
            assert_eq!(of_file(&database), None, "byte {at}");
        }
        fs::write(path_of(&database), &kept).unwrap();
        assert!(load(&database, &head).is_some());
        fs::write(&database, pages.concat()).unwrap();
        assert_eq!(load(&database, &head), None, "the file was written to");
        assert_eq!(of_file(&database), None);
    }
}
