//! Where an app is reached.

use super::client::{Client, part};
use crate::outcome::Failure;

/// The app's own domains, or where control says that PoPs serve it.
pub(super) async fn of(client: &Client, app: &str) -> Result<Vec<String>, Failure> {
    let path = format!("/v1/apps/{}", part(app));
    let domains = client.list(&format!("{path}/domains")).await?;
    let hosts: Vec<String> = domains
        .iter()
        .filter_map(|domain| domain["host"].as_str())
        .map(url)
        .collect();
    if !hosts.is_empty() {
        return Ok(hosts);
    }
    let known = client.get(&path).await?;
    Ok(known["url"].as_str().map(str::to_owned).into_iter().collect())
}

/// Where one version is seen, whether it serves or not.
pub(super) async fn preview(client: &Client, app: &str, version: i64) -> Result<String, Failure> {
    let deployments = client.list(&format!("/v1/apps/{}/deployments", part(app))).await?;
    let found = deployments.iter().find(|one| one["version"] == version);
    let said = found.and_then(|one| one["preview_url"].as_str());
    let unknown = || {
        Failure::new(
            "not_found",
            format!("control names no address of version {version} of {app}"),
        )
    };
    said.map(str::to_owned).ok_or_else(unknown)
}

fn url(host: &str) -> String {
    match host.ends_with("localhost") {
        true => format!("http://{host}"),
        false => format!("https://{host}"),
    }
}
