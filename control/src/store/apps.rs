//! Apps, their domains and their environment.

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::change::{Change, ChangeError, Expected, Expecting, Refused, THIS_REVISION};
use super::{Store, StoreError, now_ms};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) created_ms: i64,
    /// The deployment that serves.
    pub(crate) active: Option<String>,
    /// The one that served before it: where a rollback goes.
    pub(crate) previous: Option<String>,
    /// The deployment that takes a part of the clients.
    pub(crate) rollout: Option<String>,
    /// How large a part.
    pub(crate) percent: Option<i64>,
    /// Of the last change of what serves: its ETag.
    pub(crate) revision: i64,
}

/// A host name, and the app that answers for it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Domain {
    pub(crate) host: String,
    pub(crate) app: String,
    /// Of its last change: its ETag.
    pub(crate) revision: i64,
}

/// An environment variable of an app's handlers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
    /// Of its last change: its ETag.
    pub(crate) revision: i64,
}

const APPS: &str = "SELECT name, created_ms, active, previous, rollouts.deployment AS rollout, percent, revision
    FROM apps LEFT JOIN rollouts ON app = name";

impl Store {
    pub(crate) async fn app(&self, name: &str) -> Result<Option<App>, StoreError> {
        self.config
            .find(&format!("{APPS} WHERE name = ?1"), vec![name.into()])
            .await
    }

    pub(crate) async fn apps(&self, after: &str, limit: i64) -> Result<Vec<App>, StoreError> {
        let sql = format!("{APPS} WHERE name > ?1 ORDER BY name LIMIT ?2");
        self.config.read(&sql, vec![after.into(), limit.into()]).await
    }

    pub(crate) async fn add_app(&self, actor: &str, name: &str) -> Result<i64, ChangeError> {
        let exists = Refused::Exists {
            what: "app",
            name: name.to_owned(),
        };
        let sql = format!("INSERT INTO apps (name, created_ms, revision) VALUES (?1, ?2, {THIS_REVISION})");
        let change = Change::new(actor, "app.create", name).run_or(exists, sql, vec![name.into(), now_ms().into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    pub(crate) async fn delete_app(&self, actor: &str, name: &str, expected: Expected) -> Result<i64, ChangeError> {
        let change = Change::new(actor, "app.delete", name)
            .expect(expected, expecting_app(name))
            .run(
                "UPDATE apps SET active = NULL, previous = NULL WHERE name = ?1",
                vec![name.into()],
            )
            .run("DELETE FROM rollouts WHERE app = ?1", vec![name.into()])
            .run_or(no_app(name), "DELETE FROM apps WHERE name = ?1", vec![name.into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    pub(crate) async fn domains(&self, app: &str, after: &str, limit: i64) -> Result<Vec<Domain>, StoreError> {
        let sql = "SELECT host, app, revision FROM domains WHERE app = ?1 AND host > ?2 ORDER BY host LIMIT ?3";
        self.config
            .read(sql, vec![app.into(), after.into(), limit.into()])
            .await
    }

    /// Takes a host that no other app has.
    pub(crate) async fn set_domain(
        &self,
        actor: &str,
        app: &str,
        host: &str,
        expected: Expected,
    ) -> Result<i64, ChangeError> {
        let taken = Refused::Conflict(format!("{host} is the domain of another app"));
        let sql = format!(
            "INSERT INTO domains (host, app, revision) VALUES (?1, ?2, {THIS_REVISION})
             ON CONFLICT (host) DO UPDATE SET revision = excluded.revision WHERE app = excluded.app"
        );
        let change = Change::new(actor, "domain.set", host)
            .detail(json!({ "app": app }))
            .expect(expected, expecting_domain(app, host))
            .run_or(taken, sql, vec![host.into(), app.into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    pub(crate) async fn delete_domain(
        &self,
        actor: &str,
        app: &str,
        host: &str,
        expected: Expected,
    ) -> Result<i64, ChangeError> {
        let missing = Refused::NotFound {
            what: "domain",
            name: host.to_owned(),
        };
        let sql = "DELETE FROM domains WHERE host = ?1 AND app = ?2";
        let change = Change::new(actor, "domain.delete", host)
            .detail(json!({ "app": app }))
            .expect(expected, expecting_domain(app, host))
            .run_or(missing, sql, vec![host.into(), app.into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    pub(crate) async fn env(&self, app: &str, after: &str, limit: i64) -> Result<Vec<Variable>, StoreError> {
        let sql = "SELECT name, value, revision FROM env WHERE app = ?1 AND name > ?2 ORDER BY name LIMIT ?3";
        self.config
            .read(sql, vec![app.into(), after.into(), limit.into()])
            .await
    }

    pub(crate) async fn variable(&self, app: &str, name: &str) -> Result<Option<Variable>, StoreError> {
        let sql = "SELECT name, value, revision FROM env WHERE app = ?1 AND name = ?2";
        self.config.find(sql, vec![app.into(), name.into()]).await
    }

    pub(crate) async fn set_variable(
        &self,
        actor: &str,
        app: &str,
        name: &str,
        value: &str,
        expected: Expected,
    ) -> Result<i64, ChangeError> {
        let sql = format!(
            "INSERT INTO env (app, name, value, revision) VALUES (?1, ?2, ?3, {THIS_REVISION})
             ON CONFLICT (app, name) DO UPDATE SET value = excluded.value, revision = excluded.revision"
        );
        // Values are no secrets, but the log outlives them: it has the names.
        let change = Change::new(actor, "env.set", name)
            .detail(json!({ "app": app }))
            .expect(expected, expecting_variable(app, name))
            .run_or(no_app(app), sql, vec![app.into(), name.into(), value.into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    pub(crate) async fn delete_variable(
        &self,
        actor: &str,
        app: &str,
        name: &str,
        expected: Expected,
    ) -> Result<i64, ChangeError> {
        let missing = Refused::NotFound {
            what: "variable",
            name: name.to_owned(),
        };
        let sql = "DELETE FROM env WHERE app = ?1 AND name = ?2";
        let change = Change::new(actor, "env.delete", name)
            .detail(json!({ "app": app }))
            .expect(expected, expecting_variable(app, name))
            .run_or(missing, sql, vec![app.into(), name.into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }
}

pub(super) fn no_app(name: &str) -> Refused {
    Refused::NotFound {
        what: "app",
        name: name.to_owned(),
    }
}

pub(super) fn expecting_app(name: &str) -> Expecting<'_> {
    Expecting {
        what: "app",
        name,
        row: "apps WHERE name = ?1",
        version: "revision",
        params: vec![name.into()],
    }
}

fn expecting_domain<'a>(app: &str, host: &'a str) -> Expecting<'a> {
    Expecting {
        what: "domain",
        name: host,
        row: "domains WHERE host = ?1 AND app = ?2",
        version: "revision",
        params: vec![host.into(), app.into()],
    }
}

fn expecting_variable<'a>(app: &str, name: &'a str) -> Expecting<'a> {
    Expecting {
        what: "variable",
        name,
        row: "env WHERE app = ?1 AND name = ?2",
        version: "revision",
        params: vec![app.into(), name.into()],
    }
}
