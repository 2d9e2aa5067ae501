//! A database as pages, and the tables of ours that say where it stands.
//!
//! Pages are read and written through `sqlite_dbpage`, in ordinary transactions: readers of the file keep their
//! snapshots, and a crash leaves a whole database. The way is that of SQLite's own `sqlite3_rsync`.

use std::time::Duration;

use rusqlite::config::DbConfig;

use crate::checksum::PageChecksums;
use crate::connection::Connection;
use crate::log::Head;
use crate::ltx::{self, TransactionFile};
use crate::plant::{Plant, is_planted};
use crate::position::{Epoch, Lineage, Position, Txid};
use crate::publish::FIRST;

/// The tables of ours in every replicated database.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS _selvedge_position (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        lineage INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        txid INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS _selvedge_operations (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        txid INTEGER NOT NULL,
        outcome TEXT NOT NULL
    ) STRICT;";

/// Reads where a database stands, in the snapshot of the transaction it runs in.
pub(crate) const READ_POSITION: &str = "SELECT lineage, epoch, txid FROM _selvedge_position";

/// The name under which [`attach`] attaches a database.
pub(crate) const ATTACHED: &str = "replica";
/// How long moving the write-ahead log into the file waits for readers. Applying stands still meanwhile.
const BUSY: Duration = Duration::from_millis(200);

/// Copies a whole database, as it is now, to a file that does not exist.
pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) -> rusqlite::Result<()> {
    let source = rusqlite::Connection::open_with_flags(from, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    source.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map(drop)
}

/// Makes the tables, and a position for a database that has none.
pub(crate) fn create_tables(connection: &Connection, epoch: Epoch) -> rusqlite::Result<()> {
    connection.ours(|raw| {
        raw.execute_batch(TABLES)?;
        raw.execute(
            "INSERT OR IGNORE INTO _selvedge_position (id, lineage, epoch, txid) VALUES (1, ?1, ?2, ?3)",
            (Lineage::random().0, epoch.0, FIRST.0 as i64),
        )
        .map(drop)
    })
}

pub(crate) fn set_position(connection: &Connection, position: Position) -> rusqlite::Result<()> {
    connection.ours_cached("UPDATE _selvedge_position SET epoch = ?1, txid = ?2", |statement| {
        statement.execute((position.epoch.0, position.txid.0 as i64)).map(drop)
    })
}

pub(crate) fn set_lineage(connection: &Connection, lineage: Lineage, position: Position) -> rusqlite::Result<()> {
    connection.ours(|raw| {
        raw.execute(
            "UPDATE _selvedge_position SET lineage = ?1, epoch = ?2, txid = ?3",
            (lineage.0, position.epoch.0, position.txid.0 as i64),
        )
        .map(drop)
    })
}

/// Where the database stands.
pub(crate) fn position(raw: &rusqlite::Connection, schema: &str) -> rusqlite::Result<(Lineage, Position)> {
    raw.query_row(
        &format!("SELECT lineage, epoch, txid FROM {schema}._selvedge_position"),
        [],
        position_of_row,
    )
}

pub(crate) fn position_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Lineage, Position)> {
    let position = Position {
        epoch: Epoch(row.get(1)?),
        txid: Txid(row.get::<_, i64>(2)? as u64),
    };
    Ok((Lineage(row.get(0)?), position))
}

/// The state of the database, with the checksum its pages have.
pub(crate) fn head(connection: &Connection, checksums: &PageChecksums) -> rusqlite::Result<Head> {
    let (lineage, position) = connection.ours(|raw| position(raw, "main"))?;
    Ok(Head {
        lineage,
        position,
        checksum: checksums.total(),
        timestamp_ms: 0,
    })
}

/// The checksum of every page, read in one transaction.
pub(crate) fn checksums(connection: &Connection) -> rusqlite::Result<PageChecksums> {
    connection.ours(|raw| checksums_of(raw, "main"))
}

pub(crate) fn checksums_of(raw: &rusqlite::Connection, schema: &str) -> rusqlite::Result<PageChecksums> {
    let mut checksums = PageChecksums::default();
    for_each_page(raw, schema, |number, page| {
        checksums.set(number, page);
        Ok(())
    })?;
    Ok(checksums)
}

/// All pages but the lock page, ascending.
pub(crate) fn for_each_page(
    raw: &rusqlite::Connection,
    schema: &str,
    mut each: impl FnMut(u32, &[u8]) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = raw.prepare("SELECT pgno, data FROM sqlite_dbpage(?1)")?;
    let mut rows = statement.query([schema])?;
    while let Some(row) = rows.next()? {
        let number = row.get(0)?;
        let page = row.get_ref(1)?.as_blob()?;
        if number != ltx::lock_page(page.len() as u32) {
            each(number, page)?;
        }
    }
    Ok(())
}

/// A connection that writes pages: the database is attached as [`ATTACHED`] to an empty one in memory.
///
/// `sqlite_dbpage` puts the bytes of a page into the cache and leaves what SQLite has derived from the bytes before (the
/// number of cells, where they are) as it was. So this connection reads no table of the database while it writes, forgets
/// its cache before it begins, and is used for nothing else: an insert through what it remembers would mix two states.
pub(crate) fn attach(path: &std::path::Path) -> rusqlite::Result<rusqlite::Connection> {
    let raw = rusqlite::Connection::open_in_memory()?;
    raw.busy_timeout(BUSY)?;
    raw.execute("ATTACH ?1 AS replica", [path.to_string_lossy()])?;
    raw.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
    raw.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    raw.execute_batch("PRAGMA replica.synchronous = normal; PRAGMA wal_autocheckpoint = 0;")?;
    Ok(raw)
}

/// Applies contiguous files to a database of `pages_before` pages in one transaction; the last image of each page wins.
/// `raw` comes from [`attach`].
pub(crate) fn apply(raw: &rusqlite::Connection, pages_before: u32, files: &[TransactionFile]) -> rusqlite::Result<()> {
    let Some(last) = files.last() else { return Ok(()) };
    let page_count = last.header.page_count;
    let mut images = std::collections::BTreeMap::new();
    for file in files {
        images.retain(|number, _| *number <= file.header.page_count);
        images.extend(file.pages.iter().map(|(number, page)| (*number, page)));
    }
    raw.execute_batch("PRAGMA shrink_memory")?;
    let written = write_pages(raw, pages_before, page_count, images);
    if written.is_err() && !raw.is_autocommit() {
        raw.execute_batch("ROLLBACK")?;
    }
    written
}

fn write_pages(
    raw: &rusqlite::Connection,
    pages_before: u32,
    page_count: u32,
    mut images: std::collections::BTreeMap<u32, &Vec<u8>>,
) -> rusqlite::Result<()> {
    raw.execute_batch("BEGIN IMMEDIATE")?;
    let mut insert = raw.prepare_cached("INSERT INTO sqlite_dbpage (pgno, data, schema) VALUES (?1, ?2, 'replica')")?;
    if is_planted(Plant::PageOneFirst)
        && let Some(page) = images.remove(&1)
    {
        insert.execute((1, page))?;
        raw.execute_batch("COMMIT; BEGIN IMMEDIATE")?;
    }
    for (number, page) in images {
        insert.execute((number, page))?;
    }
    // Truncation must be the last insert: another one would cancel it.
    if pages_before > page_count {
        insert.execute((page_count + 1, rusqlite::types::Null))?;
    }
    drop(insert);
    raw.execute_batch("COMMIT")
}
