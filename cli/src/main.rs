//! `selvedge`: the edge as one executable.
//!
//! Every command says on failure what to do next and ends with a status: 0 done, 1 refused or failed, 2 wrong usage.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod agent;
mod control;
mod db;
mod outcome;
mod platform;
mod progress;
mod service;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use selvedge_proxy::{OpenError, RunOptions};
use selvedge_schema::Colour;
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

/// A request allocates small things on one thread and frees them on another, which glibc's allocator does slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// pingora says at length what the access log says in a line, and calls a connection that was picked up by somebody else
/// in the same moment an error, and a client that left while its page was filled one of ours.
const LOG: &str = "info,pingora_core=warn,pingora_proxy=warn,pingora_proxy::proxy_custom=off,pingora_cache=error,\
                   pingora_core::connectors=off";

/// `selvedge dev` says itself what its proxy reloads, and whether it could.
const LOG_OF_DEV: &str = "warn,selvedge_proxy::server=off,selvedge_replication::client=off,pingora_core=error,\
                          pingora_proxy=error,pingora_proxy::proxy_custom=off,pingora_cache=off,\
                          pingora_core::connectors=off";

/// A self-hosted edge: proxy, cache and application handlers from one configuration file.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// How the process logs, on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "SELVEDGE_LOG_FORMAT")]
    log_format: LogFormat,
    /// What it logs, such as `warn` or `selvedge_proxy=debug`; otherwise what an operator wants to know.
    #[arg(long, global = true, env = "SELVEDGE_LOG")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Serve what FILE describes until SIGTERM or Ctrl-C; SIGHUP reloads it.
    Run {
        /// The configuration.
        file: PathBuf,
        /// Reload when the file changes.
        #[arg(long)]
        watch: bool,
        /// Write the addresses, as JSON, to this file once all listeners accept.
        #[arg(long, value_name = "PATH")]
        ready_file: Option<PathBuf>,
    },
    /// Keep the databases of this machine current, as FILE's `agent` says, until SIGTERM or Ctrl-C.
    Agent {
        /// The configuration.
        file: PathBuf,
        /// Write the address and the socket, as JSON, to this file once both accept.
        #[arg(long, value_name = "PATH")]
        ready_file: Option<PathBuf>,
    },
    /// Be the control plane that FILE's `control` says, beside its agent, until SIGTERM or Ctrl-C.
    Control {
        /// The configuration.
        file: PathBuf,
        /// Write the address, as JSON, to this file once the API accepts.
        #[arg(long, value_name = "PATH")]
        ready_file: Option<PathBuf>,
        /// Write the owner's key, which the first start makes, to this new file instead of showing it.
        #[arg(long, value_name = "PATH")]
        key_file: Option<PathBuf>,
    },
    /// Replicated databases by hand: make, look into, import, export, copy, check, delete.
    Db(db::Db),
    /// Build what FILE describes, completely, and serve nothing.
    Check {
        /// The configuration.
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration, for editors.
    Schema {
        /// Of a project's selvedge.yaml.
        #[arg(long)]
        project: bool,
    },
    #[command(flatten)]
    Platform(platform::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(&arguments);
    let outcome = match arguments.command {
        Command::Run {
            file,
            watch,
            ready_file,
        } => run(RunOptions {
            config: file,
            ready_file,
            watch,
        }),
        Command::Agent { file, ready_file } => agent::run(&file, ready_file.as_deref()),
        Command::Control {
            file,
            ready_file,
            key_file,
        } => control::run(&file, ready_file.as_deref(), key_file.as_deref()),
        Command::Db(arguments) => return db::run(arguments),
        Command::Check { file } => check(&file),
        Command::Platform(command) => return platform::run::<Arguments>(command),
        Command::Schema { project } => {
            let filters = selvedge_filters::schemas();
            let schema = match project {
                true => selvedge_schema::project_schema(&filters),
                false => selvedge_schema::json_schema(&filters),
            };
            println!("{schema:#}");
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{}", message.trim_end());
            ExitCode::FAILURE
        }
    }
}

fn run(options: RunOptions) -> Result<(), String> {
    selvedge_proxy::run(&options).map_err(|error| explain(&error))
}

fn check(file: &std::path::Path) -> Result<(), String> {
    let colour = match std::io::stderr().is_terminal() {
        true => Colour::Ansi,
        false => Colour::Plain,
    };
    match selvedge_proxy::check(file, colour) {
        Ok(warnings) => {
            eprint!("{warnings}");
            println!("{} is valid", file.display());
            Ok(())
        }
        Err(OpenError::Invalid(diagnostics)) => Err(diagnostics),
        Err(error) => Err(explain(&error)),
    }
}

/// An error and its causes, one line each.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!("\n  because: {next}"));
        cause = next.source();
    }
    text
}

fn start_log(arguments: &Arguments) {
    let usual = match arguments.command {
        Command::Platform(platform::Command::Dev(_)) => LOG_OF_DEV,
        _ => LOG,
    };
    let filter =
        EnvFilter::try_new(arguments.log.as_deref().unwrap_or(usual)).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(BoxMakeWriter::new(std::io::stderr));
    match arguments.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
    }
}
