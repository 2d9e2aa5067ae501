//! The log in files of this machine: segments of records, appended to and fsynced, forgotten from the oldest on.
//!
//! `docs/formats/log.md` has the byte table. Appends that wait for the disk at the same time share an fsync. A torn record
//! at the end of the newest segment was never acknowledged and is cut off at open; damage anywhere else stops the open.
//! The two are told apart by what later records say was durable when they were written.
//! A failed write or fsync poisons nothing but itself: the segment is cut back to what was durable.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Head, Log, LogError};
use crate::ltx::{self, Header};
use crate::plant::{Plant, is_planted};
use crate::position::{Epoch, Lineage, Position, Txid};

/// Length and checksum of a record, how much of the segment was durable when it was written, checksum of these.
const RECORD_HEADER_BYTES: usize = 20;
/// A segment is left when it has reached this. Small enough that forgetting is smooth.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Larger records are not believed at open. A group commit is bounded by what one transaction may change.
const RECORD_BYTES: u64 = 4 * 1024 * 1024 * 1024 - 1;
/// A [`Head`] in a record.
const HEAD_BYTES: usize = 32;

/// See the module.
pub struct SegmentLog {
    directory: PathBuf,
    retain_bytes: u64,
    state: Mutex<State>,
    /// Held while one appender syncs for all that have written.
    syncing: Mutex<()>,
    appended: watch::Sender<u64>,
}

struct State {
    segments: BTreeMap<u64, Segment>,
    chains: HashMap<String, Chain>,
    /// Records written, and how many of them are durable.
    written: u64,
    synced: u64,
    failed: Option<io::ErrorKind>,
}

struct Segment {
    file: Arc<File>,
    bytes: u64,
    /// How many of them are known to be on the disk.
    durable_bytes: u64,
}

/// What one database has in the log.
struct Chain {
    head: Head,
    /// Where the chain began in this log.
    base: Head,
    files: VecDeque<Entry>,
    released: Txid,
}

#[derive(Clone, Copy)]
struct Entry {
    min_txid: Txid,
    after: Head,
    place: Place,
}

/// Where a transaction file lies.
#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    offset: u64,
    bytes: u32,
    /// Its number among the records written since the log was opened; 0 for those before.
    record: u64,
}

enum Record<'a> {
    File { database: &'a str, file: &'a [u8] },
    Begin { database: &'a str, head: Head },
    End { database: &'a str },
}

impl SegmentLog {
    /// Opens or creates the log in `directory`. The oldest segments are forgotten beyond `retain_bytes`, as far as
    /// they were released. Blocks.
    pub fn open(directory: &Path, retain_bytes: u64) -> Result<SegmentLog, LogError> {
        let io = |doing| io_error(doing, directory);
        fs::create_dir_all(directory).map_err(io("created"))?;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(directory).map_err(io("read"))? {
            let name = entry.map_err(io("read"))?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        let mut state = State {
            segments: BTreeMap::new(),
            chains: HashMap::new(),
            written: 0,
            synced: 0,
            failed: None,
        };
        for (index, number) in numbers.iter().enumerate() {
            let newest = index + 1 == numbers.len();
            state.scan(directory, *number, newest)?;
        }
        if state.segments.is_empty() {
            state.start_segment(directory, 1).map_err(io("created"))?;
        }
        Ok(SegmentLog {
            directory: directory.to_owned(),
            retain_bytes,
            state: Mutex::new(state),
            syncing: Mutex::new(()),
            appended: watch::Sender::new(0),
        })
    }

    /// Bytes on disk.
    pub fn size_bytes(&self) -> u64 {
        self.state.lock().segments.values().map(|segment| segment.bytes).sum()
    }

    fn write(&self, record: &Record<'_>, index: impl FnOnce(&mut State, u64, u64)) -> Result<(), LogError> {
        let mut bytes = record.to_bytes();
        let mine = {
            let mut state = self.state.lock();
            if let Record::File { database, file } = record {
                state.judge(database, &parse_header(file)?)?;
            }
            let (number, offset) = state
                .put(&self.directory, &mut bytes)
                .map_err(io_error("written", &self.directory))?;
            index(&mut state, number, offset);
            state.written += 1;
            state.written
        };
        self.sync(mine)?;
        self.appended.send_modify(|count| *count += 1);
        self.forget();
        Ok(())
    }

    /// Returns when record `mine` is durable.
    fn sync(&self, mine: u64) -> Result<(), LogError> {
        let _turn = self.syncing.lock();
        let (file, written, number, bytes) = {
            let state = self.state.lock();
            if state.synced >= mine {
                return Ok(());
            }
            if let Some(kind) = state.failed {
                return Err(io_error("synced", &self.directory)(kind.into()));
            }
            let (number, newest) = state.segments.last_key_value().expect("there is a segment to write to");
            (Arc::clone(&newest.file), state.written, *number, newest.bytes)
        };
        let synced = if is_planted(Plant::NoFsync) {
            Ok(())
        } else {
            file.sync_data()
        };
        let mut state = self.state.lock();
        match synced {
            Ok(()) => {
                state.synced = written;
                if let Some(segment) = state.segments.get_mut(&number) {
                    segment.durable_bytes = bytes;
                }
                Ok(())
            }
            Err(error) => {
                // What the kernel has of these pages is unknown from now on (the fsync of a second try would lie), so
                // nothing more is taken until the log was opened anew.
                state.failed = Some(error.kind());
                Err(io_error("synced", &self.directory)(error))
            }
        }
    }

    fn forget(&self) {
        let mut state = self.state.lock();
        let mut size: u64 = state.segments.values().map(|segment| segment.bytes).sum();
        while size > self.retain_bytes && state.segments.len() > 1 {
            let (&oldest, segment) = state.segments.first_key_value().expect("more than one");
            let bytes = segment.bytes;
            let needed = state.chains.values().any(|chain| {
                chain
                    .files
                    .iter()
                    .take_while(|entry| entry.place.segment == oldest)
                    .any(|entry| entry.after.position.txid > chain.released)
            });
            // A database at rest has its head in the oldest segment; it is carried over.
            if needed || fs::remove_file(segment_path(&self.directory, oldest)).is_err() {
                return;
            }
            state.segments.remove(&oldest);
            for chain in state.chains.values_mut() {
                while chain.files.front().is_some_and(|entry| entry.place.segment == oldest) {
                    if let Some(entry) = chain.files.pop_front() {
                        chain.base = entry.after;
                    }
                }
            }
            size -= bytes;
        }
    }
}

impl Log for SegmentLog {
    fn append(&self, database: &str, file: Bytes) -> Result<(), LogError> {
        let header = parse_header(&file)?;
        let record = Record::File { database, file: &file };
        self.write(&record, |state, segment, start| {
            // Before the file come kind, length of the name and name.
            let offset = start + 3 + database.len() as u64;
            let record = state.written + 1;
            state.index_file(
                database,
                &header,
                Place {
                    segment,
                    offset,
                    bytes: file.len() as u32,
                    record,
                },
            );
        })
    }

    fn begin(&self, database: &str, head: Head) -> Result<(), LogError> {
        self.write(&Record::Begin { database, head }, |state, _, _| {
            state.index_begin(database, head)
        })
    }

    fn end(&self, database: &str) -> Result<(), LogError> {
        if self.head(database).is_none() {
            return Ok(());
        }
        self.write(&Record::End { database }, |state, _, _| {
            state.chains.remove(database);
        })
    }

    fn head(&self, database: &str) -> Option<Head> {
        let state = self.state.lock();
        state.chains.get(database).map(|chain| chain.durable(state.synced))
    }

    fn heads(&self) -> BTreeMap<String, Head> {
        let state = self.state.lock();
        state
            .chains
            .iter()
            .map(|(name, chain)| (name.clone(), chain.durable(state.synced)))
            .collect()
    }

    fn state_at(&self, database: &str, txid: Txid) -> Option<Head> {
        let state = self.state.lock();
        let chain = state.chains.get(database)?;
        if chain.base.position.txid == txid {
            return Some(chain.base);
        }
        let index = chain.files.partition_point(|entry| entry.after.position.txid < txid);
        let entry = chain.files.get(index)?;
        let is_known = entry.after.position.txid == txid && entry.place.record <= state.synced;
        is_known.then_some(entry.after)
    }

    fn read_after(&self, database: &str, txid: Txid, max_bytes: usize) -> Result<Vec<Bytes>, LogError> {
        let mut places = Vec::new();
        {
            let state = self.state.lock();
            let gone = || LogError::Gone {
                database: database.to_owned(),
                txid,
            };
            let chain = state.chains.get(database).ok_or_else(gone)?;
            if txid < chain.base.position.txid || txid > chain.head.position.txid {
                return Err(gone());
            }
            let first = chain.files.partition_point(|entry| entry.min_txid <= txid);
            let mut size = 0;
            for entry in chain.files.range(first..) {
                let Place {
                    segment,
                    offset,
                    bytes,
                    record,
                } = entry.place;
                size += bytes as usize;
                // What is not durable yet may never have been.
                if record > state.synced || size > max_bytes && !places.is_empty() {
                    break;
                }
                let segment = state.segments.get(&segment).ok_or_else(gone)?;
                places.push((Arc::clone(&segment.file), offset, bytes));
            }
        }
        let read = |(file, offset, length): (Arc<File>, u64, u32)| {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, offset)
                .map_err(io_error("read", &self.directory))?;
            Ok(Bytes::from(bytes))
        };
        places.into_iter().map(read).collect()
    }

    fn release(&self, database: &str, txid: Txid) {
        if let Some(chain) = self.state.lock().chains.get_mut(database) {
            chain.released = chain.released.max(txid);
        }
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }
}

impl State {
    /// Reads a segment's records into the index.
    fn scan(&mut self, directory: &Path, number: u64, newest: bool) -> Result<(), LogError> {
        let path = segment_path(directory, number);
        let io = |doing| io_error(doing, &path);
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io("opened"))?;
        let length = file.metadata().map_err(io("read"))?.len();
        let mut offset = 0;
        while offset < length {
            let Some(bytes) = read_record(&file, offset, length).map_err(io("read"))? else {
                if !newest || was_durable(&file, offset, length).map_err(io("read"))? {
                    return Err(LogError::Damaged {
                        place: path.display().to_string(),
                        offset,
                    });
                }
                tracing::warn!(segment = %path.display(), offset, bytes = length - offset, "a torn record at the end of the log is cut off; it was never acknowledged");
                file.set_len(offset).map_err(io("cut"))?;
                file.sync_data().map_err(io("synced"))?;
                break;
            };
            let damaged = || LogError::Damaged {
                place: path.display().to_string(),
                offset,
            };
            match Record::parse(&bytes).ok_or_else(damaged)? {
                Record::File { database, file } => {
                    let header = parse_header(file)?;
                    let start = offset + (RECORD_HEADER_BYTES + bytes.len() - file.len()) as u64;
                    // Older records of the database were forgotten: its chain begins before this file.
                    if !self.chains.contains_key(database) {
                        self.index_begin(database, before(&header));
                    }
                    self.index_file(
                        database,
                        &header,
                        Place {
                            segment: number,
                            offset: start,
                            bytes: file.len() as u32,
                            record: 0,
                        },
                    );
                }
                Record::Begin { database, head } => self.index_begin(database, head),
                Record::End { database } => {
                    self.chains.remove(database);
                }
            }
            offset += (RECORD_HEADER_BYTES + bytes.len()) as u64;
        }
        self.segments.insert(
            number,
            Segment {
                file: Arc::new(file),
                bytes: offset.min(length),
                // What is here has survived whatever ended the process before; the next sync includes it.
                durable_bytes: 0,
            },
        );
        Ok(())
    }

    fn judge(&self, database: &str, header: &Header) -> Result<(), LogError> {
        let fenced = |head: String| LogError::Fenced {
            database: database.to_owned(),
            head,
        };
        match self.chains.get(database) {
            Some(chain) if chain.head.is_continued_by(header) => Ok(()),
            Some(chain) => Err(fenced(chain.head.position.to_string())),
            None => Err(fenced("not begun".to_owned())),
        }
    }

    /// Writes a record to the newest segment, or to a new one. What a failed write left is cut off again.
    fn put(&mut self, directory: &Path, bytes: &mut [u8]) -> io::Result<(u64, u64)> {
        if let Some(kind) = self.failed {
            return Err(kind.into());
        }
        let (&number, newest) = self.segments.last_key_value().expect("there is a segment to write to");
        let number = if newest.bytes >= SEGMENT_BYTES {
            // Syncs look at the newest segment only.
            newest.file.sync_data()?;
            self.carry_heads(directory, number + 1)?;
            number + 1
        } else {
            number
        };
        let segment = self.segments.get_mut(&number).expect("just made or found");
        let offset = segment.bytes;
        seal(bytes, segment.durable_bytes);
        if let Err(error) = segment.file.write_all_at(bytes, offset) {
            if segment.file.set_len(offset).is_err() {
                self.failed = Some(error.kind());
            }
            return Err(error);
        }
        segment.bytes += bytes.len() as u64;
        Ok((number, offset + RECORD_HEADER_BYTES as u64))
    }

    fn start_segment(&mut self, directory: &Path, number: u64) -> io::Result<()> {
        let path = segment_path(directory, number);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        File::open(directory)?.sync_all()?;
        self.segments.insert(
            number,
            Segment {
                file: Arc::new(file),
                bytes: 0,
                durable_bytes: 0,
            },
        );
        Ok(())
    }

    /// Starts a segment with the head of every chain, so that older ones can be forgotten.
    fn carry_heads(&mut self, directory: &Path, number: u64) -> io::Result<()> {
        self.start_segment(directory, number)?;
        let mut bytes = Vec::new();
        for (database, chain) in &self.chains {
            let begin = Record::Begin {
                database,
                head: chain.head,
            };
            let mut record = begin.to_bytes();
            seal(&mut record, 0);
            bytes.extend(record);
        }
        let segment = self.segments.get_mut(&number).expect("just made");
        if let Err(error) = segment.file.write_all_at(&bytes, 0) {
            self.segments.remove(&number);
            // Were it to stay, a later open would take the segment before it for complete.
            fs::remove_file(segment_path(directory, number))?;
            return Err(error);
        }
        segment.bytes = bytes.len() as u64;
        Ok(())
    }

    fn index_file(&mut self, database: &str, header: &Header, place: Place) {
        let Some(chain) = self.chains.get_mut(database) else {
            return;
        };
        let after = Head::after(header);
        chain.files.push_back(Entry {
            min_txid: header.min_txid,
            after,
            place,
        });
        chain.head = after;
    }

    /// A head that is the chain's own was carried over and changes nothing.
    fn index_begin(&mut self, database: &str, head: Head) {
        if self.chains.get(database).is_some_and(|chain| chain.head == head) {
            return;
        }
        let chain = Chain {
            head,
            base: head,
            files: VecDeque::new(),
            released: head.position.txid,
        };
        self.chains.insert(database.to_owned(), chain);
    }
}

impl Chain {
    /// The newest state that is durable. What is newer may never have been, and is told to nobody.
    fn durable(&self, synced: u64) -> Head {
        let newest = self.files.iter().rfind(|entry| entry.place.record <= synced);
        newest.map_or(self.base, |entry| entry.after)
    }
}

impl<'a> Record<'a> {
    /// Without what [`seal`] adds.
    fn to_bytes(&self) -> Vec<u8> {
        let (kind, database, head_bytes, payload): (u8, &str, Vec<u8>, &[u8]) = match self {
            Record::File { database, file } => (1, database, Vec::new(), file),
            Record::Begin { database, head } => (2, database, head_to_bytes(head).to_vec(), &[]),
            Record::End { database } => (3, database, Vec::new(), &[]),
        };
        let mut bytes = vec![0; RECORD_HEADER_BYTES];
        bytes.push(kind);
        bytes.extend((database.len() as u16).to_be_bytes());
        bytes.extend(database.as_bytes());
        bytes.extend(head_bytes);
        bytes.extend(payload);
        let length = (bytes.len() - RECORD_HEADER_BYTES) as u32;
        let sum = checksum(CrcAlgorithm::Crc32Iscsi, &bytes[RECORD_HEADER_BYTES..]) as u32;
        bytes[0..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..8].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn parse(bytes: &'a [u8]) -> Option<Record<'a>> {
        let (&kind, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_at_checked(2)?;
        let (database, payload) = rest.split_at_checked(usize::from(u16::from_be_bytes([length[0], length[1]])))?;
        let database = std::str::from_utf8(database).ok()?;
        match kind {
            1 => Some(Record::File {
                database,
                file: payload,
            }),
            2 => Some(Record::Begin {
                database,
                head: head_from_bytes(payload.try_into().ok()?),
            }),
            3 if payload.is_empty() => Some(Record::End { database }),
            _ => None,
        }
    }
}

/// Completes a record's header, when it is known where the record will lie.
fn seal(record: &mut [u8], durable_bytes: u64) {
    record[8..16].copy_from_slice(&durable_bytes.to_be_bytes());
    let sum = checksum(CrcAlgorithm::Crc32Iscsi, &record[..16]) as u32;
    record[16..20].copy_from_slice(&sum.to_be_bytes());
}

/// What the header of a record says.
struct RecordHeader {
    length: u64,
    sum: u32,
    durable_bytes: u64,
}

impl RecordHeader {
    /// `None` when the bytes are no header.
    fn parse(bytes: &[u8; RECORD_HEADER_BYTES]) -> Option<RecordHeader> {
        let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (checksum(CrcAlgorithm::Crc32Iscsi, &bytes[..16]) as u32 == u32_at(16)).then(|| RecordHeader {
            length: u64::from(u32_at(0)),
            sum: u32_at(4),
            durable_bytes: (u64::from(u32_at(8)) << 32) | u64::from(u32_at(12)),
        })
    }
}

/// The payload of the record at `offset`; `None` when it is torn or damaged.
fn read_record(file: &File, offset: u64, end: u64) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; RECORD_HEADER_BYTES];
    if end - offset < RECORD_HEADER_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut header, offset)?;
    let start = offset + RECORD_HEADER_BYTES as u64;
    let fits = |header: &RecordHeader| (1..=RECORD_BYTES.min(end - start)).contains(&header.length);
    let Some(header) = RecordHeader::parse(&header).filter(fits) else {
        return Ok(None);
    };
    let mut bytes = vec![0; header.length as usize];
    file.read_exact_at(&mut bytes, start)?;
    Ok((checksum(CrcAlgorithm::Crc32Iscsi, &bytes) as u32 == header.sum).then_some(bytes))
}

/// Whether the record at `offset`, which cannot be read, was on the disk before: a later record says so. Where that
/// begins is not known when a length is damaged, so every place is tried; there is at most one segment of them.
fn was_durable(file: &File, offset: u64, end: u64) -> io::Result<bool> {
    let mut bytes = vec![0; (end - offset) as usize];
    file.read_exact_at(&mut bytes, offset)?;
    let says_so = |(place, bytes): (u64, &[u8])| {
        let header = bytes.first_chunk().and_then(RecordHeader::parse);
        header.is_some_and(|header| header.durable_bytes > offset && header.durable_bytes <= place)
    };
    Ok((offset..).zip(bytes.windows(RECORD_HEADER_BYTES)).any(says_so))
}

fn head_to_bytes(head: &Head) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[0..4].copy_from_slice(&head.lineage.0.to_be_bytes());
    bytes[4..8].copy_from_slice(&head.position.epoch.0.to_be_bytes());
    bytes[8..16].copy_from_slice(&head.position.txid.0.to_be_bytes());
    bytes[16..24].copy_from_slice(&head.checksum.to_be_bytes());
    bytes[24..32].copy_from_slice(&head.timestamp_ms.to_be_bytes());
    bytes
}

fn head_from_bytes(bytes: &[u8; HEAD_BYTES]) -> Head {
    let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| (u64::from(u32_at(at)) << 32) | u64::from(u32_at(at + 4));
    Head {
        lineage: Lineage(u32_at(0)),
        position: Position {
            epoch: Epoch(u32_at(4)),
            txid: Txid(u64_at(8)),
        },
        checksum: u64_at(16),
        timestamp_ms: u64_at(24) as i64,
    }
}

/// The state that a file continues.
fn before(header: &Header) -> Head {
    Head {
        lineage: header.provenance.lineage,
        position: Position {
            epoch: header.provenance.epoch,
            txid: Txid(header.min_txid.0 - 1),
        },
        checksum: header.provenance.before,
        timestamp_ms: header.timestamp_ms,
    }
}

fn parse_header(file: &[u8]) -> Result<Header, LogError> {
    let bytes = file
        .first_chunk::<{ ltx::HEADER_BYTES }>()
        .ok_or(ltx::LtxError::Magic)?;
    Ok(Header::parse(bytes)?)
}

fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}.log"))
}

fn io_error(doing: &'static str, place: &Path) -> impl Fn(io::Error) -> LogError {
    let place = place.display().to_string();
    move |source| LogError::Io {
        doing,
        place: place.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Known;
    use crate::log::suite::{self, file, head};

    fn open(directory: &Path) -> SegmentLog {
        SegmentLog::open(directory, 1024 * 1024 * 1024).unwrap()
    }

    #[test]
    fn it_is_a_log() {
        let directory = tempfile::tempdir().unwrap();
        suite::run(|| Box::new(open(directory.path())));
    }

    #[test]
    fn a_torn_record_is_cut_off_and_damage_before_it_is_not_hidden() {
        let directory = tempfile::tempdir().unwrap();
        let log = open(directory.path());
        log.begin("a", head(1, 0)).unwrap();
        log.append("a", file(head(1, 0), head(1, 1))).unwrap();
        let whole = log.size_bytes() as usize;
        log.append("a", file(head(1, 1), head(1, 2))).unwrap();
        drop(log);
        let path = segment_path(directory.path(), 1);
        let bytes = fs::read(&path).unwrap();
        for cut in whole..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let log = open(directory.path());
            assert_eq!(log.head("a"), Some(head(1, 1)), "cut at {cut}");
            log.append("a", file(head(1, 1), head(1, 2))).unwrap();
        }
        let damaged_at = |at: usize| {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            matches!(SegmentLog::open(directory.path(), 0), Err(LogError::Damaged { .. }))
        };
        for at in 0..whole {
            assert!(damaged_at(at), "the last record says that byte {at} was durable");
        }
        assert!(!damaged_at(whole), "nobody says so of the last record");
        fs::write(segment_path(directory.path(), 2), []).unwrap();
        assert!(damaged_at(whole), "a segment is left when it is durable");
    }

    #[test]
    fn the_oldest_is_forgotten_when_it_was_released() {
        let directory = tempfile::tempdir().unwrap();
        let log = SegmentLog::open(directory.path(), 0).unwrap();
        log.begin("a", head(1, 0)).unwrap();
        log.begin("rests", head(1, 3)).unwrap();
        let new_segment = || {
            let mut state = log.state.lock();
            let number = *state.segments.last_key_value().unwrap().0 + 1;
            state.carry_heads(directory.path(), number).unwrap();
        };
        log.append("a", file(head(1, 0), head(1, 1))).unwrap();
        new_segment();
        log.append("a", file(head(1, 1), head(1, 2))).unwrap();
        assert_eq!(
            log.read_after("a", Txid(0), usize::MAX).unwrap().len(),
            2,
            "not released"
        );
        log.release("a", Txid(1));
        log.append("a", file(head(1, 2), head(1, 3))).unwrap();
        assert!(matches!(log.read_after("a", Txid(0), 1), Err(LogError::Gone { .. })));
        for log in [&log, &open(directory.path())] {
            assert_eq!(log.read_after("a", Txid(1), usize::MAX).unwrap().len(), 2);
            assert_eq!((log.head("a"), log.head("rests")), (Some(head(1, 3)), Some(head(1, 3))));
        }
    }

    #[test]
    fn what_is_not_durable_is_told_to_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let log = open(directory.path());
        log.begin("a", head(1, 0)).unwrap();
        log.append("a", file(head(1, 0), head(1, 1))).unwrap();
        // As while an append waits for the disk.
        log.state.lock().synced = 1;
        assert_eq!(log.head("a"), Some(head(1, 0)));
        assert_eq!(log.heads()["a"], head(1, 0));
        assert_eq!(log.state_at("a", Txid(1)), None);
        assert_eq!(log.find("a", &head(1, 1)), Known::Never);
        assert!(log.read_after("a", Txid(0), usize::MAX).unwrap().is_empty());
    }

    #[test]
    fn appends_of_many_threads_all_last() {
        let directory = tempfile::tempdir().unwrap();
        let log = open(directory.path());
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let log = &log;
                scope.spawn(move || {
                    log.begin(name, head(1, 0)).unwrap();
                    for txid in 1..50 {
                        log.append(name, file(head(1, txid - 1), head(1, txid))).unwrap();
                        assert_eq!(log.read_after(name, Txid(txid - 1), 1).unwrap().len(), 1);
                    }
                });
            }
        });
        let log = open(directory.path());
        assert!(
            ["a", "b", "c", "d"]
                .iter()
                .all(|name| log.head(name) == Some(head(1, 49)))
        );
    }
}
