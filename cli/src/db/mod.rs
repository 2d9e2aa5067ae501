//! `selvedge db`: replicated databases by hand, through any agent of the cluster.

mod agent;
mod csv;
mod export;
mod import;
mod lag;
mod lifecycle;
mod migrate;
pub(crate) mod rows;
mod shell;
pub(crate) mod time;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use agent::Agent;
use clap::{Args, Subcommand};

use crate::outcome::{self, Answer, Failure};
use crate::progress;

#[derive(Args)]
pub(crate) struct Db {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: Command,
}

/// How the agent is reached, and how it is answered.
#[derive(Args)]
struct Reach {
    /// Socket or URL of an agent; otherwise the one of --config, or $SELVEDGE_AGENT.
    #[arg(long, global = true, value_name = "SOCKET|URL")]
    agent: Option<String>,
    /// The cluster's secret, for a URL; otherwise $SELVEDGE_TOKEN.
    #[arg(long, global = true)]
    token: Option<String>,
    /// PEM file of authorities that a URL's certificate may be of, besides the machine's own; otherwise $SELVEDGE_CA.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Take the agent of this configuration.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make an empty database.
    Create { name: String },
    /// List the databases, and those that can still be undeleted.
    List,
    /// Run SQL by hand: reads from this agent's copy, writes at the primary.
    Shell(shell::Shell),
    /// Take in a SQLite file, a SQL script or a CSV file.
    Import(import::Import),
    /// Write a database to a SQLite file, as SQL, or one table as CSV.
    Export(export::Export),
    /// Apply the migrations of a folder that are new.
    Migrate(migrate::Migrate),
    /// Copy a database to a new one.
    Branch(lifecycle::Branch),
    /// Bring an earlier state of a database back, from the primary's store.
    Restore(lifecycle::Restore),
    /// Say how far behind each copy is.
    Lag { name: Option<String> },
    /// Read all of a database and compare it with the log.
    Verify { name: String },
    /// Write a database anew, without its free pages; replicas copy it anew.
    Vacuum { name: String },
    /// Delete a database; until its grace is over it can be undeleted.
    Delete(lifecycle::Delete),
    /// Bring a deleted database back.
    Undelete { name: String },
}

pub(crate) fn run(db: Db) -> ExitCode {
    let as_json = db.reach.json;
    outcome::end(answer(db), as_json)
}

fn answer(db: Db) -> Result<(), Failure> {
    let as_json = db.reach.json;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("runtime", error.to_string()))?;
    let agent = runtime.block_on(async { Agent::find(&db.reach) })?;
    let answer = match db.command {
        // It answers by itself, line by line, and waits for somebody who types.
        Command::Shell(shell) => return shell::run(&runtime, &agent, shell, as_json),
        Command::Export(export) => runtime.block_on(export::run(&agent, export, as_json))?,
        Command::Create { name } => runtime.block_on(lifecycle::create(&agent, &name))?,
        Command::List => runtime.block_on(lifecycle::list(&agent))?,
        Command::Import(import) => runtime.block_on(import::run(&agent, import, as_json))?,
        Command::Migrate(migrate) => runtime.block_on(migrate::run(&agent, migrate))?,
        Command::Branch(branch) => runtime.block_on(lifecycle::branch(&agent, branch, as_json))?,
        Command::Restore(restore) => runtime.block_on(lifecycle::restore(&agent, restore, as_json))?,
        Command::Lag { name } => runtime.block_on(lag::run(&agent, name.as_deref()))?,
        Command::Verify { name } => runtime.block_on(verify::run(&agent, &name, as_json))?,
        Command::Vacuum { name } => runtime.block_on(lifecycle::vacuum(&agent, &name))?,
        Command::Delete(delete) => runtime.block_on(lifecycle::delete(&agent, delete))?,
        Command::Undelete { name } => runtime.block_on(lifecycle::undelete(&agent, &name))?,
    };
    answer.print(as_json);
    Ok(())
}
