//! The dictionary as SQLite tables; `examples/dictionary/schema.sql` says which.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, ensure};
use rusqlite::{Connection, OpenFlags, params};

use super::wordnet::{Dictionary, Word};

const SCHEMA: &str = include_str!("../../../examples/dictionary/schema.sql");
const INDEXES: &str = include_str!("../../../examples/dictionary/indexes.sql");

/// Changes with the schema and with how it is filled; a database with another is made anew.
const VERSION: i32 = 1;

/// Whether a database of this version is there. Opens it for reading only; a running site may have it open.
pub(super) fn is_current(database: &Path) -> bool {
    let version = || {
        let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i32>(0))
    };
    version().is_ok_and(|version| version == VERSION)
}

/// Makes the database beside its place and moves it there.
pub(super) fn build(dictionary: &Dictionary, database: &Path) -> anyhow::Result<()> {
    let unfinished = database.with_extension("unfinished");
    for old in [&unfinished, database] {
        remove(old)?;
        // Without its file a write-ahead log belongs to nothing, and a new file must not find it.
        remove(&old.with_extension("db-wal"))?;
        remove(&old.with_extension("db-shm"))?;
    }
    fill(dictionary, &unfinished).with_context(|| format!("filling {}", unfinished.display()))?;
    std::fs::rename(&unfinished, database).with_context(|| format!("moving it to {}", database.display()))
}

fn fill(dictionary: &Dictionary, path: &Path) -> anyhow::Result<()> {
    let connection = Connection::open(path)?;
    // Nothing to protect: an unfinished database is thrown away. References point forward and are checked at the end.
    connection
        .execute_batch("PRAGMA journal_mode = off; PRAGMA synchronous = off; PRAGMA foreign_keys = off; BEGIN")?;
    connection.execute_batch(SCHEMA)?;
    let word_ids: HashMap<&str, i64> = dictionary.words.keys().map(String::as_str).zip(1..).collect();
    fill_words(&connection, dictionary, &word_ids)?;
    fill_synsets(&connection, dictionary)?;
    connection.execute_batch(INDEXES)?;
    connection.pragma_update(None, "user_version", VERSION)?;
    connection.execute_batch("COMMIT; ANALYZE")?;
    let dangling: i64 = connection.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))?;
    ensure!(
        dangling == 0,
        "{dangling} rows refer to words or meanings that are not there"
    );
    Ok(())
}

fn fill_words(connection: &Connection, dictionary: &Dictionary, word_ids: &HashMap<&str, i64>) -> rusqlite::Result<()> {
    let mut word_row =
        connection.prepare("INSERT INTO word (id, lemma, initial, frequency) VALUES (?1, ?2, ?3, ?4)")?;
    let mut sense_row = connection.prepare("INSERT INTO sense (word, synset, number) VALUES (?1, ?2, ?3)")?;
    for (lemma, word) in &dictionary.words {
        let id = word_ids[lemma.as_str()];
        word_row.execute(params![id, lemma, initial(lemma), frequency(word)])?;
        for sense in &word.senses {
            sense_row.execute(params![id, sense.synset, sense.number])?;
        }
    }
    Ok(())
}

fn fill_synsets(connection: &Connection, dictionary: &Dictionary) -> rusqlite::Result<()> {
    let mut synset_row = connection
        .prepare("INSERT INTO synset (id, part, topic, words, definition, examples) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let mut relation_row = connection.prepare("INSERT INTO relation (source, kind, target) VALUES (?1, ?2, ?3)")?;
    for synset in &dictionary.synsets {
        synset_row.execute(params![
            synset.id,
            synset.part,
            synset.topic,
            synset.words.join("; "),
            synset.definition,
            synset.examples.join("\n"),
        ])?;
        for relation in &synset.relations {
            relation_row.execute(params![synset.id, relation.kind, relation.target])?;
        }
    }
    Ok(())
}

/// The letter a word is listed under; `#` for what does not begin with one.
fn initial(lemma: &str) -> String {
    match lemma.chars().next() {
        Some(letter) if letter.is_ascii_lowercase() => letter.to_string(),
        _ => "#".to_owned(),
    }
}

fn frequency(word: &Word) -> u32 {
    word.senses.iter().map(|sense| sense.frequency).sum()
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
