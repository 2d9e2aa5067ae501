//! The steps of `cargo xtask test`, in order; the first that fails ends it.

use std::{ffi::OsString, time::Instant};

use anyhow::Result;

use crate::{arrows, dependencies, tools};

pub(crate) fn run() -> Result<()> {
    let path = tools::path_with_cmake()?;
    tools::peers(&path);
    let cargo = |arguments: &'static [&'static str]| {
        let path: OsString = path.clone();
        move || tools::run("cargo", arguments, &path)
    };
    step("formatting", cargo(&["fmt", "--all", "--check"]))?;
    step("dependency arrows", arrows::check)?;
    step("dependencies", dependencies::check)?;
    step(
        "lints",
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step("tests", cargo(&["test", "--workspace", "--locked"]))?;
    println!("guests were not rebuilt: their committed components were used");
    Ok(())
}

fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("── {name}");
    let started = Instant::now();
    let outcome = run();
    let verdict = if outcome.is_ok() { "passed" } else { "FAILED" };
    println!("── {name}: {verdict} after {:.0} s", started.elapsed().as_secs_f32());
    outcome
}
