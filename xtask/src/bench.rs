//! `cargo xtask bench`: the edge beside its peers, in one run on one machine, as ratios.
//!
//! Every case serves the same bytes to the same load from the same origin. The peers take turns, round after round, so that
//! whatever else the machine does meets all of them; the figures are medians of the rounds. Processor time is that of the
//! whole process group, from `/proc`, so a peer that uses more cores for its speed shows it.

mod cases;
mod data;
mod load;
mod peers;
mod report;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::tools;

/// Rounds a peer is measured in.
const ROUNDS: usize = 5;
/// Seconds of one measurement. Short, so that five rounds of all cases stay within ten minutes.
const SECONDS: u32 = 2;

/// Measures the `edge`, the `data` layer, or both.
pub(crate) fn run(part: Option<&str>) -> Result<()> {
    match part {
        None => edge().and_then(|()| data()),
        Some("edge") => edge(),
        Some("data") => data(),
        Some(other) => bail!("there is no part {other:?}: use `edge`, `data`, or nothing for both"),
    }
}

fn edge() -> Result<()> {
    let path = tools::path_with_cmake()?;
    tools::bench_peers(&path);
    println!("building in release mode");
    tools::run(
        "cargo",
        &[
            "build",
            "--release",
            "--locked",
            "--workspace",
            "--bin",
            "selvedge",
            "--example",
            "instantiate",
        ],
        &path,
    )?;
    let folder = scratch_folder()?;
    let programs = peers::Programs::find(&path)?;
    let origin = peers::origin(&programs, &folder)?;
    let mut results = Vec::new();
    for case in cases::all() {
        println!("── {}", case.name);
        let mut running = Vec::new();
        for peer in case.peers {
            match peers::start(*peer, &case, &programs, &origin, &folder) {
                Ok(server) => running.push(server),
                Err(error) => println!("   {}: not measured: {error:#}", peer.name()),
            }
        }
        results.push(measure(&case, &mut running, &path)?);
    }
    let instantiation = instantiation(&path)?;
    write("docs/benchmarks.md", &report::edge(&results, &instantiation, &programs))
}

fn data() -> Result<()> {
    let path = tools::path_with_cmake()?;
    tools::peers(&path);
    println!("building in release mode");
    let build = [
        "build",
        "--release",
        "--locked",
        "-p",
        "selvedge-replication",
        "--example",
        "figures",
    ];
    tools::run("cargo", &build, &path)?;
    let results = data::run(&scratch_folder()?, &path)?;
    write("docs/benchmarks-data.md", &report::data(&results))
}

fn write(file: &str, text: &str) -> Result<()> {
    println!("{text}");
    fs::write(tools::workspace_root().join(file), text).with_context(|| file.to_owned())
}

/// What one peer did in one case: medians.
pub(crate) struct Figures {
    pub(crate) peer: &'static str,
    pub(crate) requests_per_second: f64,
    /// Processor time of the server for one request.
    pub(crate) cpu_us: f64,
    pub(crate) p99_ms: f64,
}

pub(crate) struct CaseResult {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) figures: Vec<Figures>,
}

fn measure(case: &cases::Case, running: &mut [peers::Server], path: &std::ffi::OsString) -> Result<CaseResult> {
    let mut rounds: Vec<Vec<load::Measured>> = running.iter().map(|_| Vec::new()).collect();
    for server in running.iter() {
        load::check(&server.url(case), case)?;
        load::run(&server.url(case), 1, path)?;
    }
    for _ in 0..ROUNDS {
        for (server, measured) in running.iter().zip(&mut rounds) {
            let before = server.cpu_seconds()?;
            let mut round = load::run(&server.url(case), SECONDS, path)?;
            let used = server.cpu_seconds()? - before;
            round.cpu_us = used * 1e6 / round.requests.max(1.0);
            measured.push(round);
        }
    }
    let figures = running.iter().zip(&rounds).map(|(server, rounds)| {
        let figures = Figures {
            peer: server.name(),
            requests_per_second: median(rounds.iter().map(|round| round.requests_per_second)),
            cpu_us: median(rounds.iter().map(|round| round.cpu_us)),
            p99_ms: median(rounds.iter().map(|round| round.p99_ms)),
        };
        println!(
            "   {:<22} {:>8.0} req/s  {:>7.1} CPU µs  p99 {:>7.2} ms",
            figures.peer, figures.requests_per_second, figures.cpu_us, figures.p99_ms
        );
        figures
    });
    Ok(CaseResult {
        name: case.name,
        what: case.what,
        figures: figures.collect(),
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn instantiation(path: &std::ffi::OsString) -> Result<Vec<(&'static str, String)>> {
    let example = tools::target_dir()?.join("release/examples/instantiate");
    let measure = |guest: &'static str| {
        let component = format!("tests/guests/{guest}.wasm");
        let output = tools::command(&example.display().to_string(), path)
            .args([&component, "/hello", "2000"])
            .output()
            .context("the example `instantiate`")?;
        Ok((guest, String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    };
    ["probe-p2", "probe-p3"].into_iter().map(measure).collect()
}

fn scratch_folder() -> Result<std::path::PathBuf> {
    let folder = tools::target_dir()?.join("bench");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
