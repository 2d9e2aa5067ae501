//! SQLite's write-ahead log, read beside SQLite (sqlite.org/fileformat2.html, 4).
//!
//! After each commit of the one writer the frames it appended are read from the `-wal` file. What counts is what SQLite's
//! own recovery would believe: salts and the running checksum of every frame must fit, and only frames up to the last
//! commit matter. Left-overs of a rolled back transaction fail that test. Opening `-wal` is safe (SQLite locks the
//! database file and `-shm`); nothing else of SQLite's is opened here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// Checksums are over big-endian words when its lowest bit is set.
const MAGIC: u32 = 0x377f_0682;
/// Frames read at once: more than most transactions have.
const FRAMES_PER_READ: usize = 16;

/// The pages of one or more commits, as the last of them left them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) page_size: u32,
    /// Pages of the database afterwards.
    pub(crate) page_count: u32,
    pub(crate) pages: BTreeMap<u32, Vec<u8>>,
}

impl Changes {
    /// These changes, and then `later` ones.
    pub(crate) fn then(mut self, later: Changes) -> Changes {
        self.pages.extend(later.pages);
        self.pages.retain(|page, _| *page <= later.page_count);
        Changes {
            pages: self.pages,
            page_size: later.page_size,
            page_count: later.page_count,
        }
    }
}

/// A reader of one database's `-wal` file, which remembers how far it has read.
pub(crate) struct WalReader {
    path: PathBuf,
    file: Option<File>,
    place: Option<Place>,
}

/// Where the next frame begins, and what it must fit.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    salts: [u8; 8],
    sums: (u32, u32),
    big_endian: bool,
    page_size: usize,
}

impl WalReader {
    pub(crate) fn of(database: &Path) -> WalReader {
        let mut name = database.as_os_str().to_owned();
        name.push("-wal");
        WalReader {
            path: PathBuf::from(name),
            file: None,
            place: None,
        }
    }

    /// Makes the file, and that it exists, durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match File::open(&self.path) {
            Ok(file) => file.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    /// What was committed since the last call; at first, all that the file holds. `None` when that is nothing.
    pub(crate) fn read_new(&mut self) -> io::Result<Option<Changes>> {
        let file = match &self.file {
            Some(file) => file,
            None => match File::open(&self.path) {
                Ok(file) => self.file.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let mut header = [0; HEADER_BYTES];
        if read_up_to(file, &mut header, 0)? < HEADER_BYTES {
            self.place = None;
            return Ok(None);
        }
        let Some(start) = Place::after_header(&header) else {
            return Ok(None);
        };
        // Other salts: SQLite has begun the file again.
        let place = self.place.filter(|place| place.salts == start.salts).unwrap_or(start);
        let (changes, place) = place.read_commits(file)?;
        self.place = Some(place);
        Ok(changes)
    }
}

impl Place {
    fn after_header(header: &[u8; HEADER_BYTES]) -> Option<Place> {
        let magic = u32_at(header, 0);
        if magic & !1 != MAGIC {
            return None;
        }
        let big_endian = magic & 1 == 1;
        let sums = add(big_endian, (0, 0), &header[..24]);
        let page_size = u32_at(header, 8) as usize;
        let valid = sums == (u32_at(header, 24), u32_at(header, 28)) && page_size.is_power_of_two() && page_size >= 512;
        valid.then(|| Place {
            offset: HEADER_BYTES as u64,
            salts: header[16..24].try_into().expect("eight bytes"),
            sums,
            big_endian,
            page_size,
        })
    }

    /// The commits from here on, and the place after the last of them.
    fn read_commits(self, file: &File) -> io::Result<(Option<Changes>, Place)> {
        let frame_bytes = FRAME_HEADER_BYTES + self.page_size;
        let (mut at, mut committed) = (self, self);
        let mut uncommitted = Vec::new();
        let mut pages = BTreeMap::new();
        let mut page_count = 0;
        let mut buffer = vec![0; frame_bytes * FRAMES_PER_READ];
        'file: loop {
            let length = read_up_to(file, &mut buffer, at.offset)?;
            for frame in buffer[..length].chunks_exact(frame_bytes) {
                let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
                let sums = add(at.big_endian, add(at.big_endian, at.sums, &head[..8]), page);
                if head[8..16] != at.salts || sums != (u32_at(head, 16), u32_at(head, 20)) {
                    break 'file;
                }
                at.sums = sums;
                at.offset += frame_bytes as u64;
                uncommitted.push((u32_at(head, 0), page.to_vec()));
                let pages_after_commit = u32_at(head, 4);
                if pages_after_commit > 0 {
                    page_count = pages_after_commit;
                    pages.extend(uncommitted.drain(..));
                    committed = at;
                }
            }
            if length < buffer.len() {
                break;
            }
        }
        pages.retain(|page, _| *page <= page_count);
        let changes = (page_count > 0).then_some(Changes {
            page_size: self.page_size as u32,
            page_count,
            pages,
        });
        Ok((changes, committed))
    }
}

/// The running checksum of the WAL: Fibonacci-weighted sums over pairs of words.
fn add(big_endian: bool, (mut first, mut second): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    };
    for pair in bytes.chunks_exact(8) {
        first = first.wrapping_add(word(&pair[..4])).wrapping_add(second);
        second = second.wrapping_add(word(&pair[4..])).wrapping_add(first);
    }
    (first, second)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Fills `buffer` from `offset` on as far as the file reaches.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The database as the changes read so far leave it, page by page.
    #[derive(Default)]
    struct Copy(Vec<Vec<u8>>);

    impl Copy {
        fn take(&mut self, changes: Option<Changes>) {
            let Some(changes) = changes else { return };
            self.0.resize(changes.page_count as usize, Vec::new());
            for (number, page) in changes.pages {
                self.0[number as usize - 1] = page;
            }
        }
    }

    /// Commits, rollbacks, spills of a small cache, checkpoints and a VACUUM: after each, the copy is the database.
    #[test]
    fn what_is_read_is_what_was_committed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = rusqlite::Connection::open(&path).unwrap();
        database
            .execute_batch(
                "PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=8; CREATE TABLE t (a, b)",
            )
            .unwrap();
        let mut wal = WalReader::of(&path);
        let mut copy = Copy::default();
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..150 {
            let end = if random.u8(..4) == 0 { "ROLLBACK" } else { "COMMIT" };
            database
                .execute_batch(&format!(
                    "BEGIN; INSERT INTO t SELECT value, randomblob({}) FROM generate_series(1, {});
                     DELETE FROM t WHERE a % {} = 0; {end}",
                    random.u32(1..2000),
                    random.u32(1..60),
                    random.u32(2..9),
                ))
                .or_else(|_| {
                    database.execute_batch(&format!(
                        "INSERT INTO t VALUES ({round}, randomblob({})); {end}",
                        random.u32(1..90_000)
                    ))
                })
                .ok();
            if !database.is_autocommit() {
                database.execute_batch(end).unwrap();
            }
            copy.take(wal.read_new().unwrap());
            match random.u8(..12) {
                0 => database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap(),
                1 => database.execute_batch("PRAGMA wal_checkpoint(RESTART)").unwrap(),
                2 => {
                    database.execute_batch("VACUUM").unwrap();
                    copy.take(wal.read_new().unwrap());
                }
                _ => {}
            }
            let count: u32 = database.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
            assert_eq!(copy.0.len(), count as usize, "round {round}");
        }
        database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert!(copy.0.concat() == std::fs::read(&path).unwrap());
    }

    #[test]
    fn a_torn_or_damaged_tail_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = rusqlite::Connection::open(&path).unwrap();
        database
            .execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t (a)")
            .unwrap();
        let before = WalReader::of(&path).read_new().unwrap();
        database.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_ne!(WalReader::of(&path).read_new().unwrap(), before);
        let wal = WalReader::of(&path).path;
        let whole = std::fs::read(&wal).unwrap();
        let copy = directory.path().join("copy.db-wal");
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for bytes in [&whole[..whole.len() - 1], &damaged] {
            std::fs::write(&copy, bytes).unwrap();
            assert_eq!(
                WalReader::of(&directory.path().join("copy.db")).read_new().unwrap(),
                before
            );
        }
    }
}
