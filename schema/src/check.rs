//! What the schema cannot say: names that must exist, values that must go together.
//!
//! Runs on the configuration as used and points into the text. Whether two routes tie is the router's to say.

mod agent_clients;
mod control;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use http::Method;

use crate::config::*;
use crate::diagnostic::{Diagnostic, Severity};
use crate::source::{SourceMap, child, spoken};
use crate::words::nearest;

/// Smaller than one page of wasm memory no component starts.
const WASM_PAGE_BYTES: u64 = 64 * 1024;
/// What 32-bit memory can address.
const WASM_MEMORY_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// A browser's head easily takes a few hundred bytes; below this nobody could be served.
const SMALLEST_HEAD_BYTES: u64 = 1024;

/// Errors and warnings.
pub(crate) fn check(config: &Config, source: &SourceMap) -> Vec<Diagnostic> {
    let mut checker = Checker {
        config,
        source,
        findings: Vec::new(),
    };
    checker.listeners();
    checker.door();
    checker.upstreams();
    checker.agent();
    checker.control();
    checker.postgres();
    checker.handlers();
    checker.routes();
    checker.unused();
    checker.findings
}

struct Checker<'a> {
    config: &'a Config,
    source: &'a SourceMap,
    findings: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn error(&mut self, pointer: &str, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.findings
            .push(self.source.at_value(Severity::Error, pointer, message, help.into()));
    }

    fn listeners(&mut self) {
        let config = self.config;
        let listeners = config.listeners.iter().enumerate();
        let mut bound: Vec<(SocketAddr, String)> = listeners
            .map(|(index, listener)| (listener.address, format!("/listeners/{index}/address")))
            .collect();
        if let Some(admin) = &config.admin {
            bound.push((admin.address, "/admin/address".to_owned()));
            if admin.token.is_none() && !admin.address.ip().to_canonical().is_loopback() {
                let message = format!(
                    "admin listens on {}, which others can reach, without a token",
                    admin.address
                );
                let help = "add `token: \"${ADMIN_TOKEN}\"`, or listen on 127.0.0.1".to_owned();
                self.error("/admin/address", message, help);
            }
        }
        for (index, (address, pointer)) in bound.iter().enumerate() {
            if let Some((other, before)) = bound[..index].iter().find(|(other, _)| overlap(*address, *other)) {
                let place = spoken(before.trim_end_matches("/address"));
                let message = if other == address {
                    format!("{address} is already the address of {place}")
                } else {
                    format!("{address} is already covered by {place}, {other}")
                };
                self.error(pointer, message, None);
            }
        }
        for (index, listener) in config.listeners.iter().enumerate() {
            if let Some(tls) = &listener.tls
                && tls.certificates.is_empty()
                && tls.self_signed.is_empty()
            {
                let pointer = format!("/listeners/{index}/tls");
                let help = "add `certificates: [{ cert: …, key: … }]` or `self_signed: [localhost]`".to_owned();
                self.error(&pointer, format!("{} has no certificate", spoken(&pointer)), help);
            }
        }
    }

    fn door(&mut self) {
        if self.config.limits.header_bytes < SMALLEST_HEAD_BYTES {
            let message = format!("limits.header_bytes: expected at least {SMALLEST_HEAD_BYTES} bytes");
            self.error("/limits/header_bytes", message, None);
        }
    }

    fn upstreams(&mut self) {
        for (name, upstream) in &self.config.upstreams {
            let pointer = child("/upstreams", name);
            if upstream.servers.iter().all(|server| server.backup) {
                let message = format!("all servers of {} are backups", spoken(&pointer));
                self.error(
                    &format!("{pointer}/servers"),
                    message,
                    "one that is not a backup is asked first".to_owned(),
                );
            }
            let mut addresses = BTreeSet::new();
            for (index, server) in upstream.servers.iter().enumerate() {
                if !addresses.insert(&server.address) {
                    let pointer = format!("{pointer}/servers/{index}/address");
                    let help = "to send it more requests, raise its weight".to_owned();
                    self.error(&pointer, format!("the server {} is there twice", server.address), help);
                }
            }
        }
    }

    fn agent(&mut self) {
        let config = self.config;
        for name in config.databases.keys().filter(|name| name.starts_with('_')) {
            let message = format!("database \"{name}\": names that begin with `_` are the platform's");
            let finding = self
                .source
                .at_key(Severity::Error, &child("/databases", name), message, None);
            self.findings.push(finding);
        }
        match &config.agent {
            None => {
                for (key, missing) in [
                    ("listeners", config.listeners.is_empty()),
                    ("routes", config.routes.is_empty()),
                ] {
                    if missing {
                        let help = "only a file with an `agent` may be without".to_owned();
                        self.error("", format!("`{key}` is missing or empty"), help);
                    }
                }
                for (name, database) in &config.databases {
                    if database.path.is_none() {
                        let message = format!("database \"{name}\" has no path, and there is no agent to keep it");
                        let help = "add `path: FILE` for a database of this machine alone, or an `agent`".to_owned();
                        self.error(&child("/databases", name), message, help);
                    }
                }
            }
            Some(agent) => {
                self.agent_clients(agent);
                for (name, database) in &config.databases {
                    if database.seed.is_some() && database.path.is_some() {
                        let pointer = format!("{}/seed", child("/databases", name));
                        self.error(
                            &pointer,
                            "only a replicated database, one without `path`, starts from a seed",
                            None,
                        );
                    }
                }
                if let Some(listen) = agent.listen
                    && agent.token.is_none()
                    && !listen.ip().to_canonical().is_loopback()
                {
                    let message = format!("the agent listens on {listen}, which others can reach, without a token");
                    let help = "add `token: \"${CLUSTER_TOKEN}\"`, the same at every agent".to_owned();
                    self.error("/agent/listen", message, help);
                }
                if let Some(store) = &agent.store {
                    if store.access_key_id.is_some() != store.secret_access_key.is_some() {
                        let message = "`access_key_id` and `secret_access_key` belong together";
                        let help = "give both, or neither to take them from the environment".to_owned();
                        self.error("/agent/store", message, help);
                    }
                    if store.snapshot_interval > store.retention {
                        let message = "no snapshot would be as old as `retention` says";
                        let help = "make `snapshot_interval` shorter than `retention`".to_owned();
                        self.error("/agent/store/snapshot_interval", message, help);
                    }
                    let plain = store.endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
                    if plain && !store.allow_http {
                        let message = "the store's endpoint is reached without TLS";
                        let help = "use https, or say `allow_http: true`".to_owned();
                        self.error("/agent/store/endpoint", message, help);
                    }
                }
                // Control brings routes.
                let is_pop = config.control.as_ref().is_some_and(|control| control.link.is_some());
                let has_routes = !config.routes.is_empty() || (is_pop && !config.listeners.is_empty());
                if config.listeners.is_empty() == has_routes {
                    let (given, missing) = match config.listeners.is_empty() {
                        true => ("routes", "listeners"),
                        false => ("listeners", "routes"),
                    };
                    self.error(
                        &format!("/{given}"),
                        format!("there are {given} and no {missing}"),
                        None,
                    );
                }
            }
        }
    }

    /// Points at names and keys: a value may hold a password.
    fn postgres(&mut self) {
        for (name, postgres) in &self.config.postgres {
            let pointer = child("/postgres", name);
            let (pointer, message, help) = match (&self.config.agent, &postgres.url) {
                (None, _) => (
                    pointer,
                    format!("the PostgreSQL \"{name}\" is reached through the agent, and there is none"),
                    Some("add an `agent`: the primary's connects, the others forward to it"),
                ),
                (Some(agent), None) if agent.primary.is_none() => (
                    pointer,
                    format!("the PostgreSQL \"{name}\" has no url, and this agent is the primary"),
                    Some("add `url: \"${file:…}\"`, a file with postgres://USER:PASSWORD@HOST/DATABASE"),
                ),
                (Some(agent), Some(_)) if agent.primary.is_some() => (
                    format!("{pointer}/url"),
                    format!("the PostgreSQL \"{name}\" has a url, but only the primary connects"),
                    Some("leave the url, and with it the password, to the primary's configuration"),
                ),
                (Some(_), _) if postgres.statement_timeout > Postgres::LONGEST_STATEMENT => {
                    let pointer = format!("{pointer}/statement_timeout");
                    let message = format!("{}: expected at most 60s", spoken(&pointer));
                    (pointer, message, None)
                }
                (Some(_), _) => continue,
            };
            let help = help.map(str::to_owned);
            self.findings
                .push(self.source.at_key(Severity::Error, &pointer, message, help));
        }
    }

    fn handlers(&mut self) {
        for (name, handler) in &self.config.handlers {
            let pointer = child("/handlers", name);
            for (name, binding) in &handler.bindings {
                let pointer = child(&format!("{pointer}/bindings"), name);
                match binding {
                    Binding::Database(database) => {
                        let pointer = format!("{pointer}/database");
                        self.defined(&pointer, "database", database, &self.config.databases);
                    }
                    Binding::Postgres(postgres) => {
                        let pointer = format!("{pointer}/postgres");
                        self.defined(&pointer, "postgres", postgres, &self.config.postgres);
                    }
                }
            }
            for variable in handler.env.keys() {
                if variable.is_empty() || variable.contains(['=', '\0']) {
                    let message = format!("\"{variable}\" cannot be the name of an environment variable");
                    self.error(&child(&format!("{pointer}/env"), variable), message, None);
                }
            }
            let memory = handler.limits.memory;
            if !(WASM_PAGE_BYTES..=WASM_MEMORY_BYTES).contains(&memory) {
                let pointer = format!("{pointer}/limits/memory");
                self.error(&pointer, format!("{}: expected 64KiB to 4GiB", spoken(&pointer)), None);
            }
        }
    }

    fn routes(&mut self) {
        let config = self.config;
        let mut names: BTreeMap<&str, &Route> = BTreeMap::new();
        for route in &config.routes {
            let pointer = &route.pointer;
            if let Some(first) = names.insert(&route.name, route) {
                let message = format!(
                    "the name \"{}\" is already that of {}",
                    route.name,
                    spoken(&first.pointer)
                );
                self.error(&format!("{pointer}/name"), message, None);
            }
            match &route.target {
                Target::Handler(name) => self.defined(&format!("{pointer}/handler"), "handler", name, &config.handlers),
                Target::Upstream(name) => {
                    self.defined(&format!("{pointer}/upstream"), "upstream", name, &config.upstreams);
                }
                Target::Static(_) | Target::Redirect(_) | Target::Respond(_) => {}
            }
            self.fallback(route);
            self.writes(route);
            self.methods(route);
            self.cache(route);
        }
    }

    /// Which request a queued write belongs to is only known when a handler's requests do not share an instance.
    fn writes(&mut self, route: &Route) {
        if route.writes == Writes::Wait {
            return;
        }
        let pointer = format!("{}/writes", route.pointer);
        let Target::Handler(name) = &route.target else {
            return self.error(&pointer, "only a handler writes to a database", None);
        };
        if self.config.agent.is_none() {
            return self.error(
                &pointer,
                "only writes to replicated databases can be queued, and there is no `agent`",
                None,
            );
        }
        let handler = self.config.handlers.get(name);
        if handler.is_some_and(|handler| handler.limits.reuse_concurrency > 1) {
            let help = format!("set `limits.reuse_concurrency: 1` of handler \"{name}\"");
            let message = "requests that share an instance would be told of each other's queued writes";
            self.error(&pointer, message, help);
        }
    }

    fn fallback(&mut self, route: &Route) {
        let Some(fallback) = &route.fallback else {
            return;
        };
        let pointer = format!("{}/fallback", route.pointer);
        self.defined(&pointer, "upstream", fallback, &self.config.upstreams);
        match &route.target {
            Target::Upstream(name) if name == fallback => {
                let help = "name another upstream, or give this one more servers".to_owned();
                self.error(
                    &pointer,
                    format!("{} falls back to itself", spoken(&route.pointer)),
                    help,
                );
            }
            Target::Handler(_) | Target::Upstream(_) => {}
            Target::Static(_) | Target::Redirect(_) | Target::Respond(_) => {
                self.error(&pointer, "only a handler or an upstream can have a fallback", None);
            }
        }
    }

    fn methods(&mut self, route: &Route) {
        let mut seen = BTreeSet::new();
        for (index, method) in route.matcher.methods.iter().flatten().enumerate() {
            if !seen.insert(method.as_str()) {
                let pointer = format!("{}/match/methods/{index}", route.pointer);
                self.error(&pointer, format!("the method {method} is there twice"), None);
            }
        }
    }

    fn cache(&mut self, route: &Route) {
        let Some(policy) = &route.cache else {
            return;
        };
        let pointer = format!("{}/cache", route.pointer);
        if let Target::Handler(name) = &route.target
            && let Some(handler) = self.config.handlers.get(name)
            && handler.limits.wall > LONGEST_FILL
        {
            let wall = format!("{}/limits/wall", child("/handlers", name));
            let message = format!(
                "{} caches, but {} is longer than 60s",
                spoken(&route.pointer),
                spoken(&wall)
            );
            let help = "after 60s others who wait for a page have it made once more".to_owned();
            self.findings
                .push(self.source.at_value(Severity::Warning, &wall, message, Some(help)));
        }
        let Some(isr) = &policy.isr else {
            return;
        };
        if let Some(methods) = &route.matcher.methods
            && !methods.contains(&Method::GET)
        {
            let message = format!("{} has isr, but its methods leave out GET", spoken(&route.pointer));
            self.error(
                &format!("{pointer}/isr"),
                message,
                "only GET responses are pages".to_owned(),
            );
        }
        if isr.expire.is_some_and(|expire| expire <= isr.revalidate) {
            let message = "expire must be longer than revalidate: nothing would ever be served stale";
            self.error(&format!("{pointer}/isr/expire"), message, None);
        }
        if self.source.has(&format!("{pointer}/query")) && self.source.has(&format!("{pointer}/isr/allow_query")) {
            let message = "cache.query and isr.allow_query both say which part of the query counts";
            self.error(&format!("{pointer}/query"), message, "keep one".to_owned());
        }
    }

    /// A name that refers to an entry of `entries`.
    fn defined<T>(&mut self, pointer: &str, kind: &str, name: &str, entries: &BTreeMap<String, T>) {
        if entries.contains_key(name) {
            return;
        }
        let mut message = format!("the {kind} \"{name}\" is not defined");
        let mut help = None;
        if let Some(nearest) = nearest(name, entries.keys().map(String::as_str)) {
            message.push_str(&format!("; did you mean \"{nearest}\"?"));
        } else if entries.is_empty() {
            help = Some(match kind {
                "postgres" => "define it under `postgres`".to_owned(),
                _ => format!("define it under `{kind}s`"),
            });
        } else {
            let known: Vec<&str> = entries.keys().map(String::as_str).collect();
            help = Some(format!("defined: {}", known.join(", ")));
        }
        self.error(pointer, message, help);
    }

    /// What is defined but never referred to.
    fn unused(&mut self) {
        let config = self.config;
        let targets = config.routes.iter().map(|route| &route.target);
        let handlers: BTreeSet<&str> = targets
            .clone()
            .filter_map(|t| match t {
                Target::Handler(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let upstreams: BTreeSet<&str> = targets
            .filter_map(|t| match t {
                Target::Upstream(name) => Some(name.as_str()),
                _ => None,
            })
            .chain(config.routes.iter().filter_map(|route| route.fallback.as_deref()))
            .collect();
        let bindings = config.handlers.values().flat_map(|handler| handler.bindings.values());
        let databases: BTreeSet<&str> = bindings
            .filter_map(|binding| match binding {
                Binding::Database(name) => Some(name.as_str()),
                Binding::Postgres(_) => None,
            })
            .collect();
        self.warn_unused("handler", config.handlers.keys(), &handlers, "no route ends at it");
        self.warn_unused(
            "upstream",
            config.upstreams.keys(),
            &upstreams,
            "no route ends at it or falls back to it",
        );
        // A primary's databases may be used elsewhere.
        let local = config.databases.iter().filter(|(_, database)| database.path.is_some());
        self.warn_unused(
            "database",
            local.map(|(name, _)| name),
            &databases,
            "no handler is bound to it",
        );
    }

    fn warn_unused<'n>(
        &mut self,
        kind: &str,
        defined: impl Iterator<Item = &'n String>,
        used: &BTreeSet<&str>,
        why: &str,
    ) {
        for name in defined.filter(|name| !used.contains(name.as_str())) {
            let pointer = child(&format!("/{kind}s"), name);
            let message = format!("the {kind} \"{name}\" is not used: {why}");
            self.findings
                .push(self.source.at_key(Severity::Warning, &pointer, message, None));
        }
    }
}

/// Two sockets that cannot both be bound. Port 0 is a new port each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let every = |ip: IpAddr| ip.is_unspecified();
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (every(a.ip()) || every(b.ip()))))
}
