//! One primary and three PoPs, each an agent and a proxy: the demo's site once more, from replicas.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{running::Running, wait_until_ready};

const POPS: u16 = 3;
/// The first PoP's ports are one above the single machine's.
const HTTP_PORT: u16 = 8081;
const ADMIN_PORT: u16 = 9181;

pub(super) struct Cluster {
    /// In the order they are to end: proxies, their agents, the primary.
    processes: Vec<Running>,
    /// What each PoP's proxy says of itself.
    pub(super) pops: Vec<Value>,
    /// What the primary says of itself.
    pub(super) primary: Value,
}

impl Cluster {
    pub(super) fn start(root: &Path, executable: &Path, folder: &Path) -> Result<Cluster> {
        let start = Start {
            root,
            executable,
            folder,
        };
        let (primary, ready) = start.process("primary", "agent", "conf/primary.yaml", &[])?;
        let address = ready["agent"].as_str().context("the primary's address")?.to_owned();
        let mut processes = vec![primary];
        let mut pops = Vec::new();
        for number in 0..POPS {
            let name = format!("pop{}", number + 1);
            let environment = [
                ("POP", name.clone()),
                ("PRIMARY", format!("http://{address}")),
                ("HTTP_PORT", (HTTP_PORT + number).to_string()),
                ("ADMIN_PORT", (ADMIN_PORT + number).to_string()),
            ];
            let (agent, _) = start.process(&name, "agent", "conf/pop.yaml", &environment)?;
            let (proxy, ready) = start.process(&name, "run", "conf/pop.yaml", &environment)?;
            processes.extend([agent, proxy]);
            pops.push(ready);
        }
        processes.reverse();
        Ok(Cluster {
            processes,
            pops,
            primary: ready,
        })
    }

    /// Waits until all have ended, as the terminal has told them to.
    pub(super) fn wait(self) -> Result<()> {
        self.processes.into_iter().try_for_each(Running::wait)
    }
}

struct Start<'a> {
    root: &'a Path,
    executable: &'a Path,
    folder: &'a Path,
}

impl Start<'_> {
    /// Starts `selvedge COMMAND FILE` with a folder of its own and waits until it serves.
    fn process(
        &self,
        name: &str,
        command: &str,
        file: &str,
        environment: &[(&str, String)],
    ) -> Result<(Running, Value)> {
        let data: PathBuf = self.folder.join(name);
        fs::create_dir_all(&data)?;
        let ready = data.join(format!("{command}.json"));
        let _ = fs::remove_file(&ready);
        let mut start = Command::new(self.executable);
        start
            .args(["--log", "warn", command, file, "--ready-file"])
            .arg(&ready)
            .env("DATA_DIR", &data)
            .env("SEED", self.folder.join("dictionary.db"))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.root);
        let mut process = Running::start(&format!("{name}'s `selvedge {command}`"), &mut start)?;
        let ready = wait_until_ready(&mut process, &ready)?;
        Ok((process, ready))
    }
}
