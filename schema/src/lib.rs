//! The configuration language: YAML as written → validated types as used.
//!
//! [`parse`] is the one way in. What it returns cannot be wrong in a way that the text alone shows: every name it
//! refers to exists, every number is in range, every pattern parses. What needs the outside world (does the component
//! compile, can the port be bound) is checked later and reported at the same positions through [`Document`].
//!
//! No I/O happens here, deliberately: the caller reads the file, the environment and secret files.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod cidr;
mod config;
mod pattern;
mod percent;

pub use cidr::{Cidr, CidrError};
pub use config::*;
pub use pattern::{HostPattern, PathPattern, PatternError, Segment};
pub use percent::{EscapeRefusal, canonical_escapes};
