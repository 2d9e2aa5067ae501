//! Compiled components: made once, kept by digest, believed only when they are byte for byte what we wrote.
//!
//! Machine code is loaded without further checks, so a file is believed only if its trailing keyed digest verifies: the
//! key is made once, beside the artifacts, readable by this user alone. A file that is damaged, foreign or from another
//! engine is compiled again, never trusted. See `docs/formats/artifact.md`.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;

pub(crate) struct Artifacts {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    /// What of the engine decides whether machine code fits it: version, target, settings.
    fingerprint: u64,
}

/// A component ready to be linked.
pub(crate) struct Artifact {
    pub(crate) component: Component,
    /// SHA-256 of the component, hexadecimal.
    pub(crate) digest: String,
}

impl Artifacts {
    pub(crate) fn open(dir: PathBuf, engine: &Engine) -> io::Result<Artifacts> {
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        let key = key(&dir.join("key"))?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Artifacts {
            dir,
            key,
            fingerprint: hasher.finish(),
        })
    }

    /// The machine code of the component `bytes`; compiles unless it was compiled before.
    pub(crate) fn get(&self, engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Artifact> {
        let digest = hex(&Sha256::digest(bytes));
        let path = self.dir.join(format!("{digest}-{:016x}.cwasm", self.fingerprint));
        if let Some(code) = self.read(&path)
            && let Some(component) = load(engine, &code)
        {
            return Ok(Artifact { component, digest });
        }
        let code = engine.precompile_component(bytes)?;
        if let Err(error) = self.write(&path, &code) {
            // Not being able to keep it costs the next start a compilation, nothing else.
            tracing::warn!(path = %path.display(), %error, "cannot keep a compiled component");
        }
        let component = load(engine, &code)
            .ok_or_else(|| wasmtime::format_err!("the engine does not accept what it just compiled"))?;
        Ok(Artifact { component, digest })
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let mut file = fs::read(path).ok()?;
        let code_length = file.len().checked_sub(MAC_BYTES)?;
        let mac = file.split_off(code_length);
        if mac == self.mac(&file) {
            return Some(file);
        }
        tracing::warn!(path = %path.display(), "a compiled component is damaged; compiling it again");
        None
    }

    fn write(&self, path: &Path, code: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(code)?;
        file.write_all(&self.mac(code))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// HMAC-SHA-256 (RFC 2104) with a key of less than one block.
    fn mac(&self, code: &[u8]) -> [u8; MAC_BYTES] {
        let pad = |byte: u8| {
            let mut block = [byte; 64];
            block.iter_mut().zip(self.key).for_each(|(padded, key)| *padded ^= key);
            block
        };
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(code).finalize();
        Sha256::new()
            .chain_update(pad(0x5c))
            .chain_update(inner)
            .finalize()
            .into()
    }
}

#[expect(
    unsafe_code,
    reason = "machine code is loaded as it is; the caller verified that it is ours"
)]
fn load(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: `Artifacts::read` verified that these bytes are what `precompile_component` returned, or they just came from it.
    let loaded = unsafe { Component::deserialize(engine, code) };
    loaded
        .inspect_err(|error| tracing::warn!(%error, "a compiled component does not fit; compiling it again"))
        .ok()
}

fn key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    match File::open(path) {
        Ok(mut file) => {
            file.read_exact(&mut key)?;
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::open("/dev/urandom")?.read_exact(&mut key)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&key)?;
            file.sync_all()?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty component: the binary preamble alone.
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn engine() -> Engine {
        Engine::default()
    }

    #[test]
    fn a_damaged_artifact_is_compiled_again() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine();
        let artifacts = Artifacts::open(dir.path().to_owned(), &engine).unwrap();
        let first = artifacts.get(&engine, COMPONENT).unwrap();
        let file = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let path = file
            .into_iter()
            .find(|path| path.extension().is_some_and(|e| e == "cwasm"))
            .unwrap();
        let good = fs::read(&path).unwrap();
        assert!(artifacts.read(&path).is_some());
        for damage in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[damage] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(artifacts.read(&path).is_none(), "byte {damage} was flipped");
        }
        fs::write(&path, &good[..10]).unwrap();
        let again = artifacts.get(&engine, COMPONENT).unwrap();
        assert_eq!(first.digest, again.digest);
        assert_eq!(fs::read(&path).unwrap(), good, "the file was written anew");
    }

    #[test]
    fn another_installations_artifact_is_not_believed() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let engine = engine();
        let our = Artifacts::open(ours.path().to_owned(), &engine).unwrap();
        let their = Artifacts::open(theirs.path().to_owned(), &engine).unwrap();
        let path = ours.path().join("foreign.cwasm");
        their.write(&path, b"machine code").unwrap();
        assert!(our.read(&path).is_none());
    }
}
