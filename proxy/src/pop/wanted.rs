//! What control wants served, as `_config` says it.

use std::collections::BTreeMap;

use selvedge_replication::bookmark::Session;
use selvedge_replication::{Database, SqlError, Statement, Value};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The newest versions of an app that are built although they do not serve: for previews, and to be activated at once.
const NEWEST: i64 = 5;

/// One state of `_config`, all from the same transaction.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    pub(super) revision: i64,
    pub(super) apps: Vec<App>,
    pub(super) rollouts: Vec<Rollout>,
    /// Host and app.
    pub(super) domains: Vec<(String, String)>,
    /// App, name and value.
    pub(super) env: Vec<(String, String, String)>,
    /// App, name, and what was sealed for this PoP, in hex.
    pub(super) secrets: Vec<(String, String, String)>,
    pub(super) deployments: Vec<Deployment>,
    /// Those after the one asked for, oldest first.
    pub(super) purges: Vec<Purge>,
    /// The newest purge there ever was.
    pub(super) last_purge: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct App {
    pub(super) name: String,
    pub(super) active: Option<String>,
    /// What served before: a rollback goes to it.
    pub(super) previous: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rollout {
    pub(super) app: String,
    pub(super) deployment: String,
    pub(super) percent: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Deployment {
    pub(super) id: String,
    pub(super) app: String,
    pub(super) version: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Purge {
    pub(super) id: i64,
    pub(super) kind: String,
    pub(super) value: String,
}

/// What a deployment consists of; it never changes.
#[derive(Debug, Deserialize)]
pub(super) struct Content {
    /// JSON in the edge's vocabulary.
    pub(super) manifest: String,
    pub(super) files: Vec<File>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct File {
    /// Inside the deployment, with `/`.
    pub(super) path: String,
    /// SHA-256, in hex.
    pub(super) digest: String,
    pub(super) bytes: u64,
}

#[derive(Debug, Error)]
pub(super) enum WantedError {
    #[error("reading _config")]
    Read(#[source] SqlError),
    #[error("_config is not as expected; update this PoP")]
    Unknown(#[source] serde_json::Error),
    #[error("_config has no deployment {0}")]
    Missing(String),
}

/// One statement, so that it is one state. What a subquery returns is JSON only when it is said again.
const WANTED: &str = "SELECT json_object(
  'revision', (SELECT number FROM revision),
  'apps', json((SELECT json_group_array(json_object('name', name, 'active', active, 'previous', previous)) FROM apps)),
  'rollouts', json((
    SELECT json_group_array(json_object('app', app, 'deployment', deployment, 'percent', percent)) FROM rollouts
  )),
  'domains', json((SELECT json_group_array(json_array(host, app)) FROM domains)),
  'env', json((SELECT json_group_array(json_array(app, name, value)) FROM env)),
  'secrets', json((SELECT json_group_array(json_array(app, name, hex(sealed))) FROM sealed_secrets WHERE pop = ?3)),
  'deployments', json((
    SELECT json_group_array(json_object('id', id, 'app', app, 'version', version)) FROM (
      SELECT id, app, version, row_number() OVER (PARTITION BY app ORDER BY version DESC) AS age FROM deployments
    ) WHERE age <= ?1 OR id IN (
      SELECT active FROM apps UNION SELECT previous FROM apps UNION SELECT deployment FROM rollouts
    )
  )),
  'purges', json((
    SELECT json_group_array(json_object('id', id, 'kind', kind, 'value', value))
    FROM (SELECT * FROM purges WHERE id > ?2 ORDER BY id)
  )),
  'last_purge', (SELECT coalesce(max(id), 0) FROM purges)
)";

const CONTENT: &str = "SELECT json_object(
  'manifest', manifest,
  'files', json((
    SELECT json_group_array(json_object('path', path, 'digest', digest, 'bytes', bytes))
    FROM deployment_blobs WHERE deployment = ?1
  ))
) FROM deployments WHERE id = ?1";

/// The state now, with the purges after `purged`, for the PoP of this name.
pub(super) async fn read(config: &Database, session: &Session, purged: i64, pop: &str) -> Result<Wanted, WantedError> {
    let statement = Statement::new(WANTED, vec![NEWEST.into(), purged.into(), pop.into()]);
    let wanted = one(config, session, statement).await?;
    wanted.ok_or_else(|| WantedError::Missing(String::new()))
}

pub(super) async fn content(config: &Database, session: &Session, id: &str) -> Result<Content, WantedError> {
    let content = one(config, session, Statement::new(CONTENT, vec![id.into()])).await?;
    content.ok_or_else(|| WantedError::Missing(id.to_owned()))
}

async fn one<T: DeserializeOwned>(
    config: &Database,
    session: &Session,
    statement: Statement,
) -> Result<Option<T>, WantedError> {
    let rows = config.query_in(session, statement).await.map_err(WantedError::Read)?;
    match rows.rows.first().and_then(|row| row.first()) {
        Some(Value::Text(text)) => serde_json::from_str(text).map(Some).map_err(WantedError::Unknown),
        _ => Ok(None),
    }
}

impl Wanted {
    /// An app's variables by name.
    pub(super) fn env_of(&self, app: &str) -> BTreeMap<String, String> {
        let own = self.env.iter().filter(|(of, _, _)| of == app);
        own.map(|(_, name, value)| (name.clone(), value.clone())).collect()
    }

    /// An app's secrets by name, sealed.
    pub(super) fn secrets_of(&self, app: &str) -> BTreeMap<String, String> {
        let own = self.secrets.iter().filter(|(of, _, _)| of == app);
        own.map(|(_, name, sealed)| (name.clone(), sealed.clone())).collect()
    }

    /// Whether clients get it, all or some of them.
    pub(super) fn serves(&self, deployment: &Deployment) -> bool {
        let active = self.apps.iter().any(|app| app.active.as_ref() == Some(&deployment.id));
        active || self.rollouts.iter().any(|rollout| rollout.deployment == deployment.id)
    }
}
