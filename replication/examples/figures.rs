//! `cargo run --release -p selvedge-replication --example figures [CASE…]`: what the data layer does, one JSON line a
//! case.
//!
//! Cases: `writes`, `visible`, `litestream` (with its executable in `LITESTREAM`), `reads`, `many`, `bootstrap`. Called by `cargo xtask bench`, which says what they mean.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use selvedge_replication::agent::{Agent, AgentDatabase, AgentSettings, DatabaseStatus, Role, State};
use selvedge_replication::bookmark::Session;
use selvedge_replication::client::{AgentClient, Thresholds};
use selvedge_replication::{Database, DatabaseSettings, Statement, Value};
use serde_json::{Value as Json, json};

/// Writers of case `writes`, and how many writes each makes.
const WRITERS: usize = 64;
const WRITES: usize = 300;
/// Writes a second, and seconds, of case `visible`.
const RATE: u32 = 1000;
const SECONDS: u32 = 5;
/// Writes of case `litestream`, one after another.
const LITESTREAM_WRITES: u32 = 200;
/// Queries of case `reads`.
const QUERIES: usize = 20_000;
/// Databases of case `many`.
const DATABASES: usize = 1000;
/// Size of case `bootstrap`.
const BOOTSTRAP_BYTES: u64 = 1024 * 1024 * 1024;

#[tokio::main]
async fn main() -> Result<()> {
    let mut cases: Vec<String> = std::env::args().skip(1).collect();
    if cases.is_empty() {
        cases = ["writes", "visible", "reads", "many", "bootstrap"]
            .map(str::to_owned)
            .to_vec();
    }
    for case in cases {
        let folder = tempfile::tempdir_in(".")?;
        let figures = match case.as_str() {
            "writes" => writes(folder.path()).await?,
            "visible" => visible(folder.path()).await?,
            "litestream" => litestream(folder.path()).await?,
            "reads" => reads(folder.path()).await?,
            "many" => many(folder.path()).await?,
            "bootstrap" => bootstrap(folder.path()).await?,
            other => bail!("there is no case {other:?}"),
        };
        println!("{}", json!({ "case": case, "figures": figures }));
    }
    Ok(())
}

async fn primary(folder: &Path, databases: &[&str]) -> Result<Agent> {
    let mut settings = AgentSettings::new("primary", Role::Primary, folder.join("primary"));
    settings.listen = Some(([127, 0, 0, 1], 0).into());
    settings.databases = databases
        .iter()
        .map(|name| AgentDatabase {
            name: (*name).to_owned(),
            migrations: None,
            seed: None,
        })
        .collect();
    Ok(Agent::start(settings).await?)
}

async fn replica(folder: &Path, primary: &Agent) -> Result<Agent> {
    let address = primary.address().context("the primary listens")?;
    let role = Role::Replica {
        primary: format!("http://{address}"),
    };
    Ok(Agent::start(AgentSettings::new("replica", role, folder.join("replica"))).await?)
}

/// The database `name` as a proxy beside `agent` sees it.
fn proxy(agent: &Agent, name: &str) -> Result<Arc<Database>> {
    Ok(Database::of_agent(DatabaseSettings::new(name, ""), client(agent)?))
}

fn client(agent: &Agent) -> Result<Arc<AgentClient>> {
    let folder = agent.socket().parent().context("a socket has a folder")?;
    Ok(AgentClient::start(agent.socket(), folder, Thresholds::default())?)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !holds() {
        if Instant::now() > deadline {
            bail!("waited in vain for {what}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn follows(agent: &Agent, count: usize) -> bool {
    let statuses = agent.databases();
    let level = statuses
        .iter()
        .filter(|status| status.state == State::Following && status.behind_transactions() == 0);
    level.count() >= count
}

const TABLE: &str = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL, at INTEGER NOT NULL)";

/// Durable writes of many writers at the primary: committed, in the fsynced log, answered.
async fn writes(folder: &Path) -> Result<Json> {
    let primary = primary(folder, &["shop"]).await?;
    let database = proxy(&primary, "shop")?;
    until_written(&database, TABLE).await?;
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let database = Arc::clone(&database);
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(WRITES);
                for number in 0..WRITES {
                    let began = Instant::now();
                    let name = Value::Text(format!("{writer}-{number}"));
                    database
                        .query("INSERT INTO items (name, at) VALUES (?1, 0)", vec![name])
                        .await?;
                    took.push(began.elapsed());
                }
                Ok::<_, selvedge_replication::SqlError>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for writer in writers {
        took.extend(writer.await??);
    }
    let seconds = began.elapsed().as_secs_f64();
    let per_second = took.len() as f64 / seconds;
    Ok(json!({
        "writers": WRITERS, "writes": took.len(), "per_second": per_second.round(),
        "p50_ms": quantile_ms(&mut took, 0.5), "p99_ms": quantile_ms(&mut took, 0.99),
    }))
}

/// The agent is heard a moment after it started.
async fn until_written(database: &Database, sql: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match database.query(sql, vec![]).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// From the beginning of a write at the primary to the moment the replica's agent has applied it.
async fn visible(folder: &Path) -> Result<Json> {
    let primary = primary(folder, &["shop"]).await?;
    let replica = replica(folder, &primary).await?;
    let database = proxy(&primary, "shop")?;
    until_written(&database, TABLE).await?;
    until("the replica", || follows(&replica, 1)).await?;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / RATE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut writing = tokio::task::JoinSet::new();
    // As a proxy beside the replica waits for what its reader has seen.
    let beside = client(&replica)?;
    for number in 0..RATE * SECONDS {
        pace.tick().await;
        let (database, mut statuses) = (Arc::clone(&database), beside.statuses());
        writing.spawn(async move {
            let session = Session::default();
            let name = Value::Text(number.to_string());
            let statement = Statement::new("INSERT INTO items (name, at) VALUES (?1, 0)", vec![name]);
            database.query_in(&session, statement).await?;
            let committed = Instant::now();
            let wanted = session.wanted("shop");
            let is_there = |status: &DatabaseStatus| status.head.position >= wanted;
            let visible = statuses.wait_for(|statuses| statuses.get("shop").is_some_and(is_there));
            visible.await.context("the agent beside the replica has ended")?;
            anyhow::Ok(committed.elapsed())
        });
    }
    let mut took = Vec::new();
    while let Some(one) = writing.join_next().await {
        took.push(one??);
    }
    Ok(json!({
        "rate": RATE, "writes": took.len(),
        "p50_ms": quantile_ms(&mut took, 0.5), "p99_ms": quantile_ms(&mut took, 0.99),
    }))
}

/// What Litestream takes from a commit to the file of it in its replica, with the shortest intervals that make sense.
async fn litestream(folder: &Path) -> Result<Json> {
    let executable = std::env::var("LITESTREAM").context("LITESTREAM names its executable")?;
    let (database, store) = (folder.join("shop.db"), folder.join("store"));
    let connection = rusqlite::Connection::open(&database)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.execute_batch(TABLE)?;
    let config = folder.join("litestream.yml");
    let text = format!(
        "dbs:\n  - path: {}\n    monitor-interval: 10ms\n    replica:\n      type: file\n      path: {}\n      sync-interval: 10ms\n",
        database.display(),
        store.display(),
    );
    std::fs::write(&config, text)?;
    let mut process = std::process::Command::new(executable)
        .args(["replicate", "-config"])
        .arg(&config)
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let level = store.join("ltx/0");
    let files = || std::fs::read_dir(&level).map_or(0, Iterator::count);
    let measured = async {
        until("litestream's first file", || files() > 0).await?;
        let mut took = Vec::new();
        for number in 0..LITESTREAM_WRITES {
            let before = files();
            connection.execute("INSERT INTO items (name, at) VALUES (?1, 0)", [number.to_string()])?;
            let committed = Instant::now();
            until("litestream's next file", || files() > before).await?;
            took.push(committed.elapsed());
        }
        Ok(json!({
            "writes": took.len(), "p50_ms": quantile_ms(&mut took, 0.5), "p99_ms": quantile_ms(&mut took, 0.99),
        }))
    };
    let measured = measured.await;
    process.kill()?;
    process.wait()?;
    measured
}

/// A point query through the replica as a handler makes it, beside the same with a plain rusqlite connection.
async fn reads(folder: &Path) -> Result<Json> {
    let primary = primary(folder, &["shop"]).await?;
    let replica = replica(folder, &primary).await?;
    until_written(&*proxy(&primary, "shop")?, TABLE).await?;
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
                INSERT INTO items (name, at) SELECT 'name ' || i, i FROM n";
    until_written(&*proxy(&primary, "shop")?, fill).await?;
    until("the replica", || follows(&replica, 1)).await?;
    let database = proxy(&replica, "shop")?;
    until_written(&database, "SELECT 1").await?;
    let sql = "SELECT name FROM items WHERE id = ?1";
    let mut ours = Vec::with_capacity(QUERIES);
    for number in 0..QUERIES {
        let began = Instant::now();
        database
            .query(sql, vec![Value::Integer((number % 10_000) as i64)])
            .await?;
        ours.push(began.elapsed());
    }
    let path = replica.databases()[0].path.clone().context("the replica has a file")?;
    let plain = tokio::task::spawn_blocking(move || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = rusqlite::Connection::open_with_flags(path, flags)?;
        let mut took = Vec::with_capacity(QUERIES);
        for number in 0..QUERIES {
            let began = Instant::now();
            let mut statement = connection.prepare_cached(sql)?;
            let _: Option<String> = statement.query_row([(number % 10_000) as i64], |row| row.get(0)).ok();
            took.push(began.elapsed());
        }
        Ok::<_, rusqlite::Error>(took)
    });
    let mut plain = plain.await??;
    let us = |took: &mut [Duration]| quantile_ms(took, 0.5) * 1000.0;
    let (ours, plain) = (us(&mut ours), us(&mut plain));
    Ok(json!({ "replica_p50_us": ours, "rusqlite_p50_us": plain, "over_us": ours - plain }))
}

/// Many databases on one primary and one replica.
async fn many(folder: &Path) -> Result<Json> {
    let names: Vec<String> = (0..DATABASES).map(|number| format!("db{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let before = resident_bytes()?;
    let began = Instant::now();
    let primary = primary(folder, &names).await?;
    let created = began.elapsed();
    let began = Instant::now();
    let replica = replica(folder, &primary).await?;
    until("the replicas", || follows(&replica, DATABASES)).await?;
    let copied = began.elapsed();
    Ok(json!({
        "databases": DATABASES,
        "create_ms_each": created.as_secs_f64() * 1000.0 / DATABASES as f64,
        "copy_ms_each": copied.as_secs_f64() * 1000.0 / DATABASES as f64,
        "kib_each_on_both": (resident_bytes()? - before) / 1024 / DATABASES as u64,
    }))
}

/// A large database copied to a new replica, beside a plain copy of the file.
async fn bootstrap(folder: &Path) -> Result<Json> {
    let seed = folder.join("seed.db");
    let connection = rusqlite::Connection::open(&seed)?;
    connection.execute_batch("PRAGMA synchronous = off; CREATE TABLE blobs (id INTEGER PRIMARY KEY, data BLOB)")?;
    while std::fs::metadata(&seed)?.len() < BOOTSTRAP_BYTES {
        connection.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4096) \
             INSERT INTO blobs (data) SELECT randomblob(4000) FROM n",
        )?;
    }
    drop(connection);
    let mut settings = AgentSettings::new("primary", Role::Primary, folder.join("primary"));
    settings.listen = Some(([127, 0, 0, 1], 0).into());
    settings.databases = vec![AgentDatabase {
        name: "large".to_owned(),
        migrations: None,
        seed: Some(seed.clone()),
    }];
    let primary = Agent::start(settings).await?;
    let bytes = std::fs::metadata(&seed)?.len();
    let began = Instant::now();
    let copy = folder.join("copy.db");
    std::fs::copy(&seed, &copy)?;
    std::fs::File::open(&copy)?.sync_all()?;
    let plain = began.elapsed().as_secs_f64();
    std::fs::remove_file(copy)?;
    let began = Instant::now();
    let replica = replica(folder, &primary).await?;
    until("the replica", || follows(&replica, 1)).await?;
    let ours = began.elapsed().as_secs_f64();
    let mib = bytes as f64 / 1024.0 / 1024.0;
    Ok(
        json!({ "mib": mib.round(), "replica_mib_per_second": (mib / ours).round(), "cp_and_fsync_mib_per_second": (mib / plain).round() }),
    )
}

fn quantile_ms(took: &mut [Duration], quantile: f64) -> f64 {
    took.sort_unstable();
    let index = ((took.len() as f64 * quantile) as usize).min(took.len().saturating_sub(1));
    took.get(index)
        .map_or(f64::NAN, |took| (took.as_secs_f64() * 1e6).round() / 1000.0)
}

/// The second field of `/proc/self/statm`, in pages of 4 KiB.
fn resident_bytes() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).context("statm has two fields")?;
    Ok(pages.parse::<u64>()? * 4096)
}
