//! Secrets at rest: encrypted with a key that is in a file of its own, and not in the database.
//!
//! `docs/formats/secret.md` has both formats. The file is made when there is none; the newest key encrypts, every key
//! decrypts. A value in clear is overwritten when it is dropped, and no `Debug` shows it.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::chain::hex;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const ID_BYTES: usize = 8;
/// Keys in one file: the newest, and those of backups.
const KEYS: usize = 100;
const FILE_BYTES: u64 = 64 * 1024;
const PURPOSE: &str = "selvedge/secrets-key/1";

#[derive(Debug, Error)]
pub(crate) enum VaultError {
    #[error("the file of keys {path} cannot be read or made")]
    File { path: PathBuf, source: std::io::Error },
    #[error("others may read the file of keys {path}; `chmod 600 {path}`")]
    Open { path: PathBuf },
    #[error("line {line} of {path} is no key: write 32 bytes in base64, as `openssl rand -base64 32` makes them")]
    Line { path: PathBuf, line: usize },
    #[error("{path} has no key, or more than {KEYS}")]
    Count { path: PathBuf },
    #[error("secrets are encrypted with the key {id}, which is not in {path}; put its line back, also below others")]
    Unknown { path: PathBuf, id: String },
    #[error("the secret {name} of {app} does not decrypt; it was changed in the database, restore it or set it anew")]
    Damaged { app: String, name: String },
}

/// A secret's value in clear.
#[derive(Clone)]
pub(crate) struct Value(Zeroizing<String>);

/// A value as the database has it.
pub(crate) struct Encrypted {
    /// Id of its key.
    pub(crate) key: String,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Vault {
    path: PathBuf,
    /// Newest first; never empty.
    keys: Vec<OneKey>,
}

struct OneKey {
    id: String,
    cipher: XChaCha20Poly1305,
}

impl Value {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value(Zeroizing::new(text))
    }
}

/// Without the value.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value")
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        String::deserialize(deserializer).map(|text| Value(Zeroizing::new(text)))
    }
}

impl Vault {
    /// Reads the file of keys; without one, makes it.
    pub(crate) fn open_or_make(path: &Path) -> Result<Vault, VaultError> {
        match make(path) {
            Ok(()) => tracing::info!(path = %path.display(), "a key for secrets was made; keep a copy of it elsewhere"),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                let path = path.to_owned();
                return Err(VaultError::File { path, source });
            }
        }
        Vault::open(path)
    }

    /// Reads the file of keys.
    pub(crate) fn open(path: &Path) -> Result<Vault, VaultError> {
        let failed = |source| VaultError::File {
            path: path.to_owned(),
            source,
        };
        let about = std::fs::metadata(path).map_err(failed)?;
        if about.permissions().mode() & 0o077 != 0 {
            return Err(VaultError::Open { path: path.to_owned() });
        }
        if about.len() > FILE_BYTES {
            return Err(VaultError::Count { path: path.to_owned() });
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(|(index, line)| {
            OneKey::parse(line).ok_or_else(|| VaultError::Line {
                path: path.to_owned(),
                line: index + 1,
            })
        });
        let keys: Vec<OneKey> = keys.collect::<Result<_, _>>()?;
        match (1..=KEYS).contains(&keys.len()) {
            true => Ok(Vault {
                path: path.to_owned(),
                keys,
            }),
            false => Err(VaultError::Count { path: path.to_owned() }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Id of the key that encrypts.
    pub(crate) fn newest(&self) -> &str {
        &self.keys[0].id
    }

    pub(crate) fn encrypt(&self, app: &str, name: &str, value: &Value) -> Encrypted {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the system has randomness");
        let key = &self.keys[0];
        let aad = bound_to(app, name);
        let payload = Payload {
            msg: value.as_str().as_bytes(),
            aad: &aad,
        };
        let encrypted = key.cipher.encrypt(&XNonce::from(nonce), payload);
        let mut bytes = nonce.to_vec();
        bytes.extend(encrypted.expect("no secret has the 256 GiB that the cipher can do"));
        Encrypted {
            key: key.id.clone(),
            bytes,
        }
    }

    pub(crate) fn decrypt(&self, app: &str, name: &str, encrypted: &Encrypted) -> Result<Value, VaultError> {
        let key = self.key(&encrypted.key)?;
        let damaged = || VaultError::Damaged {
            app: app.to_owned(),
            name: name.to_owned(),
        };
        let (nonce, ciphertext) = encrypted.bytes.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
        let aad = bound_to(app, name);
        let payload = Payload {
            msg: ciphertext,
            aad: &aad,
        };
        let decrypted = key
            .cipher
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| damaged())?;
        String::from_utf8(decrypted)
            .map(|text| Value(Zeroizing::new(text)))
            .map_err(|_| damaged())
    }

    /// Whether the key with this id is in the file.
    pub(crate) fn check(&self, id: &str) -> Result<(), VaultError> {
        self.key(id).map(drop)
    }

    fn key(&self, id: &str) -> Result<&OneKey, VaultError> {
        let found = self.keys.iter().find(|key| key.id == id);
        found.ok_or_else(|| VaultError::Unknown {
            path: self.path.clone(),
            id: id.to_owned(),
        })
    }
}

impl OneKey {
    fn parse(line: &str) -> Option<OneKey> {
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(line).ok()?);
        let bytes: &[u8; KEY_BYTES] = bytes.as_slice().try_into().ok()?;
        let digest = Sha256::new().chain_update(PURPOSE).chain_update(bytes).finalize();
        let key: &Key = bytes.into();
        Some(OneKey {
            id: hex(&digest[..ID_BYTES]),
            cipher: XChaCha20Poly1305::new(key),
        })
    }
}

fn make(path: &Path) -> std::io::Result<()> {
    if path.try_exists()? {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *bytes).expect("the system has randomness");
    let text = Zeroizing::new(BASE64_STANDARD.encode(*bytes));
    // Whole or not at all: a key that was cut off would be refused for ever.
    let unfinished = path.with_added_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    writeln!(file, "# Keys of control's secrets, the newest first.\n{}", *text)?;
    file.sync_all()?;
    std::fs::hard_link(&unfinished, path)?;
    std::fs::remove_file(&unfinished)?;
    std::fs::File::open(folder)?.sync_all()
}

fn bound_to(app: &str, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [app, name] {
        let length = u32::try_from(part.len()).expect("names are short");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn the_file_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/secrets.key");
        let newest = Vault::open_or_make(&path).unwrap().newest().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Vault::open_or_make(&path).unwrap().newest(), newest);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Vault::open_or_make(&path), Err(VaultError::Open { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for (text, line) in [("# none\n", None), ("\nAAAA\n", Some(2)), ("x y\n", Some(1))] {
            std::fs::write(&path, text).unwrap();
            match (Vault::open(&path).err().unwrap(), line) {
                (VaultError::Count { .. }, None) => {}
                (VaultError::Line { line: found, .. }, Some(line)) => assert_eq!(found, line),
                (error, _) => panic!("{text}: {error}"),
            }
        }
    }

    #[test]
    fn the_newest_key_encrypts_and_each_decrypts_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.key");
        let old = Vault::open_or_make(&path).unwrap();
        let encrypted = old.encrypt("shop", "KEY", &value("sk_live"));
        let opened = old.decrypt("shop", "KEY", &encrypted).unwrap();
        assert_eq!(opened.as_str(), "sk_live");
        assert_eq!(format!("{opened:?}"), "Value");
        assert!(matches!(
            old.decrypt("blog", "KEY", &encrypted),
            Err(VaultError::Damaged { .. })
        ));
        let lines = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{}\n{lines}", BASE64_STANDARD.encode([7; KEY_BYTES]))).unwrap();
        let both = Vault::open(&path).unwrap();
        assert_ne!(both.newest(), old.newest());
        assert_eq!(both.decrypt("shop", "KEY", &encrypted).unwrap().as_str(), "sk_live");
        let anew = both.encrypt("shop", "KEY", &value("sk_live"));
        assert_eq!(anew.key, both.newest());
        assert!(matches!(
            old.decrypt("shop", "KEY", &anew),
            Err(VaultError::Unknown { .. })
        ));
        let cut = Encrypted {
            bytes: anew.bytes[..30].to_vec(),
            ..anew
        };
        assert!(matches!(
            both.decrypt("shop", "KEY", &cut),
            Err(VaultError::Damaged { .. })
        ));
    }
}
