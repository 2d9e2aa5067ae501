//! Purges: PoPs do those that are newer than the last one they did.

use selvedge_replication::Value;
use serde_json::json;

use super::change::{Change, ChangeError};
use super::{Store, now_ms};

/// A PoP that was away for longer starts with an empty cache.
const KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;

impl Store {
    /// Its id, and the revision it came with.
    pub(crate) async fn purge(&self, actor: &str, kind: &str, value: &str) -> Result<(i64, i64), ChangeError> {
        let now = now_ms();
        let change = Change::new(actor, "purge", value)
            .detail(json!({ "kind": kind }))
            .run("DELETE FROM purges WHERE created_ms < ?1", vec![(now - KEPT_MS).into()])
            .run(
                "INSERT INTO purges (created_ms, kind, value) VALUES (?1, ?2, ?3) RETURNING id",
                vec![now.into(), kind.into(), value.into()],
            );
        let changed = self.change(&self.config, change).await?;
        let id = changed.rows.get(1).and_then(|rows| rows.rows.first()?.first());
        match id {
            Some(Value::Integer(id)) => Ok((*id, changed.revision)),
            _ => Ok((0, changed.revision)),
        }
    }
}
