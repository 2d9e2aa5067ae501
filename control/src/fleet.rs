//! Which PoPs are heard, and which revision each has acknowledged. In memory: after a restart, as soon as each has reported.
//!
//! Nobody polls: who waits for a revision is woken by the report that completes it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

/// A PoP not heard for longer is not waited for. It reports every few seconds.
pub(crate) const LIVE_MS: i64 = 30_000;
/// Acknowledgements remembered of each PoP, with their times.
const REMEMBERED: usize = 256;

#[derive(Default)]
pub(crate) struct Fleet {
    pops: watch::Sender<BTreeMap<String, Heard>>,
}

#[derive(Debug, Clone, Default)]
struct Heard {
    seen_ms: i64,
    /// Revision, and when it was acknowledged first; rising.
    acknowledged: VecDeque<(i64, i64)>,
}

/// Which PoPs have a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Propagation {
    pub(crate) revision: i64,
    /// Whether every live PoP has it.
    pub(crate) propagated: bool,
    pub(crate) pops: BTreeMap<String, Acknowledgement>,
}

/// What is known of one PoP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Acknowledgement {
    /// Whether it was heard lately; others are not waited for.
    pub(crate) live: bool,
    /// When it said that it has the revision, or a later one.
    pub(crate) acknowledged_ms: Option<i64>,
}

impl Fleet {
    /// A PoP says which revision it has; what is older than what it had before is a PoP that was set back, and counts.
    pub(crate) fn hear(&self, pop: &str, revision: i64, at_ms: i64) {
        self.pops.send_modify(|pops| {
            let heard = pops.entry(pop.to_owned()).or_default();
            heard.seen_ms = heard.seen_ms.max(at_ms);
            while heard.acknowledged.back().is_some_and(|(newest, _)| *newest > revision) {
                heard.acknowledged.pop_back();
            }
            if heard.acknowledged.back().is_none_or(|(newest, _)| *newest < revision) {
                heard.acknowledged.push_back((revision, at_ms));
            }
            if heard.acknowledged.len() > REMEMBERED {
                heard.acknowledged.pop_front();
            }
        });
    }

    pub(crate) fn forget(&self, pop: &str) {
        self.pops.send_modify(|pops| drop(pops.remove(pop)));
    }

    pub(crate) fn live(&self, now_ms: i64) -> Vec<String> {
        let pops = self.pops.borrow();
        let live = pops.iter().filter(|(_, heard)| heard.is_live(now_ms));
        live.map(|(name, _)| name.clone()).collect()
    }

    /// Returns when every live PoP has the revision, or after `patience`.
    pub(crate) async fn wait(&self, revision: i64, patience: Duration, now_ms: impl Fn() -> i64) -> Propagation {
        let mut pops = self.pops.subscribe();
        let done = pops.wait_for(|pops| propagation(pops, revision, now_ms()).propagated);
        // In time or not, what is known now is told.
        let _ = tokio::time::timeout(patience, done).await;
        let pops = self.pops.borrow();
        propagation(&pops, revision, now_ms())
    }
}

impl Heard {
    fn is_live(&self, now_ms: i64) -> bool {
        now_ms - self.seen_ms <= LIVE_MS
    }

    fn acknowledged_ms(&self, revision: i64) -> Option<i64> {
        let first = self
            .acknowledged
            .iter()
            .find(|(acknowledged, _)| *acknowledged >= revision);
        first.map(|(_, at_ms)| *at_ms)
    }
}

fn propagation(pops: &BTreeMap<String, Heard>, revision: i64, now_ms: i64) -> Propagation {
    let known = pops.iter().map(|(name, heard)| {
        let acknowledgement = Acknowledgement {
            live: heard.is_live(now_ms),
            acknowledged_ms: heard.acknowledged_ms(revision),
        };
        (name.clone(), acknowledgement)
    });
    let pops: BTreeMap<_, _> = known.collect();
    Propagation {
        revision,
        propagated: pops.values().all(|pop| !pop.live || pop.acknowledged_ms.is_some()),
        pops,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_pops_must_have_it() {
        let fleet = Fleet::default();
        let look = |revision, now_ms| propagation(&fleet.pops.borrow(), revision, now_ms);
        assert!(look(1, 0).propagated, "nobody is waited for");
        fleet.hear("one", 1, 100);
        fleet.hear("two", 3, 100);
        assert!(look(1, 200).propagated);
        assert!(!look(2, 200).propagated);
        assert_eq!(look(2, 200).pops["two"].acknowledged_ms, Some(100));
        fleet.hear("one", 2, 300);
        assert!(look(2, 300).propagated);
        fleet.hear("one", 2, 400);
        assert_eq!(look(2, 400).pops["one"].acknowledged_ms, Some(300));
        // Set back to what it had before.
        fleet.hear("one", 1, 500);
        assert!(!look(2, 500).propagated);
        assert!(look(2, 500 + LIVE_MS + 1).propagated, "nobody is heard any more");
        fleet.forget("one");
        assert!(look(3, 500).propagated);
        assert_eq!(fleet.live(500), ["two"]);
    }

    #[tokio::test]
    async fn the_last_report_wakes_who_waits() {
        let fleet = Fleet::default();
        fleet.hear("one", 1, 0);
        let report = async {
            tokio::task::yield_now().await;
            fleet.hear("one", 2, 0);
        };
        let (told, ()) = tokio::join!(fleet.wait(2, Duration::from_secs(60), || 0), report);
        assert!(told.propagated);
        assert!(!fleet.wait(3, Duration::ZERO, || 0).await.propagated);
    }
}
