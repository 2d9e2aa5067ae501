//! What a deployment may say: handlers, routes, databases and upstreams in the edge's own vocabulary, and its files.
//!
//! Everything a manifest names is in the deployment: it reaches no file, variable or secret of the PoP that serves it.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::{Config, Diagnostics, Document, FilterSchema, Target, parse};

/// Keys of a manifest; everything else is the PoP's own.
pub const MANIFEST_KEYS: [&str; 4] = ["handlers", "routes", "databases", "upstreams"];
const PATH_BYTES: usize = 512;
/// Files of one deployment.
pub const DEPLOYMENT_FILES: usize = 20_000;

/// A finding: where in the manifest (RFC 6901), what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    pub pointer: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Finding {
    fn new(pointer: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding {
            pointer: pointer.into(),
            message: message.into(),
            help: None,
        }
    }
}

/// Checks a manifest against the files of its deployment, by their paths.
pub fn check_manifest(manifest: &Value, files: &[&str], filters: &[FilterSchema]) -> Result<(), Vec<Finding>> {
    let mut findings = check_files(files);
    let Some(manifest) = manifest.as_object() else {
        findings.push(Finding::new("", "the manifest is not an object"));
        return Err(findings);
    };
    findings.extend(manifest.keys().filter_map(|key| foreign(key)));
    if !findings.is_empty() {
        return Err(findings);
    }
    match read("manifest", manifest, Path::new(""), filters) {
        Ok(document) => findings.extend(check_paths(&document.config, files)),
        Err(diagnostics) => findings.extend(diagnostics.items().iter().map(|item| Finding {
            pointer: item.pointer.clone(),
            message: item.message.clone(),
            help: item.help.clone(),
        })),
    }
    match findings.is_empty() {
        true => Ok(()),
        false => Err(findings),
    }
}

/// Why a key does not belong here.
fn foreign(key: &str) -> Option<Finding> {
    if MANIFEST_KEYS.contains(&key) {
        return None;
    }
    let distance = |known: &&&str| strsim::damerau_levenshtein(known, key);
    let nearest = MANIFEST_KEYS
        .iter()
        .min_by_key(distance)
        .filter(|known| distance(known) <= 2);
    let help = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!(
            "a manifest has {}; the rest is each PoP's own",
            MANIFEST_KEYS.join(", ")
        ),
    };
    Some(Finding {
        help: Some(help),
        ..Finding::new(format!("/{key}"), format!("unknown key \"{key}\""))
    })
}

/// A manifest that was checked, as the PoP that has its files in `folder` reads it. What it says of a machine is not the
/// machine's: see [`Config::with_deployed`].
pub fn read_manifest(
    name: &str,
    manifest: &Value,
    folder: &Path,
    filters: &[FilterSchema],
) -> Result<Document, Diagnostics> {
    read(name, manifest.as_object().unwrap_or(&Map::new()), folder, filters)
}

/// With a listener and an agent, without environment and files of the machine.
fn read(
    name: &str,
    manifest: &Map<String, Value>,
    folder: &Path,
    filters: &[FilterSchema],
) -> Result<Document, Diagnostics> {
    let mut whole = manifest.clone();
    whole.insert("agent".to_owned(), json!({ "primary": "https://primary.invalid" }));
    if whole.contains_key("routes") {
        whole.insert("listeners".to_owned(), json!([{ "address": "127.0.0.1:0" }]));
    }
    // JSON is YAML.
    let text = format!("{:#}", Value::Object(whole));
    parse(name, &text, folder, &|_| None, filters)
}

fn check_files(files: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if files.len() > DEPLOYMENT_FILES {
        findings.push(Finding::new(
            "/blobs",
            format!("a deployment has at most {DEPLOYMENT_FILES} files"),
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, file) in files.iter().enumerate() {
        let pointer = format!("/blobs/{index}/path");
        if let Some(wrong) = wrong_path(file) {
            findings.push(Finding::new(pointer, format!("the path {file:?} {wrong}")));
        } else if !seen.insert(*file) {
            findings.push(Finding::new(pointer, format!("the path {file:?} is there twice")));
        }
    }
    for file in &seen {
        let folders = file.match_indices('/').map(|(end, _)| &file[..end]);
        if let Some(folder) = folders.into_iter().find(|folder| seen.contains(folder)) {
            findings.push(Finding::new(
                "/blobs",
                format!("{folder:?} is both a file and a folder"),
            ));
        }
    }
    findings
}

/// What is wrong with a path, of a file or in a manifest.
fn wrong_path(path: &str) -> Option<&'static str> {
    let mut parts = path.split('/');
    match path {
        "" => Some("is empty"),
        _ if path.len() > PATH_BYTES => Some("is longer than 512 bytes"),
        _ if path.starts_with('/') => Some("is absolute: paths are inside the deployment"),
        _ if path.chars().any(|c| c == '\\' || c.is_control()) => Some("has a backslash or a control character"),
        _ if parts.clone().any(|part| part == "..") => Some("leaves the deployment by `..`"),
        _ if parts.any(|part| part.is_empty() || part == ".") => Some("has an empty part or a `.`"),
        _ => None,
    }
}

/// Everything in the manifest that is read from a file.
fn check_paths(config: &Config, files: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut needs = |pointer: String, path: &Path, kind: Needs| {
        let problem = match written(path) {
            None => Some("is absolute or leaves the deployment".to_owned()),
            Some(path) => kind.missing(&path, files),
        };
        if let Some(problem) = problem {
            findings.push(Finding::new(
                pointer,
                format!("{:?} {problem}", path.display().to_string()),
            ));
        }
    };
    for (name, handler) in &config.handlers {
        needs(format!("/handlers/{name}/component"), &handler.component, Needs::File);
    }
    for route in &config.routes {
        if let Target::Static(folder) = &route.target {
            needs(format!("{}/static/root", route.pointer), &folder.root, Needs::Folder);
        }
        if let Some(page) = &route.error_page {
            needs(format!("{}/error_page", route.pointer), page, Needs::File);
        }
    }
    for (name, database) in &config.databases {
        if let Some(migrations) = &database.migrations {
            needs(format!("/databases/{name}/migrations"), migrations, Needs::Folder);
        }
    }
    for (name, upstream) in &config.upstreams {
        if let Some(ca) = upstream.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
            needs(format!("/upstreams/{name}/tls/ca"), ca, Needs::File);
        }
    }
    let seeded = config.databases.iter().filter(|(_, database)| database.seed.is_some());
    for (name, _) in seeded {
        let message = "a deployment's databases begin empty: fill them by a migration, or with `selvedge db import`";
        findings.push(Finding::new(format!("/databases/{name}/seed"), message));
    }
    let local = config.databases.iter().filter(|(_, database)| database.path.is_some());
    for (name, _) in local {
        let message = "a deployment's databases are replicated: leave `path` out";
        findings.push(Finding::new(format!("/databases/{name}/path"), message));
    }
    findings
}

#[derive(Debug, Clone, Copy)]
enum Needs {
    File,
    /// With something in it.
    Folder,
}

impl Needs {
    fn missing(self, path: &str, files: &[&str]) -> Option<String> {
        match self {
            Needs::File if files.contains(&path) => None,
            Needs::File => Some("is not among the files of the deployment".to_owned()),
            Needs::Folder => {
                let below = format!("{path}/");
                let any = path.is_empty() || files.iter().any(|file| file.starts_with(&below));
                (!any).then(|| "has no file of the deployment in it".to_owned())
            }
        }
    }
}

/// The path as the list of files has it; `None` when it is not inside.
fn written(path: &Path) -> Option<String> {
    let parts: Option<PathBuf> = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| matches!(part, Component::Normal(_)).then_some(part))
        .collect();
    parts?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 3] = ["shop.wasm", "public/index.html", "migrations/0001_a.sql"];

    fn told(manifest: Value, files: &[&str]) -> Vec<String> {
        let findings = check_manifest(&manifest, files, &[]).err().unwrap_or_default();
        let told = findings.into_iter().map(|finding| {
            let help = finding.help.map(|help| format!(" = {help}")).unwrap_or_default();
            format!("{} {}{help}", finding.pointer, finding.message)
        });
        told.collect()
    }

    fn manifest() -> Value {
        json!({
            "databases": { "shop": { "migrations": "migrations" } },
            "handlers": { "shop": { "component": "./shop.wasm", "bindings": { "db": { "database": "shop" } } } },
            "routes": [
                { "match": { "path": "/*" }, "handler": "shop" },
                { "match": { "path": "/static/*" }, "static": { "root": "public" } },
            ],
        })
    }

    #[test]
    fn what_is_right() {
        assert_eq!(told(manifest(), &FILES), [""; 0]);
        assert_eq!(told(json!({}), &[]), [""; 0]);
    }

    #[test]
    fn what_is_wrong() {
        let changed = |pointer: &str, value: Value| {
            let mut manifest = manifest();
            *manifest.pointer_mut(pointer).unwrap() = value;
            told(manifest, &FILES)
        };
        for (findings, expected) in [
            (told(json!([]), &[]), "the manifest is not an object"),
            (
                told(json!({ "handler": {} }), &[]),
                "/handler unknown key \"handler\" = did you mean `handlers`?",
            ),
            (told(json!({ "listeners": [] }), &[]), "the rest is each PoP's own"),
            (told(json!({ "agent": {} }), &[]), "the rest is each PoP's own"),
            (
                told(json!({ "handlers": { "a": { "componnent": "x" } } }), &[]),
                "component",
            ),
            (
                changed("/handlers/shop/component", json!("other.wasm")),
                "not among the files",
            ),
            (
                changed("/handlers/shop/component", json!("/etc/passwd")),
                "absolute or leaves",
            ),
            (
                changed("/handlers/shop/component", json!("../shop.wasm")),
                "absolute or leaves",
            ),
            (changed("/handlers/shop/component", json!("${HOME}")), "HOME"),
            (
                changed("/handlers/shop/component", json!("${file:/etc/passwd}")),
                "/etc/passwd",
            ),
            (
                changed("/routes/1/static/root", json!("private")),
                "no file of the deployment in it",
            ),
            (changed("/routes/0/handler", json!("shp")), "shop"),
            (
                changed("/databases/shop", json!({ "path": "x.db" })),
                "leave `path` out",
            ),
            (changed("/databases", json!({ "_control": {} })), "the platform's"),
        ] {
            assert!(
                findings.iter().any(|found| found.contains(expected)),
                "{expected}: {findings:?}"
            );
        }
    }

    #[test]
    fn files() {
        for (files, expected) in [
            (vec!["a", "a"], "twice"),
            (vec!["../a"], "`..`"),
            (vec!["a/../b"], "`..`"),
            (vec!["/a"], "absolute"),
            (vec!["a//b"], "empty part"),
            (vec!["./a"], "empty part"),
            (vec!["a\\b"], "backslash"),
            (vec!["a\0"], "control"),
            (vec![""], "is empty"),
            (vec!["a", "a/b"], "both a file and a folder"),
        ] {
            let findings = told(json!({}), &files);
            assert!(
                findings.iter().any(|found| found.contains(expected)),
                "{files:?}: {findings:?}"
            );
        }
    }
}
