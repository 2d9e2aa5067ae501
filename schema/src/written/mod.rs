//! The configuration as written: one type for each mapping in the YAML file.
//!
//! Doc comments here are what editors and the reference show. The JSON Schema derives from these types, the walker
//! checks the file against that schema, and only then is the file read into them: so each `into_used` cannot fail.
//! Defaults come from the types as used.

mod agent;
mod agent_clients;
mod agent_store;
mod control;
mod door;
mod handler;
mod postgres;
pub(crate) mod project;
mod route;
mod upstream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Cidr;
use crate::config;
use crate::text::{ByteSize, Name, PositiveDuration, Text};

/// A selvedge edge: what it listens on, where requests go, what is cached.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Addresses to listen on. Required, unless the file only describes an agent.
    #[serde(default)]
    listeners: Vec<door::Listener>,
    /// The administration listener: health, readiness, metrics, purge, routes, drain.
    admin: Option<door::Admin>,
    /// Folder for state: self-made certificates, compiled components.
    #[serde(default = "data_dir")]
    data_dir: PathBuf,
    /// Folder with one file for each secret; a file wins over an environment variable of the same name.
    secrets_dir: Option<PathBuf>,
    /// Addresses whose `Forwarded` and `X-Forwarded-*` are believed.
    #[serde(default)]
    trusted_proxies: Vec<Text<Cidr>>,
    /// What a client may ask before any route is known.
    #[serde(default)]
    limits: door::DoorLimits,
    /// Legacy backends by name.
    #[serde(default)]
    upstreams: BTreeMap<Text<Name>, upstream::Upstream>,
    /// SQLite databases by name.
    #[serde(default)]
    databases: BTreeMap<Text<Name>, handler::Database>,
    /// PostgreSQL databases by name, for handlers to use through the primary.
    #[serde(default)]
    postgres: BTreeMap<Text<Name>, postgres::Postgres>,
    /// This machine's part in replication.
    agent: Option<agent::Agent>,
    /// The control plane, or the way to it.
    control: Option<control::Control>,
    /// Wasm components by name.
    #[serde(default)]
    handlers: BTreeMap<Text<Name>, handler::Handler>,
    /// The response cache of the whole edge.
    #[serde(default)]
    cache: CacheBudget,
    /// How the process ends.
    #[serde(default)]
    shutdown: door::Shutdown,
    /// Where the access log goes, one JSON object a line.
    #[serde(default)]
    access_log: door::AccessLog,
    /// What is answered and how. The most specific match wins, whatever the order; ties are errors. Required, unless the
    /// file only describes an agent.
    #[serde(default)]
    routes: Vec<route::Route>,
}

fn data_dir() -> PathBuf {
    PathBuf::from("data")
}

/// A path in the configuration is relative to the configuration's directory.
fn resolve(base: &Path, path: PathBuf) -> PathBuf {
    let path = base.join(path);
    path.components()
        .filter(|part| *part != std::path::Component::CurDir)
        .collect()
}

fn by_name<W, U>(written: BTreeMap<Text<Name>, W>, mut into_used: impl FnMut(W) -> U) -> BTreeMap<String, U> {
    written
        .into_iter()
        .map(|(name, value)| (name.0.0, into_used(value)))
        .collect()
}

impl Config {
    pub(crate) fn into_used(self, base: &Path) -> config::Config {
        config::Config {
            listeners: self.listeners.into_iter().map(|l| l.into_used(base)).collect(),
            admin: self.admin.map(door::Admin::into_used),
            agent: self
                .agent
                .map(|agent| agent.into_used(base, &resolve(base, self.data_dir.clone()))),
            control: self
                .control
                .map(|control| control.into_used(base, &resolve(base, self.data_dir.clone()))),
            data_dir: resolve(base, self.data_dir),
            secrets_dir: self.secrets_dir.map(|path| resolve(base, path)),
            trusted_proxies: self.trusted_proxies.into_iter().map(|range| range.0).collect(),
            limits: self.limits.into_used(),
            upstreams: by_name(self.upstreams, |u| u.into_used(base)),
            databases: by_name(self.databases, |d| d.into_used(base)),
            postgres: by_name(self.postgres, |p| p.into_used(base)),
            handlers: by_name(self.handlers, |h| h.into_used(base)),
            cache: self.cache.into_used(),
            shutdown: self.shutdown.into_used(),
            access_log: self.access_log.into_used(base),
            routes: route::into_used(self.routes, base),
        }
    }
}

/// Budget of the response cache.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct CacheBudget {
    /// Memory for all stored responses together.
    memory: Text<ByteSize>,
    /// The largest response that is stored.
    max_object: Text<ByteSize>,
}

impl Default for CacheBudget {
    fn default() -> Self {
        let used = config::CacheBudget::default();
        Self {
            memory: size(used.memory),
            max_object: size(used.max_object),
        }
    }
}

impl CacheBudget {
    fn into_used(self) -> config::CacheBudget {
        config::CacheBudget {
            memory: self.memory.0.0,
            max_object: self.max_object.0.0,
        }
    }
}

fn size(bytes: u64) -> Text<ByteSize> {
    Text(ByteSize(bytes))
}

fn positive(duration: std::time::Duration) -> Text<PositiveDuration> {
    Text(PositiveDuration(duration))
}
