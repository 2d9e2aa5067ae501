//! What is written, what must hold in every state of it, and what became of each write.
//!
//! An operation is a batch: its effect, its line in an append-only ledger, and a counter of lines. Effects are transfers
//! between accounts (some of which a CHECK refuses), full-text notes, large values, mass deletion in a database that
//! gives its pages back (`auto_vacuum = full`), tables and indexes made and dropped. Now and then a database is vacuumed
//! while the others write.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::cluster::{DATABASES, PRIMARY, SITES};

const ACCOUNTS: i64 = 16;
const BALANCE: i64 = 1000;
/// Clients of each site. Each sends one operation after the other.
const CLIENTS: usize = 2;
/// Earlier operations a client may repeat.
const REPEATABLE: usize = 16;
/// Operations for each VACUUM.
const VACUUM_ONE_IN: u8 = 120;
/// Of one value.
const BLOB_BYTES: i64 = 400_000;

/// The database before the first operation.
pub(crate) fn make_seed(path: &Path) {
    let connection = Connection::open(path).expect("a database is made");
    let made = connection.execute_batch(&format!(
        "PRAGMA auto_vacuum = full;
         CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0));
         CREATE TABLE ledger (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, client INTEGER NOT NULL);
         CREATE TABLE counter (entries INTEGER NOT NULL, notes INTEGER NOT NULL);
         CREATE TABLE piece (id INTEGER PRIMARY KEY, size INTEGER NOT NULL, mark TEXT, data BLOB NOT NULL);
         CREATE TABLE catalog (name TEXT PRIMARY KEY, columns INTEGER NOT NULL, entries INTEGER NOT NULL);
         CREATE VIRTUAL TABLE note USING fts5 (text);
         INSERT INTO counter VALUES (0, 0);
         WITH RECURSIVE each (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM each WHERE id < {ACCOUNTS})
            INSERT INTO account SELECT id, {BALANCE} FROM each;"
    ));
    made.expect("the seed is made");
}

/// What one look at a database found.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Epoch and number of the newest transaction.
    pub(crate) position: (i64, i64),
    sum: i64,
    entries: i64,
    lines: i64,
    notes: i64,
    matching: i64,
    bad_pieces: i64,
    /// Name, columns and rows of the tables that come and go: as the catalogue says, and as they are.
    catalog: Vec<(String, i64, i64)>,
    tables: Vec<(String, i64, i64)>,
}

/// Reads it; in one transaction when the caller has begun one.
pub(crate) fn read_state(connection: &Connection) -> rusqlite::Result<Seen> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let triples = |sql: &str| -> rusqlite::Result<Vec<(String, i64, i64)>> {
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    };
    let position = connection.query_row("SELECT epoch, txid FROM _selvedge_position", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    let mut tables = triples(
        "SELECT name, (SELECT count(*) FROM pragma_table_info(sqlite_schema.name)), 0 FROM sqlite_schema
         WHERE type = 'table' AND name LIKE 'extra%' ORDER BY name",
    )?;
    for (name, _, rows) in &mut tables {
        *rows = number(&format!("SELECT count(*) FROM {name}"))?;
    }
    Ok(Seen {
        position,
        sum: number("SELECT sum(balance) FROM account")?,
        entries: number("SELECT entries FROM counter")?,
        lines: number("SELECT count(*) FROM ledger")?,
        notes: number("SELECT notes FROM counter")?,
        matching: number("SELECT count(*) FROM note WHERE note MATCH 'every'")?,
        // One of them is read whole.
        bad_pieces: number(
            "SELECT count(*) FROM piece WHERE length(data) <> size OR id = (SELECT max(id) FROM piece WHERE mark IS NOT NULL)
                AND CAST(data AS TEXT) <> replace(hex(zeroblob(size / 2)), '0', mark)",
        )?,
        catalog: triples("SELECT name, columns, entries FROM catalog ORDER BY name")?,
        tables,
    })
}

impl Seen {
    /// What does not hold.
    pub(crate) fn check(&self) -> Result<(), String> {
        let problem = match () {
            () if self.sum != ACCOUNTS * BALANCE => "money was made or lost",
            () if self.entries != self.lines => "the counter is not the number of the ledger's lines",
            () if self.notes != self.matching => "the full-text index does not know every note",
            () if self.bad_pieces > 0 => "a large value is not what was written",
            () if self.catalog != self.tables => "the schema is not what the catalogue says",
            () => return Ok(()),
        };
        Err(format!("{problem}: {self:?}"))
    }
}

/// How one try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// It is queued and will be done.
    Queued,
    /// It was judged and will never be done.
    Failed,
    /// Nothing was done.
    Refused,
    /// Nobody can say.
    Unknown,
}

/// Everything that happened to one operation.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) database: &'static str,
    pub(crate) client: usize,
    /// Its statements may be refused by a constraint.
    pub(crate) may_fail: bool,
    pub(crate) outcomes: Vec<Outcome>,
}

pub(crate) type History = Arc<Mutex<Vec<Operation>>>;

/// Where each site is reached now.
pub(crate) type Addresses = [Arc<Mutex<Option<SocketAddr>>>; SITES];

pub(crate) struct Workload {
    pub(crate) history: History,
    stopping: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Workload {
    pub(crate) fn start(seed: u64, addresses: &Addresses) -> Workload {
        let history = History::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS * SITES).map(|number| {
            let client = Client {
                number,
                home: number % SITES,
                addresses: addresses.clone(),
                history: Arc::clone(&history),
                http: reqwest::Client::new(),
            };
            let rng = Rng::with_seed(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            tokio::spawn(client.run(rng, Arc::clone(&stopping)))
        });
        Workload {
            clients: clients.collect(),
            history,
            stopping,
        }
    }

    pub(crate) async fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.await.expect("a client does not panic");
        }
    }
}

/// One more operation at a site; `Err` while it is not done.
pub(crate) async fn last_words(
    site: usize,
    database: &'static str,
    addresses: &Addresses,
    history: &History,
) -> Option<()> {
    let client = Client {
        number: CLIENTS * SITES + site,
        home: site,
        addresses: addresses.clone(),
        history: Arc::clone(history),
        http: reqwest::Client::new(),
    };
    let id = format!("last-{site}-{database}");
    let body = body(&id, client.number, &[], false);
    let index = {
        let mut history = history.lock();
        match history.iter().position(|operation| operation.id == id) {
            Some(index) => index,
            None => client.note(&mut history, id, database, false),
        }
    };
    (client.send(index, site, database, &body).await == Outcome::Done).then_some(())
}

struct Client {
    number: usize,
    home: usize,
    addresses: Addresses,
    history: History,
    http: reqwest::Client,
}

impl Client {
    async fn run(self, mut rng: Rng, stopping: Arc<AtomicBool>) {
        let mut earlier: Vec<(usize, &'static str, Value)> = Vec::new();
        for number in 0.. {
            if stopping.load(Ordering::Relaxed) {
                return;
            }
            let database = DATABASES[usize::from(rng.u8(..4) == 0)];
            let (statements, may_fail) = self.effect(&mut rng);
            let optimistic = rng.u8(..5) == 0 && !may_fail && self.home != PRIMARY;
            let repeat = (rng.u8(..6) == 0).then(|| (rng.usize(..REPEATABLE), rng.usize(..SITES)));
            let pause = Duration::from_millis(rng.u64(..15));

            if rng.u8(..VACUUM_ONE_IN) == 0 {
                self.vacuum(database).await;
            }
            let id = format!("{}-{number}", self.number);
            let body = body(&id, self.number, &statements, optimistic);
            let index = self.note(&mut self.history.lock(), id, database, may_fail);
            self.send(index, self.home, database, &body).await;
            earlier.push((index, database, body));
            if earlier.len() > REPEATABLE {
                earlier.remove(0);
            }
            if let Some((which, site)) = repeat
                && let Some((index, database, body)) = earlier.get(which)
            {
                self.send(*index, site, database, body).await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// It may be refused, or die on the way: either file is whole.
    async fn vacuum(&self, database: &str) {
        let address = *self.addresses[self.home].lock();
        let Some(address) = address else { return };
        let url = format!("http://{address}/v1/databases/{database}/vacuum");
        let request = self
            .http
            .post(url)
            .bearer_auth("torture")
            .timeout(Duration::from_secs(5));
        let _ = request.send().await;
    }

    fn note(&self, history: &mut Vec<Operation>, id: String, database: &'static str, may_fail: bool) -> usize {
        history.push(Operation {
            id,
            database,
            client: self.number,
            may_fail,
            outcomes: Vec::new(),
        });
        history.len() - 1
    }

    /// Tries an operation at a site.
    async fn send(&self, index: usize, site: usize, database: &str, body: &Value) -> Outcome {
        let address = *self.addresses[site].lock();
        let outcome = match address {
            // Nobody was asked.
            None => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Outcome::Refused
            }
            Some(address) => self.ask(address, database, body).await,
        };
        self.history.lock()[index].outcomes.push(outcome);
        outcome
    }

    async fn ask(&self, address: SocketAddr, database: &str, body: &Value) -> Outcome {
        let request = self
            .http
            .post(format!("http://{address}/v1/databases/{database}/execute"))
            .bearer_auth("torture")
            .timeout(Duration::from_secs(5))
            .json(body);
        let Ok(response) = request.send().await else {
            return Outcome::Unknown;
        };
        let status = response.status().as_u16();
        let Ok(answer) = response.json::<Value>().await else {
            return Outcome::Unknown;
        };
        match (status, answer["code"].as_str()) {
            (200, _) => Outcome::Done,
            // Accepted; 504 says that the outcome is not known yet.
            (202 | 504, _) => Outcome::Queued,
            (422, _) => Outcome::Failed,
            // It may be in the database although the answer to it was lost.
            (503, Some("unconfirmed" | "io" | "closed" | "corrupt")) => Outcome::Unknown,
            (503, Some(_)) => Outcome::Refused,
            _ => Outcome::Unknown,
        }
    }

    /// The statements of an operation, and whether a constraint may refuse them.
    fn effect(&self, rng: &mut Rng) -> (Vec<Value>, bool) {
        let statement = |sql: &str, params: Value| json!({ "sql": sql, "params": params });
        match rng.u8(..20) {
            0..8 => {
                let (from, to, amount) = (rng.i64(1..=ACCOUNTS), rng.i64(1..=ACCOUNTS), rng.i64(1..400));
                let add = |id: i64, amount: i64| {
                    statement(
                        "UPDATE account SET balance = balance + ?2 WHERE id = ?1",
                        json!([id, amount]),
                    )
                };
                (vec![add(from, -amount), add(to, amount)], true)
            }
            8..11 => {
                let text = format!("every word {} counts {}", rng.u32(..), rng.u32(..));
                (
                    vec![
                        statement("INSERT INTO note (text) VALUES (?1)", json!([text])),
                        statement("UPDATE counter SET notes = notes + 1", json!([])),
                    ],
                    false,
                )
            }
            11 => {
                let remove = "DELETE FROM note WHERE rowid IN (SELECT rowid FROM note ORDER BY rowid LIMIT ?1)";
                (
                    vec![
                        statement(remove, json!([rng.u8(1..20)])),
                        statement("UPDATE counter SET notes = (SELECT count(*) FROM note)", json!([])),
                    ],
                    false,
                )
            }
            12..14 => {
                // Even, as two digits are a byte.
                let size = rng.i64(1..BLOB_BYTES / 2) * 2;
                let mark = rng.char('a'..='z').to_string();
                let sql = "INSERT INTO piece (size, mark, data) VALUES (?1, ?2, CAST(replace(hex(zeroblob(?1 / 2)), '0', ?2) AS BLOB))";
                (vec![statement(sql, json!([size, mark]))], false)
            }
            14 => {
                let sql = "INSERT INTO piece (size, data) VALUES (?1, randomblob(?1))";
                (vec![statement(sql, json!([rng.i64(1..BLOB_BYTES)]))], false)
            }
            15 => {
                let sql = "DELETE FROM piece WHERE id % 3 <> ?1";
                (vec![statement(sql, json!([rng.u8(..3)]))], false)
            }
            16..18 => (self.make_table(rng), false),
            18 => {
                let name = format!("extra_{}", rng.u8(..4));
                (
                    vec![
                        statement(&format!("DROP TABLE IF EXISTS {name}"), json!([])),
                        statement("DELETE FROM catalog WHERE name = ?1", json!([name])),
                    ],
                    false,
                )
            }
            _ => {
                let sql = match rng.bool() {
                    true => "CREATE INDEX IF NOT EXISTS piece_by_mark ON piece (mark, size)",
                    false => "DROP INDEX IF EXISTS piece_by_mark",
                };
                (vec![statement(sql, json!([]))], false)
            }
        }
    }

    /// Whatever the table was, it is new, with some pages in it.
    fn make_table(&self, rng: &mut Rng) -> Vec<Value> {
        let name = format!("extra_{}", rng.u8(..4));
        let columns = rng.u8(1..8);
        let names: Vec<String> = (0..columns).map(|column| format!("c{column}")).collect();
        let statement = |sql: String, params: Value| json!({ "sql": sql, "params": params });
        vec![
            statement(format!("DROP TABLE IF EXISTS {name}"), json!([])),
            statement(format!("CREATE TABLE {name} ({})", names.join(", ")), json!([])),
            statement(
                format!("INSERT INTO {name} (c0) SELECT randomblob(3000) FROM account"),
                json!([]),
            ),
            statement(
                "INSERT OR REPLACE INTO catalog VALUES (?1, ?2, ?3)".to_owned(),
                json!([name, columns, ACCOUNTS]),
            ),
        ]
    }
}

fn body(id: &str, client: usize, statements: &[Value], optimistic: bool) -> Value {
    let mut all = statements.to_vec();
    all.push(json!({ "sql": "INSERT INTO ledger (id, client) VALUES (?1, ?2)", "params": [id, client] }));
    all.push(json!({ "sql": "UPDATE counter SET entries = entries + 1", "params": [] }));
    json!({ "operation": id, "statements": all, "optimistic": optimistic })
}
