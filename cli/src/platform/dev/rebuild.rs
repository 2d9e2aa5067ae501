//! From a change to what serves: built, databases migrated, and put in place of what served before.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use selvedge_replication::client::AgentClient;
use selvedge_replication::migrate;
use serde_json::{Value, json};

use super::super::edge_file::EdgeFile;
use super::super::project::{self, Found};
use super::super::{Reach, build, files};
use super::watch::Watched;
use super::{SECRETS, environment, failed, say, write_private};
use crate::outcome::Failure;

/// Between two looks at the files; a change is taken once two looks have seen the same.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// Between two looks at what runs.
const WAIT: Duration = Duration::from_millis(20);
/// A reload compiles components.
const RELOADING: Duration = Duration::from_secs(10 * 60);

/// What rebuilds the project while it serves.
pub(super) struct Rebuilding<'a> {
    pub(super) reach: &'a Reach,
    pub(super) folder: &'a Path,
    /// The folder of what is generated.
    pub(super) state: &'a Path,
    /// What the proxy serves.
    pub(super) file: &'a Path,
    /// Where the proxy says that it serves.
    pub(super) ready_file: &'a Path,
    /// The file's lines that are not the project's.
    pub(super) head: Vec<String>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) databases: Arc<AgentClient>,
    /// Becomes true when the proxy has ended.
    pub(super) ending: Arc<AtomicBool>,
}

/// Where the proxy is.
struct Proxy {
    url: String,
    admin: String,
}

impl Rebuilding<'_> {
    /// Until the proxy has ended.
    pub(super) fn run(&self) {
        let Some(proxy) = self.proxy() else { return };
        let url = &proxy.url;
        self.say(&format!("serving at {url}"), &json!({ "event": "serving", "url": url }));
        let mut watched = Watched::nothing_but_the_file(self.folder);
        let mut is_first = true;
        while !self.is_ending() {
            let started = Instant::now();
            // What changes while it is built is a change; what the build makes is none.
            let found = project::find(self.reach);
            if let Ok(found) = &found {
                watched = Watched::of(found);
            }
            let mut seen = watched.inputs();
            let outcome = found.and_then(|found| self.rebuild(&found, &proxy));
            seen.extend(watched.outputs());
            if self.is_ending() {
                return;
            }
            match outcome {
                Ok(()) => {
                    let ms = started.elapsed().as_millis();
                    self.say(&format!("rebuilt in {ms} ms"), &json!({ "event": "rebuilt", "ms": ms }));
                }
                Err(failure) => {
                    failure.show(self.reach.json);
                    let text = "nothing has changed; what served before serves on";
                    self.say(text, &json!({ "event": "failed", "code": failure.code() }));
                }
            }
            if is_first {
                let names = watched.names();
                let text = format!("watching {}; Ctrl-C ends it", names.join(", "));
                self.say(&text, &json!({ "event": "watching", "paths": names }));
                is_first = false;
            }
            self.change(&watched, seen);
        }
    }

    fn say(&self, text: &str, json: &Value) {
        say(self.reach.json, text, json);
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Once it accepts.
    fn proxy(&self) -> Option<Proxy> {
        while !self.is_ending() {
            let ready = std::fs::read_to_string(self.ready_file).ok();
            let ready: Option<Value> = ready.and_then(|text| serde_json::from_str(&text).ok());
            if let Some(ready) = ready {
                let at = |address: &Value| format!("http://{}", address.as_str().unwrap_or_default());
                return Some(Proxy {
                    url: at(&ready["listeners"][0]["address"]),
                    admin: at(&ready["admin"]),
                });
            }
            std::thread::sleep(WAIT);
        }
        None
    }

    /// Returns after a change, or when the proxy has ended.
    fn change(&self, watched: &Watched, seen: super::watch::Seen) {
        let mut before = seen.clone();
        while !self.is_ending() {
            std::thread::sleep(LOOK_AGAIN);
            let now = watched.all();
            if now != seen && now == before {
                return;
            }
            before = now;
        }
    }

    fn rebuild(&self, found: &Found, proxy: &Proxy) -> Result<(), Failure> {
        if let Some(command) = &found.project.build.command {
            self.build(found, command)?;
        }
        files::collect(found)?;
        let variables = environment::read(self.folder)?;
        let variables = environment::placed(&variables, self.state)?;
        let edge = EdgeFile::of(found, &self.head, &variables);
        self.runtime.block_on(async {
            self.migrate(found).await?;
            write_private(self.file, edge.text())?;
            self.reload(found, &edge, proxy).await
        })
    }

    /// The project's command, which ends when the proxy does.
    fn build(&self, found: &Found, command: &str) -> Result<(), Failure> {
        eprintln!("$ {command}");
        let mut shell = build::shell(found, command);
        let mut running = shell
            .process_group(0)
            .spawn()
            .map_err(|error| build::no_shell(&error))?;
        loop {
            match running.try_wait().map_err(|error| build::no_shell(&error))? {
                Some(status) => return build::judge(command, status),
                None if self.is_ending() => {
                    // The whole group: a compiler does not end with its shell.
                    let group = format!("-{}", running.id());
                    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
                    let _ = running.wait();
                    return Err(Failure::new("build", "ended"));
                }
                None => std::thread::sleep(WAIT),
            }
        }
    }

    /// Databases that are not there are made, and have every migration.
    async fn migrate(&self, found: &Found) -> Result<(), Failure> {
        for (name, database) in &found.project.document.config.databases {
            let at = |error: &dyn std::error::Error| {
                let failure = failed("database", error);
                let text = format!("the database {name}: {}", failure.message());
                Failure::new("database", text).help(
                    "a migration that was applied cannot change; without .selvedge/dev every database begins anew",
                )
            };
            self.databases.create_database(name).await.map_err(|error| at(&error))?;
            let Some(folder) = &database.migrations else { continue };
            let read = migrate::read_files(folder).map_err(|error| at(&error))?;
            let files: Vec<_> = read.values().map(|file| (file.file(), file.sql())).collect();
            self.databases
                .rehearse(name, &files)
                .await
                .map_err(|error| at(&error))?;
            self.databases.migrate(name, &files).await.map_err(|error| at(&error))?;
        }
        Ok(())
    }

    /// What served before serves on if this fails. Pages that it made are gone otherwise.
    async fn reload(&self, found: &Found, edge: &EdgeFile, proxy: &Proxy) -> Result<(), Failure> {
        let http = reqwest::Client::builder().no_proxy().timeout(RELOADING).build();
        let http = http.map_err(|error| failed("dev", &error))?;
        let post = async |path: &str, body: Value| {
            let answer = http.post(format!("{}{path}", proxy.admin)).json(&body).send().await;
            let answer = answer.map_err(|error| failed("dev", &error))?;
            let status = answer.status();
            let problem: Value = answer.json().await.unwrap_or_default();
            Ok::<_, Failure>((status.is_success(), problem))
        };
        let (is_done, problem) = post("/reload", json!({})).await?;
        if !is_done {
            // The proxy names a key of the generated file.
            let why = problem["detail"].as_str().unwrap_or_default();
            let why = why.replace("`secrets_dir`", SECRETS);
            return Err(edge.explain(found, &self.file.display().to_string(), &why));
        }
        post("/purge", json!({ "everything": true })).await.map(drop)
    }
}
