//! `db shell`: SQL by hand.
//!
//! A statement ends with a semicolon and may have many lines. Reads are answered by this agent's copy, once it has what was
//! written here; writes go to the primary, each once.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use selvedge_replication::position::Position;
use selvedge_replication::{Rows, Statement, script};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::Failure;
use super::agent::Agent;
use super::rows::{self, Mode};

const HELP: &str = "\
SQL, over as many lines as it needs, until a semicolon; or one of
  .tables                the tables and views
  .schema [TABLE]        how they were made
  .mode table|csv|json   how rows are shown
  .strong on|off         read what the primary has, instead of this agent's copy
  .help                  this text
  .quit                  the end, as is Ctrl-D";

#[derive(Args)]
pub(super) struct Shell {
    name: String,
    /// Run these statements and end.
    #[arg(long)]
    sql: Option<String>,
    /// Read what the primary has, instead of this agent's copy.
    #[arg(long)]
    strong: bool,
}

struct Session<'a> {
    runtime: &'a Runtime,
    agent: &'a Agent,
    name: String,
    mode: Mode,
    strong: bool,
    /// The newest state that was read or written here.
    seen: Position,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Read {
    Rows {
        rows: Rows,
        position: Position,
    },
    /// It may write.
    NeedsWriter {
        #[serde(rename = "needs_writer")]
        _needs_writer: bool,
    },
}

#[derive(Deserialize)]
struct Executed {
    rows: Vec<Rows>,
    position: Position,
}

/// What a line asks for.
enum Next {
    More,
    End,
}

pub(super) fn run(runtime: &Runtime, agent: &Agent, shell: Shell, as_json: bool) -> Result<(), Failure> {
    let mut session = Session {
        runtime,
        agent,
        name: shell.name,
        mode: if as_json { Mode::Json } else { Mode::Table },
        strong: shell.strong,
        seen: Position::default(),
    };
    if let Some(sql) = shell.sql {
        return session.run_script(sql.as_bytes());
    }
    // A name that is wrong is said before anything is typed.
    session.query(Statement::new("SELECT 1", Vec::new()))?;
    if std::io::stdin().is_terminal() {
        session.converse()
    } else {
        session.obey(std::io::stdin().lock())
    }
}

impl Session<'_> {
    /// Lines that somebody types: an error is shown, and the next line is waited for.
    fn converse(&mut self) -> Result<(), Failure> {
        let failed = |error: ReadlineError| Failure::new("terminal", error.to_string());
        let mut editor = DefaultEditor::new().map_err(failed)?;
        let history = history_file();
        if let Some(history) = &history {
            // There is none the first time.
            let _ = editor.load_history(history);
        }
        println!("{}: type .help for help", self.name);
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() {
                format!("{}> ", self.name)
            } else {
                format!("{}> ", ".".repeat(self.name.len()))
            };
            match editor.readline(&prompt) {
                Ok(line) => {
                    text = text + &line + "\n";
                    let whole = is_whole(&text);
                    if !whole {
                        continue;
                    }
                    // A history that cannot be kept is no reason to stop.
                    let _ = editor.add_history_entry(text.trim());
                    match self.take(std::mem::take(&mut text).trim()) {
                        Ok(Next::More) => {}
                        Ok(Next::End) => break,
                        Err(failure) => failure.show(self.mode == Mode::Json),
                    }
                }
                Err(ReadlineError::Interrupted) => text.clear(),
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(failed(error)),
            }
        }
        if let Some(history) = &history {
            let _ = editor.save_history(history);
        }
        Ok(())
    }

    /// Lines from a file or a pipe: the first error ends it.
    fn obey(&mut self, input: impl BufRead) -> Result<(), Failure> {
        let mut text = String::new();
        for line in input.lines() {
            let line = line.map_err(|error| Failure::new("input", error.to_string()))?;
            text = text + &line + "\n";
            if is_whole(&text)
                && let Next::End = self.take(std::mem::take(&mut text).trim())?
            {
                return Ok(());
            }
        }
        self.run_script(text.as_bytes())
    }

    fn take(&mut self, text: &str) -> Result<Next, Failure> {
        if text.starts_with('.') {
            return self.command(text);
        }
        self.run_script(text.as_bytes())?;
        Ok(Next::More)
    }

    fn command(&mut self, text: &str) -> Result<Next, Failure> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            [".quit" | ".exit"] => return Ok(Next::End),
            [".help"] => println!("{HELP}"),
            [".tables"] => {
                let items = self.schema(None)?;
                let tables = items
                    .iter()
                    .filter(|item| item["type"] == "table" || item["type"] == "view");
                for name in tables.filter_map(|item| item["name"].as_str()) {
                    println!("{name}");
                }
            }
            [".schema"] => self.show_schema(None)?,
            [".schema", table] => self.show_schema(Some(table))?,
            [".mode", mode] => self.mode = mode.parse().map_err(Failure::Usage)?,
            [".strong", "on"] => self.strong = true,
            [".strong", "off"] => self.strong = false,
            _ => return Err(Failure::Usage(format!("{text} is not known; .help shows what is"))),
        }
        Ok(Next::More)
    }

    fn show_schema(&self, table: Option<&str>) -> Result<(), Failure> {
        for item in self.schema(table)? {
            if let Some(sql) = item["sql"].as_str() {
                println!("{sql};");
            }
        }
        Ok(())
    }

    fn schema(&self, table: Option<&str>) -> Result<Vec<Value>, Failure> {
        let query = table.map_or(String::new(), |table| {
            let table = percent_encoding::utf8_percent_encode(table, percent_encoding::NON_ALPHANUMERIC);
            format!("?table={table}")
        });
        let path = format!("/v1/databases/{}/schema{query}", self.name);
        self.runtime.block_on(self.agent.get(&path))
    }

    fn run_script(&mut self, sql: &[u8]) -> Result<(), Failure> {
        for found in script::Statements::of(sql) {
            let found = found.map_err(|error| Failure::new("sql", error.to_string()))?;
            let rows = self.query(script::with_parameters(found.sql))?;
            let text = rows::show(&rows, self.mode);
            if !text.is_empty() {
                println!("{text}");
            }
        }
        Ok(())
    }

    fn query(&mut self, statement: Statement) -> Result<Rows, Failure> {
        let path = format!("/v1/databases/{}/query", self.name);
        let body = |strong| json!({ "sql": statement.sql, "params": statement.params, "strong": strong });
        let ask = |strong| self.runtime.block_on(self.agent.post::<Read>(&path, &body(strong)));
        let mut read = match ask(self.strong) {
            // The copy may not have the table yet.
            Err(failure) if failure.code() == "sql" && !self.strong => ask(true)?,
            other => other?,
        };
        if let Read::Rows { position, .. } = &read
            && *position < self.seen
        {
            read = ask(true)?;
        }
        match read {
            Read::Rows { rows, position } => {
                self.seen = self.seen.max(position);
                Ok(rows)
            }
            Read::NeedsWriter { .. } => self.write(&statement),
        }
    }

    fn write(&mut self, statement: &Statement) -> Result<Rows, Failure> {
        let done = self.agent.execute(&self.name, std::slice::from_ref(statement));
        let done = self.runtime.block_on(done).map_err(|failure| match failure {
            Failure::Failed { code, message, help } => Failure::Failed {
                code,
                message: message.trim_start_matches("statement 0 of the batch: ").to_owned(),
                help,
            },
            usage => usage,
        })?;
        let done: Executed = serde_json::from_value(done).map_err(|error| Failure::new("answer", error.to_string()))?;
        self.seen = self.seen.max(done.position);
        Ok(done.rows.into_iter().next().unwrap_or_default())
    }
}

/// Whether what was typed can be run.
fn is_whole(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || text.starts_with('.') || script::is_complete(text)
}

fn history_file() -> Option<PathBuf> {
    let set = std::env::var_os("SELVEDGE_HISTORY").map(PathBuf::from);
    set.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".selvedge_history")))
}
