//! The demo site as visitors see it: `conf/quickstart.yaml` on its real data, with nginx behind it.

use selvedge_tests::client::{self, header};
use selvedge_tests::executable::repository;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge, Nginx, peer};

async fn site() -> Option<(Edge, Nginx)> {
    let dictionary = peer::dictionary()?;
    let nginx = Nginx::start_with(
        "location = /healthz { return 200 ok; }",
        &[("index.html", "<p>legacy"), ("trap", "legacy")],
    )
    .await?;
    let setup = Edge::configure_file(repository().join("conf/quickstart.yaml"));
    let data = setup.directory().to_owned();
    std::fs::copy(dictionary, data.join("dictionary.db")).expect("copying the dictionary");
    let port = nginx.address().port().to_string();
    let setup = setup
        .env("HTTP_PORT", "0")
        .env("HTTPS_PORT", "0")
        .env("ADMIN_PORT", "0");
    let edge = setup
        .env("DATA_DIR", data.display().to_string())
        .env("LEGACY_PORT", port)
        .start()
        .await;
    Some((edge, nginx))
}

async fn text(response: reqwest::Response) -> String {
    response.text().await.expect("a whole body")
}

#[tokio::test]
async fn pages_come_from_real_data_over_both_protocols() {
    let Some((edge, _nginx)) = site().await else { return };
    for (path, wanted) in [
        ("/", "meanings"),
        ("/word/dog", "domesticated by man since prehistoric times"),
        ("/words?letter=q", "quail"),
        ("/search?q=domesticated+prehistoric", "/word/dog"),
        ("/api/word/dog", "Canis familiaris"),
        ("/assets/mark.svg", "<svg"),
    ] {
        let plain = edge.get(path).await;
        assert_eq!(plain.status(), 200, "{path}");
        let body = text(plain).await;
        assert!(body.contains(wanted), "{path}: {body}");
        let encrypted = client::client()
            .get(edge.https_url(path))
            .send()
            .await
            .expect("an answer");
        assert_eq!(
            (encrypted.status().as_u16(), encrypted.version()),
            (200, reqwest::Version::HTTP_2),
            "{path}"
        );
    }
    assert_eq!(edge.get("/word/notawordatall").await.status(), 404);
}

#[tokio::test]
async fn pages_are_kept_and_made_anew() {
    let Some((edge, _nginx)) = site().await else { return };
    let status = |response: &reqwest::Response| header(response, "cache-status").to_owned();
    assert!(status(&edge.get("/word/selvedge").await).contains("fwd=uri-miss; stored"));
    assert!(status(&edge.get("/word/selvedge").await).contains("; hit"));
    // A purge gives up what is being stored; this one is about a page that is stored.
    wait_for("the page to be stored", async || {
        edge.metric("selvedge_cache_fills").await.filter(|fills| *fills == 0.0)
    })
    .await;
    let purged = client::client().post(edge.admin_url("/purge"));
    let purged = purged.json(&serde_json::json!({ "urls": [edge.url("/word/selvedge")], "soft": true }));
    assert_eq!(purged.send().await.expect("an answer").status(), 200);
    assert!(
        status(&edge.get("/word/selvedge").await).contains("; hit"),
        "served stale"
    );
    wait_for("the new page", async || {
        status(&edge.get("/word/selvedge").await)
            .starts_with("selvedge; hit; ttl=9")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_shell_of_a_streamed_page_comes_first() {
    let Some((edge, _nginx)) = site().await else { return };
    let mut connection = Connection::open(edge.address()).await;
    connection.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let shell = String::from_utf8_lossy(&connection.receive_until("</header>").await).into_owned();
    assert!(!shell.contains("</html>"), "{shell}");
    let rest = connection.receive_until("\r\n0\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&rest).contains("</html>"));
}

#[tokio::test]
async fn the_legacy_backend_answers_for_a_handler_that_fails() {
    let Some((edge, nginx)) = site().await else { return };
    for path in ["/fail/trap", "/fail/loop"] {
        let response = edge.get(path).await;
        assert!(
            header(&response, "proxy-status").contains("answered by legacy"),
            "{path}"
        );
    }
    let mut late = Connection::open(edge.address()).await;
    let cut = late.get("/fail/late").await;
    assert!(!cut.complete, "a trap after the first bytes is a visible cut");
    assert!(text(edge.get("/legacy/").await).await.contains("legacy"));
    assert!(
        nginx.access_log().iter().any(|line| line.contains("/fail/trap")),
        "{:?}",
        nginx.access_log()
    );
}

#[tokio::test]
async fn a_visitors_note_is_kept() {
    let Some((edge, _nginx)) = site().await else { return };
    let form = client::client()
        .post(edge.url("/notes"))
        .header("content-type", "application/x-www-form-urlencoded");
    let posted = form
        .body("word=dog&author=Ada&body=Barks+at+night")
        .send()
        .await
        .expect("an answer");
    assert_eq!(posted.status(), 303, "{posted:?}");
    let notes = text(edge.get("/notes?word=dog").await).await;
    assert!(notes.contains("Barks at night"), "{notes}");
}
