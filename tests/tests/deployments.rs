//! What is deployed at control is served by every PoP: activated, rolled out, rolled back, and without control.

use std::collections::BTreeSet;

use reqwest::Method;
use selvedge_tests::Platform;
use selvedge_tests::executable::repository;
use selvedge_tests::wait::wait_for;
use serde_json::{Value, json};

const PAGE: &[(&str, &str)] = &[("sec-fetch-dest", "document")];

fn guest(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/guests").join(name)).expect("the guest is committed")
}

/// A page, a script beside it, and a handler.
fn manifest() -> Value {
    json!({
        "handlers": { "api": { "component": "hello.wasm" } },
        "routes": [
            { "match": { "path": "/api/*" }, "handler": "api" },
            { "match": { "path": "/*" }, "static": { "root": "public" } },
        ],
    })
}

async fn deploy(platform: &Platform, text: &str) -> String {
    let hello = guest("hello-p2.wasm");
    let page = format!("page of {text}\n");
    let script = format!("script of {text}\n");
    let files = [
        ("hello.wasm", hello.as_slice()),
        ("public/index.html", page.as_bytes()),
        ("public/app.js", script.as_bytes()),
    ];
    platform.control.deploy("shop", manifest(), &files).await
}

async fn make_app(platform: &Platform) {
    let shop = json!({ "name": "shop" });
    platform.control.done(Method::POST, "/v1/apps", Some(shop)).await;
}

fn cookies(response: &reqwest::Response) -> Vec<String> {
    let set = response.headers().get_all("set-cookie").iter();
    let set = set.filter_map(|value| value.to_str().ok());
    set.filter_map(|value| Some(value.split_once(';')?.0.to_owned()))
        .collect()
}

#[tokio::test]
async fn deployed_activated_rolled_back_and_served_without_control() {
    let mut platform = Platform::start(2).await;
    make_app(&platform).await;
    for pop in &platform.pops {
        wait_for("an app without a deployment to say so", async || {
            (pop.get("shop.localhost", "/").await.0 == 503).then_some(())
        })
        .await;
    }

    let first = deploy(&platform, "one").await;
    let prepared = platform.control.state(&first, "prepared").await;
    assert_eq!(
        prepared["pops"].as_array().map(Vec::len),
        Some(2),
        "each PoP has said it: {prepared}"
    );
    for pop in &platform.pops {
        assert_eq!(
            pop.get("shop-v1.localhost", "/").await,
            (200, "page of one\n".to_owned())
        );
        assert_eq!(pop.get("shop.localhost", "/").await.0, 503, "prepared is not active");
    }
    platform.control.activate(&first, 100).await;
    for pop in &platform.pops {
        assert_eq!(pop.get("shop.localhost", "/").await, (200, "page of one\n".to_owned()));
        assert_eq!(pop.get("shop.localhost", "/api/x").await, (200, "hello\n".to_owned()));
        assert_eq!(
            pop.get("other.localhost", "/").await.0,
            404,
            "another host is not the app's"
        );
    }

    let domain = platform
        .control
        .done(Method::PUT, "/v1/apps/shop/domains/shop.example.com", None);
    platform.control.everywhere(&domain.await["revision"]).await;
    let second = deploy(&platform, "two").await;
    platform.control.activate(&second, 100).await;
    for pop in &platform.pops {
        assert_eq!(
            pop.get("shop.example.com", "/").await,
            (200, "page of two\n".to_owned())
        );
        assert_eq!(
            pop.get("shop-v1.localhost", "/").await,
            (200, "page of one\n".to_owned())
        );
    }

    let back = platform
        .control
        .done(Method::POST, "/v1/apps/shop/rollback", Some(json!({})))
        .await;
    platform.control.everywhere(&back["revision"]).await;
    for pop in &platform.pops {
        assert_eq!(
            pop.get("shop.example.com", "/").await,
            (200, "page of one\n".to_owned())
        );
    }

    // Level 5: control is gone, then the primary too. PoPs serve, and start, with what they have.
    platform.control.kill();
    platform.pops[0].restart_proxy().await;
    let pop = &platform.pops[0];
    wait_for("the restarted proxy to serve the app", async || {
        (pop.get("shop.example.com", "/").await == (200, "page of one\n".to_owned())).then_some(())
    })
    .await;
    wait_for("level 5 to be visible", async || {
        let level = pop.ask("shop.example.com", "/api/x", &[]).await;
        (level.headers().get("x-selvedge-level")? == "5").then_some(())
    })
    .await;
    assert_eq!(pop.edge.metric("selvedge_control_lost").await, Some(1.0));
    platform.primary.kill();
    platform.pops[0].restart_proxy().await;
    let pop = &platform.pops[0];
    wait_for("the restarted proxy to serve the app", async || {
        (pop.get("shop.example.com", "/").await == (200, "page of one\n".to_owned())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_deployment_that_cannot_be_built_changes_nothing_and_says_why() {
    let platform = Platform::start(1).await;
    make_app(&platform).await;
    let first = deploy(&platform, "one").await;
    platform.control.activate(&first, 100).await;

    let not_http = guest("not-http.wasm");
    let files = [
        ("hello.wasm", not_http.as_slice()),
        ("public/index.html", b"never seen".as_slice()),
    ];
    let broken = platform.control.deploy("shop", manifest(), &files).await;
    let failed = platform.control.state(&broken, "failed").await;
    let message = failed["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("pop-0: /handlers/api/component:") && message.contains("wasi:http"),
        "{failed}"
    );
    let path = format!("/v1/deployments/{broken}/activate");
    let (status, problem) = platform.control.ask(Method::POST, &path, Some(json!({}))).await;
    assert_eq!(status, 409, "{problem}");
    let pop = &platform.pops[0];
    assert_eq!(pop.get("shop.localhost", "/").await, (200, "page of one\n".to_owned()));
    assert_eq!(
        pop.get("shop-v2.localhost", "/").await.0,
        404,
        "there is nothing to preview"
    );

    // One that builds and does not work.
    let probe = guest("probe-p2.wasm");
    for (health, state) in [
        ("/status/503", "failed"),
        ("/trap-before", "failed"),
        ("/status/404", "prepared"),
    ] {
        let sick = json!({
            "handlers": { "api": { "component": "probe.wasm", "health_check": { "path": health } } },
            "routes": [{ "match": { "path": "/*" }, "handler": "api" }],
        });
        let sick = platform.control.deploy("shop", sick, &[("probe.wasm", &probe)]).await;
        let judged = platform.control.state(&sick, state).await;
        let why = judged["message"].as_str().unwrap_or_default();
        let named = format!("/handlers/api/health_check: {health}");
        assert!(state == "prepared" || why.contains(&named), "{judged}");
    }
}

#[tokio::test]
async fn a_rollout_is_sticky_and_a_page_keeps_its_own_version() {
    let platform = Platform::start(1).await;
    make_app(&platform).await;
    let first = deploy(&platform, "one").await;
    platform.control.activate(&first, 100).await;
    let pop = &platform.pops[0];
    let page = pop.ask("shop.localhost", "/", PAGE).await;
    let of_first = cookies(&page);
    assert_eq!(of_first, [format!("selvedge-deployment={first}")]);
    let logged = pop.edge.access_log_of(1).await.remove(0);
    assert_eq!(
        (&logged["app"], &logged["version"]),
        (&json!("shop"), &json!(1)),
        "{logged}"
    );

    let second = deploy(&platform, "two").await;
    platform.control.activate(&second, 50).await;
    let mut seen = BTreeSet::new();
    for client in 0..40 {
        let agent = format!("client {client}");
        let first_answer = pop.ask("shop.localhost", "/app.js", &[("user-agent", &agent)]).await;
        let bucket = cookies(&first_answer).join("; ");
        assert!(bucket.starts_with("selvedge-bucket="), "{bucket}");
        let text = first_answer.text().await.expect("a script");
        for _ in 0..3 {
            // Somewhere else, with its cookie; and without, from where it was.
            for headers in [
                [("cookie", bucket.as_str()), ("user-agent", "moved")],
                [("cookie", "unrelated=1"), ("user-agent", &agent)],
            ] {
                let again = pop.ask("shop.localhost", "/app.js", &headers).await;
                assert_eq!(again.text().await.expect("a script"), text, "{headers:?}");
            }
        }
        seen.insert(text);
    }
    assert_eq!(seen.len(), 2, "half of 40 clients get each version: {seen:?}");

    platform.control.activate(&second, 100).await;
    let (_, page) = pop.get("shop.localhost", "/").await;
    assert_eq!(page, "page of two\n");
    // What the old page asks for comes from the old version; a new page does not.
    let cookie = of_first[0].as_str();
    let script = pop
        .ask(
            "shop.localhost",
            "/app.js",
            &[("cookie", cookie), ("sec-fetch-dest", "script")],
        )
        .await;
    assert_eq!(script.text().await.expect("a script"), "script of one\n");
    let navigated = pop.ask("shop.localhost", "/", &[("cookie", cookie), PAGE[0]]).await;
    assert_eq!(cookies(&navigated), [format!("selvedge-deployment={second}")]);
    assert_eq!(navigated.text().await.expect("a page"), "page of two\n");
}

#[tokio::test]
async fn variables_and_purges_reach_pops_and_a_reload_keeps_what_is_deployed() {
    let mut platform = Platform::start(1).await;
    make_app(&platform).await;
    let manifest = json!({
        "handlers": { "probe": { "component": "probe.wasm", "env": { "GREETING": "from the manifest" } } },
        "routes": [
            { "match": { "path": "/clock" }, "handler": "probe", "cache": { "isr": { "revalidate": "1h" } } },
            { "match": { "path": "/*" }, "handler": "probe" },
        ],
    });
    let probe = guest("probe-p2.wasm");
    let deployment = platform
        .control
        .deploy("shop", manifest, &[("probe.wasm", &probe)])
        .await;
    platform.control.activate(&deployment, 100).await;
    let greeting = async |platform: &Platform| {
        let (_, variables) = platform.pops[0].get("shop.localhost", "/env").await;
        let greeting = variables.lines().find_map(|line| line.strip_prefix("env GREETING="));
        greeting.unwrap_or_default().to_owned()
    };
    assert_eq!(greeting(&platform).await, "from the manifest");
    let value = json!({ "value": "from control" });
    let set = platform
        .control
        .done(Method::PUT, "/v1/apps/shop/env/GREETING", Some(value));
    platform.control.everywhere(&set.await["revision"]).await;
    assert_eq!(greeting(&platform).await, "from control");

    let cached = async |platform: &Platform| {
        let response = platform.pops[0].ask("shop.localhost", "/clock", &[]).await;
        let status = response
            .headers()
            .get("cache-status")
            .and_then(|value| value.to_str().ok());
        status.is_some_and(|status| status.contains("; hit"))
    };
    for purge in [
        json!({ "url": "http://shop.localhost/clock" }),
        json!({ "tag": "page" }),
        json!({ "everything": true }),
    ] {
        cached(&platform).await;
        assert!(cached(&platform).await, "the page is kept");
        let purged = platform
            .control
            .done(Method::POST, "/v1/purge", Some(purge.clone()))
            .await;
        platform.control.everywhere(&purged["revision"]).await;
        assert!(!cached(&platform).await, "the page is gone: {purge}");
    }

    // Another configuration file, as an operator reloads it.
    let file = platform.pops[0].configuration().to_owned()
        + "routes: [{ match: { path: /* }, respond: { status: 200, body: file } }]\n";
    platform.pops[0].edge.reload(&file).await;
    assert_eq!(
        platform.pops[0].get("elsewhere.localhost", "/").await,
        (200, "file".to_owned())
    );
    assert_eq!(greeting(&platform).await, "from control");
    let flip = json!({ "value": "after the reload" });
    let set = platform
        .control
        .done(Method::PUT, "/v1/apps/shop/env/GREETING", Some(flip));
    platform.control.everywhere(&set.await["revision"]).await;
    assert_eq!(greeting(&platform).await, "after the reload");
}

#[tokio::test]
async fn secrets_and_databases_are_the_apps_own() {
    let platform = Platform::start(2).await;
    make_app(&platform).await;
    let secret = json!({ "value": "sk_live_very_secret" });
    let path = "/v1/apps/shop/secrets/STRIPE_KEY";
    platform.control.done(Method::PUT, path, Some(secret)).await;
    let manifest = json!({
        "databases": { "shop": { "migrations": "migrations" } },
        "handlers": { "probe": {
            "component": "probe.wasm", "secrets": ["STRIPE_KEY"], "bindings": { "shop": { "database": "shop" } },
        } },
        "routes": [{ "match": { "path": "/*" }, "handler": "probe" }],
    });
    let probe = guest("probe-p2.wasm");
    let table = b"CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;".as_slice();
    let files = [("probe.wasm", probe.as_slice()), ("migrations/0001_items.sql", table)];
    let first = platform.control.deploy("shop", manifest.clone(), &files).await;
    platform.control.activate(&first, 100).await;
    for pop in &platform.pops {
        let (_, variables) = pop.get("shop.localhost", "/env").await;
        assert!(variables.contains("env STRIPE_KEY=sk_live_very_secret"), "{variables}");
    }
    let [here, there] = &platform.pops[..] else {
        unreachable!("two were started")
    };
    let write = "/sql?db=shop&q=INSERT%20INTO%20items%20(name)%20VALUES%20('a')";
    let (status, wrote) = here.get("shop.localhost", write).await;
    assert_eq!(status, 200, "{wrote}");
    wait_for("the other PoP to have the row", async || {
        let (_, rows) = there
            .get("shop.localhost", "/sql?db=shop&q=SELECT%20name%20FROM%20items")
            .await;
        rows.contains("[[\"a\"]]").then_some(())
    })
    .await;

    // A migration that fails leaves the version and the database that serve.
    let broken = b"ALTER TABLE itmes ADD COLUMN price INTEGER;".as_slice();
    let broken = [files[0], files[1], ("migrations/0002_price.sql", broken)];
    let second = platform.control.deploy("shop", manifest.clone(), &broken).await;
    let failed = platform.control.state(&second, "failed").await;
    assert!(
        failed["message"]
            .as_str()
            .is_some_and(|why| why.contains("0002_price.sql")),
        "{failed}"
    );
    // Nor does another app get at it.
    platform
        .control
        .done(Method::POST, "/v1/apps", Some(json!({ "name": "spy" })))
        .await;
    let blobs = json!([
        { "path": "probe.wasm", "digest": digest(&probe) }, { "path": "migrations/0001_items.sql", "digest": digest(table) },
    ]);
    let body = json!({ "manifest": manifest, "blobs": blobs });
    let (status, refused) = platform
        .control
        .ask(Method::POST, "/v1/apps/spy/deployments", Some(body))
        .await;
    assert!([409, 422].contains(&status), "{status} {refused}");

    // A changed secret reaches what serves.
    let secret = json!({ "value": "sk_live_another" });
    let set = platform.control.done(Method::PUT, path, Some(secret)).await;
    platform.control.everywhere(&set["revision"]).await;
    let (_, variables) = here.get("shop.localhost", "/env").await;
    assert!(variables.contains("env STRIPE_KEY=sk_live_another"), "{variables}");
    for said in [
        platform.control.log(),
        here.edge.log(),
        here.agent.log(),
        platform.primary.log(),
    ] {
        assert!(!said.contains("sk_live"), "{said}");
    }
}

fn digest(content: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
