//! Phase 2: refuse what is ambiguous, normalise, find the route, run its filters, answer what needs no upstream.
//!
//! From here on the request line holds the normalised path: the bytes that were matched are the bytes that filters
//! authorise, that make the cache key and that are forwarded. What a filter rewrites passes through the same
//! normalisation again; neither the route nor the page's key change by that, so a page is purged by the URL clients use.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use selvedge_filters::{Filter, Flow, Response};
use selvedge_schema::{DoorLimits, FixedResponse, RedirectTarget};

use crate::{
    client,
    context::RequestContext,
    edge::Edge,
    fail::Refusal,
    generation::BuiltTarget,
    path,
    phases::{bookmarks, respond},
    pop::{Choice, DEPLOYMENT_FIELD, NothingServes},
    router::{Find, canonical_host},
};

/// `Ok(true)`: the response was sent.
pub(crate) async fn admit(edge: &Edge, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
    let identified = identify(edge, session, context);
    if let Ok(()) | Err(Refusal::NoRoute) = identified
        && let Some(response) = bookmarks::operation_status(session.req_header(), context).await
    {
        let (header, body) = response?;
        return respond::send(session, context, header, body).await;
    }
    if let Err(refusal) = identified {
        return refuse(edge, session, context, refusal).await;
    }
    match run_filters(session, context).await {
        Ok(None) => {}
        Ok(Some(response)) => {
            edge.metrics.refusal(response.reason);
            return respond::send_filter_response(session, context, response).await;
        }
        Err(refusal) => return refuse(edge, session, context, refusal).await,
    }
    answer_locally(edge, session, context).await
}

/// Everything that must be unambiguous before anybody acts on it: framing, host, path, route.
fn identify(edge: &Edge, session: &mut Session, context: &mut RequestContext) -> Result<(), Refusal> {
    let generation = Arc::clone(&context.generation);
    let config = &generation.document.config;
    let request = session.req_header();
    context.requested = String::from_utf8_lossy(request.raw_path()).into_owned();
    check_framing(request, &config.limits)?;
    check_single_framing(session)?;
    let request = session.req_header();
    context.authority = authority(request)?;
    context.host = canonical_host(&context.authority).ok_or(Refusal::Host)?;
    context.upgrade = request.headers.contains_key(header::UPGRADE);

    let peer = session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map(|address| address.ip());
    let encrypted = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    context.client = client::resolve(peer, encrypted, &session.req_header().headers, &config.trusted_proxies);

    normalise(session.req_header_mut())?;
    context.page_target = session.req_header().uri.clone();
    choose_version(edge, session.req_header_mut(), context)?;
    let generation = Arc::clone(&context.generation);
    let config = &generation.document.config;
    let request = session.req_header();
    let index = match generation
        .routing
        .find(&context.host, &request.method, request.uri.path())
    {
        Find::Route(index) => index,
        Find::MethodNotAllowed(allow) => {
            let allow: Vec<_> = allow.iter().map(Method::as_str).collect();
            return Err(Refusal::MethodNotAllowed(allow.join(", ")));
        }
        Find::NotFound => return Err(Refusal::NoRoute),
    };
    context.route = Some(index);
    let limit = match &generation.routes[index].target {
        BuiltTarget::Handler { slot, .. } => slot.request_body_limit().unwrap_or(config.limits.body_bytes),
        _ => config.limits.body_bytes,
    };
    if content_length(request).is_some_and(|length| length > limit.min(config.limits.body_bytes)) {
        return Err(Refusal::BodyTooLarge);
    }
    let (client, authority) = (context.client, context.authority.clone());
    client::replace_forwarding_fields(
        session.req_header_mut(),
        peer,
        &client,
        &authority,
        &config.trusted_proxies,
    )
    .map_err(|_| Refusal::Host)
}

/// A host that control has given to an app is answered by one of the app's versions.
fn choose_version(edge: &Edge, request: &mut RequestHeader, context: &mut RequestContext) -> Result<(), Refusal> {
    let sites = edge.sites.load();
    let choice = sites.choose(&context.host, request, context.client.address, context.background);
    request.remove_header(DEPLOYMENT_FIELD);
    if let Some(Choice { generation, cookies }) = choice.map_err(|NothingServes| Refusal::NothingServes)? {
        let deployment = generation.deployment.as_ref().map_or("", |deployment| &deployment.id);
        request
            .insert_header(DEPLOYMENT_FIELD, deployment)
            .map_err(|_| Refusal::NothingServes)?;
        context.generation = generation;
        context.cookies = cookies;
    }
    Ok(())
}

/// RFC 9112 section 6.3 and 3.2, strictly: what two parsers could read differently is refused, not repaired.
fn check_framing(request: &RequestHeader, limits: &DoorLimits) -> Result<(), Refusal> {
    let size: usize = request
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if (size + request.raw_path().len()) as u64 > limits.header_bytes {
        return Err(Refusal::HeaderTooLarge);
    }
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let valid = !digits.is_empty() && digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit);
        if !valid || lengths.next().is_some() || request.headers.contains_key(header::TRANSFER_ENCODING) {
            return Err(Refusal::Framing);
        }
    }
    let mut codings = request.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return Err(Refusal::Framing);
    }
    Ok(())
}

/// pingora drops `Content-Length` where `Transfer-Encoding` stands beside it (RFC 9112 section 6.1 allows that); here such
/// a request is refused, since whoever was in front may have read it the other way.
fn check_single_framing(session: &Session) -> Result<(), Refusal> {
    if !session.req_header().headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(());
    }
    let Some(http1) = session.as_downstream().as_http1() else {
        return Ok(());
    };
    let raw = http1.get_headers_raw_bytes();
    let is_length = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"content-length")
    };
    match raw.split(|byte| *byte == b'\n').skip(1).any(is_length) {
        true => Err(Refusal::Framing),
        false => Ok(()),
    }
}

fn content_length(request: &RequestHeader) -> Option<u64> {
    request.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Host and port as addressed: `:authority` or exactly one `Host` (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn authority(request: &RequestHeader) -> Result<String, Refusal> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::Host);
    }
    let host = host.map(|host| host.to_str().map_err(|_| Refusal::Host)).transpose()?;
    match (request.uri.authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => Err(Refusal::Host),
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) => Ok(host.to_owned()),
        // HTTP/1.0 may come without; it can only match routes for any host.
        (None, None) if request.version == http::Version::HTTP_10 => Ok("localhost".to_owned()),
        (None, None) => Err(Refusal::Host),
    }
}

/// Rewrites the request target to origin form with the normalised path; the query is kept byte for byte.
pub(crate) fn normalise(request: &mut RequestHeader) -> Result<(), Refusal> {
    let raw = request.uri.path_and_query().map_or("/", |target| target.as_str());
    if raw == "*" {
        return Ok(());
    }
    let (raw_path, query) = match raw.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (raw, None),
    };
    let normal = path::normalise(raw_path.as_bytes()).map_err(Refusal::Path)?;
    let target = match query {
        Some(query) => format!("{}?{query}", normal.as_str()),
        None => normal.as_str().to_owned(),
    };
    let uri = target.parse().map_err(|_| Refusal::Framing)?;
    request.set_uri(uri);
    Ok(())
}

/// Runs the route's filters in the order written; the first that answers ends it.
async fn run_filters(session: &mut Session, context: &mut RequestContext) -> Result<Option<Response>, Refusal> {
    let generation = Arc::clone(&context.generation);
    let Some(route) = context.route.map(|index| &generation.routes[index]) else {
        return Ok(None);
    };
    let before = session.req_header().uri.clone();
    for filter in &route.filters {
        // A regeneration repeats a request that was admitted when its page was served stale.
        if context.background && filter.is_admission() {
            continue;
        }
        context.filters_entered += 1;
        if let Flow::Respond(response) = ask(&**filter, session, context, &route.name).await {
            return Ok(Some(response));
        }
    }
    if session.req_header().uri != before {
        normalise(session.req_header_mut()).map_err(|_| Refusal::Rewrite)?;
    }
    Ok(None)
}

async fn ask(filter: &dyn Filter, session: &mut Session, context: &mut RequestContext, route: &str) -> Flow {
    let head = session.req_header_mut();
    let path = head.uri.path().to_owned();
    let mut request = selvedge_filters::Request {
        head,
        client: &context.client,
        host: &context.host,
        path: &path,
        route,
        state: &mut context.filter_state,
    };
    filter.on_request(&mut request).await
}

/// Static files, redirects and fixed responses end here; `Ok(false)` goes on to the cache and the upstream.
async fn answer_locally(edge: &Edge, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
    let generation = Arc::clone(&context.generation);
    let Some(route) = context.route.map(|index| &generation.routes[index]) else {
        return Ok(false);
    };
    match &route.target {
        BuiltTarget::Handler { .. } | BuiltTarget::Upstream(_) => Ok(false),
        BuiltTarget::Static(site) => {
            let request = session.req_header();
            let rest = generation.document.config.routes[context.route.unwrap_or_default()]
                .matcher
                .path
                .rest(request.uri.path());
            match site
                .answer(&request.method, rest, request.uri.path(), &request.headers)
                .await
            {
                Ok(answer) => respond::send_static(session, context, answer).await,
                Err(refusal) => refuse(edge, session, context, refusal).await,
            }
        }
        BuiltTarget::Redirect(redirect) => {
            let response = redirect_response(redirect, session.req_header())?;
            respond::send(session, context, response, Bytes::new()).await
        }
        BuiltTarget::Respond(fixed) => {
            let response = fixed_response(fixed)?;
            respond::send(session, context, response, Bytes::from(fixed.body.clone())).await
        }
    }
}

fn redirect_response(redirect: &RedirectTarget, request: &RequestHeader) -> Result<ResponseHeader> {
    let mut response = ResponseHeader::build(redirect.status, Some(4))?;
    let location = match request.uri.query() {
        Some(query) if !redirect.to.contains('?') => format!("{}?{query}", redirect.to),
        _ => redirect.to.clone(),
    };
    response.insert_header(header::LOCATION, location)?;
    Ok(response)
}

fn fixed_response(fixed: &FixedResponse) -> Result<ResponseHeader> {
    let mut response = ResponseHeader::build(fixed.status, Some(4))?;
    response.insert_header(header::CONTENT_TYPE, fixed.content_type.as_str())?;
    Ok(response)
}

async fn refuse(edge: &Edge, session: &mut Session, context: &mut RequestContext, refusal: Refusal) -> Result<bool> {
    let verdict = refusal.verdict();
    edge.metrics.refusal(verdict.reason);
    let mut response = ResponseHeader::build(verdict.status, Some(6))?;
    response.insert_header("proxy-status", verdict.proxy_status(None))?;
    if let Refusal::MethodNotAllowed(allow) = &refusal {
        let allow = HeaderValue::from_str(allow).unwrap_or(HeaderValue::from_static(""));
        response.insert_header(header::ALLOW, allow)?;
    }
    if let Refusal::Range(size) = &refusal {
        response.insert_header(header::CONTENT_RANGE, format!("bytes */{size}"))?;
    }
    // Whoever frames a request ambiguously does not get a second one on the same connection.
    if verdict.status != StatusCode::NOT_FOUND && verdict.status != StatusCode::METHOD_NOT_ALLOWED {
        session.set_keepalive(None);
    }
    let body = Bytes::from(format!(
        "{} {}\n",
        verdict.status.as_u16(),
        verdict.reason.replace('_', " ")
    ));
    response.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    context.refused = Some(verdict);
    respond::send(session, context, response, body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).expect("valid");
        for (name, value) in headers {
            request.append_header((*name).to_owned(), *value).expect("valid");
        }
        request
    }

    #[test]
    fn framing_that_two_parsers_could_read_differently_is_refused() {
        let limits = DoorLimits::default();
        for (headers, refused) in [
            (&[][..], None),
            (&[("content-length", "5")], None),
            (&[("transfer-encoding", "chunked")], None),
            (
                &[("content-length", "5"), ("content-length", "5")],
                Some(Refusal::Framing),
            ),
            (&[("content-length", "5, 5")], Some(Refusal::Framing)),
            (&[("content-length", "+5")], Some(Refusal::Framing)),
            (&[("content-length", "0x5")], Some(Refusal::Framing)),
            (&[("content-length", "")], Some(Refusal::Framing)),
            (&[("content-length", "99999999999999999999")], Some(Refusal::Framing)),
            (
                &[("content-length", "5"), ("transfer-encoding", "chunked")],
                Some(Refusal::Framing),
            ),
            (&[("transfer-encoding", "gzip, chunked")], Some(Refusal::Framing)),
            (
                &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                Some(Refusal::Framing),
            ),
        ] {
            assert_eq!(check_framing(&request(headers), &limits).err(), refused, "{headers:?}");
        }
    }

    #[test]
    fn exactly_one_host_that_agrees_with_the_target() {
        assert_eq!(
            authority(&request(&[("host", "a.example:80")])).as_deref(),
            Ok("a.example:80")
        );
        assert_eq!(authority(&request(&[])), Err(Refusal::Host));
        assert_eq!(authority(&request(&[("host", "a"), ("host", "b")])), Err(Refusal::Host));
    }
}
