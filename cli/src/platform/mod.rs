//! The command line for developers: one file a family of commands, all through control's API.
//!
//! `profile` says which control is asked and as whom, `client` asks it, `project` finds `selvedge.yaml`.

mod profile;

mod client;

mod project;

mod files;

mod address;

mod login;

mod init;

mod edge_file;

mod build;

mod dev;

mod deploy;

mod versions;

mod versioned;

mod variables;

mod domains;

mod cache;

mod keys;

mod cluster;

mod audit;

mod import;

mod doctor;

mod completion;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Subcommand};

use crate::outcome::{self, Answer, Failure};
use client::Client;
use profile::Target;

/// Which control, which app, and how it is answered.
#[derive(Args)]
pub(crate) struct Reach {
    /// The profile, as `selvedge login` made it; otherwise the one last logged in to.
    #[arg(long, global = true, value_name = "NAME", env = "SELVEDGE_PROFILE")]
    profile: Option<String>,
    /// Address of control; the key for it is the profile's, or $SELVEDGE_TOKEN.
    #[arg(long, global = true, value_name = "URL", env = "SELVEDGE_CONTROL")]
    control: Option<String>,
    /// PEM file of authorities that control's certificate may be of, besides the machine's own.
    #[arg(long, global = true, value_name = "FILE", env = "SELVEDGE_CA")]
    ca: Option<PathBuf>,
    /// The project's folder, or its file; otherwise this folder, or the nearest above it with a selvedge.yaml.
    #[arg(long, global = true, value_name = "FOLDER")]
    project: Option<PathBuf>,
    /// The app; otherwise the project's.
    #[arg(long, global = true, value_name = "NAME")]
    app: Option<String>,
    /// Answer in JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// A command and what all of them take.
#[derive(Args)]
pub(crate) struct With<T: Args> {
    #[command(flatten)]
    command: T,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check a key and remember it with its control.
    Login(With<login::Login>),
    /// Forget the key of a profile.
    Logout(With<login::Logout>),
    /// Write a small project to start from.
    Init(With<init::Init>),
    /// Serve the project on this machine, and again when it changes.
    Dev(With<dev::Dev>),
    /// Run the project's build command, and check the result as a PoP would.
    Build(With<build::Build>),
    /// Build, upload, prepare on every PoP, and let it serve.
    Deploy(With<deploy::Deploy>),
    /// List an app's versions, and which serves whom.
    Versions(With<versions::Versions>),
    /// Let a part of the clients get a version.
    Rollout(With<versions::Rollout>),
    /// Go back to what served before, or to a version.
    Rollback(With<versions::Rollback>),
    /// Say where versions are seen before they serve.
    Preview(With<versions::Preview>),
    /// Feature flags.
    Flags(With<versioned::Flags>),
    /// Settings: any JSON, for handlers to read.
    Config(With<versioned::Config>),
    /// Environment variables of an app's handlers.
    Env(With<variables::Env>),
    /// Secrets of an app's handlers.
    Secret(With<variables::Secret>),
    /// The hosts an app answers for.
    Domains(With<domains::Domains>),
    /// The caches of all PoPs.
    Cache(With<cache::Cache>),
    /// Keys: who may do what.
    #[command(alias = "team")]
    Keys(With<keys::Keys>),
    /// The PoPs.
    Cluster(With<cluster::Cluster>),
    /// What was changed, by whom.
    Audit(With<audit::Audit>),
    /// Make a selvedge.yaml of another platform's file.
    Import(With<import::Import>),
    /// Look for what stands between this machine and a deployment.
    Doctor(With<doctor::Doctor>),
    /// Print the completion of the command line for a shell.
    Completion(completion::Completion),
}

/// `Arguments` is the whole command line, for its completion.
pub(crate) fn run<Arguments: CommandFactory>(command: Command) -> ExitCode {
    let (answered, as_json) = match command {
        Command::Completion(command) => {
            completion::run::<Arguments>(&command);
            return ExitCode::SUCCESS;
        }
        Command::Init(With { command, reach }) => (init::run(command), reach.json),
        Command::Dev(With { command, reach }) => return outcome::end(dev::run(&reach, command), reach.json),
        Command::Build(With { reach, .. }) => (build::run(&reach), reach.json),
        Command::Import(With { command, reach }) => (import::run(&command), reach.json),
        Command::Logout(With { reach, .. }) => (login::logout(&reach), reach.json),
        Command::Login(With { command, reach }) => (block_on(login::login(&reach, command)), reach.json),
        Command::Doctor(With { reach, .. }) => (block_on(doctor::run(&reach)), reach.json),
        Command::Deploy(with) => asked(with, async |reach, client, command| {
            deploy::run(reach, client, command).await
        }),
        Command::Versions(with) => asked(with, async |reach, client, _| versions::list(reach, client).await),
        Command::Rollout(with) => asked(with, async |reach, client, command| {
            versions::rollout(reach, client, command).await
        }),
        Command::Rollback(with) => asked(with, async |reach, client, command| {
            versions::rollback(reach, client, command).await
        }),
        Command::Preview(with) => asked(with, async |reach, client, command| {
            versions::preview(reach, client, command).await
        }),
        Command::Flags(with) => asked(with, async |reach, client, command| {
            versioned::flags(reach, client, command).await
        }),
        Command::Config(with) => asked(with, async |reach, client, command| {
            versioned::config(reach, client, command).await
        }),
        Command::Env(with) => asked(with, async |reach, client, command| {
            variables::env(reach, client, command).await
        }),
        Command::Secret(with) => asked(with, async |reach, client, command| {
            variables::secret(reach, client, command).await
        }),
        Command::Domains(with) => asked(with, async |reach, client, command| {
            domains::run(reach, client, command).await
        }),
        Command::Cache(with) => asked(with, async |reach, client, command| {
            cache::run(reach, client, command).await
        }),
        Command::Keys(with) => asked(with, async |_, client, command| keys::run(client, command).await),
        Command::Cluster(with) => asked(with, async |_, client, command| cluster::run(client, command).await),
        Command::Audit(with) => asked(with, async |_, client, command| audit::run(client, command).await),
    };
    outcome::end(answered.map(|answer| answer.print(as_json)), as_json)
}

/// The answer of a command that asks control, and whether it is wanted in JSON.
fn asked<T: Args>(
    with: With<T>,
    command: impl AsyncFnOnce(&Reach, &Client, T) -> Result<Answer, Failure>,
) -> (Result<Answer, Failure>, bool) {
    let With {
        command: arguments,
        reach,
    } = with;
    let answered = block_on(async {
        let client = Client::of(Target::find(&reach)?)?;
        command(&reach, &client, arguments).await
    });
    (answered, reach.json)
}

fn block_on(answering: impl Future<Output = Result<Answer, Failure>>) -> Result<Answer, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("runtime", error.to_string()))?
        .block_on(answering)
}
