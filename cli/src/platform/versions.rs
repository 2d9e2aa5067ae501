//! `versions`, `rollout`, `rollback` and `preview`: which deployment of an app serves whom.

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, part};
use super::deploy::{activate, spread};
use super::{Reach, address, project};
use crate::db::rows::aligned;
use crate::db::time::moment;
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Versions {}

#[derive(Args)]
pub(crate) struct Rollout {
    /// The part of the clients that gets it, like 25%.
    #[arg(value_name = "N%", value_parser = parse_percent, required_unless_present = "stop", conflicts_with = "stop")]
    percent: Option<u8>,
    /// Which version; otherwise the one that is being rolled out, or the newest.
    #[arg(conflicts_with = "stop")]
    version: Option<i64>,
    /// End the rollout: everybody gets what served before it.
    #[arg(long)]
    stop: bool,
}

#[derive(Args)]
pub(crate) struct Rollback {
    /// Which version; otherwise a rollout ends, or else the version that served before serves again.
    version: Option<i64>,
}

#[derive(Args)]
pub(crate) struct Preview {
    /// Only this version.
    version: Option<i64>,
}

/// `25%`, or `25`.
pub(super) fn parse_percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok();
    number
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| format!("{text:?} is not a part like 25%"))
}

pub(super) async fn list(reach: &Reach, client: &Client) -> Result<Answer, Failure> {
    let app = project::app(reach)?;
    let known = client.get(&format!("/v1/apps/{}", part(&app))).await?;
    let mut versions = deployments(client, &app).await?;
    for version in &mut versions {
        version["serves"] = json!(serves(&known, version));
    }
    let lines: Vec<_> = versions
        .iter()
        .map(|version| {
            vec![
                version["version"].to_string(),
                version["state"].as_str().unwrap_or_default().to_owned(),
                version["serves"].as_str().unwrap_or_default().to_owned(),
                moment(version["created_ms"].as_i64().unwrap_or_default()),
                version["message"].as_str().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    let text = match lines.is_empty() {
        true => format!("{app} has no versions; `selvedge deploy` makes one"),
        false => aligned(&["version", "state", "serves", "made", ""], &lines),
    };
    Ok(Answer::new(text, Value::Array(versions)))
}

/// Which part of the clients gets it.
fn serves(app: &Value, deployment: &Value) -> Option<String> {
    let percent = app["percent"].as_i64();
    let is = |key: &str| app[key].is_string() && app[key] == deployment["id"];
    match (is("rollout"), is("active"), percent) {
        (true, _, Some(percent)) => Some(format!("{percent}%")),
        (_, true, Some(percent)) => Some(format!("{}%", 100 - percent)),
        (_, true, None) => Some("100%".to_owned()),
        _ => None,
    }
}

pub(super) async fn rollout(reach: &Reach, client: &Client, rollout: Rollout) -> Result<Answer, Failure> {
    let app = project::app(reach)?;
    let known = client.get(&format!("/v1/apps/{}", part(&app))).await?;
    if rollout.stop {
        if known["rollout"].is_null() {
            let failure = Failure::new("conflict", format!("{app} has no rollout"));
            return Err(failure.help("`selvedge rollback` goes back to the version before"));
        }
        return back(reach, client, &app, None).await;
    }
    let deployments = deployments(client, &app).await?;
    let chosen = match rollout.version {
        Some(version) => deployments.iter().find(|deployment| deployment["version"] == version),
        None => {
            let current = deployments
                .iter()
                .find(|deployment| deployment["id"] == known["rollout"]);
            current.or(deployments.first())
        }
    };
    let chosen = chosen.ok_or_else(|| no_version(&app, rollout.version, &deployments))?;
    let percent = rollout.percent.unwrap_or(100);
    let id = chosen["id"].as_str().unwrap_or_default();
    let activated = activate(client, id, Some(percent)).await?;
    let there = spread(client, &activated["revision"], reach.json).await?;
    let text = format!(
        "version {} of {app} serves {percent}% of the clients, on {} PoPs",
        chosen["version"],
        there.len()
    );
    Ok(Answer::new(text, activated))
}

pub(super) async fn rollback(reach: &Reach, client: &Client, rollback: Rollback) -> Result<Answer, Failure> {
    let app = project::app(reach)?;
    if let Some(version) = rollback.version {
        let deployments = deployments(client, &app).await?;
        if !deployments.iter().any(|deployment| deployment["version"] == version) {
            return Err(no_version(&app, Some(version), &deployments));
        }
    }
    back(reach, client, &app, rollback.version).await
}

async fn back(reach: &Reach, client: &Client, app: &str, version: Option<i64>) -> Result<Answer, Failure> {
    let body = match version {
        Some(version) => json!({ "to": version }),
        None => json!({}),
    };
    let done = client.post(&format!("/v1/apps/{}/rollback", part(app)), &body).await?;
    let there = spread(client, &done["revision"], reach.json).await?;
    let text = format!(
        "version {} of {app} serves everybody, on {} PoPs",
        done["deployment"]["version"],
        there.len()
    );
    Ok(Answer::new(text, done))
}

pub(super) async fn preview(reach: &Reach, client: &Client, preview: Preview) -> Result<Answer, Failure> {
    let app = project::app(reach)?;
    let deployments = deployments(client, &app).await?;
    let wanted = |deployment: &&Value| preview.version.is_none_or(|version| deployment["version"] == version);
    let mut previews = Vec::new();
    for deployment in deployments.iter().filter(wanted) {
        let version = deployment["version"].as_i64().unwrap_or_default();
        let url = address::preview(client, &app, version).await?;
        previews.push(json!({ "version": version, "state": deployment["state"], "url": url }));
    }
    if previews.is_empty() && preview.version.is_some() {
        return Err(no_version(&app, preview.version, &deployments));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines: Vec<_> = previews
        .iter()
        .map(|preview| {
            vec![
                preview["version"].to_string(),
                text(&preview["state"]),
                text(&preview["url"]),
            ]
        })
        .collect();
    Ok(Answer::new(
        aligned(&["version", "state", "preview"], &lines),
        Value::Array(previews),
    ))
}

async fn deployments(client: &Client, app: &str) -> Result<Vec<Value>, Failure> {
    client.list(&format!("/v1/apps/{}/deployments", part(app))).await
}

fn no_version(app: &str, version: Option<i64>, deployments: &[Value]) -> Failure {
    let Some(version) = version else {
        return Failure::new("not_found", format!("{app} has no versions")).help("`selvedge deploy` makes one");
    };
    let failure = Failure::new("not_found", format!("{app} has no version {version}"));
    match deployments.first() {
        Some(newest) => failure.help(format!(
            "the newest is {}; `selvedge versions` shows all",
            newest["version"]
        )),
        None => failure.help("`selvedge deploy` makes one"),
    }
}
