//! Phase 4: who answers, what it is asked, and who answers instead when it does not.
//!
//! The chain, as long as no response byte was sent: the route's target (another server of the same upstream for
//! idempotent requests), then the route's fallback upstream with the buffered request body replayed, then a stale copy
//! (pingora, through [`super::caching::may_serve_stale`]), then the error page. A fallback may repeat a request the
//! handler has begun to act on; naming one in the configuration says that this is acceptable.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{Method, header, uri};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use selvedge_filters::Scheme;

use crate::{
    context::{Attempt, Failed, RequestContext, UpstreamAttempt},
    edge::Edge,
    fail::{self, Blame, Verdict, judge},
    generation::{BuiltTarget, HandlerSlot},
    handler_session::{HandlerCall, handler_peer},
    phases::{bookmarks, caching, respond},
    upload::Upload,
};

/// The peer of this attempt. Called again for every retry.
pub(crate) fn choose(edge: &Edge, session: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
    if matches!(context.attempt, Attempt::NotStarted) {
        context.attempt = first_attempt(edge, session, context)?;
    }
    context
        .cache
        .fill_started
        .get_or_insert_with(std::time::SystemTime::now);
    let client = context.client.address;
    match &mut context.attempt {
        Attempt::NotStarted => Err(Error::explain(ErrorType::InternalError, "no attempt was chosen")),
        Attempt::Handler => Ok(handler_peer()),
        Attempt::Upstream(attempt) => {
            let ready = std::mem::take(&mut attempt.ready);
            if ready || attempt.pick_server(client) {
                let picked = attempt.picked.as_ref().expect("a server was picked");
                return Ok(Box::new(picked.peer.clone()));
            }
            let who = attempt.set.name().to_owned();
            let error = Error::create(fail::NO_SERVER, ErrorSource::Upstream, Some(who.into()), None);
            Err(retry_or_give_up(edge, session, context, error, false))
        }
    }
}

impl UpstreamAttempt {
    /// Moves on to a server that was not tried; `false` when there is none.
    /// Consistent hashing keeps a client at its server.
    fn pick_server(&mut self, client: IpAddr) -> bool {
        let hash_key = match client {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let Some(picked) = self.set.pick(&hash_key, &self.tried) else {
            return false;
        };
        tracing::debug!(server = picked.in_flight.server(), reason = ?picked.reason, "picked");
        self.tried.push(picked.server);
        self.address = Some(picked.in_flight.server().to_owned());
        self.picked = Some(picked);
        true
    }
}

fn first_attempt(edge: &Edge, session: &mut Session, context: &mut RequestContext) -> Result<Attempt> {
    let generation = Arc::clone(&context.generation);
    let route = context.route.map(|index| &generation.routes[index]);
    match route.map(|route| &route.target) {
        Some(BuiltTarget::Handler {
            slot: HandlerSlot::Loaded(_),
            ..
        }) => Ok(Attempt::Handler),
        Some(BuiltTarget::Handler {
            slot: HandlerSlot::Unavailable(why),
            ..
        }) => {
            let context_text = why.to_string();
            let error = Error::create(
                fail::HANDLER_UNAVAILABLE,
                ErrorSource::Upstream,
                Some(context_text.into()),
                None,
            );
            let error = retry_or_give_up(edge, session, context, error, false);
            // The fallback takes the first attempt's place; without one the error stands.
            match std::mem::take(&mut context.attempt) {
                Attempt::NotStarted => Err(error),
                fallback => Ok(fallback),
            }
        }
        Some(BuiltTarget::Upstream(set)) => Ok(Attempt::Upstream(UpstreamAttempt::first(set, false))),
        _ => Err(Error::explain(
            ErrorType::InternalError,
            "a local target reached the upstream phase",
        )),
    }
}

/// Nothing of the request was sent: any method may go to another server.
pub(crate) fn after_failed_connect(
    edge: &Edge,
    session: &mut Session,
    context: &mut RequestContext,
    error: Box<Error>,
) -> Box<Error> {
    retry_or_give_up(edge, session, context, error, true)
}

/// The exchange broke. `reused`: the connection came from the pool and may simply have been closed by its idle peer.
pub(crate) fn after_failed_exchange(
    edge: &Edge,
    session: &mut Session,
    context: &mut RequestContext,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    if *error.etype() == fail::ANSWERED_EARLY {
        return error;
    }
    if matches!(context.attempt, Attempt::Handler) && is_end_of_client(&error) {
        error.as_down();
    }
    let replayable = !session.as_ref().retry_buffer_truncated();
    if error.esource() == &ErrorSource::Upstream
        && reused
        && replayable
        && respond::begun(session).is_none()
        && matches!(context.attempt, Attempt::Upstream(_))
        && matches!(error.retry, pingora_error::RetryType::ReusedOnly)
        && session.req_header().method.is_idempotent()
    {
        if let Attempt::Upstream(attempt) = &mut context.attempt {
            // The server is not to blame for an idle connection it closed: it may be tried again.
            attempt.tried.pop();
        }
        error.set_retry(true);
        return error;
    }
    let repeatable = session.req_header().method.is_idempotent();
    retry_or_give_up(edge, session, context, error, repeatable)
}

/// pingora's path to a handler says of a client that left while its page was filled, or that sent more than is taken,
/// only that writing failed, and only once the handler's answer is complete.
fn is_end_of_client(error: &Error) -> bool {
    *error.etype() == ErrorType::WriteError && *error.esource() == ErrorSource::Unset
}

/// Marks `error` for another attempt and prepares it, or leaves it final.
fn retry_or_give_up(
    edge: &Edge,
    session: &mut Session,
    context: &mut RequestContext,
    mut error: Box<Error>,
    repeatable: bool,
) -> Box<Error> {
    let verdict = judge(&error);
    edge.metrics.attempt_failed(context.attempt_label(), verdict.reason);
    report_to_upstream(context, &verdict);
    error.set_retry(false);
    if verdict.blame == Blame::Downstream
        || respond::begun(session).is_some()
        || session.as_ref().retry_buffer_truncated()
    {
        return error;
    }
    if let Attempt::Upstream(attempt) = &mut context.attempt
        && repeatable
        && verdict.retryable
        && attempt.retries_left > 0
        && attempt.pick_server(context.client.address)
    {
        attempt.retries_left -= 1;
        attempt.ready = true;
        error.set_retry(true);
        return error;
    }
    if fall_back(context, &verdict, &error) {
        error.set_retry(true);
    }
    error
}

fn report_to_upstream(context: &mut RequestContext, verdict: &Verdict) {
    if let Attempt::Upstream(attempt) = &mut context.attempt
        && let Some(picked) = &attempt.picked
        && verdict.blame == Blame::Upstream
    {
        picked.in_flight.failed();
    }
}

/// Turns to the route's fallback; `false` when there is none, it was tried, or a good stale copy is better.
fn fall_back(context: &mut RequestContext, verdict: &Verdict, error: &Error) -> bool {
    let who = context.attempt_label().1;
    let first = Failed {
        verdict: verdict.clone(),
        who: format!("{who}: {}", error.etype().as_str()),
        fallback: None,
    };
    let already = matches!(&context.attempt, Attempt::Upstream(attempt) if attempt.is_fallback);
    // A failed regeneration keeps the page it was to replace; the origin's page is not the handler's.
    let fallback = if already || context.background {
        None
    } else {
        context.route().and_then(|route| route.fallback.clone())
    };
    let failed = context.failure.get_or_insert(first);
    let Some(fallback) = fallback else {
        return false;
    };
    failed.fallback = Some(fallback.name().to_owned());
    context.attempt = Attempt::Upstream(UpstreamAttempt::first(&fallback, true));
    true
}

/// What the upstream or the handler is asked.
pub(crate) async fn prepare_request(
    session: &mut Session,
    request: &mut RequestHeader,
    context: &mut RequestContext,
) -> Result<()> {
    if context.cache.eligible {
        caching::keep_only_keyed_input(request, context)?;
    }
    match &context.attempt {
        Attempt::Handler => {
            let Some(BuiltTarget::Handler {
                slot: HandlerSlot::Loaded(handler),
                ..
            }) = context.target()
            else {
                return Err(Error::explain(
                    ErrorType::InternalError,
                    "the route's target is not a handler",
                ));
            };
            // Nobody behind the connector says it: the client is told to go on as soon as a handler is asked.
            request.remove_header("expect");
            if wants_continue(session) && !session.as_downstream_mut().is_body_empty() {
                session
                    .as_downstream_mut()
                    .write_continue_response()
                    .await
                    .map_err(Error::into_down)?;
            }
            let call = HandlerCall {
                handler: Arc::clone(handler),
                scheme: match context.client.scheme {
                    Scheme::Https => uri::Scheme::HTTPS,
                    Scheme::Http => uri::Scheme::HTTP,
                },
                authority: context.authority.clone(),
                body_bytes: context.generation.document.config.limits.body_bytes,
            };
            if !request.headers.contains_key(header::HOST) {
                request.insert_header(header::HOST, context.authority.as_str())?;
            }
            request.extensions_mut().insert(call);
            context.upload = upload(session, context).map(Arc::new);
            if let Some(upload) = &context.upload {
                request.extensions_mut().insert(Arc::clone(upload));
            }
            context.brought = bookmarks::of_request(session.req_header(), context);
            request.extensions_mut().insert(Arc::clone(&context.brought));
        }
        Attempt::Upstream(attempt) => {
            let host = attempt.set.host().unwrap_or(&context.authority).to_owned();
            request.insert_header(header::HOST, host)?;
        }
        Attempt::NotStarted => {}
    }
    Ok(())
}

fn upload(session: &mut Session, context: &RequestContext) -> Option<Upload> {
    let downstream = session.as_downstream_mut();
    match downstream.is_http2() {
        _ if downstream.is_body_empty() => None,
        true => Some(Upload::http2(context.generation.document.config.limits.body_timeout)),
        false => Some(Upload::http1()),
    }
}

fn wants_continue(session: &Session) -> bool {
    session
        .req_header()
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Counts the request body against `limits.body_bytes`; a chunked body declares no length beforehand. The body of a
/// handler is bounded on its way to the guest, which has to be told.
pub(crate) fn meter_request_body(body: &Option<Bytes>, context: &mut RequestContext) -> Result<()> {
    if context.upgrade {
        return Ok(());
    }
    context.request_body_bytes += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
    let bounded = matches!(context.attempt, Attempt::Handler);
    if !bounded && context.request_body_bytes > context.generation.document.config.limits.body_bytes {
        return Err(Error::create(fail::BODY_TOO_LARGE, ErrorSource::Downstream, None, None));
    }
    Ok(())
}

/// The answer's header, before the cache sees it.
pub(crate) fn receive_response(
    edge: &Edge,
    session: &mut Session,
    response: &mut ResponseHeader,
    context: &mut RequestContext,
) -> Result<()> {
    if let Attempt::Upstream(attempt) = &context.attempt {
        if let Some(picked) = &attempt.picked {
            picked.in_flight.answered();
        }
        // Pingora forwards what the connection to the upstream nominated; it ends here.
        if !context.upgrade {
            for name in selvedge_cache::connection_nominated(&response.headers) {
                response.remove_header(&name);
            }
            for name in ["keep-alive", "proxy-connection", "proxy-authenticate"] {
                response.remove_header(name);
            }
        }
    }
    invalidate_after_unsafe(edge, session, response, context);
    Ok(())
}

/// RFC 9111 section 4.4: a successful unsafe request makes the stored page of the same URL wrong.
fn invalidate_after_unsafe(edge: &Edge, session: &Session, response: &ResponseHeader, context: &RequestContext) {
    let method = &session.req_header().method;
    let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    let successful = response.status.is_success() || response.status.is_redirection();
    if safe || !successful {
        return;
    }
    let Some(cache) = context.route().and_then(|route| route.cache.as_ref()) else {
        return;
    };
    let key = caching::key_of(cache, context.client.scheme, &context.host, &context.page_target);
    edge.cache.purge(&key, false);
}

impl RequestContext {
    /// Kind and name of who is being asked now.
    pub(crate) fn attempt_label(&self) -> (&'static str, String) {
        match &self.attempt {
            Attempt::Upstream(attempt) => ("upstream", attempt.set.name().to_owned()),
            Attempt::Handler | Attempt::NotStarted => match self.target() {
                Some(target) => {
                    let (kind, name) = target.label();
                    (kind, name.to_owned())
                }
                None => ("none", String::new()),
            },
        }
    }
}
