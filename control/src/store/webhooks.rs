//! Webhooks in `_control`, and what each of them is told: a delivery is written in the transaction of the audit log's entry,
//! so that a killed process loses none and makes none twice.

use selvedge_replication::{Statement, Value as Sql};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::change::{Change, ChangeError, Refused};
use super::keys::word;
use super::rows::{bytes, json_text};
use super::{Store, StoreError, now_ms};
use crate::chain::Entry;
use crate::vault::Encrypted;

/// Each costs a row for every event.
const WEBHOOKS: i64 = 50;
/// That wait for one webhook; what comes then is written down as failed.
const WAITING: i64 = 1_000;
/// Deliveries of all webhooks; of older ones those that have ended are forgotten.
const KEPT: i64 = 10_000;

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub(crate) enum Event {
    /// Every PoP has it, and its databases are ready.
    #[serde(rename = "deployment.prepared")]
    Prepared,
    #[serde(rename = "deployment.failed")]
    Failed,
    /// It serves all clients.
    #[serde(rename = "deployment.activated")]
    Activated,
    /// The deployment that served before, or another, serves again.
    #[serde(rename = "app.rolled_back")]
    RolledBack,
    /// It serves a part of the clients.
    #[serde(rename = "rollout.changed")]
    Rollout,
}

impl Event {
    /// What a word of the audit log is told as.
    fn of(action: &str) -> Option<Event> {
        match action {
            "deployment.prepared" => Some(Event::Prepared),
            "deployment.failed" => Some(Event::Failed),
            "deployment.activate" => Some(Event::Activated),
            "deployment.rollback" => Some(Event::RolledBack),
            "deployment.rollout" => Some(Event::Rollout),
            _ => None,
        }
    }
}

/// A webhook, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Webhook {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) created_ms: i64,
    #[serde(deserialize_with = "json_text")]
    pub(crate) events: Vec<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeliveryState {
    Waiting,
    Delivered,
    Failed,
}

/// What a webhook was, or will be told.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Delivery {
    /// Rises with each delivery of any webhook.
    pub(crate) number: i64,
    /// The header `webhook-id`: the same at each try.
    pub(crate) id: String,
    pub(crate) event: Event,
    pub(crate) created_ms: i64,
    pub(crate) state: DeliveryState,
    pub(crate) tries: i64,
    /// When it is tried next, or was tried last.
    pub(crate) at_ms: i64,
    /// Of the last answer.
    pub(crate) status: Option<i64>,
    /// Why the last try failed.
    pub(crate) message: Option<String>,
}

/// A delivery that is to be tried now.
#[derive(Debug, Deserialize)]
pub(crate) struct Due {
    pub(crate) number: i64,
    pub(crate) id: String,
    pub(crate) webhook: String,
    pub(crate) url: String,
    pub(crate) body: String,
    pub(crate) tries: i64,
    key: String,
    #[serde(deserialize_with = "bytes")]
    encrypted: Vec<u8>,
}

impl Due {
    pub(crate) fn secret(&self) -> Encrypted {
        Encrypted {
            key: self.key.clone(),
            bytes: self.encrypted.clone(),
        }
    }
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) state: DeliveryState,
    /// When it is tried next, or was tried now.
    pub(crate) at_ms: i64,
    pub(crate) status: Option<i64>,
    pub(crate) message: Option<String>,
}

/// What stands before a webhook's id and the number of an entry in `webhook-id`.
const MESSAGE_ID: &str = "'msg_' || webhook || '_' || entry AS id";

/// One delivery for each webhook that wants the event of this entry, if it is one.
pub(super) fn deliveries(entry: &Entry) -> Vec<Statement> {
    let Some(event) = Event::of(&entry.action) else {
        return Vec::new();
    };
    let mut data = json!({ "deployment": entry.subject, "revision": entry.source_number, "actor": entry.actor });
    if let (Some(data), Some(detail)) = (data.as_object_mut(), entry.detail.as_object()) {
        data.extend(detail.clone());
    }
    let body = json!({ "type": event, "timestamp_ms": entry.at_ms, "data": data });
    let add = "INSERT INTO webhook_deliveries (webhook, entry, event, body, created_ms, state, at_ms, message)
        SELECT id, ?1, ?2, ?3, ?4, iif(is_full, 'failed', 'waiting'), ?4, iif(is_full, ?6, NULL)
        FROM (SELECT id, (SELECT count(*) FROM webhook_deliveries WHERE webhook = webhooks.id AND state = 'waiting') >= ?5 AS is_full
          FROM webhooks WHERE EXISTS (SELECT 1 FROM json_each(events) WHERE value = ?2))";
    let params = vec![
        entry.number.into(),
        word(&event).into(),
        body.to_string().into(),
        now_ms().into(),
        WAITING.into(),
        format!("{WAITING} deliveries were waiting already").into(),
    ];
    let forget = "DELETE FROM webhook_deliveries WHERE state <> 'waiting'
        AND number <= (SELECT max(number) FROM webhook_deliveries) - ?1";
    vec![Statement::new(add, params), Statement::new(forget, vec![KEPT.into()])]
}

impl Store {
    pub(crate) async fn webhook(&self, id: &str) -> Result<Option<Webhook>, StoreError> {
        let sql = "SELECT id, url, created_ms, events FROM webhooks WHERE id = ?1";
        self.control.find(sql, vec![id.into()]).await
    }

    pub(crate) async fn webhooks(&self, after: &str, limit: i64) -> Result<Vec<Webhook>, StoreError> {
        let sql = "SELECT id, url, created_ms, events FROM webhooks WHERE id > ?1 ORDER BY id LIMIT ?2";
        self.control.read(sql, vec![after.into(), limit.into()]).await
    }

    pub(crate) async fn add_webhook(
        &self,
        actor: &str,
        webhook: &Webhook,
        secret: Encrypted,
    ) -> Result<(), ChangeError> {
        let full = Refused::Conflict(format!("there are {WEBHOOKS} webhooks already; remove one"));
        let sql = "INSERT INTO webhooks (id, url, created_ms, events, key, encrypted)
            SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT count(*) FROM webhooks) < ?7";
        let params = vec![
            webhook.id.clone().into(),
            webhook.url.clone().into(),
            webhook.created_ms.into(),
            json!(webhook.events).to_string().into(),
            secret.key.into(),
            Sql::Blob(secret.bytes),
            WEBHOOKS.into(),
        ];
        // A URL may hold a secret of its receiver's: the log does not have it.
        let change = Change::new(actor, "webhook.create", webhook.id.clone())
            .detail(json!({ "events": webhook.events }))
            .run_or(full, sql, params);
        self.change(&self.control, change).await.map(drop)
    }

    /// Removes it with its deliveries, also those that wait.
    pub(crate) async fn delete_webhook(&self, actor: &str, id: &str) -> Result<(), ChangeError> {
        let missing = Refused::NotFound {
            what: "webhook",
            name: id.to_owned(),
        };
        let sql = "DELETE FROM webhooks WHERE id = ?1";
        let change = Change::new(actor, "webhook.delete", id).run_or(missing, sql, vec![id.into()]);
        self.change(&self.control, change).await.map(drop)
    }

    /// Newest first, those before `before`.
    pub(crate) async fn webhook_deliveries(
        &self,
        webhook: &str,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        let sql = format!(
            "SELECT number, {MESSAGE_ID}, event, created_ms, state, tries, at_ms, status, message FROM webhook_deliveries
             WHERE webhook = ?1 AND number < ?2 ORDER BY number DESC LIMIT ?3"
        );
        let params = vec![webhook.into(), before.unwrap_or(i64::MAX).into(), limit.into()];
        self.control.read(&sql, params).await
    }

    /// Those whose time has come, the longest waiting first.
    pub(crate) async fn due_deliveries(&self, now_ms: i64, limit: i64) -> Result<Vec<Due>, StoreError> {
        let sql = format!(
            "SELECT number, {MESSAGE_ID}, webhook, url, body, tries, key, encrypted
             FROM webhook_deliveries JOIN webhooks ON webhooks.id = webhook
             WHERE state = 'waiting' AND at_ms <= ?1 ORDER BY at_ms, number LIMIT ?2"
        );
        self.control.read(&sql, vec![now_ms.into(), limit.into()]).await
    }

    /// When the next is due.
    pub(crate) async fn next_delivery_ms(&self) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT at_ms FROM webhook_deliveries WHERE state = 'waiting' ORDER BY at_ms LIMIT 1";
        let found: Option<(i64,)> = self.control.find(sql, Vec::new()).await?;
        Ok(found.map(|(at_ms,)| at_ms))
    }

    pub(crate) async fn note_tries(&self, tried: &[(i64, Tried)]) -> Result<(), StoreError> {
        let sql = "UPDATE webhook_deliveries SET tries = tries + 1, state = ?2, at_ms = ?3, status = ?4, message = ?5
            WHERE number = ?1 AND state = 'waiting'";
        let statements = tried.iter().map(|(number, tried)| {
            let params = vec![
                (*number).into(),
                word(&tried.state).into(),
                tried.at_ms.into(),
                tried.status.map_or(Sql::Null, Sql::Integer),
                tried.message.clone().map_or(Sql::Null, Sql::Text),
            ];
            Statement::new(sql, params)
        });
        self.control.note(statements.collect()).await.map(drop)
    }
}
