//! `selvedge domains`: the hosts an app answers for.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Client, part};
use super::deploy::spread;
use super::{Reach, project};
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Domains {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the app's domains.
    List,
    /// The app answers for this host.
    Add { host: String },
    /// The app does not answer for this host any more.
    Delete { host: String },
}

pub(super) async fn run(reach: &Reach, client: &Client, domains: Domains) -> Result<Answer, Failure> {
    let app = project::app(reach)?;
    let list = format!("/v1/apps/{}/domains", part(&app));
    match domains.command {
        Command::List => {
            let items = client.list(&list).await?;
            let hosts: Vec<&str> = items.iter().filter_map(|item| item["host"].as_str()).collect();
            let text = match hosts.is_empty() {
                true => format!("{app} has no domains; `selvedge domains add HOST` gives it one"),
                false => hosts.join("\n"),
            };
            Ok(Answer::new(text, Value::Array(items.clone())))
        }
        Command::Add { host } => {
            let done = client.put(&format!("{list}/{}", part(&host)), &Value::Null).await?;
            let there = spread(client, &done["revision"], reach.json).await?;
            let text = format!(
                "{app} answers for {host}, on {} PoPs; point its DNS at them",
                there.len()
            );
            Ok(Answer::new(text, done))
        }
        Command::Delete { host } => {
            let done = client.delete(&format!("{list}/{}", part(&host))).await?;
            spread(client, &done["revision"], reach.json).await?;
            Ok(Answer::new(format!("{app} does not answer for {host} any more"), done))
        }
    }
}
