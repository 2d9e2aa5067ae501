//! Webhooks: told once what happened, signed, again when nobody listened, and by the process that comes after.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{Site, assert_nowhere};
use hmac::{Hmac, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// What came.
struct Received {
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The event, when it is signed with this secret.
    fn verified(&self, secret: &str) -> Value {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        let (id, timestamp) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        mac.update(format!("{id}.{timestamp}.{}", self.body).as_bytes());
        let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
        assert_eq!(self.header("webhook-signature"), expected);
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Listens at an address, and answers with these statuses, then with 204.
async fn receiver(at: SocketAddr, statuses: Vec<u16>) -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = mpsc::unbounded_channel();
    let statuses = std::sync::Arc::new(std::sync::Mutex::new(statuses.into_iter()));
    let answer = move |request: axum::extract::Request| {
        let (sender, statuses) = (sender.clone(), std::sync::Arc::clone(&statuses));
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let received = Received {
                path: parts.uri.path().to_owned(),
                headers: parts.headers,
                body: String::from_utf8(body.to_vec()).unwrap(),
            };
            let status = statuses.lock().unwrap().next().unwrap_or(204);
            drop(sender.send(received));
            (
                StatusCode::from_u16(status).unwrap(),
                [(header::LOCATION, "/elsewhere")],
            )
        }
    };
    let router = Router::new().fallback(answer);
    tokio::spawn(axum::serve(listener, router).into_future());
    (address, received)
}

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn webhook(site: &Site, at: SocketAddr, events: Value) -> (String, String) {
    let body = json!({ "url": format!("http://{at}/hook"), "events": events });
    let made = site.post("/v1/webhooks", body).await.expect(201);
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

/// Waits until the newest delivery is as it should be.
async fn newest(site: &Site, webhook: &str, is: impl Fn(&Value) -> bool) -> Value {
    loop {
        let page = site
            .get(&format!("/v1/webhooks/{webhook}/deliveries"))
            .await
            .expect(200);
        let newest = &page["items"][0];
        if is(newest) {
            return newest.clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_and_signed() {
    let site = Site::start_where(true).await;
    let (address, mut received) = receiver(ANYWHERE, Vec::new()).await;
    let all = [
        "deployment.prepared",
        "deployment.failed",
        "deployment.activated",
        "app.rolled_back",
        "rollout.changed",
    ];
    let (id, secret) = webhook(&site, address, json!(all)).await;
    // Its secret goes over to a new key as those of apps do.
    let keys = site.folder.path().join("secrets.key");
    let older = std::fs::read_to_string(&keys).unwrap();
    std::fs::write(&keys, format!("{}\n{older}", BASE64_STANDARD.encode([7; 32]))).unwrap();
    let rotated = site.post("/v1/secrets/rotate", json!({})).await.expect(200);
    assert_eq!(rotated["encrypted"], 1);
    let pop = site.join("fra").await;
    let ids = site.deployed("shop", 2).await;
    let said =
        |id: &str, state: &str| json!({ "revision": 0, "deployments": { id: { "state": state, "message": "no" } } });
    site.report("fra", &pop, said(&ids[0], "prepared")).await.expect(200);
    site.report("fra", &pop, said(&ids[1], "failed")).await.expect(200);
    site.report("fra", &pop, said(&ids[1], "prepared")).await.expect(200);
    for (path, body) in [
        (format!("/v1/deployments/{}/activate", ids[0]), json!({})),
        (format!("/v1/deployments/{}/activate", ids[1]), json!({ "percent": 10 })),
        ("/v1/apps/shop/rollback".to_owned(), json!({})),
    ] {
        site.post(&path, body).await.expect(200);
    }
    let (mut told, mut messages) = (Vec::new(), std::collections::BTreeSet::new());
    while told.len() < 6 {
        let one = received.recv().await.unwrap();
        let event = one.verified(&secret);
        assert_eq!(event["data"]["app"], "shop", "{event}");
        assert!(event["timestamp_ms"].is_i64() && one.path == "/hook");
        messages.insert(one.header("webhook-id").to_owned());
        told.push((event["type"].clone(), event["data"]["deployment"].clone()));
    }
    let expected = [
        ("deployment.prepared", &ids[0]),
        ("deployment.failed", &ids[1]),
        ("deployment.prepared", &ids[1]),
        ("deployment.activated", &ids[0]),
        ("rollout.changed", &ids[1]),
        ("app.rolled_back", &ids[1]),
    ];
    for (event, deployment) in expected {
        assert!(told.contains(&(json!(event), json!(deployment))), "{event}: {told:?}");
    }
    assert_eq!(messages.len(), 6);
    let delivered = newest(&site, &id, |one| one["state"] == "delivered").await;
    assert_eq!((&delivered["tries"], &delivered["status"]), (&json!(1), &json!(204)));
    // Each secret is shown once, and is nowhere in clear.
    assert!(!site.get("/v1/webhooks").await.expect(200).to_string().contains(&secret));
    assert_nowhere(site.folder.path(), &secret);
    site.delete(&format!("/v1/webhooks/{id}")).await.expect(204);
    site.get(&format!("/v1/webhooks/{id}/deliveries"))
        .await
        .refused(404, "not_found");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_is_told_again() {
    let site = Site::start_where(true).await;
    let (address, mut received) = receiver(ANYWHERE, vec![302]).await;
    let (id, secret) = webhook(&site, address, json!(["deployment.activated"])).await;
    let deployment = site.deployed("shop", 1).await.remove(0);
    let activate = format!("/v1/deployments/{deployment}/activate");
    site.post(&activate, json!({})).await.expect(200);
    let first = received.recv().await.unwrap();
    let waiting = newest(&site, &id, |one| one["tries"] == 1).await;
    assert_eq!(
        (&waiting["state"], &waiting["status"]),
        (&json!("waiting"), &json!(302))
    );
    // The redirect was not followed, and what is told again is the same message.
    let second = received.recv().await.unwrap();
    assert_eq!((first.path.as_str(), second.path.as_str()), ("/hook", "/hook"));
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(first.verified(&secret), second.verified(&secret));
    let delivered = newest(&site, &id, |one| one["state"] == "delivered").await;
    assert_eq!(delivered["tries"], 2);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing_that_waits() {
    let mut site = Site::start_where(true).await;
    // Its port is free again, so nobody listens there yet.
    let address = TcpListener::bind(ANYWHERE).await.unwrap().local_addr().unwrap();
    let (id, secret) = webhook(&site, address, json!(["deployment.activated"])).await;
    let deployment = site.deployed("shop", 1).await.remove(0);
    let activate = format!("/v1/deployments/{deployment}/activate");
    site.post(&activate, json!({})).await.expect(200);
    let failed = newest(&site, &id, |one| one["tries"] == 1).await;
    assert!(failed["message"].is_string() && failed["status"].is_null(), "{failed}");
    site.restart_control().await;
    let (_, mut received) = receiver(address, Vec::new()).await;
    let told = received.recv().await.unwrap().verified(&secret);
    assert_eq!(told["data"]["deployment"], json!(deployment));
    newest(&site, &id, |one| one["state"] == "delivered").await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_and_where_to() {
    let site = Site::start().await;
    let make = |url: &str| site.post("/v1/webhooks", json!({ "url": url, "events": ["deployment.failed"] }));
    for url in [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest",
        "http://hooks.example.com/",
        "hooks",
    ] {
        make(url).await.refused(422, "invalid");
    }
    make("https://hooks.example.com/x").await.expect(201);
    let listed = site.get("/v1/webhooks").await.expect(200);
    assert_eq!(listed["items"][0]["events"], json!(["deployment.failed"]));
    let nothing = json!({ "url": "https://hooks.example.com/", "events": [] });
    site.post("/v1/webhooks", nothing).await.refused(422, "invalid");
    let unknown = json!({ "url": "https://hooks.example.com/", "events": ["x"] });
    site.post("/v1/webhooks", unknown).await.refused(400, "malformed");
    let developer = site.make_key(json!({ "name": "d", "role": "developer" })).await;
    site.ask_as(&developer, Method::GET, "/v1/webhooks", None)
        .await
        .refused(403, "forbidden");
    site.stop().await;
}
