//! Places for instances: how many there are is fixed when the process starts, and idle instances hold some of them.
//!
//! An instance of a 0.3 component waits for its next request in its place. When another handler is refused one, whoever has
//! been idle for longest gives up theirs; whoever is busy keeps it.

use std::{
    sync::{Arc, Weak},
    task::{Context, Waker},
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

#[derive(Debug, Default)]
pub(crate) struct Places {
    taken: Mutex<Vec<Weak<Place>>>,
    left: Notify,
}

/// One instance's place.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle_since: Option<Instant>,
    /// Somebody else needs the place.
    wanted: bool,
    waker: Option<Waker>,
}

impl Places {
    pub(crate) fn take(self: &Arc<Self>) -> Arc<Place> {
        let place = Arc::new(Place {
            places: Arc::clone(self),
            state: Mutex::default(),
        });
        let mut taken = self.taken.lock();
        taken.retain(|place| place.strong_count() > 0);
        taken.push(Arc::downgrade(&place));
        place
    }

    /// Asks whoever has been idle for longest to leave.
    pub(crate) fn ask_for_one(&self) {
        let taken: Vec<_> = self.taken.lock().iter().filter_map(Weak::upgrade).collect();
        let idle = taken.iter().filter_map(|place| Some((place.idle_since()?, place)));
        if let Some((_, place)) = idle.min_by_key(|(since, _)| *since) {
            place.ask_for();
        }
    }

    /// Resolves when a place is left after this call.
    pub(crate) fn left(&self) -> Notified<'_> {
        self.left.notified()
    }
}

impl Place {
    /// `None` while the instance is busy, or has been asked already.
    fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.idle_since.filter(|_| !state.wanted)
    }

    fn ask_for(&self) {
        let mut state = self.state.lock();
        state.wanted = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    pub(crate) fn busy(&self) {
        self.state.lock().idle_since = None;
    }

    /// Whether to leave now; otherwise `context` is woken when somebody asks.
    pub(crate) fn poll_idle(&self, context: &mut Context<'_>, since: Instant) -> bool {
        let mut state = self.state.lock();
        state.idle_since = Some(since);
        state.waker = Some(context.waker().clone());
        state.wanted
    }

    /// The instance is gone.
    pub(crate) fn leave(&self) {
        self.places.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_is_idle_for_longest_is_asked_and_nobody_who_is_busy() {
        let places = Arc::<Places>::default();
        let now = Instant::now();
        let mut context = Context::from_waker(Waker::noop());
        let [busy, young, old] = [(); 3].map(|()| places.take());
        assert!(!young.poll_idle(&mut context, now));
        assert!(!old.poll_idle(&mut context, now - Duration::from_secs(1)));
        busy.poll_idle(&mut context, now - Duration::from_secs(2));
        busy.busy();
        places.ask_for_one();
        assert!(old.poll_idle(&mut context, now));
        assert!(!young.poll_idle(&mut context, now), "one is enough");
        places.ask_for_one();
        assert!(young.poll_idle(&mut context, now), "the old one is on its way");
        places.ask_for_one();
        assert!(!busy.poll_idle(&mut context, now));
    }
}
