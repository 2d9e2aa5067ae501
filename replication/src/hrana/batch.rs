//! Batches: steps that run when their condition holds of the steps before, and the shape nearly all of them have.

use std::ops::Range;

use super::failure::Failure;
use super::proto::{self, BatchCond, CondMessage};
use super::request::Step;
use super::text::{self, Begin, Control};
use crate::agent::Refusal;

/// What became of each step so far.
#[derive(Default)]
pub(super) struct Ran {
    outcomes: Vec<Option<Result<proto::StmtResult, proto::Error>>>,
}

impl Ran {
    pub(super) fn push(&mut self, outcome: Result<proto::StmtResult, Failure>) {
        self.outcomes.push(Some(outcome.map_err(|failure| failure.to_proto())));
    }

    pub(super) fn skip(&mut self) {
        self.outcomes.push(None);
    }

    /// Whether a step with this condition runs next.
    pub(super) fn holds(&self, condition: &CondMessage, autocommit: bool) -> bool {
        let outcome = |step: u32| self.outcomes.get(step as usize).and_then(Option::as_ref);
        match &condition.cond {
            // Refused before.
            None => false,
            Some(BatchCond::Ok(step)) => outcome(*step).is_some_and(Result::is_ok),
            Some(BatchCond::Error(step)) => outcome(*step).is_some_and(Result::is_err),
            Some(BatchCond::Not(cond)) => !self.holds(cond, autocommit),
            Some(BatchCond::And(list)) => list.conds.iter().all(|cond| self.holds(cond, autocommit)),
            Some(BatchCond::Or(list)) => list.conds.iter().any(|cond| self.holds(cond, autocommit)),
            Some(BatchCond::IsAutocommit(_)) => autocommit,
        }
    }

    pub(super) fn into_proto(self, replication_index: Option<u64>) -> proto::BatchResult {
        let mut result = proto::BatchResult {
            replication_index,
            steps: self.outcomes.len() as u32,
            ..proto::BatchResult::default()
        };
        for (step, outcome) in (0..).zip(self.outcomes) {
            match outcome {
                None => {}
                Some(Ok(done)) => drop(result.step_results.insert(step, done)),
                Some(Err(failed)) => drop(result.step_errors.insert(step, failed)),
            }
        }
        result
    }
}

/// Refuses a condition that names a step that is not before step number `index`.
pub(super) fn check(condition: &CondMessage, index: usize) -> Result<(), Refusal> {
    match &condition.cond {
        None => Err(Refusal::Malformed("a condition has no known type".to_owned())),
        Some(BatchCond::Ok(step) | BatchCond::Error(step)) if *step as usize >= index => Err(Refusal::Malformed(
            format!("the condition of step {index} names step {step}, which is not before it"),
        )),
        Some(BatchCond::Ok(_) | BatchCond::Error(_) | BatchCond::IsAutocommit(_)) => Ok(()),
        Some(BatchCond::Not(cond)) => check(cond, index),
        Some(BatchCond::And(list) | BatchCond::Or(list)) => list.conds.iter().try_for_each(|cond| check(cond, index)),
    }
}

/// A batch that is one transaction and nothing else: BEGIN, statements each of which runs if the one before did,
/// COMMIT if the last did, ROLLBACK if that did not. It can be executed as one operation, which clients at a replica
/// need: once, and durably queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) begin: Begin,
    /// The statements between.
    pub(super) statements: Range<usize>,
}

pub(super) fn whole(steps: &[Step]) -> Option<Whole> {
    let [first, statements @ .., commit, rollback] = steps else {
        return None;
    };
    let Some(Control::Begin(begin)) = text::control(&first.statement.sql) else {
        return None;
    };
    let last = statements.len();
    let ordinary =
        |sql: &str| text::control(sql).is_none() && text::foreign_keys(sql).is_none() && text::split(sql).len() == 1;
    let fits = first.condition.is_none()
        && !statements.is_empty()
        && statements
            .iter()
            .enumerate()
            .all(|(index, step)| follows(step, index) && ordinary(&step.statement.sql))
        && text::control(&commit.statement.sql) == Some(Control::Commit)
        && follows(commit, last)
        && text::control(&rollback.statement.sql) == Some(Control::Rollback)
        && rollback
            .condition
            .as_ref()
            .and_then(negated)
            .is_some_and(|cond| is_ok(cond, last + 1));
    fits.then_some(Whole {
        begin,
        statements: 1..last + 1,
    })
}

/// Whether the step runs if, and only if, step `before` did and the transaction is still open.
fn follows(step: &Step, before: usize) -> bool {
    let Some(condition) = &step.condition else { return false };
    let Some(BatchCond::And(list)) = &condition.cond else {
        return is_ok(condition, before);
    };
    let in_transaction =
        |cond: &CondMessage| negated(cond).is_some_and(|cond| matches!(cond.cond, Some(BatchCond::IsAutocommit(_))));
    list.conds.iter().any(|cond| is_ok(cond, before))
        && list
            .conds
            .iter()
            .all(|cond| is_ok(cond, before) || in_transaction(cond))
}

fn is_ok(condition: &CondMessage, wanted: usize) -> bool {
    matches!(condition.cond, Some(BatchCond::Ok(step)) if step as usize == wanted)
}

fn negated(condition: &CondMessage) -> Option<&CondMessage> {
    match &condition.cond {
        Some(BatchCond::Not(cond)) => Some(cond),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Statement;

    fn message(cond: BatchCond) -> CondMessage {
        CondMessage { cond: Some(cond) }
    }

    fn ok(step: u32) -> CondMessage {
        message(BatchCond::Ok(step))
    }

    fn error(step: u32) -> CondMessage {
        message(BatchCond::Error(step))
    }

    fn not(cond: CondMessage) -> CondMessage {
        message(BatchCond::Not(Box::new(cond)))
    }

    fn and(conds: Vec<CondMessage>) -> CondMessage {
        message(BatchCond::And(proto::CondList { conds }))
    }

    fn or(conds: Vec<CondMessage>) -> CondMessage {
        message(BatchCond::Or(proto::CondList { conds }))
    }

    fn autocommit() -> CondMessage {
        message(BatchCond::IsAutocommit(proto::Nothing {}))
    }

    #[test]
    fn conditions_hold_of_what_ran() {
        let mut ran = Ran::default();
        ran.push(Ok(proto::StmtResult::default()));
        ran.push(Err(Failure::ReadOnlyToken));
        ran.skip();
        for (condition, expected) in [
            (ok(0), true),
            (ok(1), false),
            (ok(2), false),
            (error(0), false),
            (error(1), true),
            (error(2), false),
            (not(ok(2)), true),
            (and(vec![ok(0), not(ok(1))]), true),
            (and(vec![ok(0), ok(1)]), false),
            (and(vec![]), true),
            (or(vec![ok(1), ok(0)]), true),
            (or(vec![]), false),
            (autocommit(), true),
        ] {
            assert_eq!(ran.holds(&condition, true), expected, "{condition:?}");
        }
        assert!(!ran.holds(&autocommit(), false));
        let result = ran.into_proto(Some(7));
        let told = (
            result.step_results.keys().collect::<Vec<_>>(),
            result.step_errors.keys().collect::<Vec<_>>(),
        );
        assert_eq!(told, (vec![&0], vec![&1]));
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!(
            (&json["step_results"][2], &json["step_errors"][0]),
            (&serde_json::Value::Null, &serde_json::Value::Null)
        );
        assert_eq!(json["step_errors"][1]["code"], "BLOCKED");
        assert_eq!(serde_json::from_value::<proto::BatchResult>(json).unwrap(), result);
    }

    #[test]
    fn conditions_look_back_only() {
        for (condition, index, fits) in [
            (ok(0), 1, true),
            (ok(1), 1, false),
            (not(error(3)), 2, false),
            (or(vec![ok(0), ok(9)]), 2, false),
            (autocommit(), 0, true),
            (CondMessage { cond: None }, 1, false),
        ] {
            assert_eq!(check(&condition, index).is_ok(), fits, "{condition:?} {index}");
        }
    }

    fn steps(parts: &[(&str, Option<CondMessage>)]) -> Vec<Step> {
        let step = |(sql, condition): &(&str, Option<CondMessage>)| Step {
            condition: condition.clone(),
            statement: Statement::new(*sql, vec![]),
            want_rows: true,
        };
        parts.iter().map(step).collect()
    }

    #[test]
    fn a_batch_that_is_one_transaction_is_recognised() {
        let open = || not(autocommit());
        let of = |middle: &[(&str, Option<CondMessage>)]| {
            let count = middle.len() as u32;
            let mut all = vec![("BEGIN IMMEDIATE", None)];
            all.extend(middle.to_vec());
            all.push(("COMMIT", Some(ok(count))));
            all.push(("ROLLBACK", Some(not(ok(count + 1)))));
            steps(&all)
        };
        let found = |middle: &[(&str, Option<CondMessage>)]| whole(&of(middle)).map(|whole| whole.statements);
        let insert = "INSERT INTO t VALUES (1)";
        assert_eq!(found(&[(insert, Some(ok(0))), (insert, Some(ok(1)))]), Some(1..3));
        let both = and(vec![ok(0), open()]);
        assert_eq!(found(&[(insert, Some(both))]), Some(1..2));
        for other in [
            vec![],
            vec![(insert, None)],
            vec![(insert, Some(open()))],
            vec![(insert, Some(ok(0))), (insert, Some(ok(0)))],
            vec![("COMMIT", Some(ok(0)))],
            vec![("INSERT INTO t VALUES (1); SELECT 1", Some(ok(0)))],
            vec![("PRAGMA foreign_keys = off", Some(ok(0)))],
        ] {
            assert_eq!(found(&other), None, "{other:?}");
        }
        let mut without = of(&[(insert, Some(ok(0)))]);
        without.pop();
        assert_eq!(whole(&without), None);
    }
}
