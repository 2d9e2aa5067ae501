//! A running control plane, beside the agent of the primary, and what its clients ask.

use std::path::Path;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::client;
use crate::executable::executable;
use crate::process::Process;
use crate::wait::wait_for;

pub struct Control {
    process: Process,
    url: String,
    /// Of the owner, once it is known.
    key: String,
}

impl Control {
    /// Runs `selvedge control` of a file whose agent runs.
    pub async fn start(file: &Path, environment: &[(&str, String)], folder: &Path) -> Control {
        let ready = folder.join("control.json");
        let _ = std::fs::remove_file(&ready);
        let logs = folder.join("control");
        std::fs::create_dir_all(&logs).expect("a folder for logs");
        let mut command = Command::new(executable());
        command.arg("control").arg(file).arg("--ready-file").arg(&ready);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(command, &logs);
        let ready = wait_for("control to serve", async || {
            assert!(process.ended().is_none(), "control has ended: {}", process.describe());
            std::fs::read_to_string(&ready).ok()
        })
        .await;
        let ready: Value = serde_json::from_str(&ready).expect("the ready file is JSON");
        let url = format!("http://{}", ready["control"].as_str().expect("control listens"));
        let mut control = Control {
            process,
            url,
            key: String::new(),
        };
        control.key = control.first_key().unwrap_or_default();
        control
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The owner's key, which is shown at the first start only.
    pub fn first_key(&self) -> Option<String> {
        let said = self.process.stderr();
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("The first key, shown this once: "))?;
        Some(line.to_owned())
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// Asks with this key from now on.
    pub fn use_key(&mut self, key: &str) {
        key.clone_into(&mut self.key);
    }

    pub fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Status and JSON of an answer.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        self.ask_as(&self.key, method, path, body).await
    }

    pub async fn ask_as(&self, key: &str, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}{path}", self.url);
        let mut request = client::client().request(method, url).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("control answers");
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    /// The answer to what must succeed.
    pub async fn done(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.ask(method.clone(), path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// A token with which a PoP joins.
    pub async fn invite(&self) -> String {
        let invited = self.done(Method::POST, "/v1/pops/invite", Some(json!({}))).await;
        invited["token"].as_str().expect("a token").to_owned()
    }

    /// Uploads the files and makes a deployment of them; its id.
    pub async fn deploy(&self, app: &str, manifest: Value, files: &[(&str, &[u8])]) -> String {
        let mut blobs = Vec::new();
        for (path, content) in files {
            let digest: String = Sha256::digest(content)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let url = format!("{}/v1/blobs/{digest}", self.url);
            let upload = client::client().put(url).bearer_auth(&self.key).body(content.to_vec());
            let uploaded = upload.send().await.expect("control answers");
            assert!(uploaded.status().is_success(), "uploading {path}: {uploaded:?}");
            blobs.push(json!({ "path": path, "digest": digest }));
        }
        let body = json!({ "manifest": manifest, "blobs": blobs });
        let made = self
            .done(Method::POST, &format!("/v1/apps/{app}/deployments"), Some(body))
            .await;
        made["id"].as_str().expect("a deployment has an id").to_owned()
    }

    /// Waits until the deployment is in this state, and returns it.
    pub async fn state(&self, deployment: &str, state: &str) -> Value {
        wait_for(&format!("the deployment to be {state}"), async || {
            let found = self
                .done(Method::GET, &format!("/v1/deployments/{deployment}"), None)
                .await;
            (found["state"] == state).then_some(found)
        })
        .await
    }

    /// Lets a prepared deployment serve `percent` of clients, everywhere before this returns.
    pub async fn activate(&self, deployment: &str, percent: u32) {
        self.state_is_settled(deployment).await;
        let path = format!("/v1/deployments/{deployment}/activate");
        let activated = self
            .done(Method::POST, &path, Some(json!({ "percent": percent })))
            .await;
        self.everywhere(&activated["revision"]).await;
    }

    async fn state_is_settled(&self, deployment: &str) {
        wait_for("the deployment to be prepared", async || {
            let found = self
                .done(Method::GET, &format!("/v1/deployments/{deployment}"), None)
                .await;
            assert_ne!(found["state"], "failed", "{found}");
            (found["state"] != "uploaded").then_some(())
        })
        .await;
    }

    /// Waits until every live PoP has the revision.
    pub async fn everywhere(&self, revision: &Value) {
        let path = format!("/v1/changes/{revision}?wait_ms=10000");
        let told = self.done(Method::GET, &path, None).await;
        assert_eq!(told["propagated"], true, "{told}");
    }
}
