//! `selvedge import`: a project of Spin or of wrangler as ours. What cannot be carried over stands in comments.

mod spin;
mod wrangler;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::project::{FILE, invalid};
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Import {
    /// `spin.toml`, `wrangler.toml`, `wrangler.json` or `wrangler.jsonc`.
    file: PathBuf,
    /// Write over a selvedge.yaml that is there.
    #[arg(long)]
    force: bool,
}

/// What is carried over.
#[derive(Debug, Default)]
struct Imported {
    app: String,
    /// What is left to do by hand, for the head of the file.
    notes: Vec<String>,
    build: Option<String>,
    watch: Vec<String>,
    handlers: BTreeMap<String, Handler>,
    /// Path, and the rest of the route as YAML in one line.
    routes: Vec<(String, String)>,
    /// Name, and its folder of migrations.
    databases: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Default)]
struct Handler {
    component: String,
    /// Name in the guest, and the database.
    bindings: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    secrets: Vec<String>,
    notes: Vec<String>,
}

pub(super) fn run(import: &Import) -> Result<Answer, Failure> {
    let Import { file, force } = import;
    let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error))?;
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let value = read(file, &text)?;
    let imported = match (value.get("spin_manifest_version"), name) {
        (Some(version), _) => spin::read(&value, version)?,
        (None, name) if name.starts_with("wrangler") => wrangler::read(&value, folder),
        _ => {
            let failure = Failure::new("import", format!("{} is neither Spin's nor wrangler's", file.display()));
            return Err(
                failure.help("give a spin.toml of version 2, a wrangler.toml, a wrangler.json or a wrangler.jsonc")
            );
        }
    };
    let yaml = imported.yaml(name);
    let base = folder.canonicalize().map_err(|error| Failure::file(folder, &error))?;
    selvedge_schema::parse_project(FILE, &yaml, &base, &selvedge_filters::schemas())
        .map_err(|diagnostics| invalid(&diagnostics))?;
    let target = folder.join(FILE);
    if target.exists() && !force {
        let failure = Failure::new("exists", format!("{} is there already", target.display()));
        return Err(failure.help("give --force to write over it"));
    }
    std::fs::write(&target, &yaml).map_err(|error| Failure::file(&target, &error))?;
    let notes: Vec<&String> = imported
        .notes
        .iter()
        .chain(imported.handlers.values().flat_map(|handler| &handler.notes))
        .collect();
    let mut text = format!("{} is written", target.display());
    if !notes.is_empty() {
        text.push_str("; left to do by hand:");
        notes.iter().for_each(|note| text.push_str(&format!("\n  {note}")));
    }
    Ok(Answer::new(
        text,
        json!({ "file": target, "app": imported.app, "notes": notes }),
    ))
}

fn read(file: &Path, text: &str) -> Result<Value, Failure> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml::from_str(text).map_err(|error| Failure::file(file, &error)),
        Some("json" | "jsonc") => {
            let read = jsonc_parser::parse_to_serde_value(text, &jsonc_parser::ParseOptions::default());
            read.map_err(|error| Failure::file(file, &error))
        }
        _ => Err(Failure::Usage(format!(
            "{} is neither TOML nor JSON by its name",
            file.display()
        ))),
    }
}

impl Imported {
    fn yaml(&self, from: &str) -> String {
        let mut text = format!("# From {from}, by `selvedge import`.\n");
        for note in &self.notes {
            text.push_str(&format!("# TODO {note}\n"));
        }
        text.push_str(&format!("app: {}\n", json!(self.app)));
        if let Some(command) = &self.build {
            text.push_str(&format!("\nbuild:\n  command: {}\n", json!(command)));
            if !self.watch.is_empty() {
                text.push_str(&format!("  watch: {}\n", json!(self.watch)));
            }
        }
        if !self.databases.is_empty() {
            text.push_str("\ndatabases:\n");
            for (name, migrations) in &self.databases {
                match migrations {
                    Some(folder) => text.push_str(&format!("  {name}: {{ migrations: {} }}\n", json!(folder))),
                    None => text.push_str(&format!("  {name}: {{}}\n")),
                }
            }
        }
        if !self.handlers.is_empty() {
            text.push_str("\nhandlers:\n");
            for (name, handler) in &self.handlers {
                handler.write(name, &mut text);
            }
        }
        if !self.routes.is_empty() {
            text.push_str("\nroutes:\n");
            for (path, rest) in &self.routes {
                text.push_str(&format!("  - match: {{ path: {} }}\n    {rest}\n", json!(path)));
            }
        }
        text
    }
}

impl Handler {
    fn write(&self, name: &str, text: &mut String) {
        text.push_str(&format!("  {name}:\n    component: {}\n", literal(&self.component)));
        for note in &self.notes {
            text.push_str(&format!("    # TODO {note}\n"));
        }
        if !self.bindings.is_empty() {
            text.push_str("    bindings:\n");
            for (binding, database) in &self.bindings {
                text.push_str(&format!("      {binding}: {{ database: {database} }}\n"));
            }
        }
        if !self.env.is_empty() {
            text.push_str("    env:\n");
            for (name, value) in &self.env {
                text.push_str(&format!("      {}: {}\n", json!(name), literal(value)));
            }
        }
        if !self.secrets.is_empty() {
            text.push_str(&format!("    secrets: {}\n", json!(self.secrets)));
        }
    }
}

/// A text as it is, also where it looks like a substitution.
fn literal(text: &str) -> String {
    json!(text.replace("${", "$${")).to_string()
}

/// A DNS label as near to the text as possible.
fn label(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let label: String = text.chars().map(plain).take(63).collect();
    match label.trim_matches('-') {
        "" => "app".to_owned(),
        label => label.to_owned(),
    }
}

/// The texts of a list.
fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (text, expected) in [
            ("shop", "shop"),
            ("My Shop_2", "my-shop-2"),
            ("--", "app"),
            ("-a-", "a"),
        ] {
            assert_eq!(label(text), expected);
        }
    }
}
