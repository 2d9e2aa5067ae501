//! The control plane: apps, deployments, configuration, keys and PoPs, behind one API.
//!
//! In the order to read: `settings` says where everything is, `server` puts it together, `api` answers, `auth` judges who
//! asks, and `store` holds all SQL. The rest decides without I/O: `deployment` is a deployment's life, `difference` how two of them differ, `fleet` who has which
//! revision, `chain` the audit log's hashes. Blobs are in `artifacts`; `vault` keeps secrets, and `sealing` brings them to
//! PoPs. `webhooks` tells others what happened.
//!
//! Control has no database of its own. It is to its agent what the proxy is: it reads the replicated `_config` and
//! `_control` from the agent's files, and writes through the agent. PoPs serve without it.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod settings;

mod server;

mod api;

mod auth;

mod store;

mod artifacts;

mod vault;

mod sealing;

mod webhooks;

mod deployment;

mod difference;

mod databases;

mod compatible;

mod fleet;

mod chain;

pub use auth::key::Key;
pub use server::{ControlError, Started, openapi, run};
pub use settings::ControlSettings;
pub use store::{CONFIG, CONTROL, StoreError};
