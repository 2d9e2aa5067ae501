//! `selvedge audit`: what was changed, by whom.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use crate::db::rows::aligned;
use crate::db::time::moment;
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Audit {
    /// Newest changes that are shown.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
    /// Read the whole log, and say whether it is what was written.
    #[arg(long, conflicts_with = "limit")]
    verify: bool,
}

pub(super) async fn run(client: &Client, audit: Audit) -> Result<Answer, Failure> {
    if audit.verify {
        let verified = client.get("/v1/audit/verify").await?;
        if let Some(number) = verified["broken_at"].as_i64() {
            let failure = Failure::new(
                "broken",
                format!("entry {number} of the audit log is not what was written"),
            );
            return Err(failure.help("somebody has changed control's database by hand; compare it with a backup"));
        }
        let hash = verified["hash"].as_str().unwrap_or_default();
        let text = format!(
            "all {} entries are what was written; the newest has the hash {hash}",
            verified["entries"]
        );
        return Ok(Answer::new(text, verified));
    }
    let page = client.get(&format!("/v1/audit?limit={}", audit.limit)).await?;
    let items = page["items"].as_array().cloned().unwrap_or_default();
    let lines: Vec<_> = items
        .iter()
        .map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let at = moment(entry["at_ms"].as_i64().unwrap_or_default());
            vec![
                entry["number"].to_string(),
                at,
                text("actor"),
                text("action"),
                text("subject"),
            ]
        })
        .collect();
    Ok(Answer::new(
        aligned(&["", "at", "by key", "change", "of"], &lines),
        Value::Array(items),
    ))
}
