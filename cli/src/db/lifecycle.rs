//! `db create`, `list`, `branch`, `delete` and `undelete`.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::agent::Agent;
use super::rows;
use super::time::{self, Target};
use super::{Answer, Failure, progress};

#[derive(Args)]
pub(super) struct Branch {
    name: String,
    /// Name of the copy.
    new: String,
    /// As it was then, from the store: a time, a duration before now, or a transaction's number.
    #[arg(long, value_name = "TIME|TXID", value_parser = time::parse_target)]
    at: Option<Target>,
}

#[derive(Args)]
pub(super) struct Restore {
    name: String,
    /// Which state: a time like 2026-05-01T12:00:00Z, a duration before now like 10m, or a transaction's number.
    #[arg(long, value_name = "TIME|TXID", value_parser = time::parse_target)]
    at: Target,
    /// Make a new database of it, and leave this one as it is.
    #[arg(long, value_name = "NEW")]
    r#as: Option<String>,
}

#[derive(Args)]
pub(super) struct Delete {
    name: String,
    /// How long it can be undeleted: `7d`, `12h`, `30m`; `0s` removes it at once.
    #[arg(long, default_value = "7d", value_parser = time::parse_duration)]
    grace: std::time::Duration,
}

pub(super) async fn create(agent: &Agent, name: &str) -> Result<Answer, Failure> {
    let made: Value = agent.post("/v1/databases", &json!({ "name": name })).await?;
    if made["created"] != true {
        let message = format!("the database {name} exists already; nothing was changed");
        return Err(Failure::new("exists", message).help("`selvedge db list` shows the databases there are"));
    }
    agent.wait_until_here(name, &made["head"]).await?;
    Ok(Answer::new(format!("{name} was made"), made))
}

pub(super) async fn list(agent: &Agent) -> Result<Answer, Failure> {
    let list: Value = agent.get("/v1/databases").await?;
    let databases = list["databases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<Vec<String>> = databases
        .iter()
        .map(|status| {
            vec![
                text(&status["database"]),
                text(&status["state"]),
                time::position(&status["head"]["position"]),
                time::bytes(status["size_bytes"].as_u64().unwrap_or(0)),
            ]
        })
        .collect();
    let deleted = list["deleted"].as_array().map(Vec::as_slice).unwrap_or_default();
    lines.extend(deleted.iter().map(|entry| {
        let until = entry["until_ms"].as_i64().unwrap_or(0);
        let state = format!("deleted, kept until {}", time::moment(until));
        vec![text(&entry["database"]), state, String::new(), String::new()]
    }));
    let table = rows::aligned(&["database", "state", "position", "size"], &lines);
    let text = if lines.is_empty() {
        "no databases; `selvedge db create NAME` makes one".to_owned()
    } else {
        table
    };
    Ok(Answer::new(text, list))
}

/// Brings an earlier state back.
pub(super) async fn restore(agent: &Agent, restore: Restore, silent: bool) -> Result<Answer, Failure> {
    let Restore { name, at, r#as } = restore;
    let bar = progress::bytes("restoring", Some(0), silent);
    let path = format!("/v1/databases/{name}/restore");
    let mut body = match at {
        Target::At(ms) => json!({ "at_ms": ms }),
        Target::Txid(txid) => json!({ "txid": txid }),
    };
    body["as"] = json!(r#as);
    body["progress"] = json!(true);
    let restored = agent.post_watched(&path, &body, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    let restored = restored.await;
    let restored = match restored {
        Ok(restored) => {
            let database = restored["database"].as_str().unwrap_or(&name).to_owned();
            agent
                .wait_until_here(&database, &restored["head"])
                .await
                .map(|()| restored)
        }
        Err(failure) => Err(failure),
    };
    bar.finish_and_clear();
    let restored = restored?;
    let text = format!(
        "{} is {name} as it was at {}, {}",
        text(&restored["database"]),
        time::moment(restored["time_ms"].as_i64().unwrap_or(0)),
        text(&restored["position"])
    );
    Ok(Answer::new(text, restored))
}

pub(super) async fn branch(agent: &Agent, Branch { name, new, at }: Branch, silent: bool) -> Result<Answer, Failure> {
    if let Some(at) = at {
        let r#as = Some(new);
        return restore(agent, Restore { name, at, r#as }, silent).await;
    }
    let path = format!("/v1/databases/{name}/branch");
    let made: Value = agent.post(&path, &json!({ "as": new })).await?;
    agent.wait_until_here(&new, &made["head"]).await?;
    let text = format!(
        "{new} is a copy of {name} at {}",
        made["position"].as_str().unwrap_or_default()
    );
    Ok(Answer::new(text, made))
}

pub(super) async fn delete(agent: &Agent, Delete { name, grace }: Delete) -> Result<Answer, Failure> {
    let path = format!("/v1/databases/{name}?grace_seconds={}", grace.as_secs());
    let done: Value = agent.json(agent.request(Method::DELETE, &path)).await?;
    let text = match grace.is_zero() {
        true => format!("{name} was deleted for good"),
        false => format!(
            "{name} was deleted; until {} `selvedge db undelete {name}` brings it back",
            time::moment(done["until_ms"].as_i64().unwrap_or(0))
        ),
    };
    Ok(Answer::new(text, done))
}

pub(super) async fn undelete(agent: &Agent, name: &str) -> Result<Answer, Failure> {
    let path = format!("/v1/databases/{name}/undelete");
    let done: Value = agent.post(&path, &json!({})).await?;
    agent.wait_until_here(name, &done["head"]).await?;
    Ok(Answer::new(format!("{name} is back"), done))
}

pub(super) async fn vacuum(agent: &Agent, name: &str) -> Result<Answer, Failure> {
    let done: Value = agent.post(&format!("/v1/databases/{name}/vacuum"), &json!({})).await?;
    agent.wait_until_here(name, &done["head"]).await?;
    let kib = |field: &str| done[field].as_u64().unwrap_or_default() / 1024;
    let text = format!("{name} takes {} KiB, and took {}", kib("bytes"), kib("bytes_before"));
    Ok(Answer::new(text, done))
}

/// A JSON text as it is.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
