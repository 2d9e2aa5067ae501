//! Legacy backends.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{positive, resolve};
use crate::config;
use crate::text::{HostName, PositiveDuration, RequestPath, ServerAddress, Text};

/// A legacy backend: one or more servers that answer alike.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    /// The servers.
    #[schemars(length(min = 1))]
    servers: Vec<Server>,
    /// How a server is chosen.
    #[serde(default)]
    balance: Balance,
    /// A request every server has to answer from time to time.
    health_check: Option<HealthCheck>,
    /// How long to wait for a server.
    #[serde(default)]
    timeouts: Timeouts,
    /// Further attempts after a failed one; idempotent requests only.
    #[serde(default = "retries")]
    #[schemars(range(max = 10))]
    retries: u32,
    /// `true`, or settings, to speak TLS to the servers.
    #[serde(default)]
    tls: UpstreamTls,
    /// Speak HTTP/2 to the servers; needed for gRPC.
    #[serde(default)]
    http2: bool,
    /// `Host` to send; without it the client's is passed on.
    host: Option<Text<HostName>>,
}

fn retries() -> u32 {
    1
}

impl Upstream {
    pub(super) fn into_used(self, base: &Path) -> config::Upstream {
        config::Upstream {
            servers: self.servers.into_iter().map(Server::into_used).collect(),
            balance: match self.balance {
                Balance::RoundRobin => config::Balance::RoundRobin,
                Balance::Random => config::Balance::Random,
                Balance::LeastConnections => config::Balance::LeastConnections,
                Balance::ConsistentHash => config::Balance::ConsistentHash,
            },
            health_check: self.health_check.map(HealthCheck::into_used),
            timeouts: self.timeouts.into_used(),
            retries: self.retries,
            tls: self.tls.into_used(base),
            http2: self.http2,
            host: self.host.map(|host| host.0.0),
        }
    }
}

/// One server of an upstream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Server {
    /// Host and port.
    address: Text<ServerAddress>,
    /// Share of the requests, relative to the other servers.
    #[serde(default = "weight")]
    #[schemars(range(min = 1, max = 65535))]
    weight: u32,
    /// Used only when no other server is healthy.
    #[serde(default)]
    backup: bool,
}

fn weight() -> u32 {
    1
}

impl Server {
    fn into_used(self) -> config::Server {
        config::Server {
            address: self.address.0.0,
            weight: self.weight,
            backup: self.backup,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Balance {
    #[default]
    RoundRobin,
    Random,
    LeastConnections,
    ConsistentHash,
}

/// `GET path` on every server; a 2xx or 3xx in time is a success.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HealthCheck {
    /// Path to request.
    path: Text<RequestPath>,
    /// From one check to the next.
    #[serde(default = "interval")]
    interval: Text<PositiveDuration>,
    /// How long an answer may take.
    #[serde(default = "timeout")]
    timeout: Text<PositiveDuration>,
    /// Successes in a row that bring a server back.
    #[serde(default = "healthy")]
    #[schemars(range(min = 1))]
    healthy: u32,
    /// Failures in a row that take a server out.
    #[serde(default = "unhealthy")]
    #[schemars(range(min = 1))]
    unhealthy: u32,
}

fn interval() -> Text<PositiveDuration> {
    positive(std::time::Duration::from_secs(5))
}

fn timeout() -> Text<PositiveDuration> {
    positive(std::time::Duration::from_secs(2))
}

fn healthy() -> u32 {
    2
}

fn unhealthy() -> u32 {
    3
}

impl HealthCheck {
    fn into_used(self) -> config::HealthCheck {
        config::HealthCheck {
            path: self.path.0.0,
            interval: self.interval.0.0,
            timeout: self.timeout.0.0,
            healthy: self.healthy,
            unhealthy: self.unhealthy,
        }
    }
}

/// How long to wait for a server.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Timeouts {
    /// Until the connection stands, TLS included.
    connect: Text<PositiveDuration>,
    /// Longest pause while a response arrives.
    read: Text<PositiveDuration>,
    /// Longest pause while a request is sent.
    write: Text<PositiveDuration>,
    /// How long an unused connection is kept.
    idle: Text<PositiveDuration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        let used = config::Timeouts::default();
        Self {
            connect: positive(used.connect),
            read: positive(used.read),
            write: positive(used.write),
            idle: positive(used.idle),
        }
    }
}

impl Timeouts {
    fn into_used(self) -> config::Timeouts {
        config::Timeouts {
            connect: self.connect.0.0,
            read: self.read.0.0,
            write: self.write.0.0,
            idle: self.idle.0.0,
        }
    }
}

/// `true`, `false` or settings.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum UpstreamTls {
    Flag(bool),
    Settings(TlsSettings),
}

/// TLS to the servers with settings.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TlsSettings {
    /// Name to ask for and to find in the certificate; without it the server's address.
    server_name: Option<Text<HostName>>,
    /// PEM file of the authorities to believe; without it the system's.
    ca: Option<PathBuf>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        UpstreamTls::Flag(false)
    }
}

impl UpstreamTls {
    fn into_used(self, base: &Path) -> Option<config::UpstreamTls> {
        match self {
            UpstreamTls::Flag(false) => None,
            UpstreamTls::Flag(true) => Some(config::UpstreamTls::default()),
            UpstreamTls::Settings(settings) => Some(config::UpstreamTls {
                server_name: settings.server_name.map(|name| name.0.0),
                ca: settings.ca.map(|path| resolve(base, path)),
            }),
        }
    }
}
