//! What happens to an upstream between requests: active health checks, and names looked up again.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use selvedge_schema::HealthCheck;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::UpstreamSet;
use super::health::Event;
use super::server::ServerState;

/// How often names are looked up again. The time to live of the answer is not visible through the system's resolver;
/// thirty seconds is what service discovery by DNS commonly uses for it.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// The background work of one [`UpstreamSet`]. Dropping it, after a reload, ends the work.
#[derive(Debug)]
pub(crate) struct UpstreamWatch {
    _tasks: JoinSet<()>,
}

/// Health checks have connections of their own: one that is established for each check, as an established one can
/// outlive the server's ability to accept.
static CONNECTOR: LazyLock<Connector> = LazyLock::new(|| Connector::new(None));

impl UpstreamSet {
    /// Starts the checks on `runtime`; the first one of each server at once.
    pub(crate) fn watch(&self, runtime: &Handle) -> UpstreamWatch {
        let mut tasks = JoinSet::new();
        if let Some(check) = &self.config.health_check {
            for (server, template) in self.servers.iter().zip(&self.peers) {
                let host = self.config.host.clone().unwrap_or_else(|| server.address.clone());
                let prober = Prober {
                    upstream: self.name.clone(),
                    server: server.clone(),
                    peer: check_peer(template, check),
                    check: check.clone(),
                    host,
                    rules: self.rules,
                };
                tasks.spawn_on(prober.run(), runtime);
            }
        }
        let named: Vec<_> = self
            .servers
            .iter()
            .filter(|server| server.is_named())
            .cloned()
            .collect();
        if !named.is_empty() {
            tasks.spawn_on(resolve_again(named), runtime);
        }
        UpstreamWatch { _tasks: tasks }
    }
}

/// The peer of the requests, but with a connection of its own that carries this one check.
fn check_peer(template: &HttpPeer, check: &HealthCheck) -> HttpPeer {
    let mut peer = template.clone();
    peer.options.connection_timeout = Some(check.timeout);
    peer.options.total_connection_timeout = Some(check.timeout);
    peer.options.max_h2_streams = 1;
    peer.options.h2_ping_interval = None;
    peer
}

async fn resolve_again(servers: Vec<Arc<ServerState>>) {
    loop {
        tokio::time::sleep(jittered(RESOLVE_INTERVAL)).await;
        for server in &servers {
            let server = server.clone();
            // A panic in there would be ours; the next round then simply tries again.
            let _ = tokio::task::spawn_blocking(move || server.resolve()).await;
        }
    }
}

/// 90 to 110 % of `interval`, so that several edges and several servers do not check in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

struct Prober {
    upstream: Arc<str>,
    server: Arc<ServerState>,
    peer: HttpPeer,
    check: HealthCheck,
    host: String,
    rules: super::health::Rules,
}

impl Prober {
    async fn run(mut self) {
        loop {
            // A name that does not resolve is down for that reason; there is nothing to check.
            if let Some(address) = self.server.address_after(0) {
                self.peer._address = address.into();
                match tokio::time::timeout(self.check.timeout, self.probe()).await {
                    Ok(Ok(())) => self.observe(Event::CheckPassed, ""),
                    Ok(Err(error)) => self.failed(address, &error.to_string()),
                    Err(_) => self.failed(address, &format!("no answer within {:?}", self.check.timeout)),
                }
            }
            tokio::time::sleep(jittered(self.check.interval)).await;
        }
    }

    fn failed(&self, address: std::net::SocketAddr, why: &str) {
        tracing::debug!(upstream = %self.upstream, server = %self.server.address, %address, why, "health check failed");
        self.server.avoid(address);
        self.observe(Event::CheckFailed, why);
    }

    fn observe(&self, event: Event, why: &str) {
        self.server.observe(&self.upstream, event, self.rules, why);
    }

    /// One request; an answer of 2xx or 3xx is a success. The body is not read.
    async fn probe(&self) -> Result<()> {
        let (mut session, _) = CONNECTOR.get_http_session(&self.peer).await?;
        let mut request = RequestHeader::build("GET", self.check.path.as_bytes(), None)?;
        request.insert_header("host", self.host.as_str())?;
        request.insert_header("user-agent", "selvedge-health-check")?;
        session.write_request_header(Box::new(request)).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |response| response.status.as_u16());
        session.shutdown().await;
        match status {
            200..400 => Ok(()),
            _ => Error::e_explain(ErrorType::HTTPStatus(status), "the health check wants 2xx or 3xx"),
        }
    }
}
