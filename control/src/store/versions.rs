//! Flags and settings: what is so now, and every version there was.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::change::{Change, ChangeError, Expected, Expecting, Refused};
use super::rows::{json_text, json_text_or_null};
use super::{Store, StoreError, now_ms};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Flag,
    Setting,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Versioned {
    pub(crate) name: String,
    /// Rises by one with each change, also over a deletion.
    pub(crate) version: i64,
    #[serde(deserialize_with = "json_text")]
    #[schema(value_type = serde_json::Value)]
    pub(crate) value: serde_json::Value,
    pub(crate) updated_ms: i64,
}

/// One version there was.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Version {
    pub(crate) version: i64,
    /// `null` is a deletion.
    #[serde(deserialize_with = "json_text_or_null")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) value: Option<serde_json::Value>,
    pub(crate) at_ms: i64,
    /// Id of the key that did it.
    pub(crate) actor: String,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Flag => "flag",
            Kind::Setting => "setting",
        }
    }

    fn set_action(self) -> &'static str {
        match self {
            Kind::Flag => "flag.set",
            Kind::Setting => "setting.set",
        }
    }

    fn delete_action(self) -> &'static str {
        match self {
            Kind::Flag => "flag.delete",
            Kind::Setting => "setting.delete",
        }
    }

    /// Table, and the column of the value.
    fn table(self) -> (&'static str, &'static str) {
        match self {
            Kind::Flag => ("flags", "rule"),
            Kind::Setting => ("settings", "value"),
        }
    }

    fn expecting(self, name: &str) -> Expecting<'_> {
        Expecting {
            what: self.word(),
            name,
            row: match self {
                Kind::Flag => "flags WHERE name = ?1",
                Kind::Setting => "settings WHERE name = ?1",
            },
            version: "version",
            params: vec![name.into()],
        }
    }

    fn columns(self) -> impl Display {
        let (table, value) = self.table();
        format!("SELECT name, version, {value} AS value, updated_ms FROM {table}")
    }
}

impl Store {
    pub(crate) async fn versioned(&self, kind: Kind, name: &str) -> Result<Option<Versioned>, StoreError> {
        let sql = format!("{} WHERE name = ?1", kind.columns());
        self.config.find(&sql, vec![name.into()]).await
    }

    pub(crate) async fn all_versioned(
        &self,
        kind: Kind,
        after: &str,
        limit: i64,
    ) -> Result<Vec<Versioned>, StoreError> {
        let sql = format!("{} WHERE name > ?1 ORDER BY name LIMIT ?2", kind.columns());
        self.config.read(&sql, vec![after.into(), limit.into()]).await
    }

    /// Newest first, those before `before`.
    pub(crate) async fn history(
        &self,
        kind: Kind,
        name: &str,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Version>, StoreError> {
        let sql = "SELECT version, value, at_ms, actor FROM versions WHERE kind = ?1 AND name = ?2 AND version < ?3
                   ORDER BY version DESC LIMIT ?4";
        let params = vec![
            kind.word().into(),
            name.into(),
            before.unwrap_or(i64::MAX).into(),
            limit.into(),
        ];
        self.config.read(sql, params).await
    }

    pub(crate) async fn version(&self, kind: Kind, name: &str, version: i64) -> Result<Option<Version>, StoreError> {
        let versions = self.history(kind, name, Some(version.saturating_add(1)), 1).await?;
        Ok(versions.into_iter().find(|found| found.version == version))
    }

    /// Sets it, and says at which revision.
    pub(crate) async fn set_versioned(
        &self,
        kind: Kind,
        actor: &str,
        name: &str,
        value: &serde_json::Value,
        expected: Expected,
    ) -> Result<i64, ChangeError> {
        let (table, column) = kind.table();
        let sql = format!(
            "INSERT INTO {table} (name, version, {column}, updated_ms)
             VALUES (?1, 1 + coalesce((SELECT max(version) FROM versions WHERE kind = ?2 AND name = ?1), 0), ?3, ?4)
             ON CONFLICT (name) DO UPDATE SET version = excluded.version, {column} = excluded.{column},
               updated_ms = excluded.updated_ms"
        );
        let params = vec![
            name.into(),
            kind.word().into(),
            value.to_string().into(),
            now_ms().into(),
        ];
        let keep = format!(
            "INSERT INTO versions (kind, name, version, value, at_ms, actor)
             SELECT ?1, name, version, {column}, updated_ms, ?3 FROM {table} WHERE name = ?2"
        );
        let change = Change::new(actor, kind.set_action(), name)
            .detail(json!({ "value": value }))
            .expect(expected, kind.expecting(name))
            .run(sql, params)
            .run(keep, vec![kind.word().into(), name.into(), actor.into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    pub(crate) async fn delete_versioned(
        &self,
        kind: Kind,
        actor: &str,
        name: &str,
        expected: Expected,
    ) -> Result<i64, ChangeError> {
        let (table, _) = kind.table();
        let keep = format!(
            "INSERT INTO versions (kind, name, version, value, at_ms, actor)
             SELECT ?2, name, version + 1, NULL, ?4, ?3 FROM {table} WHERE name = ?1"
        );
        let params = vec![name.into(), kind.word().into(), actor.into(), now_ms().into()];
        let missing = Refused::NotFound {
            what: kind.word(),
            name: name.to_owned(),
        };
        let change = Change::new(actor, kind.delete_action(), name)
            .expect(expected, kind.expecting(name))
            .run_or(missing, keep, params)
            .run(format!("DELETE FROM {table} WHERE name = ?1"), vec![name.into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }
}
