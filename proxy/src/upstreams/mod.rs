//! Upstreams: groups of servers that answer alike, of which each request gets one.
//!
//! Invariants: a request never gets the same address twice; an unhealthy server gets none while any other server is
//! healthy; backups get none while another server is healthy and untried; when nothing is healthy everything is tried,
//! because a wrong opinion about health must not be an outage.

mod balance;
mod check;
mod health;
mod peer;
mod server;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use pingora_core::upstreams::peer::HttpPeer;
use selvedge_schema::Upstream;

use balance::{Balancer, Candidate};
use health::Rules;
use peer::PeerSettings;
use server::ServerState;

pub(crate) use check::UpstreamWatch;
pub(crate) use peer::CaError;
pub(crate) use server::InFlight;

/// Position of a server in its upstream's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ServerIndex(pub(crate) usize);

/// One upstream of one configuration. Cheap to ask, safe from all threads.
#[derive(Debug)]
pub(crate) struct UpstreamSet {
    name: Arc<str>,
    config: Upstream,
    rules: Rules,
    /// In the order of the configuration, as are `peers`.
    servers: Vec<Arc<ServerState>>,
    peers: Vec<HttpPeer>,
    balancer: Balancer,
}

/// The server for one attempt of one request.
#[derive(Debug)]
pub(crate) struct Picked {
    /// To be added to `tried` before the next attempt.
    pub(crate) server: ServerIndex,
    pub(crate) peer: HttpPeer,
    /// To be kept until the response is over, and told what became of the request.
    pub(crate) in_flight: InFlight,
    pub(crate) reason: PickReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PickReason {
    /// A healthy server that is not a backup.
    Healthy,
    /// No other server was healthy and untried.
    Backup,
    /// No server at all is healthy.
    FailOpen,
}

/// A server as `/routes` and the metrics show it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ServerStatus {
    pub(crate) address: String,
    pub(crate) resolved: Vec<SocketAddr>,
    pub(crate) weight: u32,
    pub(crate) backup: bool,
    pub(crate) healthy: bool,
    pub(crate) in_flight: usize,
    pub(crate) consecutive_failures: u32,
}

/// An upstream that cannot be used. A name that does not resolve is no such thing: see [`ServerStatus::healthy`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("upstream {upstream}: {address:?} is not host:port")]
    Address { upstream: String, address: String },
    #[error("upstream {upstream}")]
    Ca {
        upstream: String,
        #[source]
        source: CaError,
    },
}

impl UpstreamSet {
    /// Servers that `previous` has too keep their health and their count of requests. Looks names up and reads files,
    /// which blocks; nothing runs in the background before [`UpstreamSet::watch`].
    pub(crate) fn build(
        name: &str,
        config: &Upstream,
        previous: Option<&UpstreamSet>,
    ) -> Result<Arc<UpstreamSet>, UpstreamError> {
        let settings = PeerSettings::load(name, config).map_err(|source| UpstreamError::Ca {
            upstream: name.to_owned(),
            source,
        })?;
        let rules = match &config.health_check {
            Some(check) => Rules::Checked {
                healthy: check.healthy.max(1),
                unhealthy: check.unhealthy.max(1),
            },
            None => Rules::Unchecked,
        };
        let mut known: HashMap<&str, Arc<ServerState>> = previous
            .map(|set| {
                set.servers
                    .iter()
                    .map(|server| (server.address.as_str(), server.clone()))
                    .collect()
            })
            .unwrap_or_default();
        let mut servers = Vec::with_capacity(config.servers.len());
        for server in &config.servers {
            let state = match known.remove(server.address.as_str()) {
                Some(state) => state,
                None => Arc::new(ServerState::new(&server.address).ok_or_else(|| UpstreamError::Address {
                    upstream: name.to_owned(),
                    address: server.address.clone(),
                })?),
            };
            if state.resolved().is_empty() {
                state.resolve();
            }
            state.adapt(rules);
            servers.push(state);
        }
        Ok(Arc::new(UpstreamSet {
            name: name.into(),
            rules,
            peers: servers
                .iter()
                .map(|server| settings.template(config, &server.host))
                .collect(),
            servers,
            balancer: Balancer::new(config.balance, &config.servers),
            config: config.clone(),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Further attempts after a failed one.
    pub(crate) fn retries(&self) -> u32 {
        self.config.retries
    }

    /// `Host` as sent to the upstream; `None` passes the client's on.
    pub(crate) fn host(&self) -> Option<&str> {
        self.config.host.as_deref()
    }

    /// The server for the next attempt of a request. `tried` holds one entry for each attempt before; a server whose
    /// name has several addresses may be in it more than once, and gets the request at another address. `None` when
    /// nothing is left. `hash_key` decides only under consistent hashing.
    pub(crate) fn pick(&self, hash_key: &[u8], tried: &[ServerIndex]) -> Option<Picked> {
        let now = Instant::now();
        let tries = |index: usize| tried.iter().filter(|server| server.0 == index).count();
        let healthy: Vec<bool> = self.servers.iter().map(|server| server.is_up(now)).collect();
        let anyone_healthy = healthy.contains(&true);
        let candidates = |wanted: &dyn Fn(usize) -> bool| -> Vec<Candidate> {
            let left = |index: &usize| self.servers[*index].address_after(tries(*index)).is_some();
            (0..self.servers.len())
                .filter(|index| wanted(*index))
                .filter(left)
                .map(|i| self.candidate(i))
                .collect()
        };
        let backup = |index: usize| self.config.servers[index].backup;
        // Best first; a server tried before (at another address) comes after all that were not.
        let tiers: [(PickReason, &dyn Fn(usize) -> bool); 6] = [
            (PickReason::Healthy, &|i| healthy[i] && !backup(i) && tries(i) == 0),
            (PickReason::Backup, &|i| healthy[i] && backup(i) && tries(i) == 0),
            (PickReason::Healthy, &|i| healthy[i] && !backup(i)),
            (PickReason::Backup, &|i| healthy[i]),
            (PickReason::FailOpen, &|i| !anyone_healthy && !backup(i)),
            (PickReason::FailOpen, &|_| !anyone_healthy),
        ];
        tiers.into_iter().find_map(|(reason, wanted)| {
            let index = self.balancer.choose(&candidates(wanted), hash_key)?;
            let server = &self.servers[index];
            let address = server.address_after(tries(index))?;
            let mut peer = self.peers[index].clone();
            peer._address = address.into();
            let in_flight = InFlight::new(server.clone(), self.name.clone(), self.rules, address);
            Some(Picked {
                server: ServerIndex(index),
                peer,
                in_flight,
                reason,
            })
        })
    }

    fn candidate(&self, index: usize) -> Candidate {
        Candidate {
            index,
            weight: self.config.servers[index].weight.max(1),
            in_flight: self.servers[index].in_flight(),
        }
    }

    /// All servers, in the order of the configuration.
    pub(crate) fn describe(&self) -> Vec<ServerStatus> {
        let now = Instant::now();
        let status = |(server, config): (&Arc<ServerState>, &selvedge_schema::Server)| ServerStatus {
            address: server.address.clone(),
            resolved: server.resolved().to_vec(),
            weight: config.weight,
            backup: config.backup,
            healthy: server.is_up(now),
            in_flight: server.in_flight(),
            consecutive_failures: server.consecutive_failures(),
        };
        self.servers.iter().zip(&self.config.servers).map(status).collect()
    }
}

#[cfg(test)]
mod tests;
