//! Processes of this executable that end when this one does.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::failed;
use crate::outcome::Failure;

/// Between two looks.
const WAIT: Duration = Duration::from_millis(50);
/// How long one may take to end by itself: longer than a drain's grace.
const ENDING: Duration = Duration::from_secs(10);

/// In the order they were started; ended in the other one. What is dropped is ended at once.
#[derive(Default)]
pub(super) struct Children {
    running: Vec<(String, Child)>,
}

impl Children {
    /// Runs `selvedge COMMAND FILE` and returns what it says of itself once it serves.
    pub(super) async fn start(
        &mut self,
        name: &str,
        command: &str,
        file: &Path,
        options: &[&OsStr],
    ) -> Result<Value, Failure> {
        let ready = file.with_file_name(format!("{command}.json"));
        let _ = std::fs::remove_file(&ready);
        let executable = std::env::current_exe().map_err(|error| failed("process", &error))?;
        let log = std::env::var("SELVEDGE_LOG").unwrap_or_else(|_| "warn".to_owned());
        let mut process = Command::new(executable);
        process
            .args(["--log", &log, command])
            .arg(file)
            .arg("--ready-file")
            .arg(&ready);
        // A terminal's Ctrl-C is for this process, which ends the others in their order.
        process
            .args(options)
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .process_group(0);
        let child = process.spawn().map_err(|error| failed("process", &error))?;
        self.running.push((format!("{name}'s `selvedge {command}`"), child));
        loop {
            self.all_run()?;
            let said = std::fs::read_to_string(&ready).ok();
            if let Some(said) = said.and_then(|text| serde_json::from_str(&text).ok()) {
                return Ok(said);
            }
            tokio::time::sleep(WAIT).await;
        }
    }

    /// Returns when one has ended.
    pub(super) async fn watch(&mut self) -> Result<(), Failure> {
        loop {
            self.all_run()?;
            tokio::time::sleep(WAIT).await;
        }
    }

    fn all_run(&mut self) -> Result<(), Failure> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait().map_err(|error| failed("process", &error))? {
                let failure = Failure::new("process", format!("{name} has ended: {status}"));
                return Err(failure.help("what it wrote stands above; all others are ended, too"));
            }
        }
        Ok(())
    }

    /// Ends them, the last one first, and waits for each.
    pub(super) async fn end(mut self) {
        while let Some((name, mut child)) = self.running.pop() {
            let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            let deadline = Instant::now() + ENDING;
            while told.is_ok() && Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                tokio::time::sleep(WAIT).await;
            }
            if matches!(child.try_wait(), Ok(None)) {
                tracing::warn!(name, "it does not end; it is killed");
            }
            kill(&mut child);
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.running.iter_mut().for_each(|(_, child)| kill(child));
    }
}

/// It may have ended already.
fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
