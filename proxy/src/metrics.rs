//! What Prometheus scrapes: counters written as requests end, and what others count, read when somebody asks.
//!
//! Labels come only from the configuration and from closed sets of reasons, so the number of series is bounded whatever
//! clients send.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use selvedge_replication::Database;
use selvedge_replication::agent::DatabaseStatus;
use selvedge_replication::client::Level;

use crate::{
    edge::Edge,
    generation::{Generation, HandlerSlot},
};

/// Seconds. From a hit in memory to a page that needs half a minute.
const BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    first_byte: HistogramVec,
    refusals: IntCounterVec,
    failures: IntCounterVec,
    attempts_failed: IntCounterVec,
    regenerations: IntCounterVec,
    reloads: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels).expect("constant names are valid");
            registry.register(Box::new(counter.clone())).expect("registered once");
            counter
        };
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            let histogram = HistogramVec::new(options, labels).expect("constant names are valid");
            registry.register(Box::new(histogram.clone())).expect("registered once");
            histogram
        };
        Metrics {
            requests: counter(
                "selvedge_requests_total",
                "Requests finished.",
                &["route", "status", "cache"],
            ),
            duration: histogram(
                "selvedge_request_duration_seconds",
                "From header to last byte.",
                &["route", "cache"],
            ),
            first_byte: histogram(
                "selvedge_first_byte_seconds",
                "From request header to response header.",
                &["route"],
            ),
            refusals: counter(
                "selvedge_refusals_total",
                "Requests turned away, by reason.",
                &["reason"],
            ),
            failures: counter(
                "selvedge_failures_total",
                "Requests that ended in an error.",
                &["reason", "blame"],
            ),
            attempts_failed: counter(
                "selvedge_attempts_failed_total",
                "Handlers and upstreams that did not answer an attempt, by reason.",
                &["kind", "name", "reason"],
            ),
            regenerations: counter(
                "selvedge_regenerations_total",
                "Pages made anew.",
                &["route", "outcome"],
            ),
            reloads: counter(
                "selvedge_config_reloads_total",
                "Configurations read again.",
                &["outcome"],
            ),
            registry,
        }
    }

    pub(crate) fn request(
        &self,
        route: &str,
        status: u16,
        cache: &str,
        duration: Duration,
        first_byte: Option<Duration>,
    ) {
        self.requests
            .with_label_values(&[route, &status.to_string(), cache])
            .inc();
        self.duration
            .with_label_values(&[route, cache])
            .observe(duration.as_secs_f64());
        if let Some(first_byte) = first_byte {
            self.first_byte
                .with_label_values(&[route])
                .observe(first_byte.as_secs_f64());
        }
    }

    pub(crate) fn refusal(&self, reason: &str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    pub(crate) fn failure(&self, reason: &str, blame: &str) {
        self.failures.with_label_values(&[reason, blame]).inc();
    }

    pub(crate) fn attempt_failed(&self, (kind, name): (&str, String), reason: &str) {
        self.attempts_failed.with_label_values(&[kind, &name, reason]).inc();
    }

    pub(crate) fn regeneration(&self, route: &str, succeeded: bool) {
        let outcome = if succeeded { "succeeded" } else { "failed" };
        self.regenerations.with_label_values(&[route, outcome]).inc();
    }

    pub(crate) fn reloaded(&self, succeeded: bool) {
        let outcome = if succeeded { "succeeded" } else { "refused" };
        self.reloads.with_label_values(&[outcome]).inc();
    }
}

/// The text format of Prometheus, version 0.0.4.
pub(crate) fn render(edge: &Edge) -> String {
    let mut families = edge.metrics.registry.gather();
    families.extend(samples(edge).gather());
    let mut text = Vec::new();
    // Writing to memory fails only for a family without metrics, which gather does not return.
    let _ = TextEncoder::new().encode(&families, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// What is true at this moment.
fn samples(edge: &Edge) -> Registry {
    let samples = Samples(Registry::new());
    let generations = edge.generations();
    process(&samples, edge);
    cache(&samples, edge);
    handlers(&samples, &generations);
    servers(&samples, &generations);
    let mut open: BTreeMap<&str, &Database> = BTreeMap::new();
    for (name, database) in generations.iter().flat_map(|generation| &generation.databases) {
        open.entry(name).or_insert(database);
    }
    databases(&samples, &open);
    replicas(&samples, &open, edge.level());
    certificates(&samples, edge);
    samples.0
}

fn process(samples: &Samples, edge: &Edge) {
    samples.set(
        "selvedge_config_generation",
        "Number of the configuration that serves.",
        edge.generation().number,
    );
    samples.set(
        "selvedge_requests_in_flight",
        "Requests being served.",
        edge.requests_in_flight(),
    );
    samples.set(
        "selvedge_connections",
        "Connections of clients.",
        edge.connections.total(),
    );
    samples.set(
        "selvedge_connections_refused_total",
        "Connections beyond a limit.",
        edge.connections.refused(),
    );
    samples.set(
        "selvedge_draining",
        "1 while the process is about to leave.",
        u64::from(edge.is_draining()),
    );
    samples.set(
        "selvedge_access_log_dropped_total",
        "Log lines lost.",
        edge.access_log.dropped(),
    );
    samples.set(
        "selvedge_control_lost",
        "1 while control does not hear this PoP: what is deployed serves, nothing changes.",
        u64::from(edge.is_control_lost()),
    );
    if let Some(bytes) = resident_bytes() {
        samples.set("process_resident_memory_bytes", "Resident memory.", bytes);
    }
}

fn cache(samples: &Samples, edge: &Edge) {
    let cache = edge.cache.stats();
    samples.set("selvedge_cache_bytes", "Memory of stored responses.", cache.bytes);
    samples.set("selvedge_cache_entries", "Stored responses.", cache.entries);
    samples.set("selvedge_cache_fills", "Responses being stored.", cache.fills);
    samples.set(
        "selvedge_cache_evictions_total",
        "Responses that made room.",
        cache.evictions,
    );
}

fn handlers(samples: &Samples, generations: &[Arc<Generation>]) {
    let handlers = generations.iter().flat_map(|generation| {
        generation.handlers.iter().map(|(name, slot)| {
            let stats = match slot {
                HandlerSlot::Loaded(handler) => Some(handler.stats()),
                HandlerSlot::Unavailable(_) => None,
            };
            (generation.label(name), stats)
        })
    });
    let handlers: Vec<_> = handlers.collect();
    let of = |read: fn(&selvedge_runtime::HandlerStats) -> u64| {
        handlers
            .iter()
            .filter_map(move |(name, stats)| Some((vec![name.as_str()], read(stats.as_ref()?))))
    };
    samples.each(
        "selvedge_handler_loaded",
        "1 when the component is loaded.",
        &["handler"],
        {
            handlers
                .iter()
                .map(|(name, stats)| (vec![name.as_str()], u64::from(stats.is_some())))
        },
    );
    samples.each(
        "selvedge_handler_instances",
        "Instances alive: those that serve, and those of the 0.3 interface kept for the next request.",
        &["handler"],
        of(|stats| stats.instances as u64),
    );
    samples.each(
        "selvedge_handler_instantiations_total",
        "Since it was loaded.",
        &["handler"],
        of(|stats| stats.instantiations),
    );
    samples.each(
        "selvedge_handler_invocations_total",
        "Since it was loaded.",
        &["handler"],
        of(|stats| stats.invocations),
    );
}

fn servers(samples: &Samples, generations: &[Arc<Generation>]) {
    let servers = generations.iter().flat_map(|generation| {
        let upstreams = generation.upstreams.iter();
        upstreams.flat_map(|(name, set)| {
            let name = generation.label(name);
            set.describe().into_iter().map(move |server| (name.clone(), server))
        })
    });
    let servers: Vec<_> = servers.collect();
    samples.each(
        "selvedge_upstream_healthy",
        "1 when the server gets requests.",
        &["upstream", "server"],
        {
            servers
                .iter()
                .map(|(name, server)| (vec![name.as_str(), &server.address], u64::from(server.healthy)))
        },
    );
    samples.each(
        "selvedge_upstream_in_flight",
        "Requests the server is answering.",
        &["upstream", "server"],
        {
            servers
                .iter()
                .map(|(name, server)| (vec![name.as_str(), &server.address], server.in_flight as u64))
        },
    );
}

fn databases(samples: &Samples, open: &BTreeMap<&str, &Database>) {
    let databases: Vec<_> = open.iter().map(|(name, database)| (name, database.stats())).collect();
    let of = |read: fn(&selvedge_replication::DatabaseStats) -> u64| {
        databases.iter().map(move |(name, stats)| (vec![**name], read(stats)))
    };
    samples.each(
        "selvedge_database_reads_total",
        "Statements answered by a reader.",
        &["database"],
        of(|stats| stats.reads),
    );
    samples.each(
        "selvedge_database_writes_total",
        "Batches answered by the writer.",
        &["database"],
        of(|stats| stats.writes),
    );
    samples.each(
        "selvedge_database_commits_total",
        "Transactions committed.",
        &["database"],
        of(|stats| stats.commits),
    );
    samples.each(
        "selvedge_database_timeouts_total",
        "Statements ended by their limit.",
        &["database"],
        of(|stats| stats.timeouts),
    );
    samples.each(
        "selvedge_database_wal_bytes",
        "Write-ahead log.",
        &["database"],
        of(|stats| stats.wal_bytes),
    );
    samples.each(
        "selvedge_database_damaged",
        "1 when damage was found.",
        &["database"],
        of(|stats| u64::from(stats.damaged)),
    );
}

fn replicas(samples: &Samples, open: &BTreeMap<&str, &Database>, level: Level) {
    let replicas: Vec<_> = open
        .iter()
        .filter_map(|(name, database)| Some((name, database.replica_status()?)))
        .collect();
    let of = |read: fn(&DatabaseStatus) -> u64| replicas.iter().map(move |(name, status)| (vec![**name], read(status)));
    samples.set(
        "selvedge_degradation_level",
        "0 normal, 1 replica lag, 2 primary slow, 3 primary down.",
        level as u64,
    );
    samples.each(
        "selvedge_replica_behind_transactions",
        "Transactions the replica lacks.",
        &["database"],
        of(DatabaseStatus::behind_transactions),
    );
    samples.each(
        "selvedge_replica_behind_seconds",
        "Since when the replica lacks some.",
        &["database"],
        of(DatabaseStatus::behind_seconds),
    );
    samples.each(
        "selvedge_replica_txid",
        "Newest transaction in the replica.",
        &["database"],
        of(|status| status.head.position.txid.0),
    );
}

fn certificates(samples: &Samples, edge: &Edge) {
    let expiries = edge.certificates.expiries();
    samples.each(
        "selvedge_certificate_not_after_seconds",
        "End of validity, Unix time.",
        &["name"],
        {
            expiries
                .iter()
                .map(|expiry| (vec![expiry.name.as_str()], unix_seconds(expiry.not_after)))
        },
    );
}

struct Samples(Registry);

impl Samples {
    fn set(&self, name: &str, help: &str, value: impl TryInto<u64>) {
        let value = value.try_into().unwrap_or(u64::MAX);
        self.each(name, help, &[], std::iter::once((Vec::new(), value)));
    }

    /// A name that ends in `_total` is a counter, as Prometheus' conventions have it; any other is a gauge.
    fn each<'a>(&self, name: &str, help: &str, labels: &[&str], values: impl Iterator<Item = (Vec<&'a str>, u64)>) {
        let options = Opts::new(name, help);
        if name.ends_with("_total") {
            let counter = IntCounterVec::new(options, labels).expect("constant names are valid");
            values.for_each(|(labels, value)| counter.with_label_values(&labels).inc_by(value));
            self.0.register(Box::new(counter)).expect("registered once");
        } else {
            let gauge = IntGaugeVec::new(options, labels).expect("constant names are valid");
            values.for_each(|(labels, value)| {
                gauge
                    .with_label_values(&labels)
                    .set(i64::try_from(value).unwrap_or(i64::MAX));
            });
            self.0.register(Box::new(gauge)).expect("registered once");
        }
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The second field of `/proc/self/statm`, in pages of 4 KiB; `None` where there is no `/proc`.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
