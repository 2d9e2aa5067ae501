//! Control over a real socket, its databases kept by a real agent.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::SocketAddr;
use std::path::Path;

use reqwest::{Method, StatusCode};
use selvedge_control::{ControlSettings, Started};
use selvedge_replication::agent::{Agent, AgentSettings, Role};
use selvedge_replication::client::{AgentClient, Thresholds};
use selvedge_replication::{Statement, Value as Sql};
use selvedge_schema::{Sites, TextFormat};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) agent: Option<Agent>,
    pub(crate) control: Option<Running>,
    /// The owner's.
    pub(crate) key: String,
    allow_private_webhooks: bool,
}

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) ended: tokio::task::JoinHandle<()>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{} {}", self.status, self.text))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        match self.text.is_empty() {
            true => Value::Null,
            false => self.json(),
        }
    }

    /// A problem of this type, which says what is wrong.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{}",
            self.text
        );
        let problem = self.expect(status);
        assert_eq!(problem["type"], format!("urn:selvedge:problem:{code}"));
        assert_eq!(problem["status"], status);
        assert!(
            problem["detail"].is_string() && problem["title"].is_string(),
            "{problem}"
        );
        problem
    }
}

pub(crate) async fn agent(folder: &Path) -> Agent {
    Agent::start(AgentSettings::new("primary", Role::Primary, folder.join("agent")))
        .await
        .unwrap()
}

pub(crate) fn settings(folder: &Path) -> ControlSettings {
    ControlSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        tls: None,
        agent_socket: folder.join("agent/agent.sock"),
        agent_data_dir: folder.join("agent"),
        artifacts: folder.join("artifacts"),
        max_artifact_bytes: 1024 * 1024,
        secrets_key: folder.join("secrets.key"),
        sites: Sites::parse("http://*.localhost:8080").unwrap(),
        allow_private_webhooks: false,
        filters: Vec::new(),
    }
}

pub(crate) async fn control(settings: ControlSettings) -> (Running, Option<String>) {
    let (ready, started) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(async move {
        let ready = |started: Started| drop(ready.send(started));
        let stop = async move { drop(stopped.await) };
        selvedge_control::run(settings, ready, stop).await.unwrap();
    });
    let started = started.await.unwrap();
    let key = started.first_key.map(|key| key.reveal().to_owned());
    let address = started.address;
    (Running { address, stop, ended }, key)
}

impl Site {
    pub(crate) async fn start() -> Site {
        Site::start_where(false).await
    }

    pub(crate) async fn start_where(allow_private_webhooks: bool) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let agent = agent(folder.path()).await;
        let settings = ControlSettings {
            allow_private_webhooks,
            ..settings(folder.path())
        };
        let (control, key) = control(settings).await;
        Site {
            folder,
            agent: Some(agent),
            control: Some(control),
            key: key.unwrap(),
            allow_private_webhooks,
        }
    }

    pub(crate) async fn restart_control(&mut self) -> Option<String> {
        let running = self.control.take().unwrap();
        running.stop.send(()).unwrap();
        running.ended.await.unwrap();
        let settings = ControlSettings {
            allow_private_webhooks: self.allow_private_webhooks,
            ..settings(self.folder.path())
        };
        let (running, key) = control(settings).await;
        self.control = Some(running);
        key
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let address = self.control.as_ref().unwrap().address;
        reqwest::Client::new().request(method, format!("http://{address}{path}"))
    }

    pub(crate) async fn ask_as(&self, key: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.request(method, path).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask_as(&self.key, Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask_as(&self.key, Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask_as(&self.key, Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask_as(&self.key, Method::DELETE, path, None).await
    }

    pub(crate) async fn upload(&self, content: &str) -> String {
        let digest = digest(content);
        let request = self
            .request(Method::PUT, &format!("/v1/blobs/{digest}"))
            .bearer_auth(&self.key);
        let kept = answer(request.body(content.to_owned())).await;
        assert!(kept.status.is_success(), "{}", kept.text);
        digest
    }

    pub(crate) async fn make_key(&self, body: Value) -> String {
        self.post("/v1/keys", body).await.expect(201)["key"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// An app with this many deployments, by their ids.
    pub(crate) async fn deployed(&self, app: &str, count: usize) -> Vec<String> {
        self.post("/v1/apps", json!({ "name": app })).await.expect(201);
        let mut ids = Vec::new();
        for number in 0..count {
            let digest = self.upload(&format!("component {number}")).await;
            let made = self
                .post(&format!("/v1/apps/{app}/deployments"), deployment(&digest))
                .await
                .expect(201);
            ids.push(made["id"].as_str().unwrap().to_owned());
        }
        ids
    }

    /// A deployment without databases of an app that is there.
    pub(crate) async fn deployed_into(&self, app: &str) -> String {
        let digest = self.upload("component").await;
        let path = format!("/v1/apps/{app}/deployments");
        let made = self.post(&path, deployment(&digest)).await.expect(201);
        made["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn state(&self, id: &str) -> Value {
        self.get(&format!("/v1/deployments/{id}")).await.expect(200)["state"].clone()
    }

    /// A PoP that joins, and its key.
    pub(crate) async fn join(&self, name: &str) -> String {
        let token = self.post("/v1/pops/invite", json!({})).await.expect(201)["token"]
            .as_str()
            .unwrap()
            .to_owned();
        let joined = self
            .ask_as(&token, Method::POST, "/v1/pops", Some(json!({ "name": name })))
            .await
            .expect(201);
        joined["key"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn report(&self, pop: &str, key: &str, report: Value) -> Answer {
        self.ask_as(key, Method::POST, &format!("/v1/pops/{pop}/report"), Some(report))
            .await
    }

    pub(crate) async fn stop(mut self) {
        let running = self.control.take().unwrap();
        running.stop.send(()).unwrap();
        running.ended.await.unwrap();
        self.agent.take().unwrap().stop().await;
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    Answer {
        status: response.status(),
        headers: response.headers().clone(),
        text: response.text().await.unwrap(),
    }
}

pub(crate) fn digest(content: &str) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub(crate) fn deployment(digest: &str) -> Value {
    json!({
        "manifest": {
            "handlers": { "shop": { "component": "shop.wasm" } },
            "routes": [{ "match": { "path": "/*" }, "handler": "shop" }],
        },
        "blobs": [{ "path": "shop.wasm", "digest": digest }],
    })
}

/// No file below `folder` has this text in it.
pub(crate) fn assert_nowhere(folder: &Path, secret: &str) {
    let mut folders = vec![folder.to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => {
                    files += 1;
                    let bytes = std::fs::read(entry.path()).unwrap();
                    let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                    assert!(!found, "{:?}", entry.path());
                }
                _ => {}
            }
        }
    }
    assert!(files > 2, "{files}");
}

/// Rows of a database of the platform's, as its primary has them.
pub(crate) async fn rows(site: &Site, database: &str, sql: &str) -> Vec<Vec<Sql>> {
    let client = client(site);
    let read = client.read(database, &Statement::new(sql, Vec::new())).await;
    read.unwrap().0.rows
}

pub(crate) fn client(site: &Site) -> std::sync::Arc<AgentClient> {
    let data_dir = site.folder.path().join("agent");
    AgentClient::start(&data_dir.join("agent.sock"), &data_dir, Thresholds::default()).unwrap()
}
