//! Databases: made and migrated for deployments, before these are prepared; deleted when nothing serves from them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::{Duration, Instant};

use common::{Answer, Site, rows};
use reqwest::Method;
use selvedge_replication::Value as Sql;
use serde_json::{Value, json};

const CREATE: &str = "CREATE TABLE carts (id INTEGER PRIMARY KEY, owner TEXT);";

/// A deployment whose database has these migrations.
async fn deploy(site: &Site, app: &str, database: &str, options: Value, files: &[(&str, &str)]) -> Answer {
    let component = site.upload("component").await;
    let mut blobs = vec![json!({ "path": "shop.wasm", "digest": component })];
    for (name, sql) in files {
        blobs.push(json!({ "path": format!("migrations/{name}"), "digest": site.upload(sql).await }));
    }
    let mut settings = json!({ "migrations": "./migrations" });
    settings
        .as_object_mut()
        .unwrap()
        .extend(options.as_object().unwrap().clone());
    let manifest = json!({
        "databases": { database: settings },
        "handlers": { "shop": { "component": "shop.wasm", "bindings": { "DB": { "database": database } } } },
        "routes": [{ "match": { "path": "/*" }, "handler": "shop" }],
    });
    let path = format!("/v1/apps/{app}/deployments");
    site.post(&path, json!({ "manifest": manifest, "blobs": blobs })).await
}

async fn deployed(site: &Site, options: Value, files: &[(&str, &str)]) -> String {
    let made = deploy(site, "shop", "shop", options, files).await.expect(201);
    made["id"].as_str().unwrap().to_owned()
}

/// The deployment, once it is so.
async fn once(site: &Site, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let deployment = site.get(&format!("/v1/deployments/{id}")).await.expect(200);
        if is_so(&deployment) {
            return deployment;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{deployment}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The deployment, once it was judged.
async fn settled(site: &Site, id: &str) -> Value {
    once(site, id, |deployment| deployment["state"] != "uploaded").await
}

async fn tables(site: &Site, database: &str) -> Vec<String> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_selvedge%' ESCAPE '\\' ORDER BY name";
    let rows = rows(site, database, sql).await;
    let names = rows.into_iter().map(|mut row| match row.remove(0) {
        Sql::Text(name) => name,
        other => panic!("{other:?}"),
    });
    names.collect()
}

async fn activate(site: &Site, id: &str) -> Answer {
    site.post(&format!("/v1/deployments/{id}/activate"), json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_prepared_when_its_databases_are() {
    let mut site = Site::start().await;
    for app in ["shop", "blog"] {
        site.post("/v1/apps", json!({ "name": app })).await.expect(201);
    }
    let first = deployed(&site, json!({}), &[("0001_carts.sql", CREATE)]).await;
    let made = settled(&site, &first).await;
    assert_eq!(
        (&made["state"], &made["databases"][0]["state"]),
        (&json!("prepared"), &json!("ready")),
        "{made}"
    );
    assert_eq!(tables(&site, "shop").await, ["carts"]);
    activate(&site, &first).await.expect(200);
    // Names are the cluster's.
    let refused = deploy(&site, "blog", "shop", json!({}), &[("0001_carts.sql", CREATE)]).await;
    let refused = refused.refused(409, "conflict");
    assert!(refused["detail"].as_str().unwrap().contains("shop"), "{refused}");
    let key = site
        .make_key(json!({ "name": "b", "role": "developer", "app": "blog" }))
        .await;
    let seen = site.ask_as(&key, Method::GET, "/v1/databases", None).await.expect(200);
    assert_eq!(seen["items"], json!([]));
    site.ask_as(&key, Method::GET, "/v1/databases/shop", None)
        .await
        .refused(403, "forbidden");
    // What fails changes nothing, not by its first file either.
    let files = [
        ("0001_carts.sql", CREATE),
        ("0002_a.sql", "CREATE TABLE a (x);"),
        ("0003_b.sql", "CREATE TABL b;"),
    ];
    let failed = settled(&site, &deployed(&site, json!({}), &files).await).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.contains("0003_b.sql") && message.contains("syntax error"),
        "{message}"
    );
    assert_eq!(tables(&site, "shop").await, ["carts"]);
    activate(&site, failed["id"].as_str().unwrap())
        .await
        .refused(409, "conflict");
    // A file that was applied is history.
    let changed = settled(
        &site,
        &deployed(&site, json!({}), &[("0001_carts.sql", "SELECT 1;")]).await,
    )
    .await;
    assert!(
        changed["message"].as_str().unwrap().contains("0001_carts.sql"),
        "{changed}"
    );
    // What was waiting when control stopped is done when it starts.
    let ids = [("0002_a.sql", "CREATE TABLE a (x);")];
    let files = [("0001_carts.sql", CREATE), ids[0]];
    let waiting = deployed(&site, json!({}), &files).await;
    site.restart_control().await;
    assert_eq!(settled(&site, &waiting).await["state"], "prepared");
    assert_eq!(tables(&site, "shop").await, ["a", "carts"]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_serves_keeps_its_tables_unless_the_manifest_says_so() {
    let site = Site::start().await;
    site.post("/v1/apps", json!({ "name": "shop" })).await.expect(201);
    let first = deployed(&site, json!({}), &[("0001_carts.sql", CREATE)]).await;
    settled(&site, &first).await;
    activate(&site, &first).await.expect(200);
    let files = [
        ("0001_carts.sql", CREATE),
        ("0002_drop.sql", "ALTER TABLE carts DROP COLUMN owner;"),
    ];
    let refused = settled(&site, &deployed(&site, json!({}), &files).await).await;
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("0002_drop.sql: `ALTER TABLE carts DROP COLUMN owner`"),
        "{message}"
    );
    let allowed = settled(
        &site,
        &deployed(&site, json!({ "allow_incompatible": true }), &files).await,
    )
    .await;
    assert_eq!(allowed["state"], "prepared", "{allowed}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pops_alone_do_not_prepare_it() {
    let site = Site::start().await;
    let fra = site.join("fra").await;
    site.report("fra", &fra, json!({ "revision": 0 })).await.expect(200);
    site.post("/v1/apps", json!({ "name": "shop" })).await.expect(201);
    let id = deployed(&site, json!({}), &[("0001_bad.sql", "CREATE TABL b;")]).await;
    let said = json!({ "revision": 0, "deployments": { &id: { "state": "prepared" } } });
    site.report("fra", &fra, said).await.expect(200);
    assert_eq!(settled(&site, &id).await["state"], "failed");
    let good = deployed(&site, json!({}), &[("0001_carts.sql", CREATE)]).await;
    let ready = once(&site, &good, |deployment| {
        deployment["databases"][0]["state"] == "ready"
    })
    .await;
    assert_eq!(ready["state"], "uploaded", "the PoP has not said it");
    activate(&site, &good).await.refused(409, "conflict");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_goes_when_nothing_serves_from_it() {
    let site = Site::start().await;
    site.post("/v1/apps", json!({ "name": "shop" })).await.expect(201);
    let first = deployed(&site, json!({}), &[("0001_carts.sql", CREATE)]).await;
    settled(&site, &first).await;
    activate(&site, &first).await.expect(200);
    site.delete("/v1/databases/shop").await.refused(409, "conflict");
    site.delete("/v1/databases/none").await.refused(404, "not_found");
    let next = site.deployed_into("shop").await;
    activate(&site, &next).await.expect(200);
    site.delete("/v1/databases/shop").await.expect(200);
    let began = Instant::now();
    let gone = loop {
        let database = site.get("/v1/databases/shop").await.expect(200);
        if database["state"] == "deleted" {
            break database;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{database}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(gone["until_ms"].as_i64() > gone["deleted_ms"].as_i64(), "{gone}");
    // What was prepared with it cannot come back, and its name is not free yet.
    activate(&site, &first).await.refused(409, "conflict");
    deploy(&site, "shop", "shop", json!({}), &[("0001_carts.sql", CREATE)])
        .await
        .refused(409, "conflict");
    site.stop().await;
}
