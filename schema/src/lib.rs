//! The configuration language: YAML as written → validated types as used.
//!
//! [`parse`] is the one way in. What it returns cannot be wrong in a way that the text alone shows: every name it
//! refers to exists, every number is in range, every pattern parses. What needs the outside world (does the component
//! compile, can the port be bound) is checked later and reported at the same positions through [`Document`].
//!
//! No I/O happens here, deliberately: the caller reads the file, the environment and secret files.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod check;
mod cidr;
mod config;
mod diagnostic;
mod document;
mod flag;
mod json_schema;
mod manifest;
mod not_yet;
mod pattern;
mod percent;
mod project;
pub mod sealed;
mod sites;
mod source;
mod substitute;
mod text;
mod units;
mod walk;
mod words;
mod written;
mod yaml;

pub use cidr::{Cidr, CidrError};
pub use config::*;
pub use diagnostic::{Colour, Diagnostic, Diagnostics, Severity};
pub use document::{Document, parse};
pub use flag::{Condition, Evaluated, Flag, FlagContext, FlagError, FlagRule, Reason, Serve};
pub use json_schema::{FilterSchema, json_schema, project_schema};
pub use manifest::{DEPLOYMENT_FILES, Finding, MANIFEST_KEYS, check_manifest, read_manifest};
pub use pattern::{HostPattern, PathPattern, PatternError, Segment};
pub use percent::{EscapeRefusal, canonical_escapes};
pub use project::{Build, Project, parse_project};
pub use sites::Sites;
pub use source::SourceMap;
pub use text::{ByteSize, PositiveDuration, Text, TextFormat};
