//! ISR with a real handler: pages that are made anew, confirmed, or cannot be made for a while.

use selvedge_tests::client::{self, header};
use selvedge_tests::executable::repository;
use selvedge_tests::process::Signal;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge};

/// The 0.2 probe on every path, its pages stale after a second.
async fn edge(query: &str, cache: &str) -> Edge {
    Edge::start(&pages(query, cache, "20s")).await
}

fn pages(query: &str, cache: &str, wall: &str) -> String {
    let component = repository().join("tests/guests/probe-p2.wasm");
    format!(
        "databases: {{ renders: {{ path: renders.db }} }}\n\
         handlers: {{ probe: {{ component: {}, bindings: {{ default: {{ database: renders }} }}, limits: {{ cpu: 200ms, wall: {wall} }} }} }}\n\
         routes: [{{ name: pages, match: {{}}, cache: {{ {cache}, query: [{query}] }}, handler: probe }}]\n",
        component.display()
    )
}

async fn page(edge: &Edge, path: &str) -> (String, String) {
    let response = edge.get(path).await;
    let status = header(&response, "cache-status").to_owned();
    (response.text().await.expect("a whole body"), status)
}

#[tokio::test]
async fn a_page_outlives_a_handler_that_fails_to_render_it() {
    for how in ["trap", "loop", "500"] {
        let edge = edge("key, fail, how", "isr: { revalidate: 1s, stale_if_error: 1d }").await;
        let path = format!("/regen?key={how}&fail=2-3&how={how}");
        assert_eq!(page(&edge, &path).await.0, "render 1\n");
        wait_for("a render that fails", async || {
            let (body, status) = page(&edge, &path).await;
            assert_eq!(body, "render 1\n", "{how}: {status}");
            edge.metric("selvedge_regenerations_total{outcome=\"failed\",route=\"pages\"}")
                .await
        })
        .await;
        // The second failure is a second later, the third render after another pause is good.
        wait_for("a render that succeeds", async || {
            (page(&edge, &path).await.0 == "render 4\n").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_handler_can_confirm_its_page_without_rendering_it() {
    let edge = edge("cc, etag", "vary: [accept]").await;
    let path = "/304?cc=max-age=1,stale-while-revalidate=0";
    assert_eq!(page(&edge, path).await.0, "fresh\n");
    let status = wait_for("the page to be asked about", async || {
        let (body, status) = page(&edge, path).await;
        assert_eq!(body, "fresh\n");
        status.contains("fwd=stale").then_some(status)
    })
    .await;
    assert!(page(&edge, path).await.1.contains("; hit"), "{status}");
}

#[tokio::test]
async fn a_purge_takes_every_variant() {
    let edge = edge("cc, vary", "vary: []").await;
    let path = "/cache?cc=max-age=600&vary=accept-language";
    let in_language = async |language: &str| {
        let request = client::client().get(edge.url(path)).header("accept-language", language);
        request.send().await.expect("an answer").text().await.expect("a body")
    };
    let (german, french) = (in_language("de").await, in_language("fr").await);
    assert_ne!(german, french);
    assert_eq!(
        (in_language("de").await, in_language("fr").await),
        (german.clone(), french.clone()),
        "both are kept"
    );
    wait_for("them to be stored", async || {
        edge.metric("selvedge_cache_fills").await.filter(|fills| *fills == 0.0)
    })
    .await;
    let purge = client::client()
        .post(edge.admin_url("/purge"))
        .json(&serde_json::json!({ "urls": [edge.url(path)] }));
    assert_eq!(purge.send().await.expect("an answer").status(), 200);
    assert_ne!(in_language("fr").await, french);
    assert_ne!(in_language("de").await, german);
}

#[tokio::test]
async fn a_running_handler_is_finished_before_the_process_leaves() {
    let mut edge = edge("ms", "isr: { revalidate: 1h }").await;
    let mut connection = Connection::open(edge.address()).await;
    connection
        .send("POST /sleep?ms=1500 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await;
    let instances = "selvedge_handler_instances{handler=\"probe\"}";
    wait_for("the guest to run", async || {
        (edge.metric(instances).await == Some(1.0)).then_some(())
    })
    .await;
    edge.signal(Signal::Terminate);
    let response = connection.receive().await;
    assert_eq!((response.status, response.text().as_str()), (200, "slept\n"));
    assert!(edge.wait().await.success());
}

#[tokio::test]
async fn a_page_is_filled_to_its_end_when_its_reader_leaves() {
    let edge = edge("chunks, size, delay_ms", "isr: { revalidate: 1s, stale_if_error: 1d }").await;
    let path = "/stream?chunks=4&size=16&delay_ms=500";
    let mut leaving = Connection::open(edge.address()).await;
    leaving
        .send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", edge.address()))
        .await;
    leaving.receive_until("chunk 0").await;
    leaving.reset();
    // Its line in the log is written when the fill is over.
    let entry = &edge.access_log_of(1).await[0];
    assert_eq!(entry["reason"], "downstream_closed", "{entry}");
    let invocations = "selvedge_handler_invocations_total{handler=\"probe\"}";
    assert_eq!(edge.metric(invocations).await, Some(1.0));
    let (body, status) = page(&edge, path).await;
    assert!(body.contains("chunk 3") && status.contains("; hit"), "{status}: {body}");
    // It says nothing of the page: the next regeneration does not wait.
    wait_for("a regeneration", async || {
        let (_, status) = page(&edge, path).await;
        assert!(!status.contains("backoff"), "{status}");
        edge.metric("selvedge_regenerations_total{outcome=\"succeeded\",route=\"pages\"}")
            .await
    })
    .await;
    assert!(!edge.log().contains("ERROR"), "{}", edge.log());
}

#[tokio::test]
async fn a_page_is_regenerated_for_nobody_in_particular() {
    let edge = edge("", "isr: { revalidate: 1s }").await;
    wait_for("a regeneration on behalf of somebody with credentials", async || {
        let request = client::client().get(edge.url("/headers"));
        let request = request
            .header("cookie", "who=ada")
            .header("authorization", "Bearer ada");
        request.send().await.expect("an answer");
        edge.metric("selvedge_regenerations_total{outcome=\"succeeded\",route=\"pages\"}")
            .await
    })
    .await;
    let (body, _) = page(&edge, "/headers").await;
    assert!(body.contains("host: ") && !body.contains("ada"), "{body}");
}

#[tokio::test]
async fn a_page_outlives_a_handler_that_is_too_slow_for_a_while() {
    let yaml = |wall: &str| pages("key, delay_ms", "isr: { revalidate: 1s, stale_if_error: 1d }", wall);
    let mut edge = Edge::start(&yaml("20s")).await;
    let path = "/regen?key=slow&delay_ms=700";
    assert_eq!(page(&edge, path).await.0, "render 1\n");
    edge.reload(&yaml("300ms")).await;
    wait_for("a render that is cut off", async || {
        assert_eq!(page(&edge, path).await.0, "render 1\n");
        edge.metric("selvedge_regenerations_total{outcome=\"failed\",route=\"pages\"}")
            .await
    })
    .await;
    edge.reload(&yaml("20s")).await;
    wait_for("a render that succeeds", async || {
        let (body, _) = page(&edge, path).await;
        (body != "render 1\n").then_some(())
    })
    .await;
}
