//! A primary's database read whole while it is written to: as one transaction file, or only to see that it is whole.
//!
//! All pages together must have the checksum that the log has of that state. Otherwise the disk has changed them, and
//! nothing is made of them.

use std::io::Write;
use std::path::Path;

use thiserror::Error;

use crate::checksum;
use crate::connection::Connection;
use crate::error::OpenError;
use crate::log::{Head, Log};
use crate::ltx::{Encoder, Header, Provenance};
use crate::pages;
use crate::position::Txid;
use crate::publish::now_ms;

#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("opening the database")]
    Open(#[from] OpenError),
    #[error("reading the database")]
    Sqlite(#[from] rusqlite::Error),
    #[error("writing the snapshot")]
    Write(#[from] std::io::Error),
    #[error("the log does not know {0}, the state of the file; try again")]
    Unknown(String),
    #[error("at {0} the file is not what the log says: something else than SQLite has changed it; look at the disk")]
    Damaged(String),
}

impl SnapshotError {
    /// Whether the file cannot be trusted.
    pub(crate) fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            SnapshotError::Damaged(_) => true,
            SnapshotError::Open(error) => error.is_damage(),
            SnapshotError::Sqlite(error) => matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)),
            SnapshotError::Write(_) | SnapshotError::Unknown(_) => false,
        }
    }
}

/// Writes a snapshot of the published database at `path` and returns its state. Writers go on meanwhile. Without the last
/// bytes, which are missing after an error, it is no snapshot. Blocks.
pub fn write(path: &Path, database: &str, log: &dyn Log, writer: impl Write) -> Result<Head, SnapshotError> {
    let state = State::of(path, database, log)?;
    let Head { lineage, position, .. } = state.head;
    let header = Header {
        page_size: state.pragma("PRAGMA page_size")?,
        page_count: state.pragma("PRAGMA page_count")?,
        min_txid: Txid(1),
        max_txid: position.txid,
        timestamp_ms: now_ms(),
        provenance: Provenance {
            epoch: position.epoch,
            lineage,
            before: 0,
            after: state.head.checksum,
        },
    };
    let mut encoder = Encoder::new(writer, header)?;
    state.read(|number, page| encoder.page(number, page))?;
    encoder.finish()?.flush()?;
    Ok(state.head)
}

/// Reads all of the published database at `path`, and returns if it is whole. Blocks.
pub(crate) fn check(path: &Path, database: &str, log: &dyn Log) -> Result<(), SnapshotError> {
    State::of(path, database, log)?.read(|_, _| Ok(()))
}

/// One state of the database, held by an open transaction.
struct State {
    connection: Connection,
    /// As the log has it.
    head: Head,
}

impl State {
    fn of(path: &Path, database: &str, log: &dyn Log) -> Result<State, SnapshotError> {
        let connection = Connection::open_reader(path)?;
        connection.ours(|raw| raw.execute_batch("BEGIN"))?;
        let (lineage, position) = connection.ours(|raw| pages::position(raw, "main"))?;
        // What is read may have been committed a moment ago: the log has it as soon as the writer goes on.
        let known = wait_for_state(log, database, position.txid);
        match known.filter(|head| head.lineage == lineage && head.position == position) {
            Some(head) => Ok(State { connection, head }),
            None => Err(SnapshotError::Unknown(position.to_string())),
        }
    }

    fn pragma(&self, pragma: &str) -> rusqlite::Result<u32> {
        self.connection.ours(|raw| raw.query_row(pragma, [], |row| row.get(0)))
    }

    /// Gives every page to `each`; an error when they are not those of the log.
    fn read(&self, mut each: impl FnMut(u32, &[u8]) -> std::io::Result<()>) -> Result<(), SnapshotError> {
        let mut checksum = 0;
        let mut failed = None;
        let read = self.connection.ours(|raw| {
            pages::for_each_page(raw, "main", |number, page| {
                checksum ^= checksum::of_page(number, page);
                each(number, page).map_err(|error| {
                    failed = Some(error);
                    rusqlite::Error::UnwindingPanic
                })
            })
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        read?;
        match checksum == self.head.checksum {
            true => Ok(()),
            false => Err(SnapshotError::Damaged(self.head.position.to_string())),
        }
    }
}

/// The state after `txid`, which the log has or gets in a moment. Blocks.
pub(crate) fn wait_for_state(log: &dyn Log, database: &str, txid: Txid) -> Option<Head> {
    for _ in 0..100 {
        if let Some(head) = log.state_at(database, txid) {
            return Some(head);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    None
}
