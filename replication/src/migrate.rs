//! Migrations: `NNNN_name.sql` files, applied in order at open or when they are sent, each in a transaction with its own
//! record.
//!
//! The record holds the file's checksum. A file that was applied is history: changed or missing, it stops the open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::connection::Connection;
use crate::error::{MigrationError, SqlError};
use crate::guard::Author;

/// The migrations of one database, by number.
pub type Files = BTreeMap<u32, Migration>;

#[derive(Debug, Clone)]
pub struct Migration {
    number: u32,
    file: String,
    sql: String,
    /// SHA-256 of the file, in hex.
    checksum: String,
}

struct Applied {
    file: String,
    checksum: String,
}

/// Applies what is new in `directory`. Makes the record in any case, so that an application cannot take its name.
pub(crate) fn apply(connection: &Connection, directory: Option<&Path>) -> Result<(), MigrationError> {
    make_record(connection)?;
    let Some(directory) = directory else { return Ok(()) };
    let files = read_files(directory)?;
    for migration in new_of(connection, &files)? {
        in_transaction(connection, "COMMIT", || run(connection, migration)).map_err(|error| error.of(migration))?;
        tracing::info!(file = migration.file, "migration applied");
    }
    Ok(())
}

/// Those of `files` that were not applied yet, in order.
pub(crate) fn new_of<'a>(connection: &Connection, files: &'a Files) -> Result<Vec<&'a Migration>, MigrationError> {
    pending(files, &read_record(connection)?)
}

/// Applies what is new and undoes it: says what would be applied, or what would fail.
pub(crate) fn rehearse(connection: &Connection, files: &Files) -> Result<Vec<String>, MigrationError> {
    let new = new_of(connection, files)?;
    let Some(first) = new.first() else {
        return Ok(Vec::new());
    };
    let all = || new.iter().try_for_each(|migration| run(connection, migration));
    in_transaction(connection, "ROLLBACK", all).map_err(|error| error.of(first))?;
    Ok(new.iter().map(|migration| migration.file.clone()).collect())
}

/// A failure of the transaction itself, or of a migration in it.
enum InTransaction {
    Control(SqlError),
    Migration(MigrationError),
}

impl InTransaction {
    fn of(self, migration: &Migration) -> MigrationError {
        match self {
            InTransaction::Migration(error) => error,
            InTransaction::Control(source) => MigrationError::Failed {
                file: migration.file.clone(),
                source,
            },
        }
    }
}

fn in_transaction(
    connection: &Connection,
    end: &str,
    work: impl FnOnce() -> Result<(), MigrationError>,
) -> Result<(), InTransaction> {
    let control = |sql: &str| {
        let done = connection.ours(|raw| raw.execute_batch(sql));
        done.map_err(|error| InTransaction::Control(SqlError::from_sqlite(error)))
    };
    let all = || {
        control("BEGIN IMMEDIATE")?;
        work().map_err(InTransaction::Migration)?;
        control(end)
    };
    all().inspect_err(|_| {
        if connection.in_transaction() {
            // At open the connection is closed next, which undoes it as well.
            let _ = control("ROLLBACK");
        }
    })
}

/// The files that were not applied yet, if the others are as they were when they were.
fn pending<'a>(
    files: &'a BTreeMap<u32, Migration>,
    applied: &BTreeMap<u32, Applied>,
) -> Result<Vec<&'a Migration>, MigrationError> {
    for (number, record) in applied {
        match files.get(number) {
            Some(file) if file.file == record.file && file.checksum == record.checksum => {}
            Some(file) if file.file == record.file => {
                return Err(MigrationError::Changed {
                    file: record.file.clone(),
                });
            }
            _ => {
                return Err(MigrationError::Missing {
                    file: record.file.clone(),
                });
            }
        }
    }
    let last = applied.last_key_value();
    let new = files.values().filter(|file| !applied.contains_key(&file.number));
    new.map(|file| match last {
        Some((number, record)) if file.number < *number => Err(MigrationError::OutOfOrder {
            file: file.file.clone(),
            applied: record.file.clone(),
        }),
        _ => Ok(file),
    })
    .collect()
}

/// Runs and records a migration in the open transaction.
pub(crate) fn run(connection: &Connection, migration: &Migration) -> Result<(), MigrationError> {
    let failed = |source| MigrationError::Failed {
        file: migration.file.clone(),
        source,
    };
    let ran = connection.theirs(Author::Migration, |raw| {
        raw.execute_batch(&migration.sql).map_err(SqlError::from_sqlite)
    });
    ran.map_err(failed)?;
    record(connection, migration).map_err(|error| failed(SqlError::from_sqlite(error)))
}

fn make_record(connection: &Connection) -> Result<(), MigrationError> {
    connection
        .ours(|raw| {
            raw.execute_batch(
                "CREATE TABLE IF NOT EXISTS _selvedge_migrations (
                     number INTEGER PRIMARY KEY,
                     file TEXT NOT NULL,
                     checksum TEXT NOT NULL,
                     applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ'))
                 ) STRICT",
            )
        })
        .map_err(|source| MigrationError::Record { source })
}

fn record(connection: &Connection, migration: &Migration) -> rusqlite::Result<()> {
    connection.ours(|raw| {
        raw.execute(
            "INSERT INTO _selvedge_migrations (number, file, checksum) VALUES (?1, ?2, ?3)",
            (migration.number, &migration.file, &migration.checksum),
        )
        .map(drop)
    })
}

fn read_record(connection: &Connection) -> Result<BTreeMap<u32, Applied>, MigrationError> {
    connection
        .ours(|raw| {
            let mut rows = raw.prepare("SELECT number, file, checksum FROM _selvedge_migrations")?;
            let rows = rows.query_map([], |row| {
                Ok((
                    row.get(0)?,
                    Applied {
                        file: row.get(1)?,
                        checksum: row.get(2)?,
                    },
                ))
            })?;
            rows.collect()
        })
        .map_err(|source| MigrationError::Record { source })
}

/// Reads the `.sql` files of a directory.
pub fn read_files(directory: &Path) -> Result<Files, MigrationError> {
    let unreadable = |source| MigrationError::Directory {
        directory: directory.to_owned(),
        source,
    };
    let mut migrations = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "sql") {
            continue;
        }
        migrations.push(read_file(path)?);
    }
    by_number(migrations)
}

/// Orders migrations; no two may have the same number.
pub fn by_number(migrations: impl IntoIterator<Item = Migration>) -> Result<Files, MigrationError> {
    let mut files = Files::new();
    for migration in migrations {
        if let Some(other) = files.get(&migration.number) {
            let (first, second) = if other.file < migration.file {
                (other.file.clone(), migration.file)
            } else {
                (migration.file, other.file.clone())
            };
            return Err(MigrationError::SameNumber { first, second });
        }
        files.insert(migration.number, migration);
    }
    Ok(files)
}

fn read_file(path: PathBuf) -> Result<Migration, MigrationError> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Before the text: a file that cannot be one is not read.
    number_of(&file).ok_or_else(|| MigrationError::Name { file: file.clone() })?;
    let sql = std::fs::read_to_string(&path).map_err(|source| MigrationError::File { file: path, source })?;
    Migration::new(file, sql)
}

impl Migration {
    /// The migration in a file of this name and text.
    pub fn new(file: String, sql: String) -> Result<Migration, MigrationError> {
        let number = number_of(&file).ok_or_else(|| MigrationError::Name { file: file.clone() })?;
        let checksum = Sha256::digest(&sql).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Migration {
            number,
            file,
            sql,
            checksum,
        })
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn sql(&self) -> &str {
        &self.sql
    }
}

/// `0042_add_index.sql` is 42: four digits or more, an underscore, a name.
fn number_of(file: &str) -> Option<u32> {
    let (digits, name) = file.strip_suffix(".sql")?.split_once('_')?;
    let valid = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty();
    valid.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names() {
        let check = |file, expected| assert_eq!(number_of(file), expected, "{file}");
        check("0001_notes.sql", Some(1));
        check("0042_add_index.sql", Some(42));
        check("20260101_big.sql", Some(20_260_101));
        check("1_notes.sql", None);
        check("0001.sql", None);
        check("0001_.sql", None);
        check("+001_notes.sql", None);
        check("0001-notes.sql", None);
        check("99999999999_too_big.sql", None);
    }
}
