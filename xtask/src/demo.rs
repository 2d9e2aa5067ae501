//! `cargo xtask demo`: the whole platform on loopback, with a real site on it and things to try.
//!
//! Builds the executable and the site's database, starts a legacy backend (nginx when it is installed, else a small server
//! of its own), serves `conf/quickstart.yaml` from one process, and the same site once more from a cluster: a primary,
//! control beside it, and three PoPs. It ends cleanly on Ctrl-C: the terminal sends the signal to all of them, and this process waits until they
//! have drained. Where one of them does not start, the others are ended.
//!
//! `SELVEDGE_EXE` names an executable to take instead of building one; `DATA_DIR` a folder to work in instead of
//! `target/demo`, with a `dictionary.db` in it.

mod cluster;
mod legacy;
mod running;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{data, tools};
use cluster::Cluster;
use running::Running;

pub(crate) fn run() -> Result<()> {
    let root = tools::workspace_root();
    let path = tools::path_with_cmake()?;
    let executable = executable(&path)?;
    let folder = folder(&root)?;
    let legacy = legacy::Legacy::start(&folder, &path)?;
    let ready = folder.join("ready.json");
    let _ = fs::remove_file(&ready);
    let mut command = Command::new(&executable);
    command
        .args(["run", "conf/quickstart.yaml", "--ready-file"])
        .arg(&ready)
        .env("DATA_DIR", &folder)
        .env("LEGACY_PORT", legacy.port().to_string())
        .current_dir(&root);
    let mut edge = Running::start("the edge", &mut command)?;
    ignore_interrupt();
    let addresses =
        wait_until_ready(&mut edge, &ready).context("set HTTP_PORT, HTTPS_PORT or ADMIN_PORT if a port is in use")?;
    let cluster = Cluster::start(&root, &executable, &folder)?;
    println!("{}", invitation(&addresses, &legacy)?);
    println!("{}", cluster_invitation(&cluster, &executable)?);
    edge.wait()?;
    cluster.wait()?;
    println!("stopped");
    Ok(())
}

fn executable(path: &OsString) -> Result<PathBuf> {
    if let Some(built) = env::var_os("SELVEDGE_EXE") {
        return Ok(built.into());
    }
    println!("building the executable; the first time takes some minutes");
    // What `cargo xtask test` builds too: another selection of targets would compile the dependencies once more.
    tools::run("cargo", &["build", "--workspace", "--all-targets", "--locked"], path)?;
    Ok(tools::target_dir()?.join("debug/selvedge"))
}

fn folder(root: &Path) -> Result<PathBuf> {
    if let Some(folder) = env::var_os("DATA_DIR") {
        return Ok(folder.into());
    }
    data::dictionary(&root.join("target"))?;
    Ok(root.join("target/demo"))
}

/// The edge gets the terminal's Ctrl-C itself and drains; this process must live until it has.
fn ignore_interrupt() {
    #[expect(unsafe_code, reason = "the standard library has no way to ignore a signal")]
    // SAFETY: ignoring a signal installs no handler, so nothing runs in a signal's context.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
    }
}

fn wait_until_ready(process: &mut Running, ready: &Path) -> Result<Value> {
    loop {
        if let Ok(text) = fs::read_to_string(ready) {
            return serde_json::from_str(&text).context("the ready file");
        }
        process.is_running()?;
        thread::sleep(Duration::from_millis(50));
    }
}

fn invitation(addresses: &Value, legacy: &legacy::Legacy) -> Result<String> {
    let listener = |tls: bool| {
        let listeners = addresses["listeners"].as_array().into_iter().flatten();
        let address = listeners.into_iter().find(|listener| listener["tls"] == tls);
        address
            .and_then(|listener| listener["address"].as_str())
            .context("a listener")
            .map(str::to_owned)
    };
    let (http, https) = (listener(false)?, listener(true)?);
    let admin = addresses["admin"].as_str().unwrap_or("(none)");
    let https = https.replace("127.0.0.1", "localhost");
    Ok(format!(
        "
  Lemma, a dictionary rendered at the edge, is served at

      http://{http}/        https://{https}/   (self-made certificate)
      legacy backend: {kind}, under http://{http}/legacy/
      admin:          http://{admin}/metrics, /routes, /readyz

  Three things to try

  1. A page is rendered once and then kept; after ten seconds it is served once more while it is made anew:
       curl -si http://{http}/word/selvedge | grep -i cache-status
  2. The shell of this page leaves before its data is there:
       curl -sN http://{http}/stream
  3. A handler that traps before it answered: the request goes to the legacy backend, and says so:
       curl -si http://{http}/fail/trap | grep -iE 'HTTP|proxy-status'
",
        kind = legacy.kind(),
    ))
}

fn cluster_invitation(cluster: &Cluster, executable: &Path) -> Result<String> {
    let address = |pop: usize| {
        let address = cluster.pops[pop]["listeners"][0]["address"].as_str();
        address.context("a PoP's address")
    };
    let (first, second, third) = (address(0)?, address(1)?, address(2)?);
    let primary = cluster.primary["agent"].as_str().context("the primary's address")?;
    let admin = cluster.pops[1]["admin"].as_str().context("a PoP's admin address")?;
    let (_, port) = first.rsplit_once(':').context("a PoP's port")?;
    let (control, key, executable) = (&cluster.control, cluster.key.display(), executable.display());
    Ok(format!(
        "  The same site from a cluster: a primary at {primary}, and three PoPs, each reading its own replica

      http://{first}/   http://{second}/   http://{third}/

  4. Write at one PoP, read at another: the cookie the first gives is a bookmark that the second honours.
       curl -s -c /tmp/jar -d 'word=dog&author=Ada&body=Barks+at+night' http://{first}/notes
       curl -s -b /tmp/jar 'http://{second}/notes?word=dog' | grep -c Barks
  5. Stop the primary (kill the `selvedge agent conf/primary.yaml`): reads go on, writes are refused with 503.
       curl -s http://{admin}/readyz

  6. Deploy something of your own to all three; control is at {control}:
       export SELVEDGE_CONTROL={control} SELVEDGE_TOKEN=$(cat {key})
       selvedge init shop --template static && cd shop && selvedge deploy
       curl -s http://shop.localhost:{port}/
     (`selvedge` is {executable})

  Change conf/quickstart.yaml and send its edge a SIGHUP to reload it. Ctrl-C stops everything.
"
    ))
}
