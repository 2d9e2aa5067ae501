use std::time::Duration;

use selvedge_schema::{Balance, HealthCheck, Server, Timeouts, UpstreamTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::*;

/// `servers`: addresses; one that begins with `~` is a backup.
fn upstream(servers: &[&str]) -> Upstream {
    let server = |text: &&str| Server {
        address: text.trim_start_matches('~').to_owned(),
        weight: 1,
        backup: text.starts_with('~'),
    };
    Upstream {
        servers: servers.iter().map(server).collect(),
        balance: Balance::RoundRobin,
        health_check: None,
        timeouts: Timeouts::default(),
        retries: 1,
        tls: None,
        http2: false,
        host: None,
    }
}

fn build(config: &Upstream) -> Arc<UpstreamSet> {
    UpstreamSet::build("legacy", config, None).unwrap()
}

/// Makes the servers unhealthy by connections that fail.
fn take_down(set: &UpstreamSet, down: &[usize]) {
    for index in down {
        let address = set.servers[*index].address_after(0).unwrap();
        let attempt = InFlight::new(set.servers[*index].clone(), set.name.clone(), set.rules, address);
        (0..health::FAILURES).for_each(|_| attempt.failed());
    }
}

#[test]
fn who_is_eligible() {
    use PickReason::{Backup, FailOpen, Healthy};
    let check = |servers: &[&str], down: &[usize], tried: &[usize], expected: Option<(usize, PickReason)>| {
        let set = build(&upstream(servers));
        take_down(&set, down);
        let tried: Vec<_> = tried.iter().copied().map(ServerIndex).collect();
        let picked = set.pick(b"", &tried).map(|picked| (picked.server.0, picked.reason));
        assert_eq!(picked, expected, "{servers:?} down {down:?} tried {tried:?}");
    };
    let three = ["127.0.0.1:1", "127.0.0.1:2", "~127.0.0.1:3"];
    check(&three, &[], &[], Some((0, Healthy)));
    check(&three, &[], &[0], Some((1, Healthy)));
    check(&three, &[0], &[], Some((1, Healthy)));
    check(&three, &[0, 1], &[], Some((2, Backup)));
    check(&three, &[], &[0, 1], Some((2, Backup)));
    check(&three, &[0], &[1], Some((2, Backup)));
    check(&three, &[], &[0, 1, 2], None);
    // Unhealthy servers are left alone as long as somebody is healthy, tried or not.
    check(&three, &[0], &[1, 2], None);
    check(&three, &[0, 1, 2], &[], Some((0, FailOpen)));
    check(&three, &[0, 1, 2], &[0], Some((1, FailOpen)));
    check(&three, &[0, 1, 2], &[0, 1], Some((2, FailOpen)));
    check(&three, &[0, 1, 2], &[0, 1, 2], None);
    check(&["no-such-host.invalid:80"], &[], &[], None);
    check(
        &["no-such-host.invalid:80", "127.0.0.1:1"],
        &[],
        &[],
        Some((1, Healthy)),
    );
}

#[test]
fn requests_in_flight_are_counted_and_survive_a_reload() {
    let config = Upstream {
        balance: Balance::LeastConnections,
        ..upstream(&["127.0.0.1:1", "127.0.0.1:2"])
    };
    let set = build(&config);
    let first = set.pick(b"", &[]).unwrap();
    let second = set.pick(b"", &[]).unwrap();
    assert_ne!(first.server, second.server);
    take_down(&set, &[0]);

    let changed = upstream(&["127.0.0.1:3", "127.0.0.1:2", "127.0.0.1:1"]);
    let after = UpstreamSet::build("legacy", &changed, Some(&set)).unwrap();
    let seen: Vec<_> = after
        .describe()
        .into_iter()
        .map(|s| (s.address, s.healthy, s.in_flight))
        .collect();
    let expected = [
        ("127.0.0.1:3", true, 0),
        ("127.0.0.1:2", true, 1),
        ("127.0.0.1:1", false, 1),
    ];
    assert_eq!(
        seen,
        expected.map(|(address, healthy, count)| (address.to_owned(), healthy, count))
    );

    drop((first, second));
    assert!(after.describe().iter().all(|server| server.in_flight == 0));
}

#[test]
fn a_wrong_address_is_an_error() {
    let error = UpstreamSet::build("legacy", &upstream(&["127.0.0.1"]), None).unwrap_err();
    assert_eq!(error.to_string(), r#"upstream legacy: "127.0.0.1" is not host:port"#);
}

#[test]
fn authorities_must_be_readable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let tls = UpstreamTls {
        server_name: None,
        ca: Some(path.clone()),
    };
    let config = Upstream {
        tls: Some(tls),
        ..upstream(&["127.0.0.1:1"])
    };
    let failure = || match UpstreamSet::build("legacy", &config, None) {
        Err(UpstreamError::Ca { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    assert!(matches!(failure(), CaError::Read { .. }));
    std::fs::write(&path, "nothing here").unwrap();
    assert!(matches!(failure(), CaError::Empty { .. }));
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(matches!(failure(), CaError::Invalid { number: 1, .. }));
}

#[test]
fn a_peer_carries_the_settings() {
    let mut config = upstream(&["localhost:443"]);
    config.http2 = true;
    let peer = |config: &Upstream| build(config).pick(b"", &[]).unwrap().peer;
    let plain = peer(&config);
    assert_eq!(plain.options.alpn, pingora_core::protocols::ALPN::H2);
    assert!(!plain.is_tls());
    assert_eq!(plain.options.total_connection_timeout, Some(Duration::from_secs(2)));

    config.tls = Some(UpstreamTls::default());
    let secure = peer(&config);
    assert_eq!((secure.sni.as_str(), secure.is_tls()), ("localhost", true));
    assert_eq!(secure.options.alpn, pingora_core::protocols::ALPN::H2H1);
    assert!(secure.options.verify_cert && secure.options.verify_hostname);

    config.tls = Some(UpstreamTls {
        server_name: Some("origin.example".into()),
        ca: None,
    });
    let named = peer(&config);
    assert_eq!(named.sni, "origin.example");
    assert_ne!(
        named.group_key, secure.group_key,
        "pools of different settings are apart"
    );
    assert_eq!(
        named.group_key,
        peer(&config).group_key,
        "pools of equal settings are shared"
    );
}

/// Answers every request with the status that is current then; counts the requests.
async fn origin(
    status: tokio::sync::watch::Receiver<u16>,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let answer = format!("HTTP/1.1 {} X\r\ncontent-length: 0\r\n\r\n", *status.borrow());
            let _ = stream.write_all(answer.as_bytes()).await;
            if requests.send(String::from_utf8(head).unwrap()).is_err() {
                break;
            }
        }
    });
    (address, received)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

fn checked(address: SocketAddr) -> Upstream {
    let check = HealthCheck {
        path: "/healthz?deep=1".into(),
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(5),
        healthy: 2,
        unhealthy: 2,
    };
    Upstream {
        health_check: Some(check),
        ..upstream(&[&address.to_string()])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn active_checks_take_a_server_out_and_bring_it_back() {
    let (status, current) = tokio::sync::watch::channel(204);
    let (address, mut requests) = origin(current).await;
    let set = build(&checked(address));
    let watch = set.watch(&Handle::current());
    let healthy = || set.describe()[0].healthy;

    let head = requests.recv().await.unwrap();
    assert!(head.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains(&format!("host: {address}\r\n")), "{head}");
    status.send(503).unwrap();
    until("unhealthy", || !healthy()).await;
    assert!(set.describe()[0].consecutive_failures >= 2);
    status.send(302).unwrap();
    until("healthy again", healthy).await;

    // A real request that cannot connect counts too, and only a check brings the server back.
    status.send(500).unwrap();
    take_down(&set, &[0]);
    assert!(!healthy());
    status.send(200).unwrap();
    until("healthy after failed connections", healthy).await;

    drop(watch);
    // What was under way at the drop may still arrive; then there is silence for ten intervals.
    let silence = async {
        while tokio::time::timeout(Duration::from_millis(100), requests.recv())
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(Duration::from_secs(20), silence)
        .await
        .expect("checks end when the watch is dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_listen_or_not_answer_is_unhealthy() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let set = build(&checked(closed));
    let _watch = set.watch(&Handle::current());
    until("refused connections make unhealthy", || !set.describe()[0].healthy).await;

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = checked(silent.local_addr().unwrap());
    config.health_check.as_mut().unwrap().timeout = Duration::from_millis(20);
    let set = build(&config);
    let _watch = set.watch(&Handle::current());
    until("silence makes unhealthy", || !set.describe()[0].healthy).await;
}
