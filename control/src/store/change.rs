//! A change: what it does, what it expects of that, and what the audit log says of it; all of it, or nothing.

use std::collections::BTreeMap;

use selvedge_replication::{Rows, Statement, Value};
use serde_json::json;
use thiserror::Error;

use super::{One, Store, StoreError, now_ms};

/// Fails, and undoes the change, when the statement before it has changed nothing.
const EXPECTATION: &str = "UPDATE expectation SET met = changes()";
const RAISE: &str = "UPDATE revision SET number = number + 1 RETURNING number";
const NOTE: &str = "INSERT INTO unaudited SELECT number, ?1, ?2, ?3, ?4, ?5 FROM revision";
const FORGET_SEALED: &str = "DELETE FROM unaudited WHERE number <= ?1";

/// Why a change was not made, in the words of whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refused {
    #[error("there is no {what} {name}")]
    NotFound { what: &'static str, name: String },
    #[error("the {what} {name} exists already")]
    Exists { what: &'static str, name: String },
    /// Somebody else has changed it since it was read.
    #[error("the {what} {name} has changed meanwhile")]
    Changed { what: &'static str, name: String },
    #[error("{0}")]
    Conflict(String),
}

#[derive(Debug, Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What whoever changes something believes to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Anything,
    /// It does not exist.
    Nothing,
    Something,
    Version(i64),
}

/// A row that a change may expect something of.
pub(crate) struct Expecting<'a> {
    pub(crate) what: &'static str,
    pub(crate) name: &'a str,
    /// As it stands after FROM: `env WHERE app = ?1 AND name = ?2`.
    pub(crate) row: &'static str,
    /// The column that has its version.
    pub(crate) version: &'static str,
    pub(crate) params: Vec<Value>,
}

pub(crate) struct Change {
    statements: Vec<Statement>,
    refusals: BTreeMap<usize, Refused>,
    entry: Entry,
}

/// What the audit log says of it.
struct Entry {
    actor: String,
    action: &'static str,
    subject: String,
    detail: serde_json::Value,
}

/// A change that was made.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) revision: i64,
    /// Of every statement, also of those between that check.
    pub(crate) rows: Vec<Rows>,
}

impl Change {
    /// `actor` is a key's id, `action` a word of the audit log such as `flag.set`.
    pub(crate) fn new(actor: &str, action: &'static str, subject: impl Into<String>) -> Change {
        Change {
            statements: Vec::new(),
            refusals: BTreeMap::new(),
            entry: Entry {
                actor: actor.to_owned(),
                action,
                subject: subject.into(),
                detail: json!({}),
            },
        }
    }

    /// What the audit log keeps besides; never a secret.
    pub(crate) fn detail(mut self, detail: serde_json::Value) -> Change {
        self.entry.detail = detail;
        self
    }

    /// A statement that may change any number of rows.
    pub(crate) fn run(mut self, sql: impl Into<String>, params: Vec<Value>) -> Change {
        self.statements.push(Statement::new(sql, params));
        self
    }

    /// A statement that must change something and keep every constraint, or the whole change is refused.
    pub(crate) fn run_or(mut self, refused: Refused, sql: impl Into<String>, params: Vec<Value>) -> Change {
        self.refusals.insert(self.statements.len(), refused.clone());
        self = self.run(sql, params);
        self.refusals.insert(self.statements.len(), refused);
        self.run(EXPECTATION, Vec::new())
    }
}

impl Change {
    /// Refuses the whole change unless the row is as expected.
    pub(crate) fn expect(self, expected: Expected, of: Expecting<'_>) -> Change {
        let Expecting {
            what,
            name,
            row,
            version,
            mut params,
        } = of;
        let name = name.to_owned();
        let (refused, condition) = match expected {
            Expected::Anything => return self,
            Expected::Nothing => (
                Refused::Exists { what, name },
                format!("NOT EXISTS (SELECT 1 FROM {row})"),
            ),
            Expected::Something => (
                Refused::NotFound { what, name },
                format!("EXISTS (SELECT 1 FROM {row})"),
            ),
            Expected::Version(number) => {
                params.push(number.into());
                let place = params.len();
                (
                    Refused::Changed { what, name },
                    format!("EXISTS (SELECT 1 FROM {row} AND {version} = ?{place})"),
                )
            }
        };
        let sql = format!("UPDATE expectation SET met = 1 WHERE {condition}");
        self.run_or(refused, sql, params)
    }
}

/// The revision that the change itself will have.
pub(super) const THIS_REVISION: &str = "(SELECT number + 1 FROM revision)";

impl Store {
    pub(crate) async fn change(&self, one: &One, change: Change) -> Result<Changed, ChangeError> {
        let changed = one.change(change).await?;
        // The change is made; its entry waits beside it, and the next change or start takes it along.
        if let Err(error) = self.seal().await {
            tracing::error!(%error, "an entry could not be added to the audit log yet");
        }
        Ok(changed)
    }
}

impl One {
    async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let Change {
            mut statements,
            mut refusals,
            entry,
        } = change;
        let sealed = self.sealed.load(std::sync::atomic::Ordering::Relaxed);
        let raise = statements.len();
        let note = vec![
            Value::Integer(now_ms()),
            entry.actor.into(),
            entry.action.into(),
            entry.subject.into(),
            entry.detail.to_string().into(),
        ];
        statements.push(Statement::new(RAISE, Vec::new()));
        statements.push(Statement::new(NOTE, note));
        statements.push(Statement::new(FORGET_SEALED, vec![Value::Integer(sealed)]));
        match self.execute(statements).await {
            Ok(rows) => {
                let number = rows.get(raise).and_then(|rows| rows.rows.first()?.first());
                let revision = match number {
                    Some(Value::Integer(number)) => *number,
                    _ => 0,
                };
                self.raise_to(revision);
                Ok(Changed { revision, rows })
            }
            Err(error) if error.code() == "constraint" => {
                let refused = error.statement_index().and_then(|index| refusals.remove(&index));
                Err(refused.map_or_else(|| self.failed("changing", error).into(), ChangeError::Refused))
            }
            Err(error) => Err(self.failed("changing", error).into()),
        }
    }
}
