//! When a running statement must stop: at its deadline, or when whoever asked has gone.
//!
//! SQLite asks us every thousand instructions. We do not use `sqlite3_interrupt`: it hits whatever runs on the
//! connection when it arrives, which after a late cancellation is the next reader's statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::SqlError;

/// Set by the asker's side, looked at by the statement's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancellation(Arc<AtomicBool>);

/// The limits of what runs on one connection now.
#[derive(Clone, Default)]
pub(crate) struct Deadline(Arc<Mutex<Running>>);

#[derive(Default)]
struct Running {
    limit: Option<Duration>,
    ends: Option<Instant>,
    cancellation: Cancellation,
    stopped: Option<Stop>,
}

#[derive(Clone, Copy)]
enum Stop {
    Expired,
    Cancelled,
}

impl Cancellation {
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Deadline {
    /// What runs from now on stops after `limit` or on cancellation.
    pub(crate) fn start(&self, limit: Duration, cancellation: Cancellation) {
        *self.0.lock() = Running {
            limit: Some(limit),
            ends: Instant::now().checked_add(limit),
            cancellation,
            stopped: None,
        };
    }

    /// What runs from now on is ours and has no limit.
    pub(crate) fn clear(&self) {
        *self.0.lock() = Running::default();
    }

    /// SQLite's question; `true` stops the statement.
    pub(crate) fn must_stop(&self) -> bool {
        let mut running = self.0.lock();
        if running.cancellation.is_cancelled() {
            running.stopped = Some(Stop::Cancelled);
        } else if running.ends.is_some_and(|ends| Instant::now() >= ends) {
            running.stopped = Some(Stop::Expired);
        }
        running.stopped.is_some()
    }

    /// Why we stopped the statement that just failed, if we did.
    pub(crate) fn stopped(&self) -> Option<SqlError> {
        let running = self.0.lock();
        running.stopped.map(|stop| match stop {
            Stop::Expired => SqlError::Timeout {
                limit: running.limit.unwrap_or_default(),
            },
            Stop::Cancelled => SqlError::Cancelled,
        })
    }
}
