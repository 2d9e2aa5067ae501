//! What is wrong is said before anything is served, where it stands, with what to do; a bad reload changes nothing.

use std::path::Path;
use std::process::Command;

use selvedge_tests::Edge;
use selvedge_tests::client::{self, header};
use selvedge_tests::executable::{executable, repository};
use selvedge_tests::process::Signal;
use selvedge_tests::wait::wait_for;

/// `selvedge check` of `yaml` in `folder`: what it said, and whether it was content.
fn check(folder: &Path, yaml: &str) -> (bool, String) {
    let file = folder.join("edge.yaml");
    std::fs::write(&file, yaml).expect("writing the configuration");
    let output = Command::new(executable())
        .arg("check")
        .arg(&file)
        .output()
        .expect("the executable runs");
    assert_eq!(output.status.code(), Some(if output.status.success() { 0 } else { 1 }));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

const LISTENERS: &str = "listeners: [{ address: 127.0.0.1:0 }]\n";

#[test]
fn check_says_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let guests = repository().join("tests/guests");
    let handler = |component: &str| {
        let routes = "routes: [{ match: { path: /* }, handler: app }]\n";
        format!("{LISTENERS}handlers:\n  app: {{ component: \"{component}\" }}\n{routes}")
    };
    let respond = "respond: { body: hi }";
    std::fs::write(folder.path().join("random.wasm"), [7; 1000]).expect("writing");
    std::fs::write(folder.path().join("cert.pem"), "not a certificate").expect("writing");
    std::fs::create_dir_all(folder.path().join("sql")).expect("a folder");
    std::fs::write(folder.path().join("sql/0001_bad.sql"), "CREATE TABEL x (a);").expect("writing");
    let missing_secret = handler("x.wasm").replace("}\nroutes", ", secrets: [NO_SUCH_SECRET] }\nroutes");
    let cases: Vec<(String, &[&str])> = vec![
        ("listeners: [\n".into(), &["edge.yaml:", "not valid YAML"]),
        (
            format!("{LISTENERS}routs: []\nroutes:\n  - match: {{ paht: /a }}\n    {respond}\n"),
            &[
                "edge.yaml:2:1:",
                "did you mean \"routes\"",
                "edge.yaml:4:14:",
                "did you mean \"path\"",
            ],
        ),
        (handler("gone.wasm"), &["edge.yaml:3:", "gone.wasm"]),
        (handler("random.wasm"), &["edge.yaml:3:", "random.wasm"]),
        (
            handler(&guests.join("not-http.wasm").display().to_string()),
            &["edge.yaml:3:", "wasi:http"],
        ),
        (
            handler(&guests.join("unknown-import.wasm").display().to_string()),
            &["edge.yaml:3:", "import"],
        ),
        (missing_secret, &["NO_SUCH_SECRET is not set"]),
        (
            format!(
                "{LISTENERS}routes:\n  - {{ match: {{ path: /a }}, {respond} }}\n  - {{ match: {{ path: /a }}, {respond} }}\n"
            ),
            &["edge.yaml:4:", "match the same requests, for example GET /a"],
        ),
        (
            format!("{LISTENERS}routes: [{{ match: {{ path: /* }}, static: {{ root: nowhere }} }}]\n"),
            &["edge.yaml:2:", "nowhere"],
        ),
        (
            format!(
                "listeners: [{{ address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: cert.pem, key: cert.pem }}] }} }}]\n\
                     routes: [{{ match: {{ path: /* }}, {respond} }}]\n"
            ),
            &["cert.pem", "no certificate"],
        ),
        (
            handler("x.wasm").replace(
                "handlers",
                "databases: { d: { path: d.db, migrations: sql } }\nhandlers",
            ),
            &["edge.yaml:2:", "0001_bad.sql"],
        ),
        (
            format!(
                "{LISTENERS}routes:\n  - match: {{ path: /* }}\n    filters: [{{ jwt: {{ secret: short }} }}]\n    {respond}\n"
            ),
            &["edge.yaml:4:", "at least 32"],
        ),
    ];
    for (yaml, wanted) in cases {
        let (content, said) = check(folder.path(), &yaml);
        assert!(!content, "accepted:\n{yaml}");
        for part in wanted {
            assert!(said.contains(part), "{part:?} in\n{said}\nabout\n{yaml}");
        }
    }
    assert!(!folder.path().join("d.db").exists(), "checking made nothing");
}

#[test]
fn the_schema_is_printed_and_usage_errors_are_told_apart() {
    let run = |arguments: &[&str]| {
        Command::new(executable())
            .args(arguments)
            .output()
            .expect("the executable runs")
    };
    let schema: serde_json::Value = serde_json::from_slice(&run(&["schema"]).stdout).expect("JSON");
    assert!(schema["$defs"]["Filter"]["properties"]["rate_limit"].is_object());
    assert_eq!(run(&["serve"]).status.code(), Some(2));
    let missing = run(&["run", "/nonexistent.yaml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent.yaml"));
}

#[tokio::test]
async fn a_port_in_use_is_said_before_anything_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let yaml =
        format!("listeners: [{{ address: \"{address}\" }}]\nroutes: [{{ match: {{ path: /* }}, respond: {{}} }}]\n");
    let refused = Edge::configure(&yaml)
        .try_start()
        .await
        .err()
        .expect("it does not start");
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.log.contains(&address.to_string()) && refused.log.contains("in use"),
        "{}",
        refused.log
    );
}

#[tokio::test]
async fn a_bad_configuration_never_replaces_a_good_one() {
    const GOOD: &str = "routes: [{ match: { path: /* }, respond: { body: good } }]\n";
    let mut edge = Edge::start(GOOD).await;
    let bad = "routes: [{ match: { path: /* }, respond: { body: new } }]\nhandlers: { a: { component: gone.wasm } }\n";
    edge.rewrite(bad);
    edge.signal(Signal::HangUp);
    edge.logs("not reloaded").await;
    assert_eq!(
        edge.metric("selvedge_config_reloads_total{outcome=\"refused\"}").await,
        Some(1.0)
    );
    assert_eq!(edge.get("/").await.text().await.expect("a body"), "good");
    let reload = || {
        client::client()
            .post(edge.admin_url("/reload"))
            .header("content-type", "application/json")
            .send()
    };
    let answer = reload().await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "content-type")),
        (409, "application/problem+json")
    );
    let problem = answer.text().await.expect("a body");
    assert!(problem.contains("gone.wasm"), "{problem}");
    edge.rewrite(&GOOD.replace("good", "better"));
    assert_eq!(reload().await.expect("an answer").status(), 200);
    wait_for("the new answer", async || {
        (edge.get("/").await.text().await.ok()? == "better").then_some(())
    })
    .await;
    let listener = format!("listeners: [{{ address: 127.0.0.1:1 }}]\n{GOOD}");
    edge.rewrite(&listener);
    let answer = reload().await.expect("an answer");
    assert_eq!(answer.status(), 409);
    assert!(answer.text().await.expect("a body").contains("restart"));
}
