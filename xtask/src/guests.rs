//! `cargo xtask guests`: rebuilds the components that the tests and the demo run.
//!
//! Sources and components are committed side by side, so that a test run needs no wasm toolchain. `guests.lock` holds a
//! digest of each guest's sources and of its component: a test run fails when a source changed and its component did not.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::tools;

/// Cargo package, folders of its sources, component. All relative to the root.
const GUESTS: &[(&str, &[&str], &str)] = &[
    (
        "probe-p2",
        &["tests/guests/probe", "tests/guests/probe-p2", "tests/guests/wit"],
        "tests/guests/probe-p2.wasm",
    ),
    (
        "probe-p3",
        &["tests/guests/probe", "tests/guests/probe-p3", "tests/guests/wit"],
        "tests/guests/probe-p3.wasm",
    ),
    ("not-http", &["tests/guests/not-http"], "tests/guests/not-http.wasm"),
    ("hello-p2", &["tests/guests/hello-p2"], "tests/guests/hello-p2.wasm"),
    (
        "unknown-import",
        &["tests/guests/unknown-import"],
        "tests/guests/unknown-import.wasm",
    ),
    ("spin-app", &["tests/guests/spin-app"], "tests/guests/spin-app.wasm"),
    ("pg-app", &["tests/guests/pg-app"], "tests/guests/pg-app.wasm"),
    (
        "dictionary",
        &["examples/dictionary/handler"],
        "examples/dictionary/dictionary.wasm",
    ),
];
const LOCK: &str = "tests/guests/guests.lock";
const TARGET: &str = "wasm32-wasip2";

pub(crate) fn rebuild() -> Result<()> {
    let path = tools::path_with_cmake()?;
    let root = tools::workspace_root();
    tools::run("rustup", &["target", "add", TARGET], &path)
        .context("the guests are built with rustup's target wasm32-wasip2")?;
    let target = tools::target_dir()?.join("guests");
    for folder in ["tests/guests", "examples/dictionary/handler"] {
        let manifest = format!("{folder}/Cargo.toml");
        let target = target.display().to_string();
        let arguments = [
            "build",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "--manifest-path",
            &manifest,
            "--target-dir",
            &target,
        ];
        tools::run("cargo", &arguments, &path)?;
    }
    for (package, _, component) in GUESTS {
        let built = target
            .join(TARGET)
            .join("release")
            .join(package.replace('-', "_") + ".wasm");
        fs::copy(&built, root.join(component)).with_context(|| format!("copying {}", built.display()))?;
    }
    fs::write(root.join(LOCK), lock()?)?;
    println!("wrote {LOCK}");
    Ok(())
}

/// Fails when a committed component is not the one its sources were last built to.
pub(crate) fn check() -> Result<()> {
    let committed = fs::read_to_string(tools::workspace_root().join(LOCK)).unwrap_or_default();
    let now = lock()?;
    let stale: Vec<&str> = now
        .lines()
        .filter(|line| !committed.lines().any(|other| other == *line))
        .collect();
    if !stale.is_empty() {
        bail!(
            "these guests or their components changed; run `cargo xtask guests`:\n{}",
            stale.join("\n")
        );
    }
    println!("guests were not rebuilt: their committed components are those of their sources");
    Ok(())
}

fn lock() -> Result<String> {
    let root = tools::workspace_root();
    let mut text =
        String::from("# package, SHA-256 of its sources, SHA-256 of its component; written by `cargo xtask guests`\n");
    for (package, folders, component) in GUESTS {
        let mut hasher = Sha256::new();
        for folder in *folders {
            for file in sources(&root.join(folder))? {
                let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
                hasher.update(name.as_bytes());
                hasher.update([0]);
                hasher.update(fs::read(&file)?);
            }
        }
        let sources = hasher.finalize();
        let component = Sha256::digest(fs::read(root.join(component)).with_context(|| (*component).to_owned())?);
        writeln!(text, "{package} {} {}", hex(&sources), hex(&component))?;
    }
    Ok(text)
}

/// What decides how a guest behaves: Rust, WIT and manifests, sorted; not what was built from them.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(sources(&path)?);
        } else if path
            .extension()
            .is_some_and(|kind| kind == "rs" || kind == "wit" || kind == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
