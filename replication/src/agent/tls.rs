//! TLS between agents and for clients: a certificate for `listen`, and whose certificates are believed at the primary.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Finished handshakes that wait to be served, and handshakes under way at one time.
const WAITING: usize = 128;

/// The certificate an agent shows, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTls {
    /// The chain, leaf first.
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{path} cannot be read as PEM")]
    Pem {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    Empty { path: PathBuf },
    #[error("the certificate in {path} cannot be used with its key")]
    Certificate { path: PathBuf, source: rustls::Error },
}

/// The server's side, speaking HTTP/2 and HTTP/1.1.
pub fn acceptor(tls: &AgentTls) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| TlsError::Pem {
        path: tls.key.clone(),
        source,
    })?;
    let config = ServerConfig::builder().with_no_client_auth();
    let mut config = config
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Certificate {
            path: tls.cert.clone(),
            source,
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates in a PEM file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem {
        path: path.to_owned(),
        source,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(pem)?.collect();
    let chain = chain.map_err(pem)?;
    match chain.is_empty() {
        true => Err(TlsError::Empty { path: path.to_owned() }),
        false => Ok(chain),
    }
}

/// Accepts connections and hands out those that have shaken hands; a slow client holds up nobody else.
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    accepting: AbortHandle,
}

impl TlsListener {
    pub fn new(listener: TcpListener, acceptor: TlsAcceptor) -> io::Result<TlsListener> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(WAITING);
        let accepting = tokio::spawn(accept(listener, acceptor, sender)).abort_handle();
        Ok(TlsListener {
            address,
            ready,
            accepting,
        })
    }
}

/// A transaction of a few hundred bytes is not held back until the one before it was acknowledged (RFC 896).
pub(super) fn send_at_once(stream: &mut TcpStream) {
    // Without it everything works, later.
    let _ = stream.set_nodelay(true);
}

async fn accept(
    mut listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    loop {
        // Axum's own way to accept: errors of one connection, and too many open files, end nothing.
        let (mut stream, peer) = Listener::accept(&mut listener).await;
        send_at_once(&mut stream);
        // A place is taken before the handshake, so their number is bounded.
        let Ok(place) = ready.clone().reserve_owned().await else {
            return;
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(place.send((stream, peer))),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%peer, "a handshake took too long"),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accepting task lives as long as this.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
