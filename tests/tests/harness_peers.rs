//! The harness's own peers do what the tests take for granted.

use selvedge_tests::client::{self, header};
use selvedge_tests::{Connection, Gate, Nginx, Origin, Reply, wait_until};

#[tokio::test]
async fn the_origin_answers_as_told_and_remembers_what_it_was_sent() {
    let origin = Origin::start();
    origin.reply("/page", Reply::ok("hello").header("cache-control", "max-age=60"));
    origin.reply("/chunks", Reply::status(404).chunks(&["a", "b"]));

    let mut connection = Connection::open(origin.address()).await;
    let page = connection.get("/page?q=1").await;
    assert_eq!(
        (page.status, page.text().as_str(), page.header("cache-control")),
        (200, "hello", Some("max-age=60"))
    );
    let chunks = connection.get("/chunks").await;
    assert_eq!(
        (chunks.status, chunks.text().as_str(), chunks.complete),
        (404, "ab", true)
    );
    connection
        .send("POST /page HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        .await;
    connection.receive().await;

    let requests = origin.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[2].text(), "hi");
    assert!(requests[2].raw.ends_with(b"2\r\nhi\r\n0\r\n\r\n"));
    assert_eq!((origin.count("/page"), origin.connections()), (2, 1));
}

#[tokio::test]
async fn an_answer_waits_at_its_gate() {
    let origin = Origin::start();
    let gate = Gate::new();
    origin.reply(
        "/",
        Reply::ok("late")
            .informational(103, &[("link", "</a.css>")])
            .after(&gate),
    );
    let mut connection = Connection::open(origin.address()).await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    gate.reached_by(1).await;
    let (status, head) = connection.receive_head().await;
    assert_eq!((status, head.header("link")), (103, Some("</a.css>")));
    gate.open();
    assert_eq!(connection.receive().await.text(), "late");
}

#[tokio::test]
async fn a_stream_sends_a_piece_at_a_time_and_notices_who_leaves() {
    let origin = Origin::start();
    let (reply, stream) = Reply::stream();
    origin.reply("/", reply);
    let mut connection = Connection::open(origin.address()).await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(stream.send("one").await);
    connection.receive_until("one").await;
    assert!(stream.send("two").await);
    connection.receive_until("two").await;
    drop(connection);
    stream.abandoned().await;
    wait_until("the origin to count it", || origin.abandoned() == 1).await;
}

#[tokio::test]
async fn a_broken_body_is_seen_as_broken() {
    let origin = Origin::start();
    origin.reply("/cut", Reply::status(200).cut_off(10, "half"));
    origin.reply(
        "/raw",
        Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nhello"),
    );
    let mut connection = Connection::open(origin.address()).await;
    let cut = connection.get("/cut").await;
    assert_eq!((cut.text().as_str(), cut.complete), ("half", false));
    assert_eq!(origin.abandoned(), 0);
    let mut connection = Connection::open(origin.address()).await;
    connection.send("GET /raw HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let raw = connection.receive_to_end().await;
    assert!(raw.ends_with(b"content-length: 5\r\n\r\nhello"));
}

#[tokio::test]
async fn an_origin_stops_and_comes_back_at_its_address() {
    let origin = Origin::start();
    let address = origin.address();
    drop(origin);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let origin = Origin::start_at(address);
    origin.reply("/", Reply::ok("back"));
    assert_eq!(
        client::get(&format!("http://{address}/"))
            .await
            .text()
            .await
            .expect("a body"),
        "back"
    );
}

#[tokio::test]
async fn nginx_serves_its_files_and_its_block() {
    let block = "location /fixed { return 200 'hello'; }";
    let Some(nginx) = Nginx::start_with(block, &[("index.html", "<p>front")]).await else {
        return;
    };
    let page = client::get(&nginx.url("/")).await;
    assert!(header(&page, "server").starts_with("nginx"));
    assert_eq!(page.text().await.expect("a body"), "<p>front");
    assert_eq!(
        client::get(&nginx.url("/fixed")).await.text().await.expect("a body"),
        "hello"
    );
    wait_until("the access log", || {
        nginx.access_log() == ["GET / 200", "GET /fixed 200"]
    })
    .await;
}

#[tokio::test]
async fn curl_says_how_a_transfer_ended() {
    let origin = Origin::start();
    origin.reply("/whole", Reply::ok("whole"));
    origin.reply("/cut", Reply::status(200).cut_off(10, "half"));
    let Some(whole) = client::curl(&[&format!("http://{}/whole", origin.address())]).await else {
        return;
    };
    assert_eq!((whole.exit, whole.stdout.as_str()), (0, "whole"));
    let Some(cut) = client::curl(&[&format!("http://{}/cut", origin.address())]).await else {
        return;
    };
    assert_ne!(cut.exit, 0);
}
