//! This machine as a PoP of a control plane: what the replicated `_config` says is served here, and control hears of it.
//!
//! In the order of what happens: `wanted` reads one state of `_config`, `files` fetches what a deployment consists of,
//! `prepare` builds it, `sites` is what requests see of it, and `link` tells control. Control is needed for nothing but
//! files that are not here yet: `_config` is read from the agent's replica, and what was fetched stays.
//!
//! Invariants: a version serves only when all of it was built; one that cannot be built leaves the one before it; a
//! revision is acknowledged when what it says is done, or is known to be impossible.

mod files;
mod link;
mod prepare;
mod sites;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use selvedge_replication::bookmark::Session;
use selvedge_replication::client::AgentClient;
use selvedge_replication::{Database, DatabaseSettings, chain};
use selvedge_schema::{ControlLink, FilterSchema};
use thiserror::Error;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::edge::Edge;
use crate::generation::{Deployment, Generation};
use files::{Files, FilesError};
use link::{Link, LinkError, Load, Report, Said};
use prepare::{Inputs, Preparation};
use sites::{App, KEPT, Rollout, Site, id};
pub(crate) use sites::{Choice, DEPLOYMENT_FIELD, NothingServes, Sites};
use wanted::Wanted;

/// The database that control writes for PoPs.
const CONFIG: &str = "_config";
/// How often this PoP is heard at least; control takes one for gone after 30 seconds.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Reports in a row that control did not take, until it counts as lost: level 5.
const LOST: u32 = 3;
/// Pause before control is told again what it did not hear.
const AGAIN: Duration = Duration::from_secs(1);
/// Pause before a deployment is prepared again that failed for a reason that may pass.
const PREPARE_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum PopError {
    #[error(transparent)]
    Link(LinkError),
    #[error(transparent)]
    Files(FilesError),
}

/// Follows control as long as the edge is there, if its configuration names one.
pub(crate) fn start(edge: &Arc<Edge>) -> Result<(), PopError> {
    let generation = edge.generation();
    let config = &generation.document.config;
    let settings = config.control.as_ref().and_then(|control| control.link.as_ref());
    // A link is always configured with an agent beside it.
    let (Some(settings), Some(agent), Some(client)) = (settings, &config.agent, &generation.agent) else {
        return Ok(());
    };
    let link = Link::new(settings, &agent.name, &config.data_dir).map_err(PopError::Link)?;
    let (told, reports) = watch::channel(None);
    let follower = Follower {
        edge: Arc::downgrade(edge),
        reloaded: Arc::clone(&edge.reloaded),
        database: config_database(client),
        agent: Arc::clone(client),
        session: Session::default(),
        link: Arc::new(link),
        files: Arc::new(Files::open(&config.data_dir).map_err(PopError::Files)?),
        filters: selvedge_filters::schemas().into(),
        settings: settings.clone(),
        versions: BTreeMap::new(),
        serving: BTreeMap::new(),
        kept: BTreeMap::new(),
        purged: None,
        done: 0,
        is_preparing: false,
        on_disk: BTreeSet::new(),
        told,
    };
    let reporting = report(Arc::clone(&follower.link), Arc::downgrade(edge), reports);
    edge.housekeeping().spawn(reporting);
    edge.housekeeping().spawn(follower.follow());
    Ok(())
}

fn config_database(agent: &Arc<AgentClient>) -> Arc<Database> {
    let settings = DatabaseSettings {
        readers: 1,
        ..DatabaseSettings::new(CONFIG, "")
    };
    Database::of_agent(settings, Arc::clone(agent))
}

struct Follower {
    edge: Weak<Edge>,
    reloaded: Arc<Notify>,
    database: Arc<Database>,
    agent: Arc<AgentClient>,
    session: Session,
    link: Arc<Link>,
    files: Arc<Files>,
    filters: Arc<[FilterSchema]>,
    settings: ControlLink,
    /// Deployments by id.
    versions: BTreeMap<String, Version>,
    /// What each app's clients get; it stays until its successor is built.
    serving: BTreeMap<String, Arc<Generation>>,
    /// What serves, and what has served: since when it does not.
    kept: BTreeMap<String, (Arc<Generation>, Option<Instant>)>,
    /// The last purge that was done. What was purged before this process began is not in its cache.
    purged: Option<i64>,
    /// The revision of which everything is done.
    done: i64,
    is_preparing: bool,
    /// The deployments whose files are kept.
    on_disk: BTreeSet<String>,
    told: watch::Sender<Option<Report>>,
}

/// What this PoP made of a deployment.
struct Version {
    /// What it was built from last, or is being built from.
    inputs: Inputs,
    outcome: Outcome,
    /// The newest that was built.
    good: Option<Arc<Generation>>,
}

enum Outcome {
    Preparing,
    Ready,
    Failed { message: String, again: Option<Instant> },
}

type Prepared = (String, Result<Generation, prepare::Failure>);

impl Follower {
    async fn follow(mut self) {
        let mut statuses = self.agent.statuses();
        let (done, mut prepared) = mpsc::channel::<Prepared>(1);
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reloaded = Arc::clone(&self.reloaded);
        let mut failing = None;
        loop {
            let seen = position(&statuses.borrow_and_update());
            let read = wanted::read(
                &self.database,
                &self.session,
                self.purged.unwrap_or(i64::MAX),
                self.link.name(),
            )
            .await;
            let Some(edge) = self.edge.upgrade() else { return };
            match read {
                Ok(wanted) => {
                    failing = None;
                    self.purge(&edge, &wanted);
                    self.prepare_next(&edge, &wanted, &done);
                    self.serve(&edge, &wanted);
                    self.tell(&wanted, seen.clone());
                    self.tidy(&wanted);
                }
                Err(error) => {
                    let why = chain(&error);
                    if failing.as_ref() != Some(&why) {
                        tracing::warn!(%why, "what control wants is not known; what serves goes on serving");
                    }
                    failing = Some(why);
                }
            }
            drop(edge);
            let changed = async {
                // Other databases change a thousand times a second.
                while position(&statuses.borrow_and_update()) == seen {
                    if statuses.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                () = changed => {}
                Some((id, outcome)) = prepared.recv() => self.take(&id, outcome),
                () = reloaded.notified() => {}
                _ = beat.tick() => {}
            }
        }
    }

    /// What was purged since the last look is gone from the cache before the revision is acknowledged.
    fn purge(&mut self, edge: &Edge, wanted: &Wanted) {
        for purge in &wanted.purges {
            match purge.kind.as_str() {
                "url" => match edge.purge_url(&purge.value, false) {
                    Ok(found) => tracing::info!(url = purge.value, found, "purged a page"),
                    Err(why) => tracing::debug!(url = purge.value, why, "there is no such page here"),
                },
                // The cache knows no tags: more goes than has to, nothing stays that must go.
                _ => {
                    let pages = edge.cache.purge_everything();
                    tracing::info!(kind = purge.kind, value = purge.value, pages, "purged everything");
                }
            }
            self.purged = Some(purge.id);
        }
        self.purged.get_or_insert(wanted.last_purge);
    }

    /// Begins to build the most urgent deployment that is not built as wanted; one at a time.
    fn prepare_next(&mut self, edge: &Arc<Edge>, wanted: &Wanted, done: &mpsc::Sender<Prepared>) {
        if self.is_preparing {
            return;
        }
        let base = edge.generation();
        let inputs_of = |deployment: &wanted::Deployment| inputs(wanted, deployment, base.number);
        let missing = |deployment: &&wanted::Deployment| match self.versions.get(&deployment.id) {
            None => true,
            Some(version) if version.inputs != inputs_of(deployment) => true,
            Some(Version {
                outcome: Outcome::Failed { again, .. },
                ..
            }) => again.is_some_and(|again| again <= Instant::now()),
            Some(_) => false,
        };
        let urgency = |deployment: &&wanted::Deployment| (wanted.serves(deployment), deployment.version);
        let Some(next) = wanted.deployments.iter().filter(missing).max_by_key(urgency) else {
            return;
        };
        let inputs = inputs_of(next);
        let good = self.versions.remove(&next.id).and_then(|version| version.good);
        // What is unchanged is taken over: open databases, loaded handlers, the health of servers.
        let previous = good.as_ref().or_else(|| self.serving.get(&next.app)).unwrap_or(&base);
        let preparation = Preparation {
            deployment: Arc::new(Deployment {
                id: next.id.clone(),
                app: next.app.clone(),
                version: next.version,
            }),
            inputs: inputs.clone(),
            previous: Arc::clone(previous),
            base: Arc::clone(&base),
            runtime: Arc::clone(&edge.runtime),
            housekeeping: edge.housekeeping().clone(),
            database: Arc::clone(&self.database),
            session: Session::default(),
            link: Arc::clone(&self.link),
            files: Arc::clone(&self.files),
            filters: Arc::clone(&self.filters),
        };
        tracing::info!(
            app = next.app,
            version = next.version,
            deployment = next.id,
            "preparing a deployment"
        );
        let version = Version {
            inputs,
            outcome: Outcome::Preparing,
            good,
        };
        self.versions.insert(next.id.clone(), version);
        self.is_preparing = true;
        let (id, done) = (next.id.clone(), done.clone());
        edge.housekeeping().spawn(async move {
            let outcome = preparation.run().await;
            let _ = done.send((id, outcome)).await;
        });
    }

    fn take(&mut self, id: &str, outcome: Result<Generation, prepare::Failure>) {
        self.is_preparing = false;
        let Some(version) = self.versions.get_mut(id) else {
            return;
        };
        match outcome {
            Ok(generation) => {
                if let Some(edge) = self.edge.upgrade() {
                    generation.watch(edge.housekeeping());
                }
                tracing::info!(deployment = id, "a deployment is prepared");
                version.good = Some(Arc::new(generation));
                version.outcome = Outcome::Ready;
            }
            Err(failure) => {
                tracing::error!(
                    deployment = id,
                    why = failure.message,
                    "a deployment could not be prepared"
                );
                version.outcome = Outcome::Failed {
                    message: failure.message,
                    again: failure.is_passing.then(|| Instant::now() + PREPARE_AGAIN),
                };
            }
        }
    }

    /// Lets requests see what is wanted, as far as it is built.
    fn serve(&mut self, edge: &Edge, wanted: &Wanted) {
        let good = |id: &Option<String>| self.versions.get(id.as_ref()?)?.good.clone();
        let mut apps: BTreeMap<&str, App> = BTreeMap::new();
        for app in &wanted.apps {
            let stays = || {
                app.active
                    .is_some()
                    .then(|| self.serving.get(&app.name).cloned())
                    .flatten()
            };
            let active = good(&app.active)
                .or_else(stays)
                .or_else(|| app.active.is_some().then(|| good(&app.previous)).flatten());
            let rollout = wanted.rollouts.iter().find(|rollout| rollout.app == app.name);
            let rollout = rollout.and_then(|rollout| {
                let generation = good(&Some(rollout.deployment.clone()))?;
                Some(Rollout {
                    generation,
                    percent: rollout.percent,
                })
            });
            apps.insert(
                &app.name,
                App {
                    active,
                    rollout,
                    kept: BTreeMap::new(),
                },
            );
        }
        self.serving = apps
            .iter()
            .filter_map(|(name, app)| Some(((*name).to_owned(), app.active.clone()?)))
            .collect();
        self.keep(&apps);
        for (generation, _) in self.kept.values() {
            let app = generation.deployment.as_ref().map_or("", |deployment| &deployment.app);
            if let Some(app) = apps.get_mut(app) {
                app.kept.insert(id(generation).to_owned(), Arc::clone(generation));
            }
        }
        edge.sites.store(Arc::new(self.sites(wanted, apps)));
        if wanted.revision > self.done && self.is_done(wanted, edge.generation().number) {
            self.done = wanted.revision;
        }
    }

    /// Every host and what answers there.
    fn sites(&self, wanted: &Wanted, apps: BTreeMap<&str, App>) -> Sites {
        let domain = &self.settings.domain;
        let mut hosts = HashMap::new();
        for version in self.versions.values() {
            if let Some(generation) = &version.good
                && let Some(deployment) = &generation.deployment
            {
                let host = format!("{}-v{}.{domain}", deployment.app, deployment.version);
                hosts.insert(host, Site::Preview(Arc::clone(generation)));
            }
        }
        let apps: BTreeMap<_, _> = apps.into_iter().map(|(name, app)| (name, Arc::new(app))).collect();
        // An app that is called like another one's preview is the app.
        for (name, app) in &apps {
            hosts.insert(format!("{name}.{domain}"), Site::App(Arc::clone(app)));
        }
        for (host, app) in &wanted.domains {
            if let Some(app) = apps.get(app.as_str()) {
                hosts.insert(host.clone(), Site::App(Arc::clone(app)));
            }
        }
        Sites::new(hosts)
    }

    /// What served a moment ago still answers its pages.
    fn keep(&mut self, apps: &BTreeMap<&str, App>) {
        let now = Instant::now();
        let serving = apps.values().flat_map(|app| {
            let rollout = app.rollout.as_ref().map(|rollout| &rollout.generation);
            app.active.iter().chain(rollout)
        });
        let serving: BTreeMap<&str, &Arc<Generation>> =
            serving.map(|generation| (id(generation), generation)).collect();
        self.kept.retain(|id, (_, since)| {
            if !serving.contains_key(id.as_str()) {
                since.get_or_insert(now);
            }
            since.is_none_or(|since| now.duration_since(since) < KEPT)
        });
        for (id, generation) in serving {
            self.kept.insert(id.to_owned(), (Arc::clone(generation), None));
        }
    }

    /// Whether what clients shall get was built from what is wanted, or cannot be.
    fn is_done(&self, wanted: &Wanted, base: u64) -> bool {
        let mut serving = wanted.deployments.iter().filter(|deployment| wanted.serves(deployment));
        serving.all(|deployment| {
            self.versions.get(&deployment.id).is_some_and(|version| {
                let is_settled = !matches!(version.outcome, Outcome::Preparing);
                is_settled && version.inputs == inputs(wanted, deployment, base)
            })
        })
    }

    fn tell(&self, wanted: &Wanted, position: Option<String>) {
        let said = wanted.deployments.iter().filter_map(|deployment| {
            let version = self.versions.get(&deployment.id)?;
            let said = match &version.outcome {
                Outcome::Preparing => return None,
                Outcome::Ready if wanted.serves(deployment) => Said::Active,
                Outcome::Ready => Said::Prepared,
                Outcome::Failed { message, .. } => Said::Failed {
                    message: message.clone(),
                },
            };
            Some((deployment.id.clone(), said))
        });
        let report = Report {
            revision: self.done,
            version: env!("CARGO_PKG_VERSION"),
            position,
            deployments: said.collect(),
            sealing_key: self.link.sealing_key(),
            load: Load::default(),
        };
        self.told.send_if_modified(|told| {
            let is_news = told.as_ref() != Some(&report);
            *told = Some(report);
            is_news
        });
    }

    /// Forgets what nobody wants any more, here and on the disk.
    fn tidy(&mut self, wanted: &Wanted) {
        let wanted: BTreeSet<&str> = wanted
            .deployments
            .iter()
            .map(|deployment| deployment.id.as_str())
            .collect();
        self.versions.retain(|id, _| wanted.contains(id.as_str()));
        let ids = wanted.into_iter().map(str::to_owned);
        let ids: BTreeSet<String> = ids.chain(self.kept.keys().cloned()).collect();
        if !self.is_preparing && ids != self.on_disk {
            self.on_disk.clone_from(&ids);
            self.files.keep(&ids);
        }
    }
}

/// What a deployment is to be built from.
fn inputs(wanted: &Wanted, deployment: &wanted::Deployment, base: u64) -> Inputs {
    Inputs {
        base,
        env: wanted.env_of(&deployment.app),
        secrets: wanted.secrets_of(&deployment.app),
    }
}

/// Where the replica of `_config` stands, or how it is.
fn position(statuses: &selvedge_replication::client::Statuses) -> Option<String> {
    let status = statuses.get(CONFIG)?;
    Some(status.head.position.to_string())
}

/// Tells control what is new as soon as it is, and the same again now and then.
async fn report(link: Arc<Link>, edge: Weak<Edge>, mut reports: watch::Receiver<Option<Report>>) {
    let (mut failing, mut failures) = (None, 0);
    loop {
        let report = reports.borrow_and_update().clone();
        let Some(load) = edge.upgrade().map(|edge| load(&edge)) else {
            return;
        };
        if let Some(report) = report {
            match link.report(&Report { load, ..report }).await {
                Ok(_) => {
                    if failing.take().is_some() {
                        tracing::info!("control hears this PoP again");
                    }
                    failures = 0;
                }
                Err(error) => {
                    let why = chain(&error);
                    if failing.as_ref() != Some(&why) {
                        tracing::warn!(%why, "control does not hear this PoP; what serves goes on serving");
                    }
                    failing = Some(why);
                    failures += 1;
                }
            }
        }
        let Some(edge) = edge.upgrade() else { return };
        edge.control_lost.store(failures >= LOST, Ordering::Relaxed);
        drop(edge);
        if failures > 0 {
            tokio::time::sleep(AGAIN).await;
        } else if let Ok(Err(_)) = tokio::time::timeout(HEARTBEAT, reports.changed()).await {
            return;
        }
    }
}

fn load(edge: &Edge) -> Load {
    Load {
        requests_in_flight: edge.requests_in_flight() as u64,
        connections: edge.connections.total() as u64,
    }
}
