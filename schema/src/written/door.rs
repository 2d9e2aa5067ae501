//! Listeners, TLS, administration, limits at the door, shutdown, access log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{positive, resolve, size};
use crate::config;
use crate::text::{ByteSize, HostName, PositiveDuration, Text};

/// An address to listen on, in plain HTTP or with TLS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// IP address and port.
    address: Text<SocketAddr>,
    /// Certificates; without them the listener speaks plain HTTP.
    tls: Option<Tls>,
}

impl Listener {
    pub(super) fn into_used(self, base: &Path) -> config::Listener {
        config::Listener {
            address: self.address.0,
            tls: self.tls.map(|tls| tls.into_used(base)),
        }
    }
}

/// Certificates of a listener. The one for a connection is chosen by the name the client asks for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// Certificate files; read again when they change.
    #[serde(default)]
    certificates: Vec<CertificateFiles>,
    /// Names for a certificate that is made once and kept in `data_dir`. For development.
    #[serde(default)]
    self_signed: Vec<Text<HostName>>,
    /// The oldest protocol version that is spoken.
    #[serde(default)]
    min_version: TlsVersion,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateFiles {
    /// The chain, leaf first.
    cert: PathBuf,
    /// The private key.
    key: PathBuf,
}

impl CertificateFiles {
    pub(super) fn into_used(self, base: &Path) -> config::CertificateFiles {
        config::CertificateFiles {
            cert: resolve(base, self.cert),
            key: resolve(base, self.key),
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

impl Tls {
    fn into_used(self, base: &Path) -> config::Tls {
        let files = |files: CertificateFiles| files.into_used(base);
        config::Tls {
            certificates: self.certificates.into_iter().map(files).collect(),
            self_signed: self.self_signed.into_iter().map(|name| name.0.0).collect(),
            min_version: match self.min_version {
                TlsVersion::Tls12 => config::TlsVersion::Tls12,
                TlsVersion::Tls13 => config::TlsVersion::Tls13,
            },
        }
    }
}

/// The administration listener.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// IP address and port; a loopback address needs no token.
    address: Text<SocketAddr>,
    /// Bearer token for every request; required unless the address is a loopback address.
    #[schemars(length(min = 1))]
    token: Option<String>,
}

impl Admin {
    pub(super) fn into_used(self) -> config::Admin {
        config::Admin {
            address: self.address.0,
            token: self.token,
        }
    }
}

/// The token is not shown.
impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Limits for every client.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DoorLimits {
    /// From the first byte of a request's head to its last.
    header_timeout: Text<PositiveDuration>,
    /// How long a connection may be idle between requests.
    keepalive: Text<PositiveDuration>,
    /// Longest pause while a request body arrives.
    body_timeout: Text<PositiveDuration>,
    /// Size of a request's head.
    header_bytes: Text<ByteSize>,
    /// Size of a request body; a handler may allow less.
    body_bytes: Text<ByteSize>,
    /// Connections at the same time.
    #[schemars(range(min = 1))]
    connections: usize,
    /// Connections at the same time from one address.
    #[schemars(range(min = 1))]
    connections_per_address: usize,
    /// Requests on one connection before it is closed.
    #[schemars(range(min = 1))]
    requests_per_connection: u32,
}

impl Default for DoorLimits {
    fn default() -> Self {
        let used = config::DoorLimits::default();
        Self {
            header_timeout: positive(used.header_timeout),
            keepalive: positive(used.keepalive),
            body_timeout: positive(used.body_timeout),
            header_bytes: size(used.header_bytes),
            body_bytes: size(used.body_bytes),
            connections: used.connections,
            connections_per_address: used.connections_per_address,
            requests_per_connection: used.requests_per_connection,
        }
    }
}

impl DoorLimits {
    pub(super) fn into_used(self) -> config::DoorLimits {
        config::DoorLimits {
            header_timeout: self.header_timeout.0.0,
            keepalive: self.keepalive.0.0,
            body_timeout: self.body_timeout.0.0,
            header_bytes: self.header_bytes.0.0,
            body_bytes: self.body_bytes.0.0,
            connections: self.connections,
            connections_per_address: self.connections_per_address,
            requests_per_connection: self.requests_per_connection,
        }
    }
}

/// How the process ends after SIGTERM.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    /// From "not ready" to the moment the listeners close, so that a load balancer can look away first.
    delay: Text<Duration>,
    /// How long requests under way may take after that.
    grace: Text<Duration>,
}

impl Default for Shutdown {
    fn default() -> Self {
        let used = config::Shutdown::default();
        Self {
            delay: Text(used.delay),
            grace: Text(used.grace),
        }
    }
}

impl Shutdown {
    pub(super) fn into_used(self) -> config::Shutdown {
        config::Shutdown {
            delay: self.delay.0,
            grace: self.grace.0,
        }
    }
}

/// `off`, `stdout`, `stderr` or `{ file: access.log }`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AccessLog {
    Off,
    #[default]
    Stdout,
    Stderr,
    File(PathBuf),
}

impl AccessLog {
    pub(super) fn into_used(self, base: &Path) -> config::AccessLog {
        match self {
            AccessLog::Off => config::AccessLog::Off,
            AccessLog::Stdout => config::AccessLog::Stdout,
            AccessLog::Stderr => config::AccessLog::Stderr,
            AccessLog::File(path) => config::AccessLog::File(resolve(base, path)),
        }
    }
}
