//! Handlers behind the proxy: what a guest sees, and what becomes of a request when the guest fails.

use selvedge_tests::client::{self, header};
use selvedge_tests::executable::repository;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge, Origin, Reply};

/// One handler on every path: the 0.2 probe with these limits; `more` are further lines of the route.
fn probe(limits: &str, more: &str) -> String {
    let component = repository().join("tests/guests/probe-p2.wasm");
    format!(
        "databases: {{ notes: {{ path: notes.db }} }}\n\
         handlers:\n  probe:\n    component: {}\n    bindings: {{ notes: {{ database: notes }} }}\n    \
         env: {{ STAGE: test }}\n    limits: {{ {limits} }}\n\
         routes:\n  - name: probe\n    match: {{ path: /* }}\n    handler: probe\n{more}",
        component.display()
    )
}

async fn text(response: reqwest::Response) -> String {
    response.text().await.expect("a whole body")
}

#[tokio::test]
async fn what_fails_before_the_head_is_a_status_with_its_reason() {
    let edge = Edge::start(&probe("cpu: 200ms, wall: 1s, memory: 16MiB, response_header: 8KiB", "")).await;
    for (path, status, reason, blamed) in [
        ("/trap-before", 502, "handler_trap", "http_response_incomplete"),
        ("/panic", 502, "handler_trap", "http_response_incomplete"),
        ("/loop", 502, "handler_cpu_limit", "http_response_incomplete"),
        ("/sleep?ms=60000", 504, "handler_wall_deadline", "http_response_timeout"),
        ("/no-response", 502, "handler_no_response", "http_response_incomplete"),
    ] {
        let response = edge.get(path).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        let says = header(&response, "proxy-status").to_owned();
        assert!(
            says.contains(&format!("error={blamed}")) && says.contains(reason),
            "{path}: {says}"
        );
        let sample = format!("selvedge_attempts_failed_total{{kind=\"handler\",name=\"probe\",reason=\"{reason}\"}}");
        assert!(edge.metric(&sample).await.is_some(), "{sample}");
    }
    let log = edge.access_log_of(5).await;
    assert_eq!(
        (&log[2]["reason"], &log[2]["status"]),
        (&"handler_cpu_limit".into(), &502.into())
    );
    assert_eq!(
        text(edge.get("/hello").await).await,
        "hello\n",
        "its neighbours are unaffected"
    );
    let granted = text(edge.get("/memory?mib=64").await).await;
    let granted: u32 = granted
        .split(' ')
        .nth(1)
        .and_then(|mib| mib.parse().ok())
        .expect("a number");
    assert!(granted < 16, "{granted} MiB beside what it had");
}

#[tokio::test]
async fn what_fails_in_the_middle_of_a_body_is_a_visible_cut() {
    let edge = Edge::start(&probe(
        "cpu: 200ms, wall: 1s",
        "    cache: { isr: { revalidate: 1h, allow_query: [ms] } }\n",
    ))
    .await;
    for path in ["/trap-mid", "/loop-mid", "/sleep-mid?ms=60000", "/short", "/long"] {
        let mut connection = Connection::open(edge.address()).await;
        let response = connection.get(path).await;
        assert!(!response.complete || response.status >= 500, "{path}: {response:?}");
        // Asked again, it is made again: nothing of it was kept.
        let again = edge.get(path).await;
        let status = header(&again, "cache-status").to_owned();
        assert!(!status.contains("; hit"), "{path}: {status}");
        assert!(
            again.status().is_server_error() || again.bytes().await.is_err(),
            "{path}: the same for the next"
        );
    }
}

#[tokio::test]
async fn a_body_goes_both_ways_and_is_bounded() {
    let edge = Edge::start(&probe("request_body: 120MiB, cpu: 20s", "")).await;
    let body: Vec<u8> = (0..100 * 1024 * 1024_u32)
        .map(|position| (position % 251) as u8)
        .collect();
    let echoed = client::client()
        .post(edge.url("/echo"))
        .body(body.clone())
        .send()
        .await
        .expect("an answer");
    assert!(echoed.bytes().await.expect("a whole body") == body);

    let small = Edge::start(&probe("request_body: 1KiB", "")).await;
    let declared = client::client()
        .post(small.url("/drain"))
        .body(vec![b'x'; 2000])
        .send()
        .await
        .expect("an answer");
    assert_eq!(declared.status(), 413);
    let mut chunked = Connection::open(small.address()).await;
    let head = "POST /drain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked
        .send(format!("{head}7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000)))
        .await;
    assert_eq!(chunked.receive().await.status, 413);
    let early = client::client()
        .post(small.url("/never-read"))
        .body("a short body")
        .send()
        .await
        .expect("an answer");
    assert_eq!(text(early).await, "never read\n");
}

#[tokio::test]
async fn the_fallback_answers_for_a_handler_that_failed() {
    let legacy = Origin::start();
    legacy.answer("/trap-before", |request| {
        Reply::ok(format!("legacy got {} bytes", request.body.len()))
    });
    let upstream = format!(
        "upstreams: {{ legacy: {{ servers: [{{ address: \"{}\" }}] }} }}\n",
        legacy.address()
    );
    let edge = Edge::start(&(upstream + &probe("", "    fallback: legacy\n"))).await;
    let client = client::client();
    let post = |bytes: usize| client.post(edge.url("/trap-before")).body(vec![b'x'; bytes]).send();
    let small = post(5000).await.expect("an answer");
    assert_eq!(small.status(), 200);
    let says = header(&small, "proxy-status").to_owned();
    assert!(says.contains("handler_trap; answered by legacy"), "{says}");
    assert_eq!(text(small).await, "legacy got 5000 bytes", "the body was replayed");
    let large = post(200_000).await.expect("an answer");
    assert_eq!(
        large.status(),
        502,
        "more than can be replayed is not asked of somebody else in part"
    );
    assert_eq!(text(edge.get("/hello").await).await, "hello\n");
    assert_eq!(legacy.count("/trap-before"), 1);
    let log = edge.access_log_of(3).await;
    assert_eq!(log[0]["failed"]["reason"], "handler_trap");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_guest_and_a_full_house_says_so() {
    let edge = Edge::start(&probe("concurrency: 1, queue: 100ms, wall: 60s", "")).await;
    let mut leaving = Connection::open(edge.address()).await;
    leaving.send("GET /sleep?ms=50000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let instances = "selvedge_handler_instances{handler=\"probe\"}";
    wait_for("the guest to run", async || {
        (edge.metric(instances).await == Some(1.0)).then_some(())
    })
    .await;
    let refused = edge.get("/hello").await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (503, "1"));
    leaving.reset();
    wait_for("the guest to end", async || {
        (edge.metric(instances).await == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(text(edge.get("/hello").await).await, "hello\n");
}

#[tokio::test]
async fn a_guest_sees_the_request_and_nothing_else() {
    let edge = Edge::configure(&probe("", ""))
        .env("SECRET_OF_THE_HOST", "x")
        .start()
        .await;
    let request = client::client()
        .get(edge.url("/headers?a=b"))
        .header("host", "shop.test:8080");
    let request = request
        .header("x-forwarded-for", "6.6.6.6")
        .header("connection", "x-gone")
        .header("x-gone", "1");
    let seen = text(request.send().await.expect("an answer")).await.to_lowercase();
    for wanted in ["shop.test:8080", "x-forwarded-for", "127.0.0.1", "/headers?a=b"] {
        assert!(seen.contains(wanted), "{wanted} in {seen}");
    }
    for hidden in ["6.6.6.6", "x-gone", "connection:"] {
        assert!(!seen.contains(hidden), "{hidden} in {seen}");
    }
    let environment = text(edge.get("/env").await).await;
    assert!(
        environment.contains("env STAGE=test") && !environment.contains("SECRET_OF_THE_HOST"),
        "{environment}"
    );
    assert_eq!(text(edge.get("/fs").await).await, "preopens 0\n");
    let network = text(edge.get(&format!("/net?port={}", edge.address().port())).await).await;
    assert!(!network.contains("tcp ok") && !network.contains("http ok"), "{network}");
    edge.get("/log?line=remember").await;
    edge.logs("out: remember").await;
    edge.logs("err: remember").await;
    let lines: Vec<String> = edge
        .log()
        .lines()
        .filter(|line| line.contains(": remember"))
        .map(str::to_owned)
        .collect();
    assert!(lines.iter().all(|line| line.contains("probe")), "{lines:?}");
}

#[tokio::test]
async fn responses_without_a_body_and_streams() {
    let edge = Edge::start(&probe("", "")).await;
    let client = client::client();
    for (method, path, status) in [
        ("HEAD", "/hello", 200),
        ("GET", "/204-with-body", 204),
        ("GET", "/status/304", 304),
    ] {
        let mut connection = Connection::open(edge.address()).await;
        connection
            .send(format!(
                "{method} {path} HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
            ))
            .await;
        let first = connection.receive_for(method).await;
        assert_eq!((first.status, first.body.len()), (status, 0), "{path}");
    }
    let hop = client.get(edge.url("/hop")).send().await.expect("an answer");
    assert!(
        !hop.headers()
            .keys()
            .any(|name| name == "keep-alive" || name == "upgrade"),
        "{:?}",
        hop.headers()
    );
    let mut connection = Connection::open(edge.address()).await;
    connection
        .send("GET /stream?chunks=2&size=16&delay_ms=30000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    // The second chunk is half a minute away.
    connection.receive_until("chunk 0").await;
}

#[tokio::test]
async fn what_a_guest_wrote_is_there_after_a_restart() {
    let setup = Edge::configure(&probe("", ""));
    let folder = setup.directory().to_owned();
    let mut edge = setup.start().await;
    assert!(
        text(edge.get("/sql-write?db=notes&note=kept").await)
            .await
            .contains('1')
    );
    edge.kill();
    let copy = tempfile::tempdir().expect("a folder");
    for file in ["notes.db", "notes.db-wal"] {
        let from = folder.join(file);
        if from.exists() {
            std::fs::copy(from, copy.path().join(file)).expect("copying");
        }
    }
    let yaml = probe("", "").replace("notes.db", &copy.path().join("notes.db").display().to_string());
    let again = Edge::start(&yaml).await;
    let rows = text(again.get("/sql?db=notes&q=SELECT+note+FROM+notes").await).await;
    assert!(rows.contains("kept"), "{rows}");
}

#[tokio::test]
async fn a_missing_component_is_served_by_the_fallback_or_not_at_all() {
    let legacy = Origin::start();
    legacy.reply("/", Reply::ok("legacy"));
    let upstream = format!(
        "upstreams: {{ legacy: {{ servers: [{{ address: \"{}\" }}] }} }}\n",
        legacy.address()
    );
    let missing = |more: &str| {
        let handlers = "handlers: { gone: { component: gone.wasm } }\n";
        format!("{handlers}routes:\n  - match: {{ path: /* }}\n    handler: gone\n{more}")
    };
    let edge = Edge::start(&(upstream + &missing("    fallback: legacy\n"))).await;
    let response = edge.get("/").await;
    assert!(header(&response, "proxy-status").contains("handler_unavailable"));
    assert_eq!(text(response).await, "legacy");
    assert_eq!(
        edge.metric("selvedge_handler_loaded{handler=\"gone\"}").await,
        Some(0.0)
    );
    let refused = Edge::configure(&missing(""))
        .try_start()
        .await
        .err()
        .expect("it does not start");
    assert!(refused.log.contains("gone.wasm"), "{}", refused.log);
}

#[tokio::test]
async fn a_guest_of_the_newest_interface_sees_scheme_authority_and_trailers_pass() {
    let component = repository().join("tests/guests/probe-p3.wasm");
    let edge = Edge::start(&format!(
        "listeners:\n  - {{ address: 127.0.0.1:0 }}\n  - {{ address: 127.0.0.1:0, tls: {{ self_signed: [localhost] }} }}\n\
         handlers: {{ probe: {{ component: {} }} }}\nroutes: [{{ match: {{}}, handler: probe }}]\n",
        component.display()
    ))
    .await;
    let plain = text(edge.get("/headers").await).await;
    let authority = edge.address().to_string();
    assert!(
        plain.contains(&format!("scheme http\nauthority {authority}\n")),
        "{plain}"
    );
    assert!(plain.contains(&format!("host: {authority}\n")), "{plain}");
    let encrypted = text(client::get(&edge.https_url("/headers")).await).await;
    let authority = format!("localhost:{}", edge.tls_address().port());
    assert!(
        encrypted.contains(&format!("scheme https\nauthority {authority}\n")),
        "{encrypted}"
    );
    let Some(curl) = client::curl(&["-sk", "--http2", "-D", "-", &edge.https_url("/trailers")]).await else {
        return;
    };
    assert!(
        curl.stdout.contains("hello\n") && curl.stdout.contains("x-checksum: abc"),
        "{}",
        curl.stdout
    );
}

#[tokio::test]
async fn requests_that_share_an_instance_share_its_trap_and_nothing_else() {
    let component = repository().join("tests/guests/probe-p3.wasm");
    let yaml = format!(
        "handlers: {{ probe: {{ component: {} }} }}\nroutes: [{{ match: {{}}, handler: probe }}]\n",
        component.display()
    );
    let edge = Edge::start(&yaml).await;
    let mut waiting = Connection::open(edge.address()).await;
    waiting.send("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wait_for("the guest to run", async || {
        edge.metric("selvedge_handler_invocations{handler=\"probe\"}")
            .await
            .filter(|count| *count == 1.0)
    })
    .await;
    let trapped = edge.get("/trap").await;
    // Whose call it was cannot be told once they share an instance, so both are told the same.
    assert!(
        header(&trapped, "proxy-status").contains("handler_neighbour"),
        "{trapped:?}"
    );
    let neighbour = waiting.receive().await;
    assert_eq!(neighbour.status, 502);
    assert!(
        neighbour
            .header("proxy-status")
            .is_some_and(|says| says.contains("handler_neighbour")),
        "{neighbour:?}"
    );
    assert_eq!(text(edge.get("/").await).await, "hello\n");
}
