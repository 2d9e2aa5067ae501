//! A database as others read it: a file, SQL text, or a table as CSV, all of one moment, while it is written to.

use std::io::{self, Write};
use std::path::Path;

use rusqlite::types::ValueRef;
use thiserror::Error;

use crate::connection::Connection;
use crate::error::OpenError;
use crate::ltx;
use crate::pages;
use crate::position::Position;

#[derive(Debug, Error)]
pub enum DumpError {
    #[error("opening the database")]
    Open(#[from] OpenError),
    #[error("reading the database")]
    Sqlite(#[from] rusqlite::Error),
    #[error("writing what was read")]
    Write(#[from] io::Error),
    #[error("there is no table {0}")]
    NoTable(String),
}

/// A database as it is in one moment: a read transaction, which ends with it.
pub struct Dump {
    connection: Connection,
    position: Position,
    page_size: u32,
    page_count: u32,
}

/// A table, view, index or trigger.
struct Entry {
    kind: String,
    name: String,
    sql: String,
}

impl Dump {
    /// Begins to read the replicated database at `path`. Blocks, as does everything that follows.
    pub fn open(path: &Path) -> Result<Dump, DumpError> {
        let connection = Connection::open_reader(path)?;
        connection.ours(|raw| raw.execute_batch("BEGIN"))?;
        let (_, position) = connection.ours(|raw| pages::position(raw, "main"))?;
        let of_file = |pragma: &str| connection.ours(|raw| raw.query_row(pragma, [], |row| row.get(0)));
        let (page_size, page_count) = (of_file("PRAGMA page_size")?, of_file("PRAGMA page_count")?);
        Ok(Dump {
            connection,
            position,
            page_size,
            page_count,
        })
    }

    pub fn position(&self) -> Position {
        self.position
    }

    /// Bytes that [`Dump::write_file`] writes.
    pub fn file_bytes(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.page_count)
    }

    /// Writes a SQLite file that needs no other beside it.
    pub fn write_file(&self, mut writer: impl Write) -> Result<(), DumpError> {
        let lock_page = ltx::lock_page(self.page_size);
        let mut failed = None;
        let read = self.connection.ours(|raw| {
            pages::for_each_page(raw, "main", |number, page| {
                let mut write = || {
                    if number == lock_page + 1 {
                        writer.write_all(&vec![0; page.len()])?;
                    }
                    match number {
                        1 => writer.write_all(&standing_alone(page, self.page_count)),
                        _ => writer.write_all(page),
                    }
                };
                write().map_err(|error| {
                    failed = Some(error);
                    rusqlite::Error::UnwindingPanic
                })
            })
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        read?;
        Ok(writer.flush()?)
    }

    /// Writes SQL that makes the database: tables with their rows, then what refers to them.
    pub fn write_sql(&self, mut writer: impl Write) -> Result<(), DumpError> {
        let schema = self.schema()?;
        writeln!(writer, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;")?;
        let is_virtual = |entry: &Entry| {
            let start: String = entry.sql.chars().take(21).collect();
            start.eq_ignore_ascii_case("CREATE VIRTUAL TABLE ")
        };
        let virtual_tables: Vec<&str> = schema
            .iter()
            .filter(|entry| is_virtual(entry))
            .map(|entry| &*entry.name)
            .collect();
        let shadows = self.shadow_tables()?;
        for table in schema.iter().filter(|entry| entry.kind == "table") {
            // Its virtual table makes it.
            if shadows.contains(&table.name) {
                continue;
            }
            if table.name == "sqlite_sequence" {
                writeln!(writer, "DELETE FROM sqlite_sequence;")?;
            } else if !table.name.starts_with("sqlite_") {
                writeln!(writer, "{};", table.sql)?;
            } else {
                continue;
            }
            match virtual_tables.contains(&&*table.name) {
                true => self.write_virtual_rows(table, &mut writer)?,
                false => self.write_rows(&table.name, &mut writer)?,
            }
        }
        for entry in schema.iter().filter(|entry| entry.kind != "table") {
            writeln!(writer, "{};", entry.sql)?;
        }
        writeln!(writer, "COMMIT;")?;
        Ok(writer.flush()?)
    }

    /// Writes a table or view as CSV (RFC 4180) with a line of names. NULL is an empty field, an empty text is `""`.
    pub fn write_csv(&self, table: &str, mut writer: impl Write) -> Result<(), DumpError> {
        self.check_table(table)?;
        let mut failed = None;
        let read = self.connection.ours(|raw| {
            let mut statement = raw.prepare(&format!("SELECT * FROM {}", identifier(table)))?;
            let names: Vec<String> = statement.column_names().map(csv_text).collect();
            let count = names.len();
            let mut line = names.join(",").into_bytes();
            let mut rows = statement.query([])?;
            loop {
                line.extend(b"\r\n");
                if let Err(error) = writer.write_all(&line) {
                    failed = Some(error);
                    return Ok(());
                }
                let Some(row) = rows.next()? else { return Ok(()) };
                line.clear();
                for column in 0..count {
                    if column > 0 {
                        line.push(b',');
                    }
                    put_csv(&mut line, row.get_ref(column)?);
                }
            }
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        read?;
        Ok(writer.flush()?)
    }

    /// Whether a table or view of this name can be written as CSV.
    pub fn check_table(&self, table: &str) -> Result<(), DumpError> {
        let known = self
            .schema()?
            .iter()
            .any(|entry| ["table", "view"].contains(&&*entry.kind) && entry.name.eq_ignore_ascii_case(table));
        match known {
            true => Ok(()),
            false => Err(DumpError::NoTable(table.to_owned())),
        }
    }

    /// All that has SQL, and the counters of AUTOINCREMENT, without what is ours.
    fn schema(&self) -> rusqlite::Result<Vec<Entry>> {
        let sql = "SELECT type, name, coalesce(sql, '') FROM sqlite_schema
                   WHERE sql IS NOT NULL AND substr(lower(tbl_name), 1, 9) <> '_selvedge'
                   ORDER BY tbl_name = 'sqlite_sequence', rowid";
        self.connection.ours(|raw| {
            let mut statement = raw.prepare(sql)?;
            let entries = statement.query_map([], |row| {
                Ok(Entry {
                    kind: row.get(0)?,
                    name: row.get(1)?,
                    sql: row.get(2)?,
                })
            })?;
            entries.collect()
        })
    }

    fn shadow_tables(&self) -> rusqlite::Result<Vec<String>> {
        self.connection.ours(|raw| {
            let mut statement =
                raw.prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'")?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
    }

    fn write_rows(&self, table: &str, writer: &mut impl Write) -> Result<(), DumpError> {
        // Generated columns cannot be inserted.
        let columns = self.connection.ours(|raw| {
            let mut statement = raw.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0")?;
            let names = statement.query_map([table], |row| row.get::<_, String>(0))?;
            names.collect::<Result<Vec<_>, _>>()
        })?;
        let columns: Vec<String> = columns.iter().map(|name| identifier(name)).collect();
        let columns = columns.join(",");
        let table = identifier(table);
        self.write_inserts(
            &format!("SELECT {columns} FROM {table}"),
            &format!("INSERT INTO {table}({columns}) VALUES("),
            writer,
        )
    }

    /// Full-text tables with their rowids; one that takes its text from elsewhere is built anew from there.
    fn write_virtual_rows(&self, table: &Entry, writer: &mut impl Write) -> Result<(), DumpError> {
        let name = identifier(&table.name);
        let words: String = table.sql.split_whitespace().collect::<Vec<_>>().concat().to_lowercase();
        let is_text = words.contains("usingfts");
        let has_no_text = ["content=''", "content=\"\""]
            .iter()
            .any(|option| words.contains(option));
        if is_text && has_no_text {
            writeln!(
                writer,
                "-- {name} keeps no text, only an index of it, which SQL cannot tell; fill it anew"
            )?;
            return Ok(());
        }
        if is_text && words.contains("content=") {
            writeln!(writer, "INSERT INTO {name}({name}) VALUES('rebuild');")?;
            return Ok(());
        }
        if !is_text {
            return self.write_rows(&table.name, writer);
        }
        let columns = self.connection.ours(|raw| {
            let mut statement = raw.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0")?;
            let names = statement.query_map([&table.name], |row| row.get::<_, String>(0))?;
            names.collect::<Result<Vec<_>, _>>()
        })?;
        let columns: Vec<String> = columns.iter().map(|name| identifier(name)).collect();
        let columns = columns.join(",");
        self.write_inserts(
            &format!("SELECT rowid,{columns} FROM {name}"),
            &format!("INSERT INTO {name}(rowid,{columns}) VALUES("),
            writer,
        )
    }

    fn write_inserts(&self, select: &str, insert: &str, writer: &mut impl Write) -> Result<(), DumpError> {
        let mut failed = None;
        let read = self.connection.ours(|raw| {
            let mut statement = raw.prepare(select)?;
            let count = statement.column_count();
            let mut rows = statement.query([])?;
            let mut line = Vec::new();
            while let Some(row) = rows.next()? {
                line.clear();
                line.extend(insert.as_bytes());
                for column in 0..count {
                    if column > 0 {
                        line.push(b',');
                    }
                    put_literal(&mut line, row.get_ref(column)?);
                }
                line.extend(b");\n");
                if let Err(error) = writer.write_all(&line) {
                    failed = Some(error);
                    return Ok(());
                }
            }
            Ok(())
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        Ok(read?)
    }
}

/// Page 1 of a file without a write-ahead log, whose header says how many pages there are (sqlite.org/fileformat2.html 1.3).
fn standing_alone(page: &[u8], page_count: u32) -> Vec<u8> {
    let mut page = page.to_vec();
    page[18..20].fill(1);
    page[28..32].copy_from_slice(&page_count.to_be_bytes());
    let change_counter = [page[24], page[25], page[26], page[27]];
    page[92..96].copy_from_slice(&change_counter);
    page
}

/// A name as SQL has it.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn put_literal(line: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => line.extend(b"NULL"),
        ValueRef::Integer(number) => line.extend(number.to_string().as_bytes()),
        ValueRef::Real(number) if number == f64::INFINITY => line.extend(b"9.0e+999"),
        ValueRef::Real(number) if number == f64::NEG_INFINITY => line.extend(b"-9.0e+999"),
        // The shortest text that is read as the same number, and as a real one.
        ValueRef::Real(number) => line.extend(format!("{number:?}").as_bytes()),
        // SQL text ends at a NUL.
        ValueRef::Text(text) if text.contains(&0) || std::str::from_utf8(text).is_err() => {
            line.extend(b"CAST(");
            put_blob(line, text);
            line.extend(b" AS TEXT)");
        }
        ValueRef::Text(text) => {
            line.push(b'\'');
            for byte in text {
                if *byte == b'\'' {
                    line.push(b'\'');
                }
                line.push(*byte);
            }
            line.push(b'\'');
        }
        ValueRef::Blob(blob) => put_blob(line, blob),
    }
}

fn put_blob(line: &mut Vec<u8>, bytes: &[u8]) {
    line.extend(b"X'");
    put_hex(line, bytes);
    line.push(b'\'');
}

fn put_hex(line: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        line.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Blobs as hexadecimal digits after `0x`: CSV has no bytes.
fn put_csv(line: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => {}
        ValueRef::Integer(number) => line.extend(number.to_string().as_bytes()),
        ValueRef::Real(number) => line.extend(format!("{number:?}").as_bytes()),
        ValueRef::Text(text) => line.extend(csv_text(&String::from_utf8_lossy(text)).as_bytes()),
        ValueRef::Blob(blob) => {
            line.extend(b"0x");
            put_hex(line, blob);
        }
    }
}

/// A field of CSV.
pub fn csv_text(text: &str) -> String {
    let plain = !text.is_empty() && !text.contains([',', '"', '\r', '\n']) && text.trim() == text;
    match plain {
        true => text.to_owned(),
        false => format!("\"{}\"", text.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &str = "
        CREATE TABLE \"odd \"\"name\" (id INTEGER PRIMARY KEY AUTOINCREMENT, a, twice AS (a || a) STORED);
        INSERT INTO \"odd \"\"name\" (a) VALUES (NULL), (1), (-0.1), (1e300), (9e999), ('it''s'), (''), ('a' || char(0) || 'b'),
            (X'00FF'), ('two
lines, and \"quotes\"');
        DELETE FROM \"odd \"\"name\" WHERE id = 2;
        CREATE TABLE pair (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
        INSERT INTO pair VALUES (1, 'x'), (2, 'y');
        CREATE VIRTUAL TABLE notes USING fts5(title, body);
        INSERT INTO notes (rowid, title, body) VALUES (7, 'one', 'words to find'), (9, 'two', 'others');
        CREATE INDEX by_a ON \"odd \"\"name\" (a);
        CREATE VIEW both AS SELECT a, b FROM pair;
        CREATE TRIGGER no_more BEFORE DELETE ON pair BEGIN SELECT RAISE(ABORT, 'no; never'); END;";

    fn database(directory: &Path) -> std::path::PathBuf {
        let path = directory.join("1.db");
        let raw = rusqlite::Connection::open(&path).unwrap();
        raw.execute_batch(CONTENT).unwrap();
        drop(raw);
        let connection = Connection::open_writer(&path).unwrap();
        pages::create_tables(&connection, crate::position::Epoch(1)).unwrap();
        path
    }

    fn facts(raw: &rusqlite::Connection) -> Vec<String> {
        let mut facts = Vec::new();
        for sql in [
            "SELECT id || quote(a) || quote(twice) || typeof(a) FROM \"odd \"\"name\"",
            "SELECT name || seq FROM sqlite_sequence",
            "SELECT a || b FROM both",
            "SELECT rowid || title FROM notes WHERE notes MATCH 'words'",
            "SELECT name || sql FROM sqlite_schema WHERE name NOT LIKE '\\_selvedge%' ESCAPE '\\'
                AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'notes\\__%' ESCAPE '\\' ORDER BY name",
        ] {
            let mut statement = raw.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            facts.extend(rows.map(Result::unwrap));
        }
        facts
    }

    #[test]
    fn a_file_and_its_sql_make_the_same_database() {
        let directory = tempfile::tempdir().unwrap();
        let path = database(directory.path());
        let dump = Dump::open(&path).unwrap();
        let wanted = facts(&rusqlite::Connection::open(&path).unwrap());
        assert_eq!(wanted.len(), 9 + 1 + 2 + 1 + 6);

        let mut file = Vec::new();
        dump.write_file(&mut file).unwrap();
        assert_eq!(file.len() as u64, dump.file_bytes());
        let copy = directory.path().join("copy.db");
        std::fs::write(&copy, file).unwrap();
        let copy = rusqlite::Connection::open_with_flags(&copy, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        assert_eq!(facts(&copy), wanted);
        let check: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");

        let mut sql = Vec::new();
        dump.write_sql(&mut sql).unwrap();
        let made = rusqlite::Connection::open_in_memory().unwrap();
        made.execute_batch(std::str::from_utf8(&sql).unwrap()).unwrap();
        assert_eq!(facts(&made), wanted);
    }

    #[test]
    fn csv_tells_null_from_empty() {
        let directory = tempfile::tempdir().unwrap();
        let dump = Dump::open(&database(directory.path())).unwrap();
        let mut csv = Vec::new();
        dump.write_csv("odd \"name", &mut csv).unwrap();
        let csv = String::from_utf8(csv).unwrap();
        assert!(csv.starts_with("id,a,twice\r\n1,,\r\n3,-0.1,-0.1-0.1\r\n"), "{csv}");
        assert!(csv.contains("\r\n7,\"\",\"\"\r\n"), "{csv}");
        assert!(csv.contains(",\"two\nlines, and \"\"quotes\"\"\","), "{csv}");
        for name in ["none", "_selvedge_position", "by_a"] {
            assert!(
                matches!(dump.write_csv(name, &mut Vec::new()), Err(DumpError::NoTable(_))),
                "{name}"
            );
        }
    }
}
