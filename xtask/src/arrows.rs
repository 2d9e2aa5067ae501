//! The arrows between the crates, and the libraries only one crate may know. See `docs/architecture.md`.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tools::workspace_root;

/// Each crate and the workspace crates it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("selvedge-schema", &[]),
    ("selvedge-filters", &["selvedge-schema"]),
    ("selvedge-cache", &["selvedge-schema"]),
    ("selvedge-replication", &[]),
    ("selvedge-runtime", &["selvedge-schema", "selvedge-replication"]),
    (
        "selvedge-proxy",
        &[
            "selvedge-schema",
            "selvedge-filters",
            "selvedge-cache",
            "selvedge-runtime",
            "selvedge-replication",
        ],
    ),
    ("selvedge-control", &["selvedge-schema", "selvedge-replication"]),
    (
        "selvedge",
        &[
            "selvedge-schema",
            "selvedge-filters",
            "selvedge-replication",
            "selvedge-proxy",
            "selvedge-control",
        ],
    ),
    ("selvedge-tests", &[]),
    ("xtask", &[]),
];

/// Libraries by the start of their name, and the crates that may depend on them.
const ONLY: &[(&str, &[&str])] = &[
    ("wasmtime", &["selvedge-runtime"]),
    ("tokio-postgres", &["selvedge-replication"]),
    ("deadpool-postgres", &["selvedge-replication"]),
    ("rusqlite", &["selvedge-replication", "xtask"]),
    ("pingora-proxy", &["selvedge-proxy"]),
    ("pingora-core", &["selvedge-proxy", "selvedge-cache"]),
    ("pingora-cache", &["selvedge-proxy", "selvedge-cache"]),
];

pub(crate) fn check() -> Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(workspace_root())
        .output()
        .context("cannot start cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"].as_str().context("name")?;
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("{name} is not in the table of arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            // What only tests use draws no arrow.
            if dependency["kind"] == "dev" {
                continue;
            }
            let library = dependency["name"].as_str().context("dependency")?;
            if ARROWS.iter().any(|(known, _)| *known == library) && !allowed.contains(&library) {
                wrong.push(format!("{name} must not depend on {library}"));
            }
            for (start, owners) in ONLY {
                if library.starts_with(start) && !owners.contains(&name) {
                    wrong.push(format!(
                        "{name} must not know {library}: only {} may",
                        owners.join(", ")
                    ));
                }
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}
