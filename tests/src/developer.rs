//! A developer at a shell: runs the command line in a home of the test's own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::executable::executable;

pub struct Developer {
    folder: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn told(&self) -> String {
        self.stdout.clone() + &self.stderr
    }
}

impl Default for Developer {
    fn default() -> Developer {
        let folder = tempfile::tempdir().expect("a temporary directory");
        Developer { folder }
    }
}

impl Developer {
    /// Where the developer works.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// A file below the developer's folder.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let file = self.folder().join(path);
        std::fs::create_dir_all(file.parent().expect("it is in a folder")).expect("a folder");
        std::fs::write(file, text).expect("a file");
    }

    /// A command of `selvedge` in this home, which knows nothing of the machine's profiles.
    pub fn command(&self, folder: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(executable());
        command.args(arguments);
        self.at_home(folder, command)
    }

    /// Any command, in this home.
    pub fn at_home(&self, folder: &str, mut command: Command) -> Command {
        command.current_dir(self.folder().join(folder));
        command.env("XDG_CONFIG_HOME", self.home()).env("SELVEDGE_LOG", "warn");
        for name in ["SELVEDGE_TOKEN", "SELVEDGE_CONTROL", "SELVEDGE_PROFILE", "SELVEDGE_CA"] {
            command.env_remove(name);
        }
        command
    }

    pub async fn run(&self, folder: &str, arguments: &[&str], input: &str) -> Done {
        run(self.command(folder, arguments), input).await
    }

    /// What a command answers in JSON.
    pub async fn ask(&self, folder: &str, arguments: &[&str]) -> Value {
        let done = self.run(folder, &[arguments, &["--json"]].concat(), "").await;
        assert_eq!(done.status, 0, "{arguments:?}: {}", done.told());
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", done.stdout))
    }

    /// What a command says to a person.
    pub async fn say(&self, folder: &str, arguments: &[&str]) -> String {
        let done = self.run(folder, arguments, "").await;
        assert_eq!(done.status, 0, "{arguments:?}: {}", done.told());
        done.stdout
    }

    /// How a command refuses.
    pub async fn refused(&self, folder: &str, arguments: &[&str], expected: &[&str]) {
        let done = self.run(folder, arguments, "").await;
        assert_eq!(done.status, 1, "{arguments:?}: {}", done.told());
        for expected in expected {
            assert!(
                done.stderr.contains(expected),
                "{arguments:?}: {expected}: {}",
                done.stderr
            );
        }
    }
}

/// Off the test's own runtime: a test may answer what the command waits for.
pub async fn run(mut command: Command, input: &str) -> Done {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || -> std::io::Result<Output> {
        let mut child = command.spawn()?;
        let mut pipe = child.stdin.take().expect("it is piped");
        // A command that reads nothing may be gone.
        let _ = pipe.write_all(input.as_bytes());
        drop(pipe);
        child.wait_with_output()
    };
    let ran = tokio::task::spawn_blocking(run).await.expect("it does not panic");
    let output = ran.expect("it runs");
    Done {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
