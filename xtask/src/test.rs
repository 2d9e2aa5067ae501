//! The steps of `cargo xtask test`, in order; the first that fails ends it.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{arrows, data, dependencies, guests, reference, tools};

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
    step("guests", guests::check)?;
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
    // Built with the tests, so that both see the same features and nothing is compiled twice.
    step("build", cargo(&["build", "--workspace", "--all-targets", "--locked"]))?;
    step("reference", reference::check)?;
    step("the example's own tests", || example(&path))?;
    // The site's tests run on its real data; without a network they say that they were skipped.
    if let Err(error) = step("the demo's data", || {
        data::dictionary(&tools::workspace_root().join("target")).map(drop)
    }) {
        println!("{error:#}");
    }
    step("tests", || tests(&path))?;
    Ok(())
}

/// The demo's handler is a workspace of its own, since it is built for another target; its logic is tested natively.
fn example(path: &OsString) -> Result<()> {
    let target = tools::target_dir()?.join("guests").display().to_string();
    let manifest = "examples/dictionary/handler/Cargo.toml";
    let arguments = [
        "test",
        "-q",
        "--locked",
        "--lib",
        "--manifest-path",
        manifest,
        "--target-dir",
        &target,
    ];
    tools::run("cargo", &arguments, path)
}

/// Runs all tests, shows what they print, and counts them.
fn tests(path: &OsString) -> Result<()> {
    let target = tools::target_dir()?;
    let skipped = target.join("skipped-tests");
    let _ = fs::remove_file(&skipped);
    let mut cargo = tools::command("cargo", path)
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .env("SELVEDGE_EXE", target.join("debug/selvedge"))
        .env("SELVEDGE_SKIPPED", &skipped)
        .envs(tools::python().is_file().then(|| ("SELVEDGE_PYTHON", tools::python())))
        .envs(tools::litestream().map(|path| ("SELVEDGE_LITESTREAM", path)))
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let (mut passed, mut failed) = (0, 0);
    let output = cargo.stdout.take().context("cargo's output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        // `test result: ok. 3 passed; 0 failed; …`
        if let Some(counts) = line.strip_prefix("test result: ") {
            let words: Vec<&str> = counts.split([' ', ';']).collect();
            let before = |word: &str| {
                let at = words.iter().position(|other| *other == word).unwrap_or(0);
                words[at.saturating_sub(1)].parse::<usize>().unwrap_or(0)
            };
            passed += before("passed");
            failed += before("failed");
        }
    }
    let status = cargo.wait()?;
    let skipped = fs::read_to_string(&skipped).unwrap_or_default();
    let count = skipped.lines().count();
    print!("{skipped}");
    println!(
        "{} passed, {failed} failed, {count} skipped",
        passed - count.min(passed)
    );
    if !status.success() {
        bail!("tests failed");
    }
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
