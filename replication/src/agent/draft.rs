//! New content for a database, in a file that nobody reads yet: imported, branched, restored.
//!
//! It becomes the current file as a whole, or it leaves nothing behind. Its history is a new one; positions go on from those
//! of the old content, so that what a client has seen stays behind what it will see.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;
use thiserror::Error;

use crate::connection::Connection;
use crate::error::OpenError;
use crate::folder::Folder;
use crate::pages;
use crate::position::{Lineage, Position};
use crate::writer::wal_path;

/// What every SQLite file begins with (sqlite.org/fileformat2.html 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Problems shown of a damaged file.
const PROBLEMS: usize = 10;
/// The columns of the record of migrations, which is content: it says what was applied to the tables beside it.
const MIGRATION_COLUMNS: &str = "number,file,checksum,applied_at";

#[derive(Debug, Error)]
pub(crate) enum DraftError {
    #[error("{path} cannot be written")]
    Io { path: PathBuf, source: io::Error },
    #[error("it is not a SQLite database")]
    NotADatabase,
    #[error("the SQLite database is damaged or was cut short: {0}")]
    Damaged(String),
    #[error("it has {0}, and names that begin with _selvedge are the platform's; rename it")]
    Reserved(String),
    #[error("the new file cannot be read or written")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the new file cannot be opened")]
    Open(#[from] OpenError),
}

pub(crate) struct Draft {
    folder: Folder,
    path: PathBuf,
    kept: bool,
}

impl Draft {
    /// A path in the database's folder. Only one draft of a database may exist.
    pub(crate) fn begin(folder: Folder) -> io::Result<Draft> {
        Ok(Draft {
            path: folder.next()?,
            folder,
            kept: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn io(&self) -> impl Fn(io::Error) -> DraftError {
        let path = self.path.clone();
        move |source| DraftError::Io {
            path: path.clone(),
            source,
        }
    }

    /// Proves a file from outside: a whole SQLite database, without anything that only we may have in it. Blocks, for as
    /// long as reading all of it takes.
    pub(crate) fn check(&self) -> Result<(), DraftError> {
        let mut magic = [0; MAGIC.len()];
        let read = File::open(&self.path).and_then(|mut file| file.read_exact(&mut magic));
        if read.is_err() || &magic != MAGIC {
            return Err(DraftError::NotADatabase);
        }
        let raw = open(&self.path)?;
        let problems = raw
            .prepare(&format!("PRAGMA integrity_check({PROBLEMS})"))
            .and_then(|mut check| {
                check
                    .query_map([], |row| row.get(0))?
                    .collect::<Result<Vec<String>, _>>()
            });
        match problems {
            Ok(found) if found == ["ok"] => {}
            Ok(found) => return Err(DraftError::Damaged(found.join("; "))),
            Err(error) => return Err(damage(error)),
        }
        forget_ours(&raw)
    }

    /// Like [`Draft::check`], for a copy of a database of ours. Blocks.
    pub(crate) fn clean(&self) -> Result<(), DraftError> {
        forget_ours(&open(&self.path)?)
    }

    /// Gives it a new history, which begins at `position`. Blocks.
    pub(crate) fn adopt(&self, position: Position) -> Result<(), DraftError> {
        adopt(&self.path, position)
    }

    /// It is the database's file now.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let beside = |suffix: &str| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        for path in [&self.path, &wal_path(&self.path), &beside("-shm"), &beside("-journal")] {
            let _ = std::fs::remove_file(path);
        }
        if let Err(error) = self.folder.tidy() {
            tracing::debug!(%error, "an unfinished file could not be removed; it is at the next start");
        }
    }
}

/// Makes the database at `path`, or an empty one, one that begins at `position` in a history of its own. Blocks.
pub(crate) fn adopt(path: &Path, position: Position) -> Result<(), DraftError> {
    let connection = Connection::open_writer(path)?;
    pages::create_tables(&connection, position.epoch)?;
    pages::set_lineage(&connection, Lineage::random(), position)?;
    let mode = rusqlite::wal::CheckpointMode::TRUNCATE;
    connection.ours(|raw| raw.wal_checkpoint_v2(None::<&str>, mode).map(drop))?;
    Ok(())
}

fn open(path: &Path) -> Result<rusqlite::Connection, DraftError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let raw = rusqlite::Connection::open_with_flags(path, flags)?;
    // Whoever made the file may have put anything into its schema.
    raw.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    raw.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    raw.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    raw.pragma_update(None, "foreign_keys", false)?;
    Ok(raw)
}

/// Drops where the file stood and what was done in it, wherever it came from. Which migrations it has stays.
fn forget_ours(raw: &rusqlite::Connection) -> Result<(), DraftError> {
    let sql = "SELECT type, name FROM sqlite_schema WHERE substr(lower(name), 1, 9) = '_selvedge'
               OR (substr(lower(tbl_name), 1, 9) = '_selvedge' AND substr(name, 1, 17) <> 'sqlite_autoindex_')";
    let found = raw
        .prepare(sql)
        .and_then(|mut ours| {
            let ours = ours.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            ours.collect::<Result<Vec<(String, String)>, _>>()
        })
        .map_err(damage)?;
    for (kind, name) in found {
        match (&*kind, &*name) {
            ("table", "_selvedge_position") => raw.execute_batch("DROP TABLE _selvedge_position")?,
            ("table", "_selvedge_operations") => raw.execute_batch("DROP TABLE _selvedge_operations")?,
            ("table", "_selvedge_migrations") if migration_columns(raw)? == MIGRATION_COLUMNS => {}
            _ => return Err(DraftError::Reserved(format!("the {kind} {name}"))),
        }
    }
    Ok(())
}

fn migration_columns(raw: &rusqlite::Connection) -> rusqlite::Result<String> {
    let sql = "SELECT group_concat(name) FROM pragma_table_info('_selvedge_migrations')";
    raw.query_row(sql, [], |row| row.get::<_, Option<String>>(0))
        .map(Option::unwrap_or_default)
}

fn damage(error: rusqlite::Error) -> DraftError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => DraftError::NotADatabase,
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => DraftError::Damaged(error.to_string()),
        _ => DraftError::Sqlite(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Txid};

    fn draft(root: &Path, make: impl FnOnce(&rusqlite::Connection)) -> Draft {
        let draft = Draft::begin(Folder::of(root, "shop")).unwrap();
        make(&rusqlite::Connection::open(draft.path()).unwrap());
        draft
    }

    #[test]
    fn what_does_not_fit_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let check = |expected: &str, make: &dyn Fn(&Path)| {
            let draft = Draft::begin(Folder::of(root.path(), "shop")).unwrap();
            make(draft.path());
            let error = draft.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            drop(draft);
            assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "{expected}");
        };
        let sqlite = |sql: &'static str| {
            move |path: &Path| rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap()
        };
        check("not a SQLite database", &|path| std::fs::write(path, "").unwrap());
        check("not a SQLite database", &|path| {
            std::fs::write(path, "CREATE TABLE t (a);").unwrap()
        });
        check(
            "the view _selvedge_position",
            &sqlite("CREATE VIEW _selvedge_position AS SELECT 1"),
        );
        check("the table _Selvedge_x", &sqlite("CREATE TABLE _Selvedge_x (a)"));
        check(
            "the table _selvedge_migrations",
            &sqlite("CREATE TABLE _selvedge_migrations (a)"),
        );
        check("cut short", &|path| {
            sqlite("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(100000))")(path);
            File::options().write(true).open(path).unwrap().set_len(50_000).unwrap();
        });
    }

    #[test]
    fn a_copy_of_a_replicated_database_gets_a_history_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let first = draft(root.path(), |raw| {
            raw.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (5)")
                .unwrap()
        });
        let position = |txid| Position {
            epoch: Epoch(3),
            txid: Txid(txid),
        };
        first.adopt(position(9)).unwrap();
        let read = |path: &Path| {
            let raw = rusqlite::Connection::open(path).unwrap();
            let content: i64 = raw.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
            assert_eq!(content, 5);
            pages::position(&raw, "main").unwrap()
        };
        let (lineage, stands) = read(first.path());
        assert_eq!(stands, position(9));
        first.check().unwrap();
        first.adopt(position(12)).unwrap();
        let (other, stands) = read(first.path());
        assert_eq!(stands, position(12));
        assert_ne!(lineage, other);
    }
}
