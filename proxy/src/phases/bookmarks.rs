//! What a client has seen of databases: brought with the request, given back with the response. And what became of writes
//! that were answered before they were done.
//!
//! A response that is stored carries none of it: it is for everybody.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use selvedge_replication::bookmark::{Brought, COOKIE, Consistency, HEADER, QueuedWrite};
use selvedge_replication::client::{AgentClient, Level};
use serde_json::json;

use crate::context::{Attempt, RequestContext};

/// `strong`: reads see what the primary has now. `eventual`: what this machine has. Otherwise what the client has seen.
const CONSISTENCY: &str = "x-selvedge-consistency";
/// The levels of degradation, when there are any.
const LEVEL: &str = "x-selvedge-level";
/// Existing deployments work, nothing changes.
const CONTROL_LOST: &str = "5";
/// `queued`, when writes were answered before they were done; where to ask for them is in [`OPERATION`].
const WRITE: &str = "x-selvedge-write";
const OPERATION: &str = "x-selvedge-operation";
/// `GET` this path with `DATABASE/OPERATION` after it.
const OPERATIONS: &str = "/.well-known/selvedge/operations/";
/// How long a browser keeps a bookmark: longer than any replica is behind without being called stale.
const COOKIE_SECONDS: u32 = 300;
/// Seconds after which another try makes sense when the data layer could not answer.
const RETRY_AFTER: &str = "1";

/// What the request brought, by header or cookie.
pub(crate) fn of_request(request: &RequestHeader, context: &RequestContext) -> Arc<Brought> {
    let Some(agent) = &context.generation.agent else {
        return Arc::default();
    };
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let consistency = match header(CONSISTENCY).map(str::to_ascii_lowercase).as_deref() {
        Some("strong") => Consistency::Strong,
        Some("eventual") => Consistency::Eventual,
        _ => Consistency::Session,
    };
    let bookmark = header(HEADER)
        .or_else(|| cookie(request))
        .filter(|_| consistency != Consistency::Eventual);
    let key = agent.bookmark_key();
    let positions = key.zip(bookmark).map(|(key, text)| key.read(text)).unwrap_or_default();
    let writes = context.route().map(|route| route.writes).unwrap_or_default();
    Arc::new(Brought::new(positions, consistency, writes))
}

fn cookie(request: &RequestHeader) -> Option<&str> {
    let cookies = request.headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// Says what the client has seen now, what of its writes is still to be done, and how the data layer is.
pub(crate) fn describe(session: &Session, response: &mut ResponseHeader, context: &RequestContext) -> Result<()> {
    if context.control_lost {
        response.append_header(LEVEL, CONTROL_LOST)?;
    }
    let Some(agent) = &context.generation.agent else {
        return Ok(());
    };
    let level = context.generation.level();
    if level != Level::Normal {
        response.append_header(LEVEL, (level as u8).to_string())?;
    }
    let made_for_this_request = matches!(context.attempt, Attempt::Handler) && !context.cache.stored;
    let Some(seen) = context.brought.session.get().filter(|_| made_for_this_request) else {
        return Ok(());
    };
    if context.brought.was_unavailable() && response.status.is_server_error() {
        // The guest could only say that it failed; the client should know that it may try again.
        response.set_status(StatusCode::SERVICE_UNAVAILABLE)?;
        response.insert_header(header::RETRY_AFTER, RETRY_AFTER)?;
    }
    let queued = context.brought.queued_writes();
    if !queued.is_empty() {
        describe_queued(response, &queued)?;
    }
    match agent.bookmark_key().and_then(|key| seen.bookmark(&key)) {
        Some(bookmark) => give(session, response, &bookmark),
        None => Ok(()),
    }
}

fn give(session: &Session, response: &mut ResponseHeader, bookmark: &str) -> Result<()> {
    if cookie(session.req_header()) != Some(bookmark) {
        let cookie = format!("{COOKIE}={bookmark}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax");
        response.append_header(header::SET_COOKIE, cookie)?;
    }
    if let Ok(value) = HeaderValue::try_from(bookmark) {
        response.insert_header(HEADER, value)?;
    }
    Ok(())
}

/// A success that is not one yet is 202 (RFC 9110 section 15.3.3).
fn describe_queued(response: &mut ResponseHeader, queued: &[QueuedWrite]) -> Result<()> {
    if response.status.is_success() || response.status.is_redirection() {
        response.set_status(StatusCode::ACCEPTED)?;
    }
    response.insert_header(WRITE, "queued")?;
    for QueuedWrite { database, operation } in queued {
        response.append_header(OPERATION, format!("{OPERATIONS}{database}/{operation}"))?;
    }
    Ok(())
}

/// What became of a queued write, for whoever knows its id; `None` when the request does not ask for one.
pub(crate) async fn operation_status(
    request: &RequestHeader,
    context: &RequestContext,
) -> Option<Result<(ResponseHeader, Bytes)>> {
    let (database, id) = request.uri.path().strip_prefix(OPERATIONS)?.split_once('/')?;
    let agent = context.generation.agent.clone()?;
    Some(operation_response(&agent, database, id).await)
}

async fn operation_response(agent: &AgentClient, database: &str, id: &str) -> Result<(ResponseHeader, Bytes)> {
    let (status, state) = match agent.operation(database, id).await {
        Ok(state) if state["state"] == "unknown" => (StatusCode::NOT_FOUND, state),
        Ok(state) => (StatusCode::OK, state),
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            json!({ "operation": id, "state": "unknown", "code": error.code(), "message": error.to_string() }),
        ),
    };
    let mut response = ResponseHeader::build(status, Some(4))?;
    response.insert_header(header::CONTENT_TYPE, "application/json")?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header(header::RETRY_AFTER, RETRY_AFTER)?;
    }
    Ok((response, Bytes::from(format!("{state}\n"))))
}
