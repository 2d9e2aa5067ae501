//! TLS downstream: which certificate a client gets, and how certificates change without a restart.

mod certificate;
mod self_signed;
mod store;
mod tls13;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::listeners::tls::TlsSettings;
use rustls::crypto::ring;
use selvedge_schema::{Listener, Tls};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub(crate) use store::{CertificateStore, Expiry, StagedCertificates, TlsError};

/// How often the files are looked at. A stat of some files costs microseconds; a renewal is live within this time.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// All of rustls in this process uses ring. Safe to call more than once.
pub(crate) fn install_crypto_provider() {
    // An error only says that one is installed already.
    let _ = ring::default_provider().install_default();
}

/// The certificates of all listeners, in the order of the configuration; a plain listener has none.
#[derive(Debug)]
pub(crate) struct CertificateStores(Vec<Option<Arc<CertificateStore>>>);

impl CertificateStores {
    /// An error comes with the position of its listener.
    pub(crate) fn open(listeners: &[Listener], data_dir: &Path) -> Result<Self, (usize, TlsError)> {
        let stores = listeners.iter().enumerate().map(|(position, listener)| {
            let open = |tls: &Tls| CertificateStore::open(tls, data_dir).map_err(|error| (position, error));
            listener.tls.as_ref().map(open).transpose()
        });
        Ok(Self(stores.collect::<Result<_, _>>()?))
    }

    /// The store of the listener at this position.
    pub(crate) fn get(&self, listener: usize) -> Option<&Arc<CertificateStore>> {
        self.0.get(listener)?.as_ref()
    }

    /// Checks the certificates of a new configuration with the same listeners; serves none of them yet.
    pub(crate) fn stage(&self, listeners: &[Listener]) -> Result<Vec<StagedCertificates>, (usize, TlsError)> {
        let both = self.0.iter().zip(listeners).enumerate();
        let both = both.filter_map(|(position, (store, new))| Some((position, store.as_ref()?, new.tls.as_ref()?)));
        both.map(|(position, store, tls)| store.stage(tls).map_err(|error| (position, error)))
            .collect()
    }

    pub(crate) fn expiries(&self) -> Vec<Expiry> {
        self.0.iter().flatten().flat_map(|store| store.expiries()).collect()
    }

    /// Looks at the files from time to time and serves what changed. The work ends when the returned value is dropped.
    pub(crate) fn watch(&self, runtime: &Handle) -> CertificateWatch {
        let mut tasks = JoinSet::new();
        for store in self.0.iter().flatten() {
            tasks.spawn_on(watch(store.clone()), runtime);
        }
        CertificateWatch { _tasks: tasks }
    }
}

#[derive(Debug)]
pub(crate) struct CertificateWatch {
    _tasks: JoinSet<()>,
}

async fn watch(store: Arc<CertificateStore>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let looked = store.clone();
        match tokio::task::spawn_blocking(move || looked.reload_if_changed()).await {
            Ok(Ok(true)) => tracing::info!(certificates = ?names(&store), "certificates reloaded"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                let reason = std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                tracing::error!(%error, reason, "certificates not reloaded; the previous ones are served on");
            }
            Err(panic) => tracing::error!(%panic, "certificates could not be looked at"),
        }
    }
}

fn names(store: &CertificateStore) -> Vec<String> {
    store.expiries().into_iter().map(|expiry| expiry.name).collect()
}

/// What pingora needs for a TLS listener: certificates from `store`, HTTP/2 preferred to HTTP/1.1. The least version is
/// kept by the store, as pingora always accepts 1.2 and 1.3.
pub(crate) fn tls_settings(store: Arc<CertificateStore>) -> TlsSettings {
    install_crypto_provider();
    let mut settings =
        TlsSettings::intermediate("", "").expect("the paths are only kept, and a resolver replaces them");
    settings.set_cert_resolver(store);
    settings.enable_h2();
    settings
}

#[cfg(test)]
mod tests;
