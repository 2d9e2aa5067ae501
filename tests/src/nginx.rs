//! A real nginx in a directory of its own: a legacy backend, or a peer to compare with.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::peer;
use crate::process::Process;
use crate::wait::wait_for;

#[derive(Debug)]
pub struct Nginx {
    process: Process,
    address: SocketAddr,
    directory: TempDir,
}

/// How often another free port is tried, when somebody took the last one first.
const ATTEMPTS: usize = 5;

impl Nginx {
    /// Serves a `server` block's contents without its `listen`, such as `location / { return 200 "hello"; }`.
    /// `None` when nginx is missing and the test is to be skipped.
    pub async fn start(server: &str) -> Option<Nginx> {
        Nginx::start_with(server, &[]).await
    }

    /// The same with files below the document root, which `root html;` in the block names.
    pub async fn start_with(server: &str, files: &[(&str, &str)]) -> Option<Nginx> {
        let program = peer::find("nginx")?;
        for _ in 0..ATTEMPTS {
            if let Some(nginx) = try_start(&program, server, files).await {
                return Some(nginx);
            }
        }
        panic!("nginx found its port in use {ATTEMPTS} times");
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The document root.
    pub fn html(&self) -> std::path::PathBuf {
        self.directory.path().join("html")
    }

    /// The access log so far: `METHOD TARGET STATUS` a line.
    pub fn access_log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    pub fn error_log(&self) -> String {
        self.process.stderr()
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// `None` when the port was taken between choosing and binding it.
async fn try_start(program: &Path, server: &str, files: &[(&str, &str)]) -> Option<Nginx> {
    let address = free_address();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let html = directory.path().join("html");
    std::fs::create_dir(&html).expect("making the document root");
    for (path, contents) in files {
        let path = html.join(path);
        std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("making a directory");
        std::fs::write(path, contents).expect("writing a file of the document root");
    }
    let config = directory.path().join("nginx.conf");
    std::fs::write(&config, configuration(address, server)).expect("writing nginx.conf");
    let mut command = Command::new(program);
    command
        .arg("-p")
        .arg(directory.path())
        .arg("-c")
        .arg(&config)
        .args(["-e", "stderr"]);
    let mut process = Process::start(command, directory.path());
    let up = wait_for("nginx to listen", async || {
        if process.ended().is_some() {
            return Some(false);
        }
        tokio::net::TcpStream::connect(address).await.is_ok().then_some(true)
    })
    .await;
    if !up {
        let log = process.stderr();
        assert!(
            log.contains("Address already in use"),
            "nginx ended instead of serving:\n{log}"
        );
        return None;
    }
    Some(Nginx {
        process,
        address,
        directory,
    })
}

/// One process in the foreground, everything below the prefix, so that killing it by its id leaves nothing behind.
fn configuration(address: SocketAddr, server: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr notice;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  types {{ text/html html; text/css css; text/javascript js; application/json json; }}\n\
         \x20 default_type text/plain;\n\
         \x20 client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n\
         \x20 uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n\
         \x20 log_format line '$request_method $request_uri $status';\n  access_log access.log line;\n\
         \x20 server {{\n    listen {address};\n    root html;\n{server}\n  }}\n}}\n"
    )
}

/// An address nobody listens at now.
pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address")
}
