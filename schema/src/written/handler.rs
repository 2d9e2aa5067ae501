//! Wasm components, what they may use, and the databases among it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{by_name, positive, resolve, size};
use crate::config;
use crate::text::{ByteSize, Name, PositiveDuration, RequestPath, Text, Verbatim};

/// A SQLite database.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Database {
    /// The database file; made when it is missing. Without a path, the database is replicated: the agent keeps it.
    path: Option<PathBuf>,
    /// Folder of `.sql` files, run once each in the order of their names; by the primary, if the database is replicated.
    migrations: Option<PathBuf>,
    /// A SQLite file that a new replicated database starts from, at the primary.
    seed: Option<PathBuf>,
    /// Whether migrations of a deployment may drop or rename what the version that serves may use. Only a deployment's
    /// migrations are looked at; those of this file are not.
    #[serde(default)]
    allow_incompatible: bool,
    /// A replica further behind than this is not read; the primary is asked instead. Without it any replica will do.
    max_staleness: Option<Text<PositiveDuration>>,
    /// How long one statement may run.
    #[serde(default = "statement_timeout")]
    statement_timeout: Text<PositiveDuration>,
    /// Connections for reading.
    #[serde(default = "readers")]
    #[schemars(range(min = 1, max = 256))]
    readers: usize,
}

fn statement_timeout() -> Text<PositiveDuration> {
    positive(Duration::from_secs(5))
}

fn readers() -> usize {
    4
}

impl Database {
    pub(super) fn into_used(self, base: &Path) -> config::Database {
        config::Database {
            path: self.path.map(|path| resolve(base, path)),
            migrations: self.migrations.map(|path| resolve(base, path)),
            seed: self.seed.map(|path| resolve(base, path)),
            allow_incompatible: self.allow_incompatible,
            max_staleness: self.max_staleness.map(|duration| duration.0.0),
            statement_timeout: self.statement_timeout.0.0,
            readers: self.readers,
        }
    }
}

/// A wasm component that answers requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Handler {
    /// The component file.
    component: PathBuf,
    /// The only capabilities the component gets, by the name it knows them under.
    #[serde(default)]
    bindings: BTreeMap<Text<Name>, Binding>,
    /// Environment variables of the component.
    #[serde(default)]
    env: BTreeMap<String, Text<Verbatim>>,
    /// Names of secrets the component may read: files in `secrets_dir` or environment variables of the process.
    #[serde(default)]
    secrets: Vec<Text<Name>>,
    /// What one request may use.
    #[serde(default)]
    limits: HandlerLimits,
    /// Asked once before a deployment counts as prepared.
    health_check: Option<HandlerHealthCheck>,
}

/// A GET that a working handler answers with a status below 500.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HandlerHealthCheck {
    /// Path to request.
    path: Text<RequestPath>,
}

/// One capability.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Binding {
    /// SQL on a database of this configuration.
    Database(String),
    /// A PostgreSQL of this configuration; the handler opens it by the binding's name.
    Postgres(String),
}

impl Handler {
    pub(super) fn into_used(self, base: &Path) -> config::Handler {
        config::Handler {
            component: resolve(base, self.component),
            bindings: by_name(self.bindings, |binding| match binding {
                Binding::Database(name) => config::Binding::Database(name),
                Binding::Postgres(name) => config::Binding::Postgres(name),
            }),
            env: self.env.into_iter().map(|(name, value)| (name, value.0.0)).collect(),
            secrets: self.secrets.into_iter().map(|name| name.0.0).collect(),
            limits: self.limits.into_used(),
            health_check: self.health_check.map(|check| check.path.0.0),
        }
    }
}

/// What requests to one handler may use.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct HandlerLimits {
    /// Memory of one instance.
    memory: Text<ByteSize>,
    /// Processor time of one request.
    cpu: Text<PositiveDuration>,
    /// Time by the clock of one request.
    wall: Text<PositiveDuration>,
    /// Requests at the same time.
    #[schemars(range(min = 1))]
    concurrency: usize,
    /// How long a request may wait for a free slot.
    queue: Text<Duration>,
    /// Size of a request body.
    request_body: Text<ByteSize>,
    /// Size of a response's head.
    response_header: Text<ByteSize>,
    /// Requests one `wasi:http` 0.3 instance may serve in its life.
    #[schemars(range(min = 1))]
    reuse: u32,
    /// Requests one 0.3 instance may serve at the same time.
    #[schemars(range(min = 1))]
    reuse_concurrency: u32,
    /// How long an unused 0.3 instance is kept.
    idle: Text<Duration>,
}

impl Default for HandlerLimits {
    fn default() -> Self {
        let used = config::HandlerLimits::default();
        Self {
            memory: size(used.memory),
            cpu: positive(used.cpu),
            wall: positive(used.wall),
            concurrency: used.concurrency,
            queue: Text(used.queue),
            request_body: size(used.request_body),
            response_header: size(used.response_header),
            reuse: used.reuse,
            reuse_concurrency: used.reuse_concurrency,
            idle: Text(used.idle),
        }
    }
}

impl HandlerLimits {
    fn into_used(self) -> config::HandlerLimits {
        config::HandlerLimits {
            memory: self.memory.0.0,
            cpu: self.cpu.0.0,
            wall: self.wall.0.0,
            concurrency: self.concurrency,
            queue: self.queue.0,
            request_body: self.request_body.0.0,
            response_header: self.response_header.0.0,
            reuse: self.reuse,
            reuse_concurrency: self.reuse_concurrency,
            idle: self.idle.0,
        }
    }
}
