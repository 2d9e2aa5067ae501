//! A primary's database as one transaction file, read while it is written to.

use std::io::Write;
use std::path::Path;

use thiserror::Error;

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
}

/// Writes a snapshot of the published database at `path` and returns its state. Writers go on meanwhile. Blocks.
pub fn write(path: &Path, database: &str, log: &dyn Log, writer: impl Write) -> Result<Head, SnapshotError> {
    let connection = Connection::open_reader(path)?;
    connection.ours(|raw| raw.execute_batch("BEGIN"))?;
    let (lineage, position) = connection.ours(|raw| pages::position(raw, "main"))?;
    let unknown = || SnapshotError::Unknown(position.to_string());
    // What is read may have been committed a moment ago: the log has it as soon as the writer goes on.
    let head = wait_for_state(log, database, position.txid).ok_or_else(unknown)?;
    if head.lineage != lineage || head.position != position {
        return Err(unknown());
    }
    let of_file = |pragma: &str| connection.ours(|raw| raw.query_row(pragma, [], |row| row.get(0)));
    let header = Header {
        page_size: of_file("PRAGMA page_size")?,
        page_count: of_file("PRAGMA page_count")?,
        min_txid: Txid(1),
        max_txid: position.txid,
        timestamp_ms: now_ms(),
        provenance: Provenance {
            epoch: position.epoch,
            lineage,
            before: 0,
            after: head.checksum,
        },
    };
    let mut encoder = Encoder::new(writer, header)?;
    let mut failed = None;
    let read = connection.ours(|raw| {
        pages::for_each_page(raw, "main", |number, page| {
            encoder.page(number, page).map_err(|error| {
                failed = Some(error);
                rusqlite::Error::UnwindingPanic
            })
        })
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    read?;
    encoder.finish()?.flush()?;
    Ok(head)
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
