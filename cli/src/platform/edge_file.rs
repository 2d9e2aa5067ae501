//! A project as an edge's file: what is built to check it, and what `selvedge dev` serves.

use std::collections::BTreeMap;

use selvedge_schema::{Diagnostics, MANIFEST_KEYS, Target};
use serde_json::{Map, Value, json};

use super::project::{self, Found};
use crate::outcome::Failure;

/// The manifest as an edge's file that has one line an entry, so that a line says what is meant.
pub(super) struct EdgeFile {
    text: String,
    /// For each line of the text, where in the project it comes from.
    pointers: Vec<String>,
}

impl EdgeFile {
    /// `head` are lines for what is not the project's; `env` comes before the variables of every handler, and may name files.
    pub(super) fn of(found: &Found, head: &[impl AsRef<str>], env: &BTreeMap<String, String>) -> EdgeFile {
        let config = &found.project.document.config;
        let mut manifest: Map<String, Value> = found.project.manifest.clone();
        // Paths are the project's; the file stands elsewhere.
        let mut place = |pointer: &str, path: &std::path::Path| {
            let (key, rest) = pointer.split_at(pointer.find('/').unwrap_or(pointer.len()));
            let value = manifest.get_mut(key).and_then(|value| value.pointer_mut(rest));
            if let Some(value) = value {
                *value = literal(&path.display().to_string()).into();
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
        for handler in manifest
            .get_mut("handlers")
            .and_then(Value::as_object_mut)
            .into_iter()
            .flatten()
        {
            let variables = handler.1.as_object_mut().map(|handler| handler.entry("env"));
            let Some(variables) = variables.map(|entry| entry.or_insert_with(|| json!({}))) else {
                continue;
            };
            for (name, value) in env {
                variables[name] = value.as_str().into();
            }
        }
        let mut edge = EdgeFile {
            text: String::new(),
            pointers: Vec::new(),
        };
        for line in head {
            edge.line(line.as_ref().to_owned(), String::new());
        }
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

    pub(super) fn text(&self) -> &str {
        &self.text
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

    /// What a proxy says of the file called `name`, at its places in the project.
    pub(super) fn explain(&self, found: &Found, name: &str, text: &str) -> Failure {
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
            // Without the lines of the file: they have values that are nobody else's.
            false => Failure::new("check", text.lines().next().unwrap_or_default()),
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

/// Text that is read as it is, whatever it has in it.
pub(super) fn literal(text: &str) -> String {
    text.replace("${", "$${")
}
