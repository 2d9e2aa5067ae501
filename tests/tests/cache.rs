//! The response cache, seen from outside: what is asked of the origin, and what each reader gets.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use selvedge_tests::client::{self, header};
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge, Gate, Origin, Reply};

/// An edge with one cached route to `origin`; `policy` is the route's `cache`.
async fn edge(origin: &Origin, policy: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ origin: {{ servers: [{{ address: \"{}\" }}] }} }}\n\
         routes:\n  - name: pages\n    match: {{ path: /* }}\n    cache: {policy}\n    upstream: origin\n",
        origin.address()
    ))
    .await
}

/// Answers `version N`, N counting from 1, with these headers.
fn versions(origin: &Origin, path: &str, headers: &'static [(&'static str, &'static str)]) {
    let count = Arc::new(AtomicUsize::new(0));
    origin.answer(path, move |_| {
        let version = count.fetch_add(1, Ordering::Relaxed) + 1;
        let reply = Reply::ok(format!("version {version}"));
        headers
            .iter()
            .fold(reply, |reply, (name, value)| reply.header(name, *value))
    });
}

/// Body and `Cache-Status` of a GET.
async fn page(edge: &Edge, path: &str) -> (String, String) {
    let response = edge.get(path).await;
    let status = header(&response, "cache-status").to_owned();
    (response.text().await.expect("a whole body"), status)
}

async fn purge(edge: &Edge, url: &str, soft: bool) -> serde_json::Value {
    let request = client::client().post(edge.admin_url("/purge"));
    let body = serde_json::json!({ "urls": [url], "soft": soft });
    let response = request.json(&body).send().await.expect("the admin listener answers");
    assert_eq!(response.status(), 200);
    response.json().await.expect("the answer is JSON")
}

#[tokio::test]
async fn a_stale_page_is_served_while_exactly_one_regeneration_runs() {
    let origin = Origin::start();
    let gate = Gate::new();
    let (count, held) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    origin.answer("/", move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::ok("version 1"),
        _ => Reply::ok("version 2").after(&held),
    });
    let edge = edge(&origin, "{ isr: { revalidate: 1s } }").await;

    let (body, status) = page(&edge, "/").await;
    assert_eq!(body, "version 1");
    assert!(status.starts_with("selvedge; fwd=uri-miss; stored; ttl="), "{status}");
    let (body, status) = page(&edge, "/").await;
    assert_eq!(body, "version 1");
    assert!(status.starts_with("selvedge; hit; ttl="), "{status}");
    wait_for("the page to be stale", async || {
        page(&edge, "/").await.1.contains("regenerating").then_some(())
    })
    .await;
    origin.asked("/", 2).await;
    for _ in 0..20 {
        let (body, status) = page(&edge, "/").await;
        assert_eq!(body, "version 1", "served while it is made anew");
        assert!(status.contains("; hit"), "{status}");
    }
    assert_eq!(origin.count("/"), 2, "one regeneration, however many readers");
    gate.open();
    wait_for("the new page", async || {
        (page(&edge, "/").await.0 == "version 2").then_some(())
    })
    .await;
    assert_eq!(
        edge.metric("selvedge_regenerations_total{outcome=\"succeeded\",route=\"pages\"}")
            .await,
        Some(1.0)
    );
}

#[tokio::test]
async fn a_regeneration_that_fails_keeps_the_page_and_waits_before_the_next() {
    // The origin answers with an error, or not at all.
    for answers in [true, false] {
        let origin = Origin::start();
        let count = Arc::new(AtomicUsize::new(0));
        let broken = Arc::new(AtomicUsize::new(1));
        let (counted, is_broken) = (Arc::clone(&count), Arc::clone(&broken));
        origin.answer("/", move |_| match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::ok("version 1"),
            _ if is_broken.load(Ordering::Relaxed) == 0 => Reply::ok("mended"),
            _ if answers => Reply::status(500).body("broken"),
            _ => Reply::reset(),
        });
        let edge = edge(&origin, "{ isr: { revalidate: 1s, stale_if_error: 1d } }").await;
        page(&edge, "/").await;
        wait_for("a reader to be told of the pause", async || {
            let (body, status) = page(&edge, "/").await;
            assert_eq!(body, "version 1");
            status.contains("backoff").then_some(())
        })
        .await;
        assert!(origin.count("/") < 5, "{} attempts", origin.count("/"));
        edge.logs("could not be regenerated").await;
        broken.store(0, Ordering::Relaxed);
        wait_for("the mended page", async || {
            (page(&edge, "/").await.0 == "mended").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_reader_that_leaves_does_not_spoil_the_page_for_others() {
    let origin = Origin::start();
    let (reply, stream) = Reply::stream();
    origin.reply("/", reply.header("cache-control", "max-age=60"));
    let edge = edge(&origin, "{}").await;
    let mut leaving = Connection::open(edge.address()).await;
    leaving.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    origin.asked("/", 1).await;
    assert!(stream.send("shell").await);
    leaving.receive_until("shell").await;
    leaving.reset();
    // The first piece is written to a client that is gone, the second after that was noticed.
    assert!(stream.send(" and").await);
    let mut second = Connection::open(edge.address()).await;
    second.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    second.receive_until(" and").await;
    assert!(stream.send(" the rest").await);
    second.receive_until(" the rest").await;
    stream.end().await;
    let third = edge.get("/").await.text().await;
    assert_eq!(third.ok().as_deref(), Some("shell and the rest"), "{}", edge.log());
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn a_page_that_did_not_change_is_confirmed() {
    let origin = Origin::start();
    origin.answer("/", |request| match request.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304)
            .header("etag", "\"v1\"")
            .header("cache-control", "max-age=1"),
        _ => Reply::ok("page")
            .header("etag", "\"v1\"")
            .header("cache-control", "max-age=1"),
    });
    let edge = edge(&origin, "{}").await;
    page(&edge, "/").await;
    let status = wait_for("the page to be asked about", async || {
        let (body, status) = page(&edge, "/").await;
        assert_eq!(body, "page");
        status.contains("fwd=stale").then_some(status)
    })
    .await;
    assert!(status.contains("stored") || status.contains("ttl="), "{status}");
    assert_eq!(origin.requests()[1].header("if-none-match"), Some("\"v1\""));
    assert!(page(&edge, "/").await.1.contains("; hit"));
}

#[tokio::test]
async fn head_has_no_body_over_http2_either() {
    let origin = Origin::start();
    origin.reply("/stored", Reply::ok("0123456789").header("cache-control", "max-age=60"));
    origin.reply("/passed", Reply::ok("0123456789"));
    let edge = Edge::start(&format!(
        "listeners: [{{ address: 127.0.0.1:0, tls: {{ self_signed: [localhost] }} }}]\n\
         upstreams: {{ origin: {{ servers: [{{ address: \"{}\" }}] }} }}\n\
         routes: [{{ match: {{}}, cache: {{}}, upstream: origin }}]\n",
        origin.address()
    ))
    .await;
    for path in ["/passed", "/stored", "/stored"] {
        let response = client::client()
            .head(edge.https_url(path))
            .send()
            .await
            .expect("an answer");
        assert_eq!(
            (response.version(), header(&response, "content-length")),
            (reqwest::Version::HTTP_2, "10"),
            "{path}"
        );
        assert_eq!(response.bytes().await.expect("no body").len(), 0, "{path}");
    }
}

#[tokio::test]
async fn concurrent_misses_are_one_request_and_every_reader_gets_the_stream() {
    let origin = Origin::start();
    let (reply, stream) = Reply::stream();
    origin.reply("/", reply.header("cache-control", "max-age=60"));
    let edge = edge(&origin, "{}").await;
    let mut readers = Vec::new();
    for _ in 0..10 {
        let mut reader = Connection::open(edge.address()).await;
        reader.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
        readers.push(reader);
    }
    origin.asked("/", 1).await;
    assert!(stream.send("shell").await);
    for reader in &mut readers {
        // The body has begun for everybody although it has not ended for anybody.
        let seen = reader.receive_until("shell").await;
        let seen = String::from_utf8_lossy(&seen).into_owned();
        assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    }
    assert!(stream.send(" and the rest").await);
    stream.end().await;
    for reader in &mut readers {
        reader.receive_until(" and the rest").await;
    }
    assert_eq!(origin.count("/"), 1);
    assert_eq!(page(&edge, "/").await.0, "shell and the rest");
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn what_the_origin_says_decides() {
    let origin = Origin::start();
    for (path, headers, stored) in [
        ("/max-age", &[("cache-control", "max-age=60")][..], true),
        ("/s-maxage", &[("cache-control", "s-maxage=60, max-age=0")], true),
        (
            "/cdn",
            &[("cdn-cache-control", "max-age=60"), ("cache-control", "max-age=0")],
            true,
        ),
        ("/nothing", &[], false),
        ("/no-store", &[("cache-control", "no-store, max-age=60")], false),
        ("/private", &[("cache-control", "private, max-age=60")], false),
        (
            "/cookie",
            &[("cache-control", "max-age=60"), ("set-cookie", "a=b")],
            false,
        ),
        ("/vary-all", &[("cache-control", "max-age=60"), ("vary", "*")], false),
        (
            "/vary-cookie",
            &[("cache-control", "max-age=60"), ("vary", "cookie")],
            false,
        ),
    ] {
        versions(&origin, path, headers);
        let edge = edge(&origin, "{}").await;
        let (_, first) = page(&edge, path).await;
        let (body, second) = page(&edge, path).await;
        assert_eq!(body == "version 1", stored, "{path}: {first} then {second}");
        assert_eq!(second.contains("; hit"), stored, "{path}: {second}");
    }
}

#[tokio::test]
async fn a_page_is_never_another_readers() {
    let origin = Origin::start();
    origin.answer("/", |request| {
        let seen = |name: &str| request.header(name).unwrap_or("-").to_owned();
        let body = format!(
            "{} {} {} {}",
            seen("host"),
            seen("cookie"),
            seen("authorization"),
            seen("x-forwarded-for")
        );
        Reply::ok(body).header("cache-control", "max-age=60")
    });
    let isr = edge(&origin, "{ isr: { revalidate: 60s } }").await;
    let ask = |edge: &Edge, host: &'static str| {
        let request = client::client().get(edge.url("/")).header("host", host);
        async move {
            let request = request
                .header("cookie", "session=secret")
                .header("authorization", "Bearer secret");
            request.send().await.expect("an answer").text().await.expect("a body")
        }
    };
    assert_eq!(
        ask(&isr, "a.test").await,
        "a.test - - -",
        "the page is made for nobody in particular"
    );
    assert_eq!(
        ask(&isr, "b.test").await,
        "b.test - - -",
        "another host is another page"
    );
    assert_eq!(origin.count("/"), 2);

    let plain = edge(&origin, "{}").await;
    assert!(ask(&plain, "a.test").await.contains("Bearer secret"));
    let (body, status) = page(&plain, "/").await;
    assert!(
        !body.contains("secret"),
        "an answer to credentials is not for others: {body} {status}"
    );
}

#[tokio::test]
async fn queries_and_variants_make_pages_as_the_route_says() {
    let origin = Origin::start();
    origin.answer("/", |request| {
        let language = request.header("accept-language").unwrap_or("-").to_owned();
        Reply::ok(format!("{} {language}", request.target)).header("cache-control", "max-age=60")
    });
    let isr = edge(
        &origin,
        "{ isr: { revalidate: 60s, allow_query: [page] }, vary: [accept-language] }",
    )
    .await;
    for (target, language, expected) in [
        ("/?page=1&utm=x", "de", "/?page=1 de"),
        ("/?utm=y&page=1", "de", "/?page=1 de"),
        ("/?page=2", "de", "/?page=2 de"),
        ("/?page=1", "fr", "/?page=1 fr"),
        ("/", "de", "/ de"),
    ] {
        let request = client::client()
            .get(isr.url(target))
            .header("accept-language", language);
        let body = request.send().await.expect("an answer").text().await.expect("a body");
        assert_eq!(body, expected, "{target} {language}");
    }
    assert_eq!(
        origin.count("/"),
        4,
        "{:?}",
        origin.requests().iter().map(|r| r.target.clone()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn purged_pages_are_gone_or_stale() {
    let origin = Origin::start();
    versions(
        &origin,
        "/",
        &[("cache-control", "max-age=600, stale-while-revalidate=600")],
    );
    let edge = edge(&origin, "{}").await;
    let url = edge.url("/");
    assert_eq!(page(&edge, "/").await.0, "version 1");
    assert_eq!(purge(&edge, &url, false).await["purged"][0]["found"], true);
    assert_eq!(page(&edge, "/").await.0, "version 2");
    wait_for("the page to be stored", async || {
        edge.metric("selvedge_cache_fills").await.filter(|fills| *fills == 0.0)
    })
    .await;
    assert_eq!(purge(&edge, &url, true).await["purged"][0]["found"], true);
    let (body, status) = page(&edge, "/").await;
    assert_eq!(
        body, "version 2",
        "a soft purge keeps the page as a stale copy: {status}"
    );
    wait_for("the regenerated page", async || {
        (page(&edge, "/").await.0 == "version 3").then_some(())
    })
    .await;
    assert_eq!(
        purge(&edge, &edge.url("/never"), false).await["purged"][0]["found"],
        false
    );
}

#[tokio::test]
async fn a_purge_during_a_fill_wins() {
    let origin = Origin::start();
    let (gate, count) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (held, counted) = (gate.clone(), Arc::clone(&count));
    origin.answer("/", move |_| {
        let reply = Reply::ok(format!("version {}", counted.fetch_add(1, Ordering::Relaxed) + 1));
        reply.header("cache-control", "max-age=600").after(&held)
    });
    let edge = edge(&origin, "{}").await;
    let url = edge.url("/");
    let first = tokio::spawn(async move { client::get(&url).await.text().await.expect("a body") });
    gate.reached_by(1).await;
    purge(&edge, &edge.url("/"), false).await;
    gate.open();
    assert_eq!(
        first.await.expect("no panic"),
        "version 1",
        "its reader still gets the page"
    );
    assert_eq!(page(&edge, "/").await.0, "version 2", "nobody else does");
}

#[tokio::test]
async fn a_body_that_was_cut_is_never_stored() {
    let origin = Origin::start();
    origin.reply(
        "/",
        Reply::ok("")
            .header("cache-control", "max-age=600")
            .cut_off(1000, "only this"),
    );
    let edge = edge(&origin, "{}").await;
    for _ in 0..2 {
        let mut connection = Connection::open(edge.address()).await;
        let response = connection.get("/").await;
        // Cut in the middle of the body, or an error before anything of it was sent.
        assert!(
            !response.complete || response.status == 502,
            "the cut is visible: {response:?}"
        );
    }
    assert_eq!(origin.count("/"), 2);
}

#[tokio::test]
async fn a_stored_page_answers_head_conditions_and_ranges() {
    let origin = Origin::start();
    origin.reply(
        "/",
        Reply::ok("0123456789")
            .header("cache-control", "max-age=600")
            .header("etag", "\"v1\""),
    );
    let edge = edge(&origin, "{}").await;
    page(&edge, "/").await;
    let client = client::client();
    let head = client.head(edge.url("/")).send().await.expect("an answer");
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "10"));
    assert!(!header(&head, "age").is_empty());
    let ask = |name: &'static str, value: &'static str| client.get(edge.url("/")).header(name, value).send();
    let unmodified = ask("if-none-match", "\"v1\"").await.expect("an answer");
    assert_eq!(unmodified.status(), 304);
    let part = ask("range", "bytes=2-4").await.expect("an answer");
    assert_eq!(
        (part.status().as_u16(), part.text().await.expect("a body").as_str()),
        (206, "234")
    );
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn a_range_of_a_page_that_is_still_coming_is_right_or_the_whole_page() {
    let origin = Origin::start();
    let (reply, stream) = Reply::stream();
    origin.reply("/", reply.header("cache-control", "max-age=60"));
    let edge = edge(&origin, "{}").await;
    let mut first = Connection::open(edge.address()).await;
    first.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    origin.asked("/", 1).await;
    assert!(stream.send("01234").await);
    first.receive_until("01234").await;
    let url = edge.url("/");
    let part = tokio::spawn(async move {
        let response = client::client()
            .get(url)
            .header("range", "bytes=3-6")
            .send()
            .await
            .expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a whole body"))
    });
    assert!(stream.send("56789").await);
    stream.end().await;
    let (status, body) = part.await.expect("no panic");
    let right = matches!((status, body.as_str()), (206, "3456") | (200, "0123456789"));
    assert!(right, "{status} {body}");
    assert_eq!(origin.count("/"), 1);
}

#[tokio::test]
async fn a_shown_token_makes_the_page_anew_and_a_wrong_one_does_not() {
    let origin = Origin::start();
    versions(&origin, "/", &[]);
    let edge = edge(&origin, "{ isr: { revalidate: 1h, bypass_token: 0123456789abcdef } }").await;
    page(&edge, "/").await;
    for (token, expected) in [("wrong", "version 1"), ("0123456789abcdef", "version 2")] {
        let request = client::client()
            .get(edge.url("/"))
            .header("x-prerender-revalidate", token);
        let body = request.send().await.expect("an answer").text().await.expect("a body");
        assert_eq!(body, expected, "{token}");
    }
    assert_eq!(page(&edge, "/").await.0, "version 2", "kept for everybody");
}

#[tokio::test]
async fn an_unsafe_request_makes_the_page_of_its_url_wrong() {
    let origin = Origin::start();
    versions(&origin, "/", &[("cache-control", "max-age=600")]);
    let edge = edge(&origin, "{}").await;
    assert_eq!(page(&edge, "/").await.0, "version 1");
    client::client()
        .post(edge.url("/"))
        .body("x")
        .send()
        .await
        .expect("an answer");
    assert_eq!(page(&edge, "/").await.0, "version 3");
}

#[tokio::test]
async fn the_fallbacks_page_is_not_the_handlers() {
    let (origin, legacy) = (Origin::start(), Origin::start());
    origin.reply("/", Reply::reset());
    legacy.reply("/", Reply::ok("legacy").header("cache-control", "max-age=600"));
    let edge = Edge::start(&format!(
        "upstreams:\n  origin: {{ servers: [{{ address: \"{}\" }}] }}\n  legacy: {{ servers: [{{ address: \"{}\" }}] }}\n\
         routes:\n  - match: {{ path: /* }}\n    cache: {{ isr: {{ revalidate: 60s }} }}\n    upstream: origin\n    fallback: legacy\n",
        origin.address(),
        legacy.address()
    ))
    .await;
    for _ in 0..2 {
        let response = edge.get("/").await;
        assert!(header(&response, "proxy-status").contains("answered by legacy"));
        assert!(header(&response, "cache-status").contains("detail=fallback"));
        assert_eq!(response.text().await.expect("a body"), "legacy");
    }
    assert_eq!(legacy.count("/"), 2);
}

#[tokio::test]
async fn a_purge_with_a_url_that_has_no_page_purges_none() {
    let origin = Origin::start();
    origin.reply("/page", Reply::ok("page").header("cache-control", "max-age=600"));
    let edge = edge(&origin, "{}").await;
    page(&edge, "/page").await;
    let urls = serde_json::json!({ "urls": [edge.url("/page"), "no url"] });
    let refused = client::client().post(edge.admin_url("/purge")).json(&urls).send().await;
    assert_eq!(refused.expect("an answer").status(), 400);
    assert!(page(&edge, "/page").await.1.contains("; hit"));
}

#[tokio::test]
async fn however_many_pages_turn_stale_they_are_regenerated_a_few_at_a_time() {
    const PAGES: usize = 80;
    const AT_ONCE: usize = 64;
    let origin = Origin::start();
    let gate = Gate::new();
    let (made, held) = (Mutex::new(HashSet::new()), gate.clone());
    origin.answer("/*", move |request| {
        let first = made.lock().expect("no panic").insert(request.target.clone());
        let reply = Reply::ok("page");
        if first { reply } else { reply.after(&held) }
    });
    let edge = edge(&origin, "{ isr: { revalidate: 1s } }").await;
    let all = async |wanted: &str| {
        let mut seen = 0;
        for number in 0..PAGES {
            let (body, status) = page(&edge, &format!("/{number}")).await;
            assert_eq!(body, "page", "{status}");
            seen += usize::from(status.contains(wanted));
        }
        seen
    };
    all("miss").await;
    wait_for("more stale pages than are regenerated", async || {
        (all("too-many-regenerations").await > 0).then_some(())
    })
    .await;
    gate.reached_by(AT_ONCE).await;
    all("").await;
    assert_eq!(origin.requests().len(), PAGES + AT_ONCE);
    gate.open();
    let regenerated = "selvedge_regenerations_total{outcome=\"succeeded\",route=\"pages\"}";
    wait_for("all to be regenerated", async || {
        all("").await;
        (edge.metric(regenerated).await >= Some(PAGES as f64)).then_some(())
    })
    .await;
}
