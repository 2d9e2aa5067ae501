//! The proxy's side of the agent: reads from the replica's file, writes and strong reads through the agent's socket.
//!
//! Without the agent reads go on, from the file that was current when it was last heard; writes are refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::StreamExt;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::SqlError;
use crate::agent::api::{Execute, WatchHello};
use crate::agent::refusal::Problem;
use crate::agent::replica_site::Executed;
use crate::agent::{DatabaseStatus, State};
use crate::bookmark::{BookmarkKey, Session};
use crate::execute::Read;
use crate::folder::Folder;
use crate::position::Position;
use crate::publish::now_ms;
use crate::replica_file::{Open, ReplicaFile};
use crate::settings::DatabaseSettings;
use crate::stats::Counters;
use crate::value::{Rows, Statement};

/// Refusals that pass by themselves: nothing was done, and another try makes sense.
const UNAVAILABLE: [&str; 7] = [
    "agent_unreachable",
    "primary_unreachable",
    "queue_full",
    "queue",
    "outcome_unknown",
    "busy",
    "unconfirmed",
];
/// Pause before the agent is called again.
const RECONNECT: Duration = Duration::from_millis(200);
/// The agent's own limit for a write is shorter.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// While writes are queued because the primary is slow, one in this time waits, to learn whether it still is.
const PROBE: Duration = Duration::from_secs(5);

/// When the data layer counts as degraded, and how long a read waits before it is sent to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Replicas that have been behind for longer are stale: [`Level::ReplicaLag`].
    pub replica_lag: Duration,
    /// A write that took longer: [`Level::PrimarySlow`].
    pub primary_slow: Duration,
    /// How long a read waits for what its client has seen before the primary is asked instead.
    pub bookmark_wait: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            replica_lag: Duration::from_secs(60),
            primary_slow: Duration::from_millis(500),
            // A little more than a replica is usually behind.
            bookmark_wait: Duration::from_millis(100),
        }
    }
}

/// How far the data layer is degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Normal = 0,
    /// The replica has been behind for longer than a minute.
    ReplicaLag = 1,
    /// Writes take longer than half a second.
    PrimarySlow = 2,
    /// Reads go on, writes are refused.
    PrimaryDown = 3,
}

/// What the agent says of each database, by name.
pub type Statuses = BTreeMap<String, DatabaseStatus>;

/// The agent of this machine, as the proxy sees it.
pub struct AgentClient {
    http: reqwest::Client,
    thresholds: Thresholds,
    databases_dir: PathBuf,
    statuses: watch::Sender<Arc<Statuses>>,
    connected: watch::Sender<bool>,
    key: ArcSwapOption<BookmarkKey>,
    watching: Mutex<Option<AbortHandle>>,
}

impl AgentClient {
    /// Calls the agent at `socket`, which keeps its databases in `data_dir`, from a task of the current runtime.
    pub fn start(socket: &Path, data_dir: &Path, thresholds: Thresholds) -> Result<Arc<AgentClient>, reqwest::Error> {
        crate::agent::install_crypto();
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .http2_prior_knowledge()
            .build()?;
        let client = Arc::new(AgentClient {
            http,
            thresholds,
            databases_dir: data_dir.join("databases"),
            statuses: watch::Sender::default(),
            connected: watch::Sender::new(false),
            key: ArcSwapOption::empty(),
            watching: Mutex::default(),
        });
        let task = tokio::spawn(watch_agent(Arc::downgrade(&client)));
        *client.watching.lock() = Some(task.abort_handle());
        Ok(client)
    }

    /// Whether the agent is heard.
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// The key of the cluster's bookmarks, once the agent was heard.
    pub fn bookmark_key(&self) -> Option<Arc<BookmarkKey>> {
        self.key.load_full()
    }

    pub fn status(&self, database: &str) -> Option<DatabaseStatus> {
        self.statuses.borrow().get(database).cloned()
    }

    /// What the agent says, and when it says something new.
    pub fn statuses(&self) -> watch::Receiver<Arc<Statuses>> {
        self.statuses.subscribe()
    }

    /// Writes at the primary, once for each operation id.
    pub async fn execute(
        &self,
        database: &str,
        operation: String,
        statements: Vec<Statement>,
    ) -> Result<(Vec<Rows>, Position), SqlError> {
        let body = Execute {
            operation: Some(operation),
            statements,
            optimistic: false,
        };
        let executed: Executed = self.post(&format!("/v1/databases/{database}/execute"), &body).await?;
        Ok((executed.rows, executed.position))
    }

    /// Queues a write on this machine's disk. It is done at the primary later, or fails there: see
    /// [`AgentClient::operation`].
    pub async fn enqueue(&self, database: &str, operation: String, statements: Vec<Statement>) -> Result<(), SqlError> {
        let body = Execute {
            operation: Some(operation),
            statements,
            optimistic: true,
        };
        let queued: Result<serde_json::Value, _> = self.post(&format!("/v1/databases/{database}/execute"), &body).await;
        queued.map(drop)
    }

    /// What became of an operation: `queued`, `done`, `failed` (with code and message) or `unknown`. What it returned is
    /// left out.
    pub async fn operation(&self, database: &str, id: &str) -> Result<serde_json::Value, SqlError> {
        if !Folder::is_valid_name(database) || !id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            return Ok(serde_json::json!({ "operation": id, "state": "unknown" }));
        }
        let path = format!("http://agent/v1/databases/{database}/operations/{id}");
        let mut state: serde_json::Value = self.send(self.http.get(path)).await?;
        if let Some(state) = state.as_object_mut() {
            state.remove("rows");
        }
        Ok(state)
    }

    /// Reads at the primary.
    pub async fn read(&self, database: &str, statement: &Statement) -> Result<(Rows, Position), SqlError> {
        let path = format!("/v1/databases/{database}/read");
        let mut executed: Executed = self.post(&path, statement).await?;
        Ok((executed.rows.pop().unwrap_or_default(), executed.position))
    }

    /// Makes a database of the platform's at the primary, unless it is there; its name begins with `_`.
    pub async fn create_platform_database(&self, name: &str) -> Result<(), SqlError> {
        let body = serde_json::json!({ "name": name, "platform": true });
        let made: Result<serde_json::Value, _> = self.post("/v1/databases", &body).await;
        made.map(drop)
    }

    /// Makes an empty database at the primary, unless it is there.
    pub async fn create_database(&self, name: &str) -> Result<(), SqlError> {
        let made: Result<serde_json::Value, _> = self.post("/v1/databases", &serde_json::json!({ "name": name })).await;
        made.map(drop)
    }

    /// Deletes a database at the primary. Until when it can be had back, in milliseconds since 1970.
    pub async fn delete_database(&self, name: &str) -> Result<Option<i64>, SqlError> {
        let request = self.http.delete(format!("http://agent/v1/databases/{name}"));
        let deleted: serde_json::Value = self.send(request).await?;
        Ok(deleted["until_ms"].as_i64())
    }

    /// Which of these migrations are new, in order. They are run at the primary and undone: what fails, fails here.
    pub async fn rehearse(&self, database: &str, files: &[(&str, &str)]) -> Result<Vec<String>, SqlError> {
        let files = files
            .iter()
            .map(|(file, sql)| serde_json::json!({ "file": file, "sql": sql }));
        let body = serde_json::json!({ "files": files.collect::<Vec<_>>(), "dry_run": true });
        let rehearsed: serde_json::Value = self.post(&format!("/v1/databases/{database}/migrate"), &body).await?;
        let applied = rehearsed["applied"].as_array().into_iter().flatten();
        Ok(applied.filter_map(|file| file.as_str().map(str::to_owned)).collect())
    }

    /// Applies, at the primary, the migrations that are new. Each is a file's name, such as `0001_create.sql`, and its text.
    pub async fn migrate(&self, database: &str, files: &[(&str, &str)]) -> Result<(), SqlError> {
        let files = files
            .iter()
            .map(|(file, sql)| serde_json::json!({ "file": file, "sql": sql }));
        let body = serde_json::json!({ "files": files.collect::<Vec<_>>() });
        let migrated: Result<serde_json::Value, _> =
            self.post(&format!("/v1/databases/{database}/migrate"), &body).await;
        migrated.map(drop)
    }

    /// A request to the agent.
    pub(crate) fn request(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("http://agent{path}"))
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, SqlError> {
        self.send(self.request(path).json(body)).await
    }

    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, SqlError> {
        let gone = |error: reqwest::Error| SqlError::Remote {
            code: "agent_unreachable".to_owned(),
            message: format!("the agent of this machine does not answer: {error}"),
        };
        let response = request.timeout(REQUEST_TIMEOUT).send().await.map_err(gone)?;
        if response.status().is_success() {
            return response.json().await.map_err(gone);
        }
        let Problem { code, message } = response.json().await.map_err(gone)?;
        Err(SqlError::Remote { code, message })
    }

    fn take_line(&self, line: &[u8]) -> Result<(), serde_json::Error> {
        if let Ok(hello) = serde_json::from_slice::<WatchHello>(line) {
            self.key
                .store(Some(Arc::new(BookmarkKey::from_bytes(hello.bookmark_key))));
            return Ok(());
        }
        let status: DatabaseStatus = serde_json::from_slice(line)?;
        self.statuses.send_modify(|statuses| {
            Arc::make_mut(statuses).insert(status.database.clone(), status);
        });
        Ok(())
    }
}

impl Drop for AgentClient {
    fn drop(&mut self) {
        if let Some(task) = self.watching.lock().take() {
            task.abort();
        }
    }
}

/// Hears from the agent, again and again, as long as somebody holds the client.
async fn watch_agent(client: std::sync::Weak<AgentClient>) {
    loop {
        let Some(http) = client.upgrade().map(|client| client.http.clone()) else {
            return;
        };
        if let Ok(response) = http.get("http://agent/v1/watch").send().await {
            let mut body = response.bytes_stream();
            let mut buffer = Vec::new();
            while let Some(Ok(chunk)) = body.next().await {
                let Some(client) = client.upgrade() else { return };
                buffer.extend_from_slice(&chunk);
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    if let Err(error) = client.take_line(&buffer[..end]) {
                        tracing::error!(%error, "the agent speaks another version; update both together");
                    }
                    buffer.drain(..=end);
                }
                if !client.connected.send_replace(true) {
                    tracing::info!("the agent is heard");
                }
            }
        }
        match client.upgrade() {
            Some(client) if client.connected.send_replace(false) => {
                tracing::warn!("the agent is not heard any more; reads go on, writes are refused");
            }
            Some(_) => {}
            None => return,
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Reads one database's replica, and the primary where the replica will not do.
pub(crate) struct ReplicaReader {
    settings: DatabaseSettings,
    agent: Arc<AgentClient>,
    file: ReplicaFile,
    /// How long the last write that was waited for took, and when it ended.
    last_write: ArcSwap<Option<(Duration, Instant)>>,
}

impl ReplicaReader {
    pub(crate) fn new(settings: DatabaseSettings, agent: Arc<AgentClient>) -> ReplicaReader {
        ReplicaReader {
            file: ReplicaFile::new(settings.clone()),
            settings,
            agent,
            last_write: ArcSwap::default(),
        }
    }

    pub(crate) fn level(&self) -> Level {
        let Some(status) = self
            .agent
            .status(&self.settings.name)
            .filter(|_| self.agent.is_connected())
        else {
            return Level::PrimaryDown;
        };
        let stale = status
            .behind_since_ms
            .is_some_and(|since| now_ms() - since > self.agent.thresholds.replica_lag.as_millis() as i64);
        let slow = self
            .last_write
            .load()
            .is_some_and(|(took, _)| took > self.agent.thresholds.primary_slow);
        match () {
            () if !status.primary_reachable => Level::PrimaryDown,
            () if slow => Level::PrimarySlow,
            () if stale => Level::ReplicaLag,
            () => Level::Normal,
        }
    }

    /// What the agent says of the replica.
    pub(crate) fn status(&self) -> Option<DatabaseStatus> {
        self.agent.status(&self.settings.name)
    }

    pub(crate) async fn query(
        &self,
        statement: Statement,
        session: &Session,
        counters: &Counters,
    ) -> Result<Rows, SqlError> {
        let result = self.query_somewhere(statement, session, counters).await;
        if let Err(SqlError::Remote { code, .. }) = &result
            && UNAVAILABLE.contains(&code.as_str())
        {
            session.note_unavailable();
        }
        result
    }

    async fn query_somewhere(
        &self,
        statement: Statement,
        session: &Session,
        counters: &Counters,
    ) -> Result<Rows, SqlError> {
        let wanted = session.wanted(&self.settings.name);
        let local = match session.is_strong() || self.is_too_stale() {
            true => None,
            false => self.local(wanted).await?,
        };
        let Some(open) = local else {
            return self.query_primary(statement, session, counters).await;
        };
        let (statement, answer, position) = open.readers.read(statement).await?;
        match answer {
            Ok(Read::NeedsWriter) => self.write(statement, session, counters).await,
            // The file was replaced meanwhile, or nobody could say where it stands.
            _ if position < wanted => self.query_primary(statement, session, counters).await,
            Ok(Read::Rows(rows)) => {
                counters.reads.add();
                session.see(&self.settings.name, position);
                Ok(rows)
            }
            Err(error) => Err(error),
        }
    }

    async fn query_primary(
        &self,
        statement: Statement,
        session: &Session,
        counters: &Counters,
    ) -> Result<Rows, SqlError> {
        match self.agent.read(&self.settings.name, &statement).await {
            Ok((rows, position)) => {
                counters.reads.add();
                session.see(&self.settings.name, position);
                Ok(rows)
            }
            Err(SqlError::Remote { code, .. }) if code == "malformed" => self.write(statement, session, counters).await,
            Err(error) => Err(error),
        }
    }

    async fn write(&self, statement: Statement, session: &Session, counters: &Counters) -> Result<Rows, SqlError> {
        let operation = uuid::Uuid::now_v7().to_string();
        if session.may_queue() && self.is_slow_now() {
            let name = &self.settings.name;
            self.agent.enqueue(name, operation.clone(), vec![statement]).await?;
            session.queued(name, operation);
            return Ok(Rows::default());
        }
        let began = Instant::now();
        let executed = self
            .agent
            .execute(&self.settings.name, operation, vec![statement])
            .await;
        self.last_write.store(Arc::new(Some((began.elapsed(), Instant::now()))));
        counters.writes.add();
        let (mut rows, position) = executed.map_err(|error| match error {
            // One statement is not a batch to whoever sent it.
            SqlError::Remote { code, message } => SqlError::Remote {
                code,
                message: message
                    .strip_prefix("statement 0 of the batch: ")
                    .map(str::to_owned)
                    .unwrap_or(message),
            },
            other => other,
        })?;
        session.see(&self.settings.name, position);
        Ok(rows.pop().unwrap_or_default())
    }

    /// Whether the last write was slow and has told so a moment ago.
    fn is_slow_now(&self) -> bool {
        let slow = self.agent.thresholds.primary_slow;
        self.last_write
            .load()
            .is_some_and(|(took, ended)| took > slow && ended.elapsed() < PROBE)
    }

    /// Whether the replica is further behind than the database's `max_staleness` allows.
    fn is_too_stale(&self) -> bool {
        let Some(allowed) = self.settings.max_staleness else {
            return false;
        };
        let status = self.status().filter(|_| self.agent.is_connected());
        let Some(status) = status.filter(|status| status.primary_reachable) else {
            // Nobody can say how far behind it is.
            return true;
        };
        let behind = status.behind_since_ms.map_or(0, |since| now_ms() - since);
        behind > allowed.as_millis() as i64
    }

    /// Readers of a file that has `wanted`, if there is one soon.
    async fn local(&self, wanted: Position) -> Result<Option<Arc<Open>>, SqlError> {
        if self.agent.is_connected() && wanted != Position::default() {
            let mut statuses = self.agent.statuses.subscribe();
            let reached = statuses.wait_for(|statuses| {
                let status = statuses.get(&self.settings.name);
                status.is_some_and(|status| status.head.position >= wanted)
            });
            if tokio::time::timeout(self.agent.thresholds.bookmark_wait, reached)
                .await
                .is_err()
            {
                return Ok(None);
            }
        }
        let path = match self.agent.status(&self.settings.name) {
            Some(status) if status.state == State::Quarantined => None,
            Some(status) => status.path,
            None => Folder::of(&self.agent.databases_dir, &self.settings.name).current(),
        };
        match path {
            Some(path) => self.file.open(path).await.map(Some),
            None => Ok(None),
        }
    }
}
