//! One running agent: the real executable keeping databases, as the primary or as a replica of one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, Signal};
use crate::wait::wait_for;
use crate::{client, executable};

pub struct Agent {
    /// `None` while it is stopped.
    process: Option<Process>,
    config: PathBuf,
    environment: Vec<(String, String)>,
    address: Option<SocketAddr>,
    socket: PathBuf,
    directory: TempDir,
}

impl Agent {
    /// Runs the agent of `yaml`, which gets a data directory of the test's own unless it names one.
    pub async fn start(yaml: &str) -> Agent {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = directory.path().join("agent.yaml");
        let mut text = yaml.trim_end().to_owned() + "\n";
        if !text.lines().any(|line| line.starts_with("data_dir:")) {
            text.push_str("data_dir: ./data\n");
        }
        std::fs::write(&config, text).expect("writing the configuration");
        Agent::run(config, directory, Vec::new()).await
    }

    /// Runs the agent of a file where it stands.
    pub async fn start_file(config: &Path, environment: &[(&str, String)]) -> Agent {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        Agent::run(config.to_owned(), directory, environment.collect()).await
    }

    async fn run(config: PathBuf, directory: TempDir, environment: Vec<(String, String)>) -> Agent {
        let mut agent = Agent {
            process: None,
            config,
            environment,
            address: None,
            socket: PathBuf::new(),
            directory,
        };
        agent.resume().await;
        agent
    }

    /// Starts it again after [`Agent::kill`] or [`Agent::terminate`], with the files it left. Its port may be another,
    /// unless the configuration names one.
    pub async fn resume(&mut self) {
        let ready_file = self.directory.path().join("ready.json");
        let _ = std::fs::remove_file(&ready_file);
        let mut command = Command::new(executable::executable());
        command
            .arg("agent")
            .arg(&self.config)
            .arg("--ready-file")
            .arg(&ready_file)
            .envs(self.environment.iter().cloned());
        let mut process = Process::start(command, self.directory.path());
        let ready = wait_for("the agent to serve", async || {
            if let Ok(text) = std::fs::read_to_string(&ready_file) {
                return Some(text);
            }
            assert!(process.ended().is_none(), "the agent has ended: {}", process.describe());
            None
        })
        .await;
        let ready: Value = serde_json::from_str(&ready).expect("the ready file is JSON");
        self.address = ready["agent"].as_str().and_then(|text| text.parse().ok());
        self.socket = PathBuf::from(ready["socket"].as_str().expect("every agent has a socket"));
        self.process = Some(process);
    }

    /// Where other agents and clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("this agent listens")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Where the proxy of the same machine reaches it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The folder of its configuration and, unless that says otherwise, of its data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn log(&self) -> String {
        let process = self.process.as_ref().expect("it runs");
        process.stdout() + &process.stderr()
    }

    /// What it says of itself, asked on its socket.
    pub async fn status(&self) -> Value {
        self.ask("/v1/status").await
    }

    /// The answer to a GET on its socket.
    pub async fn ask(&self, path: &str) -> Value {
        let client = client::builder()
            .unix_socket(&*self.socket)
            .build()
            .expect("these settings make a client");
        let response = client
            .get(format!("http://agent{path}"))
            .send()
            .await
            .unwrap_or_else(|error| panic!("asking the agent for {path}: {error:?}"));
        response.json().await.expect("the agent answers in JSON")
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks it to end and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::Terminate);
        process.wait().await
    }
}
