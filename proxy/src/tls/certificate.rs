//! One certificate as served: its chain and key, read from PEM files and found to belong together.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as RustlsError, InconsistentKeys};
use selvedge_schema::CertificateFiles;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tls13::Tls13Only;

#[derive(Debug)]
pub(super) struct Certificate {
    /// DNS names in lower case; a wildcard is written `*.example.com`.
    pub(super) names: Vec<String>,
    pub(super) not_after: SystemTime,
    /// Where it came from, for messages.
    pub(super) path: PathBuf,
    pub(super) key: Arc<CertifiedKey>,
    /// The same, but refusing to sign for TLS 1.2.
    pub(super) key_tls13: Arc<CertifiedKey>,
}

/// Why certificate files cannot be served. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: PemError,
    },
    #[error("{path} has no certificate in PEM form")]
    NoCertificate { path: PathBuf },
    #[error("{path} has no private key in PEM form (PKCS#8, PKCS#1 or SEC1, not encrypted)")]
    NoKey { path: PathBuf },
    #[error("certificate {number} in {path} is not an X.509 certificate")]
    Malformed { path: PathBuf, number: usize },
    #[error(
        "certificate {number} in {path} is not the issuer of the one before it; the chain begins with the site's own certificate"
    )]
    Order { path: PathBuf, number: usize },
    #[error("the key in {path} cannot be used")]
    Key {
        path: PathBuf,
        #[source]
        source: RustlsError,
    },
    #[error("the key in {key} is not the key of the certificate in {cert}")]
    Mismatch { cert: PathBuf, key: PathBuf },
}

impl Certificate {
    /// Reads and checks both files. A certificate that is not valid yet or no longer is served with a warning: that is
    /// better than no site at all, and the clock may be what is wrong.
    pub(super) fn load(files: &CertificateFiles) -> Result<Self, CertificateError> {
        let path = &files.cert;
        let chain = read_chain(path)?;
        let key = read_key(&files.key)?;
        let malformed = |number| CertificateError::Malformed {
            path: path.clone(),
            number,
        };
        let parsed: Vec<X509Certificate<'_>> = chain
            .iter()
            .enumerate()
            .map(|(index, der)| {
                X509Certificate::from_der(der)
                    .map(|(_, one)| one)
                    .map_err(|_| malformed(index + 1))
            })
            .collect::<Result<_, _>>()?;
        for (index, pair) in parsed.windows(2).enumerate() {
            if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
                return Err(CertificateError::Order {
                    path: path.clone(),
                    number: index + 2,
                });
            }
        }
        let leaf = parsed.first().ok_or_else(|| malformed(1))?;
        let names = names(leaf);
        let not_after = instant(leaf.validity().not_after.timestamp());
        warn_about_dates(path, instant(leaf.validity().not_before.timestamp()), not_after);

        let certified =
            CertifiedKey::from_der(chain.clone(), key, &ring::default_provider()).map_err(|error| match error {
                RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => CertificateError::Mismatch {
                    cert: path.clone(),
                    key: files.key.clone(),
                },
                source => CertificateError::Key {
                    path: files.key.clone(),
                    source,
                },
            })?;
        let guarded = CertifiedKey::new(certified.cert.clone(), Arc::new(Tls13Only(certified.key.clone())));
        Ok(Certificate {
            names,
            not_after,
            path: path.clone(),
            key: Arc::new(certified),
            key_tls13: Arc::new(guarded),
        })
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let read = |source| CertificateError::Read {
        path: path.to_owned(),
        source,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    match chain.is_empty() {
        true => Err(CertificateError::NoCertificate { path: path.to_owned() }),
        false => Ok(chain),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        PemError::NoItemsFound => CertificateError::NoKey { path: path.to_owned() },
        source => CertificateError::Read {
            path: path.to_owned(),
            source,
        },
    })
}

/// The alternative names; the common name only where there are none, as RFC 6125 section 6.4.4 has it.
fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = leaf.subject_alternative_name().ok().flatten();
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    match alternatives {
        Some(alternatives) => alternatives.value.general_names.iter().filter_map(dns).collect(),
        None => leaf
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .map(str::to_ascii_lowercase)
            .collect(),
    }
}

fn warn_about_dates(path: &Path, not_before: SystemTime, not_after: SystemTime) {
    let now = SystemTime::now();
    if now < not_before {
        tracing::warn!(certificate = %path.display(), "certificate is not valid yet; clients will refuse it");
    }
    if now > not_after {
        tracing::warn!(certificate = %path.display(), "certificate has expired; clients will refuse it");
    }
}

/// Seconds since 1970, possibly negative.
fn instant(seconds: i64) -> SystemTime {
    let magnitude = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let instant = if seconds < 0 {
        epoch.checked_sub(magnitude)
    } else {
        epoch.checked_add(magnitude)
    };
    instant.unwrap_or(epoch)
}
