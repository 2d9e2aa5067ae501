//! `selvedge deploy`: built, uploaded, prepared on every PoP, activated, there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use reqwest::{Body, Method};
use serde_json::{Value, json};

use super::Reach;
use super::client::{Client, Denied, is_passing, part};
use super::files::Deployed;
use super::{address, build, project};
use crate::outcome::{Answer, Failure};
use crate::progress;

/// Files that are uploaded at one time.
const UPLOADS: usize = 4;
/// Tries of one upload.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(300);
/// An upload may be slow; one that stands still is tried again by its connection's end.
const UPLOAD: Duration = Duration::from_secs(30 * 60);
/// How often PoPs are asked whether they have prepared it.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long PoPs may take: a PoP compiles each component once.
const PREPARING: Duration = Duration::from_secs(10 * 60);
/// How long the change may take to be everywhere.
const SPREADING: Duration = Duration::from_secs(2 * 60);

#[derive(Args)]
pub(crate) struct Deploy {
    /// Upload and prepare it, and let nobody see it but at its preview address.
    #[arg(long)]
    no_activate: bool,
    /// Let this part of the clients see it, the same ones each time.
    #[arg(long, value_name = "N", value_parser = super::versions::parse_percent, conflicts_with = "no_activate")]
    percent: Option<u8>,
    /// Deploy what lies there; run no command.
    #[arg(long)]
    skip_build: bool,
}

pub(super) async fn run(reach: &Reach, client: &Client, deploy: Deploy) -> Result<Answer, Failure> {
    let found = project::find(reach)?;
    let app = reach.app.clone().unwrap_or_else(|| found.project.app.clone());
    let files = match deploy.skip_build {
        true => build::checked(&found, reach.json)?,
        false => build::built(&found, reach.json)?,
    };
    let blobs = files
        .iter()
        .map(|file| json!({ "path": file.path, "digest": file.digest }));
    let body = json!({ "manifest": found.project.manifest, "blobs": blobs.collect::<Vec<_>>() });
    let made = create(client, &app, &body, &files, reach.json).await?;
    let version = made["version"].as_i64().unwrap_or_default();
    let id = made["id"].as_str().unwrap_or_default().to_owned();
    prepared(client, &id, version, reach.json).await?;
    let preview = address::preview(client, &app, version).await?;
    if deploy.no_activate {
        let whole = client.get(&format!("/v1/deployments/{id}")).await?;
        let text = format!(
            "version {version} of {app} is prepared, and nobody sees it yet\npreview: {preview}\nselvedge rollout 100% {version} lets everybody see it"
        );
        return Ok(Answer::new(text, json!({ "deployment": whole, "preview": preview })));
    }
    let (started, begun_ms) = (Instant::now(), now_ms());
    let activated = activate(client, &id, deploy.percent).await?;
    let there = spread_since(client, &activated["revision"], begun_ms, reach.json).await?;
    let addresses = address::of(client, &app).await?;
    let share = match deploy.percent {
        Some(percent @ 0..100) => format!("serves {percent}% of the clients"),
        _ => "serves".to_owned(),
    };
    let mut text = format!(
        "version {version} of {app} {share}, after {} ms\n",
        started.elapsed().as_millis()
    );
    for (pop, took) in &there {
        text.push_str(&format!("  {pop}: {took}\n"));
    }
    text.push_str(
        &addresses
            .iter()
            .chain([&format!("preview: {preview}")])
            .cloned()
            .collect::<Vec<_>>()
            .join("\n"),
    );
    let pops: serde_json::Map<String, Value> = there.into_iter().map(|(pop, took)| (pop, took.json())).collect();
    Ok(Answer::new(
        text,
        json!({
            "deployment": activated["deployment"],
            "revision": activated["revision"],
            "pops": pops,
            "urls": addresses,
            "preview": preview,
        }),
    ))
}

/// Makes the deployment; uploads what control does not have, and makes the app when there is none.
async fn create(client: &Client, app: &str, body: &Value, files: &[Deployed], silent: bool) -> Result<Value, Failure> {
    let path = format!("/v1/apps/{}/deployments", part(app));
    // Once for the app, once for the files, and once more for files that control has let go meanwhile.
    for _ in 0..3 {
        let denied = match client.post(&path, body).await {
            Ok(made) => return Ok(made),
            Err(denied) => denied,
        };
        if let Some(missing) = denied.problem["missing"].as_array() {
            let missing: BTreeSet<&str> = missing.iter().filter_map(Value::as_str).collect();
            upload(client, files, &missing, silent).await?;
        } else if denied.failure.code() == "not_found" {
            made_app(client, app, silent).await?;
        } else {
            return Err(denied.failure);
        }
    }
    client.post(&path, body).await.map_err(Failure::from)
}

async fn made_app(client: &Client, app: &str, silent: bool) -> Result<(), Failure> {
    match client.post("/v1/apps", &json!({ "name": app })).await {
        Ok(_) => {
            if !silent {
                eprintln!("the app {app} is new");
            }
            Ok(())
        }
        // Somebody else was faster.
        Err(denied) if denied.failure.code() == "exists" => Ok(()),
        Err(denied) => Err(denied.failure),
    }
}

async fn upload(client: &Client, files: &[Deployed], missing: &BTreeSet<&str>, silent: bool) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    let wanted: Vec<&Deployed> = files
        .iter()
        .filter(|file| missing.contains(file.digest.as_str()) && seen.insert(&file.digest))
        .collect();
    let total = wanted.iter().map(|file| file.bytes).sum();
    let bar = progress::bytes("uploading", Some(total), silent);
    let uploads = futures::stream::iter(wanted.into_iter().map(|file| put(client, file, &bar)));
    let done = uploads.buffer_unordered(UPLOADS).try_collect::<Vec<()>>().await;
    bar.finish_and_clear();
    done.map(drop)
}

/// One blob. Under a digest there is one content, so it may be sent again.
async fn put(client: &Client, file: &Deployed, bar: &ProgressBar) -> Result<(), Failure> {
    let mut pause = PAUSE;
    let mut left = TRIES;
    loop {
        left -= 1;
        let before = bar.position();
        match put_once(client, file, bar).await {
            Ok(()) => return Ok(()),
            Err(denied) if left > 0 && is_passing(&denied) => bar.set_position(before),
            Err(denied) if denied.failure.code() == "invalid" => {
                let failure = Failure::new("changed", format!("{} changed while it was uploaded", file.path));
                return Err(failure.help("deploy again when nothing writes to it"));
            }
            Err(denied) => return Err(denied.failure),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

async fn put_once(client: &Client, file: &Deployed, bar: &ProgressBar) -> Result<(), Denied> {
    let opened = tokio::fs::File::open(&file.file).await;
    let opened = opened.map_err(|error| Failure::file(&file.file, &error))?;
    let counted = bar.clone();
    let pieces = futures::stream::try_unfold((opened, counted), async |(mut file, bar)| {
        use tokio::io::AsyncReadExt;
        let mut piece = vec![0; 128 * 1024];
        let length = file.read(&mut piece).await?;
        piece.truncate(length);
        bar.inc(length as u64);
        Ok::<_, std::io::Error>((length > 0).then_some((piece, (file, bar))))
    });
    let request = client
        .request(Method::PUT, &format!("/v1/blobs/{}", file.digest))
        .timeout(UPLOAD)
        .header("content-length", file.bytes)
        .body(Body::wrap_stream(pieces));
    client.send(request).await.map(drop)
}

/// Returns when every live PoP could serve it; control judges that where there is none.
async fn prepared(client: &Client, id: &str, version: i64, silent: bool) -> Result<(), Failure> {
    let path = format!("/v1/deployments/{id}");
    let bar = progress::spinner("PoPs prepare it", silent);
    let started = Instant::now();
    let outcome = loop {
        let whole = match client.get(&path).await {
            Ok(whole) => whole,
            Err(denied) => break Err(denied.failure),
        };
        match whole["state"].as_str() {
            Some("failed") => break Err(failed(&whole, version)),
            Some("uploaded") => {}
            _ => break Ok(()),
        }
        let waiting = match waiting(client, &whole).await {
            Ok(waiting) => waiting,
            Err(failure) => break Err(failure),
        };
        if waiting.is_empty() {
            break Ok(());
        }
        if started.elapsed() > PREPARING {
            let failure = Failure::new(
                "not_prepared",
                format!("version {version} is not prepared by {}", waiting.join(", ")),
            );
            break Err(failure.help("`selvedge cluster list` shows when each was heard; remove those that are gone"));
        }
        bar.set_message(format!("waiting for {}", waiting.join(", ")));
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    bar.finish_and_clear();
    outcome
}

/// Live PoPs that have not said anything of it.
async fn waiting(client: &Client, whole: &Value) -> Result<Vec<String>, Failure> {
    let said = |pop: &str| {
        whole["pops"]
            .as_array()
            .is_some_and(|said| said.iter().any(|said| said["pop"] == pop))
    };
    // Revision 0 is everywhere: what comes back at once is who is live.
    let fleet = client.get("/v1/changes/0?wait_ms=0").await?;
    let live = fleet["pops"].as_object().into_iter().flatten();
    let live = live.filter(|(name, pop)| pop["live"] == true && !said(name));
    Ok(live.map(|(name, _)| name.clone()).collect())
}

fn failed(whole: &Value, version: i64) -> Failure {
    let mut message = format!("version {version} could not be prepared");
    for said in whole["pops"].as_array().into_iter().flatten() {
        let text = |key: &str| said[key].as_str().unwrap_or_default();
        message.push_str(&format!("\n  {}: {} {}", text("pop"), text("state"), text("message")));
    }
    Failure::new("not_prepared", message).help("mend what the PoPs say and deploy again; what serves now is untouched")
}

/// Lets it serve; a PoP that joined in this moment is waited for.
pub(super) async fn activate(client: &Client, id: &str, percent: Option<u8>) -> Result<Value, Failure> {
    let path = format!("/v1/deployments/{id}/activate");
    let body = match percent {
        Some(percent) => json!({ "percent": percent }),
        None => json!({}),
    };
    let started = Instant::now();
    loop {
        let denied = match client.post(&path, &body).await {
            Ok(activated) => return Ok(activated),
            Err(denied) => denied,
        };
        let is_waiting = denied.problem["waiting_for"]
            .as_array()
            .is_some_and(|waiting| !waiting.is_empty());
        if !is_waiting || started.elapsed() > PREPARING {
            let mut failure = denied.failure;
            if let Failure::Failed { message, .. } = &mut failure {
                for said in denied.problem["pops"].as_array().into_iter().flatten() {
                    let text = |key: &str| said[key].as_str().unwrap_or_default();
                    message.push_str(&format!("\n  {}: {} {}", text("pop"), text("state"), text("message")));
                }
            }
            return Err(failure);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// How long a PoP took to have a change.
pub(super) enum Took {
    Ms(i64),
    NotHeard,
}

impl Took {
    pub(super) fn json(&self) -> Value {
        match self {
            Took::Ms(ms) => json!({ "ms": ms }),
            Took::NotHeard => json!({ "ms": null, "live": false }),
        }
    }
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Took::Ms(ms) => write!(f, "{ms} ms"),
            Took::NotHeard => write!(f, "not heard lately; it gets it when it is back"),
        }
    }
}

/// Returns when every live PoP has the revision, with how long each took.
pub(super) async fn spread(client: &Client, revision: &Value, silent: bool) -> Result<Vec<(String, Took)>, Failure> {
    spread_since(client, revision, now_ms(), silent).await
}

/// The same for a change that was asked for at `begun_ms`. Control says when it heard of it, by its own clock.
async fn spread_since(
    client: &Client,
    revision: &Value,
    begun_ms: i64,
    silent: bool,
) -> Result<Vec<(String, Took)>, Failure> {
    let Some(revision) = revision.as_i64() else {
        return Ok(Vec::new());
    };
    let bar = progress::spinner("reaching every PoP", silent);
    let started = Instant::now();
    let known = loop {
        let known = client.get(&format!("/v1/changes/{revision}?wait_ms=10000")).await;
        match known {
            Ok(known) if known["propagated"] == true => break Ok(known),
            Ok(known) if started.elapsed() > SPREADING => {
                let pops = known["pops"].as_object().into_iter().flatten();
                let late = pops.filter(|(_, pop)| pop["live"] == true && pop["acknowledged_ms"].is_null());
                let late: Vec<&str> = late.map(|(name, _)| name.as_str()).collect();
                let failure = Failure::new(
                    "not_everywhere",
                    format!("it is done, but {} does not have it yet", late.join(", ")),
                );
                break Err(failure.help("`selvedge cluster list` shows how far each PoP is"));
            }
            Ok(_) => {}
            Err(denied) => break Err(denied.failure),
        }
    };
    bar.finish_and_clear();
    let known = known?;
    let pops = known["pops"].as_object().into_iter().flatten();
    let took = pops.map(|(name, pop)| {
        let took = match pop["acknowledged_ms"].as_i64() {
            Some(at) => Took::Ms((at - begun_ms).max(0)),
            None => Took::NotHeard,
        };
        (name.clone(), took)
    });
    Ok(took.collect())
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
