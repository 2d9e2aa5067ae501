//! `selvedge cache`: what the caches of all PoPs keep.

use std::time::Instant;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Reach;
use super::client::Client;
use super::deploy::spread;
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Cache {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Purge at every PoP, and wait until each has done it.
    Purge(Purge),
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Purge {
    /// One page, as its readers ask for it.
    #[arg(long)]
    url: Option<String>,
    /// All pages with this tag.
    #[arg(long)]
    tag: Option<String>,
    /// All pages.
    #[arg(long)]
    everything: bool,
}

pub(super) async fn run(reach: &Reach, client: &Client, cache: Cache) -> Result<Answer, Failure> {
    let Command::Purge(purge) = cache.command;
    let (body, what) = match (purge.url, purge.tag) {
        (Some(url), _) => (json!({ "url": url }), url),
        (None, Some(tag)) => (json!({ "tag": tag }), format!("the tag {tag}")),
        (None, None) => (json!({ "everything": true }), "everything".to_owned()),
    };
    let started = Instant::now();
    let done = client.post("/v1/purge", &body).await?;
    let there = spread(client, &done["revision"], reach.json).await?;
    let mut text = format!(
        "{what} is purged after {} ms, on {} PoPs",
        started.elapsed().as_millis(),
        there.len()
    );
    for (pop, took) in &there {
        text.push_str(&format!("\n  {pop}: {took}"));
    }
    let pops: serde_json::Map<String, Value> = there.into_iter().map(|(pop, took)| (pop, took.json())).collect();
    Ok(Answer::new(
        text,
        json!({ "id": done["id"], "revision": done["revision"], "pops": pops }),
    ))
}
