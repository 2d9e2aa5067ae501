//! A local SQLite database as applications see it: one writer, a pool of readers, bounded in every direction.
//!
//! Invariants:
//! * One connection writes, on its own thread. A write is acknowledged after `COMMIT` with `synchronous=FULL` returned.
//! * Readers see whole transactions only, and every write acknowledged before they began.
//! * Which of the two runs a statement is SQLite's judgement on the prepared statement, never ours on its text.
//! * Application SQL reaches SQLite through the guard: one database, no temporary state on a shared connection, no
//!   pragma that changes anything, nothing of ours.
//! * Every wait, statement, result and queue is bounded; the numbers are in `bounds.rs`.
//!
//! The only crate of the edge that links SQLite. It knows nothing of routes, requests or guests.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod value;

mod settings;

mod database;

mod readers;

mod writer;

mod execute;

mod describe;

mod savepoint;

mod read_transaction;

mod guard;

mod deadline;

mod connection;

pub mod migrate;

mod bounds;

mod linked;

mod error;

mod stats;

pub mod position;

pub mod ltx;

pub mod checksum;

mod sums;

mod damage;

mod wal;

pub mod log;

mod pages;

mod publish;

mod operations;

pub mod folder;

mod recorded;

pub mod replica;

pub mod snapshot;

pub mod store;

pub mod queue;

pub mod bookmark;

pub mod lease;

pub mod agent;

pub mod client;

pub mod dump;

pub mod offline;

pub mod postgres;
mod replica_file;
pub mod script;

mod hrana;

mod encoding;

mod plant;

pub use database::{Database, Interactive};
pub use describe::{DescribedColumn, Description};
pub use error::{MigrationError, OpenError, PublishError, SqlError, chain};
pub use guard::Refusal;
pub use publish::Publication;
pub use savepoint::Savepoint;
pub use settings::DatabaseSettings;
pub use stats::DatabaseStats;
pub use value::{Rows, Statement, Value};
pub use writer::Committed;
