//! The replica's half of replication: transaction files become pages of a local database.
//!
//! Files are applied in order, several at once when they have piled up, each judged before and checked after: it must
//! continue exactly this state of this lineage, and the whole database must have the checksum it says. Readers in other
//! processes see whole transactions, because SQLite writes the pages in one of its own.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use thiserror::Error;

use crate::checksum::PageChecksums;
use crate::log::Head;
use crate::ltx::{Decoder, LtxError, TransactionFile};
use crate::pages::{self, ATTACHED};
use crate::plant::{Plant, is_planted};
use crate::recorded::Recorded;
use crate::writer::size_bytes;

/// Size of the write-ahead log from which it is moved into the file: some seconds of a busy primary.
const WAL_BYTES: u64 = 16 * 1024 * 1024;

/// Why a file was not applied, or a replica not opened.
#[derive(Debug, Error)]
pub enum ReplicaError {
    #[error("a transaction file is not valid")]
    File(#[from] LtxError),
    #[error("the file does not continue {here}")]
    Gap { here: String },
    #[error("after {here} the database is not what the primary has")]
    Diverged { here: String },
    #[error("page {page} was changed by something else than replication")]
    Damaged { page: u32 },
    #[error("the replica cannot be read or written")]
    Sqlite(#[from] rusqlite::Error),
    #[error("{path} cannot be written")]
    Io { path: PathBuf, source: io::Error },
}

impl ReplicaError {
    /// Whether only a new copy helps. Otherwise another try may.
    pub fn needs_rebuild(&self) -> bool {
        match self {
            ReplicaError::Diverged { .. } | ReplicaError::Damaged { .. } => true,
            ReplicaError::Sqlite(error) => {
                matches!(
                    error.sqlite_error_code(),
                    Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
                ) || matches!(error, rusqlite::Error::SqliteFailure(failure, _) if failure.extended_code == rusqlite::ffi::SQLITE_ERROR)
                    || matches!(
                        error,
                        rusqlite::Error::QueryReturnedNoRows | rusqlite::Error::SqlInputError { .. }
                    )
            }
            _ => false,
        }
    }
}

/// An open replica: the one connection that writes it.
pub struct Replica {
    connection: rusqlite::Connection,
    path: PathBuf,
    checksums: PageChecksums,
    head: Head,
    /// What the checksum should be when the file is opened the next time.
    recorded: Recorded,
    /// Moves most of the write-ahead log into the file, while it goes on.
    moving: Option<JoinHandle<()>>,
}

impl Replica {
    /// Opens the file and reads all of it, to know its checksums; they must be those it was left with. Blocks.
    pub fn open(path: &Path) -> Result<Replica, ReplicaError> {
        let connection = pages::attach(path)?;
        let checksums = pages::checksums_of(&connection, ATTACHED)?;
        let (lineage, position) = pages::position(&connection, ATTACHED)?;
        let mut head = Head {
            lineage,
            position,
            checksum: checksums.total(),
            timestamp_ms: 0,
        };
        let mut recorded = Recorded::beside(path);
        match recorded.checksum_at(&head) {
            Some(checksum) if is_planted(Plant::NoChecksum) => head.checksum = checksum,
            Some(checksum) if checksum != head.checksum => {
                return Err(ReplicaError::Diverged {
                    here: position.to_string(),
                });
            }
            Some(_) => {}
            // Copied a moment ago, or after a power cut at an older state: SQLite vouches for that, and the primary will
            // judge it. A disk that is full does not stop reads.
            None => match recorded.write(&head) {
                Ok(()) => recorded.keep(),
                Err(error) => tracing::debug!(%error, path = %path.display(), "its checksum could not be noted"),
            },
        }
        Ok(Replica {
            connection,
            path: path.to_owned(),
            checksums,
            head,
            recorded,
            moving: None,
        })
    }

    pub fn head(&self) -> Head {
        self.head
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn page_count(&self) -> u32 {
        self.checksums.page_count()
    }

    /// Applies contiguous files in one transaction. Those that are applied already are skipped. Blocks.
    pub fn apply<'a>(&mut self, files: impl IntoIterator<Item = &'a [u8]>) -> Result<Head, ReplicaError> {
        let mut fitting = Vec::new();
        let mut head = self.head;
        for bytes in files {
            let file = TransactionFile::parse(bytes)?;
            if file.header.max_txid <= head.position.txid && file.header.provenance.lineage == head.lineage {
                continue;
            }
            if !head.is_continued_by(&file.header) {
                return Err(ReplicaError::Gap {
                    here: head.position.to_string(),
                });
            }
            head = Head::after(&file.header);
            fitting.push(file);
        }
        if fitting.is_empty() {
            return Ok(self.head);
        }
        let mut checksums = self.checksums.clone();
        for file in &fitting {
            for (number, page) in &file.pages {
                checksums.set(*number, page);
            }
            checksums.truncate(file.header.page_count);
        }
        // Judged before it is written: what does not fit never becomes visible.
        if checksums.total() != head.checksum && !is_planted(Plant::NoChecksum) {
            return Err(ReplicaError::Diverged {
                here: self.head.position.to_string(),
            });
        }
        self.recorded.write(&head).map_err(|source| ReplicaError::Io {
            path: self.path.clone(),
            source,
        })?;
        pages::apply(&self.connection, self.checksums.page_count(), &fitting)?;
        self.recorded.keep();
        self.checksums = checksums;
        self.head = head;
        self.bound_wal();
        Ok(head)
    }

    /// Reads the whole file and compares it with what was applied. Blocks.
    pub fn scrub(&self) -> Result<(), ReplicaError> {
        // By a connection of its own: what the applying one has in its cache is not what others read.
        let found = pages::checksums_of(&pages::attach(&self.path)?, ATTACHED)?;
        let pages = 1..=found.page_count().max(self.checksums.page_count());
        match pages
            .into_iter()
            .find(|page| found.of(*page) != self.checksums.of(*page))
        {
            Some(page) => Err(ReplicaError::Damaged { page }),
            None => Ok(()),
        }
    }

    /// Moves a large write-ahead log into the file, in two steps. The first is another connection's, on a thread of its
    /// own, and holds up nobody, whatever the disk takes for it. The second empties the log, which stops applying: it has
    /// left only what came during the first.
    fn bound_wal(&mut self) {
        let mut wal = self.path.as_os_str().to_owned();
        wal.push("-wal");
        if size_bytes(Path::new(&wal)) < WAL_BYTES {
            return;
        }
        match self.moving.take() {
            None => {
                // Opened here, where the path is this file's.
                let connection = pages::attach(&self.path);
                let thread = std::thread::Builder::new().name("wal-to-file".to_owned());
                let started = connection.map(|connection| thread.spawn(move || move_wal(connection)));
                match started {
                    Ok(Ok(moving)) => self.moving = Some(moving),
                    // The second step does it all.
                    Ok(Err(_)) | Err(_) => self.empty_wal(),
                }
            }
            Some(moving) if !moving.is_finished() => self.moving = Some(moving),
            Some(_finished) => self.empty_wal(),
        }
    }

    fn empty_wal(&self) {
        let mode = rusqlite::wal::CheckpointMode::TRUNCATE;
        if let Err(error) = self.connection.wal_checkpoint_v2(Some(ATTACHED), mode) {
            tracing::debug!(%error, path = %self.path.display(), "readers hold the write-ahead log; it is moved into the file later");
        }
    }
}

/// The last connection to close removes the log by its name: none may be left when the file is renamed or replaced.
impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(moving) = self.moving.take() {
            let _ = moving.join();
        }
    }
}

fn move_wal(connection: rusqlite::Connection) {
    let mode = rusqlite::wal::CheckpointMode::PASSIVE;
    if let Err(error) = connection.wal_checkpoint_v2(Some(ATTACHED), mode) {
        tracing::debug!(%error, "the write-ahead log could not be moved into the file");
    }
}

/// Writes a snapshot to a new file and returns its state. What does not have the checksum it says is refused. Blocks.
pub fn install_snapshot(snapshot: impl Read, path: &Path) -> Result<Head, ReplicaError> {
    let written = write_snapshot(snapshot, path);
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

fn write_snapshot(snapshot: impl Read, path: &Path) -> Result<Head, ReplicaError> {
    let io = |source| ReplicaError::Io {
        path: path.to_owned(),
        source,
    };
    let mut decoder = Decoder::new(snapshot)?;
    let header = decoder.header();
    let file = File::create_new(path).map_err(io)?;
    let page_size = u64::from(header.page_size);
    let mut checksums = PageChecksums::default();
    let mut page = Vec::new();
    while let Some(number) = decoder.next(&mut page)? {
        checksums.set(number, &page);
        file.write_all_at(&page, u64::from(number - 1) * page_size)
            .map_err(io)?;
    }
    let head = Head::after(&header);
    if checksums.total() != head.checksum {
        return Err(ReplicaError::Diverged {
            here: head.position.to_string(),
        });
    }
    file.set_len(u64::from(header.page_count) * page_size).map_err(io)?;
    file.sync_all().map_err(io)?;
    Ok(head)
}
