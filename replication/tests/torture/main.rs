//! Torture: real agents under a random workload, with readers that check what must always hold, while processes are
//! killed and paused, links are cut, disks fill up, bits flip and the power fails. At the end nothing acknowledged is
//! lost, nothing is done twice, and every replica is the primary, page by page.
//!
//! Workload and faults follow from a seed. What the machine makes of it does not: the same seed is the same torture, not
//! the same interleaving, so a failure is repeated by trying its seed several times. `cargo test --test torture` runs a
//! few small scenarios; `cargo xtask torture --minutes N` goes on with new seeds. Planted faults show that the checks work.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod checker;
mod cluster;
mod damage;
mod disk;
mod faults;
mod proxy;
mod readers;
mod workload;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use selvedge_tests::peer;

use cluster::{Cluster, SITES};
use disk::Kind;
use faults::{Done, Menu};
use workload::{Addresses, Operation, Outcome, Workload};

/// What a scenario may do, and on which disks.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    name: &'static str,
    disks: [Kind; SITES],
    menu: &'static [Menu],
    /// Of the run in `cargo test`.
    seed: u64,
    steps: usize,
}

const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "processes_and_links",
        disks: [Kind::Small; SITES],
        menu: &[Menu::Kill, Menu::Link, Menu::FullDisk, Menu::Pause, Menu::Stop],
        seed: 1,
        steps: 10,
    },
    Scenario {
        name: "damage",
        disks: [Kind::Folder; SITES],
        menu: &[
            Menu::FlipStoppedFile,
            Menu::FlipFrame,
            Menu::FlipFile,
            Menu::FlipLog,
            Menu::Kill,
        ],
        seed: 2,
        steps: 10,
    },
    Scenario {
        name: "power_cuts",
        disks: [Kind::Cuttable; SITES],
        menu: &[
            Menu::PowerCutAtPrimary,
            Menu::PowerCutAtPop,
            Menu::PowerCutAtLonelyPop,
            Menu::PowerCutAtPrimary,
            Menu::Kill,
        ],
        seed: 3,
        steps: 7,
    },
];

/// Each planted fault, the scenario that finds it, and how that then puts it.
const PLANTS: [(&str, &str, &[&str]); 6] = [
    ("no_fsync", "power_cuts", &["an acknowledged operation is lost"]),
    ("no_output_gate", "power_cuts", &["an acknowledged operation is lost"]),
    ("no_queue_fsync", "power_cuts", &["a queued operation is lost"]),
    (
        "no_dedupe",
        "processes_and_links",
        &["an operation was done more than once"],
    ),
    ("page_one_first", "processes_and_links", &["a reader at"]),
    // By whoever reads the page first.
    ("no_checksum", "damage", &["are not the primary's", "a reader at"]),
];

/// Faults are planted in so many runs, with the scenario's seed and those after it, until one is found: what is done
/// follows from the seed, whether it hits the moment does not.
const PLANTED_RUNS: u64 = 8;
/// Steps of a run of `cargo xtask torture`.
const LONG_STEPS: usize = 40;
/// Tests at the same time: they wait most of the time.
const AT_ONCE: usize = 2;

#[derive(Debug, Clone, Copy)]
enum Test {
    /// The scenario finds nothing.
    Holds(Scenario),
    /// The scenario, which finds nothing without it, finds the planted fault.
    Finds(&'static str, Scenario, &'static [&'static str]),
}

fn main() -> ExitCode {
    if let Some(socket) = std::env::var_os(readers::SOCKET) {
        readers::run(Path::new(&socket));
    }
    // What HTTP clients need, although nothing here is encrypted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(minutes) = number("SELVEDGE_TORTURE_MINUTES") {
        return torture(Duration::from_secs(minutes * 60));
    }
    let arguments = std::env::args().skip(1);
    let filters: Vec<String> = arguments.filter(|argument| !argument.starts_with('-')).collect();
    let holds = SCENARIOS.map(Test::Holds);
    let finds = PLANTS.map(|(plant, scenario, says)| Test::Finds(plant, named(scenario), says));
    let mut waiting: Vec<Test> = holds.into_iter().chain(finds).collect();
    waiting.retain(|test| filters.is_empty() || filters.iter().any(|filter| test.name().contains(filter.as_str())));
    waiting.reverse();
    let waiting = Mutex::new(waiting);
    let failed = Mutex::new(Vec::new());
    let passed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(test) = waiting.lock().pop() else { return };
                    let began = Instant::now();
                    let verdict = match std::panic::catch_unwind(|| test.run()) {
                        Ok(Ok(summary)) => {
                            passed.fetch_add(1, Ordering::Relaxed);
                            format!("ok ({:.1} s; {summary})", began.elapsed().as_secs_f32())
                        }
                        Ok(Err(problem)) => {
                            failed.lock().push(test.name());
                            format!("FAILED: {problem}")
                        }
                        Err(_) => {
                            failed.lock().push(test.name());
                            "FAILED: it panicked".to_owned()
                        }
                    };
                    println!("test {} ... {verdict}", test.name());
                }
            });
        }
    });
    let (passed, failed) = (passed.into_inner(), failed.into_inner());
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "test result: {verdict}. {passed} passed; {} failed; {}",
        failed.len(),
        failed.join(", ")
    );
    ExitCode::from(u8::from(!failed.is_empty()))
}

impl Test {
    fn name(&self) -> String {
        match self {
            Test::Holds(scenario) => scenario.name.to_owned(),
            Test::Finds(plant, ..) => format!("planted::{plant}"),
        }
    }

    fn run(self) -> Result<String, String> {
        let (Test::Holds(scenario) | Test::Finds(_, scenario, _)) = self;
        if let Some(reason) = why_not(scenario) {
            skip(&self.name(), &reason);
            return Ok("skipped".to_owned());
        }
        match self {
            Test::Holds(scenario) => {
                run(scenario, scenario.seed, scenario.steps, None).map_err(|failure| failure.describe())
            }
            Test::Finds(plant, scenario, says) => {
                for seed in scenario.seed..scenario.seed + PLANTED_RUNS {
                    match run(scenario, seed, scenario.steps, Some(plant)) {
                        Err(failure) if failure.says(says) => {
                            return Ok(format!("found with seed {seed}"));
                        }
                        Err(failure) => return Err(format!("found something else: {}", failure.describe())),
                        Ok(_) => {}
                    }
                }
                Err(format!("nothing was found in {PLANTED_RUNS} runs"))
            }
        }
    }
}

/// Runs scenarios in turn with new seeds until the time is over or one fails.
fn torture(time: Duration) -> ExitCode {
    let first = number("SELVEDGE_TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let only = std::env::var("SELVEDGE_TORTURE_SCENARIO").ok();
    println!("first seed: {first}");
    let scenarios: Vec<Scenario> = match &only {
        Some(name) => vec![named(name)],
        None => SCENARIOS.to_vec(),
    };
    let scenarios: Vec<Scenario> = scenarios
        .into_iter()
        .filter(|scenario| match why_not(*scenario) {
            Some(reason) => {
                skip(scenario.name, &reason);
                false
            }
            None => true,
        })
        .collect();
    if scenarios.is_empty() {
        return ExitCode::FAILURE;
    }
    let began = Instant::now();
    for (number, scenario) in (0..).zip(scenarios.iter().cycle()) {
        if began.elapsed() > time {
            break;
        }
        let seed = first + number / scenarios.len() as u64;
        match run(*scenario, seed, LONG_STEPS, None) {
            Ok(summary) => println!("{} with seed {seed}: {summary}", scenario.name),
            Err(failure) => {
                println!("{}", failure.describe());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
    )
}

fn named(name: &str) -> Scenario {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    *found.unwrap_or_else(|| panic!("there is no scenario {name}"))
}

/// Why this machine does not let the scenario have its disks.
fn why_not(scenario: Scenario) -> Option<String> {
    if scenario.disks.contains(&Kind::Cuttable) {
        // Where they could be installed, their absence is a failure.
        let missing = ["mkfs.xfs", "xfs_io"]
            .into_iter()
            .find(|program| peer::find(program).is_none());
        if let Some(program) = missing {
            return Some(format!("{program} is not installed"));
        }
    }
    scenario.disks.iter().find_map(|kind| disk::why_not(*kind))
}

/// Mounting is a right, not a package: a machine without it skips these tests, also in CI.
fn skip(test: &str, reason: &str) {
    println!("SKIPPED {test}: this user may not mount a file system: {reason}");
    if let Some(list) = std::env::var_os("SELVEDGE_SKIPPED") {
        let list = std::fs::OpenOptions::new().create(true).append(true).open(list);
        let noted = list.and_then(|mut list| writeln!(list, "{test}: {reason}"));
        noted.expect("noting a skipped test");
    }
}

/// What a run found.
struct Failure {
    scenario: &'static str,
    seed: u64,
    problems: Vec<String>,
    /// All that the agents said.
    logs: String,
}

impl Failure {
    /// Whether one of its problems is put in one of these ways.
    fn says(&self, ways: &[&str]) -> bool {
        let mut problems = self.problems.iter();
        problems.any(|problem| ways.iter().any(|way| problem.contains(way)))
    }

    fn describe(&self) -> String {
        let path = std::env::temp_dir().join(format!("selvedge-torture-{}-{}.log", self.scenario, self.seed));
        let kept = match std::fs::write(&path, &self.logs) {
            Ok(()) => format!("the agents' logs are in {}", path.display()),
            Err(error) => format!("the agents' logs could not be kept: {error}"),
        };
        let shown: Vec<&str> = self.problems.iter().take(10).map(String::as_str).collect();
        format!(
            "{} with seed {}: {} problems\n{}\n{kept}\nagain: cargo xtask torture --minutes 5 --seed {} --scenario {}",
            self.scenario,
            self.seed,
            self.problems.len(),
            shown.join("\n"),
            self.seed,
            self.scenario
        )
    }
}

/// One run of a scenario, from the start of its processes to the judgement.
fn run(scenario: Scenario, seed: u64, steps: usize, plant: Option<&'static str>) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime starts");
    let (problems, logs, summary) = runtime.block_on(run_steps(scenario, seed, steps, plant));
    match problems.is_empty() {
        true => Ok(summary),
        false => Err(Failure {
            scenario: scenario.name,
            seed,
            problems,
            logs,
        }),
    }
}

async fn run_steps(
    scenario: Scenario,
    seed: u64,
    steps: usize,
    plant: Option<&'static str>,
) -> (Vec<String>, String, String) {
    let mut cluster = match Cluster::start(scenario.disks, plant).await {
        Ok(cluster) => cluster,
        Err(problem) => return (vec![problem], String::new(), String::new()),
    };
    let addresses: Addresses = std::array::from_fn(|site| Arc::clone(&cluster.sites[site].address));
    let mut workload = Workload::start(seed, &addresses);
    let mut done = Done::default();
    for step in faults::plan(seed, scenario.menu, steps) {
        done.take(&step, &mut cluster).await;
        // Where one is expected the first is enough.
        if plant.is_some() && !done.inexcusable(&cluster).is_empty() {
            break;
        }
    }
    let healed = faults::heal(&mut cluster).await;
    workload.stop().await;
    let settled = match healed {
        Ok(()) => checker::settle(&cluster, &addresses, &workload.history).await,
        Err(problem) => Err(problem),
    };
    let history = workload.history.lock().clone();
    let mut problems = std::mem::take(&mut done.problems);
    match settled {
        Ok(()) => problems.extend(checker::judge(&cluster, &history)),
        Err(problem) => problems.push(problem),
    }
    problems.extend(done.inexcusable(&cluster));
    let summary = summary(&cluster, &history, &done);
    if cluster.reads() == 0 {
        problems.push("no reader has read anything".to_owned());
    }
    (problems, cluster.logs(), summary)
}

fn summary(cluster: &Cluster, history: &[Operation], done: &Done) -> String {
    let count = |outcome: Outcome| {
        let outcomes = history.iter().flat_map(|operation| &operation.outcomes);
        outcomes.filter(|found| **found == outcome).count()
    };
    format!(
        "{} operations: {} done, {} queued, {} failed, {} refused, {} unknown; {} reads; {} faults, {} power cuts, {} bits \
         flipped, {} found by scrubs, {} logs refused",
        history.len(),
        count(Outcome::Done),
        count(Outcome::Queued),
        count(Outcome::Failed),
        count(Outcome::Refused),
        count(Outcome::Unknown),
        cluster.reads(),
        done.steps,
        done.power_cuts,
        done.flips,
        done.scrubbed,
        done.logs_refused,
    )
}
