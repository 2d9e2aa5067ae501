//! The certificates of one listener: chosen by the name the client asks for, replaced while connections are accepted.
//!
//! Invariant: what is served was checked as a whole before it replaced what was served before. Files that do not fit
//! together, also for the moment between two writes of somebody's renewal, never reach a client.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureScheme};
use selvedge_schema::{CertificateFiles, Tls, TlsVersion};

use super::certificate::{Certificate, CertificateError};
use super::self_signed::{RENEW_BEFORE, SelfSignedError, self_signed};

/// Why a listener's certificates cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    SelfSigned(#[from] SelfSignedError),
    #[error("the listener has no certificate")]
    NoCertificates,
}

/// When a certificate ends, for the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// The first name in it, or its file when it has none.
    pub(crate) name: String,
    pub(crate) not_after: SystemTime,
}

#[derive(Debug)]
pub(crate) struct CertificateStore {
    /// `data_dir/self-signed`.
    self_signed_folder: PathBuf,
    served: ArcSwap<Served>,
    /// The files as they were when they were last looked at, good or bad: a bad set is reported once.
    last_seen: Mutex<Vec<FileState>>,
}

/// One complete set. Never empty.
#[derive(Debug)]
struct Served {
    settings: Tls,
    certificates: Vec<Certificate>,
    /// Name as in the certificates to positions in `certificates`; several when they differ in the kind of key.
    by_name: HashMap<String, Vec<usize>>,
}

/// Enough to notice that a file was written, moved into place or removed.
type FileState = (PathBuf, Option<(SystemTime, u64, u64)>);

impl CertificateStore {
    /// Reads, checks and if need be makes the certificates of a listener.
    pub(crate) fn open(settings: &Tls, data_dir: &Path) -> Result<Arc<Self>, TlsError> {
        let self_signed_folder = data_dir.join("self-signed");
        let (served, files) = Served::load(settings, &self_signed_folder)?;
        Ok(Arc::new(Self {
            self_signed_folder,
            served: ArcSwap::from_pointee(served),
            last_seen: Mutex::new(files),
        }))
    }

    /// Checks other settings without serving them yet; see [`StagedCertificates::commit`].
    pub(crate) fn stage(self: &Arc<Self>, settings: &Tls) -> Result<StagedCertificates, TlsError> {
        let (served, files) = Served::load(settings, &self.self_signed_folder)?;
        Ok(StagedCertificates {
            store: self.clone(),
            served,
            files,
        })
    }

    #[cfg(test)]
    /// [`CertificateStore::stage`] and commit. On an error everything stays as it was.
    pub(super) fn replace(self: &Arc<Self>, settings: &Tls) -> Result<(), TlsError> {
        self.stage(settings).map(StagedCertificates::commit)
    }

    /// Loads the files again if one of them changed since they were last looked at, or if a self-signed certificate is
    /// due. `Ok(true)` when other certificates are served now. After an error, the same files are not tried again.
    pub(crate) fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let served = self.served.load_full();
        let now: Vec<_> = self.last_seen.lock().iter().map(|(path, _)| file_state(path)).collect();
        let changed = *self.last_seen.lock() != now;
        if !changed && !served.renewal_is_due() {
            return Ok(false);
        }
        *self.last_seen.lock() = now;
        let (next, files) = Served::load(&served.settings, &self.self_signed_folder)?;
        *self.last_seen.lock() = files;
        self.served.store(Arc::new(next));
        Ok(true)
    }

    #[cfg(test)]
    pub(super) fn chosen_file(&self, name: &str, schemes: &[SignatureScheme]) -> PathBuf {
        self.served
            .load()
            .choose(Some(name), schemes)
            .map(|certificate| certificate.path.clone())
            .unwrap()
    }

    pub(crate) fn expiries(&self) -> Vec<Expiry> {
        let expiry = |certificate: &Certificate| Expiry {
            name: certificate
                .names
                .first()
                .cloned()
                .unwrap_or_else(|| certificate.path.display().to_string()),
            not_after: certificate.not_after,
        };
        self.served.load().certificates.iter().map(expiry).collect()
    }
}

/// Certificates that were checked and wait for the rest of a reload to succeed.
#[derive(Debug)]
pub(crate) struct StagedCertificates {
    store: Arc<CertificateStore>,
    served: Served,
    files: Vec<FileState>,
}

impl StagedCertificates {
    /// Serves them from the next handshake on.
    pub(crate) fn commit(self) {
        *self.store.last_seen.lock() = self.files;
        self.store.served.store(Arc::new(self.served));
    }
}

impl Served {
    /// Also returns the state of the files, taken before they were read: a change in between is noticed later.
    fn load(settings: &Tls, self_signed_folder: &Path) -> Result<(Self, Vec<FileState>), TlsError> {
        let mut sources: Vec<CertificateFiles> = settings.certificates.clone();
        if !settings.self_signed.is_empty() {
            sources.push(self_signed(&settings.self_signed, self_signed_folder)?);
        }
        let files = sources
            .iter()
            .flat_map(|source| [&source.cert, &source.key])
            .map(|path| file_state(path))
            .collect();
        let certificates: Vec<_> = sources.iter().map(Certificate::load).collect::<Result<_, _>>()?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificates);
        }
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_default().push(index);
            }
        }
        Ok((
            Self {
                settings: settings.clone(),
                certificates,
                by_name,
            },
            files,
        ))
    }

    fn renewal_is_due(&self) -> bool {
        // The self-signed one is the last.
        let made_here = (!self.settings.self_signed.is_empty())
            .then(|| self.certificates.last())
            .flatten();
        made_here.is_some_and(|certificate| certificate.not_after < SystemTime::now() + RENEW_BEFORE)
    }

    /// By exact name, else by wildcard, else the first certificate; among several for one name the first whose key the
    /// client can verify.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Certificate> {
        let name = name.map(str::to_ascii_lowercase);
        let wildcard = name
            .as_deref()
            .and_then(|name| name.split_once('.'))
            .map(|(_, rest)| format!("*.{rest}"));
        let named = [name, wildcard]
            .into_iter()
            .flatten()
            .find_map(|name| self.by_name.get(&name));
        let fallback = || self.by_name.get(self.certificates.first()?.names.first()?);
        let candidates = named
            .or_else(fallback)
            .into_iter()
            .flatten()
            .filter_map(|index| self.certificates.get(*index));
        candidates
            .clone()
            .find(|certificate| certificate.key.key.choose_scheme(schemes).is_some())
            .or_else(|| candidates.clone().next())
            .or(self.certificates.first())
    }
}

fn file_state(path: &Path) -> FileState {
    let metadata = fs::metadata(path).ok();
    let state = metadata.and_then(|data| Some((data.modified().ok()?, data.len(), data.ino())));
    (path.to_owned(), state)
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let served = self.served.load();
        let certificate = served.choose(hello.server_name(), hello.signature_schemes())?;
        match served.settings.min_version {
            TlsVersion::Tls12 => Some(certificate.key.clone()),
            // A client without a suite of TLS 1.3 cannot succeed; the key refuses the others that try 1.2.
            TlsVersion::Tls13 => hello
                .cipher_suites()
                .iter()
                .any(is_tls13_suite)
                .then(|| certificate.key_tls13.clone()),
        }
    }
}

/// RFC 8446 appendix B.4: the suites of TLS 1.3 have numbers of their own.
fn is_tls13_suite(suite: &CipherSuite) -> bool {
    (0x1301..=0x1305).contains(&u16::from(*suite))
}
