//! Each operation once: its id and outcome are written in the transaction that does it.
//!
//! A second try with the same id, also at another primary, finds the outcome and does nothing. Outcomes that the
//! statements themselves caused are kept, also errors: a try that failed must not succeed later by being repeated.

use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};

use crate::connection::Connection;
use crate::error::SqlError;
use crate::position::{Epoch, Position, Txid};
use crate::publish::now_ms;
use crate::value::Rows;

/// How long an operation is remembered at least.
const REMEMBERED_MS: i64 = 24 * 60 * 60 * 1000;
/// How old an operation in a queue may be and still be sent. The other half is for requests that are under way, and for
/// clocks that are set meanwhile. Each machine measures by its own clock only, so it does not matter by how much they differ.
pub(crate) const SENT_MS: i64 = REMEMBERED_MS / 2;
/// An outcome larger than this is kept without its rows. It is copied to every replica.
const OUTCOME_BYTES: usize = 64 * 1024;
/// Of an id; a UUID has 36.
pub(crate) const ID_BYTES: usize = 64;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Rows(Vec<Rows>),
    Error {
        code: String,
        message: String,
    },
    /// It was done; its rows were too large to keep.
    Done,
}

/// An operation that was done before.
pub(crate) struct Done {
    pub(crate) position: Position,
    pub(crate) outcome: Result<Vec<Rows>, SqlError>,
}

pub(crate) fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<Done>> {
    let sql = "SELECT epoch, txid, outcome FROM _selvedge_operations WHERE id = ?1";
    connection.ours_cached(sql, |statement| statement.query_row([id], done_of_row).optional())
}

fn done_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Done> {
    let position = Position {
        epoch: Epoch(row.get(0)?),
        txid: Txid(row.get::<_, i64>(1)? as u64),
    };
    let outcome = match serde_json::from_str(row.get_ref(2)?.as_str()?) {
        Ok(Outcome::Rows(rows)) => Ok(rows),
        Ok(Outcome::Error { code, message }) => Err(SqlError::Remote { code, message }),
        Ok(Outcome::Done) => Ok(Vec::new()),
        Err(error) => Err(SqlError::Corrupt {
            message: format!("an operation's outcome cannot be read: {error}"),
        }),
    };
    Ok(Done { position, outcome })
}

/// Remembers how an operation ended, in the open transaction.
pub(crate) fn record(
    connection: &Connection,
    id: &str,
    position: Position,
    outcome: &Result<Vec<Rows>, SqlError>,
) -> rusqlite::Result<()> {
    let outcome = match outcome {
        Ok(rows) => Outcome::Rows(rows.clone()),
        Err(error) => Outcome::Error {
            code: error.code().to_owned(),
            message: error.to_string(),
        },
    };
    let mut text = serde_json::to_string(&outcome).expect("rows and texts are JSON");
    if text.len() > OUTCOME_BYTES {
        text = serde_json::to_string(&Outcome::Done).expect("a name is JSON");
    }
    let sql = "INSERT INTO _selvedge_operations (id, at_ms, epoch, txid, outcome) VALUES (?1, ?2, ?3, ?4, ?5)";
    connection.ours_cached(sql, |statement| {
        statement
            .execute((id, now_ms(), position.epoch.0, position.txid.0 as i64, text))
            .map(drop)
    })
}

/// Forgets the oldest, in the open transaction.
pub(crate) fn forget(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "DELETE FROM _selvedge_operations WHERE number < (
        SELECT number FROM _selvedge_operations WHERE at_ms >= ?1 ORDER BY number LIMIT 1)";
    connection.ours_cached(sql, |statement| statement.execute([now_ms() - REMEMBERED_MS]).map(drop))
}
