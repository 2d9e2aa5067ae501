//! The edge as pingora sees it: one comment and one call per phase, in the order the phases run.
//!
//! [`Edge`] outlives configurations; [`Generation`] is one configuration; [`RequestContext`] is one request. Read this
//! file first, then `phases/` in the order of its `mod` lines.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora_cache::{CacheKey, CacheMeta, ForcedFreshness, HitHandler, RespCacheable, key::HashBinary};
use pingora_core::{
    apps::HttpServerOptions,
    listeners::{ConnectionFilter, tls::TlsSettings},
    modules::http::HttpModules,
    server::configuration::ServerConf,
    services::listening::Service,
    upstreams::peer::HttpPeer,
};
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyServiceBuilder, ProxyWarnLogContext, Session};
use selvedge_filters::Scheme;
use selvedge_replication::client::Level;
use selvedge_runtime::Runtime;
use tokio::sync::Notify;

use crate::{
    access_log::AccessLogger,
    context::RequestContext,
    door::{self, ConnectionCount, CountBeforeHandshake},
    generation::Generation,
    handler_session::HandlerConnector,
    metrics::{self, Metrics},
    path,
    phases::{admit, arrive, caching, finish, origin, respond},
    pop::Sites,
    response_cache::ResponseCache,
    router::{Find, canonical_host},
    tls::{self, CertificateStores, CertificateWatch},
};

/// Everything that outlives a configuration: sockets' certificates, the cache, the handler runtime, counters, the log.
pub struct Edge {
    generation: ArcSwap<Generation>,
    /// What control lets serve, by host.
    pub(crate) sites: ArcSwap<Sites>,
    /// Control does not hear this PoP: level 5, nothing changes until it does.
    pub(crate) control_lost: AtomicBool,
    /// A generation was swapped in.
    pub(crate) reloaded: Arc<Notify>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) cache: ResponseCache,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: AccessLogger,
    pub(crate) certificates: CertificateStores,
    _certificate_watch: CertificateWatch,
    pub(crate) connections: Arc<ConnectionCount>,
    pub(crate) in_flight: Arc<AtomicUsize>,
    draining: AtomicBool,
    /// Admin listener, health checks, file watching: nothing a request waits for.
    housekeeping: tokio::runtime::Runtime,
}

/// The edge as a pingora application. Cheap to clone; every listener shares one [`Edge`].
#[derive(Clone)]
pub struct EdgeProxy(pub(crate) Arc<Edge>);

#[async_trait]
impl ProxyHttp for EdgeProxy {
    type CTX = RequestContext;

    // The request pins the configuration it will be served by.
    fn new_ctx(&self) -> RequestContext {
        RequestContext::new(&self.0)
    }

    // pingora's own compression would hold back streamed bodies; filters compress.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    // The header is complete: stop its clock, set the timeouts of what follows.
    async fn early_request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<()> {
        arrive::arrive(&self.0, session, context)
    }

    // Refuse what is ambiguous, normalise, find the route, run its filters, answer what needs no upstream.
    async fn request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        admit::admit(&self.0, session, context).await
    }

    // May this request use the cache?
    fn request_cache_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<()> {
        caching::enable(&self.0, session, context);
        Ok(())
    }

    // Which page is it?
    fn cache_key_callback(&self, _session: &Session, context: &mut RequestContext) -> Result<CacheKey> {
        caching::key(context)
    }

    // Which variant of the page?
    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        context: &mut RequestContext,
        request: &RequestHeader,
    ) -> Option<HashBinary> {
        caching::variance(meta, context, request)
    }

    // Something is stored: has it been purged, is it being regenerated, may it be regenerated now?
    async fn cache_hit_filter(
        &self,
        _session: &mut Session,
        meta: &CacheMeta,
        hit: &mut HitHandler,
        is_fresh: bool,
        context: &mut RequestContext,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(caching::judge_hit(&self.0, meta, hit, is_fresh, context))
    }

    // May a stale page be served while it is regenerated (no error), or because regenerating failed (error)?
    fn should_serve_stale(&self, _session: &mut Session, context: &mut RequestContext, error: Option<&Error>) -> bool {
        caching::may_serve_stale(context, error)
    }

    // Who answers: the handler, a server of the upstream, or the fallback?
    async fn upstream_peer(&self, session: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
        origin::choose(&self.0, session, context)
    }

    // It could not be reached: another server, the fallback, or the end?
    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        context: &mut RequestContext,
        error: Box<Error>,
    ) -> Box<Error> {
        origin::after_failed_connect(&self.0, session, context, error)
    }

    // What it is asked: forwarding fields, and for a handler the call itself.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        origin::prepare_request(session, request, context).await
    }

    // How much body it is sent.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut RequestContext,
    ) -> Result<()> {
        origin::meter_request_body(body, context)
    }

    // What it answered, before the cache sees it.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        origin::receive_response(&self.0, session, response, context)
    }

    // How much of a handler's answer is on its way.
    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        if let (Some(upload), Some(body)) = (&context.upload, body) {
            upload.passed_bytes(body.len());
        }
        Ok(None)
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut HeaderMap,
        context: &mut RequestContext,
    ) -> Result<()> {
        if let Some(upload) = &context.upload {
            upload.passed_trailers();
        }
        Ok(())
    }

    // A handler's answer is complete and its request is not: has the client all of it?
    async fn upstream_custom_message_proxy_filter(
        &self,
        session: &mut Session,
        _question: Bytes,
        context: &mut RequestContext,
        _last: bool,
    ) -> Result<Option<Bytes>> {
        respond::end_with_answer(session, context).await?;
        Ok(None)
    }

    // Is the answer stored, and for how long?
    fn response_cache_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        context: &mut RequestContext,
    ) -> Result<RespCacheable> {
        Ok(caching::admit_response(&self.0, session, response, context))
    }

    // What the client sees, hit or miss.
    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        respond::decorate(session, response, context)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        _context: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        respond::drop_body_of_head(session, body);
        Ok(None)
    }

    // It failed while answering: again, the fallback, or the end?
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut RequestContext,
        reused: bool,
    ) -> Box<Error> {
        origin::after_failed_exchange(&self.0, session, context, error, reused)
    }

    // Nobody answered: the route's error page.
    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut RequestContext) -> FailToProxy {
        respond::error_page(session, error, context).await
    }

    // Always last: metrics, access log, back-off of regenerations.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut RequestContext) {
        finish::finish(&self.0, session, error, context);
    }

    // The access log and the metrics say it once, with its reason; pingora would say it again without.
    fn suppress_error_log(&self, _session: &Session, _context: &RequestContext, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _context: &RequestContext,
        _error: &Error,
        _about: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// Why a configuration could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot read {path}")]
    Read {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    /// Rendered diagnostics, one per mistake.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}: restart the process to change it")]
    NeedsRestart(&'static str),
    #[error("cannot start the handler runtime")]
    Runtime(#[source] selvedge_runtime::StartError),
    #[error("cannot start the server's threads")]
    Threads(#[source] std::io::Error),
    #[error("cannot use the folder {path}")]
    Folder {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("cannot follow control")]
    Pop(#[source] crate::pop::PopError),
    #[error("cannot open the access log")]
    AccessLog(#[source] std::io::Error),
}

impl Edge {
    /// Reads and builds the configuration at `path`, completely: components are compiled, databases open.
    pub fn open(path: &Path) -> Result<Arc<Edge>, OpenError> {
        crate::open::open(path)
    }

    /// The edge as a service for any pingora server; add listeners to it and run it.
    pub fn service(self: &Arc<Self>, conf: &Arc<ServerConf>) -> Service<HttpProxy<EdgeProxy, HandlerConnector>> {
        let limits = self.generation().document.config.limits.clone();
        let mut options = HttpServerOptions::default();
        options.force_custom = true;
        options.keepalive_request_limit = Some(limits.requests_per_connection);
        options.h2_idle_timeout = Some(limits.keepalive);
        let connections = door::http1_loop(limits, Arc::clone(&self.connections));
        let mut service = ProxyServiceBuilder::new(conf, EdgeProxy(Arc::clone(self)))
            .name("selvedge")
            .custom(HandlerConnector, connections)
            .server_options(options)
            .build();
        // Both hold for the listeners that are added from here on.
        let count = Arc::clone(&self.connections);
        service.set_connection_filter(Arc::clone(&count) as Arc<dyn ConnectionFilter>);
        service
            .endpoints()
            .set_pre_tls_callback(Arc::new(CountBeforeHandshake(count)));
        service
    }

    /// The configuration that serves requests arriving now.
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Builds the configuration at `path` and, only if all of it builds, swaps it in. Returns its number.
    pub fn reload(&self, path: &Path) -> Result<u64, OpenError> {
        let outcome = crate::open::reload(self, path);
        self.metrics.reloaded(outcome.is_ok());
        outcome
    }

    /// It, and what control has let serve.
    pub(crate) fn generations(&self) -> Vec<Arc<Generation>> {
        let mut generations = vec![self.generation()];
        generations.extend(self.sites.load().serving());
        generations
    }

    pub(crate) fn swap(&self, next: Generation) -> u64 {
        let number = next.number;
        self.generation.store(Arc::new(next));
        self.reloaded.notify_one();
        number
    }

    /// Why this PoP should get no traffic now; empty when it should.
    pub fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.is_draining() {
            reasons.push("draining".to_owned());
        }
        let degraded: BTreeSet<String> = self
            .generations()
            .iter()
            .flat_map(|generation| generation.degraded())
            .collect();
        reasons.extend(degraded);
        reasons
    }

    pub(crate) fn is_control_lost(&self) -> bool {
        self.control_lost.load(Ordering::Relaxed)
    }

    /// The worst level of any database.
    pub(crate) fn level(&self) -> Level {
        let levels = self.generations().into_iter().map(|generation| generation.level());
        levels.max().unwrap_or(Level::Normal)
    }

    /// Removes the stored page of an absolute URL, with all its variants, and any fill of it under way. `soft` keeps it
    /// as a stale copy. `Ok(true)` when something was stored; the error says why the URL has no page.
    pub fn purge_url(&self, url: &str, soft: bool) -> Result<bool, String> {
        Ok(self.purge(&self.pages(url)?, soft))
    }

    /// Whether something was stored.
    pub(crate) fn purge(&self, pages: &[CacheKey], soft: bool) -> bool {
        let found = pages.iter().map(|page| self.cache.purge(page, soft));
        found.fold(false, |any, found| any | found)
    }

    /// The pages of an absolute URL, whether stored or not: one, or one of each version of the app that has the host. The
    /// error says why there is none.
    pub(crate) fn pages(&self, url: &str) -> Result<Vec<CacheKey>, String> {
        let url: http::Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let scheme = match url.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err("the URL begins with http:// or https://".to_owned()),
        };
        let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let host = canonical_host(authority).ok_or("the URL has no valid host")?;
        let path = path::normalise(url.path().as_bytes()).map_err(|refusal| refusal.to_string())?;
        let target = match url.query() {
            Some(query) => format!("{}?{query}", path.as_str()),
            None => path.as_str().to_owned(),
        };
        let target: http::Uri = target.parse().map_err(|error| format!("not a URL: {error}"))?;
        let mut why = "no route answers it".to_owned();
        let mut pages = Vec::new();
        for generation in self.sites.load().at(&host).unwrap_or_else(|| vec![self.generation()]) {
            let Find::Route(index) = generation.routing.find(&host, &http::Method::GET, target.path()) else {
                continue;
            };
            let route = &generation.routes[index];
            match &route.cache {
                Some(cache) => pages.push(caching::key_of(cache, scheme, &host, &target)),
                None => why = format!("its route, {}, has no cache", route.name),
            }
        }
        match pages.is_empty() {
            true => Err(why),
            false => Ok(pages),
        }
    }

    /// Metrics in the text format of Prometheus.
    pub fn render_metrics(&self) -> String {
        metrics::render(self)
    }

    /// What pingora needs for the TLS listener at this position of the configuration; `None` for a plain one.
    pub fn tls_settings(&self, listener: usize) -> Option<TlsSettings> {
        self.certificates
            .get(listener)
            .map(|store| tls::tls_settings(Arc::clone(store)))
    }

    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn requests_in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn housekeeping(&self) -> &tokio::runtime::Handle {
        self.housekeeping.handle()
    }

    pub(crate) fn new(parts: EdgeParts) -> Arc<Edge> {
        Arc::new(Edge {
            connections: ConnectionCount::new(&parts.generation.document.config.limits),
            generation: ArcSwap::from_pointee(parts.generation),
            sites: ArcSwap::default(),
            control_lost: AtomicBool::new(false),
            reloaded: Arc::default(),
            runtime: parts.runtime,
            cache: parts.cache,
            metrics: parts.metrics,
            access_log: parts.access_log,
            certificates: parts.certificates,
            _certificate_watch: parts.certificate_watch,
            in_flight: Arc::default(),
            draining: AtomicBool::new(false),
            housekeeping: parts.housekeeping,
        })
    }

    /// Flushes the access log. Requests that still run lose their log line after this.
    pub fn close(&self) {
        self.access_log.flush();
    }
}

/// What [`crate::open`] assembles an edge from.
pub(crate) struct EdgeParts {
    pub(crate) generation: Generation,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) cache: ResponseCache,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: AccessLogger,
    pub(crate) certificates: CertificateStores,
    pub(crate) certificate_watch: CertificateWatch,
    pub(crate) housekeeping: tokio::runtime::Runtime,
}
