//! The executable under test: the one `SELVEDGE_EXE` names, else built once from the working tree.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The path of `selvedge`, built in the profile and the target directory this test was built in.
pub fn executable() -> &'static Path {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(|| match std::env::var_os("SELVEDGE_EXE") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is a directory of the repository")
}

fn build() -> PathBuf {
    // TARGET/PROFILE/deps/this-test, or TARGET/PROFILE/examples/that-example
    let test = std::env::current_exe().expect("a running test knows its path");
    let profile = test.ancestors().nth(2).expect("a test lies in TARGET/PROFILE/deps");
    let target = profile.parent().expect("TARGET/PROFILE has a parent");
    let profile = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let output = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            "selvedge",
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(repository())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs where cargo built this test");
    assert!(output.status.success(), "cargo build --package selvedge failed");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "selvedge")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where it put the executable")
}
