//! What an operator does to a running edge, beyond the signals of `operations.rs`: a watched file, the drain of the admin
//! listener, impatience; and what the log says of uploads.

use selvedge_tests::client;
use selvedge_tests::process::Signal;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge, Gate, Origin, Reply};

fn site(origin: &Origin) -> String {
    format!(
        "upstreams: {{ site: {{ servers: [{{ address: \"{}\" }}] }} }}\n\
         routes: [{{ match: {{ path: /* }}, upstream: site }}]\n",
        origin.address()
    )
}

async fn body(edge: &Edge) -> String {
    edge.get("/").await.text().await.expect("a body")
}

#[tokio::test]
async fn a_watched_file_is_served_as_soon_as_it_is_changed_and_right() {
    let fixed = |body: &str| format!("routes: [{{ match: {{ path: /* }}, respond: {{ body: {body} }} }}]\n");
    let edge = Edge::configure(&fixed("first")).option("--watch").start().await;
    assert_eq!(body(&edge).await, "first");
    edge.rewrite(&fixed("second"));
    wait_for("the second", async || (body(&edge).await == "second").then_some(())).await;
    edge.rewrite("routes: [{ match: { path: /* }, respnod: {} }]\n");
    edge.logs("configuration not reloaded; the previous one keeps serving")
        .await;
    edge.logs("respond").await;
    assert_eq!(body(&edge).await, "second");
    edge.rewrite(&fixed("the third of them"));
    wait_for("the third", async || {
        (body(&edge).await == "the third of them").then_some(())
    })
    .await;
}

/// A client whose answer is held back, as seen by the edge and the origin.
async fn held(edge: &Edge, gate: &Gate) -> Connection {
    let mut connection = Connection::open(edge.address()).await;
    connection.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    gate.reached_by(1).await;
    connection
}

#[tokio::test]
async fn the_admin_listener_drains_like_a_signal() {
    let origin = Origin::start();
    let gate = Gate::new();
    origin.reply("/held", Reply::ok("whole").after(&gate));
    let mut edge = Edge::start(&site(&origin)).await;
    let mut waiting = held(&edge, &gate).await;
    let drain = client::client()
        .post(edge.admin_url("/drain"))
        .json(&serde_json::json!({}));
    let accepted = drain.send().await.expect("an answer");
    assert_eq!(accepted.status(), 202);
    let says: serde_json::Value = accepted.json().await.expect("JSON");
    assert_eq!(says["draining"], true);
    wait_for("unready", async || {
        (client::get(&edge.admin_url("/readyz")).await.status() == 503).then_some(())
    })
    .await;
    assert!(edge.is_running(), "a request is under way");
    gate.open();
    let response = waiting.receive().await;
    assert_eq!((response.text().as_str(), response.complete), ("whole", true));
    assert!(edge.wait().await.success());
    assert!(edge.log().contains("drained"), "{}", edge.log());
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_anybody() {
    for second in [Signal::Terminate, Signal::Interrupt] {
        let origin = Origin::start();
        let gate = Gate::new();
        origin.reply("/held", Reply::ok("never").after(&gate));
        let mut edge = Edge::start(&(site(&origin) + "shutdown: { grace: 10m }\n")).await;
        let mut waiting = held(&edge, &gate).await;
        edge.signal(Signal::Terminate);
        edge.logs("draining").await;
        assert!(edge.is_running(), "a request is under way");
        edge.signal(second);
        let status = edge.wait().await;
        assert!(status.success(), "{second:?}: {status}");
        assert!(edge.log().contains("second signal: leaving at once"), "{}", edge.log());
        assert_eq!(waiting.receive_to_end().await, b"", "{second:?}");
    }
}

#[tokio::test]
async fn the_access_log_says_how_much_came_and_how_much_went() {
    let origin = Origin::start();
    origin.reply("/", Reply::ok("12345"));
    let edge = Edge::start(&site(&origin)).await;
    for (number, bytes) in [0, 1000, 300_000].into_iter().enumerate() {
        let upload = client::client().post(edge.url("/")).body(vec![b'x'; bytes]);
        upload.send().await.expect("an answer").text().await.expect("a body");
        let entry = edge.access_log_of(number + 1).await[number].clone();
        let counts = (entry["bytes_received"].as_u64(), entry["bytes_sent"].as_u64());
        assert_eq!(counts, (Some(bytes as u64), Some(5)), "{entry}");
    }
}
