//! The checksum that a replica's file must have when it is opened, noted beside it before each change.
//!
//! Two places are written in turn: the one of the state that stands is never touched, so whether the change was made or
//! not when the process ends, its state is noted. The file is not synced: after a power cut the state may be one that is
//! not noted, which is not damage. Each place is [`Head::to_bytes`] and CRC-32C of these (4 bytes, big-endian).
//!
//! A primary has its log for that, and notes the checksums of single pages ([`crate::sums`]), which would be too much to
//! write for every change.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, checksum};

use crate::log::{HEAD_BYTES, Head};

const PLACE_BYTES: usize = HEAD_BYTES + 4;
/// Of a state, without its checksum.
const STATE_BYTES: usize = HEAD_BYTES - 8;

pub(crate) struct Recorded {
    path: PathBuf,
    file: Option<File>,
    /// The place that is written next.
    next: u64,
}

impl Recorded {
    /// Of the database file at `path`.
    pub(crate) fn beside(path: &Path) -> Recorded {
        let mut name = path.as_os_str().to_owned();
        name.push("-checksum");
        Recorded {
            path: PathBuf::from(name),
            file: None,
            next: 0,
        }
    }

    /// What was noted for this state, which from now on is the one that stands. Blocks.
    pub(crate) fn checksum_at(&mut self, state: &Head) -> Option<u64> {
        let file = File::open(&self.path).ok()?;
        for place in 0..2 {
            let mut bytes = [0; PLACE_BYTES];
            let read = file.read_exact_at(&mut bytes, place * PLACE_BYTES as u64);
            let whole = read.is_ok() && bytes == place_of(state, u64_of(&bytes[STATE_BYTES..]));
            if whole {
                self.next = 1 - place;
                return Some(u64_of(&bytes[STATE_BYTES..]));
            }
        }
        None
    }

    /// Notes a state that the file is about to have. Blocks.
    pub(crate) fn write(&mut self, state: &Head) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let file = File::options()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .open(&self.path)?;
                self.file.insert(file)
            }
        };
        file.write_all_at(&place_of(state, state.checksum), self.next * PLACE_BYTES as u64)
    }

    /// The file has the state that was noted last.
    pub(crate) fn keep(&mut self) {
        self.next = 1 - self.next;
    }
}

fn place_of(state: &Head, sum: u64) -> [u8; PLACE_BYTES] {
    let mut bytes = [0; PLACE_BYTES];
    let state = Head {
        checksum: sum,
        ..*state
    };
    bytes[..HEAD_BYTES].copy_from_slice(&state.to_bytes());
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &bytes[..HEAD_BYTES]) as u32;
    bytes[HEAD_BYTES..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes[..8]
        .iter()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::suite::head;

    #[test]
    fn the_state_that_stands_and_the_one_to_come_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1.db");
        let open = || Recorded::beside(&path);
        assert_eq!(open().checksum_at(&head(1, 1)), None);
        let mut recorded = open();
        recorded.write(&head(1, 1)).unwrap();
        recorded.keep();
        for txid in 2..6 {
            recorded.write(&head(1, txid)).unwrap();
            // Whether the change was made or not, and also when it was tried twice.
            recorded.write(&head(1, txid)).unwrap();
            for known in [txid - 1, txid] {
                assert_eq!(open().checksum_at(&head(1, known)), Some(head(1, known).checksum));
            }
            assert_eq!(open().checksum_at(&head(2, txid)), None);
            recorded.keep();
        }
        // Opened where it stands, the next change does not touch that.
        let mut again = open();
        again.checksum_at(&head(1, 5)).unwrap();
        again.write(&head(1, 9)).unwrap();
        assert!(open().checksum_at(&head(1, 5)).is_some() && open().checksum_at(&head(1, 9)).is_some());
        assert_eq!(open().checksum_at(&head(1, 4)), None);
    }
}
