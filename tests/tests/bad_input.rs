//! What is wrong is said before anything is served, by `check` and by `run` alike, where it stands and with what to do;
//! a refused reload changes nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use selvedge_tests::client::{self, header};
use selvedge_tests::executable::{executable, repository};
use selvedge_tests::process::Signal;
use selvedge_tests::wait::{wait_for, wait_until};
use selvedge_tests::{Edge, certificate};

const LISTENERS: &str = "listeners: [{ address: 127.0.0.1:0 }]\n";
const ANYTHING: &str = "routes: [{ match: { path: /* }, respond: { body: hi } }]\n";
const GOOD: &str = "routes: [{ match: { path: /* }, respond: { body: good } }]\n";
const REFUSED: &str = "selvedge_config_reloads_total{outcome=\"refused\"}";

/// What a command said of `edge.yaml` in `folder`, which it must refuse with status 1 before it serves.
fn refusal(folder: &Path, command: &str) -> String {
    let output = Command::new(executable())
        .args([command, "edge.yaml"])
        .current_dir(folder)
        .env_remove("NO_SUCH_SECRET")
        .stdin(Stdio::null())
        .output()
        .expect("the executable runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{command} said\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Both commands refuse `yaml` and say each of `wanted`.
fn check(folder: &Path, yaml: &str, wanted: &[&str]) {
    std::fs::write(folder.join("edge.yaml"), yaml).expect("writing the configuration");
    for command in ["check", "run"] {
        let said = refusal(folder, command);
        for part in wanted {
            assert!(
                said.contains(part),
                "{part:?} in what {command} said:\n{said}\nabout\n{yaml}"
            );
        }
    }
}

fn handler(component: &str, more: &str) -> String {
    format!(
        "{LISTENERS}handlers:\n  app: {{ component: \"{component}\"{more} }}\n\
         routes: [{{ match: {{ path: /* }}, handler: app }}]\n"
    )
}

fn guest(name: &str) -> String {
    repository().join("tests/guests").join(name).display().to_string()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn text_that_is_no_configuration() {
    let folder = folder();
    for (yaml, wanted) in [
        ("listeners: [\n", &["edge.yaml:2:1: error: not valid YAML"][..]),
        ("listeners: \"open\nroutes: []\n", &["edge.yaml:", "not valid YAML"]),
        ("a: 1\n\tb: 2\n", &["edge.yaml:", "not valid YAML"]),
        ("", &["the configuration is empty", "it needs listeners and routes"]),
        ("a: 1\n---\nb: 2\n", &["a second document; a configuration is one"]),
    ] {
        check(folder.path(), yaml, wanted);
    }
}

#[test]
fn every_unknown_key_is_named_at_once_with_its_place_and_the_nearest_one() {
    let yaml = format!(
        "{LISTENERS}listener: 1\nrouts: []\nroutes:\n  - match: {{ paht: /a }}\n    respond: {{ body: hi, staus: 3 }}\n    \
         filters: [{{ rate_limti: {{ rate: 1/s }} }}]\n"
    );
    check(
        folder().path(),
        &yaml,
        &[
            "edge.yaml:2:1: error: unknown key \"listener\" at the top level; did you mean \"listeners\"?",
            "edge.yaml:3:1: error: unknown key \"routs\" at the top level; did you mean \"routes\"?",
            "edge.yaml:5:14: error: unknown key \"paht\" in routes[0].match; did you mean \"path\"?",
            "edge.yaml:6:26: error: unknown key \"staus\" in routes[0].respond; did you mean \"status\"?",
            "edge.yaml:7:17: error: ",
            "did you mean \"rate_limit\"?",
        ],
    );
}

#[test]
fn components_that_cannot_serve() {
    let folder = folder();
    let real = std::fs::read(guest("probe-p2.wasm")).expect("a guest");
    std::fs::write(folder.path().join("random.wasm"), noise(1000)).expect("writing");
    std::fs::write(folder.path().join("empty.wasm"), "").expect("writing");
    std::fs::write(folder.path().join("half.wasm"), &real[..real.len() / 2]).expect("writing");
    let mut flipped = real[..8].to_vec();
    flipped.extend(noise(real.len() - 8));
    std::fs::write(folder.path().join("flipped.wasm"), flipped).expect("writing");
    std::fs::create_dir(folder.path().join("folder.wasm")).expect("a folder");
    for (component, wanted) in [
        (
            "gone.wasm".to_owned(),
            &["cannot read the component", "gone.wasm", "No such file"][..],
        ),
        ("folder.wasm".to_owned(), &["cannot read the component", "folder.wasm"]),
        (
            "random.wasm".to_owned(),
            &["random.wasm is not a WebAssembly component"],
        ),
        ("empty.wasm".to_owned(), &["empty.wasm is not a WebAssembly component"]),
        ("half.wasm".to_owned(), &["half.wasm does not compile"]),
        ("flipped.wasm".to_owned(), &["flipped.wasm does not compile"]),
        (
            guest("not-http.wasm"),
            &[
                "not-http.wasm exports neither wasi:http/handler@0.3 nor wasi:http/incoming-handler@0.2",
                "it exports wasi:cli/run@0.2",
            ],
        ),
        (
            guest("unknown-import.wasm"),
            &[
                "unknown-import.wasm needs something this version does not provide",
                "selvedge:guests/oracle",
            ],
        ),
    ] {
        check(
            folder.path(),
            &handler(&component, ""),
            &[&["edge.yaml:3:21: error: "], wanted].concat(),
        );
    }
}

/// Bytes without any structure, the same in every run (xorshift, 64 bits).
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn routes_files_databases_and_secrets_that_are_not_there() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("sql")).expect("a folder");
    std::fs::write(folder.path().join("sql/0001_good.sql"), "CREATE TABLE a (b);").expect("writing");
    std::fs::write(folder.path().join("sql/0002_bad.sql"), "CREATE TABEL c (d);").expect("writing");
    std::fs::write(folder.path().join("file"), "").expect("writing");
    let statics =
        |root: &str| format!("{LISTENERS}routes: [{{ match: {{ path: /* }}, static: {{ root: {root} }} }}]\n");
    let two = |first: &str, second: &str| {
        format!(
            "{LISTENERS}routes:\n  - {{ match: {first}, respond: {{}} }}\n  - {{ match: {second}, respond: {{}} }}\n"
        )
    };
    for (yaml, wanted) in [
        (
            two("{ path: /a }", "{ path: /a }"),
            &["edge.yaml:4:5: error: ", "match the same requests, for example GET /a"][..],
        ),
        (
            two("{ path: \"/:a/x\" }", "{ path: \"/:b/x\" }"),
            &["edge.yaml:4:5: error: ", "match the same requests"],
        ),
        (
            two(
                "{ path: /a, methods: [GET, POST] }",
                "{ path: /a, methods: [POST, PUT] }",
            ),
            &["edge.yaml:4:5: error: ", "match the same requests, for example POST /a"],
        ),
        (
            statics("nowhere"),
            &["edge.yaml:2:49: error: cannot open the folder", "nowhere"],
        ),
        (statics("file"), &["edge.yaml:2:49: error: ", "file is not a folder"]),
        (
            format!("{LISTENERS}databases: {{ d: {{ path: d.db, migrations: sql }} }}\n{ANYTHING}"),
            &[
                "edge.yaml:2:17: error: migrating",
                "0002_bad.sql was undone: near \"TABEL\": syntax error",
            ],
        ),
        (
            format!("{LISTENERS}databases: {{ d: {{ path: d.db, migrations: none }} }}\n{ANYTHING}"),
            &["edge.yaml:2:17: error: ", "none"],
        ),
        (
            handler(&guest("probe-p2.wasm"), ", secrets: [NO_SUCH_SECRET]"),
            &[
                "edge.yaml:3:",
                "error: the secret NO_SUCH_SECRET is not set",
                "write it to a file NO_SUCH_SECRET in `secrets_dir`, or export it to the process",
            ],
        ),
        (
            format!(
                "{LISTENERS}routes:\n  - match: {{ path: /* }}\n    filters: [{{ jwt: {{ secret: short }} }}]\n    respond: {{}}\n"
            ),
            &["edge.yaml:4:", "at least 32"],
        ),
    ] {
        check(folder.path(), &yaml, wanted);
    }
}

#[test]
fn checking_a_configuration_makes_nothing() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("sql")).expect("a folder");
    std::fs::write(folder.path().join("sql/0001_good.sql"), "CREATE TABLE a (b);").expect("writing");
    let yaml = format!(
        "listeners: [{{ address: 127.0.0.1:0, tls: {{ self_signed: [localhost] }} }}]\ndata_dir: ./data\n\
         databases: {{ d: {{ path: d.db, migrations: sql }} }}\n{ANYTHING}"
    );
    std::fs::write(folder.path().join("edge.yaml"), yaml).expect("writing");
    let output = Command::new(executable())
        .args(["check", "edge.yaml"])
        .current_dir(folder.path())
        .output()
        .expect("the executable runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("edge.yaml is valid"));
    for path in ["data", "d.db"] {
        assert!(!folder.path().join(path).exists(), "{path} was made");
    }
}

/// Two certificates with their keys, `a.pem`/`a.key` and `b.pem`/`b.key`; `false` without openssl.
fn make_certificates(folder: &Path) -> bool {
    ["a", "b"]
        .iter()
        .all(|name| certificate::make(folder, name, "localhost"))
}

fn tls(cert: &str, key: &str) -> String {
    format!("listeners: [{{ address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }} }}]\n")
}

#[test]
fn certificates_that_cannot_be_served() {
    let folder = folder();
    if !make_certificates(folder.path()) {
        return;
    }
    std::fs::write(folder.path().join("text.pem"), "not a certificate").expect("writing");
    for (cert, key, wanted) in [
        ("gone.pem", "a.key", &["cannot read", "gone.pem", "No such file"][..]),
        ("a.pem", "gone.key", &["cannot read", "gone.key", "No such file"]),
        ("text.pem", "a.key", &["text.pem has no certificate in PEM form"]),
        ("a.pem", "text.pem", &["text.pem has no private key in PEM form"]),
        ("a.key", "a.key", &["a.key has no certificate in PEM form"]),
        (
            "a.pem",
            "b.key",
            &["b.key is not the key of the certificate in", "a.pem"],
        ),
    ] {
        let wanted = [&["edge.yaml:1:42: error: "], wanted].concat();
        check(folder.path(), &(tls(cert, key) + ANYTHING), &wanted);
    }
}

#[test]
fn a_port_in_use_stops_a_start_but_not_a_check() {
    let folder = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    for yaml in [
        format!("listeners: [{{ address: \"{address}\" }}]\n{ANYTHING}"),
        format!("{LISTENERS}admin: {{ address: \"{address}\" }}\n{ANYTHING}"),
    ] {
        std::fs::write(folder.path().join("edge.yaml"), &yaml).expect("writing");
        let said = refusal(folder.path(), "run");
        assert!(
            said.contains(&format!("error: cannot listen on {address}; is the port in use"))
                && said.contains("because: Address already in use"),
            "{said}"
        );
        let check = Command::new(executable())
            .args(["check", "edge.yaml"])
            .current_dir(folder.path())
            .output();
        assert_eq!(check.expect("the executable runs").status.code(), Some(0), "{yaml}");
    }
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
async fn a_refused_reload_keeps_serving_and_says_why_in_the_log_the_metric_and_the_answer() {
    let mut edge = Edge::start(GOOD).await;
    let dead = |more: &str| format!("{more}{}", GOOD.replace("good", "new"));
    for (number, (yaml, wanted)) in [
        ("routes: [\n".to_owned(), &["not valid YAML"][..]),
        (
            dead("rotes: 1\n"),
            &[":1:1: error: unknown key", "did you mean \"routes\"?"],
        ),
        (
            dead("handlers: { a: { component: gone.wasm } }\n"),
            &["edge.yaml:1:", "cannot read the component", "gone.wasm"],
        ),
        (
            dead("listeners: [{ address: 127.0.0.1:1 }]\n"),
            &["listeners: restart the process to change it"],
        ),
        (
            dead("data_dir: ./elsewhere\n"),
            &["data_dir: restart the process to change it"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let refusals = 2.0 * number as f64;
        edge.rewrite(&yaml);
        edge.signal(Signal::HangUp);
        wait_for("the reload to be refused", async || {
            (edge.metric(REFUSED).await == Some(refusals + 1.0)).then_some(())
        })
        .await;
        // The line is written after the refusal was counted.
        wait_until(&format!("{wanted:?} in the log"), || {
            let log = edge.log();
            let lines = log.rsplit("configuration not reloaded; the previous one keeps serving");
            // A log line may write a quote or a line end escaped.
            let last = lines.into_iter().next().unwrap_or_default().replace("\\\"", "\"");
            wanted.iter().all(|part| last.contains(part))
        })
        .await;
        let (status, problem) = reload(&edge).await;
        assert_eq!(status, 409, "{problem}");
        for part in wanted {
            assert!(spoken(&problem).contains(part), "{part:?} in {problem}");
        }
        assert_eq!(edge.metric(REFUSED).await, Some(refusals + 2.0));
        assert_eq!(edge.metric("selvedge_config_generation").await, Some(1.0));
        assert_eq!(edge.get("/").await.text().await.expect("a body"), "good", "{yaml}");
    }
    edge.reload(&GOOD.replace("good", "better")).await;
    assert_eq!(edge.get("/").await.text().await.expect("a body"), "better");
}

/// The answer to `POST /reload`: status and problem details.
async fn reload(edge: &Edge) -> (u16, serde_json::Value) {
    let request = client::client().post(edge.admin_url("/reload"));
    let answer = request.header("content-type", "application/json").send().await;
    let answer = answer.expect("an answer");
    let status = answer.status().as_u16();
    if status >= 400 {
        assert_eq!(header(&answer, "content-type"), "application/problem+json");
    }
    let text = answer.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or_default())
}

/// What a problem tells a reader (RFC 9457 section 3.1).
fn spoken(problem: &serde_json::Value) -> String {
    let part = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    part("title") + "\n" + &part("detail")
}

#[tokio::test]
async fn a_reload_with_a_bad_certificate_names_it() {
    let scratch = folder();
    if !make_certificates(scratch.path()) {
        return;
    }
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let edge = Edge::start(&(tls(&file("a.pem"), &file("a.key")) + GOOD)).await;
    edge.rewrite(&(tls(&file("a.pem"), &file("b.key")) + GOOD));
    let (status, problem) = reload(&edge).await;
    assert_eq!(status, 409, "{problem}");
    for said in [spoken(&problem), edge.log()] {
        assert!(
            said.contains("edge.yaml:1:42: error: ") && said.contains("b.key is not the key of the certificate in"),
            "{said}"
        );
    }
    let good = client::get(&edge.https_url("/")).await;
    assert_eq!(good.text().await.expect("a body"), "good");
}

/// A supervisor may send the signal as soon as it is told that the edge serves.
#[tokio::test]
async fn a_reload_right_after_the_ready_file_is_not_the_end_of_the_process() {
    for attempt in 0..100 {
        let folder = folder();
        let ready = folder.path().join("ready.json");
        std::fs::write(folder.path().join("edge.yaml"), format!("{LISTENERS}{ANYTHING}")).expect("writing");
        let mut child = Command::new(executable())
            .args(["run", "edge.yaml", "--ready-file", "ready.json"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the executable runs");
        let started = std::time::Instant::now();
        while !ready.exists() && started.elapsed() < selvedge_tests::wait::DEADLINE {
            std::hint::spin_loop();
        }
        let id = libc::pid_t::try_from(child.id()).expect("a process id fits pid_t");
        #[expect(unsafe_code, reason = "std sends no signal but SIGKILL")]
        // SAFETY: kill takes two integers; the child was not waited for, so the id is still its own.
        unsafe {
            libc::kill(id, libc::SIGHUP);
            libc::kill(id, libc::SIGTERM);
        }
        let status = wait_for("the edge to end", async || {
            child.try_wait().expect("a child can be asked")
        })
        .await;
        assert_eq!(status.code(), Some(0), "attempt {attempt} ended with {status}");
    }
}
