//! Secrets, encrypted in `_control` and sealed for each PoP in `_config`.
//!
//! The two are brought together by [`Store::unsealed`] and [`Store::seal_secrets`], from what is stored: whoever was
//! interrupted goes on where they were. A secret that is older than its app belonged to an earlier app of that name.

use std::collections::BTreeMap;

use selvedge_replication::Value as Sql;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::change::{Change, ChangeError, Expected, Expecting, Refused};
use super::pops::SET_SEALING_KEY;
use super::rows::bytes;
use super::{Store, StoreError, now_ms};
use crate::vault::{Encrypted, Vault, VaultError};

/// Secrets of one app: each is sealed to every PoP.
pub(crate) const SECRETS: i64 = 500;
/// PoPs that have secrets sealed to them.
const POPS: i64 = 10_000;
/// Secrets that are encrypted anew in one change.
const ROTATED: i64 = 100;

/// A secret, without its value.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Secret {
    pub(crate) name: String,
    /// Rises by one with each change, also over a deletion.
    pub(crate) version: i64,
    pub(crate) updated_ms: i64,
}

/// One secret and one PoP, which should have it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Recipient {
    pub(crate) app: String,
    pub(crate) name: String,
    pub(crate) version: i64,
    pub(crate) pop: String,
    /// The PoP's public key, in base64.
    pub(crate) sealing_key: String,
}

/// A row of `sealed_secrets`, as JSON takes it there.
#[derive(Debug, Serialize)]
pub(crate) struct Sealed {
    pub(crate) app: String,
    pub(crate) name: String,
    pub(crate) version: i64,
    pub(crate) pop: String,
    pub(crate) sealing_key: String,
    /// In hex.
    pub(crate) sealed: String,
}

/// What is missing in `sealed_secrets`, and what should not be there: app, name, PoP.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) missing: Vec<Recipient>,
    pub(crate) left_over: Vec<(String, String, String)>,
}

#[derive(Deserialize)]
struct Live {
    app: String,
    name: String,
    version: i64,
    updated_ms: i64,
}

#[derive(Deserialize)]
struct EncryptedRow {
    app: String,
    name: String,
    version: i64,
    key: String,
    #[serde(deserialize_with = "bytes")]
    encrypted: Vec<u8>,
}

impl EncryptedRow {
    fn encrypted(&self) -> Encrypted {
        Encrypted {
            key: self.key.clone(),
            bytes: self.encrypted.clone(),
        }
    }
}

impl Store {
    pub(crate) async fn secrets(&self, app: &str, after: &str, limit: i64) -> Result<Vec<Secret>, StoreError> {
        let Some(found) = self.app(app).await? else {
            return Ok(Vec::new());
        };
        let sql = "SELECT name, version, updated_ms FROM secrets
            WHERE app = ?1 AND name > ?2 AND encrypted IS NOT NULL AND updated_ms >= ?4 ORDER BY name LIMIT ?3";
        let params = vec![app.into(), after.into(), limit.into(), found.created_ms.into()];
        self.control.read(sql, params).await
    }

    pub(crate) async fn secret(&self, app: &str, name: &str) -> Result<Option<Secret>, StoreError> {
        let sql =
            "SELECT name, version, updated_ms FROM secrets WHERE app = ?1 AND name = ?2 AND encrypted IS NOT NULL";
        self.control.find(sql, vec![app.into(), name.into()]).await
    }

    pub(crate) async fn set_secret(
        &self,
        actor: &str,
        app: &str,
        name: &str,
        encrypted: Encrypted,
        expected: Expected,
    ) -> Result<(), ChangeError> {
        let sql = "INSERT INTO secrets (app, name, version, updated_ms, key, encrypted)
            SELECT ?1, ?2, 1, ?3, ?4, ?5
            WHERE (SELECT count(*) FROM secrets WHERE app = ?1 AND name <> ?2 AND encrypted IS NOT NULL) < ?6
            ON CONFLICT (app, name) DO UPDATE SET version = version + 1, updated_ms = excluded.updated_ms,
              key = excluded.key, encrypted = excluded.encrypted";
        let params = vec![
            app.into(),
            name.into(),
            now_ms().into(),
            encrypted.key.into(),
            Sql::Blob(encrypted.bytes),
            SECRETS.into(),
        ];
        let full = Refused::Conflict(format!(
            "{app} has {SECRETS} secrets already; remove one that nothing needs"
        ));
        let change = Change::new(actor, "secret.set", name)
            .detail(json!({ "app": app }))
            .expect(expected, expecting(app, name))
            .run_or(full, sql, params);
        self.change(&self.control, change).await.map(drop)
    }

    pub(crate) async fn delete_secret(
        &self,
        actor: &str,
        app: &str,
        name: &str,
        expected: Expected,
    ) -> Result<(), ChangeError> {
        let missing = Refused::NotFound {
            what: "secret",
            name: name.to_owned(),
        };
        let sql = "UPDATE secrets SET version = version + 1, updated_ms = ?3, key = '', encrypted = NULL
            WHERE app = ?1 AND name = ?2 AND encrypted IS NOT NULL";
        let change = Change::new(actor, "secret.delete", name)
            .detail(json!({ "app": app }))
            .expect(expected, expecting(app, name))
            .run_or(missing, sql, vec![app.into(), name.into(), now_ms().into()]);
        self.change(&self.control, change).await.map(drop)
    }

    /// The ids of all keys that a secret is encrypted with.
    pub(crate) async fn secret_keys(&self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT key FROM secrets WHERE encrypted IS NOT NULL UNION SELECT key FROM webhooks";
        let keys: Vec<(String,)> = self.control.read(sql, Vec::new()).await?;
        Ok(keys.into_iter().map(|(key,)| key).collect())
    }

    /// The value of this version; `None` when it is no longer that.
    pub(crate) async fn encrypted(&self, app: &str, name: &str, version: i64) -> Result<Option<Encrypted>, StoreError> {
        let sql = "SELECT app, name, version, key, encrypted FROM secrets
            WHERE app = ?1 AND name = ?2 AND version = ?3 AND encrypted IS NOT NULL";
        let params = vec![app.into(), name.into(), version.into()];
        let found: Option<EncryptedRow> = self.control.find(sql, params).await?;
        Ok(found.map(|row| row.encrypted()))
    }

    /// Encrypts under the newest key some of those that are under another, and says how many it did.
    pub(crate) async fn rotate_secrets(
        &self,
        actor: &str,
        vault: &Vault,
    ) -> Result<Result<usize, VaultError>, ChangeError> {
        // The secrets of webhooks are no app's, and have one version.
        let sql = "SELECT app, name, version, key, encrypted FROM secrets WHERE encrypted IS NOT NULL AND key <> ?1
            UNION ALL SELECT '', id, 1, key, encrypted FROM webhooks WHERE key <> ?1 ORDER BY app, name LIMIT ?2";
        let rows: Vec<EncryptedRow> = self
            .control
            .read(sql, vec![vault.newest().into(), ROTATED.into()])
            .await?;
        if rows.is_empty() {
            return Ok(Ok(0));
        }
        let detail = json!({ "key": vault.newest(), "secrets": rows.len() });
        let mut change = Change::new(actor, "secret.rotate", vault.newest()).detail(detail);
        for row in &rows {
            let anew = vault.decrypt(&row.app, &row.name, &row.encrypted());
            let anew = match anew {
                Ok(value) => vault.encrypt(&row.app, &row.name, &value),
                Err(error) => return Ok(Err(error)),
            };
            // One that is set meanwhile is under the newest key already.
            let sql = match row.app.as_str() {
                "" => "UPDATE webhooks SET key = ?4, encrypted = ?5 WHERE ?1 = '' AND id = ?2 AND ?3 = 1",
                _ => "UPDATE secrets SET key = ?4, encrypted = ?5 WHERE app = ?1 AND name = ?2 AND version = ?3",
            };
            let params = vec![
                row.app.clone().into(),
                row.name.clone().into(),
                row.version.into(),
                anew.key.into(),
                Sql::Blob(anew.bytes),
            ];
            change = change.run(sql, params);
        }
        self.change(&self.control, change).await?;
        Ok(Ok(rows.len()))
    }

    /// Whether a PoP has another key than this.
    pub(crate) async fn has_sealing_key(&self, pop: &str, key: &str) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM sealing_keys WHERE pop = ?1 AND sealing_key = ?2";
        let found: Option<(i64,)> = self.control.find(sql, vec![pop.into(), key.into()]).await?;
        Ok(found.is_some())
    }

    pub(crate) async fn set_sealing_key(&self, actor: &str, pop: &str, key: &str) -> Result<(), ChangeError> {
        let missing = Refused::NotFound {
            what: "PoP",
            name: pop.to_owned(),
        };
        let change = Change::new(actor, "pop.sealing_key", pop)
            .detail(json!({ "sealing_key": key }))
            .run_or(missing, SET_SEALING_KEY, vec![pop.into(), key.into()]);
        self.change(&self.control, change).await.map(drop)
    }

    /// How what PoPs have differs from what they should have.
    pub(crate) async fn unsealed(&self) -> Result<Difference, StoreError> {
        let apps: Vec<(String, i64)> = self
            .config
            .read("SELECT name, created_ms FROM apps", Vec::new())
            .await?;
        let apps: BTreeMap<String, i64> = apps.into_iter().collect();
        let sql = "SELECT app, name, version, updated_ms FROM secrets WHERE encrypted IS NOT NULL";
        let live: Vec<Live> = self.control.read(sql, Vec::new()).await?;
        let is_of_app = |secret: &Live| apps.get(&secret.app).is_some_and(|made| secret.updated_ms >= *made);
        let sql = "SELECT pop, sealing_key FROM sealing_keys ORDER BY pop LIMIT ?1";
        let pops: Vec<(String, String)> = self.control.read(sql, vec![POPS.into()]).await?;
        let sql = "SELECT app, name, pop, version, sealing_key FROM sealed_secrets";
        let sealed: Vec<(String, String, String, i64, String)> = self.config.read(sql, Vec::new()).await?;
        let mut sealed: BTreeMap<_, _> = sealed
            .into_iter()
            .map(|(app, name, pop, version, key)| ((app, name, pop), (version, key)))
            .collect();
        let mut missing = Vec::new();
        for secret in live.iter().filter(|secret| is_of_app(secret)) {
            for (pop, sealing_key) in &pops {
                let found = sealed.remove(&(secret.app.clone(), secret.name.clone(), pop.clone()));
                if found.is_none_or(|(version, key)| version != secret.version || key != *sealing_key) {
                    missing.push(Recipient {
                        app: secret.app.clone(),
                        name: secret.name.clone(),
                        version: secret.version,
                        pop: pop.clone(),
                        sealing_key: sealing_key.clone(),
                    });
                }
            }
        }
        Ok(Difference {
            missing,
            left_over: sealed.into_keys().collect(),
        })
    }

    /// Brings PoPs what was missing, and takes away what was left over.
    pub(crate) async fn seal_secrets(
        &self,
        actor: &str,
        sealed: &[Sealed],
        left_over: &[(String, String, String)],
    ) -> Result<i64, ChangeError> {
        let put = "INSERT INTO sealed_secrets (app, pop, name, version, sealed, sealing_key)
            SELECT apps.name, one ->> 'pop', one ->> 'name', one ->> 'version', unhex(one ->> 'sealed'), one ->> 'sealing_key'
            FROM (SELECT value AS one FROM json_each(?1)) JOIN apps ON apps.name = one ->> 'app'
            WHERE true
            ON CONFLICT (pop, app, name) DO UPDATE SET version = excluded.version, sealed = excluded.sealed,
              sealing_key = excluded.sealing_key";
        let remove = "DELETE FROM sealed_secrets WHERE (app, name, pop) IN
            (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1))";
        let change = Change::new(actor, "secret.seal", "")
            .detail(json!({ "sealed": sealed.len(), "removed": left_over.len() }))
            .run(remove, vec![json!(left_over).to_string().into()])
            .run(put, vec![json!(sealed).to_string().into()]);
        Ok(self.change(&self.config, change).await?.revision)
    }

    /// Removes the secrets of apps that are gone, also of those that another has taken the name of.
    pub(crate) async fn forget_secrets_of_gone_apps(&self) -> Result<(), ChangeError> {
        let apps: Vec<(String, i64)> = self
            .config
            .read("SELECT name, created_ms FROM apps", Vec::new())
            .await?;
        let apps: BTreeMap<String, i64> = apps.into_iter().collect();
        let sql = "SELECT app, name, version, updated_ms FROM secrets WHERE encrypted IS NOT NULL";
        let live: Vec<Live> = self.control.read(sql, Vec::new()).await?;
        let gone = |secret: &&Live| apps.get(&secret.app).is_none_or(|made| secret.updated_ms < *made);
        let gone: Vec<_> = live.iter().filter(gone).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let list = gone
            .iter()
            .map(|secret| json!([secret.app, secret.name, secret.version]));
        let list = serde_json::Value::from_iter(list).to_string();
        let sql = "UPDATE secrets SET version = version + 1, key = '', encrypted = NULL WHERE (app, name, version) IN
            (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1))";
        let change = Change::new("control", "secret.forget", "")
            .detail(json!({ "secrets": gone.len() }))
            .run(sql, vec![list.into()]);
        self.change(&self.control, change).await.map(drop)
    }
}

fn expecting<'a>(app: &str, name: &'a str) -> Expecting<'a> {
    Expecting {
        what: "secret",
        name,
        row: "secrets WHERE app = ?1 AND name = ?2 AND encrypted IS NOT NULL",
        version: "version",
        params: vec![app.into(), name.into()],
    }
}
