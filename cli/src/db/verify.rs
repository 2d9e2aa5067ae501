//! `db verify`: a whole database against the log.

use serde_json::{Value, json};

use super::agent::Agent;
use super::{Answer, Failure, progress, rows, time};

pub(super) async fn run(agent: &Agent, name: &str, silent: bool) -> Result<Answer, Failure> {
    let bar = progress::spinner("reading all of it", silent);
    let path = format!("/v1/databases/{name}/verify");
    let verified: Result<Value, Failure> = agent.post(&path, &json!({})).await;
    bar.finish_and_clear();
    let verified = verified?;
    let judged = |same: &Value| match same.as_bool() {
        Some(true) => "same as the log",
        Some(false) => "NOT what the log has",
        None => "nothing to compare with",
    };
    let line = |copy: &Value| {
        vec![
            copy["agent"].as_str().unwrap_or_default().to_owned(),
            time::position(&copy["position"]),
            copy["checksum"].as_str().unwrap_or_default().to_owned(),
            judged(&copy["same"]).to_owned(),
        ]
    };
    let replicas = verified["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lines: Vec<_> = std::iter::once(&verified).chain(replicas).map(line).collect();
    let integrity = verified["integrity"].as_str().unwrap_or_default();
    let differs = std::iter::once(&verified)
        .chain(replicas)
        .any(|copy| copy["same"] == false);
    let table = rows::aligned(&["agent", "position", "checksum", "verdict"], &lines);
    if integrity != "ok" || differs {
        let message = format!("{name} is not what it should be\n{table}\nintegrity: {integrity}");
        return Err(Failure::new("differs", message).help(
            "a replica copies itself anew when it finds out; a damaged primary is restored with `selvedge db import` from a backup",
        ));
    }
    let text = format!("{table}\nintegrity: {integrity}, {} pages", verified["pages"]);
    Ok(Answer::new(text, verified))
}
