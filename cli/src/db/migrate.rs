//! `db migrate`: the files of a folder, applied at the primary in order, each once.

use std::path::PathBuf;

use clap::Args;
use selvedge_replication::migrate;
use serde_json::{Value, json};

use super::agent::Agent;
use super::{Answer, Failure};

#[derive(Args)]
pub(super) struct Migrate {
    name: String,
    /// Folder of files named like 0001_create_users.sql.
    folder: PathBuf,
    /// Say what would be applied, and undo it.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(agent: &Agent, Migrate { name, folder, dry_run }: Migrate) -> Result<Answer, Failure> {
    let files = migrate::read_files(&folder).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        Failure::new("file", format!("{error}{cause}"))
    })?;
    let sent: Vec<Value> = files
        .values()
        .map(|migration| json!({ "file": migration.file(), "sql": migration.sql() }))
        .collect();
    let path = format!("/v1/databases/{name}/migrate");
    let done: Value = agent.post(&path, &json!({ "files": sent, "dry_run": dry_run })).await?;
    if !dry_run {
        agent.wait_until_here(&name, &done["head"]).await?;
    }
    let applied = done["applied"].as_array().map(Vec::as_slice).unwrap_or_default();
    let word = if dry_run { "would be applied" } else { "applied" };
    let lines = applied
        .iter()
        .filter_map(|file| file.as_str().map(|file| format!("{word}: {file}")));
    let text = lines.collect::<Vec<_>>().join("\n");
    let text = match text.is_empty() {
        true => format!("{name} has every migration of {}", folder.display()),
        false => text,
    };
    Ok(Answer::new(text, done))
}
