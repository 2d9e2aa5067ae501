//! The data layer's figures: the example `figures`, case by case, and Litestream beside it where it can be had.

use std::{ffi::OsString, fs, path::Path};

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

pub(super) fn run(folder: &Path, path: &OsString) -> Result<Vec<(&'static str, Value)>> {
    let example = tools::target_dir()?.join("release/examples/figures");
    let folder = folder.join("data");
    fs::create_dir_all(&folder)?;
    let mut results = Vec::new();
    for (case, what) in CASES {
        println!("── {case}: {what}");
        let mut command = tools::command(&example.display().to_string(), path);
        command.arg(case).current_dir(&folder);
        if *case == "litestream" {
            let Some(litestream) = tools::litestream() else {
                println!("   litestream is not installed: not measured");
                continue;
            };
            command.env("LITESTREAM", litestream);
        }
        let output = command.output().context("the example `figures`")?;
        let Ok(line) = serde_json::from_slice::<Value>(&output.stdout) else {
            println!("   not measured: {}", String::from_utf8_lossy(&output.stderr).trim());
            continue;
        };
        println!("   {}", line["figures"]);
        results.push((*what, line["figures"].clone()));
    }
    Ok(results)
}
