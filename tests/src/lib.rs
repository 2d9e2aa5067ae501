//! What the end-to-end tests stand on: the real executable, real peers, and an origin that does as it is told.
//!
//! Nothing here links the code under test. A test meets the edge as a user does: a configuration file, sockets, signals,
//! the log. Everything listens on a free port, lives in a temporary directory, ends by its process id, and waits for a
//! condition with a deadline, never for a duration. Whatever fails, fails by panicking with the edge's log in the text.

pub mod agent;
pub mod control;
pub mod developer;
pub mod edge;
pub mod executable;
pub mod network;
pub mod platform;
pub mod process;
pub mod wait;

pub mod origin;
pub mod reply;

pub mod client;
pub mod raw;
pub mod wire;

pub mod certificate;
pub mod disk;
pub mod nginx;
pub mod node;
pub mod peer;
pub mod postgres;

pub use agent::Agent;
pub use control::Control;
pub use developer::Developer;
pub use edge::Edge;
pub use network::Network;
pub use nginx::Nginx;
pub use origin::Origin;
pub use platform::Platform;
pub use postgres::Postgres;
pub use raw::Connection;
pub use reply::{Gate, Reply};
pub use wait::wait_until;
