//! What a client may do at the door: framing, paths, sizes, times, and who it can pretend to be.

use selvedge_tests::client;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge, Origin, Reply};

/// An edge before `origin`, with these top-level lines.
async fn edge(origin: &Origin, more: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ origin: {{ servers: [{{ address: \"{}\" }}] }} }}\n\
         routes: [{{ name: site, match: {{ path: /* }}, upstream: origin }}]\n{more}",
        origin.address()
    ))
    .await
}

/// An origin that answers every path of these tests with the target it saw.
fn telling(paths: &[&str]) -> Origin {
    let origin = Origin::start();
    for path in paths {
        origin.answer(path, |request| Reply::ok(request.target.clone()));
    }
    origin
}

#[tokio::test]
async fn what_two_servers_could_read_differently_is_refused() {
    let origin = telling(&["/"]);
    let edge = edge(&origin, "").await;
    for (request, status) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /../etc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
    ] {
        let mut connection = Connection::open(edge.address()).await;
        connection.send(request).await;
        connection.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let seen = String::from_utf8_lossy(&connection.receive_to_end().await).into_owned();
        assert!(seen.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {seen}");
        assert_eq!(
            seen.matches("HTTP/1.1 ").count(),
            1,
            "one answer, then the end: {request:?}: {seen}"
        );
    }
    assert_eq!(origin.requests().len(), 0, "the origin saw none of it");
    for reason in ["ambiguous_framing", "invalid_host", "invalid_path"] {
        let sample = format!("selvedge_refusals_total{{reason=\"{reason}\"}}");
        assert!(edge.metric(&sample).await.is_some(), "{sample}");
    }
    let reasons: Vec<_> = edge
        .access_log_of(8)
        .await
        .iter()
        .map(|entry| entry["reason"].to_string())
        .collect();
    assert!(reasons.iter().all(|reason| reason != "null"), "{reasons:?}");
}

#[tokio::test]
async fn the_path_that_is_matched_is_the_path_that_is_forwarded() {
    let origin = telling(&["/b", "/a/b", "/~user", "/caf%C3%A9"]);
    let edge = edge(&origin, "").await;
    for (sent, forwarded) in [
        ("/a/../b", "/b"),
        ("//a///b", "/a/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/%7Euser", "/~user"),
        ("/caf%c3%a9?q=%7e", "/caf%C3%A9?q=%7e"),
    ] {
        let mut connection = Connection::open(edge.address()).await;
        let response = connection.get(sent).await;
        assert_eq!((response.status, response.text().as_str()), (200, forwarded), "{sent}");
    }
}

#[tokio::test]
async fn nobody_holds_a_connection_by_being_slow() {
    let origin = telling(&["/"]);
    let edge = edge(
        &origin,
        "limits: { header_timeout: 1s, keepalive: 1s, header_bytes: 4KiB }\n",
    )
    .await;
    let mut dripping = Connection::open(edge.address()).await;
    let drip = tokio::spawn(async move {
        dripping.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
        while dripping.send("x: y\r\n").await {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    wait_for("the dripping client to be cut", async || {
        drip.is_finished().then_some(())
    })
    .await;
    let mut idle = Connection::open(edge.address()).await;
    assert_eq!(idle.get("/").await.status, 200);
    assert_eq!(idle.receive_to_end().await, b"", "an idle connection ends");
    let mut large = Connection::open(edge.address()).await;
    large
        .send(format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(6000)))
        .await;
    assert_eq!(large.receive().await.status, 431);
}

#[tokio::test]
async fn connections_and_bodies_are_bounded() {
    let origin = telling(&["/"]);
    let limits = "limits: { connections_per_address: 3, body_bytes: 1000 }\n";
    let edge = edge(&origin, limits).await;
    let mut declared = Connection::open(edge.address()).await;
    declared
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n")
        .await;
    assert_eq!(declared.receive().await.status, 413);
    drop(declared);
    let mut chunked = Connection::open(edge.address()).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked
        .send(format!("{head}7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000)))
        .await;
    let seen = chunked.receive_to_end().await;
    assert!(
        !String::from_utf8_lossy(&seen).starts_with("HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&seen)
    );
    drop(chunked);
    wait_for("those to be gone", async || {
        edge.metric("selvedge_connections").await.filter(|count| *count == 0.0)
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(edge.address()).await;
        assert_eq!(connection.get("/").await.status, 200);
        held.push(connection);
    }
    let mut refused = Connection::open(edge.address()).await;
    refused.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(
        refused.receive_to_end().await,
        b"",
        "no answer, the connection is closed"
    );
    assert!(edge.metric("selvedge_connections_refused_total").await >= Some(1.0));
}

#[tokio::test]
async fn nobody_is_believed_about_who_they_are() {
    let origin = Origin::start();
    origin.answer("/", |request| {
        let field = |name: &str| request.header(name).unwrap_or("-").to_owned();
        let fields = [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-real-ip",
            "x-gone",
            "te",
            "x-kept",
        ];
        let told = fields.map(field).join(" | ");
        Reply::ok(told)
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=9")
    });
    let spoof = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
                 Forwarded: for=6.6.6.6\r\nConnection: x-gone\r\nX-Gone: 1\r\nTE: gzip\r\nX-Kept: 1\r\n\r\n";
    for (more, expected) in [
        ("", "127.0.0.1 | http | - | - | - | 1"),
        (
            "trusted_proxies: [127.0.0.0/8]\n",
            "6.6.6.6, 127.0.0.1 | https | - | - | - | 1",
        ),
    ] {
        let edge = edge(&origin, more).await;
        let mut connection = Connection::open(edge.address()).await;
        connection.send(spoof).await;
        let response = connection.receive().await;
        assert_eq!(response.text(), expected, "{more}");
        assert_eq!((response.header("x-hop"), response.header("keep-alive")), (None, None));
    }
}

#[tokio::test]
async fn connections_are_kept_and_requests_queue_on_them() {
    let origin = telling(&["/1", "/2", "/3"]);
    let edge = edge(&origin, "limits: { requests_per_connection: 3 }\n").await;
    let mut connection = Connection::open(edge.address()).await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    connection.send(request("/1") + &request("/2")).await;
    assert_eq!(
        (connection.receive().await.text(), connection.receive().await.text()),
        ("/1".into(), "/2".into())
    );
    let third = connection.get("/3").await;
    assert_eq!(
        (third.text().as_str(), third.header("connection")),
        ("/3", Some("close"))
    );
    let mut expecting = Connection::open(edge.address()).await;
    expecting
        .send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let (status, _) = expecting.receive_head().await;
    if status == 100 {
        expecting.send("hi").await;
        assert_eq!(expecting.receive().await.status, 200);
    } else {
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn encrypted_connections_are_bounded_whatever_protocol_they_speak() {
    let edge = Edge::start(
        "listeners: [{ address: 127.0.0.1:0, tls: { self_signed: [localhost] } }]\n\
         limits: { connections_per_address: 3 }\nroutes: [{ match: { path: /* }, respond: { body: hi } }]\n",
    )
    .await;
    // Each client has a connection of its own and keeps it.
    let clients: Vec<_> = [client::http2, client::http1, client::http2]
        .map(|client| client())
        .into();
    for client in &clients {
        assert_eq!(
            client
                .get(edge.https_url("/"))
                .send()
                .await
                .expect("an answer")
                .status(),
            200
        );
    }
    assert_eq!(edge.metric("selvedge_connections").await, Some(3.0));
    for client in [client::http2(), client::http1()] {
        let refused = client.get(edge.https_url("/")).send().await;
        assert!(refused.is_err(), "{refused:?}");
    }
    assert!(edge.metric("selvedge_connections_refused_total").await >= Some(2.0));
    drop(clients);
    wait_for("a place", async || {
        client::http2().get(edge.https_url("/")).send().await.ok()
    })
    .await;
}

#[tokio::test]
async fn what_a_filter_refuses_is_told_with_its_reason() {
    let edge = Edge::start(
        "routes:\n  \
         - match: { path: /rewritten/* }\n    respond: {}\n    \
           filters: [{ rewrite: { regex: { pattern: ^/rewritten/, with: \"/%2f\" } } }]\n  \
         - match: { path: /private }\n    respond: {}\n    \
           filters: [{ basic_auth: { users: { ada: \"$2b$10$abcdefghijklmnopqrstuuDfEgzGOPr9cTvf4vzwJQ4xs9K4Uanq.\" } } }]\n  \
         - match: { path: /limited }\n    respond: {}\n    \
           filters: [{ rate_limit: { key: client_ip, rate: 1/h, burst: 1 } }]\n",
    )
    .await;
    edge.get("/limited").await;
    for (number, (path, status, error, reason)) in [
        ("/rewritten/", 400, "http_request_error", "rewrite_invalid"),
        ("/private", 401, "http_request_denied", "basic_auth_missing"),
        ("/limited", 429, "http_request_denied", "rate_limited"),
    ]
    .into_iter()
    .enumerate()
    {
        let response = edge.get(path).await;
        let expected = format!("selvedge; error={error}; details=\"{reason}\"");
        assert_eq!(
            (response.status().as_u16(), client::header(&response, "proxy-status")),
            (status, expected.as_str()),
            "{path}"
        );
        let entry = edge.access_log_of(number + 2).await[number + 1].clone();
        assert_eq!(entry["reason"], reason, "{entry}");
    }
}
