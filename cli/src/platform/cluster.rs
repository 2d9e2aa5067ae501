//! `selvedge cluster`: the PoPs that control knows.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, part};
use crate::db::rows::aligned;
use crate::db::time::{moment, parse_duration};
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the PoPs as they were when they were heard last.
    #[command(alias = "pops")]
    List,
    /// Make a token with which one PoP joins, once.
    Invite {
        /// The only PoP that may join with it; needed by one that joins anew.
        pop: Option<String>,
        /// How long it holds, like 1h.
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        holds: Option<Duration>,
    },
    /// Remove a PoP; its key is refused from now on.
    Remove { pop: String },
}

pub(super) async fn run(client: &Client, cluster: Cluster) -> Result<Answer, Failure> {
    match cluster.command {
        Command::List => list(client).await,
        Command::Invite { pop, holds } => {
            let made = invite(client, pop.as_deref(), holds).await?;
            let until = moment(made["expires_ms"].as_i64().unwrap_or_default());
            eprintln!("the join token, shown this once and valid until {until}:");
            Ok(Answer::new(made["token"].as_str().unwrap_or_default().to_owned(), made))
        }
        Command::Remove { pop } => {
            client.delete(&format!("/v1/pops/{}", part(&pop))).await?;
            Ok(Answer::new(format!("{pop} is removed"), json!({ "pop": pop })))
        }
    }
}

/// A token with which a PoP joins, in `token`.
pub(super) async fn invite(client: &Client, pop: Option<&str>, holds: Option<Duration>) -> Result<Value, Failure> {
    let body = json!({ "pop": pop, "seconds": holds.map(|holds| holds.as_secs()) });
    Ok(client.post("/v1/pops/invite", &body).await?)
}

/// The PoPs, with whether each was heard lately.
pub(super) async fn pops(client: &Client) -> Result<Vec<Value>, Failure> {
    let mut pops = client.list("/v1/pops").await?;
    let fleet = client.get("/v1/changes/0?wait_ms=0").await?;
    for pop in &mut pops {
        let name = pop["name"].as_str().unwrap_or_default().to_owned();
        pop["live"] = json!(fleet["pops"][name]["live"] == true);
    }
    Ok(pops)
}

async fn list(client: &Client) -> Result<Answer, Failure> {
    let pops = pops(client).await?;
    let lines: Vec<_> = pops
        .iter()
        .map(|pop| {
            let text = |field: &str| pop[field].as_str().unwrap_or_default().to_owned();
            let live = if pop["live"] == true { "live" } else { "not heard" };
            let seen = pop["seen_ms"].as_i64().map_or("never".to_owned(), moment);
            vec![
                text("name"),
                live.to_owned(),
                seen,
                pop["revision"].to_string(),
                text("version"),
            ]
        })
        .collect();
    let text = match lines.is_empty() {
        true => "no PoPs; `selvedge cluster invite` makes a token for one".to_owned(),
        false => aligned(&["PoP", "state", "heard", "revision", "version"], &lines),
    };
    Ok(Answer::new(text, Value::Array(pops)))
}
