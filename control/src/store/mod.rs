//! The two databases of the platform: `_config`, which every PoP follows, and `_control`, which only control needs.
//!
//! Invariants:
//! * All SQL of this crate is below this folder, and every value in it is bound.
//! * A change is one transaction: its statements, what it expects of them, the raised revision, its entry for the audit log.
//! * A read sees every change this process has made.

pub(crate) mod apps;
pub(crate) mod artifacts;
pub(crate) mod audit;
pub(crate) mod change;
pub(crate) mod databases;
pub(crate) mod deployments;
pub(crate) mod idempotency;
pub(crate) mod keys;
pub(crate) mod pops;
pub(crate) mod purges;
mod rows;
pub(crate) mod secrets;
pub(crate) mod versions;
pub(crate) mod webhooks;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use selvedge_replication::bookmark::Session;
use selvedge_replication::client::{AgentClient, Thresholds};
use selvedge_replication::{Database, DatabaseSettings, Rows, SqlError, Statement, Value};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::{Mutex, Notify, watch};

pub(crate) use change::Refused;

/// Where PoPs read what they serve.
pub const CONFIG: &str = "_config";
/// What only control reads.
pub const CONTROL: &str = "_control";

const CHANGES: (&str, &str) = ("0001_changes.sql", include_str!("migrations/0001_changes.sql"));
const CONFIG_MIGRATIONS: &[(&str, &str)] = &[
    CHANGES,
    ("0002_tables.sql", include_str!("migrations/config/0002_tables.sql")),
    (
        "0003_sealed_secrets.sql",
        include_str!("migrations/config/0003_sealed_secrets.sql"),
    ),
    (
        "0004_databases.sql",
        include_str!("migrations/config/0004_databases.sql"),
    ),
    (
        "0005_revisions.sql",
        include_str!("migrations/config/0005_revisions.sql"),
    ),
];
const CONTROL_MIGRATIONS: &[(&str, &str)] = &[
    CHANGES,
    ("0002_tables.sql", include_str!("migrations/control/0002_tables.sql")),
    ("0003_secrets.sql", include_str!("migrations/control/0003_secrets.sql")),
    (
        "0004_webhooks.sql",
        include_str!("migrations/control/0004_webhooks.sql"),
    ),
];

/// Tries of a write whose outcome is not known, or that found no room; each has the same id, so it is done once.
const TRIES: u32 = 6;
/// Pause before the second try, doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a start waits for the agent beside it.
const AGENT_WAIT: Duration = Duration::from_secs(30);
/// Connections for reading, each a thread.
const READERS: usize = 2;

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("preparing the client for the agent")]
    Client(#[source] Arc<dyn std::error::Error + Send + Sync>),
    #[error("making the database {database}")]
    Make { database: &'static str, source: SqlError },
    #[error("{doing} in {database}")]
    Sql {
        doing: &'static str,
        database: &'static str,
        source: SqlError,
    },
    #[error("a row of {database} is not as expected; was it written by a newer version?")]
    Row {
        database: &'static str,
        source: serde_json::Error,
    },
}

impl StoreError {
    /// Whether the same may succeed soon.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            StoreError::Make { source, .. } | StoreError::Sql { source, .. } => may_pass(source),
            StoreError::Client(_) | StoreError::Row { .. } => false,
        }
    }
}

pub(crate) struct Store {
    agent: Arc<AgentClient>,
    pub(crate) config: One,
    pub(crate) control: One,
    /// One entry is added to the audit log at a time.
    sealing: Mutex<()>,
    /// Wakes who tells webhooks.
    pub(crate) told: Notify,
}

/// One of the databases.
pub(crate) struct One {
    name: &'static str,
    agent: Arc<AgentClient>,
    database: Arc<Database>,
    /// What this process has written, so that its reads see it.
    session: Session,
    revision: watch::Sender<i64>,
    /// Entries up to this one are in the audit log.
    sealed: AtomicI64,
}

impl Store {
    /// Makes and migrates the databases through the agent at `socket`, which keeps its files in `data_dir`.
    pub(crate) async fn open(socket: &Path, data_dir: &Path) -> Result<Store, StoreError> {
        let agent = AgentClient::start(socket, data_dir, Thresholds::default());
        let agent = agent.map_err(|error| StoreError::Client(Arc::new(error)))?;
        for (database, migrations) in [(CONFIG, CONFIG_MIGRATIONS), (CONTROL, CONTROL_MIGRATIONS)] {
            make(&agent, database, migrations).await?;
        }
        let store = Store {
            config: One::of(CONFIG, &agent),
            control: One::of(CONTROL, &agent),
            agent,
            sealing: Mutex::default(),
            told: Notify::new(),
        };
        for one in [&store.config, &store.control] {
            one.learn_revision().await?;
        }
        store.seal().await?;
        Ok(store)
    }

    /// Whether the agent is heard.
    pub(crate) fn is_connected(&self) -> bool {
        self.agent.is_connected()
    }
}

async fn make(agent: &AgentClient, database: &'static str, migrations: &[(&str, &str)]) -> Result<(), StoreError> {
    let began = std::time::Instant::now();
    let mut pause = PAUSE;
    loop {
        let made = async {
            agent.create_platform_database(database).await?;
            agent.migrate(database, migrations).await
        };
        match made.await {
            Err(error) if may_pass(&error) && began.elapsed() < AGENT_WAIT => {
                tracing::info!(database, %error, "the agent does not make the database yet; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            outcome => return outcome.map_err(|source| StoreError::Make { database, source }),
        }
    }
}

impl One {
    fn of(name: &'static str, agent: &Arc<AgentClient>) -> One {
        let settings = DatabaseSettings {
            readers: READERS,
            ..DatabaseSettings::new(name, "")
        };
        One {
            name,
            agent: Arc::clone(agent),
            database: Database::of_agent(settings, Arc::clone(agent)),
            session: Session::default(),
            revision: watch::Sender::new(0),
            sealed: AtomicI64::new(0),
        }
    }

    /// What the newest change of this process, or of those before it, has raised the revision to.
    pub(crate) fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Rows of a statement that only reads.
    pub(crate) async fn read<T: DeserializeOwned>(&self, sql: &str, params: Vec<Value>) -> Result<Vec<T>, StoreError> {
        let rows = self.database.query_in(&self.session, Statement::new(sql, params)).await;
        self.typed(rows.map_err(|source| self.failed("reading", source))?)
    }

    /// The only row, if there is one.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.read(sql, params).await?.into_iter().next())
    }

    /// One transaction that nobody is told of: what control notes for itself.
    pub(crate) async fn note(&self, statements: Vec<Statement>) -> Result<Vec<Rows>, StoreError> {
        let written = self.execute(statements).await;
        written.map_err(|source| self.failed("writing", source))
    }

    async fn execute(&self, statements: Vec<Statement>) -> Result<Vec<Rows>, SqlError> {
        let operation = uuid::Uuid::now_v7().to_string();
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = self
                .agent
                .execute(self.name, operation.clone(), statements.clone())
                .await;
            match outcome {
                Ok((rows, position)) => {
                    self.session.see(self.name, position);
                    return Ok(rows);
                }
                Err(error) if tries < TRIES && may_pass(&error) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// As it is in the database.
    pub(crate) async fn learn_revision(&self) -> Result<i64, StoreError> {
        let numbers = self.read::<(i64,)>("SELECT number FROM revision", Vec::new()).await?;
        self.raise_to(numbers.first().map_or(0, |(number,)| *number));
        Ok(self.revision())
    }

    fn raise_to(&self, number: i64) {
        self.revision.send_if_modified(|known| {
            let newer = number > *known;
            *known = number.max(*known);
            newer
        });
    }

    fn note_sealed(&self, number: i64) {
        self.sealed.fetch_max(number, Ordering::Relaxed);
    }

    fn typed<T: DeserializeOwned>(&self, rows: Rows) -> Result<Vec<T>, StoreError> {
        rows::typed(rows).map_err(|source| StoreError::Row {
            database: self.name,
            source,
        })
    }

    fn failed(&self, doing: &'static str, source: SqlError) -> StoreError {
        StoreError::Sql {
            doing,
            database: self.name,
            source,
        }
    }
}

/// Refusals after which the same operation may be asked for again.
pub(crate) fn may_pass(error: &SqlError) -> bool {
    let codes = [
        "agent_unreachable",
        "primary_unreachable",
        "busy",
        "closed",
        "unconfirmed",
        "outcome_unknown",
        "queue_full",
    ];
    codes.contains(&error.code())
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
