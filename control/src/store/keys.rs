//! Keys, as `_control` keeps them.

use selvedge_replication::{Statement, Value};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::change::{Change, ChangeError, Refused};
use super::rows::json_text_or_null;
use super::{Store, StoreError, now_ms};
use crate::auth::access::{Access, Action, Role};
use crate::auth::key::Key;

/// A key, without what makes it one.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct KnownKey {
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(skip_serializing)]
    #[schema(ignore)]
    pub(crate) digest: String,
    pub(crate) role: Role,
    /// The one app it reaches; `null` for all.
    pub(crate) app: Option<String>,
    /// What it is confined to; `null` for all its role has.
    #[serde(deserialize_with = "json_text_or_null")]
    pub(crate) actions: Option<Vec<Action>>,
    pub(crate) created_ms: i64,
    pub(crate) expires_ms: Option<i64>,
    /// When it was last used, to the minute.
    pub(crate) used_ms: Option<i64>,
    pub(crate) revoked_ms: Option<i64>,
}

impl KnownKey {
    pub(crate) fn access(&self) -> Access {
        Access {
            role: self.role,
            app: self.app.clone(),
            actions: self.actions.clone(),
        }
    }

    pub(crate) fn is_valid(&self, now_ms: i64) -> bool {
        self.revoked_ms.is_none() && self.expires_ms.is_none_or(|expires| expires > now_ms)
    }
}

/// What a new key shall be.
pub(crate) struct NewKey {
    pub(crate) name: String,
    pub(crate) access: Access,
    pub(crate) expires_ms: Option<i64>,
}

pub(super) const INSERT: &str = "INSERT INTO keys (id, name, digest, role, app, actions, created_ms, expires_ms)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8";

pub(super) fn values(key: &Key, new: &NewKey) -> Vec<Value> {
    let text = |value: Option<String>| value.map_or(Value::Null, Value::Text);
    let actions = new.access.actions.as_ref();
    vec![
        key.id().into(),
        new.name.clone().into(),
        key.digest().into(),
        word(&new.access.role).into(),
        text(new.access.app.clone()),
        text(actions.map(|actions| json!(actions).to_string())),
        now_ms().into(),
        new.expires_ms.map_or(Value::Null, Value::Integer),
    ]
}

/// The word a unit variant is written with.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("a word, not {other:?}"),
    }
}

impl Store {
    pub(crate) async fn key(&self, id: &str) -> Result<Option<KnownKey>, StoreError> {
        self.control
            .find("SELECT * FROM keys WHERE id = ?1", vec![id.into()])
            .await
    }

    /// In the order of their ids, those of PoPs left out.
    pub(crate) async fn keys(&self, after: &str, limit: i64) -> Result<Vec<KnownKey>, StoreError> {
        self.control
            .read(
                "SELECT * FROM keys WHERE id > ?1 AND role <> 'pop' ORDER BY id LIMIT ?2",
                vec![after.into(), limit.into()],
            )
            .await
    }

    pub(crate) async fn add_key(&self, actor: &str, key: &Key, new: &NewKey) -> Result<(), ChangeError> {
        let exists = Refused::Exists {
            what: "key",
            name: key.id().to_owned(),
        };
        let change = Change::new(actor, "key.create", key.id())
            .detail(json!({ "name": new.name, "role": new.access.role, "app": new.access.app, "actions": new.access.actions }))
            .run_or(exists, INSERT, values(key, new));
        self.change(&self.control, change).await.map(drop)
    }

    /// The first key, unless there has ever been one.
    pub(crate) async fn add_first_key(&self, key: &Key, new: &NewKey) -> Result<bool, ChangeError> {
        let change = Change::new(key.id(), "key.bootstrap", key.id()).run_or(
            Refused::Conflict("there are keys already".to_owned()),
            format!("{INSERT} WHERE NOT EXISTS (SELECT 1 FROM keys)"),
            values(key, new),
        );
        match self.change(&self.control, change).await {
            Ok(_) => Ok(true),
            Err(ChangeError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// At least one owner's key stays: without one nobody could make another.
    pub(crate) async fn revoke_key(&self, actor: &str, id: &str) -> Result<(), ChangeError> {
        let refused = Refused::Conflict(format!("{id} is revoked already, or the last key of an owner"));
        let change = Change::new(actor, "key.revoke", id).run_or(
            refused,
            "UPDATE keys SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL AND role <> 'pop'
             AND (role <> 'owner' OR app IS NOT NULL OR actions IS NOT NULL OR expires_ms IS NOT NULL OR EXISTS (
               SELECT 1 FROM keys WHERE id <> ?1 AND role = 'owner' AND app IS NULL AND actions IS NULL
               AND revoked_ms IS NULL AND expires_ms IS NULL))",
            vec![id.into(), now_ms().into()],
        );
        self.change(&self.control, change).await.map(drop)
    }

    /// Not a change: the audit log does not say who read what.
    pub(crate) async fn note_use(&self, id: &str, at_ms: i64) -> Result<(), StoreError> {
        let sql = "UPDATE keys SET used_ms = max(coalesce(used_ms, 0), ?2) WHERE id = ?1";
        let noted = self
            .control
            .note(vec![Statement::new(sql, vec![id.into(), at_ms.into()])]);
        noted.await.map(drop)
    }
}
