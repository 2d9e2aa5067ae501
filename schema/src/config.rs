//! The configuration as used: what every other crate sees of the YAML file.
//!
//! Names that refer to something (`Target::Handler`, `Route::fallback`, `Binding::Database`) are keys of the maps in
//! [`Config`]: [`crate::parse`] refuses anything else. All paths are already resolved against the directory of the
//! configuration file. The defaults written here are the only place where a default is decided; the JSON Schema and the
//! reference read them from here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method};

use crate::{Cidr, HostPattern, PathPattern, Sites};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// One edge: everything one YAML file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Empty only if there is an agent; no two bind the same address (port 0 excepted).
    pub listeners: Vec<Listener>,
    pub admin: Option<Admin>,
    /// Where self-made certificates, compiled components and other state live.
    pub data_dir: PathBuf,
    /// Files named like a secret here are preferred over environment variables.
    pub secrets_dir: Option<PathBuf>,
    /// Peers whose `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<Cidr>,
    pub limits: DoorLimits,
    pub upstreams: BTreeMap<String, Upstream>,
    pub databases: BTreeMap<String, Database>,
    pub postgres: BTreeMap<String, Postgres>,
    pub agent: Option<Agent>,
    pub control: Option<Control>,
    pub handlers: BTreeMap<String, Handler>,
    pub cache: CacheBudget,
    pub shutdown: Shutdown,
    pub access_log: AccessLog,
    /// Empty only if there is an agent; in the order written; names are unique.
    pub routes: Vec<Route>,
}

impl Config {
    /// What `deployed` serves, on this machine: its handlers, routes, databases and upstreams, all else from here.
    pub fn with_deployed(&self, deployed: Config) -> Config {
        Config {
            handlers: deployed.handlers,
            routes: deployed.routes,
            databases: deployed.databases,
            upstreams: deployed.upstreams,
            postgres: BTreeMap::new(),
            secrets_dir: None,
            ..self.clone()
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    /// `None` speaks plain HTTP.
    pub tls: Option<Tls>,
}

/// At least one certificate or one self-signed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub certificates: Vec<CertificateFiles>,
    /// Names for a certificate that is made once and kept under [`Config::data_dir`].
    pub self_signed: Vec<String>,
    pub min_version: TlsVersion,
}

/// PEM files: a chain, leaf first, and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Admin {
    pub address: SocketAddr,
    /// Always present when the address is not a loopback address.
    pub token: Option<String>,
}

/// The token never reaches a log through `{:?}`.
impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

/// What a client may ask of the door, before any route is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorLimits {
    /// From the first byte of a request's head to its last, however many reads that takes.
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub keepalive: Duration,
    /// Longest pause between two reads of a request body.
    pub body_timeout: Duration,
    pub header_bytes: u64,
    pub body_bytes: u64,
    pub connections: usize,
    pub connections_per_address: usize,
    pub requests_per_connection: u32,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            header_bytes: 64 * KIB,
            body_bytes: GIB,
            connections: 10_000,
            connections_per_address: 1_000,
            requests_per_connection: 10_000,
        }
    }
}

/// A legacy backend: one or more servers that answer alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Never empty; at least one is not a backup.
    pub servers: Vec<Server>,
    pub balance: Balance,
    pub health_check: Option<HealthCheck>,
    pub timeouts: Timeouts,
    /// Further attempts after a failed one; idempotent requests only.
    pub retries: u32,
    pub tls: Option<UpstreamTls>,
    pub http2: bool,
    /// `Host` as sent to the upstream; `None` passes the client's on.
    pub host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `host:port`; the host is a name, an IPv4 address or an IPv6 address in brackets.
    pub address: String,
    /// At least 1.
    pub weight: u32,
    /// Used only when no other server is healthy.
    pub backup: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    #[default]
    RoundRobin,
    Random,
    LeastConnections,
    ConsistentHash,
}

/// An active check: `GET path` on every server; a 2xx or 3xx within `timeout` is a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub path: String,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that bring a server back.
    pub healthy: u32,
    /// Failures in a row that take a server out.
    pub unhealthy: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// Longest pause between two reads.
    pub read: Duration,
    /// Longest pause between two writes.
    pub write: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            read: Duration::from_secs(30),
            write: Duration::from_secs(30),
            idle: Duration::from_secs(60),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// Name in SNI and in the certificate; `None` takes the server's address.
    pub server_name: Option<String>,
    /// PEM file of the authorities to believe; `None` takes the system's.
    pub ca: Option<PathBuf>,
}

/// When the writes of a handler are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Writes {
    /// When they are done.
    #[default]
    Wait,
    /// While the primary is slow, with 202 when they are queued.
    QueueWhenSlow,
}

/// This machine's part in replication.
#[derive(Clone, PartialEq, Eq)]
pub struct Agent {
    pub name: String,
    pub data_dir: PathBuf,
    /// Where the proxy of this machine reaches the agent.
    pub socket: PathBuf,
    /// Where other agents and clients reach it.
    pub listen: Option<SocketAddr>,
    /// The primary's address; `None` when this is the primary.
    pub primary: Option<String>,
    pub token: Option<String>,
    /// Shown on `listen`; without it, plain HTTP.
    pub tls: Option<CertificateFiles>,
    /// Authorities believed at the primary, besides the machine's own.
    pub ca: Option<PathBuf>,
    /// No two have the same token.
    pub clients: Vec<AgentClient>,
    pub queue_rows: u64,
    pub queue_bytes: u64,
    pub log_retain_bytes: u64,
    /// Used by a primary only.
    pub store: Option<AgentStore>,
    pub write_timeout: Duration,
    /// Databases that a primary holds open at one time.
    pub open_databases: usize,
    /// How long a read waits for what its client has seen before the primary is asked instead.
    pub bookmark_wait: Duration,
    /// Level 1 beyond it.
    pub replica_lag: Duration,
    /// Level 2 beyond it.
    pub primary_slow: Duration,
    pub scrub_interval: Duration,
}

impl Agent {
    pub const QUEUE_ROWS: u64 = 100_000;
    pub const QUEUE_BYTES: u64 = 256 * MIB;
    pub const LOG_RETAIN_BYTES: u64 = GIB;
    pub const OPEN_DATABASES: usize = 200;
    pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
    pub const BOOKMARK_WAIT: Duration = Duration::from_millis(100);
    pub const REPLICA_LAG: Duration = Duration::from_secs(60);
    pub const PRIMARY_SLOW: Duration = Duration::from_millis(500);
    pub const SCRUB_INTERVAL: Duration = Duration::from_secs(600);
}

/// This machine's part in control: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// What `selvedge control` is.
    pub plane: Option<ControlPlane>,
    /// How a PoP reaches it.
    pub link: Option<ControlLink>,
}

/// The control plane. Its databases are the agent's, which is always configured beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    pub listen: SocketAddr,
    /// Without it, plain HTTP.
    pub tls: Option<CertificateFiles>,
    /// Folder of what was uploaded.
    pub artifacts: PathBuf,
    pub max_artifact_bytes: u64,
    /// File of the keys that secrets are encrypted with.
    pub secrets_key: PathBuf,
    /// Where PoPs serve apps.
    pub sites: Sites,
    /// Webhooks may be on this machine and in private networks, and without TLS.
    pub allow_private_webhooks: bool,
}

impl ControlPlane {
    /// A component with an embedded JavaScript engine and its code is some tens of megabytes.
    pub const MAX_ARTIFACT_BYTES: u64 = 256 * MIB;
}

#[derive(Clone, PartialEq, Eq)]
pub struct ControlLink {
    pub url: String,
    /// Never empty.
    pub token: String,
    /// Authorities believed, besides the machine's own.
    pub ca: Option<PathBuf>,
    /// An app is served at its name below this one, and its version N at `APP-vN`.
    pub domain: String,
}

impl ControlLink {
    /// Browsers and curl look for names below it on their own machine (RFC 6761 section 6.3).
    pub const DOMAIN: &str = "localhost";
}

/// The token is not shown.
impl fmt::Debug for ControlLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlLink")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Where a primary also keeps its databases.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentStore {
    /// An absolute path, `file://` or `s3://bucket/prefix`.
    pub url: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    pub allow_http: bool,
    pub snapshot_interval: Duration,
    pub retention: Duration,
    pub sync_interval: Duration,
}

impl AgentStore {
    pub const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(24 * 3600);
    pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
    pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);
}

/// The keys are not shown.
impl fmt::Debug for AgentStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentStore")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// The token is not shown.
impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("name", &self.name)
            .field("primary", &self.primary)
            .finish_non_exhaustive()
    }
}

/// Who may reach one database through the agent with a client of libSQL's.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentClient {
    /// At least 16 characters.
    pub token: String,
    pub database: String,
    pub role: ClientRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientRole {
    Read,
    Write,
}

/// The token is not shown.
impl fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentClient")
            .field("database", &self.database)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// A SQLite database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// `None` when it is replicated: then the agent keeps it.
    pub path: Option<PathBuf>,
    /// Folder of `.sql` files, run once each in the order of their names.
    pub migrations: Option<PathBuf>,
    /// What a new replicated database starts from; `None` for a local one.
    pub seed: Option<PathBuf>,
    /// Whether a deployment's migrations may drop or rename what the serving version may use.
    pub allow_incompatible: bool,
    pub statement_timeout: Duration,
    /// A replica further behind is not read; `None` for a local database.
    pub max_staleness: Option<Duration>,
    /// Read-only connections; at least 1.
    pub readers: usize,
}

/// A PostgreSQL database, reached from the primary site.
#[derive(Clone, PartialEq, Eq)]
pub struct Postgres {
    /// Present exactly where the agent is the primary.
    pub url: Option<String>,
    /// Connections at one time; at least 1.
    pub pool: usize,
    /// At most [`Postgres::LONGEST_STATEMENT`].
    pub statement_timeout: Duration,
    /// PEM file of the authorities to believe; `None` takes the system's.
    pub ca: Option<PathBuf>,
}

impl Postgres {
    pub const POOL: usize = 8;
    pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
    /// What waits for a statement, from the guest to the primary, waits a little longer.
    pub const LONGEST_STATEMENT: Duration = Duration::from_secs(60);
}

/// The address holds a password and is not shown.
impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("url", &self.url.as_ref().map(|_| "(hidden)"))
            .field("pool", &self.pool)
            .field("statement_timeout", &self.statement_timeout)
            .field("ca", &self.ca)
            .finish()
    }
}

/// A wasm component and the only capabilities it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Handler {
    pub component: PathBuf,
    pub bindings: BTreeMap<String, Binding>,
    pub env: BTreeMap<String, String>,
    /// Names of files under [`Config::secrets_dir`] or of environment variables of the process.
    pub secrets: Vec<String>,
    pub limits: HandlerLimits,
    /// Path that answers below 500 when a deployment of it works.
    pub health_check: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// A key of [`Config::databases`].
    Database(String),
    /// A key of [`Config::postgres`].
    Postgres(String),
}

/// A reader that waits for somebody else's page to be made makes it too after this long.
pub const LONGEST_FILL: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerLimits {
    /// Linear memory of one instance, bytes.
    pub memory: u64,
    /// Time on a processor for one request.
    pub cpu: Duration,
    /// Time by the clock for one request.
    pub wall: Duration,
    /// Requests at the same time.
    pub concurrency: usize,
    /// How long a request may wait for a free slot.
    pub queue: Duration,
    pub request_body: u64,
    pub response_header: u64,
    /// Requests one `wasi:http` 0.3 instance may serve in its life.
    pub reuse: u32,
    /// Requests one 0.3 instance may serve at the same time.
    pub reuse_concurrency: u32,
    /// How long an unused 0.3 instance is kept.
    pub idle: Duration,
}

impl Default for HandlerLimits {
    fn default() -> Self {
        Self {
            memory: 128 * MIB,
            cpu: Duration::from_secs(1),
            wall: Duration::from_secs(30),
            concurrency: 256,
            queue: Duration::from_secs(1),
            request_body: 10 * MIB,
            response_header: 64 * KIB,
            reuse: 128,
            reuse_concurrency: 16,
            idle: Duration::from_secs(1),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheBudget {
    /// Bytes of all stored responses together.
    pub memory: u64,
    /// Bytes of the largest response that is stored.
    pub max_object: u64,
}

impl Default for CacheBudget {
    fn default() -> Self {
        Self {
            memory: 256 * MIB,
            max_object: 64 * MIB,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// From "not ready" to the moment the listeners close, so that a load balancer can look away first.
    pub delay: Duration,
    /// From then to the end, however many requests are left.
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            grace: Duration::from_secs(30),
        }
    }
}

/// Where the access log goes, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AccessLog {
    Off,
    #[default]
    Stdout,
    Stderr,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// As written, or host and path; unique. Metrics and logs call the route this.
    pub name: String,
    pub matcher: Match,
    /// Run in this order.
    pub filters: Vec<FilterEntry>,
    pub cache: Option<CachePolicy>,
    pub target: Target,
    /// A key of [`Config::upstreams`]; only where the target is a handler or another upstream.
    pub fallback: Option<String>,
    pub error_page: Option<PathBuf>,
    pub writes: Writes,
    /// JSON pointer into the configuration, `/routes/3`.
    pub pointer: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub host: HostPattern,
    pub path: PathPattern,
    /// `None` is every method. A list with GET answers HEAD too.
    pub methods: Option<Vec<Method>>,
}

/// `GET,HEAD shop.example.com/products/*`; any host and every method are left out.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(methods) = &self.methods {
            let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
            write!(f, "{} ", methods.join(","))?;
        }
        match &self.host {
            HostPattern::Any => write!(f, "{}", self.path),
            host => write!(f, "{host}{}", self.path),
        }
    }
}

/// A filter by its name in the list of the filters crate, with settings that fit that filter's schema.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterEntry {
    pub name: String,
    pub settings: serde_json::Value,
    /// JSON pointer to the settings, `/routes/3/filters/0/jwt`.
    pub pointer: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A key of [`Config::handlers`].
    Handler(String),
    /// A key of [`Config::upstreams`].
    Upstream(String),
    Static(StaticFiles),
    Redirect(RedirectTarget),
    Respond(FixedResponse),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticFiles {
    pub root: PathBuf,
    /// File served for a folder.
    pub index: String,
    /// The files never change under their name: clients may keep them for a year.
    pub immutable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectTarget {
    /// An absolute URL or a path from the root.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedResponse {
    pub status: u16,
    pub body: String,
    pub content_type: String,
}

/// What the route says about storing its responses; the response's own headers say the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePolicy {
    pub isr: Option<Isr>,
    /// Given to every response of the route, beside the tags in its headers.
    pub tags: Vec<String>,
    /// Request headers that are part of the variance even when the response does not say so.
    pub vary: Vec<HeaderName>,
    pub query: QueryKey,
}

/// Which part of the query is part of the cache key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryKey {
    All,
    None,
    /// Only these parameters.
    Only(Vec<String>),
}

/// Incremental regeneration: the route decides freshness, whatever the response says.
#[derive(Clone, PartialEq, Eq)]
pub struct Isr {
    /// A page older than this is stale: served once more while it is made anew. Never zero.
    pub revalidate: Duration,
    /// A page older than this is never served; `None` keeps it until it is purged or evicted.
    pub expire: Option<Duration>,
    /// How long past its freshness a page may stand in for a failed regeneration.
    pub stale_if_error: Duration,
    /// A request that shows this token sees the page made anew.
    pub bypass_token: Option<String>,
}

impl Isr {
    pub(crate) const STALE_IF_ERROR: Duration = Duration::from_secs(24 * 60 * 60);
}

/// The token never reaches a log through `{:?}`.
impl fmt::Debug for Isr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Isr")
            .field("revalidate", &self.revalidate)
            .field("expire", &self.expire)
            .field("stale_if_error", &self.stale_if_error)
            .field("bypass_token", &self.bypass_token.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}
