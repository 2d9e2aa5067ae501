//! A project: what the developer of one app says of it, in `selvedge.yaml`.
//!
//! It has the edge's vocabulary for `handlers`, `routes`, `databases` and `upstreams`; the rest is each PoP's own. A project
//! is the same wherever it is deployed from: it reads no variable and no file of the machine.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::check::check;
use crate::diagnostic::{Diagnostics, Severity};
use crate::document::Document;
use crate::json_schema::{FilterSchema, project_schema};
use crate::manifest::MANIFEST_KEYS;
use crate::source::{SourceMap, child};
use crate::substitute::{Environment, substitute};
use crate::walk::walk;
use crate::yaml::{self, Node};
use crate::{Config, written};

/// An app's name becomes part of its address: a DNS label.
const APP_LETTERS: usize = 63;

/// A project that was read.
#[derive(Debug, Clone)]
pub struct Project {
    pub app: String,
    pub build: Build,
    /// The keys of [`MANIFEST_KEYS`] that are there, as control takes them.
    pub manifest: Map<String, Value>,
    /// The manifest as a PoP reads it, with a listener and an agent; where it stands is the project's text.
    pub document: Document,
}

/// How what is deployed comes to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// For the shell, in the project's folder; `None` when there is nothing to build.
    pub command: Option<String>,
    /// What the command reads, relative to the project's folder.
    pub watch: Vec<PathBuf>,
}

/// Reads a project. `base_dir` is its folder, absolute; what the manifest names is resolved against it.
pub fn parse_project(
    source_name: &str,
    text: &str,
    base_dir: &Path,
    filters: &[FilterSchema],
) -> Result<Project, Diagnostics> {
    let (mut root, mut findings) = yaml::load(text)
        .map_err(|findings| Diagnostics::new(SourceMap::without_places(source_name, text), findings))?;
    let source = SourceMap::new(source_name, text, &root);
    let environment = Environment {
        lookup: &|_| None,
        base_dir,
    };
    for (key, node) in manifest_of(&mut root) {
        let before = findings.len();
        substitute(node, &child("", key), &environment, &mut findings);
        for finding in &mut findings[before..] {
            finding.help = Some(
                "a project reads nothing of the machine: `selvedge env set` and `selvedge secret set` give an app its values"
                    .to_owned(),
            );
        }
    }
    findings.extend(walk(&mut root, &project_schema(filters)));
    if !findings.is_empty() {
        return Err(Diagnostics::new(source, findings));
    }
    let one = |pointer: &str, message: String, help: Option<String>| {
        let finding = source.at_value(Severity::Error, pointer, message, help);
        Diagnostics::new(source.clone(), vec![finding])
    };
    let project: written::project::Project =
        serde_json::from_value(root.to_json()).map_err(|error| one("", error.to_string(), None))?;
    if !is_label(&project.app) {
        let help = "use up to 63 of a-z, 0-9 and `-`, not `-` first or last".to_owned();
        let message = format!("app: {:?} cannot be an app's name", project.app);
        return Err(one("/app", message, Some(help)));
    }
    let entries = manifest_of(&mut root).map(|(key, node)| (key.to_owned(), node.to_json()));
    let mut manifest: Map<String, Value> = entries.collect();
    let config = as_used(manifest.clone(), base_dir).map_err(|error| one("", error.to_string(), None))?;
    let mut findings = check(&config, &source);
    for name in config.databases.keys() {
        let pointer = format!("{}/path", child("/databases", name));
        if source.has(&pointer) {
            let message = "a deployment's databases are replicated: leave `path` out";
            findings.push(source.at_key(Severity::Error, &pointer, message, None));
        }
    }
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(Diagnostics::new(source, findings));
    }
    manifest.values_mut().for_each(escape);
    Ok(Project {
        app: project.app,
        build: Build {
            command: project.build.command,
            watch: project.build.watch,
        },
        manifest,
        document: Document {
            config,
            source,
            base_dir: base_dir.to_owned(),
            warnings: findings,
        },
    })
}

fn manifest_of(root: &mut Node) -> impl Iterator<Item = (&str, &mut Node)> {
    let entries = match &mut root.value {
        yaml::Value::Map(entries) => entries.as_mut_slice(),
        _ => &mut [],
    };
    let entries = entries.iter_mut().map(|entry| (entry.key.as_str(), &mut entry.node));
    entries.filter(|(key, _)| MANIFEST_KEYS.contains(key))
}

/// The manifest as a PoP reads it.
fn as_used(mut whole: Map<String, Value>, base_dir: &Path) -> serde_json::Result<Config> {
    whole.insert("agent".to_owned(), json!({ "primary": "https://primary.invalid" }));
    if whole.contains_key("routes") {
        whole.insert("listeners".to_owned(), json!([{ "address": "127.0.0.1:0" }]));
    }
    serde_json::from_value::<written::Config>(Value::Object(whole)).map(|written| written.into_used(base_dir))
}

/// What is read again has its substitutions done already.
fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace("${", "$${"),
        Value::Array(items) => items.iter_mut().for_each(escape),
        Value::Object(entries) => entries.values_mut().for_each(escape),
        _ => {}
    }
}

fn is_label(name: &str) -> bool {
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    letters && (1..=APP_LETTERS).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        match parse_project("selvedge.yaml", text, Path::new("/project"), &[]) {
            Ok(project) => Value::Object(project.manifest).to_string(),
            Err(diagnostics) => diagnostics.to_string(),
        }
    }

    #[test]
    fn what_is_right() {
        let text = "app: shop\nbuild: { command: \"echo ${HOME}\" }\nhandlers:\n  shop:\n    component: ./shop.wasm\n    \
                    env: { A: 1.10, B: \"$${x}\" }\nroutes:\n  - { match: { path: \"/*\" }, handler: shop }\n";
        let project = parse_project("selvedge.yaml", text, Path::new("/project"), &[]).unwrap();
        assert_eq!(project.app, "shop");
        assert_eq!(project.build.command.as_deref(), Some("echo ${HOME}"));
        assert_eq!(
            project.document.config.handlers["shop"].component,
            Path::new("/project/shop.wasm")
        );
        let env = &project.manifest["handlers"]["shop"]["env"];
        assert_eq!(env, &json!({ "A": "1.10", "B": "$${x}" }));
    }

    #[test]
    fn what_is_wrong() {
        for (text, expected) in [
            (
                "app: shop\nhandler: {}\n",
                "selvedge.yaml:2:1: error: unknown key \"handler\" at the top level; did you mean \"handlers\"?",
            ),
            ("app: shop\nlisteners: []\n", "unknown key \"listeners\""),
            ("routes: []\n", "needs the key \"app\""),
            (
                "app: Shop\n",
                "selvedge.yaml:1:6: error: app: \"Shop\" cannot be an app's name",
            ),
            (
                "app: shop\nhandlers: { a: { component: \"${HOME}/a.wasm\" } }\n",
                "selvedge env set",
            ),
            ("app: shop\ndatabases: { a: { path: a.db } }\n", "leave `path` out"),
            (
                "app: shop\nroutes: [{ match: {}, handler: shp }]\n",
                "the handler \"shp\" is not defined",
            ),
        ] {
            let told = told(text);
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }
}
