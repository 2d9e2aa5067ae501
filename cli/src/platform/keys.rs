//! `selvedge keys`: who may do what.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::{Client, part};
use crate::db::rows::aligned;
use crate::db::time::{moment, parse_duration};
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the keys, without what makes them keys.
    List,
    /// Make a key that may no more than yours; it is shown once.
    Create {
        /// What people call it.
        name: String,
        #[arg(long, value_enum, default_value_t = Role::Developer)]
        role: Role,
        /// Confine it to some of what its role may, such as `deploy`.
        #[arg(long, value_name = "ACTION", value_delimiter = ',')]
        only: Vec<String>,
        /// The one app it reaches; all, without it.
        #[arg(long = "for", value_name = "APP")]
        of: Option<String>,
        /// How long it is valid, like 90d; for ever, without it.
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        expires: Option<Duration>,
    },
    /// End a key, by its id.
    Revoke { id: String },
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Viewer,
    Developer,
    Admin,
    Owner,
}

pub(super) async fn run(client: &Client, keys: Keys) -> Result<Answer, Failure> {
    match keys.command {
        Command::List => list(client).await,
        Command::Create {
            name,
            role,
            only,
            of,
            expires,
        } => {
            let expires_ms = expires.map(|expires| {
                let at = SystemTime::now() + expires;
                at.duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_millis() as u64)
            });
            let role = role.to_possible_value().map(|value| value.get_name().to_owned());
            let mut body = json!({ "name": name, "role": role, "app": of, "expires_ms": expires_ms });
            if !only.is_empty() {
                body["actions"] = json!(only);
            }
            let made = client.post("/v1/keys", &body).await?;
            // The key alone on standard output: it can be piped to where it is kept.
            eprintln!("the key {}, shown this once:", made["id"].as_str().unwrap_or_default());
            Ok(Answer::new(made["key"].as_str().unwrap_or_default().to_owned(), made))
        }
        Command::Revoke { id } => {
            client.delete(&format!("/v1/keys/{}", part(&id))).await?;
            Ok(Answer::new(
                format!("the key {id} is refused from now on"),
                json!({ "id": id }),
            ))
        }
    }
}

async fn list(client: &Client) -> Result<Answer, Failure> {
    let items = client.list("/v1/keys").await?;
    let lines: Vec<_> = items
        .iter()
        .map(|key| {
            let text = |field: &str| key[field].as_str().unwrap_or_default().to_owned();
            let at = |field: &str| key[field].as_i64().map(moment).unwrap_or_default();
            let state = match (key["revoked_ms"].as_i64(), key["expires_ms"].as_i64()) {
                (Some(at), _) => format!("revoked {}", moment(at)),
                (None, Some(at)) => format!("until {}", moment(at)),
                (None, None) => "valid".to_owned(),
            };
            let app = key["app"].as_str().unwrap_or("all").to_owned();
            vec![text("id"), text("name"), text("role"), app, state, at("used_ms")]
        })
        .collect();
    Ok(Answer::new(
        aligned(&["id", "name", "role", "app", "state", "used"], &lines),
        Value::Array(items),
    ))
}
