//! `selvedge env` and `selvedge secret`: what an app's handlers are given.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, part};
use super::deploy::spread;
use super::login::{asked, piped};
use super::{Reach, project};
use crate::db::rows::aligned;
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Env {
    #[command(subcommand)]
    command: EnvCommand,
}

#[derive(Subcommand)]
enum EnvCommand {
    /// List the variables.
    List,
    /// Show a variable.
    Get { name: String },
    /// Set variables; handlers see them from their next instance on.
    Set {
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = parse_pair)]
        variables: Vec<(String, String)>,
    },
    /// Remove a variable.
    Delete { name: String },
}

#[derive(Args)]
pub(crate) struct Secret {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Subcommand)]
enum SecretCommand {
    /// List the names; nobody is shown a value.
    List,
    /// Set a secret.
    Set {
        name: String,
        /// The value; `-`, or none, reads it from standard input, where no history keeps it.
        value: Option<String>,
    },
    /// Remove a secret.
    Delete { name: String },
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    match name.is_empty() {
        true => Err(format!("{text:?} has no name before its `=`")),
        false => Ok((name.to_owned(), value.to_owned())),
    }
}

pub(super) async fn env(reach: &Reach, client: &Client, env: Env) -> Result<Answer, Failure> {
    let app = project::app(reach)?;
    let list = format!("/v1/apps/{}/env", part(&app));
    match env.command {
        EnvCommand::List => {
            let items = client.list(&list).await?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let lines: Vec<_> = items
                .iter()
                .map(|item| format!("{}={}", text(&item["name"]), text(&item["value"])))
                .collect();
            Ok(Answer::new(lines.join("\n"), Value::Array(items)))
        }
        EnvCommand::Get { name } => {
            let found = client.get(&format!("{list}/{}", part(&name))).await?;
            Ok(Answer::new(
                found["value"].as_str().unwrap_or_default().to_owned(),
                found,
            ))
        }
        EnvCommand::Set { variables } => {
            let mut done = json!({});
            for (name, value) in &variables {
                done = client
                    .put(&format!("{list}/{}", part(name)), &json!({ "value": value }))
                    .await?;
            }
            let there = spread(client, &done["revision"], reach.json).await?;
            let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
            let text = format!("{} set for {app}, on {} PoPs", names.join(", "), there.len());
            Ok(Answer::new(text, json!({ "set": names, "revision": done["revision"] })))
        }
        EnvCommand::Delete { name } => {
            let done = client.delete(&format!("{list}/{}", part(&name))).await?;
            spread(client, &done["revision"], reach.json).await?;
            Ok(Answer::new(format!("{name} is removed from {app}"), done))
        }
    }
}

pub(super) async fn secret(reach: &Reach, client: &Client, secret: Secret) -> Result<Answer, Failure> {
    let app = project::app(reach)?;
    let list = format!("/v1/apps/{}/secrets", part(&app));
    match secret.command {
        SecretCommand::List => {
            let items = client.list(&list).await?;
            let lines: Vec<_> = items
                .iter()
                .map(|item| vec![item["name"].as_str().unwrap_or_default().to_owned()])
                .collect();
            let text = match lines.is_empty() {
                true => format!("{app} has no secrets; `selvedge secret set NAME` makes one"),
                false => aligned(&["secret"], &lines),
            };
            Ok(Answer::new(text, Value::Array(items)))
        }
        SecretCommand::Set { name, value } => {
            let value = match value.as_deref() {
                Some("-") => piped()?,
                Some(value) => value.to_owned(),
                None => asked(&format!("{name}: "))?,
            };
            if value.is_empty() {
                return Err(Failure::Usage("the value is empty".to_owned()));
            }
            let done = client
                .put(&format!("{list}/{}", part(&name)), &json!({ "value": value }))
                .await?;
            spread(client, &done["revision"], reach.json).await?;
            let text = format!("{name} is set for {app}; a handler gets it when its `secrets` name it");
            Ok(Answer::new(text, done))
        }
        SecretCommand::Delete { name } => {
            let done = client.delete(&format!("{list}/{}", part(&name))).await?;
            spread(client, &done["revision"], reach.json).await?;
            Ok(Answer::new(format!("{name} is removed from {app}"), done))
        }
    }
}
