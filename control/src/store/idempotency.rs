//! Answers that are given again.

use bytes::Bytes;
use selvedge_replication::{Statement, Value};
use serde::Deserialize;

use super::{Store, StoreError, now_ms};

/// How long an answer is kept.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;
/// A request under way for longer was that of a process that is gone.
const LONGEST_REQUEST_MS: i64 = 60 * 1000;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Bytes,
}

pub(crate) enum Reservation {
    /// Nobody has asked with this key.
    Ours,
    Answered(Answer),
    /// Somebody is being answered.
    UnderWay,
    /// It was used for another request.
    Other,
}

#[derive(Deserialize)]
struct Row {
    fingerprint: String,
    status: Option<u16>,
    content_type: Option<String>,
    body: Option<String>,
}

impl Store {
    pub(crate) async fn reserve(&self, caller: &str, key: &str, fingerprint: &str) -> Result<Reservation, StoreError> {
        let now = now_ms();
        let forget = Statement::new(
            "DELETE FROM idempotency WHERE created_ms < ?1 OR (status IS NULL AND created_ms < ?2)",
            vec![(now - KEPT_MS).into(), (now - LONGEST_REQUEST_MS).into()],
        );
        let reserve = Statement::new(
            "INSERT INTO idempotency (caller, key, fingerprint, created_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            vec![caller.into(), key.into(), fingerprint.into(), now.into()],
        );
        let done = self.control.note(vec![forget, reserve]).await?;
        if done.get(1).is_some_and(|rows| rows.changes == 1) {
            return Ok(Reservation::Ours);
        }
        let row: Option<Row> = self
            .control
            .find(
                "SELECT fingerprint, status, content_type, CAST(body AS TEXT) AS body FROM idempotency
                 WHERE caller = ?1 AND key = ?2",
                vec![caller.into(), key.into()],
            )
            .await?;
        Ok(match row {
            Some(row) if row.fingerprint != fingerprint => Reservation::Other,
            Some(Row {
                status: Some(status),
                content_type,
                body,
                ..
            }) => Reservation::Answered(Answer {
                status,
                content_type,
                body: body.unwrap_or_default().into(),
            }),
            // Or it was forgotten this very moment.
            Some(_) | None => Reservation::UnderWay,
        })
    }

    /// Every answer to a POST is text.
    pub(crate) async fn answer(&self, caller: &str, key: &str, answer: Answer) -> Result<(), StoreError> {
        let content_type = answer.content_type.map_or(Value::Null, Value::Text);
        let statement = Statement::new(
            "UPDATE idempotency SET status = ?3, content_type = ?4, body = ?5 WHERE caller = ?1 AND key = ?2",
            vec![
                caller.into(),
                key.into(),
                i64::from(answer.status).into(),
                content_type,
                Value::Blob(answer.body.to_vec()),
            ],
        );
        self.control.note(vec![statement]).await.map(drop)
    }

    pub(crate) async fn forget_reservation(&self, caller: &str, key: &str) -> Result<(), StoreError> {
        let statement = Statement::new(
            "DELETE FROM idempotency WHERE caller = ?1 AND key = ?2 AND status IS NULL",
            vec![caller.into(), key.into()],
        );
        self.control.note(vec![statement]).await.map(drop)
    }
}
