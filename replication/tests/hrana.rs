//! Hrana over HTTP, by hand, at a primary and at a replica: what libSQL's clients rely on.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use selvedge_replication::agent::{Agent, AgentClientToken, AgentDatabase, AgentSettings, ClientRole, Role, State};
use serde_json::{Value, json};

const READ: &str = "read-0123456789";
const WRITE: &str = "write-0123456789";

struct Site {
    _folder: tempfile::TempDir,
    agent: Agent,
    http: reqwest::Client,
}

struct Answer {
    status: u16,
    bookmark: Option<String>,
    body: Value,
}

impl Site {
    async fn start(role: Role) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = AgentSettings::new("test", role, folder.path());
        settings.listen = Some(([127, 0, 0, 1], 0).into());
        settings.token = Some("cluster".to_owned());
        settings.databases = vec![AgentDatabase {
            name: "shop".to_owned(),
            migrations: None,
            seed: None,
        }];
        let client = |token: &str, role| AgentClientToken {
            token: token.to_owned(),
            database: "shop".to_owned(),
            role,
        };
        settings.clients = vec![client(READ, ClientRole::Read), client(WRITE, ClientRole::Write)];
        let agent = Agent::start(settings).await.unwrap();
        let http = reqwest::Client::new();
        Site {
            _folder: folder,
            agent,
            http,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.agent.address().unwrap())
    }

    async fn replica(&self) -> Site {
        let replica = Site::start(Role::Replica { primary: self.url() }).await;
        for _ in 0..1000 {
            let follows = |status: &selvedge_replication::agent::DatabaseStatus| {
                status.state == State::Following && status.primary_reachable
            };
            if replica.agent.databases().iter().any(follows) {
                return replica;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the replica does not follow: {:?}", replica.agent.databases());
    }

    async fn post(&self, path: &str, token: &str, bookmark: Option<&str>, body: Value) -> Answer {
        let mut request = self
            .http
            .post(format!("{}{path}", self.url()))
            .bearer_auth(token)
            .json(&body);
        if let Some(bookmark) = bookmark {
            request = request.header("x-selvedge-bookmark", bookmark);
        }
        let response = request.send().await.unwrap();
        let bookmark = response.headers().get("x-selvedge-bookmark");
        Answer {
            status: response.status().as_u16(),
            bookmark: bookmark.map(|value| value.to_str().unwrap().to_owned()),
            body: response.json().await.unwrap_or_default(),
        }
    }

    /// A pipeline of its own: the results, `ok` or an error's code each.
    async fn run(&self, token: &str, requests: Vec<Value>) -> Vec<Value> {
        let answer = self
            .post("/v2/pipeline", token, None, json!({ "requests": requests }))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        results(&answer)
    }

    /// One statement's rows, as plain values; or the code of its error.
    async fn query(&self, token: &str, sql: &str) -> Value {
        self.run(token, vec![execute(sql)]).await.remove(0)
    }
}

fn execute(sql: &str) -> Value {
    json!({ "type": "execute", "stmt": { "sql": sql } })
}

/// Of each request: an error's code, or rows of values, or the kind of the answer.
fn results(answer: &Answer) -> Vec<Value> {
    let results = answer.body["results"].as_array().unwrap().iter();
    results
        .map(|result| match result["type"].as_str() {
            Some("error") => result["error"]["code"].clone(),
            _ => match &result["response"]["result"]["rows"] {
                Value::Array(rows) => rows.iter().map(row).collect(),
                _ => result["response"]["type"].clone(),
            },
        })
        .collect()
}

fn row(row: &Value) -> Value {
    row.as_array()
        .unwrap()
        .iter()
        .map(|value| value["value"].clone())
        .collect()
}

/// As clients send a batch that is one transaction.
fn transaction(begin: &str, statements: &[&str]) -> Value {
    let count = statements.len();
    let ok = |step: usize| json!({ "type": "ok", "step": step });
    let mut steps = vec![json!({ "stmt": { "sql": begin } })];
    for (index, sql) in statements.iter().enumerate() {
        steps.push(json!({ "condition": ok(index), "stmt": { "sql": sql } }));
    }
    steps.push(json!({ "condition": ok(count), "stmt": { "sql": "COMMIT" } }));
    let not = json!({ "type": "not", "cond": ok(count + 1) });
    steps.push(json!({ "condition": not, "stmt": { "sql": "ROLLBACK" } }));
    json!({ "type": "batch", "batch": { "steps": steps } })
}

/// Of each step: `ok`, an error's code, or nothing.
fn steps(answer: &Answer) -> Vec<Value> {
    let result = &answer.body["results"][0]["response"]["result"];
    let each = result["step_results"]
        .as_array()
        .unwrap()
        .iter()
        .zip(result["step_errors"].as_array().unwrap());
    each.map(|(done, failed)| match (done, failed) {
        (Value::Null, Value::Null) => Value::Null,
        (Value::Null, failed) => failed["code"].clone(),
        _ => json!("ok"),
    })
    .collect()
}

/// What holds at both, with a database that is empty.
async fn check(site: &Site) {
    assert_eq!(
        site.query(WRITE, "CREATE TABLE t (a INTEGER PRIMARY KEY, b)").await,
        json!([])
    );
    assert_eq!(
        site.query(WRITE, "INSERT INTO t VALUES (1, 'x') RETURNING a").await,
        json!([["1"]])
    );
    assert_eq!(site.query(READ, "SELECT b FROM t").await, json!([["x"]]));
    for (token, sql, code) in [
        (WRITE, "INSERT INTO t VALUES (1, 'y')", "SQLITE_CONSTRAINT"),
        (WRITE, "SELECT * FROM nothing", "SQL_INPUT_ERROR"),
        (WRITE, "SELECT * FROM missing", "SQLITE_UNKNOWN"),
        (WRITE, "SELECT ?", "ARGS_INVALID"),
        (WRITE, "SELECT 1; SELECT 2", "SQL_MANY_STATEMENTS"),
        (WRITE, "COMMIT", "SQLITE_UNKNOWN"),
        (WRITE, "SELECT * FROM _selvedge_position", "SQLITE_AUTH"),
        (READ, "DELETE FROM t", "BLOCKED"),
        (READ, "BEGIN IMMEDIATE", "BLOCKED"),
    ] {
        assert_eq!(site.query(token, sql).await, json!(code), "{sql}");
    }

    // A batch that is one transaction: all of it, or nothing.
    let run = async |batch: Value| {
        site.post("/v3/pipeline", WRITE, None, json!({ "requests": [batch] }))
            .await
    };
    let insert = ["INSERT INTO t VALUES (2, 'y')", "INSERT INTO t VALUES (3, 'z')"];
    let done = run(transaction("BEGIN IMMEDIATE", &insert)).await;
    assert_eq!(
        steps(&done),
        [json!("ok"), json!("ok"), json!("ok"), json!("ok"), Value::Null]
    );
    let failed = run(transaction(
        "BEGIN DEFERRED",
        &["INSERT INTO t VALUES (4, '')", insert[1]],
    ))
    .await;
    let expected = [
        json!("ok"),
        json!("ok"),
        json!("SQLITE_CONSTRAINT"),
        Value::Null,
        json!("ok"),
    ];
    assert_eq!(steps(&failed), expected);
    let reads = ["SELECT count(*) FROM t", "SELECT 1"];
    for begin in ["BEGIN TRANSACTION READONLY", "BEGIN DEFERRED"] {
        let read = run(transaction(begin, &reads)).await;
        let rows = &read.body["results"][0]["response"]["result"]["step_results"][1]["rows"];
        assert_eq!(rows[0][0]["value"], "3", "{begin}: {}", read.body);
    }

    // A transaction over several requests; a baton is good for one.
    let begun = vec![
        execute("BEGIN"),
        execute("DELETE FROM t WHERE a = 3"),
        execute("SELECT count(*) FROM t"),
    ];
    let begun = site
        .post("/v2/pipeline", WRITE, None, json!({ "requests": begun }))
        .await;
    assert_eq!(results(&begun)[2], json!([["2"]]));
    assert_eq!(site.query(READ, "SELECT count(*) FROM t").await, json!([["3"]]));
    let next = json!({ "baton": begun.body["baton"], "requests": [
        execute("SAVEPOINT s"), execute("DELETE FROM t"), execute("ROLLBACK TO s"),
        { "type": "get_autocommit" }, execute("COMMIT"), { "type": "close" },
    ] });
    let committed = site.post("/v2/pipeline", WRITE, None, next.clone()).await;
    assert_eq!(
        committed.body["results"][3]["response"]["is_autocommit"], false,
        "{}",
        committed.body
    );
    assert_eq!(
        (results(&committed)[4].clone(), &committed.body["baton"]),
        (json!([]), &Value::Null)
    );
    assert_eq!(site.query(READ, "SELECT count(*) FROM t").await, json!([["2"]]));
    let again = site.post("/v2/pipeline", WRITE, None, next).await;
    assert_eq!((again.status, &again.body["code"]), (400, &json!("STREAM_EXPIRED")));

    // Undone when its stream is closed.
    let left = vec![execute("BEGIN"), execute("DELETE FROM t"), json!({ "type": "close" })];
    site.run(WRITE, left).await;
    assert_eq!(site.query(READ, "SELECT count(*) FROM t").await, json!([["2"]]));

    // Scripts and descriptions.
    let script =
        json!({ "type": "sequence", "sql": "INSERT INTO t VALUES (7, ';'); BEGIN; DELETE FROM t WHERE a = 7; COMMIT" });
    let describe = json!({ "type": "describe", "sql": "SELECT a, :x FROM t" });
    let answer = site
        .post("/v3/pipeline", WRITE, None, json!({ "requests": [script, describe] }))
        .await;
    let described = &answer.body["results"][1]["response"]["result"];
    assert_eq!(described["params"], json!([{ "name": ":x" }]), "{}", answer.body);
    assert_eq!(described["cols"][0], json!({ "name": "a", "decltype": "INTEGER" }));

    // A setting of the stream, as migrations need it.
    site.query(WRITE, "CREATE TABLE child (a REFERENCES t (a))").await;
    site.query(WRITE, "INSERT INTO child VALUES (1)").await;
    assert_eq!(
        site.query(WRITE, "DELETE FROM t WHERE a = 1").await,
        json!("SQLITE_CONSTRAINT")
    );
    let off = execute("PRAGMA foreign_keys = off");
    assert_eq!(
        site.run(WRITE, vec![off, execute("DELETE FROM t WHERE a = 1")]).await[1],
        json!([])
    );
    assert_eq!(
        site.query(WRITE, "INSERT INTO child VALUES (9)").await,
        json!("SQLITE_CONSTRAINT")
    );

    let cursor = json!({ "batch": { "steps": [{ "stmt": { "sql": "SELECT 1 AS one" } }] } });
    let response = site
        .http
        .post(format!("{}/v3/cursor", site.url()))
        .bearer_auth(READ)
        .json(&cursor);
    let text = response.send().await.unwrap().text().await.unwrap();
    let kinds: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone())
        .collect();
    assert_eq!(
        kinds,
        [Value::Null, json!("step_begin"), json!("row"), json!("step_end")]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_at_the_primary() {
    check(&Site::start(Role::Primary).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_at_a_replica() {
    let primary = Site::start(Role::Primary).await;
    check(&primary.replica().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_is_honoured_at_another_agent() {
    let primary = Site::start(Role::Primary).await;
    let (one, two) = (primary.replica().await, primary.replica().await);
    one.query(WRITE, "CREATE TABLE t (a)").await;
    for number in 1..=20 {
        let requests = json!({ "requests": [execute("INSERT INTO t VALUES (1)")] });
        let written = one.post("/v2/pipeline", WRITE, None, requests).await;
        let bookmark = written.bookmark.unwrap();
        let requests = json!({ "requests": [execute("SELECT count(*) FROM t")] });
        let read = two.post("/v2/pipeline", READ, Some(&bookmark), requests).await;
        assert_eq!(results(&read)[0], json!([[number.to_string()]]));
        assert_eq!(read.bookmark.unwrap(), bookmark);
        // The same by Hrana's own number.
        let index = &written.body["results"][0]["response"]["result"]["replication_index"];
        let statement = json!({ "sql": "SELECT count(*) FROM t", "replication_index": index });
        let requests = json!({ "requests": [{ "type": "execute", "stmt": statement }] });
        let read = two.post("/v2/pipeline", READ, None, requests).await;
        assert_eq!(results(&read)[0], json!([[number.to_string()]]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_left_open_ends_and_is_never_half_done() {
    let site = Site::start(Role::Primary).await;
    site.query(WRITE, "CREATE TABLE t (a)").await;
    let requests = json!({ "requests": [execute("BEGIN"), execute("INSERT INTO t VALUES (1)")] });
    let begun = site.post("/v2/pipeline", WRITE, None, requests).await;
    // It waits for the writer until the other transaction is undone.
    assert_eq!(site.query(WRITE, "INSERT INTO t VALUES (2)").await, json!([]));
    let requests = [
        execute("INSERT INTO t VALUES (3)"),
        execute("COMMIT"),
        execute("SELECT a FROM t"),
    ];
    let late = json!({ "baton": begun.body["baton"], "requests": requests });
    let late = site.post("/v2/pipeline", WRITE, None, late).await;
    let ended = json!("TRANSACTION_TIMEOUT");
    assert_eq!(results(&late), [ended.clone(), ended, json!([["2"]])]);
}
