//! Why one request of a pipeline was not done: one place gives it the code that libSQL's server would.
//!
//! A failure leaves the stream usable and is part of the answer. What ends the stream is a `Refusal`, which is an HTTP
//! status.

use super::proto;
use crate::SqlError;
use crate::agent::Refusal;

#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The statement's own.
    Sql(SqlError),
    /// The data layer cannot do it now.
    Refused(Refusal),
    /// Several statements where one is wanted, or none.
    Statements(usize),
    /// The stream's transaction was undone; nothing runs until the client knows.
    TransactionEnded,
    /// The writer was not free in time.
    TransactionBusy,
    /// COMMIT, ROLLBACK or a savepoint without a transaction, BEGIN within one.
    Transaction(&'static str),
    /// The token only reads.
    ReadOnlyToken,
    ReadOnlyTransaction,
    /// All results of the pipeline together.
    TooLarge,
    /// JSON has no such number.
    NotFinite {
        column: String,
    },
}

impl Failure {
    pub(super) fn to_proto(&self) -> proto::Error {
        let (code, message) = match self {
            Failure::Sql(error) => {
                let message = error.to_string();
                let (_, message) = of_batch(&message);
                sql(error.code(), message)
            }
            // What crossed the write queue.
            Failure::Refused(Refusal::Sql(error)) => return Failure::Sql(error.clone()).to_proto(),
            Failure::Refused(refusal) => (refusal.code().to_ascii_uppercase(), refusal.to_string()),
            Failure::Statements(0) => plain("SQL_NO_STATEMENT", "SQL string does not contain any statement"),
            Failure::Statements(_) => plain("SQL_MANY_STATEMENTS", "SQL string contains more than one statement"),
            Failure::TransactionEnded => plain(
                "TRANSACTION_TIMEOUT",
                "the transaction has ended: it was open for too long, or a statement rolled it back",
            ),
            Failure::TransactionBusy => plain(
                "TRANSACTION_BUSY",
                "another transaction holds the database for too long",
            ),
            Failure::Transaction(message) => sql("sql", message),
            Failure::ReadOnlyToken => plain("BLOCKED", "this token may only read; use one with the role write"),
            Failure::ReadOnlyTransaction => plain("SQLITE_READONLY", "the transaction only reads; begin it with BEGIN"),
            Failure::TooLarge => plain("RESPONSE_TOO_LARGE", "Response is too large"),
            Failure::NotFinite { column } => (
                "RESPONSE_NOT_JSON".to_owned(),
                format!(
                    "column {column} holds an infinite number, which JSON cannot say; select CAST({column} AS TEXT)"
                ),
            ),
        };
        proto::Error { message, code }
    }

    /// Which statement of a batch it was, when it was one of them.
    pub(super) fn statement(&self) -> Option<usize> {
        match self {
            Failure::Sql(error) | Failure::Refused(Refusal::Sql(error)) => of_batch(&error.to_string()).0,
            _ => None,
        }
    }
}

fn plain(code: &str, message: &str) -> (String, String) {
    (code.to_owned(), message.to_owned())
}

/// Codes and texts as libSQL's server has them; clients compare both.
fn sql(code: &str, message: &str) -> (String, String) {
    let name = match code {
        "sql" if message.contains(" (at byte ") => {
            let message = message.replace(" (at byte ", " (at offset ");
            return ("SQL_INPUT_ERROR".to_owned(), format!("SQL input error: {message}"));
        }
        // Its name for SQLITE_ERROR.
        "sql" => "SQLITE_UNKNOWN",
        "constraint" => "SQLITE_CONSTRAINT",
        "refused" => "SQLITE_AUTH",
        "parameters" => return ("ARGS_INVALID".to_owned(), message.to_owned()),
        "not_utf8" => "SQLITE_MISMATCH",
        "timeout" | "cancelled" => "SQLITE_INTERRUPT",
        "too_large" => "SQLITE_TOOBIG",
        "busy" => "SQLITE_BUSY",
        "disk_full" => "SQLITE_FULL",
        "corrupt" => "SQLITE_CORRUPT",
        "io" => "SQLITE_IOERR",
        other => return (other.to_ascii_uppercase(), message.to_owned()),
    };
    (name.to_owned(), format!("SQLite error: {message}"))
}

/// Which statement of a batch failed, and how; between processes only the text says it.
fn of_batch(message: &str) -> (Option<usize>, &str) {
    let parts = message
        .strip_prefix("statement ")
        .and_then(|rest| rest.split_once(" of the batch: "));
    match parts.and_then(|(index, message)| Some((index.parse().ok()?, message))) {
        Some((index, message)) => (Some(index), message),
        None => (None, message),
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Failure {
        Failure::Sql(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_libsql() {
        let unique = SqlError::Constraint {
            message: "UNIQUE constraint failed: t.a".to_owned(),
        };
        let in_batch = SqlError::InBatch {
            index: 2,
            source: Box::new(unique.clone()),
        };
        let remote = SqlError::Remote {
            code: "constraint".to_owned(),
            message: in_batch.to_string(),
        };
        let told = "SQLite error: UNIQUE constraint failed: t.a";
        for (failure, code, message, statement) in [
            (Failure::Sql(unique), "SQLITE_CONSTRAINT", told, None),
            (Failure::Sql(in_batch), "SQLITE_CONSTRAINT", told, Some(2)),
            (
                Failure::Refused(Refusal::Sql(remote)),
                "SQLITE_CONSTRAINT",
                told,
                Some(2),
            ),
            (
                Failure::Sql(SqlError::Sql {
                    message: "no such column: x (at byte 7)".to_owned(),
                }),
                "SQL_INPUT_ERROR",
                "SQL input error: no such column: x (at offset 7)",
                None,
            ),
            (
                Failure::Refused(Refusal::QueueFull),
                "QUEUE_FULL",
                "the write queue is full; nothing was done, try again",
                None,
            ),
        ] {
            let error = failure.to_proto();
            assert_eq!((error.code.as_str(), error.message.as_str()), (code, message));
            assert_eq!(failure.statement(), statement);
        }
    }
}
