//! Every dependency has a sentence, and none is older than its last known advisory.

use std::fs;

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
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
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
    fn locked_versions_are_read() {
        let lock =
            "[[package]]\nname = \"h2\"\nversion = \"0.4.20\"\n\n[[package]]\nname = \"h2-x\"\nversion = \"9.0.0\"\n";
        assert_eq!(versions(lock, "h2"), [[0, 4, 20]]);
    }
}
