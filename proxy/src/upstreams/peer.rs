//! How a server is spoken to: pingora's peer, made once per server and copied for each request.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::tls::CaType;
use pingora_core::protocols::{ALPN, TcpKeepalive};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use selvedge_schema::Upstream;

/// Streams on one HTTP/2 connection, the least that RFC 9113 section 6.5.2 recommends to allow.
const HTTP2_STREAMS: usize = 100;

/// A silently dead HTTP/2 connection is found after this long.
const HTTP2_PING: Duration = Duration::from_secs(30);

/// A file of certificate authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error("cannot read the certificate authorities in {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: PemError,
    },
    #[error("{path} has no certificate in PEM form")]
    Empty { path: PathBuf },
    #[error("certificate {number} in {path} is not a certificate authority")]
    Invalid {
        path: PathBuf,
        number: usize,
        #[source]
        source: rustls::Error,
    },
}

/// What the servers of one upstream have in common.
pub(super) struct PeerSettings {
    ca: Option<Arc<CaType>>,
    group_key: u64,
}

impl PeerSettings {
    /// Reads the file of authorities, if one is configured.
    pub(super) fn load(name: &str, upstream: &Upstream) -> Result<Self, CaError> {
        let ca_path = upstream.tls.as_ref().and_then(|tls| tls.ca.as_deref());
        let authorities = ca_path.map(load_ca).transpose()?;
        // Pingora's pool does not look at the authorities nor at the protocol: connections made under other settings
        // must not be found by this upstream. Equal settings after a reload find their connections again.
        let mut hasher = DefaultHasher::new();
        (name, upstream.http2, &authorities).hash(&mut hasher);
        upstream.tls.as_ref().map(|tls| &tls.server_name).hash(&mut hasher);
        let ca = authorities.map(|list| list.into_iter().map(|der| WrappedX509::new(der, parse_x509)).collect());
        Ok(Self {
            ca,
            group_key: hasher.finish(),
        })
    }

    /// The peer for the server with this host, without its address.
    pub(super) fn template(&self, upstream: &Upstream, host: &str) -> HttpPeer {
        let server_name = upstream
            .tls
            .as_ref()
            .map(|tls| tls.server_name.as_deref().unwrap_or(host));
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut peer = HttpPeer::new(
            unknown,
            server_name.is_some(),
            server_name.unwrap_or_default().to_owned(),
        );
        peer.group_key = self.group_key;
        let options = &mut peer.options;
        let timeouts = &upstream.timeouts;
        options.connection_timeout = Some(timeouts.connect);
        // With TLS pingora counts the handshake apart; the operator's number means "ready to send".
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout = Some(timeouts.read);
        options.write_timeout = Some(timeouts.write);
        options.idle_timeout = Some(timeouts.idle);
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(10),
            count: 3,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::ZERO,
        });
        options.ca = self.ca.clone();
        options.alpn = match (upstream.http2, server_name) {
            (false, _) => ALPN::H1,
            (true, Some(_)) => ALPN::H2H1,
            // Nothing is negotiated without TLS: "prior knowledge", RFC 9113 section 3.3.
            (true, None) => ALPN::H2,
        };
        if upstream.http2 {
            options.max_h2_streams = HTTP2_STREAMS;
            options.h2_ping_interval = Some(HTTP2_PING);
        }
        peer
    }
}

/// The certificates of a PEM file, each checked to be a trust anchor: pingora's parser panics on anything else.
fn load_ca(path: &Path) -> Result<Vec<Vec<u8>>, CaError> {
    let read = |source| CaError::Read {
        path: path.to_owned(),
        source,
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    if certificates.is_empty() {
        return Err(CaError::Empty { path: path.to_owned() });
    }
    for (index, certificate) in certificates.iter().enumerate() {
        rustls::RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|source| CaError::Invalid {
                path: path.to_owned(),
                number: index + 1,
                source,
            })?;
    }
    Ok(certificates
        .into_iter()
        .map(|certificate| certificate.to_vec())
        .collect())
}
