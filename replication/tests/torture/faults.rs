//! What is done to the cluster, in an order that follows from the seed alone.

use std::time::{Duration, Instant};

use fastrand::Rng;
use selvedge_tests::process::Signal;

use crate::cluster::{Cluster, DATABASES, PRIMARY, SITES, Violation, database_of};
use crate::damage::{self, Part};
use crate::proxy::Sickness;

/// Kinds of faults a scenario has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Menu {
    Kill,
    Stop,
    Pause,
    Link,
    FullDisk,
    FlipFrame,
    FlipFile,
    FlipStoppedFile,
    FlipLog,
    PowerCutAtPrimary,
    PowerCutAtPop,
    /// At a PoP that has been cut off for a while: what it was given lies in its queue alone.
    PowerCutAtLonelyPop,
}

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// `kill -9`.
    Kill {
        site: usize,
    },
    /// SIGTERM.
    Stop {
        site: usize,
    },
    /// SIGSTOP, then SIGCONT.
    Pause {
        site: usize,
    },
    Link {
        site: usize,
        sickness: Sickness,
    },
    FullDisk {
        site: usize,
    },
    /// A bit of what the primary sends.
    FlipFrame {
        site: usize,
        after: u64,
    },
    /// A bit of a running replica's files.
    FlipFile {
        site: usize,
        database: &'static str,
        part: Part,
        seed: u64,
    },
    /// Bits of a killed replica's files.
    FlipStoppedFile {
        site: usize,
        database: &'static str,
        part: Part,
        seed: u64,
    },
    /// A bit of the killed primary's log.
    FlipLog {
        seed: u64,
    },
    PowerCut {
        site: usize,
        /// Whether its link to the primary was cut before.
        lonely: bool,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) pause: Duration,
    pub(crate) fault: Fault,
    pub(crate) lasts: Duration,
}

/// Longest time to the next fault, and longest time it lasts; both are shorter most of the time.
const PAUSE_MS: u64 = 500;
const LASTS_MS: u64 = 900;
/// One fault in so many lasts longer than a follower's patience with a silent primary.
const LONG_ONE_IN: u8 = 12;
const LONG: Duration = Duration::from_millis(4500);
/// How long a PoP takes writes without its primary before its power is cut.
const LONELY: Duration = Duration::from_millis(600);
/// A scrub reads everything once a second.
const SCRUBBED: Duration = Duration::from_secs(20);
/// Between a replica's quarantine and the moment its readers know.
const TOLD: Duration = Duration::from_millis(500);

/// The schedule of a seed.
pub(crate) fn plan(seed: u64, menu: &[Menu], steps: usize) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    (0..steps)
        .map(|number| {
            // Each kind has its turn, then chance decides.
            let kind = match menu.get(number) {
                Some(kind) => *kind,
                None => menu[rng.usize(..menu.len())],
            };
            let lasts = match rng.u8(..LONG_ONE_IN) {
                0 => LONG,
                _ => Duration::from_millis(rng.u64(..LASTS_MS)),
            };
            Step {
                pause: Duration::from_millis(rng.u64(PAUSE_MS / 4..PAUSE_MS)),
                fault: fault(kind, &mut rng),
                lasts,
            }
        })
        .collect()
}

fn fault(kind: Menu, rng: &mut Rng) -> Fault {
    let (any, replica) = (rng.usize(..SITES), rng.usize(1..SITES));
    let database = DATABASES[usize::from(rng.u8(..4) == 0)];
    let part = match rng.u8(..3) {
        0 => Part::WriteAheadLog,
        _ => Part::Database,
    };
    let seed = rng.u64(..);
    match kind {
        Menu::Kill => Fault::Kill { site: any },
        Menu::Stop => Fault::Stop { site: any },
        Menu::Pause => Fault::Pause { site: any },
        Menu::Link => Fault::Link {
            site: replica,
            sickness: match rng.u8(..5) {
                0 => Sickness::HalfClosed,
                1 => Sickness::Silent,
                2 => Sickness::Slow(Duration::from_millis(rng.u64(1..80))),
                _ => Sickness::Cut,
            },
        },
        Menu::FullDisk => Fault::FullDisk { site: any },
        Menu::FlipFrame => Fault::FlipFrame {
            site: replica,
            after: rng.u64(..300_000),
        },
        Menu::FlipFile => Fault::FlipFile {
            site: replica,
            database,
            part,
            seed,
        },
        Menu::FlipStoppedFile => Fault::FlipStoppedFile {
            site: replica,
            database,
            part,
            seed,
        },
        Menu::FlipLog => Fault::FlipLog { seed },
        Menu::PowerCutAtPrimary => Fault::PowerCut {
            site: PRIMARY,
            lonely: false,
        },
        Menu::PowerCutAtPop | Menu::PowerCutAtLonelyPop => Fault::PowerCut {
            site: replica,
            lonely: kind == Menu::PowerCutAtLonelyPop,
        },
    }
}

/// What was done, and what of it readers of a running replica may have seen.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) steps: usize,
    /// What should not have happened.
    pub(crate) problems: Vec<String>,
    /// From the flip of a bit under a reader's feet until its replica was quarantined.
    windows: Vec<(usize, Instant, Instant)>,
    /// Bits flipped in files.
    pub(crate) flips: usize,
    /// Found by a scrub.
    pub(crate) scrubbed: usize,
    /// Logs that were refused and moved away.
    pub(crate) logs_refused: usize,
    pub(crate) power_cuts: usize,
}

impl Done {
    /// Reads a page that was damaged a moment ago: nothing but the next scrub can know.
    pub(crate) fn excuses(&self, violation: &Violation) -> bool {
        let excuses = |(site, from, to): &(usize, Instant, Instant)| {
            *site == violation.site && (*from..*to).contains(&violation.at)
        };
        self.windows.iter().any(excuses)
    }

    /// What readers saw that nothing excuses.
    pub(crate) fn inexcusable(&self, cluster: &Cluster) -> Vec<String> {
        let seen = cluster.violations();
        let inexcusable = seen.iter().filter(|violation| !self.excuses(violation));
        inexcusable
            .map(|violation| {
                format!(
                    "a reader at {} saw: {}",
                    cluster.sites[violation.site].name, violation.text
                )
            })
            .collect()
    }

    /// Does one step, from the pause before it to its repair.
    pub(crate) async fn take(&mut self, step: &Step, cluster: &mut Cluster) {
        tokio::time::sleep(step.pause).await;
        self.steps += 1;
        match &step.fault {
            Fault::Kill { site } => {
                cluster.sites[*site].kill();
                tokio::time::sleep(step.lasts).await;
            }
            Fault::Stop { site } => {
                cluster.sites[*site].stop().await;
                tokio::time::sleep(step.lasts).await;
            }
            Fault::Pause { site } => {
                cluster.sites[*site].signal(Signal::Pause);
                tokio::time::sleep(step.lasts).await;
                cluster.sites[*site].signal(Signal::Resume);
            }
            Fault::Link { site, sickness } => {
                let link = cluster.sites[*site].link.as_ref().expect("a PoP has a link");
                link.fall(*sickness);
                tokio::time::sleep(step.lasts).await;
                link.fall(Sickness::None);
            }
            Fault::FullDisk { site } => {
                cluster.sites[*site].disk.fill();
                tokio::time::sleep(step.lasts).await;
                cluster.sites[*site].disk.make_room();
            }
            Fault::FlipFrame { site, after } => {
                let link = cluster.sites[*site].link.as_ref().expect("a PoP has a link");
                link.flip_after(*after);
                tokio::time::sleep(step.lasts).await;
            }
            Fault::FlipFile {
                site,
                database,
                part,
                seed,
            } => {
                self.flip_running(cluster, *site, database, *part, *seed).await;
            }
            Fault::FlipStoppedFile {
                site,
                database,
                part,
                seed,
            } => {
                let mut rng = Rng::with_seed(*seed);
                let stopped = &mut cluster.sites[*site];
                stopped.kill();
                stopped.end_reader();
                if let Some(file) = stopped.file_of(database) {
                    self.flips += (0..3).filter_map(|_| damage::flip(&file, *part, &mut rng)).count();
                }
                tokio::time::sleep(step.lasts).await;
            }
            Fault::FlipLog { seed } => self.flip_log(cluster, *seed).await,
            Fault::PowerCut { site, lonely } => {
                let without = &mut cluster.sites[*site];
                if let Some(link) = without.link.as_ref().filter(|_| *lonely) {
                    link.fall(Sickness::Cut);
                    tokio::time::sleep(LONELY).await;
                }
                without.disk.cut_power();
                without.kill();
                without.end_reader();
                without.disk.restore_power();
                self.power_cuts += 1;
                tokio::time::sleep(step.lasts).await;
                if let Some(link) = &cluster.sites[*site].link {
                    link.fall(Sickness::None);
                }
            }
        }
        if let Some(site) = step.fault.ends() {
            if let Err(problem) = cluster.start_site(site).await {
                self.problems.push(format!("after {:?}: {problem}", step.fault));
            }
        } else {
            for site in 0..SITES {
                if let Some(problem) = cluster.sites[site].ended_by_itself() {
                    self.problems.push(format!("during {:?}: {problem}", step.fault));
                    let _ = cluster.start_site(site).await;
                }
            }
        }
    }

    async fn flip_running(&mut self, cluster: &Cluster, site: usize, database: &str, part: Part, seed: u64) {
        let rebuilds = async || {
            let status = cluster.status(site).await?;
            let status = database_of(&status, database)?;
            Some((status["rebuilds"].as_u64()?, status["state"] == "following"))
        };
        let Some((before, true)) = rebuilds().await else {
            return;
        };
        let Some(file) = cluster.sites[site].file_of(database) else {
            return;
        };
        let from = Instant::now();
        let Some(flip) = damage::flip(&file, part, &mut Rng::with_seed(seed)) else {
            return;
        };
        self.flips += 1;
        loop {
            let found = rebuilds().await.is_some_and(|(now, _)| now > before);
            if found || !flip.is_in_effect() {
                self.scrubbed += usize::from(found);
                break;
            }
            if from.elapsed() > SCRUBBED {
                self.problems
                    .push(format!("{SCRUBBED:?} of scrubs did not find the flipped bit {flip:?}"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.windows.push((site, from, Instant::now() + TOLD));
    }

    async fn flip_log(&mut self, cluster: &mut Cluster, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        cluster.sites[PRIMARY].kill();
        let folder = cluster.sites[PRIMARY].log_folder();
        let entries = std::fs::read_dir(&folder).expect("the log is a folder");
        let mut segments: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        segments.sort();
        if let Some(segment) = rng.choice(&segments) {
            self.flips += usize::from(damage::flip_anywhere(segment, &mut rng).is_some());
        }
        let Err(refusal) = cluster.start_site(PRIMARY).await else {
            return;
        };
        if !refusal.contains("is damaged at byte") {
            self.problems.push(format!("a damaged log was not named: {refusal}"));
        }
        // What the refusal tells the operator to do.
        self.logs_refused += 1;
        let aside = folder.with_extension(format!("aside-{}", self.steps));
        std::fs::rename(&folder, aside).expect("the log is moved away");
    }
}

impl Fault {
    /// The site whose agent it ends.
    fn ends(&self) -> Option<usize> {
        match self {
            Fault::Kill { site }
            | Fault::Stop { site }
            | Fault::FlipStoppedFile { site, .. }
            | Fault::PowerCut { site, .. } => Some(*site),
            Fault::FlipLog { .. } => Some(PRIMARY),
            _ => None,
        }
    }
}

/// Takes back whatever is still wrong, and starts what does not run.
pub(crate) async fn heal(cluster: &mut Cluster) -> Result<(), String> {
    for site in 0..SITES {
        if let Some(link) = &cluster.sites[site].link {
            link.flip_after(u64::MAX);
            link.fall(Sickness::None);
        }
        cluster.sites[site].disk.make_room();
        cluster.start_site(site).await?;
    }
    Ok(())
}
