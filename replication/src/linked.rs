//! The SQLite in this executable is one we can trust with more than one connection, built with what we need.

use rusqlite::Connection;

use crate::bounds;
use crate::error::OpenError;

/// 3.51.3 fixed the WAL-reset bug, which loses commits or corrupts the file when one connection checkpoints while
/// another writes (sqlite.org/wal.html, "The WAL-Reset Bug"). That is what we do all day.
const MINIMUM: (i32, &str) = (3_051_003, "3.51.3");

/// `sqlite_dbpage` reads and writes pages, for replication. Set by `LIBSQLITE3_FLAGS` in `.cargo/config.toml`.
const OPTIONS: &[&str] = &["ENABLE_DBPAGE_VTAB", "ENABLE_FTS5", "THREADSAFE=1"];

/// Checks the linked library and bounds its memory. Cheap; done at every open.
pub(crate) fn assert_fit() -> Result<(), OpenError> {
    if rusqlite::version_number() < MINIMUM.0 {
        return Err(OpenError::OldSqlite {
            linked: rusqlite::version().to_owned(),
            needed: MINIMUM.1,
        });
    }
    let failed = |source| OpenError::Sqlite {
        doing: "asking SQLite for its build options",
        path: "".into(),
        source,
    };
    let connection = Connection::open_in_memory().map_err(failed)?;
    for option in OPTIONS {
        let used = connection.query_row("SELECT sqlite_compileoption_used(?1)", [option], |row| {
            row.get::<_, bool>(0)
        });
        if !used.map_err(failed)? {
            return Err(OpenError::MissingOption { option });
        }
    }
    connection
        .pragma_update(None, "hard_heap_limit", bounds::HEAP_BYTES)
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_sqlite_fits() {
        assert_fit().unwrap();
    }
}
