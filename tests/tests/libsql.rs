//! libSQL's own clients, and the ORMs on them, against real agents: their packages unchanged, at the primary and at a
//! replica.

use selvedge_tests::node::Node;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Agent, client};

const CLUSTER: &str = "the token of the cluster";
const WRITE: &str = "write-shop-0123456789";
const READ: &str = "read-shop-0123456789";
const BLOG: &str = "write-blog-0123456789";

/// Of both roles, the same clients.
fn clients() -> String {
    format!(
        "  token: {CLUSTER}
  listen: 127.0.0.1:0
  clients:
    - {{ token: {WRITE}, database: shop, role: write }}
    - {{ token: {READ}, database: shop, role: read }}
    - {{ token: {BLOG}, database: blog, role: write }}
databases: {{ shop: {{}}, blog: {{}} }}
"
    )
}

async fn primary() -> Agent {
    Agent::start(&format!("agent:\n{}", clients())).await
}

async fn replica_of(primary: &Agent) -> Agent {
    let replica = Agent::start(&format!("agent:\n  primary: {}\n{}", primary.url(""), clients())).await;
    follows(&replica, &["shop", "blog"]).await;
    replica
}

/// Waits until all these databases are replicas that follow their primary.
async fn follows(replica: &Agent, databases: &[&str]) {
    wait_for("the replicas to follow", async || {
        let status = replica.status().await;
        let known = status["databases"].as_array()?;
        let follows = |name: &&str| {
            known.iter().any(|database| {
                database["database"] == **name
                    && database["state"] == "following"
                    && database["primary_reachable"] == true
            })
        };
        databases.iter().all(follows).then_some(())
    })
    .await;
}

/// Runs the script with a new database, at the primary and at a replica.
async fn check(script: &str) {
    let Some(node) = Node::find("libsql") else { return };
    let primary = primary().await;
    let url = primary.url("");
    node.run(script, &[("LIBSQL_URL", url.as_str()), ("LIBSQL_TOKEN", WRITE)])
        .await;
    drop(primary);
    let primary = self::primary().await;
    let replica = replica_of(&primary).await;
    let url = replica.url("");
    node.run(script, &[("LIBSQL_URL", url.as_str()), ("LIBSQL_TOKEN", WRITE)])
        .await;
}

#[tokio::test]
async fn the_libsql_client() {
    check("client.mjs").await;
}

#[tokio::test]
async fn hrana_in_every_version_and_encoding() {
    check("hrana.mjs").await;
}

#[tokio::test]
async fn drizzle() {
    check("drizzle.mjs").await;
}

#[tokio::test]
async fn prisma() {
    check("prisma.mjs").await;
}

#[tokio::test]
async fn tokens_decide_what_is_reached() {
    let Some(node) = Node::find("libsql") else { return };
    let tokens = [
        ("WRITE_TOKEN", WRITE),
        ("READ_TOKEN", READ),
        ("BLOG_TOKEN", BLOG),
        ("CLUSTER_TOKEN", CLUSTER),
    ];
    let primary = primary().await;
    let replica = replica_of(&primary).await;
    let url = replica.url("");
    node.run("access.mjs", &[&tokens[..], &[("LIBSQL_URL", url.as_str())]].concat())
        .await;
    let primary = self::primary().await;
    let url = primary.url("");
    node.run("access.mjs", &[&tokens[..], &[("LIBSQL_URL", url.as_str())]].concat())
        .await;
}

#[tokio::test]
async fn a_bookmark_carries_a_client_from_agent_to_agent() {
    let Some(node) = Node::find("libsql") else { return };
    let primary = primary().await;
    let (one, two) = (replica_of(&primary).await, replica_of(&primary).await);
    let environment = [
        ("LIBSQL_URL", one.url("")),
        ("OTHER_URL", two.url("")),
        ("LIBSQL_TOKEN", WRITE.to_owned()),
    ];
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    node.run("bookmarks.mjs", &environment).await;
}

#[tokio::test]
async fn without_the_primary_reads_go_on() {
    let Some(node) = Node::find("libsql") else { return };
    let mut primary = primary().await;
    let replica = replica_of(&primary).await;
    let url = replica.url("/v2/pipeline");
    let requests = ["CREATE TABLE kept (n)", "INSERT INTO kept VALUES (1)"]
        .map(|sql| serde_json::json!({ "type": "execute", "stmt": { "sql": sql } }));
    let request = reqwest::Client::new()
        .post(url)
        .bearer_auth(WRITE)
        .json(&serde_json::json!({ "requests": requests }));
    let answer = request.send().await.expect("the replica answers");
    let text = answer.text().await.expect("a body");
    assert!(!text.contains("\"error\""), "{text}");
    primary.kill();
    wait_for("the replica to notice", async || {
        (replica.status().await["site"]["primary_reachable"] == false).then_some(())
    })
    .await;
    let url = replica.url("");
    node.run("outage.mjs", &[("LIBSQL_URL", url.as_str()), ("LIBSQL_TOKEN", WRITE)])
        .await;
}

/// Nobody configured a token, and only this machine reaches the listener.
#[tokio::test]
async fn an_agent_for_this_machine_alone_is_open() {
    let agent = Agent::start("agent: { listen: 127.0.0.1:0 }\ndatabases: { shop: {} }").await;
    let body = serde_json::json!({ "requests": [{ "type": "execute", "stmt": { "sql": "SELECT 1" } }] });
    for (path, status) in [
        ("/v2/pipeline", 200),
        ("/db/shop/v3/pipeline", 200),
        ("/db/nothing/v3/pipeline", 404),
    ] {
        let request = client::client().post(agent.url(path)).json(&body);
        assert_eq!(request.send().await.expect("an answer").status(), status, "{path}");
    }
    for path in ["/health", "/version", "/v2", "/v3", "/v3-protobuf", "/db/shop/v3"] {
        let response = selvedge_tests::client::get(&agent.url(path)).await;
        assert_eq!(response.status(), 200, "{path}");
    }
}
