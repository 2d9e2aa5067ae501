//! A real PostgreSQL in a directory of its own: an existing database that handlers are bound to.
//!
//! It refuses to run as root, so root runs it as the user Debian's package makes.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::nginx::free_address;
use crate::process::{Process, Signal};
use crate::wait::{DEADLINE, wait_for};
use crate::{certificate, peer};

/// Of the user `app`, who may do everything.
pub const PASSWORD: &str = "correct horse battery staple";

pub struct Postgres {
    programs: PathBuf,
    process: Option<Process>,
    address: SocketAddr,
    user: Option<User>,
    directory: TempDir,
}

#[derive(Clone, Copy)]
struct User {
    id: u32,
    group: u32,
}

impl Postgres {
    /// `None` when PostgreSQL is missing and the test is to be skipped.
    pub async fn start() -> Option<Postgres> {
        let Some(programs) = programs() else {
            peer::skip("PostgreSQL is not installed");
            return None;
        };
        let user = match std::fs::metadata("/proc/self").map(|metadata| metadata.uid()) {
            Ok(0) => Some(debian_user()?),
            _ => None,
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut postgres = Postgres {
            programs,
            process: None,
            address: free_address(),
            user,
            directory,
        };
        postgres.initialize();
        postgres.resume().await;
        Some(postgres)
    }

    fn initialize(&self) {
        let readable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.directory.path(), readable).expect("opening the directory to its user");
        std::fs::create_dir(self.data()).expect("making the data directory");
        std::fs::write(self.directory.path().join("password"), PASSWORD).expect("writing the password");
        if let Some(user) = self.user {
            chown(self.data(), Some(user.id), Some(user.group)).expect("root gives files away");
        }
        let output = self
            .command("initdb")
            .args([
                "--username=app",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg("--pwfile")
            .arg(self.directory.path().join("password"))
            .arg(self.data())
            .output()
            .expect("initdb runs");
        assert!(output.status.success(), "{output:?}");
        // Nothing here outlives the machine; the name is too long for a socket in some places.
        let settings = "fsync = off\nsynchronous_commit = off\nunix_socket_directories = ''\nshared_buffers = 16MB\n";
        self.append(settings);
    }

    /// Adds lines to postgresql.conf; read at the next start.
    pub fn append(&self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&path).expect("initdb wrote it");
        std::fs::write(path, text + settings).expect("writing postgresql.conf");
    }

    /// Shows a certificate for `localhost` from the next start on; returns the file of its authority, or `None` when
    /// openssl is missing and the test is to be skipped.
    pub fn encrypt(&self) -> Option<PathBuf> {
        let folder = self.directory.path();
        let issued = certificate::make_authority(folder, "authority")
            && certificate::issue(folder, "authority", "server", "localhost");
        if !issued {
            return None;
        }
        for name in ["server.pem", "server.key"] {
            let path = folder.join(name);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("hiding the key");
            if let Some(user) = self.user {
                chown(&path, Some(user.id), Some(user.group)).expect("root gives files away");
            }
        }
        let path = |name: &str| folder.join(name).display().to_string();
        self.append(&format!(
            "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
            path("server.pem"),
            path("server.key")
        ));
        Some(folder.join("authority.pem"))
    }

    /// Starts it, again at the same address.
    pub async fn resume(&mut self) {
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=127.0.0.1", "-p"])
            .arg(self.address.port().to_string());
        let mut process = Process::start(command, self.directory.path());
        wait_for("PostgreSQL to accept", async || {
            assert!(
                process.ended().is_none(),
                "PostgreSQL has ended: {}",
                process.describe()
            );
            // Sockets are open before it is ready.
            process
                .stderr()
                .contains("database system is ready to accept connections")
                .then_some(())
        })
        .await;
        self.process = Some(process);
    }

    /// Ends it with all its connections, and waits until it is gone.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        // Fast shutdown; its own processes would outlive SIGKILL for a moment.
        process.signal(Signal::Interrupt);
        let started = Instant::now();
        while process.ended().is_none() && started.elapsed() < DEADLINE {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// With `parameters` such as `sslmode=disable`.
    pub fn url(&self, parameters: &str) -> String {
        let password = PASSWORD.replace(' ', "%20");
        format!(
            "postgres://app:{password}@localhost:{}/postgres?{parameters}",
            self.address.port()
        )
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// One of its programs, as its user.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid", &user.id.to_string(), "--regid", &user.group.to_string()])
                    .args(["--clear-groups", "--"])
                    .arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir("/").env("LC_ALL", "C");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The folder of its programs, of the newest version Debian has installed.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.flatten().map(|version| version.path().join("bin"));
    folders.filter(|folder| folder.join("initdb").is_file()).max()
}

/// The user Debian's package makes; `None` when the test is to be skipped.
fn debian_user() -> Option<User> {
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let user = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some(User {
            id: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
        })
    });
    if user.is_none() {
        peer::skip("there is no user postgres, and PostgreSQL refuses to run as root");
    }
    user
}
