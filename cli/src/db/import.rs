//! `db import`: a SQLite file or a SQL script as a database's whole content, or statements and rows into what is there.
//!
//! Whole content is all or nothing. Into what is there statements go in order, in transactions of some hundred; one that
//! fails stops the import and says where it was.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use futures::StreamExt;
use indicatif::ProgressBar;
use reqwest::Method;
use selvedge_replication::dump::identifier;
use selvedge_replication::offline::{self, OfflineError};
use selvedge_replication::script::{self, Statements};
use selvedge_replication::{Statement, Value as SqlValue};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::agent::Agent;
use super::csv::Records;
use super::{Answer, Failure, progress};

/// What a SQLite file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Statements that share a transaction and a request. Beyond some hundred a commit costs nothing any more.
const STATEMENTS_AT_ONCE: usize = 500;
/// Bytes of them.
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;
/// Bytes sent at once.
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Args)]
pub(super) struct Import {
    /// The database; made when there is none.
    name: String,
    /// A SQLite file, a SQL script, or CSV with a line of names.
    file: PathBuf,
    /// What the file is; its name and beginning say it otherwise.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The table that CSV goes into; made, with columns of text, when there is none.
    #[arg(long)]
    table: Option<String>,
    /// Replace what the database has.
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Sqlite,
    Sql,
    Csv,
}

pub(super) async fn run(agent: &Agent, import: Import, silent: bool) -> Result<Answer, Failure> {
    let format = match import.format {
        Some(format) => format,
        None => format_of(&import.file)?,
    };
    match (format, &import.table) {
        (Format::Csv, None) => return Err(Failure::Usage("CSV goes into a table: give --table NAME".to_owned())),
        (Format::Csv, Some(_)) if import.replace => {
            return Err(Failure::Usage(
                "CSV goes into a table beside what is there; --replace is for files of everything".to_owned(),
            ));
        }
        (Format::Sqlite | Format::Sql, Some(_)) => {
            return Err(Failure::Usage(
                "--table is for CSV; this file says its tables itself".to_owned(),
            ));
        }
        _ => {}
    }
    let there = tables(agent, &import.name).await?;
    match (format, &import.table) {
        (Format::Csv, Some(table)) => {
            make_sure(agent, &import.name, there.is_some()).await?;
            let known = there.unwrap_or_default();
            csv(agent, &import, table, &known, silent).await
        }
        (Format::Sqlite, _) => {
            if !import.replace
                && let Some(first) = there.and_then(|tables| tables.into_iter().next())
            {
                let message = format!(
                    "{} has tables ({first}, …), and a SQLite file replaces all of them",
                    import.name
                );
                return Err(
                    Failure::new("exists", message).help("give --replace if that is what you want, or another name")
                );
            }
            whole_file(agent, &import, silent).await
        }
        _ => {
            let is_empty = there.is_none_or(|tables| tables.is_empty());
            if import.replace || is_empty {
                whole_script(agent, &import, silent).await
            } else {
                script_into(agent, &import, silent).await
            }
        }
    }
}

fn format_of(file: &Path) -> Result<Format, Failure> {
    let mut magic = [0; MAGIC.len()];
    let mut opened = File::open(file).map_err(|error| Failure::file(file, &error))?;
    if opened.read_exact(&mut magic).is_ok() && &magic == MAGIC {
        return Ok(Format::Sqlite);
    }
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("sql") => Ok(Format::Sql),
        Some("csv") => Ok(Format::Csv),
        Some("db" | "sqlite" | "sqlite3") => {
            let message = format!("{} is not a SQLite database", file.display());
            Err(Failure::new("content", message).help("say what it is with --format"))
        }
        _ => Err(Failure::Usage(format!(
            "what is {}? Say --format sqlite, sql or csv",
            file.display()
        ))),
    }
}

/// The tables of a database; `None` when there is no such database.
async fn tables(agent: &Agent, name: &str) -> Result<Option<Vec<String>>, Failure> {
    let schema: Result<Vec<Value>, Failure> = agent.get(&format!("/v1/databases/{name}/schema")).await;
    match schema {
        Ok(items) => {
            let tables = items
                .iter()
                .filter(|item| item["type"] == "table" || item["type"] == "view");
            let names = tables.filter_map(|item| item["name"].as_str().map(str::to_owned));
            Ok(Some(names.collect()))
        }
        Err(failure) if failure.code() == "no_database" => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn make_sure(agent: &Agent, name: &str, exists: bool) -> Result<(), Failure> {
    if exists {
        return Ok(());
    }
    let _: Value = agent.post("/v1/databases", &json!({ "name": name })).await?;
    Ok(())
}

async fn whole_file(agent: &Agent, import: &Import, silent: bool) -> Result<Answer, Failure> {
    // Commits that are still beside the file belong to it.
    let beside = |suffix: &str| {
        let mut name = import.file.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(PathBuf::from(name)).is_ok_and(|metadata| metadata.len() > 0)
    };
    if !beside("-wal") && !beside("-journal") {
        return send(agent, import, &import.file, silent).await;
    }
    let folder = scratch()?;
    let copy = folder.path().join("copy.db");
    offline::copy(&import.file, &copy).map_err(|error| Failure::new("content", offline_text(&error)))?;
    send(agent, import, &copy, silent).await
}

async fn whole_script(agent: &Agent, import: &Import, silent: bool) -> Result<Answer, Failure> {
    let folder = scratch()?;
    let made = folder.path().join("made.db");
    let (script, total) = open(&import.file)?;
    let bar = progress::bytes("running the script", Some(total), silent);
    let built = offline::build(script, &made, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    built.map_err(|error| {
        let message = format!("{}: {}", import.file.display(), offline_text(&error));
        Failure::new("content", message).help("nothing was imported")
    })?;
    send(agent, import, &made, silent).await
}

/// An error of SQLite's with what it says, not only that there was one.
fn offline_text(error: &OfflineError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn scratch() -> Result<tempfile::TempDir, Failure> {
    tempfile::tempdir().map_err(|error| {
        Failure::new("file", format!("a temporary folder cannot be made: {error}"))
            .help("set TMPDIR to a folder with room")
    })
}

fn open(file: &Path) -> Result<(BufReader<File>, u64), Failure> {
    let failed = |error: std::io::Error| Failure::file(file, &error);
    let opened = File::open(file).map_err(failed)?;
    let length = opened.metadata().map_err(failed)?.len();
    Ok((BufReader::with_capacity(PIECE_BYTES, opened), length))
}

/// Sends a SQLite file as the database's new content.
async fn send(agent: &Agent, import: &Import, file: &Path, silent: bool) -> Result<Answer, Failure> {
    let failed = |error: std::io::Error| Failure::file(file, &error);
    let opened = tokio::fs::File::open(file).await.map_err(failed)?;
    let total = opened.metadata().await.map_err(failed)?.len();
    let bar = progress::bytes("sending", Some(total), silent);
    let counted = bar.clone();
    let pieces = futures::stream::try_unfold(opened, move |mut file| {
        let bar = counted.clone();
        async move {
            let mut piece = vec![0; PIECE_BYTES];
            let length = file.read(&mut piece).await?;
            piece.truncate(length);
            bar.inc(length as u64);
            if length == 0 {
                bar.set_message("checking");
            }
            Ok::<_, std::io::Error>((length > 0).then_some((piece, file)))
        }
    });
    let path = format!("/v1/databases/{}/content", import.name);
    let request = agent
        .request(Method::PUT, &path)
        .header("content-type", "application/vnd.sqlite3")
        .header("content-length", total)
        .body(reqwest::Body::wrap_stream(pieces.boxed()));
    let done: Result<Value, Failure> = agent.json(request).await;
    bar.finish_and_clear();
    let done = done?;
    let bar = progress::spinner("copying to this agent", silent);
    let here = agent.wait_until_here(&import.name, &done["head"]).await;
    bar.finish_and_clear();
    here?;
    let text = format!("{} has the content of {}", import.name, import.file.display());
    Ok(Answer::new(text, done))
}

/// Collects statements and sends them in order.
struct Batches<'a> {
    agent: &'a Agent,
    import: &'a Import,
    bar: ProgressBar,
    statements: Vec<Statement>,
    /// Lines in the file.
    lines: Vec<u64>,
    bytes: usize,
    /// Where the collected ones end in the file.
    end: u64,
    done: u64,
}

impl Batches<'_> {
    async fn put(&mut self, statement: Statement, line: u64, end: u64) -> Result<(), Failure> {
        let values = statement.params.iter().map(|value| match value {
            SqlValue::Text(text) => text.len(),
            SqlValue::Blob(bytes) => bytes.len(),
            _ => size_of::<SqlValue>(),
        });
        self.bytes += statement.sql.len() + values.sum::<usize>();
        self.statements.push(statement);
        self.lines.push(line);
        self.end = end;
        if self.statements.len() == STATEMENTS_AT_ONCE || self.bytes >= BYTES_AT_ONCE {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Failure> {
        if self.statements.is_empty() {
            return Ok(());
        }
        let sent = self.agent.execute(&self.import.name, &self.statements).await;
        if let Err(failure) = sent {
            self.bar.finish_and_clear();
            return Err(self.explain(failure));
        }
        self.done += self.statements.len() as u64;
        self.bar.set_position(self.end);
        self.statements.clear();
        self.lines.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Says which line failed, and what is in the database.
    fn explain(&self, failure: Failure) -> Failure {
        let Failure::Failed { code, message, help } = failure else {
            return failure;
        };
        let culprit = message
            .strip_prefix("statement ")
            .and_then(|rest| rest.split_once(" of the batch: "))
            .and_then(|(index, cause)| Some((*self.lines.get(index.parse::<usize>().ok()?)?, cause.to_owned())));
        let Some((line, cause)) = culprit else {
            return Failure::Failed { code, message, help };
        };
        let first = self.lines.first().copied().unwrap_or(line);
        let message = format!("{} line {line}: {cause}", self.import.file.display());
        let help = format!("what comes before line {first} is in the database, nothing from there on");
        Failure::new(&code, message).help(help)
    }
}

async fn script_into(agent: &Agent, import: &Import, silent: bool) -> Result<Answer, Failure> {
    let (script, total) = open(&import.file)?;
    let mut batches = batches(agent, import, total, silent);
    for found in Statements::of(script) {
        let found = found.map_err(|error| Failure::new("content", format!("{}: {error}", import.file.display())))?;
        let sets_foreign_keys = found.sql.to_ascii_lowercase().starts_with("pragma foreign_keys");
        if offline::is_transaction_control(&found.sql) || sets_foreign_keys {
            continue;
        }
        let statement = script::with_parameters(found.sql);
        batches.put(statement, found.line, found.end).await?;
    }
    batches.send().await?;
    batches.bar.finish_and_clear();
    let text = format!(
        "{}: {} statements of {} were run",
        import.name,
        batches.done,
        import.file.display()
    );
    let json = json!({ "database": import.name, "statements": batches.done });
    Ok(Answer::new(text, json))
}

async fn csv(agent: &Agent, import: &Import, table: &str, known: &[String], silent: bool) -> Result<Answer, Failure> {
    let (mut file, total) = open(&import.file)?;
    skip_byte_order_mark(&mut file).map_err(|error| Failure::file(&import.file, &error))?;
    let wrong = |message: String| Failure::new("content", format!("{}: {message}", import.file.display()));
    let mut records = Records::of(file);
    let names = records.next().map_err(|error| wrong(error.to_string()))?;
    let names = names.ok_or_else(|| wrong("it is empty; the first line names the columns".to_owned()))?;
    let names: Option<Vec<String>> = names.fields.into_iter().collect();
    let names = names.ok_or_else(|| wrong("line 1: a column has no name".to_owned()))?;
    let mut batches = batches(agent, import, total, silent);
    let columns: Vec<String> = names.iter().map(|name| identifier(name)).collect();
    if !known.iter().any(|name| name.eq_ignore_ascii_case(table)) {
        let columns: Vec<String> = columns.iter().map(|name| format!("{name} TEXT")).collect();
        let sql = format!("CREATE TABLE {} ({})", identifier(table), columns.join(", "));
        batches.put(Statement::new(sql, Vec::new()), 1, 0).await?;
    }
    let places: Vec<String> = (1..=names.len()).map(|place| format!("?{place}")).collect();
    let sql = format!(
        "INSERT INTO {} ({}) VALUES ({})",
        identifier(table),
        columns.join(", "),
        places.join(", ")
    );
    let mut rows = 0_u64;
    while let Some(record) = records.next().map_err(|error| wrong(error.to_string()))? {
        if record.fields.len() != names.len() {
            return Err(wrong(format!(
                "line {}: {} fields, but line 1 names {} columns",
                record.line,
                record.fields.len(),
                names.len()
            ))
            .help(format!(
                "{rows} rows before it were read; those of whole transactions are in the table"
            )));
        }
        let values = record
            .fields
            .into_iter()
            .map(|field| field.map_or(SqlValue::Null, value));
        let statement = Statement::new(sql.as_str(), values.collect());
        batches.put(statement, record.line, record.end).await?;
        rows += 1;
    }
    batches.send().await?;
    batches.bar.finish_and_clear();
    let text = format!(
        "{}: {rows} rows of {} are in {table}",
        import.name,
        import.file.display()
    );
    let json = json!({ "database": import.name, "table": table, "rows": rows });
    Ok(Answer::new(text, json))
}

/// Text, which the column's affinity makes a number where it is one; blobs as `db export` writes them.
fn value(text: String) -> SqlValue {
    let digits = text
        .strip_prefix("0x")
        .filter(|digits| digits.len() % 2 == 0 && digits.is_ascii());
    let bytes = digits.and_then(|digits| {
        let pairs = digits.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        pairs.map(byte).collect::<Option<Vec<u8>>>()
    });
    bytes.map_or(SqlValue::Text(text), SqlValue::Blob)
}

fn skip_byte_order_mark(file: &mut impl BufRead) -> std::io::Result<()> {
    if file.fill_buf()?.starts_with("\u{feff}".as_bytes()) {
        file.consume(3);
    }
    Ok(())
}

fn batches<'a>(agent: &'a Agent, import: &'a Import, total: u64, silent: bool) -> Batches<'a> {
    Batches {
        agent,
        import,
        bar: progress::bytes("importing", Some(total), silent),
        statements: Vec::new(),
        lines: Vec::new(),
        bytes: 0,
        end: 0,
        done: 0,
    }
}
