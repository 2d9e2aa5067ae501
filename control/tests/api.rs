//! The API: keys, blobs, deployments, PoPs, flags and settings.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;

use common::{Site, answer, assert_nowhere, deployment, digest};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_is_made_once_and_what_was_done_survives() {
    let mut site = Site::start().await;
    site.post("/v1/apps", json!({ "name": "shop" })).await.expect(201);
    site.post("/v1/apps", json!({ "name": "shop" }))
        .await
        .refused(409, "exists");
    assert_eq!(site.restart_control().await, None);
    site.get("/v1/apps/shop").await.expect(200);
    let audit = site.get("/v1/audit").await.expect(200);
    let actions: Vec<_> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["action"])
        .collect();
    assert_eq!(actions, ["app.create", "key.bootstrap"]);
    let verified = site.get("/v1/audit/verify").await.expect(200);
    assert_eq!(
        (&verified["entries"], &verified["broken_at"]),
        (&json!(2), &Value::Null)
    );
    assert!(answer(site.request(Method::GET, "/readyz")).await.status.is_success());
    // The key in clear is nowhere on the disk.
    let secret = site.key.split('_').nth(2).unwrap().to_owned();
    assert_nowhere(site.folder.path(), &secret);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_without_a_key() {
    let site = Site::start().await;
    let document: Value = serde_json::from_str(selvedge_control::openapi()).unwrap();
    let mut guarded = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if operation["security"].is_array() || (path == "/v1/pops" && method == "post") {
                continue;
            }
            guarded += 1;
            let path = path.replace(['{', '}'], "");
            let method: Method = method.to_uppercase().parse().unwrap();
            let refused = answer(site.request(method.clone(), &path)).await;
            assert_eq!(refused.status, 401, "{method} {path}");
            if method != Method::HEAD {
                refused.refused(401, "no_key");
            }
        }
    }
    assert!(guarded > 30, "{guarded}");
    site.ask_as("sel_x", Method::GET, "/v1/apps", None)
        .await
        .refused(401, "wrong_key");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_reach_what_they_are_for() {
    let site = Site::start().await;
    for app in ["shop", "blog"] {
        site.post("/v1/apps", json!({ "name": app })).await.expect(201);
    }
    let developer = site
        .make_key(json!({ "name": "ci", "role": "developer", "app": "shop" }))
        .await;
    let list = site.ask_as(&developer, Method::GET, "/v1/apps", None).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let set = |app: &str| format!("/v1/apps/{app}/env/A");
    let value = || Some(json!({ "value": "1" }));
    site.ask_as(&developer, Method::PUT, &set("shop"), value())
        .await
        .expect(200);
    site.ask_as(&developer, Method::PUT, &set("blog"), value())
        .await
        .refused(403, "forbidden");
    site.ask_as(&developer, Method::GET, "/v1/audit", None)
        .await
        .refused(403, "forbidden");
    // Flags and settings are for all apps: a key of one reads them, and changes none.
    site.put("/v1/flags/new", json!({})).await.expect(200);
    for path in ["/v1/flags", "/v1/flags/new", "/v1/flags/new/history", "/v1/settings"] {
        site.ask_as(&developer, Method::GET, path, None).await.expect(200);
    }
    for path in ["/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/new"] {
        let evaluate = Some(json!({}));
        site.ask_as(&developer, Method::POST, path, evaluate).await.expect(200);
    }
    site.ask_as(&developer, Method::PUT, "/v1/flags/new", Some(json!({})))
        .await
        .refused(403, "forbidden");
    let admin = site.make_key(json!({ "name": "a", "role": "admin" })).await;
    let owner = Some(json!({ "name": "o", "role": "owner" }));
    site.ask_as(&admin, Method::POST, "/v1/keys", owner)
        .await
        .refused(403, "forbidden");
    let id = developer.split('_').nth(1).unwrap();
    site.ask_as(&admin, Method::DELETE, &format!("/v1/keys/{id}"), None)
        .await
        .expect(204);
    site.ask_as(&developer, Method::GET, "/v1/apps", None)
        .await
        .refused(401, "wrong_key");
    let own = site.get("/v1/keys/self").await.expect(200)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    site.delete(&format!("/v1/keys/{own}")).await.refused(409, "conflict");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_posts_are_done_once() {
    let site = Site::start().await;
    let again = |key: &'static str, body: Value| {
        let request = site.request(Method::POST, "/v1/apps").bearer_auth(&site.key);
        answer(request.header("idempotency-key", key).json(&body))
    };
    for name in ["a", "b", "c"] {
        site.post("/v1/apps", json!({ "name": name })).await.expect(201);
    }
    let first = again("one", json!({ "name": "d" })).await.expect(201);
    let second = again("one", json!({ "name": "d" })).await;
    assert_eq!(second.headers["idempotency-replayed"], "true");
    assert_eq!(second.expect(201), first);
    again("one", json!({ "name": "e" })).await.refused(422, "invalid");
    again("two", json!({ "name": "d" })).await.refused(409, "exists");
    let (mut names, mut path) = (Vec::new(), "/v1/apps?limit=3".to_owned());
    loop {
        let page = site.get(&path).await.expect(200);
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|app| app["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/apps?limit=3&cursor={next}");
    }
    assert_eq!(names, ["a", "b", "c", "d"]);
    // An answer that shows a secret is not kept.
    let request = || {
        let request = site
            .request(Method::POST, "/v1/keys")
            .bearer_auth(&site.key)
            .header("idempotency-key", "k");
        answer(request.json(&json!({ "name": "x", "role": "viewer" })))
    };
    request().await.expect(201);
    request().await.refused(409, "conflict");
    for (path, status, code) in [
        ("/v1/apps?limit=0", 400, "malformed"),
        ("/v1/nothing", 404, "not_found"),
    ] {
        site.get(path).await.refused(status, code);
    }
    site.post("/v1/apps", json!({ "nam": "x" }))
        .await
        .refused(400, "malformed");
    site.post("/v1/apps/a", json!({})).await.refused(405, "method");
    site.post("/v1/apps", json!({ "name": "x".repeat(5_000_000) }))
        .await
        .refused(413, "too_large");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_what_its_digest_says() {
    let site = Site::start().await;
    let digest = site.upload("0123456789").await;
    let path = format!("/v1/blobs/{digest}");
    let get = |range: &str| {
        answer(
            site.request(Method::GET, &path)
                .bearer_auth(&site.key)
                .header("range", range),
        )
    };
    assert_eq!(site.get(&path).await.text, "0123456789");
    let part = get("bytes=2-4").await;
    assert_eq!((part.status.as_u16(), part.text.as_str()), (206, "234"));
    assert_eq!(part.headers["content-range"], "bytes 2-4/10");
    get("bytes=10-").await.refused(416, "range");
    assert_eq!(site.upload("0123456789").await, digest);
    let put = |path: String, body: String| answer(site.request(Method::PUT, &path).bearer_auth(&site.key).body(body));
    let other = format!("/v1/blobs/{}", "0".repeat(64));
    put(other.clone(), "something else".to_owned())
        .await
        .refused(422, "invalid");
    site.get(&other).await.refused(404, "not_found");
    put(other, "x".repeat(1024 * 1024 + 1)).await.refused(413, "too_large");
    put("/v1/blobs/abc".to_owned(), String::new())
        .await
        .refused(400, "malformed");
    site.upload("").await;
    // Of what was refused nothing is left.
    assert_eq!(
        std::fs::read_dir(site.folder.path().join("artifacts/blobs/sha256"))
            .unwrap()
            .count(),
        2
    );
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_from_upload_to_rollback() {
    let site = Site::start().await;
    let ids = site.deployed("shop", 2).await;
    let made = site.get(&format!("/v1/deployments/{}", ids[0])).await.expect(200);
    assert_eq!((&made["state"], &made["version"]), (&json!("uploaded"), &json!(1)));
    assert_eq!(made["blobs"][0]["bytes"], 11);
    assert_eq!(made["preview_url"], "http://shop-v1.localhost:8080/");
    let list = site.get("/v1/apps/shop/deployments").await.expect(200);
    assert_eq!(list["items"][0]["preview_url"], "http://shop-v2.localhost:8080/");
    let run = async |id: &str, body: Value| site.post(&format!("/v1/deployments/{id}/activate"), body).await;
    run(&ids[0], json!({ "percent": 5 })).await.refused(409, "conflict");
    assert_eq!(
        run(&ids[0], json!({})).await.expect(200)["deployment"]["state"],
        "active"
    );
    run(&ids[1], json!({ "percent": 10 })).await.expect(200);
    let app = site.get("/v1/apps/shop").await.expect(200);
    assert_eq!(app["url"], "http://shop.localhost:8080/");
    assert_eq!(site.get("/v1/apps").await.expect(200)["items"][0], app);
    assert_eq!(
        (&app["active"], &app["rollout"], &app["percent"]),
        (&json!(ids[0]), &json!(ids[1]), &json!(10))
    );
    // The rollout ends, and then comes again for all.
    site.post("/v1/apps/shop/rollback", json!({})).await.expect(200);
    assert_eq!(site.state(&ids[1]).await, "retired");
    run(&ids[1], json!({})).await.expect(200);
    assert_eq!(site.state(&ids[0]).await, "retired");
    let back = site.post("/v1/apps/shop/rollback", json!({})).await.expect(200);
    assert_eq!(back["deployment"]["id"], json!(ids[0]));
    site.post("/v1/apps/shop/rollback", json!({ "to": 2 }))
        .await
        .expect(200);
    assert_eq!(
        (site.state(&ids[0]).await, site.state(&ids[1]).await),
        (json!("retired"), json!("active"))
    );
    site.post("/v1/apps/shop/rollback", json!({ "to": 7 }))
        .await
        .refused(404, "not_found");
    let deployments = "/v1/apps/shop/deployments";
    let missing = site
        .post(deployments, deployment(&"0".repeat(64)))
        .await
        .refused(422, "invalid");
    assert_eq!(missing["missing"], json!(["0".repeat(64)]));
    let mut wrong = deployment(&digest("component 0"));
    wrong["manifest"]["handlrs"] = json!({});
    let told = site.post(deployments, wrong).await.refused(422, "invalid");
    assert_eq!(told["errors"][0]["help"], "did you mean `handlers`?");
    site.put("/v1/apps/shop/domains/shop.example.com", json!({}))
        .await
        .expect(200);
    site.post("/v1/apps", json!({ "name": "blog" })).await.expect(201);
    site.put("/v1/apps/blog/domains/shop.example.com", json!({}))
        .await
        .refused(409, "conflict");
    site.delete("/v1/apps/shop").await.expect(200);
    site.get(&format!("/v1/deployments/{}", ids[0]))
        .await
        .refused(404, "not_found");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_deployments_are_compared() {
    let site = Site::start().await;
    let first = site.deployed("shop", 1).await.remove(0);
    let digest = site.upload("another component").await;
    let mut body = deployment(&digest);
    body["manifest"]["handlers"]["shop"]["limits"] = json!({ "concurrency": 2 });
    let another = json!({ "path": "static/a.txt", "digest": digest });
    body["blobs"].as_array_mut().unwrap().push(another);
    let made = site.post("/v1/apps/shop/deployments", body).await.expect(201);
    let second = made["id"].as_str().unwrap();
    let path = |from: &str, to: &str| format!("/v1/deployments/{from}/diff/{to}");
    let there = site.get(&path(&first, second)).await.expect(200);
    assert_eq!(
        (&there["before"]["version"], &there["after"]["version"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(
        there["manifest"],
        json!([{ "pointer": "/handlers/shop/limits", "after": { "concurrency": 2 } }])
    );
    let files = &there["files"];
    assert_eq!(files["changed"][0]["path"], "shop.wasm");
    assert_eq!(files["changed"][0]["after"]["digest"], json!(digest));
    assert_eq!(
        files["added"],
        json!([{ "path": "static/a.txt", "digest": digest, "bytes": 17 }])
    );
    assert_eq!(files["removed"], json!([]));
    let back = site.get(&path(second, &first)).await.expect(200);
    assert_eq!(
        (&back["files"]["removed"], &back["files"]["added"]),
        (&files["added"], &json!([]))
    );
    assert_eq!(site.get(&path(second, second)).await.expect(200)["manifest"], json!([]));
    site.get(&path(second, "x")).await.refused(404, "not_found");
    // Both are to be read by whoever compares them.
    let other = site.deployed("blog", 1).await.remove(0);
    let key = site
        .make_key(json!({ "name": "v", "role": "viewer", "app": "shop" }))
        .await;
    let refused = site.ask_as(&key, Method::GET, &path(second, &other), None).await;
    refused.refused(403, "forbidden");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn activations_at_the_same_time_leave_one_active() {
    let site = Site::start().await;
    let ids = site.deployed("shop", 4).await;
    let activations = ids.iter().map(async |id| {
        site.post(&format!("/v1/deployments/{id}/activate"), json!({}))
            .await
            .expect(200);
    });
    futures::future::join_all(activations).await;
    let active = site.get("/v1/apps/shop").await.expect(200)["active"].clone();
    for id in &ids {
        let expected = if active == json!(id) { "active" } else { "retired" };
        assert_eq!(site.state(id).await, expected);
    }
    let verified = site.get("/v1/audit/verify").await.expect(200);
    assert_eq!(verified["broken_at"], Value::Null);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pops_prepare_acknowledge_and_leave() {
    let site = Site::start().await;
    let (fra, nyc) = (site.join("fra").await, site.join("nyc").await);
    for (pop, key) in [("fra", &fra), ("nyc", &nyc)] {
        site.report(pop, key, json!({ "revision": 0 })).await.expect(200);
    }
    site.report("nyc", &fra, json!({ "revision": 0 }))
        .await
        .refused(403, "forbidden");
    site.report("fra", &fra, json!({ "revision": 99 }))
        .await
        .refused(422, "invalid");
    let id = site.deployed("shop", 1).await.remove(0);
    let activate = format!("/v1/deployments/{id}/activate");
    let waiting = site.post(&activate, json!({})).await.refused(409, "conflict");
    assert_eq!(waiting["waiting_for"], json!(["fra", "nyc"]));
    let said = |state: &str, message: Value| json!({ "revision": 2, "deployments": { &id: { "state": state, "message": message } } });
    site.report("fra", &fra, said("prepared", Value::Null))
        .await
        .expect(200);
    assert_eq!(site.state(&id).await, "uploaded");
    site.report("nyc", &nyc, said("failed", json!("no memory")))
        .await
        .expect(200);
    let failed = site.get(&format!("/v1/deployments/{id}")).await.expect(200);
    assert_eq!(
        (&failed["state"], &failed["message"]),
        (&json!("failed"), &json!("nyc: no memory"))
    );
    site.report("nyc", &nyc, said("prepared", Value::Null))
        .await
        .expect(200);
    assert_eq!(site.state(&id).await, "prepared");
    let revision = site.post(&activate, json!({})).await.expect(200)["revision"]
        .as_i64()
        .unwrap();
    let changes = format!("/v1/changes/{revision}?wait_ms=0");
    assert_eq!(site.get(&changes).await.expect(200)["propagated"], false);
    let path = format!("/v1/changes/{revision}?wait_ms=30000");
    let report = async {
        for (pop, key) in [("fra", &fra), ("nyc", &nyc)] {
            site.report(pop, key, json!({ "revision": revision })).await.expect(200);
        }
    };
    let (told, ()) = tokio::join!(site.get(&path), report);
    let told = told.expect(200);
    assert_eq!(told["propagated"], true, "{told}");
    assert!(told["pops"]["fra"]["acknowledged_ms"].is_i64());
    // Gone at once; to join anew takes a token of its own name.
    site.delete("/v1/pops/nyc").await.expect(204);
    site.report("nyc", &nyc, json!({ "revision": 0 }))
        .await
        .refused(401, "wrong_key");
    assert_eq!(
        site.get("/v1/pops").await.expect(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let invite = async |body: Value| {
        site.post("/v1/pops/invite", body).await.expect(201)["token"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let join = async |token: &str| {
        site.ask_as(token, Method::POST, "/v1/pops", Some(json!({ "name": "fra" })))
            .await
    };
    let token = invite(json!({})).await;
    join(&token).await.refused(409, "exists");
    let token = invite(json!({ "pop": "fra" })).await;
    join(&token).await.expect(201);
    join(&token).await.refused(401, "wrong_key");
    site.report("fra", &fra, json!({ "revision": 0 }))
        .await
        .refused(401, "wrong_key");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_have_versions_and_are_evaluated() {
    let site = Site::start().await;
    let flag = json!({ "rules": [{ "when": [{ "attribute": "country", "is": ["CH"] }], "serve": "on" }] });
    let set = site.put("/v1/flags/checkout", flag.clone()).await;
    assert_eq!(set.headers["etag"], "\"1\"");
    let set = async |condition: (&str, &str), value: Value| {
        let request = site.request(Method::PUT, "/v1/flags/checkout").bearer_auth(&site.key);
        answer(request.header(condition.0, condition.1).json(&value)).await
    };
    set(("if-none-match", "*"), flag.clone()).await.refused(409, "exists");
    set(("if-match", "\"7\""), flag.clone()).await.refused(412, "changed");
    assert_eq!(set(("if-match", "\"1\""), json!({})).await.expect(200)["version"], 2);
    let back = site
        .post("/v1/flags/checkout/rollback", json!({ "to": 1 }))
        .await
        .expect(200);
    assert_eq!((&back["version"], &back["value"]["rules"]), (&json!(3), &flag["rules"]));
    site.put("/v1/flags/checkout", json!({ "rules": [{ "serve": "onn" }] }))
        .await
        .refused(422, "invalid");
    let evaluate = async |context: Value| {
        site.post("/ofrep/v1/evaluate/flags/checkout", json!({ "context": context }))
            .await
            .expect(200)
    };
    let found = evaluate(json!({ "targetingKey": "u", "country": "CH" })).await;
    assert_eq!(
        (&found["value"], &found["reason"]),
        (&json!(true), &json!("TARGETING_MATCH"))
    );
    assert_eq!(evaluate(json!({})).await["value"], false);
    let missing = site.post("/ofrep/v1/evaluate/flags/other", json!({})).await.expect(404);
    assert_eq!(missing["errorCode"], "FLAG_NOT_FOUND");
    let all = site.post("/ofrep/v1/evaluate/flags", json!({})).await;
    let request = site
        .request(Method::POST, "/ofrep/v1/evaluate/flags")
        .bearer_auth(&site.key)
        .json(&json!({}));
    let same = answer(request.header("if-none-match", &all.headers["etag"])).await;
    assert_eq!(
        (same.status.as_u16(), all.json()["flags"][0]["key"].as_str()),
        (304, Some("checkout"))
    );
    site.delete("/v1/flags/checkout").await.expect(200);
    site.get("/v1/flags/checkout").await.refused(404, "not_found");
    let history = site.get("/v1/flags/checkout/history").await.expect(200);
    let versions: Vec<_> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["version"].as_i64().unwrap())
        .collect();
    assert_eq!(
        (versions, &history["items"][0]["value"]),
        (vec![4, 3, 2, 1], &Value::Null)
    );
    site.put("/v1/settings/theme", json!("dark")).await.expect(200);
    assert_eq!(site.get("/v1/settings/theme").await.expect(200)["value"], "dark");
    site.post("/v1/purge", json!({ "tag": "products" })).await.expect(200);
    site.post("/v1/purge", json!({ "url": "products" }))
        .await
        .refused(422, "invalid");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_meanwhile_is_not_changed() {
    let site = Site::start().await;
    let ids = site.deployed("shop", 2).await;
    let ask = async |method: Method, path: &str, condition: (&str, &str), body: Value| {
        let request = site.request(method, path).bearer_auth(&site.key);
        answer(request.header(condition.0, condition.1).json(&body)).await
    };
    for (path, first, second) in [
        ("/v1/apps/shop/env/A", json!({ "value": "1" }), json!({ "value": "2" })),
        (
            "/v1/apps/shop/secrets/A",
            json!({ "value": "1" }),
            json!({ "value": "2" }),
        ),
        ("/v1/apps/shop/domains/shop.example.com", json!({}), json!({})),
    ] {
        let new = ("if-none-match", "*");
        ask(Method::PUT, path, ("if-match", "*"), first.clone())
            .await
            .refused(404, "not_found");
        let made = ask(Method::PUT, path, new, first.clone()).await;
        let tag = made.headers["etag"].to_str().unwrap().to_owned();
        made.expect(200);
        ask(Method::PUT, path, new, first.clone()).await.refused(409, "exists");
        let changed = ask(Method::PUT, path, ("if-match", &tag), second.clone()).await;
        let newer = changed.headers["etag"].to_str().unwrap().to_owned();
        changed.expect(200);
        ask(Method::PUT, path, ("if-match", &tag), first)
            .await
            .refused(412, "changed");
        ask(Method::DELETE, path, ("if-match", &tag), Value::Null)
            .await
            .refused(412, "changed");
        ask(Method::DELETE, path, ("if-match", &newer), Value::Null)
            .await
            .expect(200);
        // Made anew it is not what it was.
        ask(Method::PUT, path, new, second).await.expect(200);
        ask(Method::DELETE, path, ("if-match", &newer), Value::Null)
            .await
            .refused(412, "changed");
    }
    let variable = site.get("/v1/apps/shop/env/A").await;
    let tag = variable.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", variable.json()["revision"]));
    let app = async || {
        let app = site.get("/v1/apps/shop").await;
        app.headers["etag"].to_str().unwrap().to_owned()
    };
    let before = app().await;
    let activate = |id: &str| format!("/v1/deployments/{id}/activate");
    let condition = ("if-match", before.as_str());
    ask(Method::POST, &activate(&ids[0]), condition, json!({}))
        .await
        .expect(200);
    for (path, body) in [
        (activate(&ids[1]), json!({})),
        (activate(&ids[1]), json!({ "percent": 5 })),
        ("/v1/apps/shop/rollback".to_owned(), json!({ "to": 1 })),
    ] {
        ask(Method::POST, &path, condition, body).await.refused(412, "changed");
    }
    ask(Method::DELETE, "/v1/apps/shop", condition, Value::Null)
        .await
        .refused(412, "changed");
    let mut tags = vec![app().await];
    for (path, body) in [
        (activate(&ids[1]), json!({ "percent": 5 })),
        ("/v1/apps/shop/rollback".to_owned(), json!({})),
        (activate(&ids[1]), json!({})),
        ("/v1/apps/shop/rollback".to_owned(), json!({})),
    ] {
        let condition = ("if-match", tags.last().unwrap().as_str());
        ask(Method::POST, &path, condition, body).await.expect(200);
        let tag = app().await;
        assert!(!tags.contains(&tag), "{path} {tag}");
        tags.push(tag);
    }
    let condition = ("if-match", tags.last().unwrap().as_str());
    ask(Method::DELETE, "/v1/apps/shop", condition, Value::Null)
        .await
        .expect(200);
    site.stop().await;
}

/// `SELVEDGE_WRITE=1` writes it anew.
#[test]
fn the_committed_description_is_the_served_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    if std::env::var_os("SELVEDGE_WRITE").is_some() {
        std::fs::write(&path, selvedge_control::openapi()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == selvedge_control::openapi(),
        "run this test with SELVEDGE_WRITE=1"
    );
}
