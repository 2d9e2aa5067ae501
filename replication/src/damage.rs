//! The note beside a primary's database file that it is damaged: `N.db-damaged`, which holds the reason.
//!
//! What has the note is not opened, also after a restart. Other content for the database comes in another file; whoever
//! knows better than the note removes it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Returns when the note is durable.
pub(crate) fn note(database: &Path, reason: &str) -> io::Result<()> {
    let mut file = File::create(path_of(database))?;
    file.write_all(reason.as_bytes())?;
    file.sync_all()?;
    match database.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Why the file is not to be opened, if it is so.
pub(crate) fn noted(database: &Path) -> Option<String> {
    fs::read_to_string(path_of(database)).ok()
}

fn path_of(database: &Path) -> PathBuf {
    database.with_extension("db-damaged")
}
