//! One running edge: the real executable serving a configuration file of the test's own.
//!
//! A test writes only what it is about. A configuration without `listeners`, `admin` or `data_dir` gets a loopback
//! listener, a loopback admin listener (both on free ports) and a directory inside the test's own, appended at the end so
//! that line numbers stay true.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, Signal};
use crate::wait::{wait_for, wait_until};
use crate::{client, executable};

/// The metric that counts the configurations a running edge has taken, the first included.
const GENERATION: &str = "selvedge_config_generation";

pub struct Edge {
    process: Process,
    ready: Ready,
    config: PathBuf,
    directory: TempDir,
}

/// What the executable says of itself in its ready file, once it serves.
#[derive(Clone, Debug)]
struct Ready {
    listeners: Vec<Listener>,
    admin: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Listener {
    address: SocketAddr,
    tls: bool,
}

/// An edge that ended instead of serving.
#[derive(Debug)]
pub struct Refused {
    pub status: ExitStatus,
    /// Standard output and error, in this order.
    pub log: String,
}

/// An edge about to be started.
pub struct Setup {
    directory: TempDir,
    config: PathBuf,
    environment: Vec<(String, String)>,
    options: Vec<String>,
}

impl Edge {
    /// Serves `yaml`; panics with the log when it does not come up.
    pub async fn start(yaml: &str) -> Edge {
        Edge::configure(yaml).start().await
    }

    /// Serves a file where it stands, as it is.
    pub async fn start_file(path: impl AsRef<Path>) -> Edge {
        Edge::configure_file(path).start().await
    }

    /// A configuration to which files and environment variables can be added before it is served.
    pub fn configure(yaml: &str) -> Setup {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = directory.path().join("edge.yaml");
        std::fs::write(&config, complete(yaml)).expect("writing the configuration");
        Setup {
            directory,
            config,
            environment: Vec::new(),
            options: Vec::new(),
        }
    }

    pub fn configure_file(path: impl AsRef<Path>) -> Setup {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Setup {
            directory,
            config: path.as_ref().to_owned(),
            environment: Vec::new(),
            options: Vec::new(),
        }
    }

    /// Where the configuration lies; relative paths in it start here.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The address of the first listener without TLS.
    pub fn address(&self) -> SocketAddr {
        self.listener(false)
    }

    /// The address of the first listener with TLS.
    pub fn tls_address(&self) -> SocketAddr {
        self.listener(true)
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.ready.admin.expect("this configuration has an admin listener")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// With the name `localhost`, since certificates name no address.
    pub fn https_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.tls_address().port())
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin_address())
    }

    fn listener(&self, tls: bool) -> SocketAddr {
        let listener = self.ready.listeners.iter().find(|listener| listener.tls == tls);
        listener
            .unwrap_or_else(|| panic!("no listener with tls: {tls} among {:?}", self.ready.listeners))
            .address
    }

    /// The answer to a plain GET.
    pub async fn get(&self, path: &str) -> reqwest::Response {
        client::get(&self.url(path)).await
    }

    /// Everything the edge wrote so far, standard output first.
    pub fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// Waits until the log contains `text`.
    pub async fn logs(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), || self.log().contains(text)).await;
    }

    /// The access log so far: one object a request, oldest first.
    pub fn access_log(&self) -> Vec<Value> {
        let log = self.log();
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries
            .filter(|entry| entry["status"].is_u64() && entry["method"].is_string())
            .collect()
    }

    /// The access log as soon as it holds `count` entries: an entry is written after its response has left.
    pub async fn access_log_of(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} entries in the access log"), async || {
            Some(self.access_log()).filter(|entries| entries.len() >= count)
        })
        .await
    }

    /// The metrics page of the admin listener.
    pub async fn metrics(&self) -> String {
        client::get(&self.admin_url("/metrics"))
            .await
            .text()
            .await
            .expect("the metrics page is text")
    }

    /// One sample of the metrics page by its whole name with labels as printed; `None` while it does not exist.
    pub async fn metric(&self, sample: &str) -> Option<f64> {
        let metrics = self.metrics().await;
        let line = metrics
            .lines()
            .find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Replaces the configuration and waits until it serves. For one that will be refused, see [`Edge::rewrite`].
    pub async fn reload(&mut self, yaml: &str) {
        let before = self.generation().await;
        self.rewrite(yaml);
        self.signal(Signal::HangUp);
        wait_for("the new configuration", async || {
            (self.generation().await > before).then_some(())
        })
        .await;
    }

    /// Replaces the configuration file; the edge is not told.
    pub fn rewrite(&self, yaml: &str) {
        std::fs::write(&self.config, complete(yaml)).expect("writing the configuration");
    }

    async fn generation(&self) -> f64 {
        self.metric(GENERATION)
            .await
            .unwrap_or_else(|| panic!("the metrics page has {GENERATION}"))
    }

    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Asks the edge to end gracefully and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::Terminate);
        self.process.wait().await
    }

    /// Waits until the edge has ended, by a signal sent before or by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        self.process.wait().await
    }

    /// Ends the edge at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
    }
}

impl Setup {
    /// Where the files lie; relative paths in the configuration start here.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts a file beside the configuration.
    pub fn file(self, path: &str, contents: impl AsRef<[u8]>) -> Setup {
        let path = self.directory.path().join(path);
        let parent = path.parent().expect("a file has a directory");
        std::fs::create_dir_all(parent).expect("making a directory in a temporary directory");
        std::fs::write(path, contents).expect("writing a file in a temporary directory");
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Setup {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// A further option of `selvedge run`.
    pub fn option(mut self, option: &str) -> Setup {
        self.options.push(option.to_owned());
        self
    }

    /// Starts the executable and waits until it serves; panics with the log when it ends instead.
    pub async fn start(self) -> Edge {
        match self.try_start().await {
            Ok(edge) => edge,
            Err(refused) => panic!(
                "the edge ended with {} instead of serving:\n{}",
                refused.status, refused.log
            ),
        }
    }

    /// Starts the executable and waits until it serves or has ended.
    pub async fn try_start(self) -> Result<Edge, Refused> {
        let Setup {
            directory,
            config,
            environment,
            options,
        } = self;
        let ready_file = directory.path().join("ready.json");
        let mut command = Command::new(executable::executable());
        command
            .arg("run")
            .arg(&config)
            .arg("--ready-file")
            .arg(&ready_file)
            .args(options)
            .envs(environment);
        let mut process = Process::start(command, directory.path());
        let ready = wait_for("the edge to serve", async || {
            if let Ok(text) = std::fs::read_to_string(&ready_file) {
                return Some(Ok(Ready::parse(&text)));
            }
            process.ended().map(Err)
        })
        .await;
        match ready {
            Ok(ready) => Ok(Edge {
                process,
                ready,
                config,
                directory,
            }),
            Err(status) => Err(Refused {
                status,
                log: process.stdout() + &process.stderr(),
            }),
        }
    }
}

impl Ready {
    fn parse(text: &str) -> Ready {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
        let address = |value: &Value| value.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        let listeners = value["listeners"]
            .as_array()
            .unwrap_or_else(|| panic!("no listeners in {text}"));
        let listener = |value: &Value| Listener {
            address: address(&value["address"]).unwrap_or_else(|| panic!("a listener without address in {text}")),
            tls: value["tls"]
                .as_bool()
                .unwrap_or_else(|| panic!("a listener without tls in {text}")),
        };
        Ready {
            listeners: listeners.iter().map(listener).collect(),
            admin: address(&value["admin"]),
        }
    }
}

/// `yaml` with the parts every edge needs and a test rarely cares for.
fn complete(yaml: &str) -> String {
    let mut text = yaml.trim_end().to_owned() + "\n";
    let defaults = [
        ("listeners:", "listeners: [{ address: 127.0.0.1:0 }]\n"),
        ("admin:", "admin: { address: 127.0.0.1:0 }\n"),
        ("data_dir:", "data_dir: ./data\n"),
    ];
    for (key, default) in defaults {
        if !yaml.lines().any(|line| line.starts_with(key)) {
            text.push_str(default);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::complete;

    #[test]
    fn a_configuration_gets_only_what_it_lacks() {
        let completed = complete("admin: { address: 127.0.0.1:9 }\nroutes: []");
        let expected =
            "admin: { address: 127.0.0.1:9 }\nroutes: []\nlisteners: [{ address: 127.0.0.1:0 }]\ndata_dir: ./data\n";
        assert_eq!(completed, expected);
    }
}
