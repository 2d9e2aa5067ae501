//! Every dependency has a sentence and a permissive licence, and none is older than its last known advisory.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::tools::workspace_root;

/// Crate, first version without known advisories that concern us, what the older ones had.
const MINIMUM: &[(&str, [u32; 3], &str)] = &[
    (
        "pingora-core",
        [0, 9, 1],
        "request smuggling and header bombs (CVE-2026-2833, -2835, -2836, -105297, -105299)",
    ),
    ("h2", [0, 4, 16], "empty DATA frames (RUSTSEC-2026-0258)"),
    ("wasmtime", [48, 0, 8], "sandbox and exhaustion advisories of 2026"),
    // libsqlite3-sys 0.40 bundles SQLite 3.54.1.
    (
        "libsqlite3-sys",
        [0, 40, 0],
        "the WAL-reset corruption of SQLite before 3.51.3",
    ),
];

pub(crate) fn check() -> Result<()> {
    let root = workspace_root();
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let sentences = fs::read_to_string(root.join("docs/dependencies.md"))?;
    let mut wrong = Vec::new();
    let section = manifest
        .split("[workspace.dependencies]")
        .nth(1)
        .context("[workspace.dependencies]")?;
    let entries = section.lines().take_while(|line| !line.starts_with("[workspace.lints"));
    for line in entries.filter(|line| !line.starts_with('#') && !line.contains("path =")) {
        if let Some((name, _)) = line.split_once(" = ")
            && !sentences.contains(&format!("| `{name}` |"))
        {
            wrong.push(format!("docs/dependencies.md has no sentence about {name}"));
        }
    }
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    for (name, minimum, why) in MINIMUM {
        for version in versions(&lock, name) {
            if version < *minimum {
                wrong.push(format!("{name} {version:?} is older than {minimum:?}: {why}"));
            }
        }
    }
    wrong.extend(licences()?);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// SPDX identifiers that ask for no more than a notice.
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates, also the indirect ones, whose licence is not permissive.
fn licences() -> Result<Vec<String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(workspace_root())
        .output()
        .context("cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let refused = packages.iter().filter_map(|package| {
        let licence = package["license"].as_str().unwrap_or("none");
        let name = package["name"].as_str().unwrap_or_default();
        (!is_permissive(licence)).then(|| format!("{name} has the licence {licence}"))
    });
    Ok(refused.collect())
}

/// An expression of SPDX, also with the slash of old manifests: one alternative of each part must be permissive.
fn is_permissive(expression: &str) -> bool {
    let part_is_permissive = |part: &str| {
        let part = part.replace(['(', ')'], "").replace('/', " OR ");
        part.split(" OR ").any(|licence| PERMISSIVE.contains(&licence.trim()))
    };
    expression.split(" AND ").all(part_is_permissive)
}

/// Every locked version of `name`, without pre-release and build parts.
fn versions(lock: &str, name: &str) -> Vec<[u32; 3]> {
    let marker = format!("name = \"{name}\"\nversion = \"");
    let number = |text: &str| {
        text.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap_or(0)
    };
    lock.split(&marker)
        .skip(1)
        .map(|rest| {
            let version = rest.split('"').next().unwrap_or_default();
            let mut parts = version.split('.').map(number);
            std::array::from_fn(|_| parts.next().unwrap_or(0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_judged_by_their_parts() {
        for (expression, expected) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("MIT OR LGPL-2.1-or-later", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("MIT AND GPL-3.0", false),
            ("GPL-3.0", false),
            ("none", false),
        ] {
            assert_eq!(is_permissive(expression), expected, "{expression}");
        }
    }

    #[test]
    fn locked_versions_are_read() {
        let lock =
            "[[package]]\nname = \"h2\"\nversion = \"0.4.20\"\n\n[[package]]\nname = \"h2-x\"\nversion = \"9.0.0\"\n";
        assert_eq!(versions(lock, "h2"), [[0, 4, 20]]);
    }
}
