//! SQLite files that no agent has: what the command line makes before it sends one, and tidies after it got one.

use std::io::BufRead;
use std::path::Path;

use rusqlite::hooks::{AuthAction, Authorization};
use thiserror::Error;

use crate::script::{self, ScriptError, Statements};

/// Pages in memory while a file is made, in KiB: it is written once.
const CACHE_KIB: i64 = 65_536;

#[derive(Debug, Error)]
pub enum OfflineError {
    #[error("the file cannot be read or written")]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error("line {line}: {message}")]
    Statement { line: u64, message: String },
}

/// Makes a SQLite file by running a script, all of it or none; `progress` is told how many bytes were run. Constraints
/// between tables are not looked at, as the order in a dump is not theirs. Returns how many statements there were. Blocks.
pub fn build(script: impl BufRead, path: &Path, mut progress: impl FnMut(u64)) -> Result<u64, OfflineError> {
    let mut raw = rusqlite::Connection::open(path)?;
    raw.pragma_update(None, "journal_mode", "off")?;
    raw.pragma_update(None, "synchronous", "off")?;
    raw.pragma_update(None, "foreign_keys", false)?;
    raw.pragma_update(None, "cache_size", -CACHE_KIB)?;
    raw.execute_batch("BEGIN")?;
    // A script has this file, and no other of its reader's.
    raw.authorizer(Some(|context: rusqlite::hooks::AuthContext<'_>| match context.action {
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => Authorization::Deny,
        _ => Authorization::Allow,
    }))?;
    let mut count = 0;
    for found in Statements::of(script) {
        let found = found?;
        progress(found.end);
        if is_transaction_control(&found.sql) {
            continue;
        }
        count += 1;
        raw.execute_batch(&found.sql).map_err(|error| OfflineError::Statement {
            line: found.line,
            message: error.to_string(),
        })?;
    }
    raw.execute_batch("COMMIT; PRAGMA writable_schema = off;")?;
    Ok(count)
}

/// Statements of a dump that only say where its transaction begins and ends.
pub fn is_transaction_control(sql: &str) -> bool {
    ["BEGIN", "COMMIT", "END"].contains(&&*script::first_word(sql))
}

/// Copies a whole SQLite file, with what lies beside it in its journal or write-ahead log. Blocks.
pub fn copy(from: &Path, to: &Path) -> Result<(), OfflineError> {
    Ok(crate::pages::copy(from, to)?)
}

/// Removes what only a running database needs: where it stood, and what was done in it lately. Which migrations it has
/// stays, unless it has none. Blocks.
pub fn strip(path: &Path) -> Result<(), OfflineError> {
    let raw = rusqlite::Connection::open(path)?;
    raw.pragma_update(None, "foreign_keys", false)?;
    raw.execute_batch("DROP TABLE IF EXISTS _selvedge_position; DROP TABLE IF EXISTS _selvedge_operations;")?;
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = '_selvedge_migrations'";
    if raw.query_row(sql, [], |row| row.get::<_, bool>(0))? {
        let empty: bool = raw.query_row("SELECT count(*) = 0 FROM _selvedge_migrations", [], |row| row.get(0))?;
        if empty {
            raw.execute_batch("DROP TABLE _selvedge_migrations")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_makes_a_file_or_says_where_it_cannot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made.db");
        let script = "PRAGMA foreign_keys=OFF; BEGIN TRANSACTION;
            CREATE TABLE child (a REFERENCES parent (id)); INSERT INTO child VALUES (1);
            CREATE TABLE parent (id INTEGER PRIMARY KEY); INSERT INTO parent VALUES (1); COMMIT;";
        let mut read = 0;
        let count = build(script.as_bytes(), &path, |bytes| read = bytes).unwrap();
        assert_eq!((count, read), (5, script.len() as u64));
        let raw = rusqlite::Connection::open(&path).unwrap();
        assert_eq!(
            raw.query_row("SELECT a FROM child", [], |row| row.get::<_, i64>(0))
                .unwrap(),
            1
        );

        for (script, expected) in [
            (
                "CREATE TABLE t (a);\n\nINSERT INTO u VALUES (1);",
                "line 3: no such table: u",
            ),
            ("ATTACH '/etc/passwd' AS other;", "line 1: not authorized"),
        ] {
            let path = directory.path().join("broken.db");
            let error = build(script.as_bytes(), &path, |_| {}).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            std::fs::remove_file(path).unwrap();
        }
    }
}
