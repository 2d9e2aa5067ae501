//! A whole platform of real processes: control beside the primary's agent, and PoPs, each an agent and a proxy.

use std::path::Path;

use tempfile::TempDir;

use crate::control::Control;
use crate::executable::repository;
use crate::wait::wait_for;
use crate::{Agent, Edge, client};

pub struct Platform {
    pub control: Control,
    pub primary: Agent,
    pub pops: Vec<Pop>,
    environment: Vec<(&'static str, String)>,
    directory: TempDir,
}

pub struct Pop {
    pub agent: Agent,
    pub edge: Edge,
    configuration: String,
}

impl Platform {
    /// The control plane of `conf/control.yaml` and this many PoPs that have joined it.
    pub async fn start(pops: usize) -> Platform {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let environment = vec![
            ("DATA_DIR", directory.path().join("data").display().to_string()),
            ("AGENT_PORT", "0".to_owned()),
            ("CONTROL_PORT", "0".to_owned()),
        ];
        let file = repository().join("conf/control.yaml");
        let primary = Agent::start_file(&file, &environment).await;
        let control = Control::start(&file, &environment, directory.path()).await;
        let mut platform = Platform {
            control,
            primary,
            pops: Vec::new(),
            environment,
            directory,
        };
        for number in 0..pops {
            platform.join(&format!("pop-{number}")).await;
        }
        platform
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// One more PoP.
    pub async fn join(&mut self, name: &str) {
        let token = self.control.invite().await;
        let pop = Pop::start(
            name,
            &self.primary.url(""),
            self.control.url(),
            &token,
            self.directory.path(),
        )
        .await;
        wait_for("the PoP to be heard", async || {
            let pops = self.control.done(reqwest::Method::GET, "/v1/pops", None).await;
            let pops = pops["items"].as_array().expect("a list");
            let heard = pops.iter().any(|pop| pop["name"] == name && !pop["seen_ms"].is_null());
            heard.then_some(())
        })
        .await;
        self.pops.push(pop);
    }

    /// Control again, after it was killed; on whatever port it gets.
    pub async fn resume_control(&mut self) {
        let file = repository().join("conf/control.yaml");
        let key = self.control.key().to_owned();
        self.control = Control::start(&file, &self.environment, self.directory.path()).await;
        self.control.use_key(&key);
    }
}

impl Pop {
    async fn start(name: &str, primary: &str, control: &str, token: &str, folder: &Path) -> Pop {
        let configuration = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\n\
             data_dir: {}\n\
             agent: {{ name: {name}, primary: \"{primary}\", token: only for trying things out }}\n\
             control: {{ url: \"{control}\", token: \"{token}\" }}\n\
             access_log: stdout\n",
            folder.join(name).display(),
        );
        Pop {
            agent: Agent::start(&configuration).await,
            edge: Edge::start(&configuration).await,
            configuration,
        }
    }

    /// Its file.
    pub fn configuration(&self) -> &str {
        &self.configuration
    }

    /// The proxy ends at once and starts again, with what is on its disk.
    pub async fn restart_proxy(&mut self) {
        self.edge.kill();
        self.edge = Edge::start(&self.configuration).await;
    }

    /// Status and text of a GET for a host of this PoP.
    pub async fn get(&self, host: &str, path: &str) -> (u16, String) {
        let response = self.ask(host, path, &[]).await;
        (response.status().as_u16(), response.text().await.unwrap_or_default())
    }

    pub async fn ask(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = client::client().get(self.edge.url(path)).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("the proxy answers")
    }
}
