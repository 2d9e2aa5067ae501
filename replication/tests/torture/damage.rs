//! Single flipped bits in files, put where they matter: in a page or frame that is what readers get.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::cluster::wal_of;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Database,
    WriteAheadLog,
}

/// A bit that was flipped in a database's files.
#[derive(Debug, Clone)]
pub(crate) struct Flip {
    database: PathBuf,
    file: PathBuf,
    page: u32,
    offset: u64,
    became: u8,
}

/// Which frame of a `-wal` file has the newest image of each page, and how many pages the database has then.
/// Checksums are not looked at: other salts end it.
struct Frames {
    page_bytes: u64,
    page_count: u32,
    /// Page to the offset of its image.
    newest: BTreeMap<u32, u64>,
}

/// Flips one bit, if the files have a place for it.
pub(crate) fn flip(database: &Path, part: Part, rng: &mut Rng) -> Option<Flip> {
    let frames = Frames::read(database)?;
    let in_file: Vec<u32> = (1..=frames.page_count)
        .filter(|page| !frames.newest.contains_key(page))
        .collect();
    let in_wal: Vec<(u32, u64)> = frames.newest.iter().map(|(page, offset)| (*page, *offset)).collect();
    let within = rng.u64(100..frames.page_bytes);
    let (file, page, offset) = match part {
        Part::Database => {
            let page = *rng.choice(&in_file)?;
            (
                database.to_owned(),
                page,
                u64::from(page - 1) * frames.page_bytes + within,
            )
        }
        Part::WriteAheadLog => {
            let (page, offset) = *rng.choice(&in_wal)?;
            (wal_of(database), page, offset + within)
        }
    };
    let became = flip_byte(&file, offset, 1 << rng.u8(..8))?;
    Some(Flip {
        database: database.to_owned(),
        file,
        page,
        offset,
        became,
    })
}

/// Flips one bit anywhere in a file.
pub(crate) fn flip_anywhere(file: &Path, rng: &mut Rng) -> Option<u64> {
    let length = std::fs::metadata(file).ok()?.len();
    let offset = (length > 0).then(|| rng.u64(..length))?;
    flip_byte(file, offset, 1 << rng.u8(..8)).map(|_| offset)
}

impl Flip {
    /// Whether it is still there for a reader to find.
    pub(crate) fn is_in_effect(&self) -> bool {
        let Some(frames) = Frames::read(&self.database) else {
            return false;
        };
        let place = match frames.newest.get(&self.page) {
            Some(offset) => (
                wal_of(&self.database),
                (*offset..*offset + frames.page_bytes).contains(&self.offset),
            ),
            None => (self.database.clone(), self.page <= frames.page_count),
        };
        place == (self.file.clone(), true) && read_byte(&self.file, self.offset) == Some(self.became)
    }
}

impl Frames {
    fn read(database: &Path) -> Option<Frames> {
        let mut header = [0; 100];
        File::open(database).ok()?.read_exact_at(&mut header, 0).ok()?;
        let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65_536,
            bytes => u64::from(bytes),
        };
        let mut frames = Frames {
            page_bytes,
            page_count: u32_at(&header, 28),
            newest: BTreeMap::new(),
        };
        let Ok(wal) = File::open(wal_of(database)) else {
            return Some(frames);
        };
        let mut start = [0; 32];
        if wal.read_exact_at(&mut start, 0).is_err() {
            return Some(frames);
        }
        let mut offset = 32;
        let mut uncommitted = BTreeMap::new();
        let mut head = [0; 24];
        while wal.read_exact_at(&mut head, offset).is_ok() && head[8..16] == start[16..24] {
            uncommitted.insert(u32_at(&head, 0), offset + 24);
            let pages_after_commit = u32_at(&head, 4);
            if pages_after_commit > 0 {
                frames.page_count = pages_after_commit;
                frames.newest.append(&mut uncommitted);
            }
            offset += 24 + page_bytes;
        }
        let count = frames.page_count;
        frames.newest.retain(|page, _| *page <= count);
        Some(frames)
    }
}

fn flip_byte(file: &Path, offset: u64, bits: u8) -> Option<u8> {
    let became = read_byte(file, offset)? ^ bits;
    let file = File::options().write(true).open(file).ok()?;
    file.write_all_at(&[became], offset).ok()?;
    Some(became)
}

fn read_byte(file: &Path, offset: u64) -> Option<u8> {
    let mut byte = [0];
    File::open(file).ok()?.read_exact_at(&mut byte, offset).ok()?;
    Some(byte[0])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
