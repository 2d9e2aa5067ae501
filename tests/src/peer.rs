//! Real peers from their packages: found, or the test is skipped aloud.
//!
//! A skipped test says so on its output and in the file `SELVEDGE_SKIPPED` names, from which `cargo xtask test` counts.
//! Where `CI` is set nothing is skipped: there a missing peer is a failure, since it can be installed.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The path of an installed program; `None` tells the test to return.
///
/// ```no_run
/// let Some(h2load) = selvedge_tests::peer::find("h2load") else { return };
/// ```
///
/// # Panics
/// When the program is missing and `CI` is set.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = on_path(program);
    if path.is_none() {
        skip(&format!("{program} is not installed"));
    }
    path
}

/// Notes that the running test is skipped, and why.
///
/// # Panics
/// Where `CI` is set.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(!is_ci(), "{test} cannot be skipped in CI: {reason}");
    println!("SKIPPED {test}: {reason}");
    let Some(list) = std::env::var_os("SELVEDGE_SKIPPED") else {
        return;
    };
    let list = std::fs::OpenOptions::new().create(true).append(true).open(list);
    list.and_then(|mut list| list.write_all(format!("{test}: {reason}\n").as_bytes()))
        .expect("noting a skipped test");
}

/// The dictionary that `cargo xtask data` builds for the demo; `None` tells the test to return.
///
/// # Panics
/// When it is missing and `CI` is set.
pub fn dictionary() -> Option<PathBuf> {
    let path = crate::executable::repository().join("target/demo/dictionary.db");
    if !path.exists() {
        skip("there is no target/demo/dictionary.db; `cargo xtask data` builds it");
        return None;
    }
    Some(path)
}

fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

/// Looks where the shell would, and where Debian puts servers.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    directories
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
