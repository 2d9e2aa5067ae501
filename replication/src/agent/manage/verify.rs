//! Whether a database is what its log says: all of it is read.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use super::super::api::Api;
use super::super::primary_site::blocking;
use super::super::{Refusal, Site};
use super::lifecycle::ASKING;
use crate::checksum::PageChecksums;
use crate::connection::Connection;
use crate::log::{Head, Log};
use crate::position::{Lineage, Position, Txid};
use crate::{pages, snapshot};

/// Problems shown of a damaged file.
const PROBLEMS: usize = 10;

#[derive(Serialize)]
pub(super) struct Verified {
    agent: String,
    database: String,
    position: Position,
    /// Of the file here, in hex.
    checksum: String,
    /// Of the log at that position; `None` when it does not know it any more, or the primary cannot be reached.
    logged: Option<String>,
    /// Whether both are the same; `None` when there is nothing to compare with.
    same: Option<bool>,
    pages: u32,
    /// `ok`, or what SQLite finds wrong with the file.
    integrity: String,
    /// What each replica has applied, as it has said last.
    replicas: Vec<ReplicaVerified>,
}

#[derive(Serialize)]
struct ReplicaVerified {
    agent: String,
    position: Position,
    checksum: String,
    same: Option<bool>,
}

/// The file as it was found.
struct Found {
    lineage: Lineage,
    position: Position,
    checksums: PageChecksums,
    integrity: String,
}

/// The state after a transaction, if the log knows it.
pub(super) async fn state(
    State(api): State<Api>,
    Path((database, txid)): Path<(String, u64)>,
) -> Result<Json<Option<Head>>, Refusal> {
    let site = api.primary()?;
    if !site.exists(&database) {
        return Err(Refusal::NoDatabase(database));
    }
    Ok(Json(site.log().state_at(&database, Txid(txid))))
}

pub(super) async fn verify(State(api): State<Api>, Path(database): Path<String>) -> Result<Json<Verified>, Refusal> {
    let missing = || Refusal::NoDatabase(database.clone());
    let (found, logged) = match &*api.site {
        Site::Primary(site) => {
            let open = site.database(&database).await?;
            let (path, log, name) = (site.path(&database).ok_or_else(missing)?, site.log(), database.clone());
            blocking(move || {
                let _open = open;
                let found = read(&path)?;
                let logged = snapshot::wait_for_state(&*log, &name, found.position.txid);
                Ok::<_, Refusal>((found, logged))
            })
            .await?
        }
        Site::Replica(site) => {
            let status = api.shared.board.get(&database).ok_or_else(missing)?;
            let path = status.path.ok_or_else(missing)?;
            let found = blocking(move || read(&path)).await?;
            let path = format!("/v1/databases/{database}/states/{}", found.position.txid.0);
            let answer = site.link().get(&path).timeout(ASKING).send().await.ok();
            let logged = match answer.filter(|answer| answer.status().is_success()) {
                Some(answer) => answer.json::<Option<Head>>().await.ok().flatten(),
                None => None,
            };
            (found, logged)
        }
    };
    let total = found.checksums.total();
    let is_same =
        |head: Head| head.lineage == found.lineage && head.position == found.position && head.checksum == total;
    Ok(Json(Verified {
        agent: api.shared.settings.name.clone(),
        position: found.position,
        checksum: hex(total),
        logged: logged.map(|head| hex(head.checksum)),
        same: logged.map(is_same),
        pages: found.checksums.page_count(),
        integrity: found.integrity,
        replicas: replicas_of(&api, &database),
        database,
    }))
}

fn replicas_of(api: &Api, database: &str) -> Vec<ReplicaVerified> {
    let Site::Primary(site) = &*api.site else {
        return Vec::new();
    };
    let log = site.log();
    let applied = api.shared.replicas.all().into_iter().filter_map(|replica| {
        let head = replica.databases.get(database).copied()?;
        let logged = log.state_at(database, head.position.txid);
        Some(ReplicaVerified {
            agent: replica.agent,
            position: head.position,
            checksum: hex(head.checksum),
            same: logged.map(|logged| logged.is_same(&head)),
        })
    });
    applied.collect()
}

/// Reads all of a file, in one transaction.
fn read(path: &std::path::Path) -> Result<Found, Refusal> {
    let connection = Connection::open_reader(path).map_err(|error| Refusal::of(&error))?;
    let found = connection.ours(|raw| {
        raw.execute_batch("BEGIN")?;
        let (lineage, position) = pages::position(raw, "main")?;
        let checksums = pages::checksums_of(raw, "main")?;
        let problems = raw
            .prepare(&format!("PRAGMA integrity_check({PROBLEMS})"))
            .and_then(|mut check| {
                check
                    .query_map([], |row| row.get(0))?
                    .collect::<Result<Vec<String>, _>>()
            });
        Ok(Found {
            lineage,
            position,
            checksums,
            integrity: problems.map_or_else(|error| error.to_string(), |found| found.join("; ")),
        })
    });
    found.map_err(|error| Refusal::of(&error))
}

fn hex(checksum: u64) -> String {
    format!("{checksum:016x}")
}
