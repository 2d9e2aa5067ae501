//! Upstreams: who gets a request, who gets it next, and what passes through.

use selvedge_tests::client::{self, header};
use selvedge_tests::executable::repository;
use selvedge_tests::process::Process;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge, Gate, Nginx, Origin, Reply, peer};

/// An edge whose one route leads to the upstream with this text.
async fn edge(upstream: &str) -> Edge {
    Edge::start(&format!(
        "upstreams:\n  site: {upstream}\nroutes: [{{ name: site, match: {{ path: /* }}, upstream: site }}]\n"
    ))
    .await
}

fn named(name: &'static str) -> Origin {
    let origin = Origin::start();
    origin.reply("/", Reply::ok(name));
    origin.reply("/healthz", Reply::ok("ok"));
    origin
}

async fn body(edge: &Edge, path: &str) -> String {
    edge.get(path).await.text().await.expect("a body")
}

#[tokio::test]
async fn requests_follow_the_weights() {
    let (a, b) = (named("a"), named("b"));
    let edge = edge(&format!(
        "{{ servers: [{{ address: \"{}\", weight: 3 }}, {{ address: \"{}\" }}] }}",
        a.address(),
        b.address()
    ))
    .await;
    for _ in 0..8 {
        body(&edge, "/").await;
    }
    assert_eq!((a.count("/"), b.count("/")), (6, 2));
    assert!(a.connections() < 6, "connections are used again: {}", a.connections());
}

#[tokio::test]
async fn a_server_that_fails_its_checks_gets_nothing_until_it_passes_them() {
    let (a, b) = (named("a"), named("b"));
    let edge = edge(&format!(
        "{{ servers: [{{ address: \"{}\" }}, {{ address: \"{}\", backup: true }}], \
         health_check: {{ path: /healthz, interval: 100ms, timeout: 1s, healthy: 1, unhealthy: 2 }} }}",
        a.address(),
        b.address()
    ))
    .await;
    assert_eq!(body(&edge, "/").await, "a");
    a.reply("/healthz", Reply::status(503));
    wait_for("the backup", async || (body(&edge, "/").await == "b").then_some(())).await;
    let healthy = format!(
        "selvedge_upstream_healthy{{server=\"{}\",upstream=\"site\"}}",
        a.address()
    );
    assert_eq!(edge.metric(&healthy).await, Some(0.0));
    a.reply("/healthz", Reply::ok("ok"));
    wait_for("the first again", async || {
        (body(&edge, "/").await == "a").then_some(())
    })
    .await;
    edge.logs("server is unhealthy").await;
    edge.logs("server is healthy again").await;
}

#[tokio::test]
async fn another_server_answers_when_that_is_safe() {
    let (good, closing) = (named("good"), Origin::start());
    closing.reply("/", Reply::reset());
    let nobody = selvedge_tests::nginx::free_address();
    for (bad, method, expected) in [
        (nobody, "GET", 200),
        (nobody, "POST", 200),
        (closing.address(), "GET", 200),
        (closing.address(), "POST", 502),
    ] {
        // The bad one has all the weight, so it is asked first.
        let edge = edge(&format!(
            "{{ servers: [{{ address: \"{bad}\", weight: 100 }}, {{ address: \"{}\" }}], retries: 1 }}",
            good.address()
        ))
        .await;
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let response = client::client()
            .request(method.clone(), edge.url("/"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status().as_u16(), expected, "{method} {bad}");
    }
}

#[tokio::test]
async fn failures_have_names() {
    let origin = Origin::start();
    origin.reply("/slow", Reply::ok("late").after(&Gate::new()));
    origin.reply("/garbage", Reply::raw("this is not HTTP\r\n\r\n"));
    let slow = edge(&format!(
        "{{ servers: [{{ address: \"{}\" }}], timeouts: {{ read: 300ms }}, retries: 0 }}",
        origin.address()
    ))
    .await;
    let nobody = edge(&format!(
        "{{ servers: [{{ address: \"{}\" }}] }}",
        selvedge_tests::nginx::free_address()
    ))
    .await;
    for (edge, path, status, error) in [
        (&slow, "/slow", 504, "connection_read_timeout"),
        (&slow, "/garbage", 502, "http_protocol_error"),
        (&nobody, "/", 502, "connection_refused"),
    ] {
        let response = edge.get(path).await;
        let says = header(&response, "proxy-status").to_owned();
        assert_eq!(response.status().as_u16(), status, "{path}: {says}");
        assert!(says.contains(&format!("error={error}")), "{path}: {says}");
    }
}

#[tokio::test]
async fn bodies_stream_and_cuts_are_seen() {
    let origin = Origin::start();
    let (reply, stream) = Reply::stream();
    origin.reply("/stream", reply);
    origin.reply("/cut", Reply::ok("").cut_off(1000, "only this"));
    let edge = edge(&format!(
        "{{ servers: [{{ address: \"{}\" }}], retries: 0 }}",
        origin.address()
    ))
    .await;
    let mut connection = Connection::open(edge.address()).await;
    connection.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.asked("/stream", 1).await;
    assert!(stream.send("first").await);
    connection.receive_until("first").await;
    connection.reset();
    stream.abandoned().await;
    let mut connection = Connection::open(edge.address()).await;
    let response = connection.get("/cut").await;
    assert!(!response.complete || response.status == 502, "{response:?}");
}

#[tokio::test]
async fn websockets_pass_through() {
    let origin = Origin::start();
    origin.reply("/socket", Reply::echo("websocket"));
    let edge = edge(&format!("{{ servers: [{{ address: \"{}\" }}] }}", origin.address())).await;
    let mut connection = Connection::open(edge.address()).await;
    connection
        .send("GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        .await;
    let (status, head) = connection.receive_head().await;
    assert_eq!((status, head.header("upgrade")), (101, Some("websocket")));
    connection.send("any bytes, both ways").await;
    connection.receive_until("any bytes, both ways").await;
}

#[tokio::test]
async fn http2_clients_reach_http1_servers() {
    let origin = Origin::start();
    origin.answer("/", |request| {
        Reply::ok(format!("{} {}", request.header("host").unwrap_or("-"), request.text()))
    });
    let edge = Edge::start(&format!(
        "listeners: [{{ address: 127.0.0.1:0, tls: {{ self_signed: [localhost] }} }}]\n\
         upstreams: {{ site: {{ servers: [{{ address: \"{}\" }}] }} }}\nroutes: [{{ match: {{}}, upstream: site }}]\n",
        origin.address()
    ))
    .await;
    let response = client::client()
        .post(edge.https_url("/"))
        .body("sent")
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(
        response.text().await.expect("a body"),
        format!("localhost:{} sent", edge.tls_address().port())
    );
}

#[tokio::test]
async fn a_real_nginx_is_a_legacy_site() {
    let files = [("index.html", "<p>legacy"), ("deep/page.html", "deep")];
    let Some(nginx) = Nginx::start_with("location = /healthz { return 200 ok; }", &files).await else {
        return;
    };
    let edge = Edge::start(&format!(
        "upstreams: {{ legacy: {{ servers: [{{ address: \"{}\" }}] }} }}\n\
         routes:\n  - match: {{ path: /legacy/* }}\n    filters: [{{ rewrite: {{ strip_prefix: /legacy }} }}]\n    upstream: legacy\n",
        nginx.address()
    ))
    .await;
    assert_eq!(body(&edge, "/legacy/deep/page.html").await, "deep");
    assert_eq!(body(&edge, "/legacy/").await, "<p>legacy");
    let tag = header(&edge.get("/legacy/").await, "etag").to_owned();
    let unchanged = client::client()
        .get(edge.url("/legacy/"))
        .header("if-none-match", tag)
        .send()
        .await
        .expect("an answer");
    assert_eq!(unchanged.status(), 304);
    assert_eq!(edge.get("/elsewhere").await.status(), 404);
}

/// gRPC is HTTP/2 on both sides, and its status is in the trailers: Google's own client and server, the edge between.
#[tokio::test]
async fn grpc_passes_through_with_its_trailers() {
    let Some(python) = std::env::var_os("SELVEDGE_PYTHON") else {
        return peer::skip("SELVEDGE_PYTHON names no Python with grpcio; `cargo xtask test` sets it");
    };
    let script = repository().join("tests/peers/grpc_echo.py");
    let directory = tempfile::tempdir().expect("a folder");
    let mut serve = std::process::Command::new(&python);
    serve.arg(&script).arg("serve");
    let server = Process::start(serve, directory.path());
    let port = wait_for("the server's port", async || server.stdout().trim().parse::<u16>().ok()).await;
    let edge = Edge::start(&format!(
        "listeners: [{{ address: 127.0.0.1:0, tls: {{ self_signed: [localhost] }} }}]\n\
         upstreams: {{ grpc: {{ servers: [{{ address: \"127.0.0.1:{port}\" }}], http2: true }} }}\n\
         routes: [{{ match: {{ path: /shop.Catalog/* }}, upstream: grpc }}]\n"
    ))
    .await;
    let certificates = edge
        .directory()
        .join("data/self-signed")
        .read_dir()
        .expect("a self-made certificate");
    let mut files = certificates.filter_map(|entry| Some(entry.ok()?.path()));
    let certificate = files
        .find(|path| path.extension().is_some_and(|kind| kind == "pem"))
        .expect("a certificate");
    let target = format!("localhost:{}", edge.tls_address().port());
    let arguments = [
        &script.display().to_string(),
        "call",
        &target,
        &certificate.display().to_string(),
    ];
    let called = client::run(std::path::Path::new(&python), &arguments).await;
    let said = String::from_utf8_lossy(&called.stdout).into_owned() + &String::from_utf8_lossy(&called.stderr);
    assert!(
        said.contains("['RED', 'GREEN', 'BLUE'] 14 OK\nNOT_FOUND no such product"),
        "{said} {}",
        edge.log()
    );
}
