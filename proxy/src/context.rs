//! What one request carries from its first phase to its last.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderValue, Uri};
use pingora_cache::key::HashBinary;
use selvedge_filters::{Client, FilterState};
use selvedge_replication::bookmark::Brought;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    edge::Edge,
    fail::Verdict,
    generation::{BuiltRoute, BuiltTarget, Generation},
    upload::Upload,
    upstreams::{Picked, ServerIndex, UpstreamSet},
};

/// State of one request; pingora's `CTX`.
///
/// The generation is pinned when the request's host is known, before anything is decided: from then to its last phase a
/// request sees one routing table, whatever is reloaded or deployed meanwhile.
pub struct RequestContext {
    pub(crate) started: Instant,
    pub(crate) arrived: SystemTime,
    pub(crate) generation: Arc<Generation>,
    /// Nothing can be deployed or configured: see [`Edge::is_control_lost`].
    pub(crate) control_lost: bool,
    /// What the client shall remember of the choice among an app's versions.
    pub(crate) cookies: Vec<HeaderValue>,
    /// A regeneration of a stale page that pingora started in the background; it has no client.
    pub(crate) background: bool,
    /// Its place among the regenerations that may run at the same time.
    pub(crate) regeneration: Option<OwnedSemaphorePermit>,
    pub(crate) client: Client,
    /// Canonical host: lower case, without port and trailing dot.
    pub(crate) host: String,
    /// Host and port as the client addressed them.
    pub(crate) authority: String,
    /// Path and query as the client sent them, for the log.
    pub(crate) requested: String,
    /// What the client asked for, normalised, before any filter rewrote it: the page, whoever makes it.
    pub(crate) page_target: Uri,
    pub(crate) route: Option<usize>,
    pub(crate) filter_state: FilterState,
    /// How many of the route's filters saw the request; exactly these see the response.
    pub(crate) filters_entered: usize,
    pub(crate) attempt: Attempt,
    /// The request body a handler is being sent.
    pub(crate) upload: Option<Arc<Upload>>,
    /// What the client has seen of databases, and what it sees now.
    pub(crate) brought: Arc<Brought>,
    /// Why the first choice did not answer, and what answered instead.
    pub(crate) failure: Option<Failed>,
    /// Named reason of a refusal or failure, for log and metrics.
    pub(crate) refused: Option<Verdict>,
    pub(crate) cache: CacheNotes,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) request_body_bytes: u64,
    /// The request wants to become something else than HTTP (WebSocket); bodies are then not metered.
    pub(crate) upgrade: bool,
    _in_flight: InFlight,
}

/// Where the request is sent now.
#[derive(Default)]
pub(crate) enum Attempt {
    #[default]
    NotStarted,
    Handler,
    Upstream(Box<UpstreamAttempt>),
}

pub(crate) struct UpstreamAttempt {
    pub(crate) set: Arc<UpstreamSet>,
    pub(crate) tried: Vec<ServerIndex>,
    pub(crate) retries_left: u32,
    pub(crate) picked: Option<Picked>,
    /// `picked` was chosen for a retry that has not begun.
    pub(crate) ready: bool,
    /// Address of the server asked last, for the log.
    pub(crate) address: Option<String>,
    pub(crate) is_fallback: bool,
}

impl UpstreamAttempt {
    pub(crate) fn first(set: &Arc<UpstreamSet>, is_fallback: bool) -> Box<UpstreamAttempt> {
        Box::new(UpstreamAttempt {
            set: Arc::clone(set),
            tried: Vec::new(),
            retries_left: set.retries(),
            picked: None,
            ready: false,
            address: None,
            is_fallback,
        })
    }
}

/// The first failure of a request that went on to somebody else.
pub(crate) struct Failed {
    pub(crate) verdict: Verdict,
    pub(crate) who: String,
    /// The upstream that answered instead; `None` when a stale copy or the error page did.
    pub(crate) fallback: Option<String>,
}

/// What the cache phases note for `Cache-Status`, the log and the back-off.
#[derive(Default)]
pub(crate) struct CacheNotes {
    /// The route caches and this request may use the cache.
    pub(crate) eligible: bool,
    /// Why an eligible route did not use the cache for this request.
    pub(crate) bypass: Option<&'static str>,
    /// When the fill began; a purge after this moment wins over the fill.
    pub(crate) fill_started: Option<SystemTime>,
    /// Why the response was not stored.
    pub(crate) not_stored: Option<&'static str>,
    pub(crate) stored: bool,
    /// Remaining freshness in seconds; negative when stale.
    pub(crate) ttl_seconds: Option<i64>,
    /// A stale page was served as it was: why no regeneration was started.
    pub(crate) held: Option<&'static str>,
    /// Why a stale page was served instead of the answer, or of the lack of one.
    pub(crate) stood_in: Option<&'static str>,
    /// The client asked for a regeneration with the bypass token.
    pub(crate) forced: bool,
    /// The page, once its key is known.
    pub(crate) page: Option<HashBinary>,
}

impl RequestContext {
    pub(crate) fn new(edge: &Edge) -> RequestContext {
        RequestContext {
            started: Instant::now(),
            arrived: SystemTime::now(),
            generation: edge.generation(),
            control_lost: edge.is_control_lost(),
            cookies: Vec::new(),
            background: false,
            regeneration: None,
            client: Client::unknown(),
            host: String::new(),
            authority: String::new(),
            requested: String::new(),
            page_target: Uri::default(),
            route: None,
            filter_state: FilterState::default(),
            filters_entered: 0,
            attempt: Attempt::NotStarted,
            upload: None,
            brought: Arc::default(),
            failure: None,
            refused: None,
            cache: CacheNotes::default(),
            first_byte: None,
            request_body_bytes: 0,
            upgrade: false,
            _in_flight: InFlight::enter(&edge.in_flight),
        }
    }

    /// The matched route, with its configuration kept alive independently of this context's borrow.
    pub(crate) fn route(&self) -> Option<&BuiltRoute> {
        self.route.map(|index| &self.generation.routes[index])
    }

    pub(crate) fn target(&self) -> Option<&BuiltTarget> {
        self.route().map(|route| &route.target)
    }
}

/// Counts a request for as long as it lives.
struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn enter(count: &Arc<AtomicUsize>) -> InFlight {
        count.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
