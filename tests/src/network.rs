//! A network of its own: loopback and nothing else, so that fixed ports are free and every process in it is known.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::peer;
use crate::process::Process;
use crate::wait::wait_for;

#[derive(Debug)]
pub struct Network {
    /// Keeps the namespace; it runs nothing but `sleep`.
    holder: Process,
    nsenter: PathBuf,
    _directory: TempDir,
}

impl Network {
    /// `None` when this machine does not allow it and the test is to be skipped. It takes root: a user namespace would
    /// do, but not for servers that give their files to another user, as nginx does when it believes that it is root.
    pub async fn start() -> Option<Network> {
        let (unshare, nsenter) = (peer::find("unshare")?, peer::find("nsenter")?);
        peer::find("ip")?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(unshare);
        command
            .args(["--net", "sh", "-c"])
            .arg("PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && echo up && exec sleep infinity");
        let mut holder = Process::start(command, directory.path());
        let up = wait_for("a network", async || {
            if holder.stdout().contains("up") {
                return Some(true);
            }
            holder.ended().map(|_| false)
        })
        .await;
        if !up {
            peer::skip(&format!("no network of its own: {}", holder.stderr()));
            return None;
        }
        Some(Network {
            holder,
            nsenter,
            _directory: directory,
        })
    }

    /// `program`, to be run here.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.nsenter);
        command
            .arg(format!("--target={}", self.holder.id()))
            .args(["--net", "--"])
            .arg(program);
        command
    }

    /// What still runs here, as it was called.
    pub fn processes(&self) -> Vec<String> {
        let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
        let holder = PathBuf::from(format!("/proc/{}", self.holder.id()));
        let ours = namespace(&holder).expect("the holder runs");
        let processes = fs::read_dir("/proc").expect("Linux has /proc").flatten();
        processes
            .map(|entry| entry.path())
            .filter(|process| *process != holder && namespace(process).is_some_and(|theirs| theirs == ours))
            .filter_map(|process| fs::read(process.join("cmdline")).ok())
            .filter(|line| !line.is_empty())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .collect()
    }
}
