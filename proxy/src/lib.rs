//! The edge on pingora: from a socket to a response.
//!
//! Read `edge` first: it lists the phases of a request in order. Then `phases`, in the order of its `mod` lines. What a
//! phase uses stands in a file of its own, named by what it is. `server` runs an edge as a process; somebody with a
//! pingora server of their own uses [`Edge::open`] and [`Edge::service`] instead.
//!
//! Invariants: a request sees one configuration from its first phase to its last; an error becomes a status only in
//! `fail`; only `handler_session` implements pingora's hidden custom traits.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod context;
mod edge;
mod phases;

mod admin;
mod backlog;
mod generation;
mod open;
mod pop;
mod server;

mod client;
mod door;
mod fail;
mod handler_session;
mod path;
mod response_cache;
mod router;
mod socket;
mod static_files;
mod upload;
mod upstreams;

mod access_log;
mod metrics;
mod tls;

pub use admin::{Operator, router as admin_router};
pub use edge::{Edge, EdgeProxy, OpenError};
pub use generation::Generation;
pub use handler_session::{HandlerCall, HandlerConnector, HandlerSession, handler_peer};
pub use open::{check, read_configuration};
pub use server::{RunError, RunOptions, run};
