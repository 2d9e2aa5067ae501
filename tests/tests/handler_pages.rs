//! Pages that handlers make, stored: collapsing, readers of a page that breaks, HEAD.

use selvedge_tests::client::{self, header};
use selvedge_tests::executable::repository;
use selvedge_tests::{Connection, Edge};

const PROBES: [&str; 2] = ["probe-p2", "probe-p3"];

/// One guest on every path, each query a page of its own.
async fn edge(guest: &str, limits: &str) -> Edge {
    let component = repository().join("tests/guests").join(guest).with_extension("wasm");
    Edge::start(&format!(
        "listeners:\n  - {{ address: 127.0.0.1:0 }}\n  - {{ address: 127.0.0.1:0, tls: {{ self_signed: [localhost] }} }}\n\
         handlers: {{ probe: {{ component: {}, limits: {{ {limits} }} }} }}\n\
         routes: [{{ match: {{}}, cache: {{ isr: {{ revalidate: 1h }}, query: all }}, handler: probe }}]\n",
        component.display()
    ))
    .await
}

async fn invocations(edge: &Edge) -> f64 {
    let sample = "selvedge_handler_invocations_total{handler=\"probe\"}";
    edge.metric(sample).await.expect("a handler counts its invocations")
}

/// Connections that have asked for `path`.
async fn readers(edge: &Edge, path: &str, count: usize) -> Vec<Connection> {
    let mut readers = Vec::new();
    for _ in 0..count {
        let mut reader = Connection::open(edge.address()).await;
        reader.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        readers.push(reader);
    }
    readers
}

#[tokio::test]
async fn concurrent_misses_are_one_invocation_and_every_reader_gets_its_stream() {
    for guest in PROBES {
        let edge = edge(guest, "wall: 5m").await;
        // The second chunk is further away than the patience of this test: what arrives was not held back for it.
        for reader in &mut readers(&edge, "/stream?chunks=2&delay_ms=200000", 10).await {
            let seen = reader.receive_until("chunk 0").await;
            assert!(
                seen.starts_with(b"HTTP/1.1 200"),
                "{guest}: {}",
                String::from_utf8_lossy(&seen)
            );
        }
        assert_eq!(invocations(&edge).await, 1.0, "{guest}");
        let path = "/stream?chunks=3&delay_ms=200";
        let mut bodies = Vec::new();
        for reader in &mut readers(&edge, path, 10).await {
            let response = reader.receive().await;
            assert!(response.complete && response.status == 200, "{guest}: {response:?}");
            bodies.push(response.text());
        }
        assert_eq!(invocations(&edge).await, 2.0, "{guest}");
        let again = readers(&edge, path, 1).await.remove(0).receive().await;
        let cache = again.header("cache-status").unwrap_or_default();
        assert!(cache.contains("; hit"), "{guest}: {again:?}");
        bodies.push(again.text());
        assert!(
            bodies.iter().all(|body| body.matches("chunk ").count() == 3),
            "{guest}: {bodies:?}"
        );
        assert_eq!(invocations(&edge).await, 2.0, "{guest}");
    }
}

#[tokio::test]
async fn every_reader_of_a_page_that_breaks_sees_the_break_and_nobody_gets_it_later() {
    for guest in PROBES {
        let edge = edge(guest, "cpu: 1s, wall: 2s").await;
        for (path, first) in [
            ("/trap-mid?after=1000&delay_ms=1000", "abcdef"),
            ("/loop-mid", "before the loop"),
            ("/sleep-mid?ms=60000", "before the sleep"),
        ] {
            for reader in &mut readers(&edge, path, 6).await {
                reader.receive_until(first).await;
                let rest = reader.receive_to_end().await;
                assert!(
                    !rest.ends_with(b"0\r\n\r\n"),
                    "{path} of {guest}: {}",
                    String::from_utf8_lossy(&rest)
                );
            }
            let before = invocations(&edge).await;
            assert!(before >= 1.0);
            let again = readers(&edge, path, 1).await.remove(0).receive().await;
            assert!(!again.complete, "{path} of {guest} broke and was stored: {again:?}");
            assert_eq!(invocations(&edge).await, before + 1.0, "{path} of {guest}: {again:?}");
        }
    }
}

#[tokio::test]
async fn head_of_a_handlers_page_is_the_pages_head_stored_or_not() {
    const PATH: &str = "/big?bytes=1000";
    for guest in PROBES {
        let edge = edge(guest, "").await;
        for (client, url) in [
            (client::http1(), edge.url(PATH)),
            (client::http2(), edge.https_url(PATH)),
        ] {
            let before = invocations(&edge).await;
            for asked in ["at first", "when it is stored"] {
                let head = client.head(&url).send().await.expect("an answer");
                let length = header(&head, "content-length").to_owned();
                assert_eq!(
                    (head.status().as_u16(), length.as_str()),
                    (200, "1000"),
                    "{guest} {url} {asked}"
                );
                assert!(head.bytes().await.expect("an end").is_empty(), "{guest} {url} {asked}");
                let page = client.get(&url).send().await.expect("an answer");
                assert_eq!(page.bytes().await.expect("a body").len(), 1000, "{guest} {url} {asked}");
            }
            assert_eq!(
                invocations(&edge).await,
                before + 1.0,
                "{guest} {url}: made once, for a HEAD"
            );
        }
    }
}
