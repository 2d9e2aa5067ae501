//! Agents over real sockets: a primary, its replicas, and proxies that read their files.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use selvedge_replication::agent::{Agent, AgentDatabase, AgentSettings, DatabaseStatus, Role, State};
use selvedge_replication::bookmark::{Brought, Consistency, Session, Writes};
use selvedge_replication::client::{AgentClient, Level, Thresholds};
use selvedge_replication::{Database, DatabaseSettings, Statement, Value};
use selvedge_tests::disk;

/// Writes that are under way at one time: enough to share commits.
const WRITERS: usize = 64;

struct Site {
    folder: tempfile::TempDir,
    agent: Option<Agent>,
    role: Role,
    listen: std::net::SocketAddr,
    change: fn(&mut AgentSettings),
}

impl Site {
    async fn start(role: Role) -> Site {
        Site::start_with(role, |_| {}).await
    }

    async fn start_with(role: Role, change: fn(&mut AgentSettings)) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Site {
            folder,
            agent: None,
            role,
            listen: ([127, 0, 0, 1], 0).into(),
            change,
        };
        site.run().await;
        site
    }

    async fn run(&mut self) {
        let mut settings = AgentSettings::new("test", self.role.clone(), self.folder.path());
        settings.listen = Some(self.listen);
        settings.token = Some("secret".to_owned());
        settings.write_timeout = Duration::from_secs(5);
        settings.databases = vec![AgentDatabase {
            name: "shop".to_owned(),
            migrations: None,
            seed: None,
        }];
        (self.change)(&mut settings);
        let agent = Agent::start(settings).await.unwrap();
        self.listen = agent.address().unwrap();
        self.agent = Some(agent);
    }

    async fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
    }

    async fn replica(&self) -> Site {
        Site::start(Role::Replica {
            primary: format!("http://{}", self.listen),
        })
        .await
    }

    /// The database as a proxy beside this agent sees it.
    async fn proxy(&self) -> Proxy {
        let client = AgentClient::start(
            &self.folder.path().join("agent.sock"),
            self.folder.path(),
            Thresholds::default(),
        )
        .unwrap();
        let settings = DatabaseSettings::new("shop", self.folder.path().join("unused"));
        let database = Database::of_agent(settings, Arc::clone(&client));
        let proxy = Proxy { client, database };
        eventually("the agent is heard", async || proxy.client.is_connected()).await;
        proxy
    }

    /// The database's first file.
    fn file(&self) -> PathBuf {
        self.folder.path().join("databases/shop/1.db")
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.listen);
        reqwest::Client::new().request(method, url).bearer_auth("secret")
    }

    async fn metrics(&self) -> String {
        let metrics = self.request(Method::GET, "/metrics").send().await.unwrap();
        metrics.text().await.unwrap()
    }

    fn status(&self) -> DatabaseStatus {
        self.find_status().unwrap()
    }

    fn find_status(&self) -> Option<DatabaseStatus> {
        let databases = self.agent.as_ref().unwrap().databases();
        databases.into_iter().find(|status| status.database == "shop")
    }

    async fn settled(&self) {
        eventually("the replica follows", async || {
            let Some(status) = self.find_status() else { return false };
            status.state == State::Following && status.primary_reachable
        })
        .await;
    }
}

struct Proxy {
    client: Arc<AgentClient>,
    database: Arc<Database>,
}

impl Proxy {
    async fn query(&self, session: &Session, sql: &str) -> Result<Vec<Vec<Value>>, String> {
        let rows = self.database.query_in(session, Statement::new(sql, vec![])).await;
        rows.map(|rows| rows.rows)
            .map_err(|error| format!("{}: {error}", error.code()))
    }

    async fn count(&self, session: &Session) -> i64 {
        match self.query(session, "SELECT count(*) FROM t").await.unwrap()[0][0] {
            Value::Integer(count) => count,
            ref other => panic!("{other:?}"),
        }
    }
}

async fn eventually(what: &str, fits: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !fits().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_at_one_pop_is_read_there_at_once_and_elsewhere_with_its_bookmark() {
    let primary = Site::start(Role::Primary).await;
    let (one, two) = (primary.replica().await, primary.replica().await);
    one.settled().await;
    two.settled().await;
    let (here, there) = (one.proxy().await, two.proxy().await);
    let session = Arc::new(Session::default());
    here.query(&session, "CREATE TABLE t (a)").await.unwrap();
    for number in 1..=50 {
        here.query(&session, "INSERT INTO t VALUES (1)").await.unwrap();
        // Read-your-writes here, and at another PoP by what the client carries.
        assert_eq!(here.count(&session).await, number);
        let key = there.client.bookmark_key().unwrap();
        let bookmark = session.bookmark(&key).unwrap();
        let elsewhere = Arc::new(Session::default());
        elsewhere.join(&Brought::new(key.read(&bookmark), Consistency::Session, Writes::Wait));
        assert_eq!(there.count(&elsewhere).await, number);
        let strong = Arc::new(Session::default());
        strong.join(&Brought::new(Default::default(), Consistency::Strong, Writes::Wait));
        assert_eq!(there.count(&strong).await, number);
    }
    assert_eq!(
        (here.database.level(), there.database.level()),
        (Level::Normal, Level::Normal)
    );
    let error = here
        .query(&session, "INSERT INTO nowhere VALUES (1)")
        .await
        .unwrap_err();
    assert_eq!(error, "sql: no such table: nowhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_without_the_primary_and_without_the_agent() {
    let mut primary = Site::start(Role::Primary).await;
    let mut pop = primary.replica().await;
    pop.settled().await;
    let proxy = pop.proxy().await;
    let session = Session::default();
    proxy.query(&session, "CREATE TABLE t (a)").await.unwrap();
    proxy.query(&session, "INSERT INTO t VALUES (1)").await.unwrap();
    primary.stop().await;
    eventually("the primary is missed", async || {
        proxy.database.level() == Level::PrimaryDown
    })
    .await;
    assert_eq!(proxy.count(&session).await, 1);
    let error = proxy.query(&session, "INSERT INTO t VALUES (2)").await.unwrap_err();
    assert!(error.starts_with("primary_unreachable: "), "{error}");
    pop.stop().await;
    eventually("the agent is missed", async || !proxy.client.is_connected()).await;
    assert_eq!(proxy.count(&session).await, 1);
    let error = proxy.query(&session, "INSERT INTO t VALUES (2)").await.unwrap_err();
    assert!(error.starts_with("agent_unreachable: "), "{error}");
    // A proxy that starts now reads the file that is there.
    let client = AgentClient::start(
        &pop.folder.path().join("agent.sock"),
        pop.folder.path(),
        Thresholds::default(),
    )
    .unwrap();
    let settings = DatabaseSettings::new("shop", "unused");
    let late = Proxy {
        database: Database::of_agent(settings, Arc::clone(&client)),
        client,
    };
    assert_eq!(late.count(&Session::default()).await, 1);

    primary.run().await;
    pop.run().await;
    eventually("writes are taken again", async || {
        proxy.query(&session, "INSERT INTO t VALUES (2)").await.is_ok()
    })
    .await;
    assert_eq!(proxy.count(&session).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_continues_and_one_that_was_changed_is_copied_anew() {
    let primary = Site::start(Role::Primary).await;
    let mut away = primary.replica().await;
    let pop = primary.replica().await;
    away.settled().await;
    pop.settled().await;
    let proxy = pop.proxy().await;
    let session = Session::default();
    proxy.query(&session, "CREATE TABLE t (a)").await.unwrap();
    away.stop().await;
    for _ in 0..20 {
        proxy
            .query(&session, "INSERT INTO t VALUES (randomblob(9000))")
            .await
            .unwrap();
    }
    away.run().await;
    let level = async |site: &Site| {
        eventually("it is level", async || {
            site.find_status()
                .is_some_and(|status| status.head.is_same(&primary.status().head))
        })
        .await;
    };
    level(&away).await;
    assert_eq!(away.status().rebuilds, 0);

    away.stop().await;
    let path = away.folder.path().join("databases/shop/1.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("DELETE FROM t")
        .unwrap();
    away.run().await;
    eventually("it is copied anew", async || {
        away.find_status().is_some_and(|status| status.rebuilds == 1)
    })
    .await;
    level(&away).await;
    let copied = away.proxy().await;
    assert_eq!(copied.count(&Session::default()).await, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_finds_what_replication_did_not_write() {
    let primary = Site::start(Role::Primary).await;
    let pop = Site::start_with(
        Role::Replica {
            primary: format!("http://{}", primary.listen),
        },
        |settings| {
            settings.scrub_interval = Duration::from_millis(200);
        },
    )
    .await;
    pop.settled().await;
    let proxy = pop.proxy().await;
    let session = Session::default();
    proxy.query(&session, "CREATE TABLE t (a)").await.unwrap();
    let path = pop.status().path.unwrap();
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("INSERT INTO t VALUES (1)")
        .unwrap();
    eventually("it is found", async || {
        pop.status().rebuilds == 1 && pop.status().state == State::Following
    })
    .await;
    assert_ne!(pop.status().path.unwrap(), path);
    eventually("the new copy is read", async || {
        proxy.count(&Session::default()).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_disk_has_changed_a_page_says_so_and_serves_nothing_of_it() {
    let mut primary = Site::start_with(Role::Primary, |settings| {
        settings.scrub_interval = Duration::from_millis(100);
    })
    .await;
    let pop = primary.replica().await;
    pop.settled().await;
    let proxy = pop.proxy().await;
    let session = Session::default();
    proxy.query(&session, "CREATE TABLE t (a)").await.unwrap();
    proxy
        .query(&session, "INSERT INTO t VALUES ('precious')")
        .await
        .unwrap();
    eventually("it is read through", async || primary.status().scrubs > 0).await;
    assert_eq!(primary.status().state, State::Primary);
    primary.stop().await;
    disk::flip_bit(&primary.file(), b"precious");
    primary.run().await;
    eventually("it is found", async || primary.status().state == State::Damaged).await;

    // Also after a start, which reads nothing.
    primary.stop().await;
    primary.run().await;
    assert_eq!((primary.status().state, primary.status().path), (State::Damaged, None));
    let metrics = primary.metrics().await;
    assert!(
        metrics.contains("selvedge_agent_damaged{database=\"shop\"} 1"),
        "{metrics}"
    );
    let here = primary.proxy().await;
    eventually("the proxy knows", async || here.database.stats().damaged).await;
    let snapshot = primary.request(Method::GET, "/v1/databases/shop/snapshot");
    let refused = snapshot.send().await.unwrap();
    assert_eq!(refused.status(), 500);
    let refused: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(refused["code"], "damaged", "{refused}");
    let read = here.query(&Session::default(), "SELECT a FROM t").await.unwrap_err();
    assert!(read.starts_with("damaged: "), "{read}");
    let precious = [[Value::from("precious")]];
    assert_eq!(proxy.query(&session, "SELECT a FROM t").await.unwrap(), precious);

    // A replica has what is needed to mend it.
    let copy = pop.folder.path().join("copy.db");
    rusqlite::Connection::open(pop.status().path.unwrap())
        .unwrap()
        .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    let import = primary.request(Method::PUT, "/v1/databases/shop/content");
    let import = import.body(std::fs::read(copy).unwrap());
    assert_eq!(import.send().await.unwrap().status(), 200);
    assert_eq!(primary.status().state, State::Primary);
    eventually("writes are taken again", async || {
        proxy.query(&session, "INSERT INTO t VALUES ('more')").await.is_ok()
    })
    .await;
    let count = proxy
        .query(&session, "SELECT count(*) FROM t WHERE a = 'precious'")
        .await;
    assert_eq!(count.unwrap(), [[Value::Integer(1)]]);
}

/// The database file is not synced with every commit: what a power cut takes of it comes back from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_whose_file_has_lost_commits_has_them_from_its_log_and_goes_on() {
    let mut primary = Site::start(Role::Primary).await;
    let proxy = primary.proxy().await;
    let session = Session::default();
    proxy.query(&session, "CREATE TABLE t0 (a)").await.unwrap();
    primary.stop().await;
    let old = std::fs::read(primary.file()).unwrap();
    primary.run().await;
    let make_tables = async |numbers: std::ops::Range<u8>| {
        for number in numbers {
            let create = format!("CREATE TABLE t{number} (a, b, c, d, e, f UNIQUE)");
            let insert = format!("INSERT INTO t{number} (a, f) VALUES (zeroblob(9000), 1), (zeroblob(100), 2)");
            eventually("a table is made", async || proxy.query(&session, &create).await.is_ok()).await;
            proxy.query(&session, &insert).await.unwrap();
        }
    };
    // More than fit into one page of the schema.
    make_tables(1..60).await;
    primary.stop().await;
    for beside in std::fs::read_dir(primary.file().parent().unwrap()).unwrap().flatten() {
        if beside.file_name().to_string_lossy().starts_with("1.db") {
            std::fs::remove_file(beside.path()).unwrap();
        }
    }
    std::fs::write(primary.file(), old).unwrap();
    primary.run().await;
    make_tables(60..80).await;
    let reader = rusqlite::Connection::open(primary.file()).unwrap();
    let one = |sql: &str| {
        reader
            .query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0))
            .unwrap()
    };
    assert_eq!(one("PRAGMA integrity_check"), "ok".to_owned().into());
    assert_eq!(
        one("SELECT count(*) FROM sqlite_schema WHERE name LIKE 't%'"),
        80.into()
    );
    assert_eq!(one("SELECT count(*) FROM t59 JOIN t79"), 4.into());
}

/// A client that has seen the new content carries a higher position than any replica of the old one has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_put_in_the_place_of_a_database_comes_after_all_that_was_there() {
    let mut primary = Site::start(Role::Primary).await;
    let pop = primary.replica().await;
    pop.settled().await;
    let proxy = pop.proxy().await;
    let session = Session::default();
    proxy.query(&session, "CREATE TABLE t (a)").await.unwrap();
    for _ in 0..20 {
        proxy.query(&session, "INSERT INTO t VALUES ('old')").await.unwrap();
    }
    let before = primary.status().head;
    primary.stop().await;
    let mut other = Site::start(Role::Primary).await;
    let here = other.proxy().await;
    here.query(&Session::default(), "CREATE TABLE t (a)").await.unwrap();
    assert!(other.status().head.position.txid < before.position.txid);
    other.stop().await;
    std::fs::copy(other.file(), primary.file()).unwrap();
    primary.run().await;
    eventually("it is opened", async || primary.status().head.lineage != before.lineage).await;
    assert!(primary.status().head.position > before.position);
    eventually("the replica has the new content", async || {
        proxy.query(&Session::default(), "SELECT count(*) FROM t").await == Ok(vec![vec![Value::Integer(0)]])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_queued_is_done_once_when_the_primary_is_back() {
    let mut primary = Site::start(Role::Primary).await;
    let mut pop = primary.replica().await;
    pop.settled().await;
    let proxy = pop.proxy().await;
    let session = Session::default();
    proxy.query(&session, "CREATE TABLE t (a)").await.unwrap();
    primary.stop().await;
    let http = reqwest::Client::builder()
        .unix_socket(pop.folder.path().join("agent.sock"))
        .build()
        .unwrap();
    let body = serde_json::json!({ "operation": "op-1", "optimistic": true, "statements": [{ "sql": "INSERT INTO t VALUES (1)", "params": [] }] });
    for _ in 0..2 {
        let response = http
            .post("http://agent/v1/databases/shop/execute")
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 202);
    }
    let state = async || {
        let response = http
            .get("http://agent/v1/databases/shop/operations/op-1")
            .send()
            .await
            .unwrap();
        response.json::<serde_json::Value>().await.unwrap()["state"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(state().await, "queued");
    pop.stop().await;
    pop.run().await;
    primary.run().await;
    eventually("it is done", async || state().await == "done").await;
    assert_eq!(proxy.count(&session).await, 1);
}

/// The primary may have done it, answered in vain, and forgotten it since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_queued_for_too_long_is_given_up() {
    let mut primary = Site::start(Role::Primary).await;
    let mut pop = primary.replica().await;
    pop.settled().await;
    let proxy = pop.proxy().await;
    let session = Session::default();
    proxy.query(&session, "CREATE TABLE t (a)").await.unwrap();
    primary.stop().await;
    let enqueue = async |number: i64| {
        let insert = Statement::new("INSERT INTO t VALUES (?1)", vec![Value::Integer(number)]);
        let operation = format!("000{number}");
        proxy.client.enqueue("shop", operation, vec![insert]).await.unwrap();
    };
    enqueue(1).await;
    enqueue(2).await;
    pop.stop().await;
    rusqlite::Connection::open(pop.folder.path().join("queue.db"))
        .unwrap()
        .execute_batch("UPDATE operations SET at_ms = at_ms - 13 * 3600 * 1000 WHERE id = '0001'")
        .unwrap();
    pop.run().await;
    primary.run().await;
    let state = async |id: &str| {
        let operation = proxy.client.operation("shop", id).await;
        operation.map(|operation| operation["state"].as_str().unwrap().to_owned())
    };
    eventually("the younger one is done", async || {
        state("0002").await.is_ok_and(|state| state == "done")
    })
    .await;
    assert_eq!(state("0001").await.unwrap(), "unknown");
    let rows = proxy.query(&Session::default(), "SELECT a FROM t").await.unwrap();
    assert_eq!(rows, [[Value::Integer(2)]]);
    let metrics = pop.metrics().await;
    let given_up = "selvedge_agent_expired_operations_total{database=\"shop\"} 1";
    assert!(metrics.contains(given_up), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_at_many_pops_lose_nothing_and_double_nothing() {
    let primary = Site::start(Role::Primary).await;
    let (one, two) = (primary.replica().await, primary.replica().await);
    one.settled().await;
    two.settled().await;
    let proxies = [one.proxy().await, two.proxy().await];
    proxies[0]
        .query(&Session::default(), "CREATE TABLE t (a UNIQUE)")
        .await
        .unwrap();
    let writes = (0..400).map(|number: i64| {
        let database = Arc::clone(&proxies[number as usize % 2].database);
        async move {
            let session = Session::default();
            let of_row = |sql: &str| Statement::new(sql, vec![Value::Integer(number)]);
            let written = database.query_in(&session, of_row("INSERT INTO t VALUES (?1)")).await;
            // On a busy machine the answer may come too late, and a read find no reader.
            if let Err(error) = &written {
                assert_eq!(error.code(), "outcome_unknown", "{error}");
            }
            eventually("the row is read", async || {
                let mine = of_row("SELECT count(*) FROM t WHERE a = ?1");
                match database.query_in(&session, mine).await {
                    Ok(mine) => {
                        let found = mine.rows == [[Value::Integer(1)]];
                        assert!(found || written.is_err(), "{number} was written and is not read");
                        found
                    }
                    Err(error) => {
                        assert_eq!(error.code(), "busy", "{error}");
                        false
                    }
                }
            })
            .await;
        }
    });
    futures::stream::iter(writes)
        .for_each_concurrent(WRITERS, |write| write)
        .await;
    for site in [&one, &two] {
        eventually("it is level", async || {
            site.find_status()
                .is_some_and(|status| status.head.is_same(&primary.status().head))
        })
        .await;
        assert_eq!(site.status().rebuilds, 0);
    }
    assert_eq!(proxies[1].count(&Session::default()).await, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_nothing_is_told() {
    let primary = Site::start(Role::Primary).await;
    let http = reqwest::Client::new();
    for (path, token, status) in [
        ("/healthz", None, 200),
        ("/v1/status", None, 401),
        ("/v1/status", Some("wrong"), 401),
        ("/v1/status", Some("secret"), 200),
        ("/v1/databases/shop/snapshot", None, 401),
        ("/v1/databases/none/snapshot", Some("secret"), 404),
    ] {
        let mut request = http.get(format!("http://{}{path}", primary.listen));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        assert_eq!(request.send().await.unwrap().status(), status, "{path} {token:?}");
    }
}

/// Control makes them, users do not, and a replica has those its settings name.
#[tokio::test(flavor = "multi_thread")]
async fn the_platforms_databases_are_its_own() {
    let primary = Site::start(Role::Primary).await;
    let proxy = primary.proxy().await;
    for name in ["_config", "_control"] {
        proxy.client.create_platform_database(name).await.unwrap();
        proxy.client.create_platform_database(name).await.unwrap();
        let files = [("0001_t.sql", "CREATE TABLE t (x)")];
        proxy.client.migrate(name, &files).await.unwrap();
    }
    assert!(proxy.client.create_platform_database("blog").await.is_err());
    let ask = |method: reqwest::Method, path: &str| {
        let url = format!("http://{}/v1/databases{path}", primary.listen);
        reqwest::Client::new().request(method, url).bearer_auth("secret")
    };
    let made = ask(reqwest::Method::POST, "")
        .json(&serde_json::json!({ "name": "_other" }))
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 400);
    assert_eq!(
        ask(reqwest::Method::DELETE, "/_config").send().await.unwrap().status(),
        409
    );
    let role = Role::Replica {
        primary: format!("http://{}", primary.listen),
    };
    let replica = Site::start_with(role, |settings| {
        settings.platform_databases = vec!["_config".to_owned()]
    })
    .await;
    replica.settled().await;
    let names = || -> Vec<String> {
        let databases = replica.agent.as_ref().unwrap().databases();
        databases.into_iter().map(|status| status.database).collect()
    };
    eventually("it follows what it needs", async || {
        names().contains(&"_config".to_owned())
    })
    .await;
    assert!(!names().contains(&"_control".to_owned()));
}
