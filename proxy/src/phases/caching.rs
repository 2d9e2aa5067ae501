//! Phase 3: may the cache be used, which page is it, may what is stored be served, may what came be stored.
//!
//! A page of an ISR route is made for nobody in particular: whoever makes it sees only what the key is made of (host,
//! path, the keyed part of the query, the headers of `vary`), so no reader's cookie, credential or claim can end up in
//! it. On other cached routes the response's own headers decide, as RFC 9111 says.

use std::time::{Instant, SystemTime};

use http::{HeaderValue, Method, header};
use pingora_cache::{
    CacheKey, CacheMeta, CacheOptionOverrides, CachePhase, ForcedFreshness, HitHandler, NoCacheReason, RespCacheable,
    VarianceBuilder,
    key::{CacheHashKey, HashBinary},
};
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use selvedge_cache::{
    Decision, KeyParts, MemoryHit, RequestFacts, cache_key, decide, keyed_query, strip_before_storing,
};
use selvedge_filters::Scheme;
use selvedge_schema::QueryKey;

use crate::{context::RequestContext, edge::Edge, fail::judge, generation::RouteCache};

/// Carries [`selvedge_schema::Isr::bypass_token`]; the name frameworks already send for on-demand regeneration.
const BYPASS_FIELD: &str = "x-prerender-revalidate";

pub(crate) fn enable(edge: &Edge, session: &mut Session, context: &mut RequestContext) {
    let generation = context.generation.clone();
    let Some(policy) = context.route.and_then(|index| generation.routes[index].cache.as_ref()) else {
        return;
    };
    let request = session.req_header();
    if !matches!(request.method, Method::GET | Method::HEAD) {
        context.cache.bypass = Some("method");
        return;
    }
    if context.upgrade {
        context.cache.bypass = Some("upgrade");
        return;
    }
    context.cache.eligible = true;
    context.cache.forced = shows_token(request, policy);
    session.cache.enable(
        edge.cache.storage,
        None,
        Some(edge.cache.predictor),
        Some(edge.cache.lock),
        None::<CacheOptionOverrides>,
    );
}

fn shows_token(request: &RequestHeader, cache: &RouteCache) -> bool {
    let token = cache.policy.isr.as_ref().and_then(|isr| isr.bypass_token.as_ref());
    let shown = request.headers.get(BYPASS_FIELD);
    token
        .zip(shown)
        .is_some_and(|(token, shown)| crate::admin::same(shown.as_bytes(), token.as_bytes()))
}

pub(crate) fn key(context: &mut RequestContext) -> Result<CacheKey> {
    let generation = context.generation.clone();
    let cache = context.route.and_then(|index| generation.routes[index].cache.as_ref());
    let cache = cache.ok_or_else(|| Error::explain(ErrorType::InternalError, "a key for a route without a cache"))?;
    let key = key_of(cache, context.client.scheme, &context.host, &context.page_target);
    context.cache.page = Some(key.primary_bin());
    Ok(key)
}

/// The key of a URL under a route; `uri` in origin form and normalised.
pub(crate) fn key_of(cache: &RouteCache, scheme: Scheme, host: &str, uri: &http::Uri) -> CacheKey {
    let query = keyed_query(&cache.policy.query, uri.query());
    cache_key(&KeyParts {
        scope: &cache.scope,
        scheme: scheme.as_str(),
        host,
        path: uri.path(),
        query: query.as_deref(),
    })
}

/// Tells variants of a page apart by the request headers that made them different.
pub(crate) fn variance(meta: &CacheMeta, context: &mut RequestContext, request: &RequestHeader) -> Option<HashBinary> {
    let policy = &context.route()?.cache.as_ref()?.policy;
    let mut names: Vec<String> = policy.vary.iter().map(|name| name.as_str().to_owned()).collect();
    // An ISR page saw nothing but the key, whatever its `Vary` says.
    if policy.isr.is_none() {
        let listed = meta
            .headers()
            .get_all(header::VARY)
            .iter()
            .filter_map(|value| value.to_str().ok());
        names.extend(
            listed
                .flat_map(|value| value.split(','))
                .map(|name| name.trim().to_ascii_lowercase()),
        );
    }
    names.sort_unstable();
    names.dedup();
    let mut variance = VarianceBuilder::new();
    for name in names.iter().filter(|name| !name.is_empty()) {
        variance.add_owned_name_value(name.clone(), request_value(request, name));
    }
    variance.finalize()
}

/// The request's values of a header in one form; for `Accept-Encoding` only what a server would look for.
fn request_value(request: &RequestHeader, name: &str) -> Vec<u8> {
    let values: Vec<&[u8]> = request
        .headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let joined = values.join(&b',');
    if name != "accept-encoding" {
        return joined;
    }
    let text = String::from_utf8_lossy(&joined).to_ascii_lowercase();
    let offered = text.split(',').map(|item| item.trim().replace(' ', ""));
    let mut codings: Vec<String> = offered
        .filter(|item| !item.ends_with(";q=0"))
        .map(|item| item.split(';').next().unwrap_or_default().to_owned())
        .filter(|coding| matches!(coding.as_str(), "br" | "gzip" | "zstd"))
        .collect();
    codings.sort_unstable();
    codings.dedup();
    codings.join(",").into_bytes()
}

/// What is stored was found. `None` leaves it to its own freshness.
pub(crate) fn judge_hit(
    edge: &Edge,
    meta: &CacheMeta,
    hit: &HitHandler,
    is_fresh: bool,
    context: &mut RequestContext,
) -> Option<ForcedFreshness> {
    let now = SystemTime::now();
    context.cache.ttl_seconds = Some(seconds_until(meta.fresh_until(), now));
    if context.cache.forced {
        return Some(ForcedFreshness::ForceExpired);
    }
    if is_fresh || context.background {
        return None;
    }
    // Somebody is writing the next version: this one is served meanwhile, and nobody else starts.
    if MemoryHit::is_being_replaced(hit) && meta.serve_stale_while_revalidate(now) {
        context.cache.held = Some("regenerating");
        return Some(ForcedFreshness::ForceFresh);
    }
    if edge.cache.regenerations.available_permits() == 0 && meta.serve_stale_while_revalidate(now) {
        context.cache.held = Some("too-many-regenerations");
        return Some(ForcedFreshness::ForceFresh);
    }
    // It failed a moment ago: asking again for every reader would only hurt whoever is failing.
    let page = context.cache.page?;
    if !edge.cache.backoff.allows(&page, Instant::now()) && meta.serve_stale_if_error(now) {
        context.cache.held = Some("backoff");
        return Some(ForcedFreshness::ForceFresh);
    }
    None
}

fn seconds_until(moment: SystemTime, now: SystemTime) -> i64 {
    match moment.duration_since(now) {
        Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        Err(past) => -i64::try_from(past.duration().as_secs()).unwrap_or(i64::MAX),
    }
}

/// Without an error: may a stale page be served while it is regenerated? With one: instead of the error?
pub(crate) fn may_serve_stale(context: &mut RequestContext, error: Option<&Error>) -> bool {
    match error {
        None => !context.cache.forced,
        // A client that failed us gets nothing; nobody else's failure is its business.
        Some(error) if *error.esource() == ErrorSource::Downstream => false,
        Some(error) => {
            context.cache.stood_in = Some(judge(error).reason);
            true
        }
    }
}

/// May the answer be stored, and for how long?
pub(crate) fn admit_response(
    edge: &Edge,
    session: &Session,
    response: &ResponseHeader,
    context: &mut RequestContext,
) -> RespCacheable {
    match plan(edge, session, response, context) {
        Ok(meta) => {
            context.cache.stored = true;
            context.cache.ttl_seconds = Some(seconds_until(meta.fresh_until(), SystemTime::now()));
            RespCacheable::Cacheable(meta)
        }
        Err(reason) => {
            context.cache.not_stored = Some(reason);
            RespCacheable::Uncacheable(NoCacheReason::Custom(reason))
        }
    }
}

fn plan(
    edge: &Edge,
    session: &Session,
    response: &ResponseHeader,
    context: &RequestContext,
) -> Result<CacheMeta, &'static str> {
    let cache = context
        .route()
        .and_then(|route| route.cache.as_ref())
        .ok_or("no-policy")?;
    // Under the handler's key only the handler's pages are kept.
    if context.failure.is_some() {
        return Err("fallback");
    }
    let started = context.cache.fill_started.unwrap_or(context.arrived);
    if context
        .cache
        .page
        .is_some_and(|page| edge.cache.purged_since(&page, started))
    {
        return Err("purged");
    }
    let request = session.req_header();
    let facts = RequestFacts {
        method: &request.method,
        // A page that a filter let somebody in for may be that somebody's, wherever the credential was.
        authorized: request.headers.contains_key(header::AUTHORIZATION) || context.filter_state.user.is_some(),
    };
    let plan = match decide(&facts, response, &cache.policy, started, SystemTime::now()) {
        Decision::Store(plan) => plan,
        Decision::DoNotStore(reason) => return Err(reason.as_str()),
    };
    let mut stored = response.clone();
    strip_before_storing(&mut stored);
    for tag in &cache.policy.tags {
        let _ = stored.append_header("cache-tag", tag.as_str());
    }
    let seconds = |window: std::time::Duration| u32::try_from(window.as_secs()).unwrap_or(u32::MAX);
    Ok(CacheMeta::new(
        plan.fresh_until,
        plan.created,
        seconds(plan.stale_while_revalidate),
        seconds(plan.stale_if_error),
        stored,
    ))
}

/// On an ISR route, takes away from the request what is not part of the key.
pub(crate) fn keep_only_keyed_input(request: &mut RequestHeader, context: &RequestContext) -> Result<()> {
    let Some(policy) = context
        .route()
        .and_then(|route| route.cache.as_ref())
        .map(|cache| &cache.policy)
    else {
        return Ok(());
    };
    if policy.isr.is_none() {
        return Ok(());
    }
    let keyed = |name: &str| {
        matches!(
            name,
            "host" | "x-forwarded-host" | "x-forwarded-proto" | "if-none-match" | "if-modified-since"
        ) || policy.vary.iter().any(|vary| vary.as_str() == name)
    };
    let others: Vec<_> = request
        .headers
        .keys()
        .filter(|name| !keyed(name.as_str()))
        .cloned()
        .collect();
    for name in others {
        request.remove_header(&name);
    }
    if policy.query != QueryKey::All {
        let kept = keyed_query(&policy.query, request.uri.query());
        let path = request.uri.path();
        let target = kept.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        let uri = target
            .parse()
            .map_err(|error| Error::because(ErrorType::InternalError, "keyed target", error))?;
        request.set_uri(uri);
    }
    Ok(())
}

/// What became of the request in the cache; for `Cache-Status`, the log and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheResult {
    /// The route has no cache.
    None,
    Hit,
    /// Served although stale, while it is regenerated or because regenerating failed.
    Stale,
    Miss,
    /// Was stale, and was made anew before it was served.
    Expired,
    Bypass,
}

impl CacheResult {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            CacheResult::None => "none",
            CacheResult::Hit => "hit",
            CacheResult::Stale => "stale",
            CacheResult::Miss => "miss",
            CacheResult::Expired => "expired",
            CacheResult::Bypass => "bypass",
        }
    }
}

pub(crate) fn result(session: &Session, context: &RequestContext) -> CacheResult {
    if !context.cache.eligible {
        return if context.cache.bypass.is_some() {
            CacheResult::Bypass
        } else {
            CacheResult::None
        };
    }
    match session.cache.phase() {
        CachePhase::Hit if context.cache.held.is_some() => CacheResult::Stale,
        CachePhase::Hit => CacheResult::Hit,
        CachePhase::Stale | CachePhase::StaleUpdating => CacheResult::Stale,
        CachePhase::Expired | CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => CacheResult::Expired,
        CachePhase::Bypass => CacheResult::Bypass,
        _ => CacheResult::Miss,
    }
}

/// `Cache-Status` (RFC 9211), and what browsers may do with a page whose lifetime the route decides.
pub(crate) fn describe(session: &Session, response: &mut ResponseHeader, context: &RequestContext) -> Result<()> {
    let Some(cache) = context.route().and_then(|route| route.cache.as_ref()) else {
        return Ok(());
    };
    response.insert_header("cache-status", cache_status(session, context))?;
    let from_cache = context.cache.eligible && context.cache.not_stored.is_none();
    if cache.policy.isr.is_some() && from_cache && !response.headers.contains_key(header::CACHE_CONTROL) {
        // Only this cache can be told that the page changed.
        response.insert_header(header::CACHE_CONTROL, "public, max-age=0, must-revalidate")?;
    }
    Ok(())
}

fn cache_status(session: &Session, context: &RequestContext) -> String {
    let notes = &context.cache;
    let mut value = String::from("selvedge");
    match result(session, context) {
        CacheResult::Hit => value.push_str("; hit"),
        CacheResult::Stale => {
            value.push_str("; hit");
            let why = match session.cache.phase() {
                CachePhase::Stale => "stale-if-error",
                CachePhase::StaleUpdating => "regenerating",
                _ => notes.held.unwrap_or("stale"),
            };
            value.push_str(&format!("; detail={why}"));
        }
        CacheResult::Miss if session.cache.phase() == CachePhase::Miss || notes.not_stored.is_some() => {
            value.push_str("; fwd=uri-miss");
        }
        CacheResult::Miss => value.push_str("; fwd=miss"),
        CacheResult::Expired if notes.forced => value.push_str("; fwd=request"),
        CacheResult::Expired => value.push_str("; fwd=stale"),
        CacheResult::Bypass if notes.bypass == Some("method") => value.push_str("; fwd=method"),
        CacheResult::Bypass | CacheResult::None => value.push_str("; fwd=bypass"),
    }
    if notes.stored {
        value.push_str("; stored");
    }
    if let Some(seconds) = notes.ttl_seconds.filter(|_| notes.not_stored.is_none()) {
        value.push_str(&format!("; ttl={seconds}"));
    }
    if session.cache.lock_duration().is_some_and(|waited| !waited.is_zero()) {
        value.push_str("; collapsed");
    }
    if let Some(reason) = notes.not_stored {
        value.push_str(&format!("; detail={reason}"));
    }
    value
}
