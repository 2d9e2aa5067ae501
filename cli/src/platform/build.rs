//! `selvedge build`: runs the project's command, then builds what it describes as a PoP would, and serves nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use clap::Args;
use selvedge_proxy::OpenError;
use selvedge_schema::Colour;
use serde_json::{Value, json};

use super::Reach;
use super::edge_file::{EdgeFile, literal};
use super::files::{self, Deployed};
use super::project::{self, Found};
use crate::explain;
use crate::outcome::{Answer, Failure};
use crate::progress;

/// What a PoP has besides a deployment.
const CHECKED: [&str; 2] = [
    "agent: { primary: \"https://primary.invalid\" }",
    "listeners: [{ address: \"127.0.0.1:0\" }]",
];

#[derive(Args)]
pub(crate) struct Build {}

pub(super) fn run(reach: &Reach) -> Result<Answer, Failure> {
    let found = project::find(reach)?;
    let files = built(&found, reach.json)?;
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let text = format!(
        "{} is ready to be deployed: {} files, {}",
        found.project.app,
        files.len(),
        crate::db::time::bytes(bytes)
    );
    let listed = files
        .iter()
        .map(|file| json!({ "path": file.path, "digest": file.digest, "bytes": file.bytes }));
    let listed: Vec<Value> = listed.collect();
    Ok(Answer::new(text, json!({ "app": found.project.app, "files": listed })))
}

/// What is deployed, made by the project's command and checked.
pub(super) fn built(found: &Found, silent: bool) -> Result<Vec<Deployed>, Failure> {
    if let Some(command) = &found.project.build.command {
        run_command(found, command)?;
    }
    checked(found, silent)
}

/// What is deployed, as it lies there.
pub(super) fn checked(found: &Found, silent: bool) -> Result<Vec<Deployed>, Failure> {
    let files = files::collect(found)?;
    let bar = progress::spinner("building as a PoP would", silent);
    let outcome = check(found);
    bar.finish_and_clear();
    outcome.map(|()| files)
}

fn run_command(found: &Found, command: &str) -> Result<(), Failure> {
    eprintln!("$ {command}");
    let status = shell(found, command).status().map_err(|error| no_shell(&error))?;
    judge(command, status)
}

/// The project's command. Its output goes to standard error: standard output is the answer's.
pub(super) fn shell(found: &Found, command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .current_dir(&found.folder)
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    shell
}

pub(super) fn no_shell(error: &std::io::Error) -> Failure {
    Failure::new("build", format!("`sh -c` cannot be run: {error}"))
}

pub(super) fn judge(command: &str, status: ExitStatus) -> Result<(), Failure> {
    match status.success() {
        true => Ok(()),
        false => {
            let failure = Failure::new("build", format!("`{command}` failed: {status}"));
            Err(failure.help("what it wrote stands above; `build.command` in selvedge.yaml says what is run"))
        }
    }
}

/// Builds the manifest in a folder of its own, the way `selvedge check` builds an edge's file.
fn check(found: &Found) -> Result<(), Failure> {
    let scratch = tempfile::tempdir().map_err(|error| Failure::new("folder", error.to_string()))?;
    let file = scratch.path().join("edge.yaml");
    let secrets = place_secrets(found, scratch.path()).map_err(|error| Failure::new("folder", error.to_string()))?;
    let head = CHECKED
        .map(str::to_owned)
        .into_iter()
        .chain([secrets])
        .collect::<Vec<_>>();
    let edge = EdgeFile::of(found, &head, &BTreeMap::new());
    std::fs::write(&file, edge.text()).map_err(|error| Failure::file(&file, &error))?;
    // It has threads and runtimes of its own, which cannot end inside another.
    let checked = std::thread::scope(|scope| {
        let check = scope.spawn(|| selvedge_proxy::check(&file, Colour::Plain));
        check.join()
    });
    let checked = checked.map_err(|_| Failure::new("check", "the check itself failed").help("please report it"))?;
    match checked {
        Ok(_) => Ok(()),
        Err(OpenError::Invalid(text)) => Err(edge.explain(found, &file.display().to_string(), &text)),
        Err(error) => Err(Failure::new("check", explain(&error).trim_start_matches("error: "))),
    }
}

/// Something for every secret that a handler reads: what it is stays with control. Returns the line that says where.
fn place_secrets(found: &Found, scratch: &Path) -> std::io::Result<String> {
    let folder = scratch.join("secrets");
    std::fs::create_dir(&folder)?;
    for name in found
        .project
        .document
        .config
        .handlers
        .values()
        .flat_map(|handler| &handler.secrets)
    {
        std::fs::write(folder.join(name), "not the secret")?;
    }
    Ok(format!(
        "secrets_dir: {}",
        json!(literal(&folder.display().to_string()))
    ))
}
