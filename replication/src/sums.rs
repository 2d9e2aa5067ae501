//! The checksums of a closed database's pages, kept beside it, so that opening it again does not read the whole file.
//!
//! `docs/formats/sums.md` has the byte table. They are believed only for exactly the state the log has, a file of the same
//! size and time of change, and an empty write-ahead log; otherwise the file is read. Losing them costs time only.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, checksum};

use crate::checksum::PageChecksums;
use crate::log::Head;
use crate::writer::{size_bytes, wal_path};

const MAGIC: &[u8; 8] = b"SLVSUMS1";
/// Magic, lineage, epoch, transaction, checksum, size of the file, its time of change.
const HEADER_BYTES: usize = 8 + 4 + 4 + 8 + 8 + 8 + 16;

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
    let (summed, sum) = bytes.split_last_chunk::<8>()?;
    if checksum(CrcAlgorithm::Crc64GoIso, summed) != u64::from_be_bytes(*sum) {
        return None;
    }
    let (pages, rest) = summed.get(HEADER_BYTES..)?.as_chunks::<8>();
    let checksums = PageChecksums::of_pages(pages.iter().map(|page| u64::from_be_bytes(*page)).collect());
    (rest.is_empty() && checksums.total() == head.checksum).then_some(checksums)
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
    let metadata = fs::metadata(database)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(head.lineage.0.to_be_bytes());
    bytes.extend(head.position.epoch.0.to_be_bytes());
    bytes.extend(head.position.txid.0.to_be_bytes());
    bytes.extend(head.checksum.to_be_bytes());
    bytes.extend(metadata.len().to_be_bytes());
    bytes.extend(metadata.mtime().to_be_bytes());
    bytes.extend(metadata.mtime_nsec().to_be_bytes());
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
        fs::remove_file(wal_path(&database)).unwrap();

        let kept = fs::read(path_of(&database)).unwrap();
        for at in 0..kept.len() {
            let mut damaged = kept.clone();
            damaged[at] ^= 1;
            fs::write(path_of(&database), damaged).unwrap();
            assert_eq!(load(&database, &head), None, "byte {at}");
        }
        fs::write(path_of(&database), &kept).unwrap();
        assert!(load(&database, &head).is_some());
        fs::write(&database, pages.concat()).unwrap();
        assert_eq!(load(&database, &head), None, "the file was written to");
    }
}
