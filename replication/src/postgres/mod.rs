//! PostgreSQL for handlers: an existing database, reached through a bounded pool of connections at the primary site.
//!
//! A statement's way, in the order of the files: `client` sends it from the proxy to the agent of its machine, which
//! forwards it to the primary's agent; there `session` refuses what only makes sense on a connection of one's own,
//! `pool` runs it, `parameter` writes the values it was given and `column` reads those it returns.
//!
//! Invariants:
//! * Only the primary's agent holds an address and a password, and only it connects.
//! * One statement is one transaction. No connection remembers anything of a statement for the next one.
//! * A statement that was sent is never sent again: whoever is told that the connection was lost decides.
//! * Waiting, running and results are bounded; the numbers are in `bounds.rs` and in the settings.
//!
//! Deliberately absent: transactions over several statements, COPY, LISTEN, and a cache of prepared statements, which
//! would have to be invalidated by whatever changes tables there.

mod value;

mod settings;

mod error;

pub(crate) mod client;

mod session;

pub(crate) mod pool;

mod tls;

mod parameter;

mod column;

mod civil;

pub use client::Postgres;
pub use error::{DatabaseError, PostgresError, PostgresOpenError};
pub use settings::PostgresSettings;
pub use value::{Bound, Column, DataType, Interval, Range, RowSet, Value};
