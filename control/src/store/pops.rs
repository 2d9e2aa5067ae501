//! PoPs: how they join, and what each has said last.

use std::collections::BTreeMap;

use selvedge_replication::{Statement, Value};
use selvedge_schema::sealed::PublicSealingKey;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::change::{Change, ChangeError, Refused};
use super::keys::{INSERT, NewKey, values};
use super::rows::json_text_or_null;
use super::{Store, StoreError, now_ms};
use crate::auth::key::Key;
use crate::deployment::Said;

/// A PoP as it was when it was heard last.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pop {
    pub(crate) name: String,
    pub(crate) created_ms: i64,
    /// When it was heard last.
    pub(crate) seen_ms: Option<i64>,
    /// The revision of the configuration it has.
    pub(crate) revision: i64,
    /// Of its executable.
    pub(crate) version: Option<String>,
    /// Of `_config` in its agent.
    pub(crate) position: Option<String>,
    /// What it says of its load.
    #[serde(deserialize_with = "json_text_or_null")]
    #[schema(value_type = Option<Object>)]
    pub(crate) load: Option<serde_json::Value>,
    /// Its public X25519 key, in base64, to which secrets are sealed.
    pub(crate) sealing_key: Option<String>,
}

/// What a PoP says.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    /// The revision of `_config` that it serves.
    #[schema(minimum = 0)]
    pub(crate) revision: i64,
    /// Of its executable.
    #[serde(default)]
    pub(crate) version: Option<String>,
    /// Of `_config` in its agent.
    #[serde(default)]
    pub(crate) position: Option<String>,
    /// Every deployment it has, by id.
    #[serde(default)]
    pub(crate) deployments: BTreeMap<String, SaidOf>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) load: Option<serde_json::Map<String, serde_json::Value>>,
    /// A public X25519 key, in base64, to which its secrets are sealed from now on; without one, that of before stays.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) sealing_key: Option<PublicSealingKey>,
}

/// What it says of one deployment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SaidOf {
    pub(crate) state: Said,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

/// What one PoP says of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct PopSaid {
    pub(crate) pop: String,
    pub(crate) state: Said,
    pub(crate) message: Option<String>,
    pub(crate) reported_ms: i64,
}

const POPS: &str = "SELECT name, created_ms, seen_ms, revision, version, position, load, sealing_key
    FROM pops LEFT JOIN sealing_keys ON pop = name";

/// Of a PoP that is there.
pub(super) const SET_SEALING_KEY: &str = "INSERT INTO sealing_keys (pop, sealing_key)
    SELECT name, ?2 FROM pops WHERE name = ?1 ON CONFLICT (pop) DO UPDATE SET sealing_key = excluded.sealing_key";

impl Store {
    pub(crate) async fn pops(&self, after: &str, limit: i64) -> Result<Vec<Pop>, StoreError> {
        let sql = format!("{POPS} WHERE name > ?1 ORDER BY name LIMIT ?2");
        self.control.read(&sql, vec![after.into(), limit.into()]).await
    }

    /// A token with which one PoP joins, once; only the one of that name, if one is given.
    pub(crate) async fn invite(
        &self,
        actor: &str,
        token: &Key,
        pop: Option<&str>,
        expires_ms: i64,
    ) -> Result<(), ChangeError> {
        let sql = "INSERT INTO join_tokens (id, digest, pop, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5)";
        let params = vec![
            token.id().into(),
            token.digest().into(),
            pop.map_or(Value::Null, Value::from),
            now_ms().into(),
            expires_ms.into(),
        ];
        let change = Change::new(actor, "pop.invite", pop.unwrap_or_default())
            .detail(json!({ "token": token.id() }))
            .run(sql, params)
            .run("DELETE FROM join_tokens WHERE expires_ms < ?1", vec![now_ms().into()]);
        self.change(&self.control, change).await.map(drop)
    }

    /// Uses the token up, and gives the PoP its key. One that is there already may join anew with a token of its own name.
    /// What was sealed to the key it had before is of no use to it.
    pub(crate) async fn join(
        &self,
        token: &Key,
        pop: &str,
        key: &Key,
        new: &NewKey,
        sealing_key: Option<PublicSealingKey>,
    ) -> Result<(), ChangeError> {
        let now = now_ms();
        let wrong = Refused::Conflict("the join token is unknown, used, expired or another PoP's".to_owned());
        let use_up = "UPDATE join_tokens SET used_ms = ?4
            WHERE id = ?1 AND digest = ?2 AND used_ms IS NULL AND expires_ms > ?4 AND (pop IS NULL OR pop = ?3)";
        let exists = Refused::Exists {
            what: "PoP",
            name: pop.to_owned(),
        };
        let add = "INSERT INTO pops (name, key, created_ms) VALUES (?1, ?2, ?3)
            ON CONFLICT (name) DO UPDATE SET key = excluded.key
            WHERE EXISTS (SELECT 1 FROM join_tokens WHERE id = ?4 AND pop = ?1)";
        let revoke =
            "UPDATE keys SET revoked_ms = ?3 WHERE role = 'pop' AND name = ?1 AND id <> ?2 AND revoked_ms IS NULL";
        let change = Change::new(token.id(), "pop.join", pop)
            .detail(json!({ "key": key.id(), "sealing_key": sealing_key }))
            .run_or(
                wrong,
                use_up,
                vec![token.id().into(), token.digest().into(), pop.into(), now.into()],
            )
            .run(INSERT, values(key, new))
            .run_or(
                exists,
                add,
                vec![pop.into(), key.id().into(), now.into(), token.id().into()],
            )
            .run(revoke, vec![pop.into(), key.id().into(), now.into()])
            .run("DELETE FROM sealing_keys WHERE pop = ?1", vec![pop.into()]);
        let change = match sealing_key {
            Some(key) => change.run(SET_SEALING_KEY, vec![pop.into(), key.to_string().into()]),
            None => change,
        };
        self.change(&self.control, change).await.map(drop)
    }

    pub(crate) async fn remove_pop(&self, actor: &str, pop: &str) -> Result<(), ChangeError> {
        let missing = Refused::NotFound {
            what: "PoP",
            name: pop.to_owned(),
        };
        let revoke = "UPDATE keys SET revoked_ms = ?2 WHERE role = 'pop' AND name = ?1 AND revoked_ms IS NULL";
        let change = Change::new(actor, "pop.remove", pop)
            .run_or(missing, "DELETE FROM pops WHERE name = ?1", vec![pop.into()])
            .run(revoke, vec![pop.into(), now_ms().into()]);
        self.change(&self.control, change).await.map(drop)
    }

    /// Keeps what a PoP says. Whether it says anything new of its deployments.
    pub(crate) async fn keep_report(&self, pop: &str, report: &Report, at_ms: i64) -> Result<bool, StoreError> {
        let text = |value: Option<String>| value.map_or(Value::Null, Value::Text);
        let said = json!(report.deployments).to_string();
        let heard = Statement::new(
            "UPDATE pops SET seen_ms = ?2, revision = ?3, version = ?4, position = ?5, load = ?6 WHERE name = ?1",
            vec![
                pop.into(),
                at_ms.into(),
                report.revision.into(),
                text(report.version.clone()),
                text(report.position.clone()),
                text(report.load.as_ref().map(|load| json!(load).to_string())),
            ],
        );
        let gone = Statement::new(
            "DELETE FROM pop_deployments WHERE pop = ?1 AND deployment NOT IN (SELECT key FROM json_each(?2))",
            vec![pop.into(), said.clone().into()],
        );
        let keep = Statement::new(
            "INSERT INTO pop_deployments (pop, deployment, state, message, reported_ms)
             SELECT name, said.key, said.value ->> 'state', said.value ->> 'message', ?3 FROM pops, json_each(?2) AS said
             WHERE name = ?1
             ON CONFLICT (pop, deployment) DO UPDATE SET state = excluded.state, message = excluded.message,
               reported_ms = excluded.reported_ms
             WHERE (state, message) IS NOT (excluded.state, excluded.message)",
            vec![pop.into(), said.into(), at_ms.into()],
        );
        let done = self.control.note(vec![heard, gone, keep]).await?;
        Ok(done.iter().skip(1).any(|rows| rows.changes > 0))
    }

    pub(crate) async fn said_of(&self, deployment: &str) -> Result<Vec<PopSaid>, StoreError> {
        let sql = "SELECT pop, state, message, reported_ms FROM pop_deployments WHERE deployment = ?1 ORDER BY pop";
        self.control.read(sql, vec![deployment.into()]).await
    }
}
