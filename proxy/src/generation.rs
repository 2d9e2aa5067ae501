//! One configuration, built: what a request sees from its first phase to its last.
//!
//! A generation is complete before anybody sees it. Building one reads files, compiles components, opens databases and
//! checks every reference; the first request that is served by it is never the one that finds the mistake. Several
//! mistakes are reported at once, each at its place in the file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use selvedge_filters::{BuildContext, Filter};
use selvedge_replication::bookmark::Writes;
pub(crate) use selvedge_replication::chain;
use selvedge_replication::client::{AgentClient, Level, Thresholds};
use selvedge_replication::postgres::{Postgres, PostgresSettings};
use selvedge_replication::{Database, DatabaseSettings};
use selvedge_runtime::{Bindings, Handler, HandlerSpec, Runtime};
use selvedge_schema::{Binding, CachePolicy, Diagnostics, Document, FixedResponse, RedirectTarget, Route, Target};
use serde_json::json;

use crate::{
    router::RoutingTable,
    static_files::StaticSite,
    upstreams::{UpstreamSet, UpstreamWatch},
};

/// A built configuration. Immutable; a reload builds the next one and swaps the pointer.
pub struct Generation {
    /// Counts from 1; the admin API and the metrics show it.
    pub number: u64,
    /// `None` for the configuration file's own.
    pub(crate) deployment: Option<Arc<Deployment>>,
    pub document: Arc<Document>,
    pub(crate) routing: RoutingTable,
    pub(crate) routes: Vec<BuiltRoute>,
    pub(crate) upstreams: BTreeMap<String, Arc<UpstreamSet>>,
    pub(crate) handlers: BTreeMap<String, HandlerSlot>,
    pub(crate) databases: BTreeMap<String, Arc<Database>>,
    /// The agent of this machine, when databases are replicated.
    pub(crate) agent: Option<Arc<AgentClient>>,
    /// Health checks, for as long as this configuration serves.
    watches: Mutex<Vec<UpstreamWatch>>,
}

/// A version of an app, as control knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) app: String,
    pub(crate) version: i64,
}

/// What a configuration is built for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose<'a> {
    Serve,
    /// It comes from control: whoever wrote it gets neither secrets nor files of this machine.
    Deploy {
        deployment: &'a Arc<Deployment>,
        secrets: &'a BTreeMap<String, String>,
    },
    /// Databases are made anew in a folder that is thrown away, and nothing may be missing.
    Check {
        scratch: &'a Path,
    },
}

/// A handler, or why its component could not be loaded.
///
/// Only the first configuration of a process may hold an unloadable handler, and only when every route to it has a
/// fallback: a PoP that restarts with a damaged artifact serves its origin rather than nothing.
#[derive(Clone)]
pub(crate) enum HandlerSlot {
    Loaded(Arc<Handler>),
    Unavailable(Arc<str>),
}

pub(crate) struct BuiltRoute {
    pub(crate) name: Arc<str>,
    pub(crate) filters: Vec<Arc<dyn Filter>>,
    pub(crate) target: BuiltTarget,
    pub(crate) fallback: Option<Arc<UpstreamSet>>,
    pub(crate) cache: Option<RouteCache>,
    /// HTML shown instead of the plain error text.
    pub(crate) error_page: Option<Bytes>,
    /// When the writes of its handler are answered.
    pub(crate) writes: Writes,
}

pub(crate) enum BuiltTarget {
    Handler { name: Arc<str>, slot: HandlerSlot },
    Upstream(Arc<UpstreamSet>),
    Static(StaticSite),
    Redirect(RedirectTarget),
    Respond(FixedResponse),
}

/// A route's cache policy and the scope its keys live in.
pub(crate) struct RouteCache {
    pub(crate) policy: CachePolicy,
    /// Route name and the deployment's id or, for a file's handlers, the artifact's digest: a new build never serves the
    /// previous build's pages.
    pub(crate) scope: String,
}

impl HandlerSlot {
    /// Bytes; `None` while the handler is unavailable.
    pub(crate) fn request_body_limit(&self) -> Option<u64> {
        match self {
            HandlerSlot::Loaded(handler) => Some(handler.limits().request_body),
            HandlerSlot::Unavailable(_) => None,
        }
    }
}

impl BuiltTarget {
    /// Kind and name, for log and metrics.
    pub(crate) fn label(&self) -> (&'static str, &str) {
        match self {
            BuiltTarget::Handler { name, .. } => ("handler", name),
            BuiltTarget::Upstream(set) => ("upstream", set.name()),
            BuiltTarget::Static(_) => ("static", ""),
            BuiltTarget::Redirect(_) => ("redirect", ""),
            BuiltTarget::Respond(_) => ("respond", ""),
        }
    }
}

impl Generation {
    /// Builds `document` completely. `previous` lends what survives a reload: open databases, unchanged handlers, the
    /// health of upstream servers.
    pub(crate) fn build(
        document: Document,
        runtime: &Arc<Runtime>,
        previous: Option<&Generation>,
        purpose: Purpose<'_>,
        housekeeping: &tokio::runtime::Handle,
    ) -> Result<Generation, Diagnostics> {
        let problems = Diagnostics::for_document(&document);
        let builder = Builder {
            document: &document,
            runtime,
            previous,
            purpose,
            housekeeping,
            problems,
        };
        let (routing, routes, upstreams, handlers, databases, agent) = builder.build()?;
        let deployment = match purpose {
            Purpose::Deploy { deployment, .. } => Some(Arc::clone(deployment)),
            Purpose::Serve | Purpose::Check { .. } => None,
        };
        Ok(Generation {
            number: previous.map_or(1, |previous| previous.number + 1),
            deployment,
            document: Arc::new(document),
            routing,
            routes,
            upstreams,
            handlers,
            databases,
            agent,
            watches: Mutex::default(),
        })
    }

    /// Starts what goes on between requests; it ends with this configuration.
    pub(crate) fn watch(&self, runtime: &tokio::runtime::Handle) {
        let watches = self.upstreams.values().map(|set| set.watch(runtime));
        *self.watches.lock() = watches.collect();
    }

    /// What keeps this PoP from doing its whole job; for readiness.
    pub(crate) fn degraded(&self) -> Vec<String> {
        let damaged = self.databases.iter().filter(|(_, database)| database.stats().damaged);
        damaged.map(|(name, _)| format!("database {name} is damaged")).collect()
    }

    /// How metrics and log tell what is in it from what has the same name elsewhere.
    pub(crate) fn label(&self, name: &str) -> String {
        match &self.deployment {
            Some(deployment) => format!("{}@{}/{name}", deployment.app, deployment.version),
            None => name.to_owned(),
        }
    }

    /// The worst level of any database.
    pub(crate) fn level(&self) -> Level {
        self.databases
            .values()
            .map(|database| database.level())
            .max()
            .unwrap_or(Level::Normal)
    }

    /// What `/routes` shows.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let routes: Vec<_> = self
            .routes
            .iter()
            .zip(&self.document.config.routes)
            .map(|(built, route)| {
                let (kind, name) = built.target.label();
                json!({
                    "name": route.name,
                    "match": route.matcher.to_string(),
                    "filters": built.filters.iter().map(|filter| filter.name()).collect::<Vec<_>>(),
                    "target": { "kind": kind, "name": name },
                    "fallback": built.fallback.as_ref().map(|set| set.name()),
                    "cache": built.cache.is_some(),
                })
            })
            .collect();
        let upstreams: BTreeMap<_, _> = self
            .upstreams
            .iter()
            .map(|(name, set)| (name, set.describe()))
            .collect();
        let handlers: BTreeMap<_, _> = self
            .handlers
            .iter()
            .map(|(name, slot)| {
                let state = match slot {
                    HandlerSlot::Loaded(handler) => json!({ "loaded": true, "digest": handler.digest() }),
                    HandlerSlot::Unavailable(why) => json!({ "loaded": false, "why": &**why }),
                };
                (name, state)
            })
            .collect();
        json!({ "generation": self.number, "routes": routes, "upstreams": upstreams, "handlers": handlers })
    }
}

type Built = (
    RoutingTable,
    Vec<BuiltRoute>,
    BTreeMap<String, Arc<UpstreamSet>>,
    BTreeMap<String, HandlerSlot>,
    BTreeMap<String, Arc<Database>>,
    Option<Arc<AgentClient>>,
);

struct Builder<'a> {
    document: &'a Document,
    runtime: &'a Arc<Runtime>,
    previous: Option<&'a Generation>,
    purpose: Purpose<'a>,
    housekeeping: &'a tokio::runtime::Handle,
    problems: Diagnostics,
}

impl Builder<'_> {
    fn build(mut self) -> Result<Built, Diagnostics> {
        let upstreams = self.upstreams();
        let agent = self.agent();
        let databases = self.databases(agent.as_ref());
        let postgres = self.postgres(agent.as_ref());
        let handlers = self.handlers(&databases, &postgres);
        let routing = self.routing();
        let routes: Vec<_> = self
            .document
            .config
            .routes
            .iter()
            .filter_map(|route| self.route(route, &upstreams, &handlers))
            .collect();
        match routing {
            Some(routing) if !self.problems.has_errors() => {
                Ok((routing, routes, upstreams, handlers, databases, agent))
            }
            _ => Err(self.problems),
        }
    }

    fn upstreams(&mut self) -> BTreeMap<String, Arc<UpstreamSet>> {
        let mut built = BTreeMap::new();
        for (name, upstream) in &self.document.config.upstreams {
            let previous = self.previous.and_then(|previous| previous.upstreams.get(name));
            match UpstreamSet::build(name, upstream, previous.map(|set| &**set)) {
                Ok(set) => {
                    built.insert(name.clone(), set);
                }
                Err(error) => self.problems.error(&format!("/upstreams/{name}"), chain(&error), None),
            }
        }
        built
    }

    /// Needed only when something is read through it: a handler's database, or what control has for PoPs.
    fn agent(&mut self) -> Option<Arc<AgentClient>> {
        let config = &self.document.config;
        let agent = config.agent.as_ref().filter(|_| {
            let is_pop = config.control.as_ref().is_some_and(|control| control.link.is_some());
            let replicated = config.databases.values().any(|database| database.path.is_none());
            is_pop || replicated || !config.postgres.is_empty()
        })?;
        let kept = self
            .previous
            .filter(|previous| previous.document.config.agent.as_ref() == Some(agent));
        if let Some(kept) = kept.and_then(|previous| previous.agent.clone()) {
            return Some(kept);
        }
        let _runtime = self.housekeeping.enter();
        let thresholds = Thresholds {
            replica_lag: agent.replica_lag,
            primary_slow: agent.primary_slow,
            bookmark_wait: agent.bookmark_wait,
        };
        match AgentClient::start(&agent.socket, &agent.data_dir, thresholds) {
            Ok(client) => Some(client),
            Err(error) => {
                self.problems.error("/agent/socket", chain(&error), None);
                None
            }
        }
    }

    fn databases(&mut self, agent: Option<&Arc<AgentClient>>) -> BTreeMap<String, Arc<Database>> {
        let mut open = BTreeMap::new();
        for (name, database) in &self.document.config.databases {
            // The file stays open across reloads: there is one writer connection per database, always.
            let kept = self
                .previous
                .filter(|previous| previous.document.config.databases.get(name) == Some(database))
                .filter(|previous| previous.document.config.agent == self.document.config.agent)
                .and_then(|previous| previous.databases.get(name));
            if let Some(kept) = kept {
                open.insert(name.clone(), Arc::clone(kept));
                continue;
            }
            let path = match (self.purpose, &database.path) {
                (Purpose::Serve | Purpose::Deploy { .. }, Some(path)) => path.clone(),
                // The agent says where the file is.
                (Purpose::Serve | Purpose::Deploy { .. }, None) => Default::default(),
                (Purpose::Check { scratch }, _) => scratch.join(format!("{name}.db")),
            };
            let settings = DatabaseSettings {
                migrations: database.migrations.clone(),
                statement_timeout: database.statement_timeout,
                max_staleness: database.max_staleness,
                readers: database.readers,
                ..DatabaseSettings::new(name.as_str(), path)
            };
            let is_served = !matches!(self.purpose, Purpose::Check { .. });
            if let (true, None, Some(agent)) = (is_served, &database.path, agent) {
                open.insert(name.clone(), Database::of_agent(settings, Arc::clone(agent)));
                continue;
            }
            match Database::open(settings) {
                Ok(database) => {
                    open.insert(name.clone(), database);
                }
                Err(error) => self.problems.error(&format!("/databases/{name}"), chain(&error), None),
            }
        }
        open
    }

    /// Addresses are checked where they are written, which is at the primary; nobody is connected to.
    fn postgres(&mut self, agent: Option<&Arc<AgentClient>>) -> BTreeMap<String, Arc<Postgres>> {
        let mut reachable = BTreeMap::new();
        for (name, postgres) in &self.document.config.postgres {
            if let Some(url) = &postgres.url {
                let settings = PostgresSettings {
                    name: name.clone(),
                    url: url.clone(),
                    pool: postgres.pool,
                    statement_timeout: postgres.statement_timeout,
                    ca: postgres.ca.clone(),
                };
                if let Err(error) = settings.check() {
                    self.problems.error(&format!("/postgres/{name}"), chain(&error), None);
                }
            }
            if let Some(agent) = agent {
                reachable.insert(name.clone(), Postgres::of_agent(name.as_str(), Arc::clone(agent)));
            }
        }
        reachable
    }

    fn handlers(
        &mut self,
        databases: &BTreeMap<String, Arc<Database>>,
        postgres: &BTreeMap<String, Arc<Postgres>>,
    ) -> BTreeMap<String, HandlerSlot> {
        let mut slots = BTreeMap::new();
        for (name, handler) in &self.document.config.handlers {
            let pointer = format!("/handlers/{name}");
            let mut bindings = Bindings::default();
            for (binding, target) in &handler.bindings {
                match target {
                    Binding::Database(database) => {
                        if let Some(database) = databases.get(database) {
                            bindings.databases.insert(binding.clone(), Arc::clone(database));
                        }
                    }
                    Binding::Postgres(name) => {
                        if let Some(postgres) = postgres.get(name) {
                            bindings.postgres.insert(binding.clone(), Arc::clone(postgres));
                        }
                    }
                }
            }
            let Some(secrets) = self.secrets(&pointer, &handler.secrets) else {
                continue;
            };
            let spec = HandlerSpec {
                name: name.clone(),
                component: handler.component.clone(),
                limits: handler.limits.clone(),
                env: handler.env.clone(),
                secrets,
                bindings,
            };
            match self.runtime.load(spec) {
                Ok(handler) => {
                    slots.insert(name.clone(), HandlerSlot::Loaded(handler));
                }
                Err(error) if self.may_start_without(name) => {
                    let why = chain(&error);
                    tracing::error!(handler = %name, %why, "handler not loaded; its routes go to their fallback");
                    slots.insert(name.clone(), HandlerSlot::Unavailable(why.into()));
                }
                Err(error) => self
                    .problems
                    .error(&format!("{pointer}/component"), chain(&error), None),
            }
        }
        slots
    }

    /// Values of the named secrets; `None` after reporting the missing ones.
    fn secrets(&mut self, pointer: &str, names: &[String]) -> Option<BTreeMap<String, String>> {
        let mut values = BTreeMap::new();
        let mut complete = true;
        for (index, name) in names.iter().enumerate() {
            match self.secret(name) {
                Some(value) => {
                    values.insert(name.clone(), value);
                }
                None => {
                    complete = false;
                    let message = format!("the secret {name} is not set");
                    let help = match self.purpose {
                        Purpose::Deploy { .. } => format!("`selvedge secret set {name}` sets it"),
                        _ => format!("write it to a file {name} in `secrets_dir`, or export it to the process"),
                    };
                    self.problems
                        .error(&format!("{pointer}/secrets/{index}"), message, Some(help));
                }
            }
        }
        complete.then_some(values)
    }

    /// An app's own; the machine's from its file, without the last line break, else from the environment.
    fn secret(&self, name: &str) -> Option<String> {
        if let Purpose::Deploy { secrets, .. } = self.purpose {
            return secrets.get(name).cloned();
        }
        let file = self
            .document
            .config
            .secrets_dir
            .as_ref()
            .map(|folder| folder.join(name));
        let from_file = file.and_then(|path| fs::read_to_string(path).ok());
        let trimmed = from_file.map(|text| text.strip_suffix('\n').unwrap_or(&text).to_owned());
        trimmed.or_else(|| std::env::var(name).ok())
    }

    /// Whether the process may start although this handler cannot be loaded; see [`HandlerSlot`].
    fn may_start_without(&self, handler: &str) -> bool {
        let mut routes = self
            .document
            .config
            .routes
            .iter()
            .filter(|route| matches!(&route.target, Target::Handler(name) if name == handler))
            .peekable();
        matches!(self.purpose, Purpose::Serve)
            && self.previous.is_none()
            && routes.peek().is_some()
            && routes.all(|route| route.fallback.is_some())
    }

    fn routing(&mut self) -> Option<RoutingTable> {
        match RoutingTable::build(&self.document.config.routes) {
            Ok(table) => Some(table),
            Err(conflicts) => {
                for conflict in conflicts {
                    let routes = &self.document.config.routes;
                    let message = format!(
                        "routes {} and {} match the same requests, for example {}",
                        routes[conflict.a].name, routes[conflict.b].name, conflict.example
                    );
                    let help = Some("make one more specific, or restrict its methods".to_owned());
                    let pointer = routes[conflict.b].pointer.clone();
                    self.problems.error(&pointer, message, help);
                }
                None
            }
        }
    }

    fn route(
        &mut self,
        route: &Route,
        upstreams: &BTreeMap<String, Arc<UpstreamSet>>,
        handlers: &BTreeMap<String, HandlerSlot>,
    ) -> Option<BuiltRoute> {
        let filters = self.filters(route);
        let target = match &route.target {
            // A target that failed to build was reported where it is defined.
            Target::Handler(name) => BuiltTarget::Handler {
                name: name.as_str().into(),
                slot: handlers.get(name)?.clone(),
            },
            Target::Upstream(name) => BuiltTarget::Upstream(Arc::clone(upstreams.get(name)?)),
            Target::Static(files) => match StaticSite::open(&files.root, &files.index, files.immutable) {
                Ok(site) => BuiltTarget::Static(site),
                Err(error) => {
                    self.problems
                        .error(&format!("{}/static/root", route.pointer), chain(&error), None);
                    return None;
                }
            },
            Target::Redirect(redirect) => BuiltTarget::Redirect(redirect.clone()),
            Target::Respond(response) => BuiltTarget::Respond(response.clone()),
        };
        let error_page = match &route.error_page {
            None => None,
            Some(path) => Some(self.error_page(route, path)?),
        };
        let cache = route.cache.clone().map(|policy| RouteCache {
            policy,
            scope: self.scope(route, &target),
        });
        let fallback = route.fallback.as_ref().and_then(|name| upstreams.get(name)).cloned();
        Some(BuiltRoute {
            name: match self.purpose {
                Purpose::Deploy { deployment, .. } => format!("{}/{}", deployment.app, route.name).into(),
                Purpose::Serve | Purpose::Check { .. } => route.name.as_str().into(),
            },
            filters,
            target,
            fallback,
            cache,
            error_page,
            writes: match route.writes {
                selvedge_schema::Writes::Wait => Writes::Wait,
                selvedge_schema::Writes::QueueWhenSlow => Writes::QueueWhenSlow,
            },
        })
    }

    fn filters(&mut self, route: &Route) -> Vec<Arc<dyn Filter>> {
        let folder = self.document.base_dir.clone();
        let context = match self.purpose {
            Purpose::Deploy { .. } => BuildContext::confined(folder),
            Purpose::Serve | Purpose::Check { .. } => BuildContext::new(folder),
        };
        let mut built = Vec::with_capacity(route.filters.len());
        for entry in &route.filters {
            match selvedge_filters::build(&entry.name, entry.settings.clone(), &context) {
                Ok(filter) => built.push(filter),
                Err(error) => {
                    let pointer = format!("{}{}", entry.pointer, error.pointer);
                    self.problems.error(&pointer, error.message, error.help);
                }
            }
        }
        built
    }

    fn scope(&self, route: &Route, target: &BuiltTarget) -> String {
        match (self.purpose, target) {
            (Purpose::Deploy { deployment, .. }, _) => format!("{}@{}", route.name, deployment.id),
            (
                _,
                BuiltTarget::Handler {
                    slot: HandlerSlot::Loaded(handler),
                    ..
                },
            ) => format!("{}@{}", route.name, handler.digest()),
            _ => route.name.clone(),
        }
    }

    fn error_page(&mut self, route: &Route, path: &PathBuf) -> Option<Bytes> {
        match fs::read(path) {
            Ok(page) => Some(page.into()),
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                self.problems
                    .error(&format!("{}/error_page", route.pointer), message, None);
                None
            }
        }
    }
}
