//! The life of a deployment: a closed state machine, without I/O.
//!
//! ```text
//! uploaded ──prepared by every PoP──▶ prepared ──activate──▶ active ──replaced──▶ retired ──activate──▶ active
//!     └──────────a PoP fails──────────▶ failed ──prepared by every PoP, after all──▶ prepared
//! ```

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Control has all of it.
    Uploaded,
    /// Every PoP could serve it.
    Prepared,
    /// It serves, or takes part in a rollout.
    Active,
    /// It has served.
    Retired,
    /// A PoP could not prepare it.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Every live PoP says it could serve it.
    PreparedEverywhere,
    /// A PoP says it could not.
    FailedSomewhere,
    /// It shall serve.
    Activate,
    /// Another serves in its place.
    Replaced,
}

impl State {
    pub(crate) const ALL: [State; 5] = [
        State::Uploaded,
        State::Prepared,
        State::Active,
        State::Retired,
        State::Failed,
    ];

    /// What it becomes; `None` when the event is not for this state.
    pub(crate) fn on(self, event: Event) -> Option<State> {
        match (self, event) {
            (State::Uploaded | State::Failed, Event::PreparedEverywhere) => Some(State::Prepared),
            // One that serves stays, whatever a PoP says that joins later: the others serve it.
            (State::Uploaded | State::Prepared, Event::FailedSomewhere) => Some(State::Failed),
            (State::Prepared | State::Active | State::Retired, Event::Activate) => Some(State::Active),
            (State::Active, Event::Replaced) => Some(State::Retired),
            _ => None,
        }
    }

    /// The states an event is for.
    pub(crate) fn before(event: Event) -> impl Iterator<Item = State> {
        State::ALL.into_iter().filter(move |state| state.on(event).is_some())
    }
}

/// What one PoP says of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    Prepared,
    Active,
    Failed,
}

/// What the PoPs say together; `None` while one has not said anything. With none there, all of them agree.
pub(crate) fn judge(live: impl IntoIterator<Item = Option<Said>>) -> Option<Event> {
    let mut event = Some(Event::PreparedEverywhere);
    for said in live {
        match said {
            Some(Said::Failed) => return Some(Event::FailedSomewhere),
            Some(Said::Prepared | Said::Active) => {}
            None => event = None,
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::*;
    use State::*;

    #[test]
    fn every_state_and_event() {
        let expected = [
            (Uploaded, [Some(Prepared), Some(Failed), None, None]),
            (Prepared, [None, Some(Failed), Some(Active), None]),
            (Active, [None, None, Some(Active), Some(Retired)]),
            (Retired, [None, None, Some(Active), None]),
            (Failed, [Some(Prepared), None, None, None]),
        ];
        assert_eq!(expected.map(|(state, _)| state), State::ALL);
        for (state, after) in expected {
            let events = [PreparedEverywhere, FailedSomewhere, Activate, Replaced];
            assert_eq!(events.map(|event| state.on(event)), after, "{state:?}");
        }
        assert_eq!(State::before(Activate).collect::<Vec<_>>(), [Prepared, Active, Retired]);
    }

    #[test]
    fn pops_together() {
        for (said, expected) in [
            (vec![], Some(PreparedEverywhere)),
            (vec![Some(Said::Prepared), Some(Said::Active)], Some(PreparedEverywhere)),
            (vec![Some(Said::Prepared), None], None),
            (vec![None, Some(Said::Failed)], Some(FailedSomewhere)),
        ] {
            assert_eq!(judge(said.clone()), expected, "{said:?}");
        }
    }
}
