//! `selvedge build`: runs the project's command, then builds what it describes as a PoP would, and serves nothing.

use std::process::{Command, Stdio};

use clap::Args;
use selvedge_proxy::OpenError;
use selvedge_schema::{Colour, Diagnostics, MANIFEST_KEYS, Target};
use serde_json::{Map, Value, json};

use super::Reach;
use super::files::{self, Deployed};
use super::project::{self, Found};
use crate::explain;
use crate::outcome::{Answer, Failure};
use crate::progress;

#[derive(Args)]
pub(crate) struct Build {}

pub(super) fn run(reach: &Reach) -> Result<Answer, Failure> {
    let found = project::find(reach)?;
    let files = built(&found, reach.json)?;
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let text = format!(
        "{} is ready to be deployed: {} files, {}",
        found.project.app,
        files.len(),
        crate::db::time::bytes(bytes)
    );
    let listed = files
        .iter()
        .map(|file| json!({ "path": file.path, "digest": file.digest, "bytes": file.bytes }));
    let listed: Vec<Value> = listed.collect();
    Ok(Answer::new(text, json!({ "app": found.project.app, "files": listed })))
}

/// What is deployed, made by the project's command and checked.
pub(super) fn built(found: &Found, silent: bool) -> Result<Vec<Deployed>, Failure> {
    if let Some(command) = &found.project.build.command {
        run_command(found, command)?;
    }
    checked(found, silent)
}

/// What is deployed, as it lies there.
pub(super) fn checked(found: &Found, silent: bool) -> Result<Vec<Deployed>, Failure> {
    let files = files::collect(found)?;
    let bar = progress::spinner("building as a PoP would", silent);
    let outcome = check(found);
    bar.finish_and_clear();
    outcome.map(|()| files)
}

/// Its output goes to standard error: standard output is the answer's.
fn run_command(found: &Found, command: &str) -> Result<(), Failure> {
    eprintln!("$ {command}");
    let failed = |error: std::io::Error| Failure::new("build", format!("`sh -c` cannot be run: {error}"));
    let status = Command::new("sh")
        .args(["-c", command])
        .current_dir(&found.folder)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(failed)?;
    match status.success() {
        true => Ok(()),
        false => {
            let failure = Failure::new("build", format!("`{command}` failed: {status}"));
            Err(failure.help("what it wrote stands above; `build.command` in selvedge.yaml says what is run"))
        }
    }
}

/// Builds the manifest in a folder of its own, the way `selvedge check` builds an edge's file.
fn check(found: &Found) -> Result<(), Failure> {
    let scratch = tempfile::tempdir().map_err(|error| Failure::new("folder", error.to_string()))?;
    let file = scratch.path().join("edge.yaml");
    let edge = Edge::of(found);
    std::fs::write(&file, &edge.text).map_err(|error| Failure::file(&file, &error))?;
    // It has threads and runtimes of its own, which cannot end inside another.
    let checked = std::thread::scope(|scope| {
        let check = scope.spawn(|| selvedge_proxy::check(&file, Colour::Plain));
        check.join()
    });
    let checked = checked.map_err(|_| Failure::new("check", "the check itself failed").help("please report it"))?;
    match checked {
        Ok(_) => Ok(()),
        Err(OpenError::Invalid(text)) => Err(edge.explain(found, &file.display().to_string(), &text)),
        Err(error) => Err(Failure::new("check", explain(&error).trim_start_matches("error: "))),
    }
}

/// The manifest as an edge's file that has one line an entry, so that a line says what is meant.
struct Edge {
    text: String,
    /// For each line of the text, where in the project it comes from.
    pointers: Vec<String>,
}

impl Edge {
    fn of(found: &Found) -> Edge {
        let config = &found.project.document.config;
        let mut manifest: Map<String, Value> = found.project.manifest.clone();
        // Paths are the project's; the file stands elsewhere.
        let mut place = |pointer: &str, path: &std::path::Path| {
            let (key, rest) = pointer.split_at(pointer.find('/').unwrap_or(pointer.len()));
            let value = manifest.get_mut(key).and_then(|value| value.pointer_mut(rest));
            if let Some(value) = value {
                *value = path.display().to_string().replace("${", "$${").into();
            }
        };
        for (name, handler) in &config.handlers {
            place(&format!("handlers/{name}/component"), &handler.component);
        }
        for route in &config.routes {
            let pointer = route.pointer.trim_start_matches('/');
            if let Target::Static(folder) = &route.target {
                place(&format!("{pointer}/static/root"), &folder.root);
            }
            if let Some(page) = &route.error_page {
                place(&format!("{pointer}/error_page"), page);
            }
        }
        for (name, database) in &config.databases {
            if let Some(migrations) = &database.migrations {
                place(&format!("databases/{name}/migrations"), migrations);
            }
            if let Some(seed) = &database.seed {
                place(&format!("databases/{name}/seed"), seed);
            }
        }
        for (name, upstream) in &config.upstreams {
            if let Some(ca) = upstream.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
                place(&format!("upstreams/{name}/tls/ca"), ca);
            }
        }
        let mut edge = Edge {
            text: String::new(),
            pointers: Vec::new(),
        };
        edge.line(
            "agent: { primary: \"https://primary.invalid\" }".to_owned(),
            String::new(),
        );
        edge.line("listeners: [{ address: \"127.0.0.1:0\" }]".to_owned(), String::new());
        for key in MANIFEST_KEYS {
            edge.section(key, manifest.get(key));
        }
        if config.routes.is_empty() {
            // An edge that listens has a route.
            edge.line(
                "routes: [{ match: {}, respond: { body: \"\" } }]".to_owned(),
                String::new(),
            );
        }
        edge
    }

    fn section(&mut self, key: &str, value: Option<&Value>) {
        match value {
            Some(Value::Object(entries)) if !entries.is_empty() => {
                self.line(format!("{key}:"), format!("/{key}"));
                for (name, entry) in entries {
                    let inside = if key == "handlers" { "/component" } else { "" };
                    self.line(format!("  {}: {entry}", json!(name)), format!("/{key}/{name}{inside}"));
                }
            }
            Some(Value::Array(items)) if !items.is_empty() => {
                self.line(format!("{key}:"), format!("/{key}"));
                for (index, item) in items.iter().enumerate() {
                    self.line(format!("  - {item}"), format!("/{key}/{index}"));
                }
            }
            _ => {}
        }
    }

    fn line(&mut self, text: String, pointer: String) {
        self.text.push_str(&text);
        self.text.push('\n');
        self.pointers.push(pointer);
    }

    /// The findings, at their places in the project.
    fn explain(&self, found: &Found, name: &str, text: &str) -> Failure {
        let mut problems = Diagnostics::for_document(&found.project.document);
        let mut last: Option<(String, String)> = None;
        let mut push = |finding: Option<(String, String)>, help: Option<String>| {
            if let Some((pointer, message)) = finding {
                problems.error(&pointer, message, help);
            }
        };
        for line in text.lines() {
            if let Some(finding) = self.finding(name, line) {
                push(last.replace(finding), None);
            } else if let Some(help) = line.trim_start().strip_prefix("= help: ") {
                push(last.take(), Some(help.to_owned()));
            }
        }
        push(last, None);
        match problems.has_errors() {
            true => project::invalid(&problems),
            false => Failure::new("check", text.trim_end()),
        }
    }

    /// `name:line:column: error: message`
    fn finding(&self, name: &str, line: &str) -> Option<(String, String)> {
        let (place, message) = line.strip_prefix(name)?.split_once(": error: ")?;
        let number: usize = place.trim_start_matches(':').split(':').next()?.parse().ok()?;
        let pointer = self.pointers.get(number.checked_sub(1)?)?;
        Some((pointer.clone(), message.to_owned()))
    }
}
