//! What handlers do to each other and to the process: neighbours of guests that loop, requests in one instance, bodies
//! that nobody takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use selvedge_tests::client;
use selvedge_tests::executable::repository;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge};

const LISTENERS: &str = "listeners:\n  - { address: 127.0.0.1:0 }\n  \
    - { address: 127.0.0.1:0, tls: { self_signed: [localhost] } }\n";

const INSTANCES: &str = "selvedge_handler_instances{handler=\"probe\"}";

const MIB: f64 = 1024.0 * 1024.0;

/// One guest on every path, with these limits.
async fn edge(guest: &str, limits: &str) -> Edge {
    let component = repository().join("tests/guests").join(guest).with_extension("wasm");
    Edge::start(&format!(
        "{LISTENERS}handlers: {{ probe: {{ component: {}, limits: {{ {limits} }} }} }}\n\
         routes: [{{ match: {{}}, handler: probe }}]\n",
        component.display()
    ))
    .await
}

async fn text(response: reqwest::Response) -> String {
    response.text().await.expect("a whole body")
}

async fn becomes(edge: &Edge, sample: &str, value: f64) {
    wait_for(&format!("{sample} to be {value}"), async || {
        (edge.metric(sample).await == Some(value)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn guests_that_loop_do_not_keep_their_neighbours_from_answering() {
    const LOOPS: usize = 8;
    let component = |guest: &str| repository().join("tests/guests").join(guest).display().to_string();
    let edge = Edge::start(&format!(
        "handlers:\n  looping: {{ component: {}, limits: {{ cpu: 5s, wall: 5m }} }}\n  \
         old: {{ component: {0} }}\n  new: {{ component: {1} }}\n\
         routes:\n  - {{ match: {{ path: /loop }}, handler: looping }}\n  \
         - {{ match: {{ path: \"/old/*\" }}, filters: [{{ rewrite: {{ strip_prefix: /old }} }}], handler: old }}\n  \
         - {{ match: {{ path: \"/new/*\" }}, filters: [{{ rewrite: {{ strip_prefix: /new }} }}], handler: new }}\n  \
         - {{ match: {{ path: /fixed }}, respond: {{ body: \"hello\\n\" }} }}\n",
        component("probe-p2.wasm"),
        component("probe-p3.wasm")
    ))
    .await;
    let mut loops = Vec::new();
    for _ in 0..LOOPS {
        let mut connection = Connection::open(edge.address()).await;
        connection.send("GET /loop HTTP/1.1\r\nHost: a\r\n\r\n").await;
        loops.push(connection);
    }
    let looping = "selvedge_handler_instances{handler=\"looping\"}";
    becomes(&edge, looping, LOOPS as f64).await;
    for path in ["/fixed", "/old/hello", "/new/hello"].repeat(5) {
        assert_eq!(text(edge.get(path).await).await, "hello\n", "{path}");
    }
    let ended = "selvedge_attempts_failed_total{kind=\"handler\",name=\"looping\",reason=\"handler_cpu_limit\"}";
    assert_eq!(
        edge.metric(ended).await,
        None,
        "each loops for five seconds of a processor"
    );
    assert_eq!(edge.metric(looping).await, Some(LOOPS as f64));
    // A guest that computes without end is ended with its client, too.
    loops.into_iter().for_each(Connection::reset);
    becomes(&edge, looping, 0.0).await;
    assert_eq!(edge.metric(ended).await, None);
}

#[tokio::test]
async fn a_client_that_leaves_a_shared_instance_takes_nobody_with_it() {
    let edge = edge("probe-p3", "wall: 5m, idle: 1m").await;
    let mut staying = Connection::open(edge.address()).await;
    staying
        .send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    staying.send("5\r\nfirst\r\n").await;
    staying.receive_until("first").await;
    let mut leaving = Connection::open(edge.address()).await;
    leaving
        .send("GET /sleep-mid?ms=200000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    leaving.receive_until("before the sleep").await;
    let instance = |count: String| count.lines().next().unwrap_or_default().to_owned();
    let before = text(edge.get("/count").await).await;
    assert!(
        before.contains("\nserved 3\n"),
        "one instance serves all three: {before}"
    );
    leaving.reset();
    becomes(&edge, "selvedge_requests_in_flight", 1.0).await;
    staying.send("6\r\nsecond\r\n0\r\n\r\n").await;
    staying.receive_until("second\r\n0\r\n\r\n").await;
    let after = text(edge.get("/count").await).await;
    assert_eq!(instance(after), instance(before), "the instance goes on");
}

#[tokio::test]
async fn requests_in_one_instance_get_their_own_bodies_back() {
    const REQUESTS: usize = 16;
    let edge = edge("probe-p3", "cpu: 10s").await;
    for (client, url) in [
        (client::http1(), edge.url("/echo")),
        (client::http2(), edge.https_url("/echo")),
    ] {
        let echoes = (0..REQUESTS).map(|number| {
            let body = format!("{number} ").repeat(50_000);
            let echo = client.post(&url).body(body.clone()).send();
            tokio::spawn(async move { (body, text(echo.await.expect("an answer")).await) })
        });
        for echo in echoes.collect::<Vec<_>>() {
            let (sent, received) = echo.await.expect("no panic");
            assert!(
                sent == received,
                "{} bytes came back for {}",
                received.len(),
                sent.len()
            );
        }
    }
    let instantiations = "selvedge_handler_instantiations_total{handler=\"probe\"}";
    let instances = edge.metric(instantiations).await;
    assert!(
        instances < Some(REQUESTS as f64),
        "nobody shared: {instances:?} instances"
    );
}

/// The resident memory once it has come to rest, in bytes. What holds a whole body grows until it has all of it.
async fn resting_memory(edge: &Edge) -> f64 {
    const SAMPLES: usize = 30;
    let (mut low, mut high, mut count) = (f64::MAX, f64::MIN, 0);
    wait_for("the memory to come to rest", async || {
        let now = edge.metric("process_resident_memory_bytes").await?;
        (low, high, count) = (low.min(now), high.max(now), count + 1);
        if high - low > MIB {
            (low, high, count) = (now, now, 1);
        }
        (count >= SAMPLES).then_some(high)
    })
    .await
}

/// More than the proxy and the guest may hold of bodies between them, less than any of these bodies.
const BOUND: f64 = 40.0 * MIB;

#[tokio::test]
async fn a_reader_that_stops_holds_the_guest_and_not_the_memory() {
    for guest in ["probe-p2", "probe-p3"] {
        let edge = edge(guest, "cpu: 30s, wall: 5m").await;
        let clients = [
            (client::http1(), edge.url("/big")),
            (client::http2(), edge.https_url("/big")),
        ];
        for (client, url) in &clients {
            let warm = client.get(format!("{url}?bytes=8388608")).send().await;
            text(warm.expect("an answer")).await;
        }
        let before = resting_memory(&edge).await;
        let mut unread = Vec::new();
        for (client, url) in &clients {
            let response = client.get(format!("{url}?bytes=1073741824")).send().await;
            unread.push(response.expect("a head"));
        }
        let grown = resting_memory(&edge).await - before;
        assert!(grown < BOUND, "{guest}: {} MiB more", grown / MIB);
        assert_eq!(edge.metric("selvedge_requests_in_flight").await, Some(2.0), "{guest}");
        drop(unread);
        becomes(&edge, "selvedge_requests_in_flight", 0.0).await;
    }
}

#[tokio::test]
async fn an_upload_that_the_guest_does_not_read_stays_with_the_client() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 1600;
    for guest in ["probe-p2", "probe-p3"] {
        for http2 in [true, false] {
            let edge = edge(guest, "wall: 5m, request_body: 120MiB").await;
            let (client, url) = match http2 {
                true => (client::http2(), edge.https_url("/sleep?ms=200000")),
                false => (client::http1(), edge.url("/sleep?ms=200000")),
            };
            let before = resting_memory(&edge).await;
            let (pieces, body) = client::streamed();
            let waiting = tokio::spawn(client.post(&url).body(body).send());
            let taken = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&taken);
            let sending = tokio::spawn(async move {
                for _ in 0..PIECES {
                    if pieces.send(Ok(Bytes::from(vec![b'x'; PIECE]))).await.is_err() {
                        return;
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
            becomes(&edge, INSTANCES, 1.0).await;
            let grown = resting_memory(&edge).await - before;
            assert!(grown < BOUND, "{guest}, {url}: {} MiB more", grown / MIB);
            let taken = taken.load(Ordering::SeqCst);
            assert!(
                taken > 0 && taken < PIECES,
                "{guest}, {url}: {taken} pieces were taken from the client"
            );
            assert!(!waiting.is_finished(), "{guest}, {url}: the guest waits");
            sending.abort();
            waiting.abort();
        }
    }
}
