//! `selvedge dev`: a project, or a whole platform, on this machine.
//!
//! One process: a primary agent and a proxy that serve what the project describes, with production's cache and limits, and
//! again when it changes. With `--pops` it is the platform itself, in processes of its own: see `pops`.
//!
//! Everything is kept in the project's `.selvedge/`, which is never deployed and which git ignores. A project that cannot
//! be built changes nothing: what served before serves on.

mod environment;

mod watch;

mod rebuild;

mod children;

mod pops;

use std::cell::OnceCell;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use selvedge_proxy::RunOptions;
use selvedge_replication::agent::Agent;
use selvedge_replication::client::{AgentClient, Thresholds};
use serde_json::{Value, json};

use super::edge_file::literal;
use super::{Reach, files, project};
use crate::outcome::Failure;
use crate::{agent, explain};
use rebuild::Rebuilding;

/// Files of a developer's secrets, one a name, inside the project.
const SECRETS: &str = ".selvedge/secrets";
/// Of the path of a socket: `sockaddr_un` has 104 with the zero at its end, or 108.
const SOCKET_BYTES: usize = 103;
/// Threads of the agent: as `selvedge agent` has.
const THREADS: usize = 2;

#[derive(Args)]
pub(crate) struct Dev {
    /// Port on 127.0.0.1; with --pops of the first PoP, the others have the ports after it. 0 takes a free one.
    #[arg(long, default_value_t = 8787)]
    port: u16,
    /// Run the platform itself instead: control, a primary and this many PoPs, to deploy to with `--profile dev`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    pops: Option<u16>,
}

pub(super) fn run(reach: &Reach, dev: Dev) -> Result<(), Failure> {
    let folder = project::folder(reach)?;
    match dev.pops {
        Some(pops) => pops::run(&folder, dev.port, pops, reach.json),
        None => serve(reach, &folder, dev.port),
    }
}

/// The project, until a signal ends it.
fn serve(reach: &Reach, folder: &Path, port: u16) -> Result<(), Failure> {
    is_free(port)?;
    let state = make_state(folder, "dev")?;
    let file = state.join("edge.yaml");
    let sockets = Sockets::default();
    let head = head(folder, &state, port, &sockets)?;
    write_private(&file, &(head.join("\n") + "\n" + NOTHING_YET))?;
    let document = selvedge_proxy::read_configuration(&file).map_err(|error| failed("dev", &error))?;
    let settings = agent::settings(&document.config)
        .ok_or_else(|| Failure::new("dev", "the generated file has no agent").help("please report it"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(|error| failed("dev", &error))?;
    let socket = settings.socket.clone();
    let started = runtime
        .block_on(Agent::start(settings))
        .map_err(|error| failed("agent", &error).help("does another `selvedge dev` run in this project?"))?;
    let databases = {
        let _inside = runtime.enter();
        AgentClient::start(&socket, &state, Thresholds::default()).map_err(|error| failed("agent", &error))?
    };
    let ready_file = state.join("ready.json");
    let _ = std::fs::remove_file(&ready_file);
    let ending = Arc::new(AtomicBool::new(false));
    let rebuilding = Rebuilding {
        reach,
        folder,
        state: &state,
        file: &file,
        ready_file: &ready_file,
        head,
        runtime: runtime.handle().clone(),
        databases,
        ending: Arc::clone(&ending),
    };
    let options = RunOptions {
        config: file.clone(),
        ready_file: Some(ready_file.clone()),
        watch: false,
    };
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| rebuilding.run());
        let outcome = selvedge_proxy::run(&options);
        ending.store(true, std::sync::atomic::Ordering::SeqCst);
        outcome
    });
    runtime.block_on(started.stop());
    outcome.map_err(|error| failed("dev", &error))
}

/// What is answered before the project is built for the first time.
const NOTHING_YET: &str = "routes: [{ match: {}, respond: { status: 503, body: \
                           \"The project is not built yet; see the terminal.\\n\" } }]\n";

/// What the generated file has besides the project; none of it changes while it serves.
fn head(folder: &Path, state: &Path, port: u16, sockets: &Sockets) -> Result<Vec<String>, Failure> {
    let path = |path: PathBuf| literal(&path.display().to_string());
    let whole = json!({
        "listeners": [{ "address": format!("127.0.0.1:{port}") }],
        "admin": { "address": "127.0.0.1:0" },
        "data_dir": path(state.join("data")),
        "secrets_dir": path(folder.join(SECRETS)),
        "agent": {
            "name": "dev",
            "listen": "127.0.0.1:0",
            "token": token(state)?,
            "socket": path(sockets.of("dev", &state.join("agent.sock"))?),
        },
        "access_log": { "file": path(state.join("access.log")) },
        "shutdown": { "grace": "2s" },
    });
    Ok(lines(&whole))
}

/// A file's text in YAML, one line a key.
fn lines(whole: &Value) -> Vec<String> {
    let keys = whole.as_object().into_iter().flatten();
    keys.map(|(key, value)| format!("{key}: {value}")).collect()
}

/// The secret of the agents in this folder, the same each time: bookmarks are signed with it.
fn token(state: &Path) -> Result<String, Failure> {
    let path = state.join("token");
    if let Ok(token) = std::fs::read_to_string(&path) {
        return Ok(token);
    }
    // 74 bits of each are random.
    let token = [uuid::Uuid::now_v7(), uuid::Uuid::now_v7()].map(|id| id.simple().to_string());
    write_private(&path, &token.concat())?;
    Ok(token.concat())
}

/// `.selvedge/NAME` in the project.
fn make_state(folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let all = folder.join(files::STATE);
    let state = all.join(name);
    for folder in [&state, &folder.join(SECRETS)] {
        std::fs::create_dir_all(folder).map_err(|error| Failure::file(folder, &error))?;
    }
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&all, owner_only).map_err(|error| Failure::file(&all, &error))?;
    write_private(&all.join(".gitignore"), "*\n")?;
    Ok(state)
}

/// Where agents' sockets are: beside what they keep, unless the system cannot take so long a path.
#[derive(Default)]
struct Sockets {
    /// Goes with this value.
    short: OnceCell<tempfile::TempDir>,
}

impl Sockets {
    fn of(&self, agent: &str, path: &Path) -> Result<PathBuf, Failure> {
        if path.as_os_str().len() <= SOCKET_BYTES {
            return Ok(path.to_owned());
        }
        if self.short.get().is_none() {
            let made = tempfile::tempdir().map_err(|error| Failure::file(&std::env::temp_dir(), &error))?;
            let _ = self.short.set(made);
        }
        let folder = self.short.get().map_or(Path::new("/tmp"), |folder| folder.path());
        Ok(folder.join(format!("{agent}.sock")))
    }
}

/// Whole, or not at all; readable for its owner only.
fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(path))?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(drop).map_err(|error| Failure::file(path, &error))
}

/// Before anything is started, so that nothing has to be undone.
fn is_free(port: u16) -> Result<(), Failure> {
    TcpListener::bind(("127.0.0.1", port)).map(drop).map_err(|error| {
        let failure = Failure::new("port", format!("port {port} on 127.0.0.1 cannot be used: {error}"));
        failure.help("--port takes another, and --port 0 any that is free")
    })
}

fn failed(code: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(code, explain(error).trim_start_matches("error: "))
}

/// What happens, for people and for programs.
fn say(as_json: bool, text: &str, json: &Value) {
    match as_json {
        true => println!("{json}"),
        false => println!("{text}"),
    }
}
