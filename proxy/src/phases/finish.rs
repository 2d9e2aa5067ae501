//! Phase 6, always last: what became of the request, once, for the metrics, the log and the back-off.

use std::time::Instant;

use pingora_error::Error;
use pingora_proxy::Session;

use crate::{
    access_log::AccessEntry,
    context::{Attempt, RequestContext},
    edge::Edge,
    fail::{self, Blame, judge},
    generation::Deployment,
    phases::{caching, respond},
};

pub(crate) fn finish(edge: &Edge, session: &mut Session, error: Option<&Error>, context: &mut RequestContext) {
    note_regeneration(edge, error, context);
    if context.background {
        return;
    }
    let status = respond::begun(session).map_or(0, |response| response.status.as_u16());
    let verdict = error.map(judge).or_else(|| context.refused.clone());
    let error = error.filter(|error| *error.etype() != fail::ANSWERED_EARLY);
    // Nothing was written because nobody is left to read it.
    let status = match (&verdict, status) {
        (Some(verdict), 0) => verdict.status.as_u16(),
        (_, status) => status,
    };
    let cache = caching::result(session, context);
    let route = context.route().map_or("", |route| &route.name);
    let duration = context.started.elapsed();
    edge.metrics
        .request(route, status, cache.as_str(), duration, context.first_byte);
    if let Some(verdict) = error.map(judge) {
        edge.metrics.failure(verdict.reason, verdict.blame.as_str());
    }
    if !edge.access_log.is_on() {
        return;
    }
    let (kind, target) = context.attempt_label();
    let request = session.req_header();
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    edge.access_log.write(&AccessEntry {
        time: context.arrived,
        client: context.client.address,
        scheme: context.client.scheme.as_str(),
        protocol: request.version,
        method: request.method.as_str(),
        host: &context.host,
        target: &context.requested,
        route,
        deployment: context.generation.deployment.as_ref().map(|deployment| {
            let Deployment { id, app, version } = &**deployment;
            (app.as_str(), id.as_str(), *version)
        }),
        status,
        bytes_sent: session.body_bytes_sent(),
        bytes_received: context.request_body_bytes,
        duration,
        first_byte: context.first_byte,
        cache: cache.as_str(),
        answered_by: if cache == caching::CacheResult::Hit {
            ("cache", "")
        } else {
            (kind, &target)
        },
        server: match &context.attempt {
            Attempt::Upstream(attempt) => attempt.address.as_deref(),
            _ => None,
        },
        reason: verdict.as_ref().map(|verdict| verdict.reason),
        failed: context
            .failure
            .as_ref()
            .map(|failed| (failed.who.as_str(), failed.verdict.reason)),
        error: error.map(|error| error.to_string()),
        request_id: context.filter_state.request_id.as_deref(),
        user: context.filter_state.user.as_deref(),
        user_agent: header("user-agent"),
        referer: header("referer"),
    });
}

/// A regeneration that failed makes the next one wait.
fn note_regeneration(edge: &Edge, error: Option<&Error>, context: &RequestContext) {
    let Some(page) = context.cache.page else {
        return;
    };
    // Only whoever asked the target knows anything new.
    if matches!(context.attempt, Attempt::NotStarted) {
        return;
    }
    let verdict = error.map(judge);
    // A client that left says nothing of the page.
    if !context.background
        && verdict
            .as_ref()
            .is_some_and(|verdict| verdict.blame == Blame::Downstream)
    {
        return;
    }
    let failed = verdict.map(|verdict| verdict.reason);
    let failed = failed
        .or(context.failure.as_ref().map(|failed| failed.verdict.reason))
        .or(context.cache.stood_in);
    let succeeded = failed.is_none() && context.cache.not_stored.is_none();
    if succeeded {
        edge.cache.backoff.succeeded(&page);
    } else if context.background || failed.is_some() {
        edge.cache.backoff.failed(page, Instant::now());
    }
    if context.background {
        let route = context.route().map_or("", |route| &route.name);
        edge.metrics.regeneration(route, succeeded);
        if !succeeded {
            let reason = failed.or(context.cache.not_stored).unwrap_or("unknown");
            tracing::warn!(route, page = %context.requested, reason, "a page could not be regenerated; the stale one stays");
        }
    }
}
