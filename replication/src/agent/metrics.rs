//! What Prometheus scrapes at an agent: latencies as they are measured, and what is true at the moment of asking.
//!
//! Labels are names of databases and of this cluster's agents; their number is bounded by the configuration.

use std::time::Duration;

use prometheus::{Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

use super::{DatabaseStatus, Shared, Site, State};
use crate::publish::now_ms;

/// Seconds. From a write that shares an fsync to one that waits for a slow disk or a far primary.
const BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

pub(crate) struct Metrics {
    registry: Registry,
    commits: HistogramVec,
    applies: HistogramVec,
    expired: IntCounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            let histogram = HistogramVec::new(options, &["database"]).expect("constant names are valid");
            registry.register(Box::new(histogram.clone())).expect("registered once");
            histogram
        };
        let expired = Opts::new(
            "selvedge_agent_expired_operations_total",
            "At a replica: writes that were queued for too long to be sent again; whether they were done is not known.",
        );
        let expired = IntCounterVec::new(expired, &["database"]).expect("constant names are valid");
        registry.register(Box::new(expired.clone())).expect("registered once");
        Metrics {
            commits: histogram(
                "selvedge_agent_commit_seconds",
                "At a primary: from taking operations to having them in the log.",
            ),
            applies: histogram(
                "selvedge_agent_apply_lag_seconds",
                "At a replica: from the commit at the primary to the pages here, by both clocks.",
            ),
            expired,
            registry,
        }
    }
}

impl Metrics {
    pub(crate) fn committed(&self, database: &str, took: Duration) {
        self.commits.with_label_values(&[database]).observe(took.as_secs_f64());
    }

    pub(crate) fn expired(&self, database: &str) {
        self.expired.with_label_values(&[database]).inc();
    }

    pub(crate) fn applied(&self, database: &str, lag_ms: i64) {
        let seconds = lag_ms.max(0) as f64 / 1000.0;
        self.applies.with_label_values(&[database]).observe(seconds);
    }
}

/// The text format of Prometheus, version 0.0.4.
pub(crate) fn render(shared: &Shared, site: &Site) -> String {
    let now = Gauges(Registry::new());
    let databases = shared.board.all();
    now.of_databases(&databases);
    match site {
        Site::Primary(site) => {
            now.set("log_bytes", "Size of the log.", site.log().size_bytes() as f64);
            now.set("open_databases", "Databases that are open.", site.open_count() as f64);
            now.each(
                "wal_bytes",
                "Committed and not yet moved into the file by a checkpoint.",
                {
                    let wal = databases
                        .iter()
                        .filter_map(|status| Some((status, status.path.as_ref()?)));
                    wal.map(|(status, path)| {
                        let bytes = crate::writer::size_bytes(&crate::writer::wal_path(path));
                        (status.database.clone(), bytes as f64)
                    })
                },
            );
            let stores = site.store_statuses();
            let of = |read: fn(&crate::store::StoreStatus) -> Option<f64>| {
                stores
                    .iter()
                    .filter_map(move |store| Some((store.database.clone(), read(store)?)))
            };
            now.each(
                "store_lag_seconds",
                "For how long the store has lacked something.",
                of(|store| Some(store.lag_seconds)),
            );
            now.each(
                "store_snapshot_age_seconds",
                "Since the newest snapshot in the store.",
                of(|store| store.snapshot_age_seconds),
            );
            now.each(
                "store_failing",
                "1 while the store does not take uploads.",
                of(|store| Some(f64::from(u8::from(store.last_error.is_some())))),
            );
        }
        Site::Replica(site) => {
            let depth = site.queue().depth();
            now.set("queue_rows", "Operations that wait for the primary.", depth.rows as f64);
            now.set("queue_bytes", "Size of these operations.", depth.bytes as f64);
            let reachable = f64::from(u8::from(site.link().is_reachable()));
            now.set("primary_reachable", "1 while the primary is heard.", reachable);
        }
    }
    let mut families = shared.metrics.registry.gather();
    families.extend(now.0.gather());
    let mut text = Vec::new();
    // Writing to memory fails only for a family without metrics, which gather does not return.
    let _ = TextEncoder::new().encode(&families, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

struct Gauges(Registry);

impl Gauges {
    fn of_databases(&self, databases: &[DatabaseStatus]) {
        let of = |read: fn(&DatabaseStatus) -> f64| {
            databases
                .iter()
                .map(move |status| (status.database.clone(), read(status)))
        };
        self.each(
            "txid",
            "Newest transaction here.",
            of(|status| status.head.position.txid.0 as f64),
        );
        self.each(
            "behind_transactions",
            "Transactions that are not here yet.",
            of(|status| status.behind_transactions() as f64),
        );
        self.each(
            "behind_seconds",
            "Since when some are not here yet.",
            of(|status| {
                status
                    .behind_since_ms
                    .map_or(0.0, |since| (now_ms() - since).max(0) as f64 / 1000.0)
            }),
        );
        self.each(
            "quarantined",
            "1 while the copy here is not read because it differs.",
            of(|status| f64::from(u8::from(status.state == State::Quarantined))),
        );
        self.each(
            "damaged",
            "1 while the primary's file is not what its log says, and is not used.",
            of(|status| f64::from(u8::from(status.state == State::Damaged))),
        );
        self.each(
            "rebuilds",
            "Copies made anew since the start.",
            of(|status| status.rebuilds as f64),
        );
        self.each(
            "scrubs",
            "Whole copies compared since the start.",
            of(|status| status.scrubs as f64),
        );
    }

    fn set(&self, name: &str, help: &str, value: f64) {
        let gauge = self.register(name, help, &[]);
        gauge.with_label_values::<&str>(&[]).set(value);
    }

    fn each(&self, name: &str, help: &str, values: impl Iterator<Item = (String, f64)>) {
        let gauge = self.register(name, help, &["database"]);
        values.for_each(|(database, value)| gauge.with_label_values(&[&*database]).set(value));
    }

    fn register(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        let options = Opts::new(format!("selvedge_agent_{name}"), help);
        let gauge = GaugeVec::new(options, labels).expect("constant names are valid");
        self.0.register(Box::new(gauge.clone())).expect("registered once");
        gauge
    }
}
