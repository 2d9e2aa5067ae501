//! Whatever stands in `_config`, by a mistake of control, of its operator or of a disk: what serves goes on serving, and
//! control is told why the new one does not.

use reqwest::Method;
use selvedge_tests::executable::repository;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Agent, Platform, client};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn guest(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/guests").join(name)).expect("the guest is committed")
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes to `_config` behind control's back, and raises the revision.
async fn write(primary: &Agent, sql: &[String]) {
    let statements = sql
        .iter()
        .map(String::as_str)
        .chain(["UPDATE revision SET number = number + 1"]);
    let statements: Vec<_> = statements.map(|sql| json!({ "sql": sql, "params": [] })).collect();
    let client = client::builder().unix_socket(primary.socket()).build();
    let request = client
        .expect("these settings make a client")
        .post("http://agent/v1/databases/_config/execute")
        .json(&json!({ "statements": statements }));
    let answer = request.send().await.expect("the agent answers");
    let status = answer.status();
    assert!(status.is_success(), "{status}: {:?}", answer.text().await);
}

/// One push: what its manifest is, its files by path, digest and size, and what control is told.
struct Push {
    manifest: String,
    files: Vec<(String, String, usize)>,
    told: &'static str,
}

fn text(manifest: Value) -> String {
    manifest.to_string()
}

fn pushes(good: &Value) -> Vec<Push> {
    let file = |path: &str, content: &[u8]| (path.to_owned(), digest(content), content.len());
    let hello = || file("hello.wasm", &guest("hello-p2.wasm"));
    let push = |manifest: String, told| Push {
        manifest,
        files: vec![hello()],
        told,
    };
    let changed = |change: fn(&mut Value), told| {
        let mut manifest = good.clone();
        change(&mut manifest);
        push(text(manifest), told)
    };
    let with = |files, told| Push {
        manifest: text(good.clone()),
        files,
        told,
    };
    let whole = text(good.clone());
    let cut = &guest("hello-p2.wasm")[..5000];
    vec![
        push(String::new(), "not JSON"),
        push(whole[..whole.len() / 2].to_owned(), "not JSON"),
        push(whole.clone() + &whole, "not JSON"),
        push(text(json!([good])), "not an object"),
        push("null".to_owned(), "not an object"),
        changed(|it| it["rutes"] = json!([]), "unknown key \"rutes\""),
        changed(
            |it| it["upstreams"] = json!({ "a": { "servers": [{ "address": "a:1" }], "balance": "fastest" } }),
            "/upstreams/a/balance",
        ),
        changed(
            |it| it["handlers"]["api"]["limits"] = json!({ "memory": "12800GiB" }),
            "/limits/memory",
        ),
        changed(|it| it["routes"][0]["handler"] = json!("apj"), "apj"),
        changed(
            |it| it["routes"] = json!([it["routes"][0], it["routes"][0]]),
            "/routes/1",
        ),
        changed(
            |it| it["handlers"]["api"]["component"] = json!("../../hello.wasm"),
            "leaves the deployment",
        ),
        changed(
            |it| it["handlers"]["api"]["component"] = json!("/hello.wasm"),
            "leaves the deployment",
        ),
        changed(|it| it["handlers"]["api"]["env"] = json!({ "HOME": "${HOME}" }), "HOME"),
        changed(
            |it| it["routes"][0]["filters"] = json!([{ "basic_auth": { "file": "/etc/passwd" } }]),
            "outside the deployment",
        ),
        changed(
            |it| it["handlers"]["api"]["secrets"] = json!(["STRIPE_KEY"]),
            "STRIPE_KEY is not set",
        ),
        with(Vec::new(), "not among the files"),
        with(
            vec![("hello.wasm".to_owned(), "0".repeat(64), 100)],
            "cannot fetch hello.wasm",
        ),
        with(
            vec![("hello.wasm".to_owned(), "../../etc/passwd".to_owned(), 100)],
            "digest",
        ),
        with(
            vec![hello(), ("other.wasm".to_owned(), digest(&guest("not-http.wasm")), 17)],
            "where 17 were announced",
        ),
        with(
            vec![hello(), ("../../outside".to_owned(), digest(cut), cut.len())],
            "`..`",
        ),
        with(vec![file("hello.wasm", cut)], "/handlers/api/component"),
        with(vec![file("hello.wasm", &guest("not-http.wasm"))], "wasi:http"),
        with(
            vec![file("hello.wasm", &guest("unknown-import.wasm"))],
            "does not provide",
        ),
    ]
}

#[tokio::test]
async fn no_bad_push_replaces_what_serves() {
    let platform = Platform::start(1).await;
    let (control, pop) = (&platform.control, &platform.pops[0]);
    control
        .done(Method::POST, "/v1/apps", Some(json!({ "name": "shop" })))
        .await;
    let good = json!({
        "handlers": { "api": { "component": "hello.wasm" } },
        "routes": [{ "match": { "path": "/*" }, "handler": "api" }],
    });
    let hello = guest("hello-p2.wasm");
    let first = control.deploy("shop", good.clone(), &[("hello.wasm", &hello)]).await;
    control.activate(&first, 100).await;
    // So that control has them, as it has what was pushed.
    let other = ["not-http.wasm", "unknown-import.wasm"].map(guest);
    for content in [&other[0], &other[1], &hello[..5000].to_vec()] {
        let url = format!("{}/v1/blobs/{}", control.url(), digest(content));
        let upload = client::client()
            .put(url)
            .bearer_auth(control.key())
            .body(content.clone());
        assert!(upload.send().await.expect("control answers").status().is_success());
    }

    let pushes = pushes(&good);
    assert!(pushes.len() >= 15, "{}", pushes.len());
    for (number, push) in pushes.iter().enumerate() {
        let version = number + 2;
        let id = format!("{version:032}");
        let quote = |text: &str| text.replace('\'', "''");
        let mut sql = vec![format!(
            "INSERT INTO deployments (id, app, version, created_ms, state, manifest) VALUES ('{id}', 'shop', {version}, 0, 'uploaded', '{}')",
            quote(&push.manifest)
        )];
        sql.extend(push.files.iter().map(|(path, digest, bytes)| {
            format!(
                "INSERT INTO deployment_blobs VALUES ('{id}', '{}', '{}', {bytes})",
                quote(path),
                quote(digest)
            )
        }));
        sql.push(format!("UPDATE apps SET previous = active, active = '{id}'"));
        write(&platform.primary, &sql).await;
        let told = wait_for("control to be told", async || {
            let (_, found) = control.ask(Method::GET, &format!("/v1/deployments/{id}"), None).await;
            found["pops"][0]["message"].as_str().map(str::to_owned)
        })
        .await;
        assert!(told.contains(push.told), "{}: {told}", push.manifest);
        assert_eq!(
            pop.get("shop.localhost", "/").await,
            (200, "hello\n".to_owned()),
            "{told}"
        );
    }

    // A database this version does not know.
    write(&platform.primary, &["ALTER TABLE env RENAME TO variables".to_owned()]).await;
    pop.edge.logs("what control wants is not known").await;
    assert_eq!(pop.get("shop.localhost", "/").await, (200, "hello\n".to_owned()));
    write(&platform.primary, &["ALTER TABLE variables RENAME TO env".to_owned()]).await;

    // And a good one after all of them.
    let last = control.deploy("shop", good, &[("hello.wasm", &hello)]).await;
    control.activate(&last, 100).await;
    assert_eq!(pop.get("shop.localhost", "/").await, (200, "hello\n".to_owned()));
}
