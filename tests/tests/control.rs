//! The control plane as a process of its own, beside the primary's agent, and the agent of a PoP that follows it.

use std::path::Path;
use std::process::Command;

use selvedge_tests::agent::Agent;
use selvedge_tests::executable::{executable, repository};
use selvedge_tests::process::Process;
use selvedge_tests::wait::wait_for;
use serde_json::{Value, json};

struct Control {
    process: Process,
    url: String,
}

impl Control {
    /// Runs `selvedge control` of a file whose agent runs.
    async fn start(file: &Path, environment: &[(&str, String)], folder: &Path) -> Control {
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
        Control { process, url }
    }

    /// The owner's key, which is shown at the first start only.
    fn first_key(&self) -> Option<String> {
        let said = self.process.stderr();
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("The first key, shown this once: "))?;
        Some(line.to_owned())
    }

    async fn ask(&self, method: reqwest::Method, path: &str, key: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}{path}", self.url);
        let mut request = selvedge_tests::client::builder()
            .build()
            .expect("these settings make a client")
            .request(method, url)
            .bearer_auth(key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("control answers");
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }
}

/// Of a database, as an agent says.
fn database(status: &Value, name: &str) -> Option<Value> {
    let databases = status["databases"].as_array()?;
    databases.iter().find(|database| database["database"] == name).cloned()
}

#[tokio::test]
async fn what_control_accepts_survives_its_end_and_reaches_the_agents_of_pops() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let environment = [
        ("DATA_DIR", data.path().join("data").display().to_string()),
        ("AGENT_PORT", "0".to_owned()),
        ("CONTROL_PORT", "0".to_owned()),
    ];
    let file = repository().join("conf/control.yaml");
    let primary = Agent::start_file(&file, &environment).await;
    let mut control = Control::start(&file, &environment, data.path()).await;
    let key = control.first_key().expect("the first start shows a key");

    let (status, problem) = control.ask(reqwest::Method::GET, "/v1/apps", "sel_wrong", None).await;
    assert_eq!(status, 401, "{problem}");
    let shop = json!({ "name": "shop" });
    let (status, made) = control
        .ask(reqwest::Method::POST, "/v1/apps", &key, Some(shop.clone()))
        .await;
    assert_eq!(status, 201, "{made}");
    let (status, problem) = control.ask(reqwest::Method::POST, "/v1/apps", &key, Some(shop)).await;
    assert_eq!((status, &problem["status"]), (409, &json!(409)), "{problem}");

    // At once, with whatever it was doing.
    control.process.kill();
    let control = Control::start(&file, &environment, data.path()).await;
    assert_eq!(control.first_key(), None, "only the first start shows a key");
    let (status, apps) = control.ask(reqwest::Method::GET, "/v1/apps", &key, None).await;
    assert_eq!((status, &apps["items"][0]["name"]), (200, &json!("shop")), "{apps}");

    let pop = Agent::start(&format!(
        "agent: {{ name: pop, primary: \"{}\", token: only for trying things out }}\n\
         control: {{ url: \"{}\", token: none yet }}\n",
        primary.url(""),
        control.url,
    ))
    .await;
    let flag = json!({ "rules": [{ "serve": { "on": 25 } }] });
    let (status, set) = control
        .ask(reqwest::Method::PUT, "/v1/flags/checkout", &key, Some(flag))
        .await;
    assert!([200, 201].contains(&status), "{set}");
    let there = database(&primary.status().await, "_config").expect("control has made it");
    wait_for("the flag to be at the PoP", async || {
        let here = database(&pop.status().await, "_config")?;
        (here["state"] == "following" && here["head"]["position"] == there["head"]["position"]).then_some(())
    })
    .await;
    assert_eq!(
        database(&pop.status().await, "_control"),
        None,
        "keys and audit log stay with control"
    );
    let (status, verified) = control.ask(reqwest::Method::GET, "/v1/audit/verify", &key, None).await;
    assert_eq!(status, 200, "{verified}");
}

#[tokio::test]
async fn a_file_without_control_is_refused_with_what_to_add() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let environment = [("DATA_DIR", data.path().display().to_string())];
    let mut command = Command::new(executable());
    command.arg("control").arg(repository().join("conf/primary.yaml"));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("help: add `control:"),
        "{said}"
    );
}
