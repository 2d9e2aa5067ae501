//! How the edge reaches an upstream: with TLS, in time or not at all; and what it tells and shows when it does not.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::time::Duration;

use selvedge_tests::client::header;
use selvedge_tests::{Edge, certificate, nginx};
use tokio::net::TcpStream;

/// An edge whose one route leads to the upstream with this text; `more` are further lines of the route.
fn yaml(upstream: &str, more: &str) -> String {
    format!(
        "upstreams:\n  site: {upstream}\n\
         routes:\n  - name: site\n    match: {{ path: /* }}\n    upstream: site\n{more}"
    )
}

/// Attempts at the upstream `site` that failed for this reason.
async fn failed(edge: &Edge, reason: &str) -> Option<f64> {
    let sample = format!("selvedge_attempts_failed_total{{kind=\"upstream\",name=\"site\",reason=\"{reason}\"}}");
    edge.metric(&sample).await
}

#[tokio::test]
async fn an_upstream_with_tls_is_believed_by_its_name_and_its_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let (right, wrong) = ("authority", "stranger");
    let authority = |stem: &str| certificate::make_authority(folder.path(), stem);
    if !(authority(right) && authority(wrong) && certificate::issue(folder.path(), right, "backend", "backend.test")) {
        return;
    }
    let pem = |stem: &str| folder.path().join(stem).with_extension("pem").display().to_string();
    let backend = Edge::start(&format!(
        "listeners:\n  - address: 127.0.0.1:0\n    tls: {{ certificates: [{{ cert: {0}/backend.pem, key: {0}/backend.key }}] }}\n\
         routes: [{{ match: {{ path: /* }}, respond: {{ body: encrypted }} }}]\n",
        folder.path().display()
    ))
    .await;
    let site = |tls: &str, more: &str| {
        let server = backend.tls_address();
        yaml(
            &format!("{{ servers: [{{ address: \"{server}\" }}], tls: {tls}{more} }}"),
            "",
        )
    };
    for http2 in ["", ", http2: true"] {
        let trusting = site(&format!("{{ server_name: backend.test, ca: {} }}", pem(right)), http2);
        let edge = Edge::start(&trusting).await;
        let response = edge.get("/").await;
        assert_eq!(response.status(), 200, "{http2} {}", edge.log());
        assert_eq!(response.text().await.expect("a body"), "encrypted", "{http2}");
    }
    for (tls, why) in [
        (
            format!("{{ server_name: backend.test, ca: {} }}", pem(wrong)),
            "another authority",
        ),
        (
            format!("{{ server_name: other.test, ca: {} }}", pem(right)),
            "another name",
        ),
        ("true".to_owned(), "no authority of the system's"),
    ] {
        let edge = Edge::start(&site(&tls, ", retries: 0")).await;
        let response = edge.get("/").await;
        let says = header(&response, "proxy-status").to_owned();
        assert_eq!(response.status(), 502, "{why}: {says}");
        assert!(says.contains("error=tls_"), "{why}: {says}");
        assert_ne!(response.text().await.expect("a body"), "encrypted", "{why}");
        let counted = failed(&edge, "tls_certificate")
            .await
            .or(failed(&edge, "tls_error").await);
        assert_eq!(counted, Some(1.0), "{why}: {says}");
    }
}

/// A listener that lets nobody in any more: connections to it neither stand nor fail. They end with the value.
struct Full {
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Full {
    async fn start() -> Full {
        /// Linux keeps one more connection than the backlog says; a busy machine may let a few more in.
        const ATTEMPTS: usize = 16;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        #[expect(unsafe_code, reason = "std does not let the backlog be chosen")]
        // SAFETY: listen takes two integers, and the descriptor is the listener's own.
        let result = unsafe { libc::listen(listener.as_raw_fd(), 0) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let address = listener.local_addr().expect("a bound listener has an address");
        let mut waiting = Vec::new();
        for _ in 0..ATTEMPTS {
            match tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
                Ok(Ok(stream)) => waiting.push(stream),
                Ok(Err(error)) => panic!("{error}"),
                Err(_) => {
                    return Full {
                        listener,
                        _waiting: waiting,
                    };
                }
            }
        }
        panic!("{ATTEMPTS} connections stand at a listener that keeps none");
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener has an address")
    }
}

#[tokio::test]
async fn a_server_that_lets_nobody_in_costs_its_timeout_and_then_another_answers() {
    let full = Full::start().await;
    let address = full.address();
    let timeouts = "timeouts: { connect: 300ms }";
    let alone = yaml(
        &format!("{{ servers: [{{ address: \"{address}\" }}], {timeouts}, retries: 0 }}"),
        "",
    );
    let edge = Edge::start(&alone).await;
    let response = edge.get("/").await;
    assert_eq!(response.status(), 504);
    assert_eq!(
        header(&response, "proxy-status"),
        "selvedge; error=connection_timeout; details=\"site: ConnectTimedout\"",
    );
    assert_eq!(failed(&edge, "connect_timeout").await, Some(1.0));
    let origin = selvedge_tests::Origin::start();
    origin.reply("/", selvedge_tests::Reply::ok("another"));
    let servers = format!(
        "[{{ address: \"{address}\" }}, {{ address: \"{}\", backup: true }}]",
        origin.address()
    );
    let edge = Edge::start(&yaml(&format!("{{ servers: {servers}, {timeouts}, retries: 1 }}"), "")).await;
    assert_eq!(edge.get("/").await.text().await.expect("a body"), "another");
    assert_eq!(failed(&edge, "connect_timeout").await, Some(1.0));
}

#[tokio::test]
async fn a_routes_error_page_is_what_people_see_when_nobody_answers() {
    let upstream = format!("{{ servers: [{{ address: \"{}\" }}] }}", nginx::free_address());
    let page = "<!doctype html><title>Soon</title><p>We are back soon.\n";
    let setup = Edge::configure(&yaml(&upstream, "    error_page: ./soon.html\n")).file("soon.html", page);
    let edge = setup.start().await;
    let response = edge.get("/").await;
    assert_eq!(response.status(), 502);
    assert_eq!(header(&response, "content-type"), "text/html; charset=utf-8");
    assert_eq!(header(&response, "cache-control"), "no-store");
    assert!(header(&response, "proxy-status").contains("error=connection_refused"));
    assert_eq!(response.text().await.expect("a body"), page);
    // The first attempt and its one retry.
    assert!(failed(&edge, "connect_refused").await >= Some(1.0));
    let missing = Edge::configure(&yaml(&upstream, "    error_page: ./none.html\n"))
        .try_start()
        .await;
    let refused = missing.err().expect("the page is not there");
    assert!(refused.log.contains("none.html"), "{}", refused.log);
}
