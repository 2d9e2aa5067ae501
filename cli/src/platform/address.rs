//! Where an app is reached.

use serde_json::Value;

use super::client::{Client, part};
use crate::outcome::Failure;

/// What stands for the domain that each operator chooses, until control says it.
const UNKNOWN: &str = "<domain>";

/// The app's own domains, or its address below the edge's.
pub(super) async fn of(client: &Client, app: &str) -> Result<Vec<String>, Failure> {
    let domains = client.list(&format!("/v1/apps/{}/domains", part(app))).await?;
    let hosts: Vec<String> = domains
        .iter()
        .filter_map(|domain| domain["host"].as_str())
        .map(url)
        .collect();
    if !hosts.is_empty() {
        return Ok(hosts);
    }
    Ok(vec![url(&format!("{app}.{}", base(client, app).await?))])
}

/// Where one version is seen before it serves.
pub(super) async fn preview(client: &Client, app: &str, version: i64) -> Result<String, Failure> {
    Ok(url(&format!("{app}-v{version}.{}", base(client, app).await?)))
}

/// The domain below which every app is, if control says one.
async fn base(client: &Client, app: &str) -> Result<String, Failure> {
    let known: Value = client.get(&format!("/v1/apps/{}", part(app))).await?;
    let said = known["domain"].as_str().unwrap_or(UNKNOWN);
    Ok(said.to_owned())
}

fn url(host: &str) -> String {
    match host.ends_with("localhost") {
        true => format!("http://{host}"),
        false => format!("https://{host}"),
    }
}
