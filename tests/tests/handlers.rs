//! Handlers behind the proxy, over both protocols: what a guest sees, what becomes of a request when it fails, the bounds.

use std::path::Path;

use selvedge_tests::client::{self, header};
use selvedge_tests::executable::repository;
use selvedge_tests::wait::{wait_for, within};
use selvedge_tests::{Connection, Edge, Origin, Reply};

const INSTANCES: &str = "selvedge_handler_instances{handler=\"probe\"}";

const LISTENERS: &str = "listeners:\n  - { address: 127.0.0.1:0 }\n  \
    - { address: 127.0.0.1:0, tls: { self_signed: [localhost] } }\n";

/// Small enough that each limit is met within a test, large enough for a guest that behaves.
/// Far more time by the clock than on a processor: a busy machine must not turn the one failure into the other.
const SMALL: &str = "cpu: 50ms, wall: 3s, memory: 16MiB, response_header: 8KiB";

/// The handlers of both interfaces: `wasi:http` 0.2 and 0.3.
const PROBES: [&str; 2] = ["probe-p2", "probe-p3"];

/// What fails before the head: path, status, reason, RFC 9209 error.
const BEFORE_THE_HEAD: [(&str, u16, &str, &str); 8] = [
    ("/trap-before", 502, "handler_trap", "http_response_incomplete"),
    ("/panic", 502, "handler_trap", "http_response_incomplete"),
    ("/loop", 502, "handler_cpu_limit", "http_response_incomplete"),
    ("/sleep?ms=60000", 504, "handler_wall_deadline", "http_response_timeout"),
    ("/exhaust", 502, "handler_memory_limit", "http_response_incomplete"),
    (NO_RESPONSE, 502, "handler_no_response", "http_response_incomplete"),
    ("/error", 502, "handler_bad_response", "http_protocol_error"),
    (
        "/big-header?bytes=9000",
        502,
        "handler_bad_response",
        "http_protocol_error",
    ),
];

/// What a 0.3 guest cannot do: its call returns a response or an error.
const NO_RESPONSE: &str = "/no-response";

/// The failures before the head that a guest can show.
fn failures_of(guest: &str) -> impl Iterator<Item = (usize, (&'static str, u16, &'static str, &'static str))> {
    let possible = move |(path, ..): &(&str, u16, &str, &str)| guest == "probe-p2" || *path != NO_RESPONSE;
    BEFORE_THE_HEAD.into_iter().filter(possible).enumerate()
}

/// The handler `name` on every path, with these limits; `more` are further lines of the route.
fn serving(name: &str, component: &Path, limits: &str, more: &str) -> String {
    format!(
        "handlers:\n  {name}:\n    component: {}\n    limits: {{ {limits} }}\n\
         routes:\n  - name: site\n    match: {{ path: /* }}\n    handler: {name}\n{more}",
        component.display()
    )
}

/// The probe behind a listener for HTTP/1.1 and one for HTTP/2, which takes TLS.
fn probe(limits: &str, more: &str) -> String {
    LISTENERS.to_owned() + &serving("probe", &repository().join("tests/guests/probe-p2.wasm"), limits, more)
}

/// The same with the guest of either interface; an instance of the newer one is kept for a moment only, so that "in use"
/// soon means the same for both.
fn probe_of(guest: &str, limits: &str, more: &str) -> String {
    let component = repository().join("tests/guests").join(guest).with_extension("wasm");
    let separator = if limits.is_empty() { "" } else { ", " };
    let limits = format!("{limits}{separator}idle: 10ms");
    LISTENERS.to_owned() + &serving("probe", &component, &limits, more)
}

fn legacy(origin: &Origin) -> String {
    format!(
        "upstreams: {{ legacy: {{ servers: [{{ address: \"{}\" }}] }} }}\n",
        origin.address()
    )
}

/// An origin that says how many bytes it was sent, on every path.
fn counting() -> Origin {
    let origin = Origin::start();
    origin.answer("/*", |request| {
        Reply::ok(format!("legacy got {} bytes", request.body.len()))
    });
    origin
}

/// A client of each protocol, where it finds the edge, and what to call it in a failure.
fn protocols(edge: &Edge) -> [(reqwest::Client, String, &'static str); 2] {
    [
        (client::http1(), edge.url(""), "HTTP/1.1"),
        (client::http2(), edge.https_url(""), "HTTP/2"),
    ]
}

async fn text(response: reqwest::Response) -> String {
    response.text().await.expect("a whole body")
}

async fn instances_become(edge: &Edge, count: f64) {
    wait_for(&format!("{count} instances in use"), async || {
        (edge.metric(INSTANCES).await == Some(count)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_failure_before_the_head_is_in_the_answer_the_log_and_the_metrics() {
    for guest in PROBES {
        failures_before_the_head_are_told(guest).await;
    }
}

async fn failures_before_the_head_are_told(guest: &str) {
    let edge = Edge::start(&probe_of(guest, SMALL, "")).await;
    for (number, (path, status, reason, error)) in failures_of(guest) {
        let response = edge.get(path).await;
        let expected = format!("selvedge; error={error}; details=\"probe: {reason}\"");
        assert_eq!(
            (response.status().as_u16(), header(&response, "proxy-status")),
            (status, expected.as_str()),
            "{path} of {guest}"
        );
        assert_eq!(header(&response, "cache-control"), "no-store", "{path} of {guest}");
        let entry = edge.access_log_of(number + 1).await[number].clone();
        assert_eq!(
            (
                entry["status"].as_u64(),
                entry["reason"].as_str(),
                entry["target"].as_str()
            ),
            (Some(u64::from(status)), Some(reason), Some(path))
        );
    }
    for (reason, count) in [
        ("handler_trap", 2.0),
        ("handler_cpu_limit", 1.0),
        ("handler_wall_deadline", 1.0),
        ("handler_memory_limit", 1.0),
        ("handler_bad_response", 2.0),
    ] {
        let sample = format!("selvedge_attempts_failed_total{{kind=\"handler\",name=\"probe\",reason=\"{reason}\"}}");
        assert_eq!(edge.metric(&sample).await, Some(count), "{sample}");
    }
    instances_become(&edge, 0.0).await;
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
async fn every_failure_before_the_head_is_answered_by_the_fallback() {
    for guest in PROBES {
        failures_before_the_head_fall_back(guest).await;
    }
}

async fn failures_before_the_head_fall_back(guest: &str) {
    let origin = counting();
    let edge = Edge::start(&(legacy(&origin) + &probe_of(guest, SMALL, "    fallback: legacy\n"))).await;
    for (number, (path, _, reason, error)) in failures_of(guest) {
        let request = client::client().post(edge.url(path)).body("four");
        let response = request.send().await.expect("an answer");
        let expected = format!("selvedge; error={error}; details=\"probe: {reason}; answered by legacy\"");
        assert_eq!(
            (response.status().as_u16(), header(&response, "proxy-status")),
            (200, expected.as_str()),
            "{path} of {guest}"
        );
        assert_eq!(text(response).await, "legacy got 4 bytes", "{path} of {guest}");
        let entry = edge.access_log_of(number + 1).await[number].clone();
        assert_eq!(
            (entry["failed"]["reason"].as_str(), entry["answered_by_name"].as_str()),
            (Some(reason), Some("legacy")),
            "{path} of {guest}"
        );
    }
}

#[tokio::test]
async fn a_fallback_gets_a_body_of_up_to_64_kib_and_nothing_of_a_larger_one() {
    const BOUND: usize = 64 * 1024;
    let origin = counting();
    let edge = Edge::start(&(legacy(&origin) + &probe("wall: 3s", "    fallback: legacy\n"))).await;
    for (client, base, protocol) in protocols(&edge) {
        // The guest waits without reading until its deadline, by when the proxy has taken all of the body.
        for (bytes, status) in [(0, 200), (BOUND, 200), (BOUND + 1, 504), (3 * BOUND, 504)] {
            let asked = origin.count("/sleep");
            let request = client.post(format!("{base}/sleep?ms=60000")).body(vec![b'x'; bytes]);
            let response = request.send().await.expect("an answer");
            assert_eq!(response.status().as_u16(), status, "{bytes} bytes over {protocol}");
            if status == 200 {
                assert_eq!(text(response).await, format!("legacy got {bytes} bytes"), "{protocol}");
            } else {
                assert_eq!(origin.count("/sleep"), asked, "{bytes} bytes over {protocol}");
            }
        }
        // A guest that fails at once may leave a large body mostly unread: then it is whole at the fallback, or not there.
        for bytes in [BOUND, BOUND + 1, 20 * BOUND] {
            let request = client.post(format!("{base}/trap-before")).body(vec![b'x'; bytes]);
            let response = request.send().await.expect("an answer");
            match response.status().as_u16() {
                502 if bytes > BOUND => {}
                200 => assert_eq!(text(response).await, format!("legacy got {bytes} bytes"), "{protocol}"),
                status => panic!("{status} to {bytes} bytes over {protocol}"),
            }
        }
    }
    let partial = origin.requests().into_iter().find(|request| !request.complete);
    assert!(partial.is_none(), "{partial:?}");
}

#[tokio::test]
async fn the_dictionary_fails_on_purpose_as_its_paths_say() {
    let component = repository().join("examples/dictionary/dictionary.wasm");
    let bound = "    bindings: { DB: { database: dictionary } }\n    limits";
    let databases = format!(
        "databases: {{ dictionary: {{ path: dictionary.db, migrations: {} }} }}\n",
        repository().join("examples/dictionary/migrations").display()
    );
    let yaml = databases + &serving("app", &component, "cpu: 200ms", "").replace("    limits", bound);
    let edge = Edge::start(&yaml).await;
    for (path, reason) in [("/fail/trap", "handler_trap"), ("/fail/loop", "handler_cpu_limit")] {
        let response = edge.get(path).await;
        let says = header(&response, "proxy-status").to_owned();
        assert_eq!(
            (response.status().as_u16(), says),
            (
                502,
                format!("selvedge; error=http_response_incomplete; details=\"app: {reason}\"")
            ),
            "{path}"
        );
    }
    let mut connection = Connection::open(edge.address()).await;
    let late = connection.get("/fail/late").await;
    assert_eq!((late.status, late.complete), (200, false), "{late:?}");
    let mut connection = Connection::open(edge.address()).await;
    let stream = connection.get("/stream").await;
    assert_eq!((stream.status, stream.complete), (200, true));
}

#[tokio::test]
async fn a_broken_body_is_cut_for_clients_of_both_protocols_and_never_stored() {
    for guest in PROBES {
        broken_bodies_are_cut(guest).await;
    }
}

async fn broken_bodies_are_cut(guest: &str) {
    let cache = "    cache: { isr: { revalidate: 1h, allow_query: [after, length, cc, ms, delay_ms] } }\n";
    let edge = Edge::start(&probe_of(guest, "cpu: 200ms, wall: 1s", cache)).await;
    for path in [
        "/trap-after-head",
        "/trap-mid?cc=max-age%3D3600",
        "/trap-mid?length=4096&cc=max-age%3D3600",
        "/loop-mid",
        "/sleep-mid?ms=60000",
        "/short",
        "/long",
    ] {
        for (client, base, protocol) in protocols(&edge) {
            let before = invocations(&edge).await;
            // Either the head never came or the body breaks; a whole body with a good status is the lie looked for.
            match client.get(base.clone() + path).send().await {
                Err(_) => {}
                Ok(response) if response.status().is_server_error() => {}
                Ok(response) => {
                    let status = response.status();
                    let body = response.bytes().await;
                    assert!(body.is_err(), "{path} of {guest} over {protocol}: {status} {body:?}");
                }
            }
            assert!(
                invocations(&edge).await > before,
                "{path} of {guest} over {protocol} was answered from the cache"
            );
        }
    }
    assert_eq!(text(edge.get("/hello").await).await, "hello\n");
}

async fn invocations(edge: &Edge) -> f64 {
    let sample = "selvedge_handler_invocations_total{handler=\"probe\"}";
    edge.metric(sample).await.expect("a handler counts its invocations")
}

#[tokio::test]
async fn curl_calls_a_cut_a_cut() {
    for guest in PROBES {
        curl_sees_the_cut(guest).await;
    }
}

async fn curl_sees_the_cut(guest: &str) {
    let edge = Edge::start(&probe_of(guest, "cpu: 200ms, wall: 1s", "")).await;
    // What the guest wrote first has left before it fails, so that the failure cannot become a status any more.
    for path in ["/sleep-mid?ms=60000", "/loop-mid"] {
        for (url, protocol, exit) in [(edge.url(path), "--http1.1", 18), (edge.https_url(path), "--http2", 92)] {
            let Some(curl) = client::curl(&[&url, protocol, "--write-out", "%{http_code}"]).await else {
                return;
            };
            assert_eq!(curl.exit, exit, "{path} of {guest} {protocol}: {curl:?}");
            assert!(
                curl.stdout.starts_with("before the ") && curl.stdout.ends_with("200"),
                "{path} of {guest} {protocol}: {curl:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_hundred_megabytes_are_echoed_over_both_protocols() {
    for guest in PROBES {
        a_hundred_megabytes_come_back(guest).await;
    }
}

async fn a_hundred_megabytes_come_back(guest: &str) {
    let edge = Edge::start(&probe_of(guest, "request_body: 120MiB, cpu: 20s", "")).await;
    let body: Vec<u8> = (0..100 * 1024 * 1024_u32)
        .map(|position| (position % 251) as u8)
        .collect();
    for (client, base, protocol) in protocols(&edge) {
        let echoed = client.post(base.clone() + "/echo").body(body.clone()).send().await;
        let echoed = echoed.expect("an answer").bytes().await;
        let echoed = echoed.unwrap_or_else(|error| panic!("{guest}, {protocol}: {error:?}"));
        assert!(echoed == body, "{guest}, {protocol}: {} bytes came back", echoed.len());
    }
}

#[tokio::test]
async fn a_request_body_over_its_limit_is_413_however_it_is_framed() {
    for guest in PROBES {
        bodies_over_the_limit_are_413(guest).await;
    }
}

async fn bodies_over_the_limit_are_413(guest: &str) {
    const LIMIT: usize = 1024;
    let edge = Edge::start(&probe_of(guest, "request_body: 1KiB", "")).await;
    for (client, base, protocol) in protocols(&edge) {
        for (bytes, status) in [(LIMIT, 200), (LIMIT + 1, 413), (50 * LIMIT, 413)] {
            let response = client
                .post(base.clone() + "/drain")
                .body(vec![b'x'; bytes])
                .send()
                .await;
            let response = response.unwrap_or_else(|error| panic!("{bytes} bytes over {protocol}: {error:?}"));
            assert_eq!(
                response.status().as_u16(),
                status,
                "{bytes} bytes to {guest} over {protocol}"
            );
        }
    }
    for (bytes, status) in [(LIMIT, 200), (LIMIT + 1, 413)] {
        let mut connection = Connection::open(edge.address()).await;
        let head = "POST /drain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection
            .send(format!("{head}{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes)))
            .await;
        assert_eq!(
            connection.receive().await.status,
            status,
            "{bytes} bytes in a chunk to {guest}"
        );
    }
    instances_become(&edge, 0.0).await;
}

#[tokio::test]
async fn an_empty_body_ends_for_the_guest_however_it_is_framed() {
    for guest in PROBES {
        let edge = Edge::start(&probe_of(guest, "", "")).await;
        for (client, base, protocol) in protocols(&edge) {
            let response = client.post(base + "/drain").body("").send().await;
            let drained = text(response.expect("an answer")).await;
            assert!(drained.starts_with("bytes 0\n"), "{guest} over {protocol}: {drained}");
        }
        for framing in [
            "",
            "Content-Length: 0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            let mut connection = Connection::open(edge.address()).await;
            let end = if framing.is_empty() { "\r\n" } else { "" };
            let request = format!("POST /drain HTTP/1.1\r\nHost: a\r\n{framing}{end}");
            connection.send(request).await;
            let drained = connection.receive().await.text();
            assert!(drained.starts_with("bytes 0\n"), "{guest} {framing:?}: {drained}");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_any_phase_ends_its_guest() {
    for guest in PROBES {
        leaving_ends_the_guest(guest).await;
    }
}

async fn leaving_ends_the_guest(guest: &str) {
    let edge = Edge::start(&probe_of(guest, "wall: 5m", "")).await;
    for request in [
        "GET /sleep?ms=200000 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /sleep-mid?ms=200000 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome",
    ] {
        let mut leaving = Connection::open(edge.address()).await;
        leaving.send(request).await;
        instances_become(&edge, 1.0).await;
        leaving.reset();
        instances_become(&edge, 0.0).await;
    }
    let client = client::http2();
    let leaving = tokio::spawn(client.get(edge.https_url("/sleep?ms=200000")).send());
    instances_become(&edge, 1.0).await;
    leaving.abort();
    instances_become(&edge, 0.0).await;
    let leaving = client.get(edge.https_url("/sleep-mid?ms=200000")).send().await;
    let leaving = leaving.expect("a head");
    instances_become(&edge, 1.0).await;
    drop(leaving);
    instances_become(&edge, 0.0).await;
    for path in ["/drain", "/echo", "/sleep?ms=200000"] {
        let (pieces, body) = client::streamed();
        let leaving = tokio::spawn(client.post(edge.https_url(path)).body(body).send());
        let sent = pieces.send(Ok("some".into())).await;
        sent.expect("the request is being sent");
        instances_become(&edge, 1.0).await;
        let left = pieces.send(Err(std::io::ErrorKind::BrokenPipe.into())).await;
        left.expect("the request is still being sent");
        leaving.abort();
        instances_become(&edge, 0.0).await;
    }
}

/// More than is held for a guest that takes none of it, and little enough for the rest to arrive: where buffers are full,
/// TCP does not say that the client has ended its connection.
const UNREAD_BYTES: usize = 352 * 1024;

#[tokio::test]
async fn a_client_that_leaves_while_its_guest_reads_nothing_ends_it() {
    for guest in PROBES {
        let edge = Edge::start(&probe_of(guest, "wall: 5m", "")).await;
        let head = "POST /sleep?ms=200000 HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n";
        for leave in [Connection::reset, drop] {
            let mut leaving = Connection::open(edge.address()).await;
            leaving.send(head).await;
            instances_become(&edge, 1.0).await;
            leaving.send(vec![b'x'; UNREAD_BYTES]).await;
            leave(leaving);
            instances_become(&edge, 0.0).await;
        }
        let (pieces, body) = client::streamed();
        let upload = client::http2().post(edge.https_url("/sleep?ms=200000")).body(body);
        let leaving = tokio::spawn(upload.send());
        // HTTP/2 lets a client send only what there is room for: the edge has taken what it can.
        for _ in 0..8 {
            let piece = pieces.send(Ok(vec![b'x'; 64 * 1024].into()));
            within("a piece to be taken", piece)
                .await
                .expect("the request is being sent");
        }
        leaving.abort();
        instances_become(&edge, 0.0).await;
    }
}

#[tokio::test]
async fn a_full_handler_is_503_with_its_reason_and_is_free_again() {
    let edge = Edge::start(&probe("concurrency: 2, queue: 50ms, wall: 5m", "")).await;
    let mut busy = Vec::new();
    for count in [1.0, 2.0] {
        let mut connection = Connection::open(edge.address()).await;
        connection
            .send("GET /sleep?ms=200000 HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        instances_become(&edge, count).await;
        busy.push(connection);
    }
    for (client, base, _) in protocols(&edge) {
        let refused = client.get(base + "/hello").send().await.expect("an answer");
        assert_eq!(
            (
                refused.status().as_u16(),
                header(&refused, "retry-after"),
                header(&refused, "proxy-status")
            ),
            (
                503,
                "1",
                "selvedge; error=connection_limit_reached; details=\"probe: handler_overloaded\""
            )
        );
    }
    busy.pop().expect("a busy connection").reset();
    instances_become(&edge, 1.0).await;
    assert_eq!(text(edge.get("/hello").await).await, "hello\n");
}

#[tokio::test]
async fn what_may_have_no_body_has_none_over_both_protocols() {
    for guest in PROBES {
        bodiless_answers_have_no_body(guest).await;
    }
}

async fn bodiless_answers_have_no_body(guest: &str) {
    let edge = Edge::start(&probe_of(guest, "", "")).await;
    for (client, base, protocol) in protocols(&edge) {
        for (method, path, status) in [
            (reqwest::Method::HEAD, "/hello", 200),
            (reqwest::Method::HEAD, "/big?bytes=1000", 200),
            (reqwest::Method::GET, "/204-with-body", 204),
            (reqwest::Method::GET, "/status/304", 304),
        ] {
            let response = client
                .request(method, base.clone() + path)
                .send()
                .await
                .expect("an answer");
            assert_eq!(response.status().as_u16(), status, "{path} of {guest} over {protocol}");
            let body = response.bytes().await.expect("an ended body");
            assert!(body.is_empty(), "{path} of {guest} over {protocol}: {body:?}");
        }
    }
}

#[tokio::test]
async fn a_guest_sees_the_canonical_request_and_nothing_hop_by_hop() {
    let edge = Edge::start(&probe("", "")).await;
    let mut connection = Connection::open(edge.address()).await;
    connection
        .send(
            "GET /headers?a=b HTTP/1.1\r\nHost: Shop.Test:8080\r\nConnection: keep-alive, X-Gone\r\nX-Gone: 1\r\n\
             Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\n\
             Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: evil.test\r\nX-Kept: yes\r\n\r\n",
        )
        .await;
    let plain = connection.receive().await.text();
    let encrypted = text(client::get(&edge.https_url("/headers?a=b")).await).await;
    let authority = format!("localhost:{}", edge.tls_address().port());
    for (seen, line) in [
        (&plain, "method GET".to_owned()),
        (&plain, "scheme http".to_owned()),
        (&plain, "authority shop.test:8080".to_owned()),
        (&plain, "target /headers?a=b".to_owned()),
        (&plain, "header x-kept: yes".to_owned()),
        (&plain, "header x-forwarded-for: 127.0.0.1".to_owned()),
        (&plain, "header x-forwarded-proto: http".to_owned()),
        (&encrypted, format!("authority {authority}")),
        (&encrypted, format!("header host: {authority}")),
        (&encrypted, "header x-forwarded-proto: https".to_owned()),
    ] {
        assert!(
            seen.lines().any(|told| told.eq_ignore_ascii_case(&line)),
            "{line:?} in\n{seen}"
        );
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "x-gone",
    ] {
        let field = format!("header {name}:");
        assert!(!plain.to_lowercase().contains(&field), "{field} in\n{plain}");
    }
    for lie in ["6.6.6.6", "evil.test"] {
        assert!(!plain.contains(lie), "{lie} in\n{plain}");
    }
    let hop = edge.get("/hop").await;
    for name in ["keep-alive", "upgrade"] {
        assert!(!hop.headers().contains_key(name), "{:?}", hop.headers());
    }
}

// wasmtime-wasi-http 48 tells every 0.2 guest `http`, whatever the request says; what such a guest can rely on is
// `x-forwarded-proto` (docs/decisions/0005).
#[tokio::test]
async fn a_guest_of_either_interface_can_tell_the_scheme_the_client_used() {
    for (component, told) in [("probe-p2.wasm", "x-forwarded-proto"), ("probe-p3.wasm", "scheme")] {
        let component = repository().join("tests/guests").join(component);
        let edge = Edge::start(&(LISTENERS.to_owned() + &serving("probe", &component, "", ""))).await;
        for (url, scheme) in [(edge.url("/headers"), "http"), (edge.https_url("/headers"), "https")] {
            let seen = text(client::get(&url).await).await.to_lowercase();
            let line = seen.lines().find(|line| line.contains(told)).unwrap_or_default();
            assert!(
                line.trim_end().ends_with(&format!(" {scheme}")),
                "{told} {scheme} in\n{seen}"
            );
        }
    }
}

#[tokio::test]
async fn a_guest_may_answer_before_it_reads_and_write_long_before_it_ends() {
    for guest in PROBES {
        early_answers_arrive_early(guest).await;
    }
}

async fn early_answers_arrive_early(guest: &str) {
    let edge = Edge::start(&probe_of(guest, "", "")).await;
    let early = client::client()
        .post(edge.url("/never-read"))
        .body("a short body")
        .send()
        .await;
    assert_eq!(text(early.expect("an answer")).await, "never read\n");
    let mut connection = Connection::open(edge.address()).await;
    connection
        .send("GET /stream?chunks=2&size=16&delay_ms=30000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    // The second chunk is half a minute away.
    connection.receive_until("chunk 0").await;
}

#[tokio::test]
async fn an_echo_answers_each_piece_before_the_next_is_sent() {
    for guest in PROBES {
        an_echo_answers_piece_by_piece(guest).await;
    }
}

async fn an_echo_answers_piece_by_piece(guest: &str) {
    let edge = Edge::start(&probe_of(guest, "", "")).await;
    let mut connection = Connection::open(edge.address()).await;
    connection
        .send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    // Nothing more is sent until the piece before has come back, so a body held together would never arrive.
    for piece in ["first piece", "second piece", "third piece"] {
        connection.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        connection.receive_until(piece).await;
    }
    connection.send("0\r\n\r\n").await;
    connection.receive_until("\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn what_a_guest_prints_is_in_the_process_log_under_its_handlers_name() {
    for guest in PROBES {
        prints_reach_the_log(guest).await;
    }
}

async fn prints_reach_the_log(guest: &str) {
    let component = repository().join("tests/guests").join(guest).with_extension("wasm");
    let yaml = serving("talkative", &component, "", "");
    let edge = Edge::configure(&yaml).env("SELVEDGE_LOG_FORMAT", "json").start().await;
    edge.get("/log?line=remember").await;
    for (said, stream) in [("out: remember", "stdout"), ("err: remember", "stderr")] {
        edge.logs(said).await;
        let log = edge.log();
        let line = log.lines().find(|line| line.contains(said)).expect("it was waited for");
        let entry: serde_json::Value = serde_json::from_str(line).expect("a JSON log");
        assert_eq!(
            (entry["handler"].as_str(), entry["stream"].as_str()),
            (Some("talkative"), Some(stream)),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_guest_has_exactly_its_environment_no_files_and_no_network() {
    for guest in PROBES {
        a_guest_has_only_its_environment(guest).await;
    }
}

async fn a_guest_has_only_its_environment(guest: &str) {
    let origin = counting();
    let yaml = probe_of(guest, "", "").replace("    limits", "    env: { STAGE: test, EMPTY: \"\" }\n    limits");
    let edge = Edge::configure(&yaml).env("SECRET_OF_THE_HOST", "x").start().await;
    let environment = text(edge.get("/env").await).await;
    let mut lines: Vec<&str> = environment.lines().filter(|line| line.starts_with("env ")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["env EMPTY=", "env STAGE=test"], "{environment}");
    assert_eq!(text(edge.get("/fs").await).await, "preopens 0\n");
    // A port at which somebody would answer.
    let network = text(edge.get(&format!("/net?port={}", origin.address().port())).await).await;
    let refused = network.lines().filter(|line| line.contains(" refused: ")).count();
    assert_eq!(refused, 2, "{network}");
    assert_eq!(origin.connections(), 0, "{network}");
}

#[tokio::test]
async fn what_a_guest_wrote_survives_an_orderly_end_and_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("notes.db");
    let yaml = format!("databases: {{ notes: {{ path: {} }} }}\n", database.display())
        + &probe("", "").replace("    limits", "    bindings: { notes: { database: notes } }\n    limits");
    let mut edge = Edge::start(&yaml).await;
    assert_eq!(edge.get("/sql-write?db=notes&note=orderly").await.status(), 200);
    assert!(edge.terminate().await.success());
    let mut edge = Edge::start(&yaml).await;
    assert_eq!(edge.get("/sql-write?db=notes&note=killed").await.status(), 200);
    edge.kill();
    let edge = Edge::start(&yaml).await;
    let notes = text(edge.get("/sql?db=notes&q=SELECT+note+FROM+notes+ORDER+BY+id").await).await;
    let (first, second) = (notes.find("orderly"), notes.find("killed"));
    assert!(first.is_some() && first < second, "{notes}");
    let unbound = text(edge.get("/sql?db=other&q=SELECT+1").await).await;
    assert!(!unbound.contains("rows"), "a database that is not bound: {unbound}");
}

#[tokio::test]
async fn a_missing_component_needs_a_fallback_on_every_route() {
    let origin = counting();
    let routes = |second: &str| {
        legacy(&origin)
            + "handlers: { gone: { component: gone.wasm } }\nroutes:\n  \
               - { name: one, match: { path: /one }, handler: gone, fallback: legacy }\n  "
            + &format!("- {{ name: two, match: {{ path: /two }}, handler: gone{second} }}\n")
    };
    let edge = Edge::start(&routes(", fallback: legacy")).await;
    for path in ["/one", "/two"] {
        let response = edge.get(path).await;
        assert_eq!(
            header(&response, "proxy-status"),
            "selvedge; error=destination_unavailable; details=\"gone: handler_unavailable; answered by legacy\""
        );
        assert_eq!(text(response).await, "legacy got 0 bytes");
    }
    assert_eq!(
        edge.metric("selvedge_handler_loaded{handler=\"gone\"}").await,
        Some(0.0)
    );
    let refused = Edge::configure(&routes("")).try_start().await.err();
    let refused = refused.expect("one route has nobody to answer it");
    assert_eq!(refused.status.code(), Some(1), "{}", refused.log);
    assert!(
        refused.log.contains("cannot read the component") && refused.log.contains("gone.wasm"),
        "{}",
        refused.log
    );
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
    assert!(plain.contains(&format!("header host: {authority}\n")), "{plain}");
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
        curl.stdout.contains("a body with trailers\n") && curl.stdout.contains("x-checksum: abc123"),
        "{}",
        curl.stdout
    );
}

#[tokio::test]
async fn requests_that_share_an_instance_share_its_trap() {
    let component = repository().join("tests/guests/probe-p3.wasm");
    let yaml = format!(
        "handlers: {{ probe: {{ component: {} }} }}\nroutes: [{{ match: {{}}, handler: probe }}]\n",
        component.display()
    );
    let edge = Edge::start(&yaml).await;
    let mut waiting = Connection::open(edge.address()).await;
    waiting.send("GET /sleep?ms=20000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wait_for("the guest to run", async || {
        edge.metric("selvedge_handler_invocations_total{handler=\"probe\"}")
            .await
            .filter(|count| *count == 1.0)
    })
    .await;
    let trapped = edge.get("/trap-before").await;
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

#[tokio::test]
async fn a_large_upload_that_nobody_reads_is_answered_all_the_same() {
    const BYTES: usize = 20 * 1024 * 1024;
    let edge = Edge::start(&probe("request_body: 32MiB", "")).await;
    for (client, base, protocol) in protocols(&edge) {
        let sent = client.post(base + "/never-read").body(vec![b'x'; BYTES]).send().await;
        let response = sent.unwrap_or_else(|error| panic!("{protocol}: {error:?}"));
        assert_eq!(response.status(), 200, "{protocol}");
        assert_eq!(text(response).await, "never read\n", "{protocol}");
    }
    // A client that has its whole answer may leave the rest unsent.
    for entry in edge.access_log_of(2).await {
        assert_eq!(entry["status"], 200, "{entry}");
        assert!(
            entry["reason"].is_null() || entry["reason"] == "downstream_closed",
            "{entry}"
        );
    }
    nothing_is_in_flight(&edge).await;
}

async fn nothing_is_in_flight(edge: &Edge) {
    wait_for("nothing in flight", async || {
        (edge.metric("selvedge_requests_in_flight").await == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_goes_on_for_ever_is_cut_and_the_client_to_blame() {
    let edge = Edge::start(&probe("request_body: 1KiB", "")).await;
    let mut endless = Connection::open(edge.address()).await;
    endless
        .send("POST /never-read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")
        .await;
    endless.receive_until("never read\n").await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut taken = 0;
    while endless.send(&chunk).await {
        taken += 1;
        assert!(taken < 1000, "64 MB of a body that may have 1 KiB");
    }
    let entry = &edge.access_log_of(1).await[0];
    assert_eq!(
        (&entry["status"], &entry["reason"]),
        (&200.into(), &"downstream_closed".into()),
        "{entry}"
    );
    nothing_is_in_flight(&edge).await;
}

/// Of an answer that comes in pieces curl 7.88 may lose the end: refused, it ends its body short of its `Content-Length`,
/// for which HTTP/2 resets the stream. What a filter answers comes whole.
#[tokio::test]
async fn a_refused_http2_upload_ends_with_its_answer_for_curl_too() {
    let filter = "    filters: [{ jwt: { secret: 0123456789abcdef0123456789abcdef } }]\n";
    let edge = Edge::start(&probe("", filter)).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(8 << 20).expect("a length");
    let file = file.path().display().to_string();
    let url = edge.https_url("/");
    let arguments = ["--http2", "--upload-file", &file, "--write-out", "%{http_code}", &url];
    let Some(curl) = client::curl(&arguments).await else {
        return;
    };
    assert_eq!(curl.exit, 0, "{}", curl.stderr);
    assert!(curl.stdout.ends_with("401"), "{}", curl.stdout);
    nothing_is_in_flight(&edge).await;
}

#[tokio::test]
async fn an_http2_upload_that_rests_ends_with_its_answer() {
    for guest in PROBES {
        let edge = Edge::start(&probe_of(guest, "wall: 5m", "")).await;
        for (path, status) in [("/early", 200), ("/status/204", 204), ("/trailers", 200)] {
            resting_upload(&edge, path, status).await;
        }
        nothing_is_in_flight(&edge).await;
    }
}

#[tokio::test]
async fn an_http2_upload_that_rests_for_too_long_is_given_up() {
    for guest in PROBES {
        let yaml = probe_of(guest, "wall: 5m", "") + "limits: { body_timeout: 300ms }\n";
        let edge = Edge::start(&yaml).await;
        resting_upload(&edge, "/drain", 408).await;
        nothing_is_in_flight(&edge).await;
    }
}

/// Begins an upload and does not go on with it, until it is not wanted any more.
async fn resting_upload(edge: &Edge, path: &str, status: u16) {
    let (pieces, body) = client::streamed();
    let upload = client::http2().post(edge.https_url(path)).body(body);
    let answer = tokio::spawn(upload.send());
    let piece = pieces.send(Ok("some".into())).await;
    piece.expect("the request is being sent");
    let answer = within("the answer", answer).await.expect("no panic");
    let answer = answer.unwrap_or_else(|error| panic!("{path}: {error:?}"));
    assert_eq!(answer.status(), status, "{path}");
    answer.bytes().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
    within("the upload to be given up", pieces.closed()).await;
}

#[tokio::test]
async fn the_doors_limit_on_bodies_holds_for_handlers_too() {
    let edge = Edge::start(&(probe("", "") + "limits: { body_bytes: 1KiB }\n")).await;
    let mut connection = Connection::open(edge.address()).await;
    let head = "POST /drain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection
        .send(format!("{head}800\r\n{}\r\n0\r\n\r\n", "x".repeat(2048)))
        .await;
    assert_eq!(connection.receive().await.status, 413);
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let origin = counting();
    let yaml = legacy(&origin) + &probe("request_body: 1KiB", "");
    let edge = Edge::start(&(yaml + "  - { match: { path: /trap-before }, handler: probe, fallback: legacy }\n")).await;
    let asking = |path: &str, bytes: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\nExpect: 100-continue\r\n\r\n")
    };
    // Told so, it still gets the answer that comes of it: the guest's, the error page's, the fallback's.
    for (path, status, body) in [
        ("/drain", 200, "bytes 4\n"),
        ("/panic", 502, "502 "),
        ("/trap-before", 200, "legacy got 4 bytes"),
    ] {
        let mut connection = Connection::open(edge.address()).await;
        connection.send(asking(path, 4)).await;
        assert_eq!(connection.receive_head().await.0, 100, "{path}");
        connection.send("four").await;
        let response = connection.receive().await;
        assert_eq!(response.status, status, "{path}: {response:?}");
        assert!(response.text().starts_with(body), "{path}: {response:?}");
    }
    let statuses: Vec<_> = edge
        .access_log_of(3)
        .await
        .iter()
        .map(|entry| entry["status"].clone())
        .collect();
    assert_eq!(statuses, [200, 502, 200]);
    let mut large = Connection::open(edge.address()).await;
    large.send(asking("/drain", 2000)).await;
    assert_eq!(large.receive_head().await.0, 413, "refused before it is sent");
}
