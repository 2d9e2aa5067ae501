//! The audit log in `_control`: entries are taken from where changes left them, in their order, and chained. What webhooks
//! are told of them is written with them.

use selvedge_replication::{Statement, Value};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rows::json_text;
use super::webhooks::deliveries;
use super::{One, Store, StoreError};
use crate::chain::{self, Entry, GENESIS};

/// Entries that are added in one transaction, or read at once.
const PIECE: i64 = 200;

/// A change that was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct AuditEntry {
    #[serde(flatten)]
    pub(crate) entry: Entry,
    /// SHA-256 of the entry before it and of this one, in hex.
    pub(crate) hash: String,
}

/// What a look at the whole log has found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Verified {
    pub(crate) entries: i64,
    /// Of the newest entry; keep it elsewhere to prove later that nothing was cut off.
    pub(crate) hash: String,
    /// The first entry that is not what was written; `null` when all are.
    pub(crate) broken_at: Option<i64>,
}

#[derive(Deserialize)]
struct Waiting {
    number: i64,
    at_ms: i64,
    actor: String,
    action: String,
    subject: String,
    #[serde(deserialize_with = "json_text")]
    detail: serde_json::Value,
}

#[derive(Deserialize)]
struct Row {
    #[serde(flatten)]
    entry: Waiting,
    source: String,
    source_number: i64,
    hash: String,
}

impl Row {
    fn entry(self) -> AuditEntry {
        AuditEntry {
            entry: Entry {
                number: self.entry.number,
                source: self.source,
                source_number: self.source_number,
                at_ms: self.entry.at_ms,
                actor: self.entry.actor,
                action: self.entry.action,
                subject: self.entry.subject,
                detail: self.entry.detail,
            },
            hash: self.hash,
        }
    }
}

impl Store {
    /// Adds what changes have left behind. Whoever comes later finds it done.
    pub(super) async fn seal(&self) -> Result<(), StoreError> {
        let _turn = self.sealing.lock().await;
        for one in [&self.config, &self.control] {
            while self.seal_piece(one).await? {}
        }
        Ok(())
    }

    async fn seal_piece(&self, one: &One) -> Result<bool, StoreError> {
        let waiting: Vec<Waiting> = one
            .read(
                "SELECT * FROM unaudited WHERE number > ?1 ORDER BY number LIMIT ?2",
                vec![
                    one.sealed.load(std::sync::atomic::Ordering::Relaxed).into(),
                    PIECE.into(),
                ],
            )
            .await?;
        let Some(last) = waiting.last().map(|entry| entry.number) else {
            return Ok(false);
        };
        // After a restart some of them may be there already.
        let known: Option<(i64,)> = self
            .control
            .find(
                "SELECT source_number FROM audit WHERE source = ?1 ORDER BY source_number DESC LIMIT 1",
                vec![one.name.into()],
            )
            .await?;
        let known = known.map_or(0, |(number,)| number);
        let newest: Option<(i64, String)> = self
            .control
            .find(
                "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1",
                Vec::new(),
            )
            .await?;
        let (mut number, mut hash) = newest.unwrap_or((0, GENESIS.to_owned()));
        let mut statements = Vec::new();
        for waiting in waiting.into_iter().filter(|waiting| waiting.number > known) {
            number += 1;
            let entry = Entry {
                number,
                source: one.name.to_owned(),
                source_number: waiting.number,
                at_ms: waiting.at_ms,
                actor: waiting.actor,
                action: waiting.action,
                subject: waiting.subject,
                detail: waiting.detail,
            };
            hash = chain::hash(&hash, &entry);
            statements.extend(deliveries(&entry));
            statements.push(insert(entry, &hash));
        }
        if !statements.is_empty() {
            // Numbers are unique: were another control to add at the same time, one of the two fails and tries again.
            self.control.note(statements).await?;
            self.told.notify_one();
        }
        one.note_sealed(last);
        Ok(true)
    }

    /// Newest first, those before `before`.
    pub(crate) async fn audit(&self, before: Option<i64>, limit: i64) -> Result<Vec<AuditEntry>, StoreError> {
        let rows: Vec<Row> = self
            .control
            .read(
                "SELECT * FROM audit WHERE number < ?1 ORDER BY number DESC LIMIT ?2",
                vec![before.unwrap_or(i64::MAX).into(), limit.into()],
            )
            .await?;
        Ok(rows.into_iter().map(Row::entry).collect())
    }

    /// Reads the whole log and computes it anew.
    pub(crate) async fn verify_audit(&self) -> Result<Verified, StoreError> {
        let (mut number, mut hash) = (0, GENESIS.to_owned());
        loop {
            let rows: Vec<Row> = self
                .control
                .read(
                    "SELECT * FROM audit WHERE number > ?1 ORDER BY number LIMIT ?2",
                    vec![number.into(), PIECE.into()],
                )
                .await?;
            if rows.is_empty() {
                return Ok(Verified {
                    entries: number,
                    hash,
                    broken_at: None,
                });
            }
            for row in rows {
                let found = row.entry();
                let expected = chain::hash(&hash, &found.entry);
                if found.entry.number != number + 1 || found.hash != expected {
                    return Ok(Verified {
                        entries: number,
                        hash,
                        broken_at: Some(number + 1),
                    });
                }
                (number, hash) = (found.entry.number, found.hash);
            }
        }
    }
}

fn insert(entry: Entry, hash: &str) -> Statement {
    Statement::new(
        "INSERT INTO audit (number, source, source_number, at_ms, actor, action, subject, detail, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        vec![
            entry.number.into(),
            entry.source.into(),
            entry.source_number.into(),
            entry.at_ms.into(),
            entry.actor.into(),
            entry.action.into(),
            entry.subject.into(),
            Value::Text(entry.detail.to_string()),
            hash.into(),
        ],
    )
}
