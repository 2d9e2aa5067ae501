//! How often a page that does not regenerate is tried again.
//!
//! A failed regeneration keeps the stale page. Without a pause every stale hit would start the next attempt, and a
//! handler that is down would be asked once per visitor. The pause doubles from 1 s to 30 s per page.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pingora_cache::key::HashBinary;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Pages remembered; when full, those whose pause is over are forgotten, then all.
const PAGES: usize = 10_000;

#[derive(Debug, Default)]
pub struct Backoff {
    failed: Mutex<HashMap<HashBinary, Pause>>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Backoff {
    /// Whether the page may be regenerated at `now`.
    pub fn allows(&self, page: &HashBinary, now: Instant) -> bool {
        self.failed.lock().get(page).is_none_or(|pause| now >= pause.until)
    }

    pub fn failed(&self, page: HashBinary, now: Instant) {
        let mut failed = self.failed.lock();
        if failed.len() >= PAGES {
            failed.retain(|_, pause| now < pause.until);
            if failed.len() >= PAGES {
                failed.clear();
            }
        }
        let length = failed
            .get(&page)
            .map_or(FIRST_PAUSE, |pause| (pause.length * 2).min(LONGEST_PAUSE));
        failed.insert(
            page,
            Pause {
                until: now + length,
                length,
            },
        );
    }

    pub fn succeeded(&self, page: &HashBinary) {
        self.failed.lock().remove(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_and_ends() {
        let (backoff, page, start) = (Backoff::default(), [7; 16], Instant::now());
        assert!(backoff.allows(&page, start));
        let mut now = start;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            backoff.failed(page, now);
            let pause = Duration::from_secs(seconds);
            assert!(
                !backoff.allows(&page, now + pause - Duration::from_millis(1)),
                "{seconds} s"
            );
            now += pause;
            assert!(backoff.allows(&page, now), "{seconds} s");
        }
        backoff.succeeded(&page);
        backoff.failed(page, now);
        assert!(backoff.allows(&page, now + FIRST_PAUSE), "a success starts over");
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        for page in 0..2 * PAGES as u128 {
            backoff.failed(page.to_be_bytes(), now);
        }
        assert!(backoff.failed.lock().len() <= PAGES);
    }
}
