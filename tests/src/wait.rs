//! Waiting for a condition, with a deadline that is only ever reached by a failing test.

use std::time::{Duration, Instant};

/// Long enough for a cold start on a busy machine; no passing test depends on it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at again.
const INTERVAL: Duration = Duration::from_millis(10);

/// Returns the value as soon as `condition` yields one.
///
/// # Panics
/// When the deadline passes, naming `what` was waited for.
pub async fn wait_for<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns as soon as `condition` holds; panics when the deadline passes.
pub async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, async || condition().then_some(())).await;
}

/// The output of `future`, which must come before the deadline.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {DEADLINE:?} in vain for {what}"),
    }
}
