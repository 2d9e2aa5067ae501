//! The access log: one JSON object a line, one line a request.
//!
//! Lines go through a bounded queue to a thread that writes them. When that thread cannot keep up, because a disk is
//! full or a pipe is not read, lines are dropped and counted; a request never waits for its log line.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, SystemTime},
};

use http::Version;
use selvedge_schema::AccessLog;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Lines waiting to be written; about 4 MiB.
const QUEUE: usize = 8 * 1024;
/// How long a line may stay in the buffer, so that `tail -f` is live.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// One finished request.
pub(crate) struct AccessEntry<'a> {
    pub(crate) time: SystemTime,
    pub(crate) client: IpAddr,
    pub(crate) scheme: &'static str,
    pub(crate) protocol: Version,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    /// Path and query as the client sent them.
    pub(crate) target: &'a str,
    pub(crate) route: &'a str,
    /// App, deployment's id and version, where control has deployed it.
    pub(crate) deployment: Option<(&'a str, &'a str, i64)>,
    pub(crate) status: u16,
    pub(crate) bytes_sent: usize,
    pub(crate) bytes_received: u64,
    pub(crate) duration: Duration,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) cache: &'static str,
    /// Kind and name of the target.
    pub(crate) answered_by: (&'static str, &'a str),
    /// Address of the upstream's server.
    pub(crate) server: Option<&'a str>,
    pub(crate) reason: Option<&'static str>,
    /// Who failed before, and why.
    pub(crate) failed: Option<(&'a str, &'static str)>,
    pub(crate) error: Option<String>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) user: Option<&'a str>,
    pub(crate) user_agent: Option<&'a str>,
    pub(crate) referer: Option<&'a str>,
}

impl AccessEntry<'_> {
    fn to_json(&self) -> Value {
        let time = OffsetDateTime::from(self.time).format(&Rfc3339).unwrap_or_default();
        let mut line = json!({
            "time": time,
            "client": self.client,
            "scheme": self.scheme,
            "protocol": format!("{:?}", self.protocol),
            "method": self.method,
            "host": self.host,
            "target": self.target,
            "route": self.route,
            "status": self.status,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "duration_ms": milliseconds(self.duration),
            "cache": self.cache,
            "answered_by": self.answered_by.0,
        });
        let fields = line.as_object_mut().expect("an object was made");
        let name = Some(self.answered_by.1).filter(|name| !name.is_empty());
        put(fields, "answered_by_name", name);
        if let Some((app, id, version)) = self.deployment {
            put(fields, "app", Some(app));
            put(fields, "deployment", Some(id));
            put(fields, "version", Some(version));
        }
        put(fields, "first_byte_ms", self.first_byte.map(milliseconds));
        put(fields, "server", self.server);
        put(fields, "reason", self.reason);
        put(
            fields,
            "failed",
            self.failed.map(|(who, why)| json!({ "who": who, "reason": why })),
        );
        put(fields, "error", self.error.as_deref());
        put(fields, "request_id", self.request_id);
        put(fields, "user", self.user);
        put(fields, "user_agent", self.user_agent);
        put(fields, "referer", self.referer);
        line
    }
}

fn put(fields: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        fields.insert(name.to_owned(), value.into());
    }
}

fn milliseconds(duration: Duration) -> f64 {
    // Microseconds are as fine as the clock is worth.
    duration.as_micros() as f64 / 1000.0
}

enum Message {
    Line(Vec<u8>),
    /// The file may have been moved away: open its path again.
    Reopen,
    Flush(SyncSender<()>),
}

pub(crate) struct AccessLogger {
    queue: Option<SyncSender<Message>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLogger {
    pub(crate) fn open(settings: &AccessLog) -> io::Result<AccessLogger> {
        let dropped = Arc::new(AtomicU64::new(0));
        let sink = match settings {
            AccessLog::Off => return Ok(AccessLogger { queue: None, dropped }),
            AccessLog::Stdout => Sink::Stream(Box::new(io::stdout())),
            AccessLog::Stderr => Sink::Stream(Box::new(io::stderr())),
            AccessLog::File(path) => Sink::File(BufWriter::new(append(path)?), path.clone()),
        };
        let (queue, lines) = mpsc::sync_channel(QUEUE);
        let counted = Arc::clone(&dropped);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(sink, &lines, &counted))?;
        Ok(AccessLogger {
            queue: Some(queue),
            dropped,
        })
    }

    pub(crate) fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    pub(crate) fn write(&self, entry: &AccessEntry<'_>) {
        let mut line = entry.to_json().to_string().into_bytes();
        line.push(b'\n');
        if let Some(queue) = &self.queue
            && queue.try_send(Message::Line(line)).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines lost so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// For log rotation: the next line goes to the file that now has the name.
    pub(crate) fn reopen(&self) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(Message::Reopen);
        }
    }

    /// Returns when every line so far is written, or after a second.
    pub(crate) fn flush(&self) {
        if let Some(queue) = &self.queue {
            let (done, written) = mpsc::sync_channel(1);
            if queue.try_send(Message::Flush(done)).is_ok() {
                let _ = written.recv_timeout(Duration::from_secs(1));
            }
        }
    }
}

enum Sink {
    Stream(Box<dyn Write + Send>),
    File(BufWriter<File>, PathBuf),
}

impl Sink {
    fn out(&mut self) -> &mut dyn Write {
        match self {
            Sink::Stream(stream) => stream,
            Sink::File(file, _) => file,
        }
    }

    fn reopen(&mut self) {
        if let Sink::File(file, path) = self {
            match append(path) {
                Ok(opened) => *file = BufWriter::new(opened),
                Err(error) => tracing::error!(path = %path.display(), %error, "access log not reopened"),
            }
        }
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_lines(mut sink: Sink, lines: &Receiver<Message>, dropped: &AtomicU64) {
    let mut failing = false;
    loop {
        let outcome = match lines.recv_timeout(FLUSH_EVERY) {
            Ok(Message::Line(line)) => sink.out().write_all(&line).map(|()| 1),
            Ok(Message::Reopen) => {
                sink.reopen();
                Ok(0)
            }
            Ok(Message::Flush(done)) => {
                let flushed = sink.out().flush();
                let _ = done.send(());
                flushed.map(|()| 0)
            }
            Err(RecvTimeoutError::Timeout) => sink.out().flush().map(|()| 0),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = sink.out().flush();
                return;
            }
        };
        match outcome {
            Ok(1) => failing = false,
            Ok(_) => {}
            Err(error) => {
                dropped.fetch_add(1, Ordering::Relaxed);
                // Said once for each time it breaks, not once a line.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "access log lines are being lost");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(target: &str) -> AccessEntry<'_> {
        AccessEntry {
            time: SystemTime::UNIX_EPOCH,
            client: IpAddr::from([192, 0, 2, 1]),
            scheme: "https",
            protocol: Version::HTTP_2,
            method: "GET",
            host: "a.test",
            target,
            route: "/*",
            deployment: None,
            status: 200,
            bytes_sent: 5,
            bytes_received: 0,
            duration: Duration::from_micros(1500),
            first_byte: None,
            cache: "hit",
            answered_by: ("cache", ""),
            server: None,
            reason: None,
            failed: None,
            error: None,
            request_id: Some("id"),
            user: None,
            user_agent: None,
            referer: None,
        }
    }

    #[test]
    fn every_line_is_one_json_object_and_a_moved_file_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLogger::open(&AccessLog::File(path.clone())).unwrap();
        log.write(&entry("/a\n\"b"));
        log.flush();
        std::fs::rename(&path, folder.path().join("old.log")).unwrap();
        log.reopen();
        log.write(&entry("/second"));
        log.flush();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let first: Value = serde_json::from_str(read("old.log").trim_end()).unwrap();
        assert_eq!(first["target"], "/a\n\"b");
        assert_eq!(first["time"], "1970-01-01T00:00:00Z");
        assert_eq!(first["duration_ms"], 1.5);
        assert_eq!(first["protocol"], "HTTP/2.0");
        assert!(first.get("server").is_none());
        assert!(read("access.log").contains("/second"));
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert!(AccessLogger::open(&AccessLog::File("/nonexistent/access.log".into())).is_err());
    }
}
