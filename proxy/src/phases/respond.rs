//! Phase 5: what the client sees, whoever produced it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, StatusCode, header};
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, Session};
use selvedge_filters::Response;

use crate::{
    context::RequestContext,
    fail::{self, Verdict, judge},
    phases::{bookmarks, caching},
    static_files::StaticAnswer,
};

/// Fields that speak to this cache, not to the client.
const INTERNAL_FIELDS: [&str; 4] = ["cache-tag", "surrogate-key", "surrogate-control", "cdn-cache-control"];

/// The response that was begun, after which there can be no other. `100 Continue` is none yet.
pub(crate) fn begun(session: &Session) -> Option<&ResponseHeader> {
    let is_final = |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().filter(|response| is_final(response.status))
}

/// Runs on the header of every proxied or cached response; what it changes is not stored.
pub(crate) fn decorate(
    session: &mut Session,
    response: &mut ResponseHeader,
    context: &mut RequestContext,
) -> Result<()> {
    context.first_byte.get_or_insert_with(|| context.started.elapsed());
    caching::describe(session, response, context)?;
    for name in INTERNAL_FIELDS {
        response.remove_header(name);
    }
    if let Some(failed) = &context.failure {
        let instead = failed.fallback.as_deref().unwrap_or("a stale copy");
        let detail = format!("{}; answered by {instead}", failed.who);
        response.insert_header("proxy-status", failed.verdict.proxy_status(Some(&detail)))?;
    }
    bookmarks::describe(session, response, context)?;
    run_response_filters(response, context)?;
    Ok(())
}

/// From an answer to the end of an HTTP/2 stream that is still sent to: curl 7.88 does not read an answer that comes
/// together with the reset.
pub(crate) const LINGER: Duration = Duration::from_millis(100);

/// Over HTTP/2 a client that is answered early goes on sending until its stream is reset, which dropping it does.
async fn linger(session: &mut Session) {
    let downstream = session.as_downstream_mut();
    if downstream.is_http2() && !downstream.is_body_done() {
        downstream.set_total_drain_timeout(Some(LINGER));
        let _ = downstream.drain_request_body().await;
    }
}

/// Ends the request when its client has all of the answer and still sends: what it sends is for nobody. Dropping the
/// unread rest resets the stream with `NO_ERROR` (RFC 9113 section 8.1).
pub(crate) async fn end_with_answer(session: &mut Session, context: &RequestContext) -> Result<()> {
    let written = begun(session).is_some() && !session.cache.enabled();
    if written && context.upload.as_ref().is_some_and(|upload| upload.is_outlived()) {
        session.as_downstream_mut().finish_body().await?;
        return Err(Error::create(fail::ANSWERED_EARLY, ErrorSource::Downstream, None, None));
    }
    Ok(())
}

/// What the client shall remember is added, then the filters that saw the request see the response, the last one first.
fn run_response_filters(response: &mut ResponseHeader, context: &mut RequestContext) -> Result<()> {
    for cookie in context.cookies.drain(..) {
        response.append_header(header::SET_COOKIE, cookie)?;
    }
    let generation = Arc::clone(&context.generation);
    if let Some(route) = context.route.map(|index| &generation.routes[index]) {
        let entered = context.filters_entered.min(route.filters.len());
        for filter in route.filters[..entered].iter().rev() {
            filter.on_response(&context.filter_state, response);
        }
    }
    Ok(())
}

/// An uncacheable HEAD would otherwise carry the guest's or the upstream's body over HTTP/2.
pub(crate) fn drop_body_of_head(session: &Session, body: &mut Option<Bytes>) {
    if session.req_header().method == Method::HEAD {
        *body = None;
    }
}

/// Sends a response made here. Always `Ok(true)` unless the client is gone.
pub(crate) async fn send(
    session: &mut Session,
    context: &mut RequestContext,
    mut response: ResponseHeader,
    body: Bytes,
) -> Result<bool> {
    context.first_byte.get_or_insert_with(|| context.started.elapsed());
    let bodiless = response.status == StatusCode::NO_CONTENT || response.status == StatusCode::NOT_MODIFIED;
    if !bodiless {
        response.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    run_response_filters(&mut response, context)?;
    let no_body = bodiless || body.is_empty() || session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(response), no_body).await?;
    if !no_body {
        session.write_response_body(Some(body), true).await?;
    }
    linger(session).await;
    Ok(true)
}

pub(crate) async fn send_filter_response(
    session: &mut Session,
    context: &mut RequestContext,
    answer: Response,
) -> Result<bool> {
    let mut response = ResponseHeader::build(answer.status, Some(answer.headers.len() + 2))?;
    for (name, value) in &answer.headers {
        response.append_header(name.clone(), value.clone())?;
    }
    let verdict = Verdict::of_filter(answer.status, answer.reason);
    if answer.status.is_client_error() || answer.status.is_server_error() {
        response.insert_header("proxy-status", verdict.proxy_status(None))?;
    }
    context.refused = Some(verdict);
    send(session, context, response, answer.body).await
}

pub(crate) async fn send_static(
    session: &mut Session,
    context: &mut RequestContext,
    answer: StaticAnswer,
) -> Result<bool> {
    context.first_byte.get_or_insert_with(|| context.started.elapsed());
    let mut response = ResponseHeader::build(answer.status, Some(answer.headers.len() + 2))?;
    for (name, value) in &answer.headers {
        response.append_header(name.clone(), value.clone())?;
    }
    run_response_filters(&mut response, context)?;
    let Some(mut chunks) = answer.body else {
        session.write_response_header(Box::new(response), true).await?;
        return Ok(true);
    };
    session.write_response_header(Box::new(response), false).await?;
    while let Some(chunk) = chunks.next().await {
        // A file that could not be read to its end leaves the response visibly short, never padded.
        let chunk = chunk.map_err(|error| Error::because(ErrorType::FileReadError, "static file", error))?;
        session.write_response_body(Some(chunk), false).await?;
    }
    session.write_response_body(None, true).await?;
    Ok(true)
}

/// Nobody answered. The client gets the route's error page, or one line that says what happened.
pub(crate) async fn error_page(session: &mut Session, error: &Error, context: &mut RequestContext) -> FailToProxy {
    let verdict = judge(error);
    let status = verdict.status;
    let cut_short = begun(session).is_some();
    if verdict.reason == "downstream_closed" || cut_short {
        // Nobody to tell, or already in the middle of a body: pingora cuts the connection, so the cut is visible.
        context.refused = Some(verdict);
        return FailToProxy {
            error_code: if cut_short { status.as_u16() } else { 0 },
            can_reuse_downstream: false,
        };
    }
    if let Err(error) = write_error_page(session, context, &verdict).await {
        tracing::debug!(%error, "the client left before its error page");
    }
    context.refused = Some(verdict);
    FailToProxy {
        error_code: status.as_u16(),
        can_reuse_downstream: false,
    }
}

async fn write_error_page(session: &mut Session, context: &mut RequestContext, verdict: &Verdict) -> Result<()> {
    let who = context.failure.as_ref().map(|failed| failed.who.clone());
    let mut response = ResponseHeader::build(verdict.status, Some(8))?;
    response.insert_header("proxy-status", verdict.proxy_status(who.as_deref()))?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    if verdict.status == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header(header::RETRY_AFTER, "1")?;
    }
    let body = match context.route().and_then(|route| route.error_page.clone()) {
        Some(page) => {
            response.insert_header(header::CONTENT_TYPE, "text/html; charset=utf-8")?;
            page
        }
        None => {
            response.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
            let phrase = verdict.status.canonical_reason().unwrap_or("Error");
            Bytes::from(format!("{} {phrase}\n", verdict.status.as_u16()))
        }
    };
    // What is left of the request body is not worth a connection.
    session.set_keepalive(None);
    send(session, context, response, body).await?;
    Ok(())
}
