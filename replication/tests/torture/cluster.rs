//! The processes under torture: one primary, two PoPs, each PoP's link to the primary, each site's disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use selvedge_tests::executable::executable;
use selvedge_tests::process::{Process, Signal};
use serde_json::Value;

use crate::disk::{self, Disk, Kind};
use crate::proxy::Proxy;
use crate::readers::Reader;
use crate::workload;

/// Each is a chain of its own in the one log.
pub(crate) const DATABASES: [&str; 2] = ["bank", "side"];
/// The primary is the first site.
pub(crate) const PRIMARY: usize = 0;
pub(crate) const SITES: usize = 3;
const NAMES: [&str; SITES] = ["primary", "pop-a", "pop-b"];

/// Only a broken agent needs longer to start or to answer.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) sites: Vec<Site>,
    plant: Option<&'static str>,
    http: reqwest::Client,
}

pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) disk: Disk,
    /// Its link to the primary; the primary has none.
    pub(crate) link: Option<Proxy>,
    /// Where it is reached while it runs; clients look here before each request.
    pub(crate) address: Arc<Mutex<Option<SocketAddr>>>,
    folder: PathBuf,
    process: Option<Process>,
    reader: Option<Reader>,
    starts: u32,
    violations: Arc<Mutex<Vec<Violation>>>,
}

/// What a reader saw that must not be seen.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) at: Instant,
    pub(crate) site: usize,
    pub(crate) text: String,
}

impl Cluster {
    /// Starts it and waits until every replica follows.
    pub(crate) async fn start(disks: [Kind; SITES], plant: Option<&'static str>) -> Result<Cluster, String> {
        let folder = disk::folder();
        for database in DATABASES {
            workload::make_seed(&folder.path().join(format!("{database}.db")));
        }
        let mut sites = Vec::new();
        for (index, kind) in disks.into_iter().enumerate() {
            let own = folder.path().join(NAMES[index]);
            sites.push(Site {
                name: NAMES[index],
                disk: Disk::make(kind, &own.join("data"))?,
                link: match index {
                    PRIMARY => None,
                    _ => Some(Proxy::start().await),
                },
                address: Arc::default(),
                folder: own,
                process: None,
                reader: None,
                starts: 0,
                violations: Arc::default(),
            });
        }
        let mut cluster = Cluster {
            folder,
            sites,
            plant,
            http: reqwest::Client::new(),
        };
        for site in 0..SITES {
            cluster.start_site(site).await?;
        }
        for site in 1..SITES {
            cluster
                .eventually("every replica follows", async |cluster| {
                    let status = cluster.status(site).await?;
                    let following = DATABASES.map(|name| {
                        let database = database_of(&status, name)?;
                        (database["state"] == "following").then_some(())
                    });
                    following.iter().all(Option::is_some).then_some(())
                })
                .await?;
        }
        Ok(cluster)
    }

    /// Starts a site's agent and its readers, and returns when the agent serves. An agent that ends instead is an error.
    pub(crate) async fn start_site(&mut self, index: usize) -> Result<(), String> {
        let configuration = self.configuration(index);
        let plant = self.plant;
        let site = &mut self.sites[index];
        if site.process.as_mut().is_some_and(|process| process.ended().is_none()) {
            return Ok(());
        }
        site.starts += 1;
        let logs = site.folder.join(format!("start-{}", site.starts));
        std::fs::create_dir_all(&logs).expect("a folder for logs");
        let (file, ready) = (logs.join("agent.yaml"), logs.join("ready.json"));
        std::fs::write(&file, configuration).expect("the configuration is written");
        let mut command = Command::new(executable());
        command.arg("agent").arg(&file).arg("--ready-file").arg(&ready);
        command.env_remove("SELVEDGE_PLANT");
        command.envs(plant.map(|plant| ("SELVEDGE_PLANT", plant)));
        let mut process = Process::start(command, &logs);
        let started = Instant::now();
        let ready = loop {
            if let Ok(text) = std::fs::read_to_string(&ready) {
                break text;
            }
            if process.ended().is_some() || started.elapsed() > PATIENCE {
                let said = format!("{} did not start: {}", site.name, process.describe());
                process.kill();
                return Err(said);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let ready: Value = serde_json::from_str(&ready).expect("the ready file is JSON");
        let address = ready["agent"].as_str().and_then(|address| address.parse().ok());
        *site.address.lock() = address;
        site.process = Some(process);
        if site.reader.is_none() {
            let reader = Reader::start(index, &site.socket(), Arc::clone(&site.violations));
            site.reader = Some(reader);
        }
        if index == PRIMARY {
            for site in &self.sites[1..] {
                site.link.as_ref().expect("a PoP has a link").lead_to(address);
            }
        }
        Ok(())
    }

    fn configuration(&self, index: usize) -> String {
        let site = &self.sites[index];
        let primary = match &site.link {
            None => String::new(),
            Some(link) => format!("primary: \"http://{}\", ", link.address),
        };
        let databases = DATABASES.map(|name| match index {
            PRIMARY => {
                let seed = self.folder.path().join(format!("{name}.db"));
                format!("  {name}: {{ seed: \"{}\" }}\n", seed.display())
            }
            _ => format!("  {name}: {{}}\n"),
        });
        format!(
            "data_dir: \"{data}\"\nagent: {{ name: {name}, data_dir: \"{data}\", socket: \"{socket}\", listen: \"127.0.0.1:0\", \
             {primary}token: torture, write_timeout: 3s, scrub_interval: 1s, queue: {{ rows: 64 }} }}\ndatabases:\n{databases}",
            data = site.disk.path.display(),
            name = site.name,
            socket = site.socket().display(),
            databases = databases.concat(),
        )
    }

    /// Everything the agent says of itself; `None` when it does not answer.
    pub(crate) async fn status(&self, site: usize) -> Option<Value> {
        let address = (*self.sites[site].address.lock())?;
        let request = self.http.get(format!("http://{address}/v1/status"));
        let response = request
            .bearer_auth("torture")
            .timeout(Duration::from_secs(2))
            .send()
            .await
            .ok()?;
        response.json().await.ok()
    }

    /// Waits until `condition` yields a value.
    pub(crate) async fn eventually<T>(
        &self,
        what: &str,
        condition: impl AsyncFn(&Cluster) -> Option<T>,
    ) -> Result<T, String> {
        let started = Instant::now();
        loop {
            if let Some(value) = condition(self).await {
                return Ok(value);
            }
            if started.elapsed() > PATIENCE {
                let mut said = format!("waited {PATIENCE:?} in vain: {what}");
                for site in 0..SITES {
                    let status = self.status(site).await.unwrap_or_default();
                    said += &format!("\n{}: {status}", self.sites[site].name);
                }
                return Err(said);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What readers have seen so far.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.sites
            .iter()
            .flat_map(|site| site.violations.lock().clone())
            .collect()
    }

    /// How often readers have looked.
    pub(crate) fn reads(&self) -> u64 {
        self.sites
            .iter()
            .filter_map(|site| site.reader.as_ref())
            .map(Reader::reads)
            .sum()
    }

    /// All that the agents have logged, for the text of a failure.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for site in &self.sites {
            for start in 1..=site.starts {
                let path = site.folder.join(format!("start-{start}/stderr.log"));
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                all += &format!("--- {} start {start}\n{text}", site.name);
            }
        }
        all
    }
}

impl Site {
    pub(crate) fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        *self.address.lock() = None;
        self.process = None;
    }

    /// SIGTERM, and SIGKILL when that does not help.
    pub(crate) async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::Terminate);
            let ended = async {
                while process.ended().is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(8), ended).await;
        }
        self.kill();
    }

    /// What there is to say when the agent has ended and nobody has told it to.
    pub(crate) fn ended_by_itself(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        process.ended()?;
        let said = format!("{} ended by itself: {}", self.name, process.describe());
        self.kill();
        Some(said)
    }

    /// Readers forget what they have seen; the next start has new ones.
    pub(crate) fn end_reader(&mut self) {
        self.reader = None;
    }

    /// A folder of its own below the data's: the current file of a database.
    pub(crate) fn file_of(&self, database: &str) -> Option<PathBuf> {
        let folder = self.disk.path.join("databases").join(database);
        let name = std::fs::read_to_string(folder.join("current")).ok()?;
        Some(folder.join(name.trim()))
    }

    pub(crate) fn log_folder(&self) -> PathBuf {
        self.disk.path.join("log")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Before the disks are unmounted.
        for site in &mut self.sites {
            site.end_reader();
            site.kill();
        }
    }
}

pub(crate) fn database_of<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["databases"]
        .as_array()?
        .iter()
        .find(|database| database["database"] == name)
}

/// The `-wal` file of a database file.
pub(crate) fn wal_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}
