//! Which blobs there are.

use selvedge_replication::Statement;
use serde::Deserialize;
use serde_json::json;

use super::{Store, StoreError, now_ms};
use crate::artifacts::Digest;

#[derive(Deserialize)]
struct Found {
    digest: String,
    bytes: i64,
}

impl Store {
    pub(crate) async fn add_artifact(&self, digest: &Digest, bytes: u64) -> Result<(), StoreError> {
        let sql = "INSERT INTO artifacts (digest, bytes, needed_ms) VALUES (?1, ?2, ?3)
                   ON CONFLICT (digest) DO UPDATE SET needed_ms = excluded.needed_ms";
        let params = vec![digest.as_str().into(), (bytes as i64).into(), now_ms().into()];
        self.control.note(vec![Statement::new(sql, params)]).await.map(drop)
    }

    /// Its size, if there is such a blob.
    pub(crate) async fn artifact(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT bytes FROM artifacts WHERE digest = ?1";
        let found: Option<(i64,)> = self.control.find(sql, vec![digest.as_str().into()]).await?;
        Ok(found.map(|(bytes,)| bytes as u64))
    }

    /// The sizes of those that are there; from now on they are not collected for a while.
    pub(crate) async fn need(&self, digests: &[&str]) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = "UPDATE artifacts SET needed_ms = ?2 WHERE digest IN (SELECT value FROM json_each(?1))";
        let list = json!(digests).to_string();
        let params = vec![list.clone().into(), now_ms().into()];
        self.control.note(vec![Statement::new(sql, params)]).await?;
        let sql = "SELECT digest, bytes FROM artifacts WHERE digest IN (SELECT value FROM json_each(?1))";
        let found: Vec<Found> = self.control.read(sql, vec![list.into()]).await?;
        Ok(found.into_iter().map(|found| (found.digest, found.bytes)).collect())
    }

    /// Blobs that nothing has needed since, and that no deployment names.
    pub(crate) async fn unneeded(&self, since_ms: i64, limit: i64) -> Result<Vec<Digest>, StoreError> {
        let sql = "SELECT digest FROM artifacts WHERE needed_ms < ?1 ORDER BY needed_ms LIMIT ?2";
        let old: Vec<(String,)> = self.control.read(sql, vec![since_ms.into(), limit.into()]).await?;
        let old: Vec<String> = old.into_iter().map(|(digest,)| digest).collect();
        let sql = "SELECT DISTINCT digest FROM deployment_blobs WHERE digest IN (SELECT value FROM json_each(?1))";
        let named: Vec<(String,)> = self.config.read(sql, vec![json!(old).to_string().into()]).await?;
        // What is named moves to the end of the line, so that the next look finds others.
        let named: Vec<&str> = named.iter().map(|(digest,)| digest.as_str()).collect();
        if !named.is_empty() {
            self.need(&named).await?;
        }
        let unneeded = old.iter().filter(|digest| !named.contains(&digest.as_str()));
        Ok(unneeded.filter_map(|digest| Digest::parse(digest)).collect())
    }

    /// Whether it was still unneeded, and is gone now.
    pub(crate) async fn forget_artifact(&self, digest: &Digest, since_ms: i64) -> Result<bool, StoreError> {
        let sql = "DELETE FROM artifacts WHERE digest = ?1 AND needed_ms < ?2";
        let statement = Statement::new(sql, vec![digest.as_str().into(), since_ms.into()]);
        let done = self.control.note(vec![statement]).await?;
        Ok(done.first().is_some_and(|rows| rows.changes == 1))
    }
}
