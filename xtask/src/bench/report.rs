//! `docs/benchmarks.md`: the table, and what is needed to read it.

use std::{fmt::Write, process::Command};

use super::{CaseResult, ROUNDS, SECONDS, peers::Programs};

pub(crate) fn edge(results: &[CaseResult], instantiation: &[(&'static str, String)], programs: &Programs) -> String {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench edge`; the data layer's are in [benchmarks-data.md](benchmarks-data.md). ",
    );
    let _ = writeln!(
        text,
        "Servers take turns under wrk (one thread, 32 kept connections, HTTP/1.1) on loopback, \
         {ROUNDS} rounds of {SECONDS} s; the figures are medians. The load runs on the same {cores} cores ({model}), so requests a \
         second are bounded by both; processor time a request is the fairer figure. Every server has two workers. \
         Ratios are the peer's figure to ours: above 1 we use less processor time, or serve more.\n",
        cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        model = processor(),
    );
    let _ = writeln!(
        text,
        "Versions: {}; selvedge {}.\n",
        programs.versions.join("; "),
        commit()
    );
    text.push_str("| case | server | requests/s | ours ÷ theirs | CPU µs a request | theirs ÷ ours | p99 ms |\n|---|---|---|---|---|---|---|\n");
    for case in results {
        let ours = case.figures.iter().find(|figures| figures.peer == "selvedge");
        for figures in &case.figures {
            let name = if figures.peer == "selvedge" { case.name } else { "" };
            let speed = ours.map_or(f64::NAN, |ours| ours.requests_per_second / figures.requests_per_second);
            let cpu = ours.map_or(f64::NAN, |ours| figures.cpu_us / ours.cpu_us);
            let _ = writeln!(
                text,
                "| {name} | {} | {:.0} | {speed:.2} | {:.1} | {cpu:.2} | {:.2} |",
                figures.peer, figures.requests_per_second, figures.cpu_us, figures.p99_ms
            );
        }
    }
    text.push_str("\nWhat the cases are:\n\n");
    for case in results {
        let _ = writeln!(text, "* {}: {}.", case.name, case.what);
    }
    text.push_str("\nMaking an instance in the pool, from a compiled component, µs:\n\n");
    for (guest, figures) in instantiation {
        let _ = writeln!(text, "* {guest}: `{figures}`");
    }
    text
}

pub(crate) fn data(results: &[super::data::CaseResult]) -> String {
    let mut text = format!(
        "# Benchmarks of the data layer\n\nWritten by `cargo xtask bench data`: medians of {ROUNDS} rounds, in which the cases take \
         turns, on {cores} cores ({model}) and one disk, with what else the machine does; selvedge {commit}. What fsync costs \
         here decides most of them, so figures are to be read beside each other.\n\n| case | figure | |\n|---|---|---|\n",
        ROUNDS = super::data::ROUNDS,
        cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        model = processor(),
        commit = commit(),
    );
    for case in results {
        for (number, (name, figure)) in case.figures.iter().enumerate() {
            let shown = if number == 0 { case.name } else { "" };
            let _ = writeln!(text, "| {shown} | {} | {} |", name.replace('_', " "), short(*figure));
        }
    }
    text.push_str("\nWhat the cases are:\n\n");
    for case in results {
        let _ = writeln!(text, "* {}: {}.", case.name, case.what);
    }
    text
}

/// Three digits, or the whole number.
fn short(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        1000.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.3}"),
    }
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": "))
        .map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned())
}

fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
