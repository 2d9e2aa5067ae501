//! `selvedge doctor`: what stands between a developer and a deployment.

use std::process::{Command, Stdio};
use std::time::SystemTime;

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::profile::Target;
use super::project::Found;
use super::{Reach, cluster, files, project};
use crate::db::rows::aligned;
use crate::outcome::{Answer, Failure};

/// More, and times in control's log and certificates' dates mislead.
const SKEW_SECONDS: i64 = 5;

#[derive(Args)]
pub(crate) struct Doctor {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Well,
    /// Something may surprise.
    Note,
    Wrong,
    /// It depends on something that is wrong, or is not there.
    Skipped,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Well => "ok",
            Verdict::Note => "note",
            Verdict::Wrong => "wrong",
            Verdict::Skipped => "skipped",
        }
    }
}

struct Finding {
    what: &'static str,
    verdict: Verdict,
    said: String,
}

pub(super) async fn run(reach: &Reach) -> Result<Answer, Failure> {
    let mut findings = Vec::new();
    let mut add = |what, verdict, said: String| findings.push(Finding { what, verdict, said });
    match Target::find(reach) {
        Err(failure) => add("profile", Verdict::Wrong, told(&failure)),
        Ok(target) => {
            let from = target.profile.as_deref().unwrap_or("the command line or environment");
            add("profile", Verdict::Well, format!("{} from {from}", target.url));
            match Client::of(target) {
                Err(failure) => add("control", Verdict::Wrong, told(&failure)),
                Ok(client) => control(&client, &mut add).await,
            }
        }
    }
    match project::find(reach) {
        Ok(found) => of_project(&found, &mut add),
        Err(failure) => {
            let verdict = match told(&failure).starts_with("there is no selvedge.yaml") && reach.project.is_none() {
                true => Verdict::Skipped,
                false => Verdict::Wrong,
            };
            add("project", verdict, told(&failure));
        }
    }
    let wrong = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Wrong)
        .count();
    let lines: Vec<_> = findings
        .iter()
        .map(|finding| {
            vec![
                finding.what.to_owned(),
                finding.verdict.word().to_owned(),
                finding.said.clone(),
            ]
        })
        .collect();
    let items: Vec<Value> = findings
        .iter()
        .map(|finding| json!({ "check": finding.what, "verdict": finding.verdict.word(), "said": finding.said }))
        .collect();
    let answer = Answer::new(
        aligned(&["check", "", ""], &lines),
        json!({ "wrong": wrong, "checks": items }),
    );
    if wrong == 0 {
        return Ok(answer);
    }
    answer.print(reach.json);
    Err(Failure::new(
        "doctor",
        format!("{wrong} of {} checks found something wrong", findings.len()),
    ))
}

async fn control(client: &Client, add: &mut impl FnMut(&'static str, Verdict, String)) {
    let asked = SystemTime::now();
    match client.send(client.request(Method::GET, "/healthz")).await {
        Err(denied) => return add("control", Verdict::Wrong, told(&denied.failure)),
        Ok(response) => {
            let date = response.headers().get("date").and_then(|date| date.to_str().ok());
            let there = date.and_then(|date| httpdate::parse_http_date(date).ok());
            add("control", Verdict::Well, "it answers".to_owned());
            match there {
                None => add("clock", Verdict::Skipped, "control did not say its time".to_owned()),
                Some(there) => {
                    let skew = skew_seconds(asked, there);
                    match skew.abs() <= SKEW_SECONDS {
                        true => add("clock", Verdict::Well, "as control's".to_owned()),
                        false => add(
                            "clock",
                            Verdict::Note,
                            format!("control's is {skew} s ahead: set one of them right"),
                        ),
                    }
                }
            }
        }
    }
    match client.send(client.request(Method::GET, "/readyz")).await {
        Ok(_) => add("databases", Verdict::Well, "control reaches them".to_owned()),
        Err(denied) => add("databases", Verdict::Wrong, told(&denied.failure)),
    }
    let key = match client.get("/v1/keys/self").await {
        Err(denied) => return add("key", Verdict::Wrong, told(&denied.failure)),
        Ok(key) => key,
    };
    let text = |field: &str| key[field].as_str().unwrap_or_default();
    let said = format!("{} is valid, {}", text("name"), text("role"));
    match text("role") {
        "viewer" => add("key", Verdict::Note, format!("{said}: it may not deploy")),
        _ => add("key", Verdict::Well, said),
    }
    match cluster::pops(client).await {
        Err(failure) => add("PoPs", Verdict::Skipped, told(&failure)),
        Ok(pops) if pops.is_empty() => add(
            "PoPs",
            Verdict::Note,
            "there are none: deployments serve nobody yet".to_owned(),
        ),
        Ok(pops) => {
            let silent = pops
                .iter()
                .filter(|pop| pop["live"] != true)
                .filter_map(|pop| pop["name"].as_str());
            let silent: Vec<&str> = silent.collect();
            match silent.is_empty() {
                true => add("PoPs", Verdict::Well, format!("{} live", pops.len())),
                false => add(
                    "PoPs",
                    Verdict::Note,
                    format!("not heard lately: {}", silent.join(", ")),
                ),
            }
        }
    }
}

fn of_project(found: &Found, add: &mut impl FnMut(&'static str, Verdict, String)) {
    add(
        "project",
        Verdict::Well,
        format!("{} in {}", found.project.app, found.folder.display()),
    );
    match files::collect(found) {
        Ok(files) => add("files", Verdict::Well, format!("{} to be deployed", files.len())),
        Err(failure) if found.project.build.command.is_some() => {
            add(
                "files",
                Verdict::Note,
                format!("not all are there; `selvedge build` makes them: {}", told(&failure)),
            );
        }
        Err(failure) => add("files", Verdict::Wrong, told(&failure)),
    }
    if found.folder.join("Cargo.toml").exists() {
        add_tool(add, "cargo", &["cargo", "--version"], "install Rust: https://rustup.rs");
        let targets = said(&["rustup", "target", "list", "--installed"]).unwrap_or_default();
        match targets.contains("wasm32-wasip2") {
            true => add("wasm32-wasip2", Verdict::Well, "installed".to_owned()),
            false => add(
                "wasm32-wasip2",
                Verdict::Wrong,
                "missing: rustup target add wasm32-wasip2".to_owned(),
            ),
        }
    }
    if found.folder.join("package.json").exists() {
        add_tool(add, "node", &["node", "--version"], "install Node 20 or newer");
        add_tool(add, "npm", &["npm", "--version"], "install npm");
        match found.folder.join("node_modules").is_dir() {
            true => add("packages", Verdict::Well, "installed".to_owned()),
            false => add("packages", Verdict::Note, "not installed: npm install".to_owned()),
        }
    }
}

fn add_tool(add: &mut impl FnMut(&'static str, Verdict, String), what: &'static str, command: &[&str], missing: &str) {
    match said(command) {
        Some(version) => add(what, Verdict::Well, version.trim().to_owned()),
        None => add(what, Verdict::Wrong, format!("missing: {missing}")),
    }
}

/// What a program writes, when it is there and ends well.
fn said(command: &[&str]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Seconds that `there` is ahead of `here`.
fn skew_seconds(here: SystemTime, there: SystemTime) -> i64 {
    match there.duration_since(here) {
        Ok(ahead) => ahead.as_secs() as i64,
        Err(behind) => -(behind.duration().as_secs() as i64),
    }
}

fn told(failure: &Failure) -> String {
    match failure {
        Failure::Usage(message) => message.clone(),
        Failure::Failed { message, help, .. } => {
            let help = help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{}{help}", message.replace('\n', " "))
        }
    }
}
