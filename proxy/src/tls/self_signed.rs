//! Certificates we make ourselves, for development and for listeners behind somebody else's TLS.
//!
//! Made once and kept, so that a browser's exception survives a restart; made anew when the files are missing, damaged,
//! or close to their end. The key never leaves its file, which only its owner may read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use selvedge_schema::CertificateFiles;
use sha2::{Digest, Sha256};

use super::certificate::Certificate;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What browsers accepted longest for public certificates.
const LIFETIME: Duration = Duration::from_secs(397 * 24 * 60 * 60);

/// Renewed this long before the end; also how long an edge that is switched off may miss it.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

#[derive(Debug, thiserror::Error)]
pub(crate) enum SelfSignedError {
    #[error("cannot make a certificate for {names:?}")]
    Make {
        names: Vec<String>,
        #[source]
        source: rcgen::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The files of a certificate for `names` in `folder`, which is created when missing.
pub(crate) fn self_signed(names: &[String], folder: &Path) -> Result<CertificateFiles, SelfSignedError> {
    let stem = file_stem(names);
    let files = CertificateFiles {
        cert: folder.join(format!("{stem}.pem")),
        key: folder.join(format!("{stem}.key")),
    };
    let usable = files.cert.exists()
        && Certificate::load(&files).is_ok_and(|kept| kept.not_after > SystemTime::now() + RENEW_BEFORE);
    if !usable {
        make(names, &files)?;
        tracing::info!(?names, certificate = %files.cert.display(), "made a self-signed certificate");
    }
    Ok(files)
}

/// The first name, readable, and a digest of all of them: other names are another certificate.
fn file_stem(names: &[String]) -> String {
    let digest = Sha256::digest(names.join("\n").to_ascii_lowercase());
    let readable: String = names
        .first()
        .map_or("certificate", String::as_str)
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '.' {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    format!(
        "{readable}-{:02x}{:02x}{:02x}{:02x}",
        digest[0], digest[1], digest[2], digest[3]
    )
}

fn make(names: &[String], files: &CertificateFiles) -> Result<(), SelfSignedError> {
    let failed = |source| SelfSignedError::Make {
        names: names.to_vec(),
        source,
    };
    let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
    if names.iter().any(|name| name.eq_ignore_ascii_case("localhost")) {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            if !params.subject_alt_names.contains(&SanType::IpAddress(address)) {
                params.subject_alt_names.push(SanType::IpAddress(address));
            }
        }
    }
    let now = SystemTime::now();
    // A day back, for clients whose clock is behind.
    params.not_before = (now - DAY).into();
    params.not_after = (now + LIFETIME).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, names.first().map_or("selvedge", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;

    write_private(&files.key, &key.serialize_pem())?;
    write_private(&files.cert, &certificate.pem())
}

/// Whole or not at all, readable by the owner only.
fn write_private(path: &Path, text: &str) -> Result<(), SelfSignedError> {
    let temporary = path.with_added_extension(format!("{}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // One left behind by a crash may have other permissions.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| SelfSignedError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::extensions::GeneralName;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("data/self-signed");
        let files = self_signed(&names(&["localhost"]), &folder).unwrap();
        let first = fs::read(&files.cert).unwrap();
        assert_eq!(self_signed(&names(&["localhost"]), &folder).unwrap(), files);
        assert_eq!(fs::read(&files.cert).unwrap(), first);
        assert_eq!(fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);

        let others = self_signed(&names(&["localhost", "*.example.test"]), &folder).unwrap();
        assert_ne!(others, files);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 4, "no temporary files stay");
    }

    #[test]
    fn localhost_is_good_for_the_loopback_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let files = self_signed(&names(&["LOCALHOST", "a.test"]), folder.path()).unwrap();
        let certificate = Certificate::load(&files).unwrap();
        assert_eq!(certificate.names, ["localhost", "a.test"]);
        let (_, parsed) = X509Certificate::from_der(&certificate.key.cert[0]).unwrap();
        let alternatives = parsed.subject_alternative_name().unwrap().unwrap();
        let addresses: Vec<usize> = alternatives
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::IPAddress(bytes) => Some(bytes.len()),
                _ => None,
            })
            .collect();
        assert_eq!(addresses, [4, 16]);
    }

    #[test]
    fn damaged_or_expiring_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = names(&["localhost"]);
        let files = self_signed(&wanted, folder.path()).unwrap();
        let replaced = |damage: &dyn Fn()| {
            damage();
            let before = fs::read(&files.cert).unwrap();
            self_signed(&wanted, folder.path()).unwrap();
            Certificate::load(&files).unwrap();
            assert_ne!(fs::read(&files.cert).unwrap(), before);
        };
        replaced(&|| fs::write(&files.cert, "").unwrap());
        replaced(&|| fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap());
        replaced(&|| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(wanted.clone()).unwrap();
            params.not_after = (SystemTime::now() + RENEW_BEFORE - DAY).into();
            fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
            fs::write(&files.key, key.serialize_pem()).unwrap();
        });
    }
}
