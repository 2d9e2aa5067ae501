//! Node.js scripts with real packages, as `cargo xtask test` installs them.

use std::path::PathBuf;
use std::process::Command;

use crate::process::Process;
use crate::wait::within;
use crate::{executable, peer};

/// A folder of scripts below `tests/node`, its packages installed.
pub struct Node {
    program: PathBuf,
    scripts: PathBuf,
    installed: PathBuf,
}

impl Node {
    /// `None` tells the test to return: Node or the packages are missing.
    pub fn find(name: &str) -> Option<Node> {
        let program = peer::find("node")?;
        let installed = executable::repository()
            .join("target/tools")
            .join(format!("node-{name}"));
        if !installed.join("installed").is_file() {
            peer::skip(&format!(
                "{} has no packages; `cargo xtask test` installs them",
                installed.display()
            ));
            return None;
        }
        Some(Node {
            program,
            scripts: executable::repository().join("tests/node").join(name),
            installed,
        })
    }

    /// Runs a script to its end; panics with what it wrote when it fails.
    pub async fn run(&self, script: &str, environment: &[(&str, &str)]) {
        // Packages are looked for beside the script.
        let directory = tempfile::tempdir().expect("a temporary directory");
        for place in [&self.installed, &self.scripts] {
            let entries = place
                .read_dir()
                .unwrap_or_else(|error| panic!("{}: {error}", place.display()));
            for entry in entries {
                let entry = entry.expect("an entry of a directory");
                let link = directory.path().join(entry.file_name());
                if link.exists() {
                    std::fs::remove_file(&link).expect("removing a link");
                }
                std::os::unix::fs::symlink(entry.path(), &link).expect("linking into a temporary directory");
            }
        }
        let mut command = Command::new(&self.program);
        command
            .arg("--preserve-symlinks-main")
            .arg("--preserve-symlinks")
            .arg(directory.path().join(script))
            .envs(environment.iter().copied());
        let log = tempfile::tempdir().expect("a temporary directory");
        let mut process = Process::start(command, log.path());
        let status = within(script, process.wait()).await;
        assert!(status.success(), "{script} {environment:?} {}", process.describe());
    }
}
