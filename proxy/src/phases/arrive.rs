//! Phase 1: the header is complete.

use std::{sync::Arc, time::Duration};

use pingora_error::{Error, Result};
use pingora_proxy::Session;

use crate::{context::RequestContext, door, edge::Edge, fail};

/// A client that takes nothing for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long, in all, the rest of a request body is drained to keep the connection after an early answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn arrive(edge: &Edge, session: &mut Session, context: &mut RequestContext) -> Result<()> {
    door::header_complete();
    context.background = session.subrequest_ctx.is_some();
    if context.background {
        let place = Arc::clone(&edge.cache.regenerations).try_acquire_owned();
        context.regeneration = Some(place.map_err(|_| Error::new_in(fail::TOO_MANY_REGENERATIONS))?);
    }
    let limits = &context.generation.document.config.limits;
    // Set on every request: pingora's own default after the first one is to wait for ever. While draining, every answer
    // ends its connection, so that clients move on before the listeners close.
    // What pingora decided to close (`Connection: close`, HTTP/1.0, two framings at once) stays closed.
    let last = session.get_keepalive_reuses_remaining() == Some(0);
    let keepalive = session.get_keepalive().filter(|_| !last && !edge.is_draining());
    session.set_keepalive(keepalive.map(|_| limits.keepalive.as_secs().max(1)));
    session.set_read_timeout(Some(limits.body_timeout));
    session.set_write_timeout(Some(WRITE_TIMEOUT));
    session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
    Ok(())
}
