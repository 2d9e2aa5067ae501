//! The response cache: which page a request means, how long a page is fresh, where it is kept.
//!
//! Read in this order: `key` (which page), `freshness` (may it be stored, and for how long), `memory` and `fill` (where
//! it is kept and how it is written while it is read), `backoff` (how often a page that does not regenerate is tried).
//! The state machine between them is pingora's; the phases of the proxy drive it.
//!
//! Invariants: a response is stored only when it is proven storable; a fill that did not end completely is an error for
//! its readers and leaves what was stored before; the bytes of a purged page are never served again.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod backoff;
mod fill;
mod freshness;
mod key;
mod memory;

pub use backoff::Backoff;
pub use freshness::{Decision, DoNotStore, Plan, RequestFacts, connection_nominated, decide, strip_before_storing};
pub use key::{KeyParts, cache_key, keyed_query};
pub use memory::{MemoryHit, MemoryStorage, StorageStats};
