//! The judgement, when everything is whole again: what was promised is there once, what was refused is not, in order, and
//! every replica is the primary, page by page.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OpenFlags};

use crate::cluster::{Cluster, DATABASES, PRIMARY, SITES, database_of};
use crate::workload::{self, Addresses, History, Operation, Outcome};

/// Waits until every site takes writes, every queue is empty and every replica says that it is level.
pub(crate) async fn settle(cluster: &Cluster, addresses: &Addresses, history: &History) -> Result<(), String> {
    for site in 0..SITES {
        for database in DATABASES {
            let what = format!("a write to {database} at {}", cluster.sites[site].name);
            cluster
                .eventually(&what, async |_| {
                    workload::last_words(site, database, addresses, history).await
                })
                .await?;
        }
    }
    cluster
        .eventually("queues are empty and replicas are level", async |cluster| {
            let primary = cluster.status(PRIMARY).await?;
            for site in 1..SITES {
                let status = cluster.status(site).await?;
                let empty = status["site"]["queue"]["rows"] == 0;
                let level = DATABASES.iter().all(|name| {
                    let (here, there) = (database_of(&status, name), database_of(&primary, name));
                    here.zip(there).is_some_and(|(here, there)| {
                        let same = |field: &str| here["head"][field] == there["head"][field];
                        here["state"] == "following" && same("lineage") && same("position") && same("checksum")
                    })
                });
                if !empty || !level {
                    return None;
                }
            }
            Some(())
        })
        .await
}

/// What is wrong with what everybody has now.
pub(crate) fn judge(cluster: &Cluster, history: &[Operation]) -> Vec<String> {
    let mut problems = Vec::new();
    for database in DATABASES {
        let judged = judge_database(cluster, database, history);
        problems.extend(judged.unwrap_or_else(|error| vec![format!("{database} cannot be judged: {error}")]));
    }
    problems
}

fn judge_database(cluster: &Cluster, database: &str, history: &[Operation]) -> rusqlite::Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut note = |text: String| problems.push(format!("{database}: {text}"));
    let primary = open(cluster, PRIMARY, database)?;
    let ledger = Ledger::read(&primary)?;
    for operation in history.iter().filter(|operation| operation.database == database) {
        if let Some(problem) = ledger.judge(operation) {
            note(format!("{problem}: {operation:?}"));
        }
    }
    let known: HashMap<&str, &Operation> = history
        .iter()
        .map(|operation| (operation.id.as_str(), operation))
        .collect();
    for id in ledger.lines.keys().filter(|id| !known.contains_key(id.as_str())) {
        note(format!("nobody asked for {id}"));
    }
    for problem in out_of_order(&ledger, history, database) {
        note(problem);
    }
    let pages = read_pages(&primary)?;
    for site in 0..SITES {
        let name = cluster.sites[site].name;
        let connection = open(cluster, site, database)?;
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        if sound != "ok" {
            note(format!("the file at {name} is damaged: {sound}"));
        }
        if let Err(problem) = workload::read_state(&connection)?.check() {
            note(format!("at {name} {problem}"));
        }
        let here = read_pages(&connection)?;
        let differing: Vec<u32> = (1..=pages.len().max(here.len()) as u32)
            .filter(|page| pages.get(page) != here.get(page))
            .collect();
        if !differing.is_empty() {
            note(format!("pages {differing:?} at {name} are not the primary's"));
        }
    }
    Ok(problems)
}

fn open(cluster: &Cluster, site: usize, database: &str) -> rusqlite::Result<Connection> {
    let path = cluster.sites[site].file_of(database).expect("every site has a file");
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// All pages; without what SQLite changes in page 1 wherever it is written.
fn read_pages(connection: &Connection) -> rusqlite::Result<BTreeMap<u32, Vec<u8>>> {
    let mut statement = connection.prepare("SELECT pgno, data FROM sqlite_dbpage")?;
    let pages = statement.query_map([], |row| {
        let (number, mut page): (u32, Vec<u8>) = (row.get(0)?, row.get(1)?);
        if number == 1 {
            page[24..28].fill(0);
            page[92..100].fill(0);
        }
        Ok((number, page))
    })?;
    pages.collect()
}

/// What the database says that was done.
struct Ledger {
    /// Of each operation: how often, and its first place.
    lines: HashMap<String, (i64, i64)>,
    /// Those whose statements failed, as the database remembers.
    failed: HashMap<String, String>,
}

impl Ledger {
    fn read(connection: &Connection) -> rusqlite::Result<Ledger> {
        let mut lines = connection.prepare("SELECT id, count(*), min(number) FROM ledger GROUP BY id")?;
        let lines = lines.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        let mut failed =
            connection.prepare("SELECT id, outcome FROM _selvedge_operations WHERE outcome LIKE '{\"error\"%'")?;
        let failed = failed.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Ledger {
            lines: lines.collect::<rusqlite::Result<_>>()?,
            failed: failed.collect::<rusqlite::Result<_>>()?,
        })
    }

    fn judge(&self, operation: &Operation) -> Option<&'static str> {
        let count = self.lines.get(&operation.id).map_or(0, |(count, _)| *count);
        let had = |outcome: Outcome| operation.outcomes.contains(&outcome);
        let failed = self.failed.contains_key(&operation.id);
        match count {
            2.. => Some("an operation was done more than once"),
            _ if had(Outcome::Done) && had(Outcome::Failed) => Some("an operation was done and had failed"),
            0 if had(Outcome::Done) => Some("an acknowledged operation is lost"),
            1 if had(Outcome::Failed) => Some("an operation that had failed was done"),
            0 if had(Outcome::Queued) && !(failed && operation.may_fail) => Some("a queued operation is lost"),
            1 if operation.outcomes.iter().all(|outcome| *outcome == Outcome::Refused) => {
                Some("an operation that was refused was done")
            }
            _ => None,
        }
    }
}

/// A client's operations that were accepted one after the other are done one after the other. Those whose first try has
/// no known end may still be under way when the next is accepted, and a second try elsewhere may overtake a queue.
fn out_of_order(ledger: &Ledger, history: &[Operation], database: &str) -> Vec<String> {
    let mut newest: HashMap<usize, (i64, &Operation)> = HashMap::new();
    let mut problems = Vec::new();
    for operation in history.iter().filter(|operation| operation.database == database) {
        let certain = matches!(operation.outcomes[..], [Outcome::Done, ..] | [Outcome::Queued]);
        let Some((_, place)) = ledger.lines.get(&operation.id).filter(|_| certain) else {
            continue;
        };
        if let Some((before, earlier)) = newest.insert(operation.client, (*place, operation))
            && before > *place
        {
            problems.push(format!(
                "{earlier:?} was done after {operation:?}, which was accepted later"
            ));
        }
    }
    problems
}
