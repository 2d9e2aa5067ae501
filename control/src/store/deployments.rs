//! Deployments: made once, then only their state changes. Activation points the app at one of them.

use selvedge_replication::Value;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::apps::{expecting_app, no_app};
use super::change::{Change, ChangeError, Expected, Refused, THIS_REVISION};
use super::keys::word;
use super::{Store, StoreError, now_ms};
use crate::deployment::{Event, State};

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) app: String,
    /// Counts the deployments of its app from 1.
    pub(crate) version: i64,
    pub(crate) created_ms: i64,
    pub(crate) state: State,
    /// Why it failed.
    pub(crate) message: Option<String>,
}

/// Why a deployment comes to serve all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Activated,
    RolledBack,
}

impl Why {
    fn action(self) -> &'static str {
        match self {
            Why::Activated => "deployment.activate",
            Why::RolledBack => "deployment.rollback",
        }
    }
}

/// A file of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct DeployedBlob {
    pub(crate) path: String,
    /// SHA-256, in hex.
    pub(crate) digest: String,
    pub(crate) bytes: i64,
}

const DEPLOYMENTS: &str = "SELECT id, app, version, created_ms, state, message FROM deployments";

impl Store {
    pub(crate) async fn deployment(&self, id: &str) -> Result<Option<Deployment>, StoreError> {
        self.config
            .find(&format!("{DEPLOYMENTS} WHERE id = ?1"), vec![id.into()])
            .await
    }

    pub(crate) async fn deployment_of_version(
        &self,
        app: &str,
        version: i64,
    ) -> Result<Option<Deployment>, StoreError> {
        let sql = format!("{DEPLOYMENTS} WHERE app = ?1 AND version = ?2");
        self.config.find(&sql, vec![app.into(), version.into()]).await
    }

    /// Newest first, those before version `before`.
    pub(crate) async fn deployments(
        &self,
        app: &str,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Deployment>, StoreError> {
        let sql = format!("{DEPLOYMENTS} WHERE app = ?1 AND version < ?2 ORDER BY version DESC LIMIT ?3");
        let params = vec![app.into(), before.unwrap_or(i64::MAX).into(), limit.into()];
        self.config.read(&sql, params).await
    }

    pub(crate) async fn manifest(&self, id: &str) -> Result<Option<serde_json::Value>, StoreError> {
        let sql = "SELECT manifest FROM deployments WHERE id = ?1";
        let found: Option<(String,)> = self.config.find(sql, vec![id.into()]).await?;
        // One that is damaged is shown as it is: PoPs refuse it and say why.
        Ok(found.map(|(text,)| serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text))))
    }

    pub(crate) async fn blobs(&self, id: &str) -> Result<Vec<DeployedBlob>, StoreError> {
        let sql = "SELECT path, digest, bytes FROM deployment_blobs WHERE deployment = ?1 ORDER BY path";
        self.config.read(sql, vec![id.into()]).await
    }

    pub(crate) async fn add_deployment(
        &self,
        actor: &str,
        app: &str,
        manifest: &serde_json::Value,
        blobs: &[DeployedBlob],
    ) -> Result<String, ChangeError> {
        let databases = manifest["databases"].as_object();
        let id = uuid::Uuid::now_v7().simple().to_string();
        let insert = "INSERT INTO deployments (id, app, version, created_ms, state, manifest)
            SELECT ?2, name, 1 + coalesce((SELECT max(version) FROM deployments WHERE app = ?1), 0), ?3, 'uploaded', ?4
            FROM apps WHERE name = ?1";
        let params = vec![
            app.into(),
            id.clone().into(),
            now_ms().into(),
            manifest.to_string().into(),
        ];
        let list = "INSERT INTO deployment_blobs (deployment, path, digest, bytes)
            SELECT ?1, value ->> 'path', value ->> 'digest', value ->> 'bytes' FROM json_each(?2)";
        let mut change = Change::new(actor, "deployment.create", id.clone())
            .detail(json!({ "app": app, "blobs": blobs.len() }))
            .run_or(no_app(app), insert, params)
            .run(list, vec![id.clone().into(), json!(blobs).to_string().into()]);
        for name in databases.into_iter().flat_map(|databases| databases.keys()) {
            change = super::databases::take(change, app, &id, name);
        }
        self.change(&self.config, change).await?;
        Ok(id)
    }

    /// Whether another deployment of its app serves from the same database.
    pub(crate) async fn serves_another(&self, id: &str, database: &str) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM deployment_databases WHERE database = ?2 AND deployment <> ?1 AND (
              deployment IN (SELECT active FROM apps) OR deployment IN (SELECT deployment FROM rollouts)) LIMIT 1";
        let found: Option<(i64,)> = self.config.find(sql, vec![id.into(), database.into()]).await?;
        Ok(found.is_some())
    }

    /// What the PoPs say together has happened to it. Whether it was news.
    pub(crate) async fn judge_deployment(
        &self,
        actor: &str,
        deployment: &Deployment,
        event: Event,
        message: Option<&str>,
    ) -> Result<bool, ChangeError> {
        let (action, after) = match event {
            Event::PreparedEverywhere => ("deployment.prepared", State::Prepared),
            Event::FailedSomewhere => ("deployment.failed", State::Failed),
            Event::Activate | Event::Replaced => unreachable!("PoPs do not decide this"),
        };
        let sql = "UPDATE deployments SET state = ?2, message = ?3 WHERE id = ?1 AND state IN (SELECT value FROM json_each(?4))";
        let params = vec![
            deployment.id.clone().into(),
            word(&after).into(),
            message.map_or(Value::Null, Value::from),
            before(event),
        ];
        let detail = json!({ "app": deployment.app, "version": deployment.version, "message": message });
        let change = Change::new(actor, action, deployment.id.clone()).detail(detail).run_or(
            Refused::Conflict(String::new()),
            sql,
            params,
        );
        match self.change(&self.config, change).await {
            Ok(_) => Ok(true),
            Err(ChangeError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All clients get this deployment.
    pub(crate) async fn activate(
        &self,
        actor: &str,
        deployment: &Deployment,
        why: Why,
        expected: Expected,
    ) -> Result<i64, ChangeError> {
        let (app, id) = (deployment.app.as_str(), deployment.id.as_str());
        let point = format!(
            "UPDATE apps SET previous = CASE WHEN active IS ?2 THEN previous ELSE coalesce(active, previous) END, active = ?2,
               revision = {THIS_REVISION} WHERE name = ?1"
        );
        let change = Change::new(actor, why.action(), id)
            .detail(json!({ "app": app, "version": deployment.version }))
            .expect(expected, expecting_app(app));
        let change = activating(change, deployment)
            .run_or(no_app(app), point, vec![app.into(), id.into()])
            .run("DELETE FROM rollouts WHERE app = ?1", vec![app.into()])
            .run(RETIRE, vec![app.into(), before(Event::Replaced)]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    /// A part of the clients gets this deployment, the others the active one.
    pub(crate) async fn roll_out(
        &self,
        actor: &str,
        deployment: &Deployment,
        percent: i64,
        expected: Expected,
    ) -> Result<i64, ChangeError> {
        let (app, id) = (deployment.app.as_str(), deployment.id.as_str());
        let alone = Refused::Conflict(format!(
            "{app} has no other active deployment for the rest of its clients"
        ));
        let sql = "INSERT INTO rollouts (app, deployment, percent, started_ms)
            SELECT name, ?2, ?3, ?4 FROM apps WHERE name = ?1 AND active <> ?2
            ON CONFLICT (app) DO UPDATE SET deployment = excluded.deployment, percent = excluded.percent,
              started_ms = CASE WHEN deployment = excluded.deployment THEN started_ms ELSE excluded.started_ms END";
        let params = vec![app.into(), id.into(), percent.into(), now_ms().into()];
        let change = Change::new(actor, "deployment.rollout", id)
            .detail(json!({ "app": app, "version": deployment.version, "percent": percent }))
            .expect(expected, expecting_app(app));
        let change = activating(change, deployment)
            .run_or(alone, sql, params)
            .run(touch(), vec![app.into()])
            .run(RETIRE, vec![app.into(), before(Event::Replaced)]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    /// All clients get the active deployment again.
    pub(crate) async fn end_rollout(
        &self,
        actor: &str,
        app: &str,
        id: &str,
        expected: Expected,
    ) -> Result<i64, ChangeError> {
        let changed = Refused::Changed {
            what: "app",
            name: app.to_owned(),
        };
        let sql = "DELETE FROM rollouts WHERE app = ?1 AND deployment = ?2";
        let change = Change::new(actor, "deployment.rollback", id)
            .detail(json!({ "app": app }))
            .expect(expected, expecting_app(app))
            .run_or(changed, sql, vec![app.into(), id.into()])
            .run(touch(), vec![app.into()])
            .run(RETIRE, vec![app.into(), before(Event::Replaced)]);
        Ok(self.change(&self.config, change).await?.revision)
    }
}

/// The app is another than it was.
fn touch() -> String {
    format!("UPDATE apps SET revision = {THIS_REVISION} WHERE name = ?1")
}

/// [`Event::Replaced`], for what an app neither serves nor rolls out any more.
const RETIRE: &str =
    "UPDATE deployments SET state = 'retired' WHERE app = ?1 AND state IN (SELECT value FROM json_each(?2))
    AND id NOT IN (SELECT active FROM apps WHERE name = ?1 AND active IS NOT NULL)
    AND id NOT IN (SELECT deployment FROM rollouts WHERE app = ?1)";

fn activating(change: Change, deployment: &Deployment) -> Change {
    let refused = Refused::Conflict(format!(
        "version {} is not prepared, or a database of it was deleted",
        deployment.version
    ));
    let sql = "UPDATE deployments SET state = 'active' WHERE id = ?1 AND state IN (SELECT value FROM json_each(?2))
        AND NOT EXISTS (SELECT 1 FROM deployment_databases WHERE deployment = ?1 AND state <> 'ready')";
    change.run_or(
        refused,
        sql,
        vec![deployment.id.clone().into(), before(Event::Activate)],
    )
}

fn before(event: Event) -> Value {
    let states: Vec<State> = State::before(event).collect();
    Value::Text(json!(states).to_string())
}
