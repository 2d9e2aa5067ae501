//! One primary with control beside it, and three PoPs, each an agent and a proxy: the demo's site once more, from replicas,
//! and whatever is deployed.

use std::{
    ffi::OsString,
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
    /// Address of control.
    pub(super) control: String,
    /// The file with the owner's key.
    pub(super) key: PathBuf,
}

impl Cluster {
    pub(super) fn start(root: &Path, executable: &Path, folder: &Path) -> Result<Cluster> {
        let start = Start {
            root,
            executable,
            folder,
        };
        let (primary, ready) = start.process("primary", "agent", "conf/primary.yaml", &[], &[])?;
        let address = ready["agent"].as_str().context("the primary's address")?.to_owned();
        let key = folder.join("owner.key");
        let key_option = ["--key-file".into(), key.clone().into_os_string()];
        let (control, at) = start.process("primary", "control", "conf/primary.yaml", &[], &key_option)?;
        let control_url = format!("http://{}", at["control"].as_str().context("control's address")?);
        let mut processes = vec![primary, control];
        let mut pops = Vec::new();
        for number in 0..POPS {
            let name = format!("pop{}", number + 1);
            let environment = [
                ("POP", name.clone()),
                ("PRIMARY", format!("http://{address}")),
                ("CONTROL", control_url.clone()),
                ("JOIN_TOKEN", start.invite(&control_url, &key, &name)?),
                ("HTTP_PORT", (HTTP_PORT + number).to_string()),
                ("ADMIN_PORT", (ADMIN_PORT + number).to_string()),
            ];
            let (agent, _) = start.process(&name, "agent", "conf/pop.yaml", &environment, &[])?;
            let (proxy, ready) = start.process(&name, "run", "conf/pop.yaml", &environment, &[])?;
            processes.extend([agent, proxy]);
            pops.push(ready);
        }
        processes.reverse();
        Ok(Cluster {
            processes,
            pops,
            primary: ready,
            control: control_url,
            key,
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
    /// A token with which the PoP joins, or joins anew.
    fn invite(&self, control: &str, key: &Path, pop: &str) -> Result<String> {
        let key = fs::read_to_string(key).with_context(|| format!("{}: remove the demo's folder", key.display()))?;
        let mut command = Command::new(self.executable);
        command.args(["cluster", "invite", pop, "--json"]);
        command
            .env("SELVEDGE_CONTROL", control)
            .env("SELVEDGE_TOKEN", key.trim());
        let output = command.output().context("selvedge cluster invite")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let invitation: Value = serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?;
        Ok(invitation["token"].as_str().context("a join token")?.to_owned())
    }

    /// Starts `selvedge COMMAND FILE` with a folder of its own and waits until it serves.
    fn process(
        &self,
        name: &str,
        command: &str,
        file: &str,
        environment: &[(&str, String)],
        options: &[OsString],
    ) -> Result<(Running, Value)> {
        let data: PathBuf = self.folder.join(name);
        fs::create_dir_all(&data)?;
        let ready = data.join(format!("{command}.json"));
        let _ = fs::remove_file(&ready);
        let mut start = Command::new(self.executable);
        start
            .args(["--log", "warn", command, file, "--ready-file"])
            .arg(&ready)
            .args(options)
            .env("DATA_DIR", &data)
            .env("SEED", self.folder.join("dictionary.db"))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.root);
        let mut process = Running::start(&format!("{name}'s `selvedge {command}`"), &mut start)?;
        let ready = wait_until_ready(&mut process, &ready)?;
        Ok((process, ready))
    }
}
