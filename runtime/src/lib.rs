//! The handler host: runs `wasi:http` components in this process, bounded and isolated.
//!
//! Read in this order: `engine` starts wasmtime and the handlers' own threads; `artifact` turns a component into machine
//! code once; `handler` links it to exactly its capabilities; `invocation` is one request through it; `instance` decides
//! how long an instance lives, `places` who gives way; `body` moves the bytes; `failure` names every way it can go wrong.
//!
//! Invariants: a guest's trap, limit or panic is its request's failure and never the process's; a response that did not
//! end cleanly is an error and never an end; a guest has no file, no socket, no environment and no database but those
//! its configuration names; no host call blocks an async thread. What is not promised: one process does not isolate
//! tenants against speculative side channels.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod artifact;
mod bindings;
mod body;
mod engine;
mod failure;
mod handler;
mod instance;
mod invocation;
mod output;
mod places;

pub use bindings::Bindings;
pub use body::{BodyRefused, RequestBody, RequestBodyWriter, request_body};
pub use engine::{Runtime, RuntimeSettings, StartError};
pub use failure::Failure;
pub use handler::{Handler, HandlerSpec, HandlerStats, LoadError};
pub use invocation::Invocation;
