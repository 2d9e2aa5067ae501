//! Running an edge: reload and drain under load, certificates that change, probes, metrics, and every file in `conf/`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use selvedge_tests::client::{self, header};
use selvedge_tests::executable::repository;
use selvedge_tests::process::Signal;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge, Gate, Origin, Reply, certificate};

/// Asks again and again until told to stop; counts what went wrong.
struct Load {
    stop: Arc<AtomicBool>,
    /// By URL.
    answered: Vec<Arc<AtomicUsize>>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    /// Each URL is asked by two clients, each on connections of its own, which it keeps.
    fn start<const N: usize>(urls: [String; N]) -> Load {
        Load::with(client::client, urls)
    }

    fn with<const N: usize>(client: fn() -> reqwest::Client, urls: [String; N]) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = [(); N].map(|()| Arc::new(AtomicUsize::new(0)));
        let askers = urls.into_iter().zip(&answered).flat_map(|asker| [asker.clone(), asker]);
        let tasks = askers.map(|(url, answered)| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(answered));
            tokio::spawn(async move {
                let client = client();
                let mut wrong = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match client.get(&url).send().await {
                        Ok(response) if response.status() == 200 => match response.bytes().await {
                            Ok(_) => {
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => wrong.push(error.to_string()),
                        },
                        Ok(response) => wrong.push(format!("{response:?}")),
                        // Nobody listens any more: what matters is what was accepted.
                        Err(error) if is_refused(&error) => break,
                        Err(error) => wrong.push(format!("{url}: {error:?}")),
                    }
                }
                wrong
            })
        });
        let tasks = tasks.collect();
        Load {
            stop,
            answered: answered.into(),
            tasks,
        }
    }

    /// Waits until each URL was answered so many times more.
    async fn answered(&self, more: usize) {
        let counts = || self.answered.iter().map(|count| count.load(Ordering::Relaxed));
        let before: Vec<_> = counts().collect();
        wait_for("more answers", async || {
            counts()
                .zip(&before)
                .all(|(now, before)| now >= before + more)
                .then_some(())
        })
        .await;
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            assert_eq!(task.await.expect("no panic"), Vec::<String>::new());
        }
    }
}

fn is_refused(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

/// Shakes hands for every request.
fn on_new_connections() -> reqwest::Client {
    client::builder().pool_max_idle_per_host(0).build().expect("a client")
}

fn site(origin: &Origin, name: &str) -> String {
    format!(
        "upstreams: {{ origin: {{ servers: [{{ address: \"{}\" }}] }} }}\n\
         routes:\n  - name: {name}\n    match: {{ path: /* }}\n    upstream: origin\n",
        origin.address()
    )
}

/// [`site`], with a handler, its cached pages, and a listener for HTTP/2.
fn whole_site(origin: &Origin, name: &str, component: &str) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}, {{ address: 127.0.0.1:0, tls: {{ self_signed: [localhost] }} }}]\n\
         handlers: {{ guest: {{ component: {} }} }}\n{}  \
         - {{ match: {{ path: /hello }}, handler: guest }}\n  \
         - {{ match: {{ path: /cache }}, cache: {{ isr: {{ revalidate: 1s }} }}, handler: guest }}\n",
        repository().join("tests/guests").join(component).display(),
        site(origin, name)
    )
}

/// What [`whole_site`] serves, over both protocols.
fn whole_load(edge: &Edge, client: fn() -> reqwest::Client) -> Load {
    let urls = [
        edge.url("/"),
        edge.url("/hello"),
        edge.url("/cache"),
        edge.https_url("/"),
        edge.https_url("/hello"),
        edge.https_url("/cache"),
    ];
    Load::with(client, urls)
}

#[tokio::test]
async fn no_request_fails_while_configurations_are_replaced() {
    let origin = Origin::start();
    origin.reply("/", Reply::ok("page"));
    let mut edge = Edge::start(&whole_site(&origin, "first", "probe-p2.wasm")).await;
    let load = whole_load(&edge, client::client);
    for (name, component) in [
        ("second", "probe-p2.wasm"),
        ("third", "probe-p3.wasm"),
        ("fourth", "hello-p2.wasm"),
    ] {
        load.answered(20).await;
        edge.reload(&whole_site(&origin, name, component)).await;
    }
    load.answered(20).await;
    load.finish().await;
    assert!(
        edge.metric("selvedge_requests_total{cache=\"none\",route=\"fourth\",status=\"200\"}")
            .await
            .is_some()
    );
}

#[tokio::test]
async fn a_drain_finishes_what_it_accepted() {
    let origin = Origin::start();
    let gate = Gate::new();
    origin.reply("/", Reply::ok("page"));
    origin.reply("/slow", Reply::ok("slow page").after(&gate));
    let mut edge = Edge::start(&(site(&origin, "site") + "shutdown: { delay: 300ms, grace: 20s }\n")).await;
    let load = Load::start([edge.url("/")]);
    load.answered(50).await;
    let slow = tokio::spawn(client::get(Box::leak(edge.url("/slow").into_boxed_str())));
    gate.reached_by(1).await;
    edge.signal(Signal::Terminate);
    wait_for("unready", async || {
        (client::get(&edge.admin_url("/readyz")).await.status() == 503).then_some(())
    })
    .await;
    assert_eq!(
        client::get(&edge.admin_url("/healthz")).await.status(),
        200,
        "alive while it drains"
    );
    load.answered(10).await;
    edge.logs("draining").await;
    wait_for("the listener to be closed", async || {
        tokio::net::TcpStream::connect(edge.address())
            .await
            .is_err()
            .then_some(())
    })
    .await;
    load.finish().await;
    assert!(edge.is_running(), "a request is under way");
    gate.open();
    let response = slow.await.expect("no panic");
    assert_eq!(response.text().await.expect("a whole body"), "slow page");
    assert!(edge.wait().await.success());
    assert!(edge.log().contains("drained"));
}

/// On connections that are kept and on new ones, over both protocols: each is served whole or refused by a closed port.
#[tokio::test]
async fn a_drain_fails_no_request() {
    let origin = Origin::start();
    origin.reply("/", Reply::ok("page"));
    let mut edge = Edge::start(&whole_site(&origin, "site", "probe-p3.wasm")).await;
    let loads = [client::client, on_new_connections].map(|client| whole_load(&edge, client));
    for load in &loads {
        load.answered(20).await;
    }
    edge.signal(Signal::Terminate);
    assert!(edge.wait().await.success());
    for load in loads {
        load.finish().await;
    }
    assert!(edge.log().contains("drained"), "{}", edge.log());
}

#[tokio::test]
async fn a_connection_that_has_not_asked_yet_is_answered_while_the_edge_drains() {
    let origin = Origin::start();
    let gate = Gate::new();
    origin.reply("/", Reply::ok("page"));
    origin.reply("/held", Reply::ok("held page").after(&gate));
    let mut edge = Edge::start(&site(&origin, "site")).await;
    let held = tokio::spawn(client::get(Box::leak(edge.url("/held").into_boxed_str())));
    gate.reached_by(1).await;
    let mut silent = Connection::open(edge.address()).await;
    edge.signal(Signal::Terminate);
    wait_for("the listener to be closed", async || {
        tokio::net::TcpStream::connect(edge.address())
            .await
            .is_err()
            .then_some(())
    })
    .await;
    silent.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let response = silent.receive().await;
    assert_eq!((response.text().as_str(), response.complete), ("page", true));
    gate.open();
    held.await.expect("no panic");
    assert!(edge.wait().await.success());
}

#[tokio::test]
async fn tls_speaks_both_protocols_and_certificates_change_while_it_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let issue = |name: &str| certificate::make(folder.path(), "site", name);
    if !issue("first.test") {
        return;
    }
    let yaml = format!(
        "listeners:\n  - address: 127.0.0.1:0\n    tls: {{ certificates: [{{ cert: {0}/site.pem, key: {0}/site.key }}], min_version: \"1.2\" }}\n\
         routes: [{{ match: {{ path: /* }}, respond: {{ body: secure }} }}]\n",
        folder.path().display()
    );
    let edge = Edge::start(&yaml).await;
    for (client, version) in [(client::client(), "HTTP/2.0"), (client::http1(), "HTTP/1.1")] {
        let response = client.get(edge.https_url("/")).send().await.expect("an answer");
        assert_eq!(format!("{:?}", response.version()), version);
        assert_eq!(response.text().await.expect("a body"), "secure");
    }
    // A half-written renewal is not served; the whole one is. Nobody notices either, though everybody shakes hands anew.
    let load = Load::with(on_new_connections, [edge.https_url("/")]);
    load.answered(20).await;
    std::fs::write(folder.path().join("site.pem"), "half").expect("writing");
    edge.logs("certificates not reloaded").await;
    assert_eq!(client::get(&edge.https_url("/")).await.status(), 200);
    assert!(served_to(&edge).await.contains("first.test"));
    assert!(issue("second.test"));
    edge.logs("certificates reloaded").await;
    load.answered(20).await;
    load.finish().await;
    assert!(served_to(&edge).await.contains("second.test"));
    assert!(
        edge.metrics()
            .await
            .contains("selvedge_certificate_not_after_seconds{name=\"localhost\"}")
    );
}

/// The certificate a new client is shown, in DER, as text: names stand in it as they are.
async fn served_to(edge: &Edge) -> String {
    let client = client::builder().tls_info(true).build().expect("a client");
    let response = client.get(edge.https_url("/")).send().await.expect("an answer");
    let info = response
        .extensions()
        .get::<reqwest::tls::TlsInfo>()
        .expect("a TLS connection");
    String::from_utf8_lossy(info.peer_certificate().expect("a certificate")).into_owned()
}

#[tokio::test]
async fn a_request_keeps_the_configuration_it_began_with() {
    let origin = Origin::start();
    let gate = Gate::new();
    origin.reply("/held", Reply::ok("held page").after(&gate));
    let mut edge = Edge::start(&site(&origin, "first")).await;
    let held = tokio::spawn(client::get(Box::leak(edge.url("/held").into_boxed_str())));
    gate.reached_by(1).await;
    // Neither its route nor its upstream exists any more.
    edge.reload("routes: [{ name: second, match: { path: /other }, respond: {} }]\n")
        .await;
    assert_eq!(edge.get("/held").await.status(), 404);
    gate.open();
    let response = held.await.expect("no panic");
    assert_eq!(response.text().await.expect("a whole body"), "held page");
    let log = edge.access_log_of(2).await;
    let routes: Vec<_> = log
        .iter()
        .map(|entry| (entry["route"].as_str(), entry["status"].as_u64()))
        .collect();
    assert_eq!(routes, [(Some(""), Some(404)), (Some("first"), Some(200))]);
}

#[tokio::test]
async fn the_admin_listener_tells_and_protects() {
    let edge = Edge::start("routes:\n  - name: hello\n    match: { path: /* }\n    respond: { body: hi }\n").await;
    edge.get("/").await;
    let ready: serde_json::Value = client::get(&edge.admin_url("/readyz"))
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!((&ready["ready"], &ready["generation"]), (&true.into(), &1.into()));
    let routes: serde_json::Value = client::get(&edge.admin_url("/routes"))
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(routes["routes"][0]["name"], "hello");
    // A request is counted after its response has left.
    let metrics = wait_for("the request to be counted", async || {
        let metrics = edge.metrics().await;
        metrics.contains("selvedge_requests_total{").then_some(metrics)
    })
    .await;
    for wanted in [
        "selvedge_requests_total{cache=\"none\",route=\"hello\",status=\"200\"} 1",
        "selvedge_request_duration_seconds_bucket{cache=\"none\",route=\"hello\",le=\"0.0005\"}",
        "selvedge_cache_bytes 0",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(wanted), "{wanted} in\n{metrics}");
    }
    // What a page in the operator's browser could send is refused.
    let client = client::client();
    let form = client
        .post(edge.admin_url("/drain"))
        .header("content-type", "text/plain")
        .send()
        .await
        .expect("an answer");
    assert_eq!(form.status(), 415);
    let rebound = client
        .get(edge.admin_url("/routes"))
        .header("host", "evil.test")
        .send()
        .await
        .expect("an answer");
    assert_eq!(rebound.status(), 403);
    let token = "admin: { address: 127.0.0.1:0, token: 0123456789abcdef }\nroutes: [{ match: {}, respond: {} }]\n";
    let guarded = Edge::start(token).await;
    assert_eq!(client::get(&guarded.admin_url("/metrics")).await.status(), 401);
    assert_eq!(client::get(&guarded.admin_url("/readyz")).await.status(), 200);
    let shown = client
        .get(guarded.admin_url("/metrics"))
        .bearer_auth("0123456789abcdef")
        .send()
        .await
        .expect("an answer");
    assert_eq!(shown.status(), 200);
}

#[tokio::test]
async fn every_request_has_its_line_in_the_access_log() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("12345"));
    let edge = Edge::start(&site(&origin, "site")).await;
    let request = client::client()
        .get(edge.url("/a?b=c"))
        .header("user-agent", "test \"agent\"");
    request.send().await.expect("an answer").text().await.expect("a body");
    edge.get("/none/../../up").await;
    let log = edge.access_log_of(1).await;
    let entry = &log[0];
    for (field, expected) in [
        ("target", "/a?b=c"),
        ("route", "site"),
        ("answered_by", "upstream"),
        ("cache", "none"),
        ("user_agent", "test \"agent\""),
        ("client", "127.0.0.1"),
        ("scheme", "http"),
    ] {
        assert_eq!(entry[field], expected, "{entry}");
    }
    assert_eq!((&entry["status"], &entry["bytes_sent"]), (&200.into(), &5.into()));
    assert!(entry["duration_ms"].as_f64() >= entry["first_byte_ms"].as_f64());
    assert_eq!(entry["server"], origin.address().to_string());
}

#[tokio::test]
async fn a_thousand_idle_connections_are_held_while_it_serves() {
    let edge = Edge::start("routes: [{ match: { path: /* }, respond: { body: hi } }]\n").await;
    let mut idle = Vec::new();
    for _ in 0..900 {
        idle.push(Connection::open(edge.address()).await);
    }
    wait_for("them to be counted", async || {
        edge.metric("selvedge_connections")
            .await
            .filter(|count| *count >= 900.0)
    })
    .await;
    assert_eq!(edge.get("/").await.text().await.expect("a body"), "hi");
    drop(idle);
    wait_for("them to be gone", async || {
        edge.metric("selvedge_connections").await.filter(|count| *count < 10.0)
    })
    .await;
}

/// Every file in `conf/` serves what it is an example of.
#[tokio::test]
async fn every_example_configuration_runs() {
    let folder = repository().join("conf");
    let legacy = Origin::start();
    legacy.reply("/", Reply::ok("legacy"));
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .expect("conf/")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    for name in &names {
        if ["primary.yaml", "control.yaml"].contains(&name.as_str()) {
            // No proxy: tests/cluster.rs and tests/control.rs run them.
            continue;
        }
        let setup = Edge::configure_file(folder.join(name));
        let data = setup.directory().to_owned();
        let edge = setup
            .env("HTTP_PORT", "0")
            .env("HTTPS_PORT", "0")
            .env("ADMIN_PORT", "0")
            .env("DATA_DIR", data.display().to_string())
            .env("LEGACY_PORT", legacy.address().port().to_string())
            .env("ADMIN_TOKEN", "0123456789abcdef")
            .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
            .start()
            .await;
        let (path, status) = match name.as_str() {
            "quickstart.yaml" => ("/legacy/", 200),
            "reverse-proxy.yaml" | "cdn.yaml" => ("/", 200),
            "static.yaml" => ("/", 200),
            "protected.yaml" => ("/private/", 401),
            // What needs no database; tests/cluster.rs has the rest.
            "pop.yaml" => ("/assets/site.css", 200),
            other => panic!("say here what conf/{other} serves"),
        };
        let response = edge.get(path).await;
        assert_eq!(
            response.status(),
            status,
            "{name}: {} {}",
            header(&response, "proxy-status"),
            edge.log()
        );
    }
    assert!(names.len() >= 5, "{names:?}");
    // The password that the file says.
    let edge = Edge::configure_file(folder.join("protected.yaml"))
        .env("HTTP_PORT", "0")
        .env("ADMIN_PORT", "0")
        .env("LEGACY_PORT", legacy.address().port().to_string())
        .env("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    let data = edge.directory().display().to_string();
    let edge = edge.env("DATA_DIR", data).start().await;
    legacy.answer("/private/", |request| {
        Reply::ok(request.header("x-user").unwrap_or("-").to_owned())
    });
    let request = client::client()
        .get(edge.url("/private/"))
        .basic_auth("ada", Some("selvedge"));
    assert_eq!(
        request.send().await.expect("an answer").text().await.expect("a body"),
        "ada"
    );
}
