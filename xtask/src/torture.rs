//! `cargo xtask torture --minutes N [--seed S] [--scenario NAME]`: the scenarios of `replication/tests/torture`, larger and
//! with new seeds, until the time is over or one finds something. It then says how to do the same again.

use anyhow::{Context, Result, bail};

use crate::tools;

const USAGE: &str = "cargo xtask torture --minutes N [--seed S] [--scenario processes_and_links|damage|power_cuts]";

pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let settings = parse(arguments)?;
    let path = tools::path_with_cmake()?;
    tools::peers(&path);
    // Built like the tests, so that nothing is compiled twice.
    tools::run("cargo", &["build", "--workspace", "--all-targets", "--locked"], &path)?;
    let status = tools::command("cargo", &path)
        .args(["test", "--workspace", "--locked", "--quiet", "--test", "torture"])
        .env("SELVEDGE_EXE", tools::target_dir()?.join("debug/selvedge"))
        .envs(settings)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("something was found");
    }
    Ok(())
}

/// The environment that the test executable reads.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Vec<(&'static str, String)>> {
    let mut settings = Vec::new();
    while let Some(name) = arguments.next() {
        let variable = match name.as_str() {
            "--minutes" => "SELVEDGE_TORTURE_MINUTES",
            "--seed" => "SELVEDGE_TORTURE_SEED",
            "--scenario" => "SELVEDGE_TORTURE_SCENARIO",
            _ => bail!("{name} is not known; usage: {USAGE}"),
        };
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        if name != "--scenario" && value.parse::<u64>().is_err() {
            bail!("{name} needs a number, not {value}");
        }
        settings.push((variable, value));
    }
    if !settings
        .iter()
        .any(|(variable, _)| *variable == "SELVEDGE_TORTURE_MINUTES")
    {
        bail!("usage: {USAGE}");
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parsed = |text: &str| parse(text.split_whitespace().map(str::to_owned));
        let settings = parsed("--minutes 5 --seed 7 --scenario damage").expect("valid");
        let texts: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            texts,
            [
                "SELVEDGE_TORTURE_MINUTES=5",
                "SELVEDGE_TORTURE_SEED=7",
                "SELVEDGE_TORTURE_SCENARIO=damage"
            ]
        );
        for wrong in ["", "--seed 7", "--minutes", "--minutes soon", "--hours 1"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
