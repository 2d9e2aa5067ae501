//! The data layer's figures: the example `figures`, case by case, and Litestream beside it where it can be had.

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::tools;

/// Case of the example, and what it means.
const CASES: &[(&str, &str)] = &[
    (
        "writes",
        "64 concurrent writers, one row each: committed, in the fsynced log, answered over the agent's socket",
    ),
    (
        "visible",
        "1,000 writes a second at the primary: from the answer to the row in the replica of another agent",
    ),
    (
        "litestream",
        "Litestream at 10 ms intervals: from a commit to its file in the replica's folder",
    ),
    (
        "reads",
        "a point query through the replica as a handler makes it, beside plain rusqlite on the same file",
    ),
    (
        "many",
        "1,000 databases on one primary and one replica, both in one process",
    ),
    (
        "bootstrap",
        "1 GiB copied to a new replica, checked page by page, beside `cp` and fsync of the same file",
    ),
];

/// Rounds in which the cases take turns.
pub(super) const ROUNDS: usize = 3;

/// Medians of what one case measured.
pub(super) struct CaseResult {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) figures: Vec<(String, f64)>,
}

pub(super) fn run(folder: &Path, path: &OsString) -> Result<Vec<CaseResult>> {
    let folder = folder.join("data");
    fs::create_dir_all(&folder)?;
    let mut rounds: Vec<BTreeMap<String, Vec<f64>>> = CASES.iter().map(|_| BTreeMap::new()).collect();
    for _ in 0..ROUNDS {
        for ((case, what), measured) in CASES.iter().zip(&mut rounds) {
            println!("── {case}: {what}");
            let Some(figures) = measure(case, &folder, path)? else {
                continue;
            };
            println!("   {figures}");
            for (name, figure) in figures.as_object().into_iter().flatten() {
                measured.entry(name.clone()).or_default().extend(figure.as_f64());
            }
        }
    }
    let results = CASES.iter().zip(rounds).map(|((name, what), measured)| CaseResult {
        name,
        what,
        figures: measured
            .into_iter()
            .map(|(name, figures)| (name, super::median(figures.into_iter())))
            .collect(),
    });
    Ok(results.collect())
}

/// One run of the example; `None`, said aloud, where it cannot be.
fn measure(case: &str, folder: &Path, path: &OsString) -> Result<Option<Value>> {
    let example = tools::target_dir()?.join("release/examples/figures");
    let mut command = tools::command(&example.display().to_string(), path);
    command.arg(case).current_dir(folder);
    if case == "litestream" {
        let Some(litestream) = tools::litestream() else {
            println!("   litestream is not installed: not measured");
            return Ok(None);
        };
        command.env("LITESTREAM", litestream);
    }
    let output = command.output().context("the example `figures`")?;
    match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(line) => Ok(Some(line["figures"].clone())),
        Err(_) => {
            println!("   not measured: {}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(None)
        }
    }
}
