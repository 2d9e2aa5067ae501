//! Readers as a proxy has them: a process of its own beside each agent, which reads the files the agent says may be read.
//!
//! The agent is asked over its socket where each database's file is. While it does not answer, the last file is read on.
//! Each look is one read transaction over several statements, and whatever it finds must hold in every state of the
//! database that ever was. What does not is written to standard output, a line each; so is how often it has looked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use serde_json::Value;

use crate::cluster::{DATABASES, Violation, database_of};
use crate::workload;

/// Set in a reader's process: the agent's socket.
pub(crate) const SOCKET: &str = "SELVEDGE_TORTURE_READER";
/// So that readers leave the processors to what they watch.
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);
/// Between two questions to the agent.
const ASK: Duration = Duration::from_millis(20);

/// The parent's side of a reader's process.
pub(crate) struct Reader {
    child: Child,
    reads: Arc<AtomicU64>,
    listener: Option<std::thread::JoinHandle<()>>,
}

impl Reader {
    pub(crate) fn start(site: usize, socket: &Path, violations: Arc<Mutex<Vec<Violation>>>) -> Reader {
        let mut child = Command::new(std::env::current_exe().expect("this executable has a path"))
            .env(SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a reader starts");
        let output = BufReader::new(child.stdout.take().expect("standard output is a pipe"));
        let reads = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&reads);
        let listener = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(count) = line.strip_prefix("reads ") {
                    counter.fetch_add(count.parse().unwrap_or(0), Ordering::Relaxed);
                } else {
                    violations.lock().push(Violation {
                        at: Instant::now(),
                        site,
                        text: line,
                    });
                }
            }
        });
        Reader {
            child,
            reads,
            listener: Some(listener),
        }
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It may hold a file of a disk that has no power.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// The reader's process: ends with its parent.
pub(crate) fn run(socket: &Path) -> ! {
    let files: Arc<Mutex<BTreeMap<String, PathBuf>>> = Arc::default();
    for database in DATABASES {
        let files = Arc::clone(&files);
        std::thread::spawn(move || watch_database(database, &files));
    }
    std::thread::spawn(|| {
        // Nothing is ever sent: this returns when the parent has gone.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    loop {
        if let Some(status) = ask(socket) {
            let mut files = files.lock();
            for database in DATABASES {
                let path = database_of(&status, database).and_then(|status| status["path"].as_str());
                match path {
                    Some(path) => files.insert(database.to_owned(), PathBuf::from(path)),
                    None => files.remove(database),
                };
            }
        }
        std::thread::sleep(ASK);
    }
}

fn ask(socket: &Path) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream
        .write_all(b"GET /v1/status HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n")
        .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let start = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    serde_json::from_slice(&answer[start..]).ok()
}

/// Reads one database for ever.
fn watch_database(database: &str, files: &Mutex<BTreeMap<String, PathBuf>>) {
    let current = || files.lock().get(database).cloned();
    let mut open: Option<(PathBuf, Connection)> = None;
    let mut newest = workload::Seen::default();
    let mut unreported = 0;
    loop {
        let Some(path) = current() else {
            open = None;
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        if open.as_ref().is_none_or(|(opened, _)| *opened != path) {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            open = Connection::open_with_flags(&path, flags)
                .ok()
                .map(|connection| (path.clone(), connection));
            newest = workload::Seen::default();
        }
        let Some((_, connection)) = &open else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let looked = look(connection, &mut newest);
        match looked {
            Ok(()) => {
                unreported += 1;
                std::thread::sleep(BETWEEN_LOOKS);
            }
            // Files of an older generation are removed one by one; whoever opens meanwhile asks again.
            Err(_) if current().as_ref() != Some(&path) || !path.exists() => open = None,
            Err(text) => {
                say(&format!("{database}: {text} ({})", path.display()));
                open = None;
                std::thread::sleep(ASK);
            }
        }
        if unreported >= 50 {
            say(&format!("reads {unreported}"));
            unreported = 0;
        }
    }
}

fn look(connection: &Connection, newest: &mut workload::Seen) -> Result<(), String> {
    let seen = connection
        .execute_batch("BEGIN")
        .and_then(|()| workload::read_state(connection));
    let ended = connection.execute_batch("COMMIT");
    let seen = match seen.and_then(|seen| ended.map(|()| seen)) {
        Ok(seen) => seen,
        Err(error) => {
            let _ = connection.execute_batch("ROLLBACK");
            return match error.sqlite_error_code() {
                // The agent recovers or restarts the file's log just now.
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Ok(()),
                _ => Err(format!("cannot be read: {error}")),
            };
        }
    };
    seen.check()?;
    let (before, now) = (newest.position, seen.position);
    *newest = seen;
    if before > now {
        return Err(format!("went back from {before:?} to {now:?}"));
    }
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The parent may be done with us.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
