//! The control plane as a process of its own, beside the primary's agent, and the agent of a PoP that follows it.

use std::process::Command;

use selvedge_tests::executable::{executable, repository};
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Agent, Control};
use serde_json::{Value, json};

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

    let (status, problem) = control
        .ask_as("sel_wrong", reqwest::Method::GET, "/v1/apps", None)
        .await;
    assert_eq!(status, 401, "{problem}");
    let shop = json!({ "name": "shop" });
    let (status, made) = control
        .ask_as(&key, reqwest::Method::POST, "/v1/apps", Some(shop.clone()))
        .await;
    assert_eq!(status, 201, "{made}");
    let (status, problem) = control
        .ask_as(&key, reqwest::Method::POST, "/v1/apps", Some(shop))
        .await;
    assert_eq!((status, &problem["status"]), (409, &json!(409)), "{problem}");

    // At once, with whatever it was doing.
    control.kill();
    let control = Control::start(&file, &environment, data.path()).await;
    assert_eq!(control.first_key(), None, "only the first start shows a key");
    let (status, apps) = control.ask_as(&key, reqwest::Method::GET, "/v1/apps", None).await;
    assert_eq!((status, &apps["items"][0]["name"]), (200, &json!("shop")), "{apps}");

    let pop = Agent::start(&format!(
        "agent: {{ name: pop, primary: \"{}\", token: only for trying things out }}\n\
         control: {{ url: \"{}\", token: none yet }}\n",
        primary.url(""),
        control.url(),
    ))
    .await;
    let flag = json!({ "rules": [{ "serve": { "on": 25 } }] });
    let (status, set) = control
        .ask_as(&key, reqwest::Method::PUT, "/v1/flags/checkout", Some(flag))
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
    let (status, verified) = control
        .ask_as(&key, reqwest::Method::GET, "/v1/audit/verify", None)
        .await;
    assert_eq!(status, 200, "{verified}");
}

#[tokio::test]
async fn a_file_without_control_is_refused_with_what_to_add() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let environment = [("DATA_DIR", data.path().display().to_string())];
    let mut command = Command::new(executable());
    command.arg("control").arg(repository().join("conf/quickstart.yaml"));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("help: add `control:"),
        "{said}"
    );
}
