//! Secrets: set, sealed for each PoP, rotated; and nowhere in clear.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{Site, answer, assert_nowhere, rows, settings};
use reqwest::Method;
use selvedge_control::CONFIG;
use selvedge_replication::Value as Sql;
use selvedge_schema::sealed::{SealingKey, open};
use serde_json::{Value, json};

const STRIPE: &str = "/v1/apps/shop/secrets/STRIPE_KEY";

/// What a PoP finds of its secrets: app, name, version, value.
async fn opened(site: &Site, pop: &str, key: &SealingKey) -> Vec<(String, String, i64, String)> {
    let sql = format!("SELECT app, name, version, sealed FROM sealed_secrets WHERE pop = '{pop}' ORDER BY app, name");
    let rows = rows(site, CONFIG, &sql).await;
    let opened = rows.into_iter().map(|row| {
        let [
            Sql::Text(app),
            Sql::Text(name),
            Sql::Integer(version),
            Sql::Blob(sealed),
        ] = &row[..]
        else {
            panic!("{row:?}");
        };
        let value = open(key, pop, app, name, sealed).unwrap();
        (
            app.clone(),
            name.clone(),
            *version,
            String::from_utf8(value.to_vec()).unwrap(),
        )
    });
    opened.collect()
}

fn stripe(version: i64, value: &str) -> (String, String, i64, String) {
    ("shop".to_owned(), "STRIPE_KEY".to_owned(), version, value.to_owned())
}

async fn join(site: &Site, pop: &str, key: &SealingKey) -> String {
    let invited = site.post("/v1/pops/invite", json!({ "pop": pop })).await.expect(201);
    let body = json!({ "name": pop, "sealing_key": key.public() });
    let token = invited["token"].as_str().unwrap();
    let joined = site
        .ask_as(token, Method::POST, "/v1/pops", Some(body))
        .await
        .expect(201);
    joined["key"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pop_opens_what_was_sealed_for_it() {
    let mut site = Site::start().await;
    let (fra, nyc) = (SealingKey::generate(), SealingKey::generate());
    site.post("/v1/apps", json!({ "name": "shop" })).await.expect(201);
    let fra_key = join(&site, "fra", &fra).await;
    let set = site.put(STRIPE, json!({ "value": "one" })).await;
    assert_eq!(set.headers["etag"], "\"1\"");
    let set = set.expect(200);
    assert_eq!((&set["name"], &set["version"]), (&json!("STRIPE_KEY"), &json!(1)));
    assert!(set["revision"].as_i64().unwrap() > 1 && set["value"].is_null(), "{set}");
    assert_eq!(opened(&site, "fra", &fra).await, [stripe(1, "one")]);
    // One that joins later has what was set before.
    join(&site, "nyc", &nyc).await;
    site.join("dark").await;
    assert_eq!(opened(&site, "nyc", &nyc).await, [stripe(1, "one")]);
    site.put(STRIPE, json!({ "value": "two" })).await.expect(200);
    assert_eq!(opened(&site, "nyc", &nyc).await, [stripe(2, "two")]);
    // With a new key the old seals are of no use.
    let newer = SealingKey::generate();
    let report = json!({ "revision": 0, "sealing_key": newer.public() });
    site.report("fra", &fra_key, report.clone()).await.expect(200);
    assert_eq!(opened(&site, "fra", &newer).await, [stripe(2, "two")]);
    let before = site.get("/v1/audit").await.expect(200)["items"][0]["number"].clone();
    site.report("fra", &fra_key, report).await.expect(200);
    let after = site.get("/v1/audit").await.expect(200)["items"][0]["number"].clone();
    assert_eq!(before, after, "the same key again is no news");
    let weak = json!({ "revision": 0, "sealing_key": BASE64_STANDARD.encode([0; 32]) });
    site.report("fra", &fra_key, weak).await.refused(400, "malformed");
    site.delete("/v1/pops/nyc").await.expect(204);
    assert_eq!(opened(&site, "nyc", &nyc).await, []);
    assert_eq!(site.restart_control().await, None);
    assert_eq!(opened(&site, "fra", &newer).await, [stripe(2, "two")]);
    site.put("/v1/apps/shop/secrets/OTHER", json!({ "value": "x" }))
        .await
        .expect(200);
    let names = site.get("/v1/apps/shop/secrets").await.expect(200);
    let names: Vec<_> = names["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    assert_eq!(names, ["OTHER", "STRIPE_KEY"]);
    site.delete("/v1/apps/shop/secrets/OTHER").await.expect(200);
    site.delete("/v1/apps/shop/secrets/OTHER")
        .await
        .refused(404, "not_found");
    assert_eq!(opened(&site, "fra", &newer).await, [stripe(2, "two")]);
    // An app of the same name has none of them.
    site.delete("/v1/apps/shop").await.expect(200);
    assert_eq!(opened(&site, "fra", &newer).await, []);
    site.post("/v1/apps", json!({ "name": "shop" })).await.expect(201);
    assert_eq!(site.get("/v1/apps/shop/secrets").await.expect(200)["items"], json!([]));
    site.put(STRIPE, json!({ "value": "three" })).await.expect(200);
    assert_eq!(opened(&site, "fra", &newer).await[0].3, "three");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_and_what_may_be_set() {
    let site = Site::start().await;
    for app in ["shop", "blog"] {
        site.post("/v1/apps", json!({ "name": app })).await.expect(201);
    }
    let key = site
        .make_key(json!({ "name": "ci", "role": "developer", "app": "blog" }))
        .await;
    let value = || Some(json!({ "value": "x" }));
    site.ask_as(&key, Method::PUT, STRIPE, value())
        .await
        .refused(403, "forbidden");
    site.ask_as(&key, Method::GET, "/v1/apps/shop/secrets", None)
        .await
        .refused(403, "forbidden");
    site.ask_as(&key, Method::DELETE, STRIPE, None)
        .await
        .refused(403, "forbidden");
    site.ask_as(&key, Method::POST, "/v1/secrets/rotate", None)
        .await
        .refused(403, "forbidden");
    site.ask_as(&key, Method::PUT, "/v1/apps/blog/secrets/A", value())
        .await
        .expect(200);
    let viewer = site.make_key(json!({ "name": "v", "role": "viewer" })).await;
    site.ask_as(&viewer, Method::PUT, STRIPE, value())
        .await
        .refused(403, "forbidden");
    for (path, value) in [
        ("/v1/apps/shop/secrets/A=B", json!({ "value": "x" })),
        (STRIPE, json!({ "value": "x".repeat(64 * 1024 + 1) })),
        (STRIPE, json!({ "value": "a\0b" })),
    ] {
        site.put(path, value).await.refused(422, "invalid");
    }
    site.put("/v1/apps/none/secrets/A", json!({ "value": "x" }))
        .await
        .refused(404, "not_found");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_takes_over_and_a_lost_one_stops_the_start() {
    let mut site = Site::start().await;
    let pop = SealingKey::generate();
    site.post("/v1/apps", json!({ "name": "shop" })).await.expect(201);
    site.put(STRIPE, json!({ "value": "one" })).await.expect(200);
    site.put("/v1/apps/shop/secrets/B", json!({ "value": "two" }))
        .await
        .expect(200);
    let file = site.folder.path().join("secrets.key");
    let old = std::fs::read_to_string(&file).unwrap();
    let new = BASE64_STANDARD.encode([7; 32]);
    std::fs::write(&file, format!("{new}\n{old}")).unwrap();
    let rotated = site.post("/v1/secrets/rotate", Value::Null).await.expect(200);
    assert_eq!(rotated["encrypted"], 2);
    let again = site.post("/v1/secrets/rotate", Value::Null).await.expect(200);
    assert_eq!((&again["encrypted"], &again["key"]), (&json!(0), &rotated["key"]));
    let versions = site.get("/v1/apps/shop/secrets").await.expect(200);
    assert_eq!(versions["items"][0]["version"], 1, "the values are the same");
    // The old key is not needed any more.
    std::fs::write(&file, format!("{new}\n")).unwrap();
    site.restart_control().await;
    join(&site, "fra", &pop).await;
    assert_eq!(opened(&site, "fra", &pop).await[1], stripe(1, "one"));
    // Without the key that is needed nothing is made in its place.
    let running = site.control.take().unwrap();
    running.stop.send(()).unwrap();
    running.ended.await.unwrap();
    for text in [None, Some(old)] {
        match text {
            None => std::fs::remove_file(&file).unwrap(),
            Some(text) => {
                std::fs::write(&file, text).unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                std::fs::set_permissions(&file, mode).unwrap();
            }
        }
        let failed = selvedge_control::run(settings(site.folder.path()), |_| {}, async {}).await;
        let error = failed.unwrap_err();
        assert_eq!(error.to_string(), "preparing the keys of secrets");
    }
    site.agent.take().unwrap().stop().await;
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_nowhere_in_clear() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let site = Site::start().await;
    let value = "sk_live_51HvDqWhispered";
    let pop = SealingKey::generate();
    site.post("/v1/apps", json!({ "name": "shop" })).await.expect(201);
    join(&site, "fra", &pop).await;
    let request = site.request(Method::PUT, STRIPE).bearer_auth(&site.key);
    let request = request
        .header("idempotency-key", "once")
        .json(&json!({ "value": value }));
    let mut told = vec![answer(request).await.text];
    assert_eq!(opened(&site, "fra", &pop).await, [stripe(1, value)]);
    // Nor in what is said of a request that cannot be read.
    for body in [
        json!(value),
        json!({ "value": [value] }),
        json!({ value: 1 }),
        json!({ "value": "x", value: 1 }),
    ] {
        let refused = site.put(STRIPE, body).await;
        told.push(refused.text.clone());
        refused.refused(400, "malformed");
    }
    told.push(
        site.put("/v1/apps/none/secrets/A", json!({ "value": value }))
            .await
            .text,
    );
    for path in ["/v1/apps/shop/secrets", "/v1/audit", "/v1/pops"] {
        told.push(site.get(path).await.text);
    }
    let folder = site.folder.path().to_owned();
    let encoded = BASE64_STANDARD.encode(value);
    for text in [value, &encoded[..encoded.len() - 4]] {
        assert_nowhere(&folder, text);
        assert!(told.iter().all(|answer| !answer.contains(text)), "{told:?}");
        let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
        assert!(log.contains("control serves"), "the log is heard");
        assert!(
            !log.contains(text),
            "{}",
            log.lines().find(|line| line.contains(text)).unwrap()
        );
    }
    site.stop().await;
}
