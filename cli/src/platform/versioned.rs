//! `selvedge flags` and `selvedge config`: values with versions, and the way back.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Reach;
use super::client::{Client, part};
use super::deploy::spread;
use crate::db::rows::aligned;
use crate::db::time::moment;
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Flags {
    #[command(subcommand)]
    command: FlagCommand,
}

#[derive(Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand)]
enum FlagCommand {
    /// List the flags.
    List,
    /// Show a flag.
    Get { name: String },
    /// Set a flag.
    Set(SetFlag),
    #[command(flatten)]
    Shared(Shared),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// List the settings.
    List,
    /// Show a setting.
    Get { name: String },
    /// Set a setting: JSON, or any other text as it is.
    Set {
        name: String,
        value: String,
        /// Only if it is still this version.
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i64>,
    },
    #[command(flatten)]
    Shared(Shared),
}

#[derive(Args)]
struct SetFlag {
    name: String,
    /// On for everybody, or for this part: 25%, the same people each time.
    #[arg(long, value_name = "N%", num_args = 0..=1, default_missing_value = "100%", value_parser = super::versions::parse_percent)]
    on: Option<u8>,
    /// Off for everybody.
    #[arg(long, conflicts_with_all = ["on", "value"])]
    off: bool,
    /// All of the flag: variants and rules.
    #[arg(long, value_name = "JSON", conflicts_with = "on")]
    value: Option<String>,
    /// Only if it is still this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<i64>,
}

#[derive(Subcommand)]
enum Shared {
    /// Remove it; its history stays.
    Delete { name: String },
    /// Show every version there was, newest first.
    History { name: String },
    /// Set it to what it was, as a new version.
    Rollback {
        name: String,
        /// Which version.
        version: i64,
    },
}

/// What is versioned: its path, and what messages call it.
#[derive(Clone, Copy)]
struct Kind {
    path: &'static str,
    word: &'static str,
    command: &'static str,
}

const FLAG: Kind = Kind {
    path: "/v1/flags",
    word: "flag",
    command: "flags",
};
const SETTING: Kind = Kind {
    path: "/v1/settings",
    word: "setting",
    command: "config",
};

pub(super) async fn flags(reach: &Reach, client: &Client, flags: Flags) -> Result<Answer, Failure> {
    match flags.command {
        FlagCommand::List => list(client, FLAG).await,
        FlagCommand::Get { name } => get(client, FLAG, &name).await,
        FlagCommand::Set(asked) => {
            let value = wanted(client, &asked).await?;
            set(reach, client, FLAG, &asked.name, &value, asked.if_version).await
        }
        FlagCommand::Shared(shared) => run(reach, client, FLAG, shared).await,
    }
}

pub(super) async fn config(reach: &Reach, client: &Client, config: Config) -> Result<Answer, Failure> {
    match config.command {
        ConfigCommand::List => list(client, SETTING).await,
        ConfigCommand::Get { name } => get(client, SETTING, &name).await,
        ConfigCommand::Set {
            name,
            value,
            if_version,
        } => {
            let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
            set(reach, client, SETTING, &name, &value, if_version).await
        }
        ConfigCommand::Shared(shared) => run(reach, client, SETTING, shared).await,
    }
}

/// The flag that is meant: whole, or what it was with another share.
async fn wanted(client: &Client, asked: &SetFlag) -> Result<Value, Failure> {
    if let Some(text) = &asked.value {
        return serde_json::from_str(text).map_err(|error| {
            Failure::Usage(format!(
                "--value is not JSON: {error}; a flag is like {{\"rules\": [{{\"serve\": {{\"on\": 25}}}}]}}"
            ))
        });
    }
    if asked.on.is_none() && !asked.off {
        return Err(Failure::Usage(
            "what shall it be? Give --on, --on 25%, --off or --value JSON".to_owned(),
        ));
    }
    let known = match client.get(&format!("{}/{}", FLAG.path, part(&asked.name))).await {
        Ok(known) => known["value"].clone(),
        Err(denied) if denied.failure.code() == "not_found" => json!({}),
        Err(denied) => return Err(denied.failure),
    };
    let has_rules_of_its_own = known["rules"].as_array().is_some_and(|rules| {
        rules.len() > 1
            || rules
                .iter()
                .any(|rule| rule["when"].as_array().is_some_and(|when| !when.is_empty()))
    });
    let has_variants_of_its_own = known["variants"]
        .as_object()
        .is_some_and(|variants| !variants.contains_key("on"));
    let mut flag = known;
    if asked.off {
        flag["enabled"] = json!(false);
        return Ok(flag);
    }
    if has_rules_of_its_own || has_variants_of_its_own {
        let failure = Failure::new(
            "conflict",
            format!("{} has rules of its own, which --on would throw away", asked.name),
        );
        return Err(failure.help(format!(
            "`selvedge flags get {} --json` shows it; set it with --value",
            asked.name
        )));
    }
    let percent = asked.on.unwrap_or(100);
    flag["enabled"] = json!(true);
    flag["rules"] = match percent {
        100 => json!([{ "serve": "on" }]),
        percent => json!([{ "serve": { "on": percent } }]),
    };
    Ok(flag)
}

async fn list(client: &Client, kind: Kind) -> Result<Answer, Failure> {
    let items = client.list(kind.path).await?;
    let lines: Vec<_> = items
        .iter()
        .map(|item| {
            let value = match kind.word {
                "flag" => share(&item["value"]),
                _ => item["value"].to_string(),
            };
            let changed = moment(item["updated_ms"].as_i64().unwrap_or_default());
            vec![
                item["name"].as_str().unwrap_or_default().to_owned(),
                item["version"].to_string(),
                changed,
                value,
            ]
        })
        .collect();
    let text = match lines.is_empty() {
        true => format!("no {}s; `selvedge {} set NAME …` makes one", kind.word, kind.command),
        false => aligned(&[kind.word, "version", "changed", "value"], &lines),
    };
    Ok(Answer::new(text, Value::Array(items)))
}

/// A flag in a few letters.
fn share(flag: &Value) -> String {
    let rules = flag["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    match rules {
        _ if flag["enabled"] == false => "off".to_owned(),
        [] => "off".to_owned(),
        [only] if only["when"].as_array().is_none_or(Vec::is_empty) => match &only["serve"] {
            Value::String(variant) => variant.clone(),
            Value::Object(split) => {
                let parts = split.iter().map(|(variant, percent)| format!("{variant} {percent}%"));
                parts.collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        },
        rules => format!("{} rules", rules.len()),
    }
}

async fn get(client: &Client, kind: Kind, name: &str) -> Result<Answer, Failure> {
    let found = client.get(&format!("{}/{}", kind.path, part(name))).await?;
    Ok(Answer::new(format!("{:#}", found["value"]), found))
}

async fn set(
    reach: &Reach,
    client: &Client,
    kind: Kind,
    name: &str,
    value: &Value,
    if_version: Option<i64>,
) -> Result<Answer, Failure> {
    let done = client
        .put_if(&format!("{}/{}", kind.path, part(name)), value, if_version)
        .await?;
    let there = spread(client, &done["revision"], reach.json).await?;
    let text = format!("{name} is at version {}, on {} PoPs", done["version"], there.len());
    Ok(Answer::new(text, done))
}

async fn run(reach: &Reach, client: &Client, kind: Kind, shared: Shared) -> Result<Answer, Failure> {
    let of = |name: &str| format!("{}/{}", kind.path, part(name));
    match shared {
        Shared::Delete { name } => {
            let done = client.delete(&of(&name)).await?;
            spread(client, &done["revision"], reach.json).await?;
            let text = format!(
                "{name} is removed; `selvedge {} rollback {name} VERSION` brings it back",
                kind.command
            );
            Ok(Answer::new(text, done))
        }
        Shared::History { name } => {
            let versions = client.list(&format!("{}/history", of(&name))).await?;
            let lines: Vec<_> = versions
                .iter()
                .map(|version| {
                    let value = match version["value"].is_null() {
                        true => "removed".to_owned(),
                        false => version["value"].to_string(),
                    };
                    let at = moment(version["at_ms"].as_i64().unwrap_or_default());
                    let actor = version["actor"].as_str().unwrap_or_default().to_owned();
                    vec![version["version"].to_string(), at, actor, value]
                })
                .collect();
            let text = aligned(&["version", "set", "by key", "value"], &lines);
            Ok(Answer::new(text, Value::Array(versions)))
        }
        Shared::Rollback { name, version } => {
            let done = client
                .post(&format!("{}/rollback", of(&name)), &json!({ "to": version }))
                .await?;
            spread(client, &done["revision"], reach.json).await?;
            let text = format!(
                "{name} is what it was at version {version}, as version {}",
                done["version"]
            );
            Ok(Answer::new(text, done))
        }
    }
}
