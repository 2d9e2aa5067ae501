//! A primary and its object store: what is in it, what comes back from it, and what happens when it is not there.
//!
//! The same suite runs on a folder and on an S3 service (moto's server), and Litestream restores what ours restores.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use selvedge_replication::agent::{Agent, AgentDatabase, AgentSettings, Role, State};
use selvedge_replication::position::Txid;
use selvedge_replication::store::{RestoreError, Store, StoreSettings, StoreStatus, Target};
use selvedge_tests::peer;
use serde_json::{Value, json};

const FAST: Duration = Duration::from_millis(10);
/// Of the S3 service of these tests.
const REGION: &str = "us-east-1";
const KEY_ID: &str = "key";
const SECRET: &str = "secret";

struct Site {
    folder: tempfile::TempDir,
    agent: Option<Agent>,
    role: Role,
    store: Option<StoreSettings>,
    listen: std::net::SocketAddr,
}

impl Site {
    async fn start(role: Role, store: Option<StoreSettings>) -> Site {
        let mut site = Site {
            folder: tempfile::tempdir().unwrap(),
            agent: None,
            role,
            store,
            listen: ([127, 0, 0, 1], 0).into(),
        };
        site.run().await.unwrap();
        site
    }

    async fn primary(store: &StoreSettings) -> Site {
        Site::start(Role::Primary, Some(store.clone())).await
    }

    async fn run(&mut self) -> Result<(), String> {
        let mut settings = AgentSettings::new("test", self.role.clone(), self.data_dir());
        settings.socket = self.folder.path().join("agent.sock");
        settings.listen = Some(self.listen);
        settings.store = self.store.clone();
        settings.databases = vec![AgentDatabase {
            name: "shop".to_owned(),
            migrations: None,
            seed: Some(self.seed()),
        }];
        let agent = Agent::start(settings).await.map_err(|error| explain(&error))?;
        self.listen = agent.address().unwrap();
        self.agent = Some(agent);
        Ok(())
    }

    /// A file that gives back what is deleted, as VACUUM does for others.
    fn seed(&self) -> PathBuf {
        let path = self.folder.path().join("seed.db");
        if !path.exists() {
            rusqlite::Connection::open(&path)
                .unwrap()
                .execute_batch("PRAGMA auto_vacuum = full; CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b BLOB);")
                .unwrap();
        }
        path
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
    }

    /// Ends it without a word, as far as one process can: nothing is uploaded any more.
    async fn crash(&mut self) {
        drop(self.agent.take());
        let listen = self.listen;
        eventually("its address is free", async || std::net::TcpListener::bind(listen).ok()).await;
    }

    fn http(&self) -> reqwest::Client {
        let socket = self.folder.path().join("agent.sock");
        reqwest::Client::builder().unix_socket(socket).build().unwrap()
    }

    async fn try_execute(&self, sql: &str) -> Result<Txid, String> {
        let body = json!({ "statements": [{ "sql": sql, "params": [] }] });
        let request = self.http().post("http://agent/v1/databases/shop/execute").json(&body);
        let response = request.send().await.map_err(|error| error.to_string())?;
        let status = response.status();
        let answer: Value = response.json().await.map_err(|error| error.to_string())?;
        let txid = answer["position"]["txid"].as_u64();
        txid.map(Txid).ok_or_else(|| format!("{sql}: {status} {answer}"))
    }

    async fn execute(&self, sql: &str) -> Txid {
        self.try_execute(sql).await.unwrap()
    }

    async fn store_status(&self) -> Option<StoreStatus> {
        let response = self.http().get("http://agent/v1/status").send().await.unwrap();
        let status: Value = response.json().await.unwrap();
        let all: Vec<StoreStatus> = serde_json::from_value(status["site"]["store"].clone()).unwrap();
        all.into_iter().find(|status| status.database == "shop")
    }

    async fn uploaded(&self, txid: Txid) -> StoreStatus {
        let what = format!("transaction {} is in the store", txid.0);
        eventually(&what, async || {
            let status = self.store_status().await;
            status.filter(|status| status.uploaded_txid >= txid)
        })
        .await
    }

    /// The database's file as it is, everything moved into it.
    fn live_file(&self) -> Vec<u8> {
        assert!(self.agent.is_none(), "the agent has stopped");
        let path = self.data_dir().join("databases/shop/1.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        drop(connection);
        std::fs::read(&path).unwrap()
    }

    fn epoch(&self) -> u32 {
        let text = std::fs::read_to_string(self.data_dir().join("epoch")).unwrap();
        text.trim().parse().unwrap()
    }
}

async fn eventually<T>(what: &str, find: impl AsyncFn() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = find().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn settings(url: impl Into<String>) -> StoreSettings {
    let mut settings = StoreSettings::new(url);
    settings.sync_interval = FAST;
    // Nothing is merged unless a test is about it.
    settings.merge_windows = [Duration::from_secs(1 << 40); 3];
    settings
}

fn folder_settings(folder: &Path) -> StoreSettings {
    settings(folder.join("backup").display().to_string())
}

async fn restore(store: &StoreSettings, target: Target, to: &Path) -> Result<Txid, RestoreError> {
    let (mut last, mut total) = (0, 0);
    let opened = Store::open(store).unwrap();
    let restored = opened.restore("shop", target, to, |done, of| {
        assert!(done > 0 && done <= of);
        (last, total) = (done, of);
    });
    let head = restored.await?;
    assert!(last > 0 && last <= total);
    let connection = rusqlite::Connection::open(to).unwrap();
    let check: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    Ok(head.position.txid)
}

/// What the table held, as one number.
fn sum_of(path: &Path) -> i64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    let sql = "SELECT coalesce(sum(id * 7 + a * 3 + length(b)), 0) FROM t";
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// One step of the workload; it says what it would be called in SQL.
fn step(random: &mut fastrand::Rng, number: usize) -> String {
    match (number, random.u32(0..12)) {
        (0, _) => "CREATE VIRTUAL TABLE words USING fts5 (word)".to_owned(),
        (1, _) => "CREATE INDEX t_a ON t (a)".to_owned(),
        (2, _) => "CREATE TABLE gone AS SELECT * FROM t".to_owned(),
        (20, _) => "DROP TABLE gone".to_owned(),
        (25, _) => "DROP INDEX t_a".to_owned(),
        (30, _) => "DELETE FROM t".to_owned(),
        // More than one part of an upload.
        (50, _) => "INSERT INTO t (a, b) VALUES (1, randomblob(9000000))".to_owned(),
        (_, 0..5) => format!(
            "INSERT INTO t (a, b) VALUES ({}, randomblob({}))",
            random.u16(..),
            random.u32(0..60_000)
        ),
        (_, 5..7) => format!("UPDATE t SET a = a + {} WHERE id % 3 = 0", random.u8(..)),
        (_, 7) => format!("DELETE FROM t WHERE id % {} = 0", random.u8(2..5)),
        (_, 8) => "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) \
              INSERT INTO t (a, b) SELECT i, randomblob(300) FROM n"
            .to_owned(),
        _ => format!("INSERT INTO words VALUES ('word{} and more')", random.u16(..)),
    }
}

/// A state that must be restorable, by transaction and by time.
struct Mark {
    txid: Txid,
    time_ms: i64,
    sum: i64,
}

/// Waits until the newest state is an upload, and remembers it.
async fn mark(site: &Site, txid: Txid) -> Mark {
    site.uploaded(txid).await;
    let sum = sum_of(&site.data_dir().join("databases/shop/1.db"));
    let time_ms = now_ms();
    // What comes next is not of the same millisecond.
    eventually("time passes", async || (now_ms() > time_ms).then_some(())).await;
    Mark { txid, time_ms, sum }
}

/// The whole way: a workload, a restart in its middle, a snapshot asked for; then every state that was noted, the newest
/// one to the byte, and the same from Litestream.
async fn suite(mut store: StoreSettings, level: fn(u8) -> String, litestream: impl AsyncFn(&str, &Path)) {
    store.merge_windows = [150, 600, 1800].map(Duration::from_millis);
    let mut site = Site::primary(&store).await;
    let mut random = fastrand::Rng::with_seed(3);
    let mut marks = Vec::new();
    let mut last = Txid(1);
    let mut snapshots = 0;
    let began = tokio::time::Instant::now();
    // Long enough for level 3 to have begun.
    for number in 0.. {
        last = site.execute(&step(&mut random, number)).await;
        if number % 9 == 4 && number < 100 || number % 60 == 0 {
            marks.push(mark(&site, last).await);
        }
        if number > 100 {
            site.uploaded(last).await;
        }
        if number == 40 {
            // What was not uploaded is when it starts again.
            site.crash().await;
            site.run().await.unwrap();
        }
        if number == 60 {
            let ask = site.http().post("http://agent/v1/databases/shop/store/snapshot");
            assert_eq!(ask.send().await.unwrap().status(), 404, "not for the proxy");
            let url = format!("http://{}/v1/databases/shop/store/snapshot", site.listen);
            let asked = reqwest::Client::new().post(url).send().await.unwrap();
            assert_eq!(asked.status(), 202);
        }
        if number > 100 && began.elapsed() > store.merge_windows[2] * 3 {
            break;
        }
    }
    marks.push(mark(&site, last).await);
    let status = eventually("two snapshots are in the store", async || {
        let status = site.store_status().await?;
        (status.snapshot_txid? > marks[4].txid).then_some(status)
    })
    .await;
    assert_eq!(status.last_error, None);
    assert_eq!(status.lag_seconds, 0.0);
    let folder = status.folder.unwrap();
    let levels = eventually("every level has files", async || {
        let levels = levels(&store, &folder).await;
        let has = |folder: String| levels.iter().any(|key| key.contains(&folder));
        let has_all = (1..=3).all(|number| has(level(number))) && has("/history/".to_owned());
        has_all.then_some(levels)
    })
    .await;
    snapshots += levels.iter().filter(|key| key.contains(&level(9))).count();
    assert_eq!(snapshots, 2, "{levels:#?}");
    site.stop().await;

    let out = tempfile::tempdir().unwrap();
    for (number, mark) in marks.iter().enumerate() {
        for target in [Target::Txid(mark.txid), Target::At(mark.time_ms)] {
            let path = out.path().join(format!("{number}-{target:?}.db"));
            let restored = restore(&store, target, &path).await;
            let restored = restored.unwrap_or_else(|error| panic!("{target:?}: {}", explain(&error)));
            assert_eq!((restored, sum_of(&path)), (mark.txid, mark.sum), "{target:?}");
            std::fs::remove_file(&path).unwrap();
        }
    }
    let ours = out.path().join("ours.db");
    let newest = Store::open(&store).unwrap();
    newest.restore("shop", Target::Latest, &ours, |_, _| {}).await.unwrap();
    let ours = std::fs::read(&ours).unwrap();
    assert!(ours == site.live_file(), "what is restored is the live file");
    let theirs = out.path().join("theirs.db");
    litestream(&folder, &theirs).await;
    if theirs.exists() {
        assert!(
            std::fs::read(&theirs).unwrap() == ours,
            "Litestream restores the same file"
        );
    }

    let error = restore(&store, Target::At(1000), &out.path().join("none.db")).await;
    assert!(matches!(error, Err(RestoreError::BeforeFirst { .. })), "{error:?}");
    let error = restore(&store, Target::Txid(Txid(last.0 + 1000)), &out.path().join("none.db")).await;
    assert!(
        matches!(error, Err(RestoreError::NotKept { after: None, .. })),
        "{error:?}"
    );
    assert_eq!(newest.databases().await.unwrap(), ["shop"]);
    newest.remove("shop").await.unwrap();
    let error = restore(&store, Target::Latest, &out.path().join("none.db")).await;
    assert!(matches!(error, Err(RestoreError::NoDatabase(_))), "{error:?}");
    assert!(!out.path().join("none.db").exists());
}

/// Every key below a chain's folder.
async fn levels(store: &StoreSettings, folder: &str) -> Vec<String> {
    Store::open(store).unwrap().keys(folder).await.unwrap()
}

fn litestream() -> Option<PathBuf> {
    let found = std::env::var_os("SELVEDGE_LITESTREAM").map(PathBuf::from);
    if found.is_none() {
        peer::skip("SELVEDGE_LITESTREAM names no litestream; `cargo xtask test` sets it");
    }
    found
}

fn restore_with_litestream(url: &str, to: &Path) {
    let Some(program) = litestream() else { return };
    let output = Command::new(program)
        .args(["restore", "-o", to.to_str().unwrap(), url])
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        // The services of these tests are on this machine.
        .env_remove("AWS_CA_BUNDLE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(to.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_gives_back_every_state_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder_settings(folder.path());
    let url = store.url.clone();
    let level = |number| format!("/ltx/{number}/");
    suite(store, level, async |chain, to| {
        restore_with_litestream(&format!("file://{url}/{chain}"), to);
    })
    .await;
}

/// An S3 service of this machine, ended with the test.
struct S3 {
    process: std::process::Child,
    endpoint: String,
}

impl S3 {
    async fn start(folder: &Path) -> Option<S3> {
        let Some(python) = std::env::var_os("SELVEDGE_PYTHON") else {
            peer::skip("SELVEDGE_PYTHON names no Python with moto; `cargo xtask test` sets it");
            return None;
        };
        let has_moto = Command::new(&python).args(["-c", "import moto.server"]).output();
        if !has_moto.is_ok_and(|output| output.status.success()) {
            peer::skip("moto is not installed");
            return None;
        }
        let log = folder.join("s3.log");
        let output = std::fs::File::create(&log).unwrap();
        let process = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut s3 = S3 {
            process,
            endpoint: String::new(),
        };
        s3.endpoint = eventually("the S3 service listens", async || {
            let text = std::fs::read_to_string(&log).unwrap();
            let (_, rest) = text.split_once("Running on ")?;
            Some(rest.split_whitespace().next()?.to_owned())
        })
        .await;
        let bucket = format!("{}/edge", s3.endpoint);
        let created = reqwest::Client::new().put(bucket).send().await.unwrap();
        assert!(created.status().is_success(), "{created:?}");
        Some(s3)
    }

    fn settings(&self) -> StoreSettings {
        let mut settings = settings("s3://edge/backup/of/shop");
        settings.endpoint = Some(self.endpoint.clone());
        settings.region = Some(REGION.to_owned());
        settings.access_key_id = Some(KEY_ID.to_owned());
        settings.secret_access_key = Some(SECRET.to_owned());
        settings.allow_http = true;
        settings
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_gives_back_every_state_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let Some(s3) = S3::start(folder.path()).await else {
        return;
    };
    let settings = s3.settings();
    let (url, endpoint) = (settings.url.clone(), s3.endpoint.clone());
    let level = |number| format!("/{number:04x}/");
    suite(settings, level, async |chain, to| {
        restore_with_litestream(&format!("{url}/{chain}?endpoint={endpoint}&region={REGION}"), to);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_object_is_gone_around_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder_settings(folder.path());
    let mut site = Site::primary(&store).await;
    let mut last = Txid(1);
    for number in 0..6 {
        last = site
            .execute(&format!("INSERT INTO t (a, b) VALUES ({number}, 'x')"))
            .await;
        site.uploaded(last).await;
    }
    let chain = Path::new(&store.url).join(site.store_status().await.unwrap().folder.unwrap());
    site.stop().await;
    let of_level = |level: &str| {
        let files = std::fs::read_dir(chain.join("ltx").join(level)).unwrap();
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    };
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.len() - 40;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let fails = async |expected: &str| {
        let error = restore(&store, Target::Latest, &folder.path().join("out.db"))
            .await
            .unwrap_err();
        let text = explain(&error);
        assert!(text.contains(expected), "{text}");
        assert!(!folder.path().join("out.db").exists());
        assert!(!folder.path().join("out.restoring").exists());
    };
    let upload = of_level("0").pop().unwrap();
    let name = upload.file_name().unwrap().to_str().unwrap().to_owned();
    let whole = std::fs::read(&upload).unwrap();

    flip(&upload);
    fails(&format!(
        "{name} is damaged, and nothing else leads past it: the checksum of the file is wrong"
    ))
    .await;
    std::fs::write(&upload, &whole[..whole.len() / 2]).unwrap();
    fails(&format!("{name} is damaged")).await;
    // The same transactions of another level lead past it.
    std::fs::create_dir_all(chain.join("ltx/1")).unwrap();
    std::fs::write(chain.join("ltx/1").join(&name), &whole).unwrap();
    let restored = restore(&store, Target::Latest, &folder.path().join("past.db"))
        .await
        .unwrap();
    assert_eq!(restored, last);
    std::fs::remove_dir_all(chain.join("ltx/1")).unwrap();

    // In the middle nothing leads on.
    std::fs::write(&upload, &whole).unwrap();
    let uploads = of_level("0");
    let middle = &uploads[uploads.len() - 2];
    let middle_bytes = std::fs::read(middle).unwrap();
    std::fs::remove_file(middle).unwrap();
    let wanted = Target::Txid(last);
    let error = restore(&store, wanted, &folder.path().join("out.db"))
        .await
        .unwrap_err();
    let text = explain(&error);
    let expected = format!("nothing stored leads on from transaction {}", last.0 - 2);
    assert!(text.contains(&expected), "{text}");
    std::fs::write(middle, &middle_bytes).unwrap();

    // A file of another database in this one's place.
    let mut other = whole.clone();
    other[96] ^= 1;
    std::fs::write(&upload, &other).unwrap();
    fails("is of another history than its folder says").await;
    std::fs::write(&upload, &whole).unwrap();

    let snapshot = of_level("9").pop().unwrap();
    flip(&snapshot);
    fails("is damaged, and nothing else leads past it").await;
    flip(&snapshot);
    assert_eq!(
        restore(&store, Target::Latest, &folder.path().join("out.db"))
            .await
            .unwrap(),
        last
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_holds_nothing_up_and_gets_all_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder_settings(folder.path());
    let mut site = Site::primary(&store).await;
    let first = site.execute("INSERT INTO t (a, b) VALUES (1, 'x')").await;
    site.uploaded(first).await;
    let (here, away) = (folder.path().join("backup"), folder.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    std::fs::write(&here, "not a folder").unwrap();
    let mut last = first;
    for number in 0..20 {
        last = site
            .execute(&format!("INSERT INTO t (a, b) VALUES ({number}, 'x')"))
            .await;
    }
    let status = eventually("it is visible", async || {
        let status = site.store_status().await?;
        (status.last_error.is_some() && status.lag_seconds > 0.2).then_some(status)
    })
    .await;
    assert!(status.uploaded_txid < last, "{status:?}");
    // A start is not held up either.
    site.stop().await;
    site.run().await.unwrap();
    last = site.execute("INSERT INTO t (a, b) VALUES (1, 'x')").await;
    std::fs::remove_file(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    let status = site.uploaded(last).await;
    assert_eq!((status.last_error, status.lag_seconds), (None, 0.0));
    let out = folder.path().join("out.db");
    assert_eq!(restore(&store, Target::Latest, &out).await.unwrap(), last);
    assert_eq!(
        restore(&store, Target::Txid(first), &folder.path().join("first.db"))
            .await
            .unwrap(),
        first
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_lost_its_disk_comes_back_from_the_store_and_replicas_follow() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = folder_settings(folder.path());
    let mut site = Site::primary(&store).await;
    let replica = Site::start(
        Role::Replica {
            primary: format!("http://{}", site.listen),
        },
        None,
    )
    .await;
    for number in 0..5 {
        site.execute(&format!("INSERT INTO t (a, b) VALUES ({number}, 'x')"))
            .await;
    }
    site.stop().await;
    // From now on nothing is uploaded in time.
    store.sync_interval = Duration::from_secs(3600);
    site.store = Some(store.clone());
    site.run().await.unwrap();
    let (epoch, uploaded) = (site.epoch(), site.uploaded(Txid(1)).await.uploaded_txid);
    let mut lost = uploaded;
    for number in 0..3 {
        lost = site
            .execute(&format!("INSERT INTO t (a, b) VALUES ({number}, 'lost')"))
            .await;
    }
    assert!(lost > uploaded);
    let level = async |txid: Txid| {
        eventually("the replica is level", async || {
            let status = replica
                .agent
                .as_ref()?
                .databases()
                .into_iter()
                .find(|status| status.database == "shop")?;
            let level = status.state == State::Following && status.head.position.txid == txid;
            level.then_some(status)
        })
        .await
    };
    level(lost).await;
    // What it would upload at its end does not arrive.
    let (here, away) = (folder.path().join("backup"), folder.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    std::fs::write(&here, "not a folder").unwrap();
    site.stop().await;
    std::fs::remove_file(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    std::fs::remove_dir_all(site.data_dir()).unwrap();

    site.store.as_mut().unwrap().sync_interval = FAST;
    site.run().await.unwrap();
    assert!(site.epoch() > epoch, "{} after {epoch}", site.epoch());
    let path = site.data_dir().join("databases/shop/1.db");
    let rows = |path: &Path| -> i64 {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(rows(&path), 5);
    let next = site.execute("INSERT INTO t (a, b) VALUES (1, 'new')").await;
    let status = level(next).await;
    assert_eq!(status.rebuilds, 1);
    assert_eq!(status.head.position.epoch.0, site.epoch());
    assert_eq!(rows(&status.path.unwrap()), 6);
    // The history in the store goes on.
    site.uploaded(next).await;
    let out = folder.path().join("out.db");
    assert_eq!(
        restore(site.store.as_ref().unwrap(), Target::Latest, &out)
            .await
            .unwrap(),
        next
    );
    assert_eq!(rows(&out), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_replaced_begins_a_new_history_and_the_old_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder_settings(folder.path());
    let mut site = Site::primary(&store).await;
    let last = site.execute("INSERT INTO t (a, b) VALUES (1, 'old')").await;
    let old = mark(&site, last).await;
    let first_folder = site.store_status().await.unwrap().folder.unwrap();
    site.stop().await;
    let path = site.data_dir().join("databases/shop/1.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("DELETE FROM t; PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    site.run().await.unwrap();
    let last = site.execute("INSERT INTO t (a, b) VALUES (7, 'new')").await;
    let status = site.uploaded(last).await;
    assert_ne!(status.folder.unwrap(), first_folder);
    site.stop().await;
    let (before, after) = (folder.path().join("before.db"), folder.path().join("after.db"));
    restore(&store, Target::At(old.time_ms), &before).await.unwrap();
    assert_eq!(sum_of(&before), old.sum);
    assert_eq!(restore(&store, Target::Latest, &after).await.unwrap(), last);
    assert_eq!(std::fs::read(&after).unwrap().len(), site.live_file().len());
    assert_eq!(sum_of(&after), sum_of(&path));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_tells_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::primary(&folder_settings(folder.path())).await;
    let mut last = Txid(1);
    for number in 0..5 {
        last = site
            .execute(&format!("INSERT INTO t (a, b) VALUES ({number}, 'x')"))
            .await;
        site.uploaded(last).await;
    }
    let restore = async |txid: u64, name: &str| -> Vec<Value> {
        let body = json!({ "txid": txid, "as": name, "progress": true });
        let request = site.http().post("http://agent/v1/databases/shop/restore").json(&body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let lines = response.text().await.unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let mut lines = restore(last.0, "earlier").await;
    let done = lines.pop().unwrap();
    assert_eq!(done["done"]["database"], "earlier", "{done}");
    let bytes_done = |line: &Value| line["bytes_done"].as_u64().unwrap();
    assert!(lines.is_sorted_by_key(bytes_done));
    let all = lines.last().unwrap();
    assert!(bytes_done(all) > 0 && all["bytes_done"] == all["bytes"], "{all}");

    let refused = restore(last.0 + 1000, "later").await.pop().unwrap();
    assert_eq!(refused["problem"]["code"], "content", "{refused}");
}
