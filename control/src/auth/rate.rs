//! How often a key may ask: a bucket each.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// A command line or a CI job asks a few times a second; a PoP, once. What asks more often is a loop.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// At once: a deployment asks for each of its blobs.
const BURST: NonZeroU32 = NonZeroU32::new(1_000).expect("not zero");
/// Requests between two looks at which keys can be forgotten.
const SWEEP_EVERY: u32 = 4096;

pub(crate) struct Rates {
    limiter: RateLimiter<String, HashMapStateStore<String>, DefaultClock>,
    asked: AtomicU32,
}

impl Default for Rates {
    fn default() -> Self {
        Rates::of(Quota::per_second(PER_SECOND).allow_burst(BURST))
    }
}

impl Rates {
    fn of(quota: Quota) -> Rates {
        Rates {
            limiter: RateLimiter::hashmap(quota),
            asked: AtomicU32::new(0),
        }
    }

    /// Seconds to wait, if this key has asked too often.
    pub(crate) fn check(&self, id: &str) -> Result<(), u32> {
        if self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_EVERY) {
            self.limiter.retain_recent();
        }
        let wait = |until: governor::NotUntil<_>| until.wait_time_from(DefaultClock::default().now());
        let outcome = self.limiter.check_key(&id.to_owned());
        outcome.map_err(|until| {
            u32::try_from(wait(until).as_secs())
                .unwrap_or(u32::MAX)
                .saturating_add(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own() {
        let rates = Rates::of(Quota::per_hour(NonZeroU32::MIN));
        assert_eq!(rates.check("one"), Ok(()));
        assert!(rates.check("one").is_err_and(|seconds| seconds > 60));
        assert_eq!(rates.check("other"), Ok(()));
    }
}
