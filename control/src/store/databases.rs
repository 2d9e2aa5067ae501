//! Databases of apps, and what each deployment needs of them.
//!
//! What is to be done stands here before it is done: whoever was interrupted finds it again, and doing it twice is doing it
//! once.

use selvedge_replication::{SqlError, Statement, Value};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::change::{Change, ChangeError, Refused};
use super::{Store, StoreError, now_ms};
use crate::deployment::Said;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DatabaseState {
    /// A deployment names it; it is not made yet.
    Wanted,
    Made,
    /// It shall go.
    Deleting,
    /// It is gone for everybody; until `until_ms` it can be had back.
    Deleted,
}

/// A database of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct AppDatabase {
    pub(crate) name: String,
    pub(crate) app: String,
    pub(crate) created_ms: i64,
    pub(crate) deleted_ms: Option<i64>,
    /// Until then a deleted one can be had back, and its name is not free.
    pub(crate) until_ms: Option<i64>,
    pub(crate) state: DatabaseState,
    /// What failed last.
    pub(crate) message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Migrated {
    /// Its migrations are not applied yet.
    Waiting,
    Ready,
    Failed,
}

impl Migrated {
    /// As a PoP would say it of the deployment: a database is waited for like one.
    pub(crate) fn said(self) -> Option<Said> {
        match self {
            Migrated::Waiting => None,
            Migrated::Ready => Some(Said::Prepared),
            Migrated::Failed => Some(Said::Failed),
        }
    }
}

/// What a deployment needs of one database.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct NeededDatabase {
    pub(crate) database: String,
    pub(crate) state: Migrated,
    /// Why it failed.
    pub(crate) message: Option<String>,
}

/// The next migration to be done.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pending {
    pub(crate) deployment: String,
    pub(crate) database: String,
    pub(crate) state: DatabaseState,
}

const DATABASES: &str = "SELECT name, app, created_ms, deleted_ms, until_ms, state, message FROM databases";

/// Tables of its own that a database has.
const TABLES: &str =
    "SELECT count(*) FROM sqlite_schema WHERE substr(name, 1, 7) <> 'sqlite_' AND substr(name, 1, 10) <> '_selvedge_'";

impl Store {
    pub(crate) async fn app_database(&self, name: &str) -> Result<Option<AppDatabase>, StoreError> {
        self.config
            .find(&format!("{DATABASES} WHERE name = ?1"), vec![name.into()])
            .await
    }

    /// Those of one app, or all.
    pub(crate) async fn app_databases(
        &self,
        app: Option<&str>,
        after: &str,
        limit: i64,
    ) -> Result<Vec<AppDatabase>, StoreError> {
        let sql = format!("{DATABASES} WHERE name > ?1 AND (?2 IS NULL OR app = ?2) ORDER BY name LIMIT ?3");
        let params = vec![after.into(), app.map_or(Value::Null, Value::from), limit.into()];
        self.config.read(&sql, params).await
    }

    pub(crate) async fn needed_databases(&self, deployment: &str) -> Result<Vec<NeededDatabase>, StoreError> {
        let sql = "SELECT database, state, message FROM deployment_databases WHERE deployment = ?1 ORDER BY database";
        self.config.read(sql, vec![deployment.into()]).await
    }

    /// The oldest deployment's first.
    pub(crate) async fn next_migration(&self) -> Result<Option<Pending>, StoreError> {
        let sql = "SELECT deployment, database, databases.state AS state FROM deployment_databases AS needed
            JOIN databases ON name = database
            WHERE needed.state = 'waiting' ORDER BY deployment, database LIMIT 1";
        self.config.find(sql, Vec::new()).await
    }

    /// Makes a database at the primary unless it is there; whether it holds nothing.
    pub(crate) async fn make_database(&self, name: &str) -> Result<bool, SqlError> {
        self.agent.create_database(name).await?;
        let (rows, _) = self.agent.read(name, &Statement::new(TABLES, Vec::new())).await?;
        Ok(rows.rows.first().and_then(|row| row.first()) == Some(&Value::Integer(0)))
    }

    pub(crate) async fn note_made(&self, name: &str) -> Result<(), ChangeError> {
        let sql = "UPDATE databases SET state = 'made' WHERE name = ?1 AND state = 'wanted'";
        let change = Change::new("control", "database.create", name).run(sql, vec![name.into()]);
        self.change(&self.config, change).await.map(drop)
    }

    /// Says which files would be applied, in order; what would fail, fails, and nothing is changed.
    pub(crate) async fn rehearse(&self, name: &str, files: &[(&str, &str)]) -> Result<Vec<String>, SqlError> {
        self.agent.rehearse(name, files).await
    }

    pub(crate) async fn migrate(&self, name: &str, files: &[(&str, &str)]) -> Result<(), SqlError> {
        self.agent.migrate(name, files).await
    }

    /// What became of a deployment's migrations of one database.
    pub(crate) async fn end_migration(
        &self,
        pending: &Pending,
        outcome: Result<&[String], &str>,
    ) -> Result<(), ChangeError> {
        let (action, state, message) = match outcome {
            Ok(_) => ("database.migrate", "ready", Value::Null),
            Err(message) => ("database.failed", "failed", message.into()),
        };
        let detail = match outcome {
            Ok(files) => json!({ "deployment": pending.deployment, "files": files }),
            Err(message) => json!({ "deployment": pending.deployment, "message": message }),
        };
        let needed = "UPDATE deployment_databases SET state = ?3, message = ?4 WHERE deployment = ?1 AND database = ?2";
        let database = "UPDATE databases SET message = ?2 WHERE name = ?1";
        let params = vec![
            pending.deployment.clone().into(),
            pending.database.clone().into(),
            state.into(),
            message.clone(),
        ];
        let change = Change::new("control", action, pending.database.clone())
            .detail(detail)
            .run(needed, params)
            .run(database, vec![pending.database.clone().into(), message]);
        self.change(&self.config, change).await.map(drop)
    }

    /// It shall go, unless what serves names it. Deployments that named it cannot serve any more.
    pub(crate) async fn begin_deletion(&self, actor: &str, name: &str) -> Result<i64, ChangeError> {
        let used = Refused::Conflict(format!(
            "what serves names the database {name}, or it is deleted already"
        ));
        let sql = "UPDATE databases SET state = 'deleting', deleted_ms = ?2, message = NULL
            WHERE name = ?1 AND state IN ('wanted', 'made') AND NOT EXISTS (
              SELECT 1 FROM deployment_databases WHERE database = ?1 AND (
                deployment IN (SELECT active FROM apps) OR deployment IN (SELECT deployment FROM rollouts)))";
        let needed = "UPDATE deployment_databases SET state = 'failed', message = 'the database was deleted' WHERE database = ?1";
        let change = Change::new(actor, "database.delete", name)
            .run_or(used, sql, vec![name.into(), now_ms().into()])
            .run(needed, vec![name.into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    pub(crate) async fn next_deletion(&self) -> Result<Option<AppDatabase>, StoreError> {
        let sql = format!("{DATABASES} WHERE state = 'deleting' ORDER BY name LIMIT 1");
        self.config.find(&sql, Vec::new()).await
    }

    /// Deletes it at the primary. The agent's grace decides until when it can be had back.
    pub(crate) async fn delete_at_primary(&self, name: &str) -> Result<Option<i64>, SqlError> {
        match self.agent.delete_database(name).await {
            Err(error) if error.code() == "no_database" => Ok(None),
            outcome => outcome,
        }
    }

    pub(crate) async fn end_deletion(&self, name: &str, until_ms: Option<i64>) -> Result<(), ChangeError> {
        let sql = "UPDATE databases SET state = 'deleted', until_ms = ?2 WHERE name = ?1 AND state = 'deleting'";
        let params = vec![name.into(), until_ms.unwrap_or_else(now_ms).into()];
        let change = Change::new("control", "database.deleted", name).run(sql, params);
        self.change(&self.config, change).await.map(drop)
    }
}

/// Takes a database for a deployment: a new one, its app's own, or a name that has become free.
pub(super) fn take(change: Change, app: &str, deployment: &str, database: &str) -> Change {
    let taken = Refused::Conflict(format!("the database {database} is another app's, or deleted"));
    let sql = "INSERT INTO databases (name, app, created_ms, state) VALUES (?1, ?2, ?3, 'wanted')
        ON CONFLICT (name) DO UPDATE SET
          state = CASE state WHEN 'deleted' THEN 'wanted' ELSE state END,
          created_ms = CASE state WHEN 'deleted' THEN excluded.created_ms ELSE created_ms END,
          app = excluded.app, deleted_ms = NULL, until_ms = NULL
        WHERE (app = excluded.app AND state IN ('wanted', 'made')) OR (state = 'deleted' AND until_ms <= ?3)";
    let need = "INSERT INTO deployment_databases (deployment, database, state) VALUES (?1, ?2, 'waiting')";
    change
        .run_or(taken, sql, vec![database.into(), app.into(), now_ms().into()])
        .run(need, vec![deployment.into(), database.into()])
}
