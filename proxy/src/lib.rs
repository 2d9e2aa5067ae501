//! The edge on pingora, as far as it stands: a handler as an upstream, the door of a connection, errors as statuses.
//!
//! `handler_session` lets a wasm invocation answer wherever pingora expects an upstream; `door` bounds what a connection
//! may cost before and between its requests; `fail` is the only place where an error becomes a status.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod door;
mod fail;
mod handler_session;

pub use door::{ConnectionCount, Place, header_complete, http1_loop};
pub use fail::{BODY_TOO_LARGE, Blame, Refusal, Verdict, judge};
pub use handler_session::{HandlerCall, HandlerConnector, HandlerSession, handler_peer};
