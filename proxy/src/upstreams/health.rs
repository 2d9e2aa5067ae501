//! Whether a server may be sent requests: a state machine over what checks and requests say.
//!
//! Events go in with the time they happened; no clock, no socket and no timer is here. Two kinds of evidence count: an
//! active check (thresholds from the configuration) and what becomes of real requests (passive). With active
//! checks configured only a check brings a server back; without them time does.

use std::time::{Duration, Instant};

/// Requests that fail in a row before a server is left alone. Three, so that one broken connection or one full accept
/// queue does not move all traffic, and a dead machine costs three requests at most.
pub(super) const FAILURES: u32 = 3;

/// How long a server without active checks is left alone after that. The next request then tries it; one more
/// failure is enough for the next pause.
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// Active checks: successes in a row that bring a server back, failures in a row that take it out.
    Checked {
        healthy: u32,
        unhealthy: u32,
    },
    Unchecked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    CheckPassed,
    CheckFailed,
    /// A request got an answer, whatever its status.
    Answered,
    /// A request got none: no connection, or it broke or stayed silent too long.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Up,
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// Out until this many checks in a row pass.
    AwaitingChecks(u32),
    /// Out until then; afterwards on probation.
    Paused(Instant),
}

/// A server counts as healthy until something says otherwise.
#[derive(Debug)]
pub(super) struct Health {
    state: State,
    check_failures: u32,
    request_failures: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: State::Up,
            check_failures: 0,
            request_failures: 0,
        }
    }
}

impl Health {
    pub(super) fn is_up(&self, now: Instant) -> bool {
        match self.state {
            State::Up => true,
            State::AwaitingChecks(_) => false,
            State::Paused(until) => now >= until,
        }
    }

    /// Failed checks or failed requests in a row, whichever are more.
    pub(super) fn consecutive_failures(&self) -> u32 {
        self.check_failures.max(self.request_failures)
    }

    /// Takes one event in; says so when the server went up or down by it.
    pub(super) fn observe(&mut self, event: Event, rules: Rules, now: Instant) -> Option<Change> {
        match event {
            Event::CheckPassed => {
                self.check_failures = 0;
                self.request_failures = 0;
            }
            Event::CheckFailed => self.check_failures = self.check_failures.saturating_add(1),
            Event::Answered => self.request_failures = 0,
            Event::Failed => self.request_failures = self.request_failures.saturating_add(1),
        }
        let before = self.state;
        self.state = self.next(event, rules, now);
        match (before, self.state) {
            (State::Up, State::AwaitingChecks(_) | State::Paused(_)) => Some(Change::Down),
            (State::AwaitingChecks(_) | State::Paused(_), State::Up) => Some(Change::Up),
            _ => None,
        }
    }

    fn next(&self, event: Event, rules: Rules, now: Instant) -> State {
        match (self.state, event, rules) {
            (State::Up, Event::CheckFailed, Rules::Checked { healthy, unhealthy })
                if self.check_failures >= unhealthy =>
            {
                State::AwaitingChecks(healthy)
            }
            (State::Up, Event::Failed, rules) if self.request_failures >= FAILURES => match rules {
                Rules::Checked { .. } => State::AwaitingChecks(1),
                Rules::Unchecked => State::Paused(now + PAUSE),
            },
            (State::AwaitingChecks(needed), Event::CheckPassed, _) => match needed.saturating_sub(1) {
                0 => State::Up,
                needed => State::AwaitingChecks(needed),
            },
            (State::AwaitingChecks(_), Event::CheckFailed, Rules::Checked { healthy, .. }) => {
                State::AwaitingChecks(healthy)
            }
            (State::Paused(_), Event::Answered | Event::CheckPassed, _) => State::Up,
            (State::Paused(_), Event::Failed, _) => State::Paused(now + PAUSE),
            (state, _, _) => state,
        }
    }

    /// A reload may take the checks away: nobody would ever bring the server back.
    pub(super) fn adapt(&mut self, rules: Rules) {
        if rules == Rules::Unchecked && matches!(self.state, State::AwaitingChecks(_)) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKED: Rules = Rules::Checked {
        healthy: 2,
        unhealthy: 3,
    };

    /// `events`: `+` check passed, `-` check failed, `a` answered, `x` failed, digit: that many seconds pass.
    /// `expected`: `U` or `D` after each of them.
    fn check(rules: Rules, events: &str, expected: &str) {
        let mut health = Health::default();
        let mut now = Instant::now();
        let mut seen = String::new();
        for event in events.chars() {
            let event = match event {
                '+' => Some(Event::CheckPassed),
                '-' => Some(Event::CheckFailed),
                'a' => Some(Event::Answered),
                'x' => Some(Event::Failed),
                seconds => {
                    now += Duration::from_secs(u64::from(seconds.to_digit(10).unwrap()));
                    None
                }
            };
            if let Some(event) = event {
                health.observe(event, rules, now);
            }
            seen.push(if health.is_up(now) { 'U' } else { 'D' });
        }
        assert_eq!(seen, expected, "{events} under {rules:?}");
    }

    #[test]
    fn checks_need_their_thresholds_in_a_row() {
        check(CHECKED, "---", "UUD");
        check(CHECKED, "--+---", "UUUUUD");
        check(CHECKED, "---+-++", "UUDDDDU");
        check(CHECKED, "---a99", "UUDDDD");
    }

    #[test]
    fn failed_requests_count_too() {
        check(CHECKED, "xx", "UU");
        check(CHECKED, "xxaxx", "UUUUU");
        check(CHECKED, "xxx9+", "UUDDU");
        check(CHECKED, "xxx-+", "UUDDD");
        check(CHECKED, "xxx-++", "UUDDDU");
    }

    #[test]
    fn without_checks_time_gives_another_chance() {
        check(Rules::Unchecked, "xxx91", "UUDDU");
        check(Rules::Unchecked, "xxx91x", "UUDDUD");
        check(Rules::Unchecked, "xxx91axx", "UUDDUUUU");
        check(Rules::Unchecked, "xxx5x91", "UUDDDDU");
    }

    #[test]
    fn changes_are_reported_once() {
        let (mut health, now) = (Health::default(), Instant::now());
        let changes: Vec<_> = [Event::CheckFailed; 4]
            .map(|event| health.observe(event, CHECKED, now))
            .into();
        assert_eq!(changes, [None, None, Some(Change::Down), None]);
        assert_eq!(health.consecutive_failures(), 4);
        assert_eq!(health.observe(Event::CheckPassed, CHECKED, now), None);
        assert_eq!(health.observe(Event::CheckPassed, CHECKED, now), Some(Change::Up));
        assert_eq!(health.consecutive_failures(), 0);
    }

    #[test]
    fn a_reload_that_drops_the_checks_does_not_strand_a_server() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..3 {
            health.observe(Event::CheckFailed, CHECKED, now);
        }
        health.adapt(CHECKED);
        assert!(!health.is_up(now));
        health.adapt(Rules::Unchecked);
        assert!(health.is_up(now));
    }
}
