//! `db lag`: how far each copy is behind the primary.

use std::time::{SystemTime, UNIX_EPOCH};

use selvedge_replication::log::Head;
use serde_json::{Value, json};

use super::agent::Agent;
use super::{Answer, Failure, rows};

/// One copy of one database.
struct Line {
    database: String,
    agent: String,
    state: String,
    position: String,
    /// Transactions that it lacks; `None` when it has another history.
    transactions: Option<u64>,
    seconds: u64,
}

pub(super) async fn run(agent: &Agent, name: Option<&str>) -> Result<Answer, Failure> {
    let status: Value = agent.get("/v1/status").await?;
    let here = status["agent"].as_str().unwrap_or_default();
    let reachable = status["site"]["primary_reachable"] != false;
    let statuses = status["databases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines = Vec::new();
    let mut heads = Vec::new();
    for status in statuses {
        let (Some(database), Some(head), Some(primary)) = (
            status["database"]
                .as_str()
                .filter(|database| name.is_none_or(|name| name == *database)),
            head(&status["head"]),
            head(&status["primary"]),
        ) else {
            continue;
        };
        let since = status["behind_since_ms"].as_i64();
        heads.push((database.to_owned(), primary));
        lines.push(Line {
            database: database.to_owned(),
            agent: here.to_owned(),
            state: status["state"].as_str().unwrap_or_default().to_owned(),
            position: head.position.to_string(),
            transactions: behind(&head, &primary),
            seconds: since.map_or(0, |since| (now_ms() - since).max(0) as u64 / 1000),
        });
    }
    // Only the primary knows of others; without it this agent says what it knows.
    let replicas: Vec<Value> = match reachable {
        true => agent.get("/v1/replicas").await?,
        false => Vec::new(),
    };
    for replica in replicas.iter().filter(|replica| replica["agent"] != *here) {
        for (database, primary) in &heads {
            let Some(applied) = head(&replica["databases"][database]) else {
                continue;
            };
            lines.push(Line {
                database: database.clone(),
                agent: replica["agent"].as_str().unwrap_or_default().to_owned(),
                state: "following".to_owned(),
                position: applied.position.to_string(),
                transactions: behind(&applied, primary),
                // It says so once a second.
                seconds: 0,
            });
        }
    }
    if let (Some(name), true) = (name, lines.is_empty()) {
        let failure = Failure::new("no_database", format!("there is no database {name} at this agent"));
        return Err(failure.help("`selvedge db list` shows the databases there are"));
    }
    lines.sort_by(|one, other| (&one.database, &one.agent).cmp(&(&other.database, &other.agent)));
    let cells = lines.iter().map(|line| {
        vec![
            line.database.clone(),
            line.agent.clone(),
            line.state.clone(),
            line.position.clone(),
            line.transactions
                .map_or("another history".to_owned(), |count| count.to_string()),
            line.seconds.to_string(),
        ]
    });
    let columns = [
        "database",
        "agent",
        "state",
        "position",
        "transactions behind",
        "seconds behind",
    ];
    let mut text = rows::aligned(&columns, &cells.collect::<Vec<_>>());
    if !reachable {
        text += "\nthe primary is not heard: how far it has gone since is not known";
    }
    let copies = lines.iter().map(|line| {
        json!({
            "database": line.database, "agent": line.agent, "state": line.state, "position": line.position,
            "behind_transactions": line.transactions, "behind_seconds": line.seconds,
        })
    });
    let json = json!({ "primary_reachable": reachable, "copies": copies.collect::<Vec<_>>() });
    Ok(Answer::new(text, json))
}

fn head(value: &Value) -> Option<Head> {
    serde_json::from_value(value.clone()).ok()
}

fn behind(head: &Head, primary: &Head) -> Option<u64> {
    let same_history = head.lineage == primary.lineage;
    same_history.then(|| primary.position.txid.0.saturating_sub(head.position.txid.0))
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}
