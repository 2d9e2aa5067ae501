//! One primary and PoPs, each an agent and a proxy as processes of their own: what a visitor of any PoP reads and writes.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::{HeaderMap, HeaderValue};
use selvedge_tests::client::{self, header};
use selvedge_tests::disk::SlowDisk;
use selvedge_tests::executable::repository;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Agent, Edge};
use serde_json::{Value, json};

const BOOKMARK: &str = "x-selvedge-bookmark";

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// The agent and the proxy of one PoP. `route` is added to the route, `agent` to the agent.
struct Pop {
    agent: Agent,
    edge: Edge,
}

async fn pop(primary: &Agent, agent_keys: &str, route_keys: &str) -> Pop {
    let agent_yaml = |data: &str| {
        format!(
            "agent: {{ name: pop, primary: \"{}\", token: a cluster's secret{agent_keys}{data} }}\n",
            primary.url("")
        )
    };
    let agent = Agent::start(&agent_yaml("")).await;
    let data = agent.directory().join("data/agent");
    let edge = Edge::start(&format!(
        "{agent}\
         databases: {{ shop: {{}} }}\n\
         handlers:\n  probe:\n    component: {guest}\n    bindings: {{ shop: {{ database: shop }} }}\n    limits: {{ reuse_concurrency: 1 }}\n\
         routes:\n  - {{ name: shop, match: {{ path: /* }}, handler: probe{route_keys} }}\n",
        agent = agent_yaml(&format!(", data_dir: {}", data.display())),
        guest = repository().join("tests/guests/probe-p2.wasm").display(),
    ))
    .await;
    Pop { agent, edge }
}

impl Pop {
    /// One statement, with what the client has seen so far.
    async fn sql(&self, statement: &str, bookmark: &str) -> Response {
        self.sql_with(statement, &[(BOOKMARK, bookmark)]).await
    }

    async fn sql_with(&self, statement: &str, headers: &[(&'static str, &str)]) -> Response {
        let mut fields = HeaderMap::new();
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            fields.insert(*name, HeaderValue::from_str(value).expect("a header"));
        }
        let query = [("db", "shop"), ("q", statement)];
        let url = reqwest::Url::parse_with_params(&self.edge.url("/sql"), query).expect("an address");
        let request = client::client().get(url).headers(fields);
        request.send().await.expect("the edge answers")
    }

    async fn replica_is_there(&self) {
        wait_for("the replica", async || {
            let response = self.sql("SELECT count(*) FROM items", "").await;
            (response.status() == 200 && !header(&response, BOOKMARK).is_empty()).then_some(())
        })
        .await;
        wait_for("the agent to follow", async || {
            let status = self.agent.status().await;
            (status["databases"][0]["state"] == "following").then_some(())
        })
        .await;
    }

    /// Writes until one was slower than the threshold, which is low, and returns how many rows that made.
    async fn slow_write(&self) -> usize {
        let mut rows = 0;
        wait_for("a slow write", async || {
            let wrote = self.sql("INSERT INTO items (name) VALUES ('waited for')", "").await;
            assert_eq!(wrote.status(), 200);
            rows += 1;
            (self.level().await == Some(2.0)).then_some(())
        })
        .await;
        rows
    }

    async fn level(&self) -> Option<f64> {
        self.edge.metric("selvedge_degradation_level").await
    }
}

async fn shop(primary: &Agent) {
    execute(
        primary,
        "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
    )
    .await;
}

/// Writes at an agent's own interface.
async fn execute(agent: &Agent, sql: &str) -> Value {
    let request = client::http2()
        .post(agent.url("/v1/databases/shop/execute"))
        .bearer_auth("a cluster's secret")
        .json(&json!({ "statements": [{ "sql": sql, "params": [] }] }));
    let response = request.send().await.expect("the agent answers");
    assert!(
        response.status().is_success(),
        "{}",
        response.text().await.unwrap_or_default()
    );
    response.json().await.expect("JSON")
}

async fn names(response: Response) -> Vec<String> {
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.expect("rows are JSON");
    let rows = body["rows"]
        .as_array()
        .unwrap_or_else(|| panic!("no rows in {body}"))
        .clone();
    rows.iter()
        .map(|row| row[0].as_str().unwrap_or_default().to_owned())
        .collect()
}

const NAMES: &str = "SELECT name FROM items ORDER BY id";

async fn primary_with_shop() -> Agent {
    let primary = Agent::start(&format!(
        "agent: {{ name: primary, listen: \"127.0.0.1:{}\", token: a cluster's secret }}\ndatabases: {{ shop: {{}} }}\n",
        free_port()
    ))
    .await;
    shop(&primary).await;
    primary
}

#[tokio::test]
async fn a_write_is_read_here_at_once_and_elsewhere_with_its_bookmark() {
    let primary = primary_with_shop().await;
    let (here, there) = tokio::join!(pop(&primary, "", ""), pop(&primary, "", ""));
    tokio::join!(here.replica_is_there(), there.replica_is_there());
    let mut bookmark = String::new();
    for number in 1..=20 {
        let wrote = here
            .sql(&format!("INSERT INTO items (name) VALUES ('{number}')"), &bookmark)
            .await;
        assert_eq!(wrote.status(), 200, "{}", here.agent.log());
        bookmark = header(&wrote, BOOKMARK).to_owned();
        assert!(bookmark.starts_with("shop="), "{bookmark}");
        assert!(header(&wrote, "set-cookie").contains(&bookmark));
        // Without a bookmark at the PoP that wrote, with one at any other.
        let own = names(here.sql(NAMES, "").await).await;
        let other = names(there.sql(NAMES, &bookmark).await).await;
        assert_eq!((own.len(), other.len()), (number, number));
    }
    // A browser brings the same as a cookie; a bookmark that was made up is nothing.
    let cookie = format!("a=b; __selvedge_bookmark={bookmark}");
    assert_eq!(
        names(there.sql_with(NAMES, &[("cookie", &cookie)]).await).await.len(),
        20
    );
    let forged = bookmark.replacen("-00", "-ff", 1);
    assert_eq!(names(there.sql(NAMES, &forged).await).await.len(), 20);
    // A strong read is the primary's.
    execute(&primary, "INSERT INTO items (name) VALUES ('at the primary')").await;
    let strong = there.sql_with(NAMES, &[("x-selvedge-consistency", "strong")]).await;
    assert_eq!(names(strong).await.len(), 21);
    assert_eq!(here.level().await, Some(0.0));
    let request = client::http2()
        .get(primary.url("/metrics"))
        .bearer_auth("a cluster's secret");
    let metrics = request.send().await.expect("an answer").text().await.expect("text");
    for sample in [
        "selvedge_agent_commit_seconds_count{database=\"shop\"}",
        "selvedge_agent_log_bytes ",
        "selvedge_agent_behind_transactions{database=\"shop\"} 0",
    ] {
        assert!(metrics.contains(sample), "{sample} in\n{metrics}");
    }
}

#[tokio::test]
async fn without_the_primary_reads_go_on_and_nothing_acknowledged_is_lost() {
    let mut primary = primary_with_shop().await;
    let pop = pop(&primary, ", write_timeout: 2s", "").await;
    pop.replica_is_there().await;
    assert_eq!(
        pop.sql("INSERT INTO items (name) VALUES ('kept')", "").await.status(),
        200
    );
    primary.kill();
    wait_for("level 3", async || (pop.level().await == Some(3.0)).then_some(())).await;
    let read = pop.sql(NAMES, "").await;
    assert_eq!(header(&read, "x-selvedge-level"), "3");
    assert_eq!(names(read).await, ["kept"]);
    let refused = pop.sql("INSERT INTO items (name) VALUES ('refused')", "").await;
    assert_eq!(refused.status(), 503);
    assert!(!header(&refused, "retry-after").is_empty());
    let ready: Value = client::get(&pop.edge.admin_url("/readyz"))
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(
        (&ready["ready"], &ready["level"]),
        (&json!(true), &json!("primary_down"))
    );

    primary.resume().await;
    wait_for("writes to be possible again", async || {
        let wrote = pop.sql("INSERT INTO items (name) VALUES ('after')", "").await;
        (wrote.status() == 200).then_some(())
    })
    .await;
    let found = names(pop.sql(NAMES, "").await).await;
    assert_eq!(found, ["kept", "after"]);
    assert_eq!(pop.level().await, Some(0.0));
}

#[tokio::test]
async fn without_its_agent_a_proxy_reads_on_and_refuses_writes() {
    let primary = primary_with_shop().await;
    let mut pop = pop(&primary, "", "").await;
    pop.replica_is_there().await;
    let wrote = pop.sql("INSERT INTO items (name) VALUES ('kept')", "").await;
    assert_eq!(wrote.status(), 200);
    pop.agent.kill();
    wait_for("level 3", async || (pop.level().await == Some(3.0)).then_some(())).await;
    assert_eq!(names(pop.sql(NAMES, "").await).await, ["kept"]);
    assert_eq!(pop.sql("DELETE FROM items", "").await.status(), 503);
    pop.agent.resume().await;
    wait_for("the agent to be heard", async || {
        (pop.sql("INSERT INTO items (name) VALUES ('after')", "").await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(names(pop.sql(NAMES, "").await).await, ["kept", "after"]);
}

#[tokio::test]
async fn while_the_primary_is_slow_writes_are_queued_where_a_route_allows_it() {
    let primary = primary_with_shop().await;
    let levels = ", levels: { primary_slow: 1ms }";
    let pop = pop(
        &primary,
        levels,
        ", writes: queue_when_slow }\n  - { name: none, match: { path: /none }, respond: {}",
    )
    .await;
    pop.replica_is_there().await;
    let waited = pop.slow_write().await;
    let queued = pop.sql("INSERT INTO items (name) VALUES ('queued')", "").await;
    assert_eq!(queued.status(), 202);
    assert_eq!(header(&queued, "x-selvedge-write"), "queued");
    assert_eq!(header(&queued, "x-selvedge-level"), "2");
    let operation = header(&queued, "x-selvedge-operation").to_owned();
    wait_for("the queued write", async || {
        let state: Value = pop.edge.get(&operation).await.json().await.expect("JSON");
        (state["state"] == "done").then_some(())
    })
    .await;
    let found = names(pop.sql(NAMES, "").await).await;
    assert_eq!(
        (found.len(), found.last().map(String::as_str)),
        (waited + 1, Some("queued"))
    );
    // One that fails at the primary says so to whoever asks.
    let failing = pop.sql("INSERT INTO items (id, name) VALUES (1, 'taken')", "").await;
    assert_eq!(failing.status(), 202);
    let operation = header(&failing, "x-selvedge-operation").to_owned();
    let state = wait_for("the failure", async || {
        let state: Value = pop.edge.get(&operation).await.json().await.expect("JSON");
        (state["state"] == "failed").then_some(state)
    })
    .await;
    assert_eq!(state["code"], "constraint");
    let unknown = pop.edge.get("/.well-known/selvedge/operations/shop/00").await;
    assert_eq!(unknown.status(), 404);
}

#[tokio::test]
async fn a_full_queue_refuses_and_what_was_refused_is_not_done() {
    let mut primary = primary_with_shop().await;
    let keys = ", queue: { rows: 3 }, levels: { primary_slow: 1ms }";
    let pop = pop(&primary, keys, ", writes: queue_when_slow").await;
    pop.replica_is_there().await;
    let mut accepted = pop.slow_write().await;
    // It counts as reachable for a while, and takes nothing.
    primary.kill();
    let mut refused = 0;
    for number in 0..12 {
        let sql = format!("INSERT INTO items (name) VALUES ('{number}')");
        let answer = pop.sql(&sql, "").await;
        match answer.status().as_u16() {
            202 => accepted += 1,
            503 => {
                assert!(!header(&answer, "retry-after").is_empty());
                refused += 1;
            }
            other => panic!("{other}: {}", answer.text().await.unwrap_or_default()),
        }
    }
    assert!(refused >= 9, "{accepted} accepted, {refused} refused");
    primary.resume().await;
    wait_for("what was accepted", async || {
        (names(pop.sql(NAMES, "").await).await.len() == accepted).then_some(())
    })
    .await;
    // Nothing more comes: the queue is empty.
    wait_for("an empty queue", async || {
        (pop.agent.status().await["site"]["queue"]["rows"] == 0).then_some(())
    })
    .await;
    assert_eq!(names(pop.sql(NAMES, "").await).await.len(), accepted);
}

#[tokio::test]
async fn a_replica_too_far_behind_is_not_read() {
    let mut primary = primary_with_shop().await;
    let pop = pop(&primary, "", "").await;
    pop.replica_is_there().await;
    let strict = Edge::start(&format!(
        "agent: {{ primary: \"{}\", token: a cluster's secret, data_dir: {} }}\n\
         databases: {{ shop: {{ max_staleness: 1s }} }}\n\
         handlers:\n  probe:\n    component: {}\n    bindings: {{ shop: {{ database: shop }} }}\n\
         routes:\n  - {{ match: {{ path: /* }}, handler: probe }}\n",
        primary.url(""),
        pop.agent.directory().join("data/agent").display(),
        repository().join("tests/guests/probe-p2.wasm").display(),
    ))
    .await;
    let url = "/sql?db=shop&q=SELECT+1";
    wait_for("a read", async || (strict.get(url).await.status() == 200).then_some(())).await;
    primary.kill();
    // Nobody can say any more how far behind it is.
    wait_for("reads to be refused", async || {
        let answer = strict.get(url).await;
        (answer.status() == 503 && !header(&answer, "retry-after").is_empty()).then_some(())
    })
    .await;
    assert_eq!(pop.sql(NAMES, "").await.status(), 200, "where it was not asked for");
}

#[tokio::test]
async fn the_example_configurations_form_a_cluster() {
    let Some(seed) = selvedge_tests::peer::dictionary() else {
        return;
    };
    let data = tempfile::tempdir().expect("a temporary directory");
    let folder = |name: &str| data.path().join(name).display().to_string();
    let conf = repository().join("conf");
    let port = free_port().to_string();
    let seed = seed.display().to_string();
    let environment = [
        ("DATA_DIR", folder("primary")),
        ("AGENT_PORT", port.clone()),
        ("SEED", seed),
    ];
    let _primary = Agent::start_file(&conf.join("primary.yaml"), &environment).await;
    let environment = [
        ("DATA_DIR", folder("pop")),
        ("PRIMARY", format!("http://127.0.0.1:{port}")),
    ];
    let agent = Agent::start_file(&conf.join("pop.yaml"), &environment).await;
    let mut setup = Edge::configure_file(conf.join("pop.yaml"));
    for (name, value) in environment {
        setup = setup.env(name, value);
    }
    let edge = setup.env("HTTP_PORT", "0").env("ADMIN_PORT", "0").start().await;
    wait_for("the replica of the dictionary", async || {
        (edge.get("/word/selvedge").await.status() == 200).then_some(())
    })
    .await;
    let form = client::client()
        .post(edge.url("/notes"))
        .header("content-type", "application/x-www-form-urlencoded");
    let posted = form.body("word=dog&author=Ada&body=Barks+at+night");
    let posted = posted.send().await.expect("an answer");
    assert_eq!(posted.status(), 303, "{}", agent.log());
    let notes = edge.get("/notes?word=dog").await.text().await.expect("a page");
    assert!(notes.contains("Barks at night"), "{notes}");
}

/// The cut of a timeout is shorter than any of the harness's.
#[tokio::test]
async fn a_primary_that_does_not_answer_is_not_waited_for_forever() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address");
    let agent = Agent::start(&format!(
        "agent: {{ primary: \"http://{address}\", token: a cluster's secret, listen: \"127.0.0.1:0\" }}\n"
    ))
    .await;
    let request = client::http2()
        .post(agent.url("/v1/databases/shop/execute"))
        .bearer_auth("a cluster's secret")
        .timeout(Duration::from_secs(30))
        .json(&json!({ "statements": [{ "sql": "SELECT 1", "params": [] }] }));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 503);
    assert_eq!(header(&response, "retry-after"), "1");
    let problem: Value = response.json().await.expect("JSON");
    assert_eq!(problem["code"], "primary_unreachable");
}

#[tokio::test]
async fn agents_speak_tls_to_each_other_and_only_to_whom_they_believe() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    if !selvedge_tests::certificate::make(folder.path(), "agent", "localhost") {
        return;
    }
    let file = |name: &str| folder.path().join(name).display().to_string();
    let primary = Agent::start(&format!(
        "agent: {{ listen: \"127.0.0.1:0\", token: a cluster's secret, tls: {{ cert: {}, key: {} }} }}\n\
         databases: {{ shop: {{}} }}\n",
        file("agent.pem"),
        file("agent.key"),
    ))
    .await;
    let url = format!("https://localhost:{}", primary.address().port());
    let believing = format!(
        "agent: {{ primary: \"{url}\", token: a cluster's secret, ca: {} }}\n",
        file("agent.pem")
    );
    let believing = Agent::start(&believing).await;
    wait_for("the replica", async || {
        let status = believing.status().await;
        (status["databases"][0]["state"] == "following").then_some(())
    })
    .await;
    let strange = format!("agent: {{ primary: \"{url}\", token: a cluster's secret }}\n");
    let strange = Agent::start(&strange).await;
    let wrong = format!(
        "agent: {{ primary: \"{url}\", token: another secret, ca: {} }}\n",
        file("agent.pem")
    );
    let wrong = Agent::start(&wrong).await;
    wait_for("the refusal in the log", async || {
        wrong.log().contains("refuses to be followed").then_some(())
    })
    .await;
    for agent in [&strange, &wrong] {
        let status = agent.status().await;
        assert_eq!(status["site"]["primary_reachable"], false, "{status}");
        assert_eq!(status["databases"], json!([]), "{status}");
    }
}

#[tokio::test]
async fn a_write_waits_for_a_slow_disk_of_the_primary_and_everybody_can_see_it() {
    let Some(disk) = SlowDisk::mount() else { return };
    let primary = Agent::start(&format!(
        "agent: {{ name: primary, listen: 127.0.0.1:0, token: a cluster's secret }}\ndatabases: {{ shop: {{}} }}\ndata_dir: {}\n",
        disk.path().join("data").display()
    ))
    .await;
    shop(&primary).await;
    let pop = pop(&primary, "", "").await;
    pop.replica_is_there().await;
    assert_eq!(
        pop.sql("INSERT INTO items (name) VALUES ('quick')", "").await.status(),
        200
    );

    disk.hold();
    let write = pop.sql("INSERT INTO items (name) VALUES ('slow')", "");
    let meanwhile = async {
        // Longer than `primary_slow`, shorter than a write may take.
        for _ in 0..8 {
            let read = pop.sql("SELECT count(*) FROM items", "").await;
            assert_eq!(read.status(), 200, "reads go on");
            assert!(
                read.text().await.expect("a body").contains("[[1]]"),
                "nothing unconfirmed is shown"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        disk.go_on();
    };
    let (written, ()) = tokio::join!(write, meanwhile);
    assert_eq!(written.status(), 200, "it was waited for");
    let bookmark = header(&written, BOOKMARK).to_owned();
    assert_eq!(pop.level().await, Some(2.0), "the primary is slow");
    let read = pop.sql("SELECT count(*) FROM items", &bookmark).await;
    assert_eq!(header(&read, "x-selvedge-level"), "2");
    assert!(read.text().await.expect("a body").contains("[[2]]"), "once");
    // The next write says that it is not any more.
    assert_eq!(
        pop.sql("INSERT INTO items (name) VALUES ('quick again')", "")
            .await
            .status(),
        200
    );
    wait_for("the level to be normal", async || {
        (pop.level().await == Some(0.0)).then_some(())
    })
    .await;
}
