//! One server of an upstream: its addresses, its health and the requests it is answering.
//!
//! A server outlives configurations: a reload that keeps its address hands the same value on, so nothing about it is
//! forgotten. What the configuration says about it (weight, backup, rules) is therefore not kept here.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::health::{Change, Event, Health, Rules};

#[derive(Debug)]
pub(super) struct ServerState {
    /// `host:port` as configured.
    pub(super) address: String,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What the host resolved to last; empty when it never did. Such a server is never picked.
    resolved: ArcSwap<Vec<SocketAddr>>,
    /// Which of them is used first: moves on when connecting fails, so that a name with one dead address works.
    preferred: AtomicUsize,
    in_flight: AtomicUsize,
    health: Mutex<Health>,
}

impl ServerState {
    /// `None` when `address` is not `host:port`. Its name is not looked up yet.
    pub(super) fn new(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return None;
        }
        Some(Self {
            address: address.to_owned(),
            host: host.to_owned(),
            port,
            resolved: ArcSwap::default(),
            preferred: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            health: Mutex::default(),
        })
    }

    /// True when the host is a name, which may resolve differently tomorrow.
    pub(super) fn is_named(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// Looks the name up, which blocks. A failed lookup keeps the addresses known so far: a name server that is down
    /// must not take the upstream with it.
    pub(super) fn resolve(&self) {
        match (self.host.as_str(), self.port).to_socket_addrs() {
            Ok(found) => self.set_resolved(found.collect()),
            Err(error) if self.resolved.load().is_empty() => {
                tracing::warn!(server = %self.address, %error, "name does not resolve; the server gets no requests");
            }
            Err(error) => {
                tracing::warn!(server = %self.address, %error, "name does not resolve now; keeping its last addresses");
            }
        }
    }

    fn set_resolved(&self, mut found: Vec<SocketAddr>) {
        // One order whatever the name server's rotation, so that the preferred address stays the same one. IPv4 first:
        // it is the family that servers behind an edge listen on.
        found.sort_by_key(|address| (address.is_ipv6(), *address));
        found.dedup();
        if found.is_empty() || **self.resolved.load() == found {
            return;
        }
        let known_before = !self.resolved.load().is_empty();
        if known_before && self.is_named() {
            tracing::info!(server = %self.address, addresses = ?found, "name resolves differently now");
        }
        self.preferred.store(0, Ordering::Relaxed);
        self.resolved.store(Arc::new(found));
    }

    pub(super) fn resolved(&self) -> Arc<Vec<SocketAddr>> {
        self.resolved.load_full()
    }

    /// The address for a request that has tried this server `tries` times already; `None` when it has tried them all.
    pub(super) fn address_after(&self, tries: usize) -> Option<SocketAddr> {
        let resolved = self.resolved.load();
        if tries >= resolved.len() {
            return None;
        }
        resolved
            .get((self.preferred.load(Ordering::Relaxed) + tries) % resolved.len())
            .copied()
    }

    /// Connecting to `failed` failed: the next request starts with another address, if there is one.
    pub(super) fn avoid(&self, failed: SocketAddr) {
        let resolved = self.resolved.load();
        if let Some(position) = resolved.iter().position(|address| *address == failed) {
            let next = (position + 1) % resolved.len();
            let current = self.preferred.load(Ordering::Relaxed);
            if current % resolved.len() == position {
                // Lost races are fine: then somebody else moved on already.
                let _ = self
                    .preferred
                    .compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn is_up(&self, now: Instant) -> bool {
        !self.resolved.load().is_empty() && self.health.lock().is_up(now)
    }

    pub(super) fn consecutive_failures(&self) -> u32 {
        self.health.lock().consecutive_failures()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn adapt(&self, rules: Rules) {
        self.health.lock().adapt(rules);
    }

    /// Takes evidence in and logs what it changes. `why` explains a failure.
    pub(super) fn observe(&self, upstream: &str, event: Event, rules: Rules, why: &str) {
        let change = self.health.lock().observe(event, rules, Instant::now());
        match change {
            Some(Change::Down) => {
                tracing::warn!(upstream, server = %self.address, reason = why, "server is unhealthy; it gets no requests");
            }
            Some(Change::Up) => tracing::info!(upstream, server = %self.address, "server is healthy again"),
            None => {}
        }
    }
}

/// One request being answered by one server. Dropping it says that the request is over.
#[derive(Debug)]
pub(crate) struct InFlight {
    server: Arc<ServerState>,
    upstream: Arc<str>,
    rules: Rules,
    address: SocketAddr,
}

impl InFlight {
    pub(super) fn new(server: Arc<ServerState>, upstream: Arc<str>, rules: Rules, address: SocketAddr) -> Self {
        server.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            server,
            upstream,
            rules,
            address,
        }
    }

    /// A response header came: the server is alive.
    pub(crate) fn answered(&self) {
        self.server.observe(&self.upstream, Event::Answered, self.rules, "");
    }

    /// No answer came, and the server is to blame: no connection, or it broke or stayed silent too long.
    pub(crate) fn failed(&self) {
        self.server.avoid(self.address);
        self.server
            .observe(&self.upstream, Event::Failed, self.rules, "requests fail");
    }

    /// `host:port` as configured.
    pub(crate) fn server(&self) -> &str {
        &self.server.address
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.server.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |address: &str, expected: Option<(&str, u16, bool)>| {
            let state = ServerState::new(address);
            let seen = state.as_ref().map(|s| (s.host.as_str(), s.port, s.is_named()));
            assert_eq!(seen, expected, "{address}");
        };
        check("127.0.0.1:80", Some(("127.0.0.1", 80, false)));
        check("[::1]:8080", Some(("::1", 8080, false)));
        check("localhost:1", Some(("localhost", 1, true)));
        check("localhost", None);
        check(":80", None);
        check("localhost:http", None);
        check("localhost:65536", None);
    }

    #[test]
    fn a_failed_address_is_avoided_by_this_request_and_the_next() {
        let [a, b] = ["127.0.0.1:9", "[::1]:9"].map(|address| address.parse::<SocketAddr>().unwrap());
        let state = ServerState::new("127.0.0.1:9").unwrap();
        state.set_resolved(vec![b, a]);
        assert_eq!(
            [0, 1, 2].map(|tries| state.address_after(tries)),
            [Some(a), Some(b), None]
        );
        state.avoid(a);
        state.avoid(a);
        assert_eq!(
            [0, 1, 2].map(|tries| state.address_after(tries)),
            [Some(b), Some(a), None]
        );
        state.avoid(b);
        assert_eq!(state.address_after(0), Some(a));
    }

    #[test]
    fn a_name_that_never_resolved_is_down() {
        let state = ServerState::new("no-such-host.invalid:80").unwrap();
        state.resolve();
        assert!(!state.is_up(Instant::now()));
        assert_eq!(state.address_after(0), None);
        state.set_resolved(vec!["127.0.0.1:80".parse().unwrap()]);
        assert!(state.is_up(Instant::now()));
        state.resolve();
        assert!(state.is_up(Instant::now()), "a failed lookup keeps what is known");
    }
}
