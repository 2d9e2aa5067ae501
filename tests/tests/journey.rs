//! A developer's way against a whole platform of real processes, and `selvedge dev` on the developer's own machine.

use std::path::Path;
use std::process::Command;

use reqwest::Method;
use selvedge_tests::developer;
use selvedge_tests::executable::{executable, repository};
use selvedge_tests::process::{Process, Signal};
use selvedge_tests::wait::{wait_for, wait_until};
use selvedge_tests::{Developer, Platform, client};
use serde_json::{Value, json};

const HOST: &str = "shop.localhost";

fn guest(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/guests").join(name)).expect("the guest is committed")
}

/// A handler and pages; the handler reads a secret.
const PROJECT: &str = r#"app: shop
build:
  command: mkdir -p dist && cp probe.wasm dist/probe.wasm
handlers:
  api:
    component: dist/probe.wasm
    env: { GREETING: "from the project" }
    secrets: [STRIPE_KEY]
routes:
  - match: { path: "/api/*" }
    handler: api
  - match: { path: "/env" }
    handler: api
  - match: { path: "/*" }
    static: { root: public }
"#;

#[tokio::test]
async fn from_a_key_to_every_pop_and_back() {
    let mut platform = Platform::start(3).await;
    let developer = Developer::default();
    let key = platform.control.key().to_owned();
    let login = ["login", "--control", platform.control.url(), "--token", "-"];
    let done = developer.run("", &login, &format!("{key}\n")).await;
    assert_eq!(done.status, 0, "{}", done.told());

    developer.say("", &["init", "shop", "--template", "static"]).await;
    let first = developer.say("shop", &["deploy"]).await;
    for pop in ["pop-0", "pop-1", "pop-2"] {
        assert!(first.contains(pop), "every PoP has said that it serves: {first}");
    }
    for pop in &platform.pops {
        let (status, page) = pop.get(HOST, "/").await;
        assert!(status == 200 && page.contains("Served at the edge."), "{status} {page}");
    }

    // With a handler, which needs a secret. Its value is nowhere but at the handler.
    let secret = "sk_live_51c0ffee";
    let set = developer.run("shop", &["secret", "set", "STRIPE_KEY"], secret).await;
    assert_eq!(set.status, 0, "{}", set.told());
    let listed = developer.run("shop", &["secret", "list"], "").await;
    assert!(listed.stdout.contains("STRIPE_KEY"), "{}", listed.told());
    developer.write("shop/selvedge.yaml", PROJECT);
    developer.write("shop/probe.wasm", guest("probe-p2.wasm"));
    developer.write("shop/public/index.html", "second\n");
    let second = developer.run("shop", &["deploy", "--percent", "10"], "").await;
    assert_eq!(second.status, 0, "{}", second.told());
    assert!(second.stdout.contains("serves 10% of the clients"), "{}", second.stdout);
    assert_eq!(shares(&developer).await, [json!("10%"), json!("90%")]);
    for pop in &platform.pops {
        let (status, page) = pop.get("shop-v2.localhost", "/").await;
        assert_eq!(
            (status, page.as_str()),
            (200, "second\n"),
            "the preview is the new version"
        );
    }
    developer.say("shop", &["rollout", "100%"]).await;
    everywhere(&platform, "second\n").await;
    developer.say("shop", &["rollback"]).await;
    everywhere_has(&platform, "Served at the edge.").await;
    developer.say("shop", &["rollback", "2"]).await;
    everywhere(&platform, "second\n").await;
    developer.say("shop", &["env", "set", "GREETING=from control"]).await;
    for pop in &platform.pops {
        let (_, variables) = pop.get(HOST, "/env").await;
        assert!(variables.contains("env GREETING=from control"), "{variables}");
    }
    developer
        .say("shop", &["flags", "set", "checkout", "--on", "25%"])
        .await;
    let flag = developer.ask("shop", &["flags", "get", "checkout"]).await;
    assert_eq!(flag["value"]["rules"][0]["serve"]["on"], 25.0, "{flag}");

    // What PoPs cannot build leaves what there is. The project's own check is passed by.
    let not_http = guest("not-http.wasm");
    let manifest = json!({
        "handlers": { "api": { "component": "a.wasm" } },
        "routes": [{ "match": { "path": "/*" }, "handler": "api" }],
    });
    let broken = platform
        .control
        .deploy("shop", manifest, &[("a.wasm", &not_http)])
        .await;
    platform.control.state(&broken, "failed").await;
    let refused = ["pop-", "wasi:http"];
    developer.refused("shop", &["rollout", "100%", "3"], &refused).await;
    developer.write("shop/probe.wasm", &not_http);
    let refused = ["selvedge.yaml:6:16: error:", "wasi:http"];
    developer.refused("shop", &["deploy"], &refused).await;
    everywhere(&platform, "second\n").await;

    let versions = developer.say("shop", &["versions"]).await;
    let audit = developer.say("shop", &["audit"]).await;
    let doctor = developer.run("shop", &["doctor"], "").await;
    let logs = platform.pops.iter().map(|pop| pop.edge.log() + &pop.agent.log());
    let logs: String = logs.collect::<String>() + &platform.control.log() + &platform.primary.log();
    for told in [
        set.told(),
        listed.told(),
        second.told(),
        versions,
        audit,
        doctor.told(),
        logs,
    ] {
        assert!(!told.contains(secret), "{told}");
    }

    platform.control.kill();
    let lost = ["control at http://", "does control run?"];
    developer.refused("shop", &["versions"], &lost).await;
    everywhere(&platform, "second\n").await;
}

#[tokio::test]
async fn a_ci_job_deploys_with_a_key_of_its_own() {
    let platform = Platform::start(1).await;
    let developer = Developer::default();
    developer.say("", &["init", "shop", "--template", "static"]).await;
    let recipe = repository().join("docs/ci/deploy.sh");
    let job = async |token: &str| {
        let mut job = developer.at_home("shop", Command::new(&recipe));
        job.env("SELVEDGE_EXE", executable())
            .env("SELVEDGE_CONTROL", platform.control.url());
        if !token.is_empty() {
            job.env("SELVEDGE_TOKEN", token);
        }
        developer::run(job, "").await
    };
    let unset = job("").await;
    assert!(
        unset.status != 0 && unset.stderr.contains("a key that may deploy"),
        "{}",
        unset.told()
    );
    let refused = job("sel_wrong").await;
    assert_eq!(refused.status, 1, "{}", refused.told());

    let app = json!({ "name": "shop" });
    platform.control.done(Method::POST, "/v1/apps", Some(app)).await;
    let mut create = developer.command(
        "shop",
        &["keys", "create", "ci", "--for", "shop", "--only", "deploy,read"],
    );
    create.arg("--json").env("SELVEDGE_CONTROL", platform.control.url());
    create.env("SELVEDGE_TOKEN", platform.control.key());
    let made = developer::run(create, "").await;
    let key: Value = serde_json::from_str(&made.stdout).unwrap_or_else(|_| panic!("{}", made.told()));
    let key = key["key"]
        .as_str()
        .or(key["token"].as_str())
        .unwrap_or_else(|| panic!("{key}"));
    let done = job(key).await;
    assert_eq!(done.status, 0, "{}", done.told());
    let answer: Value = serde_json::from_str(&done.stdout).expect("it answers in JSON");
    assert_eq!(answer["deployment"]["state"], "active", "{answer}");
    everywhere_has(&platform, "Served at the edge.").await;
}

async fn shares(developer: &Developer) -> Vec<Value> {
    let versions = developer.ask("shop", &["versions"]).await;
    let versions = versions.as_array().expect("a list").clone();
    versions.iter().map(|version| version["serves"].clone()).collect()
}

async fn everywhere(platform: &Platform, page: &str) {
    for pop in &platform.pops {
        assert_eq!(pop.get(HOST, "/").await, (200, page.to_owned()));
    }
}

async fn everywhere_has(platform: &Platform, text: &str) {
    for pop in &platform.pops {
        let (status, page) = pop.get(HOST, "/").await;
        assert!(status == 200 && page.contains(text), "{status} {page}");
    }
}

/// `selvedge dev` in a project, with its events.
struct Dev {
    process: Process,
    _logs: tempfile::TempDir,
}

impl Dev {
    fn start(command: Command) -> Dev {
        let logs = tempfile::tempdir().expect("a temporary directory");
        let process = Process::start(command, logs.path());
        Dev { process, _logs: logs }
    }

    /// The n-th event of this kind.
    async fn event(&mut self, kind: &str, number: usize) -> Value {
        wait_for(&format!("{kind} number {number}"), async || {
            let ended = self.process.ended();
            assert!(ended.is_none(), "it has ended: {}", self.process.describe());
            let said = self.process.stdout();
            let events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            events.filter(|event| event["event"] == kind).nth(number)
        })
        .await
    }

    /// Waits until all of this is on standard error.
    async fn complains(&mut self, expected: &[&str]) {
        wait_until(&format!("{expected:?}"), || {
            let said = self.process.stderr();
            expected.iter().all(|text| said.contains(text))
        })
        .await;
    }

    async fn end(&mut self) {
        self.process.signal(Signal::Terminate);
        let status = self.process.wait().await;
        assert!(status.success(), "{}", self.process.describe());
    }
}

async fn body(url: &str) -> String {
    client::get(url).await.text().await.expect("a body")
}

/// Processes with a file of this folder on their command line, or working in it.
fn processes_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("a list of processes").flatten();
    let of_folder = entries.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let works = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        (works || line.contains(&folder.display().to_string())).then_some(line)
    });
    of_folder.collect()
}

#[tokio::test]
async fn dev_serves_a_project_and_again_when_it_changes() {
    let developer = Developer::default();
    developer.say("", &["init", "shop", "--template", "static"]).await;
    let mut dev = Dev::start(developer.command("shop", &["dev", "--port", "0", "--json"]));
    let url = dev.event("serving", 0).await["url"].as_str().expect("a URL").to_owned();
    dev.event("rebuilt", 0).await;
    let watching = dev.event("watching", 0).await;
    assert_eq!(
        watching["paths"],
        json!(["selvedge.yaml", ".selvedge/secrets", "public"])
    );
    assert!(body(&url).await.contains("Served at the edge."));

    developer.write("shop/public/index.html", "changed\n");
    dev.event("rebuilt", 1).await;
    assert_eq!(body(&url).await, "changed\n");

    let yaml = "app: shop\nroutes:\n  - match: { path: \"/*\" }\n    statik: { root: public }\n";
    developer.write("shop/selvedge.yaml", yaml);
    dev.complains(&["selvedge.yaml:4:5: error: unknown key"]).await;
    assert_eq!(body(&url).await, "changed\n", "the last good one serves");

    // A handler with a secret, a value of the developer's, and a database.
    developer.write("shop/probe.wasm", guest("probe-p2.wasm"));
    developer.write("shop/selvedge.yaml", PROJECT);
    dev.complains(&["the secret STRIPE_KEY is not set", "in .selvedge/secrets"])
        .await;
    developer.write("shop/.selvedge/secrets/STRIPE_KEY", "sk_test_1");
    developer.write("shop/.env", "GREETING=from the developer\n");
    developer.write("shop/probe.wasm", guest("probe-p2.wasm"));
    let sql = "create table notes (id integer primary key, text text);\n";
    developer.write("shop/migrations/0001_notes.sql", sql);
    let project = PROJECT.to_owned() + "databases:\n  notes: { migrations: migrations }\n";
    developer.write("shop/selvedge.yaml", &project);
    let greeting = "env GREETING=from the developer";
    wait_for("the handler to serve", async || {
        body(&format!("{url}/env")).await.contains(greeting).then_some(())
    })
    .await;
    let socket = developer.folder().join("shop/.selvedge/dev/agent.sock");
    let listed = developer
        .say("", &["db", "--agent", &socket.display().to_string(), "list"])
        .await;
    assert!(listed.contains("notes"), "{listed}");

    // What is wrong with a migration, a build and a component is said, and changes nothing.
    developer.write("shop/migrations/0002_wrong.sql", "create tabel wrong (id);\n");
    dev.complains(&["the database notes", "0002_wrong.sql"]).await;
    std::fs::remove_file(developer.folder().join("shop/migrations/0002_wrong.sql")).expect("it is there");
    developer.write("shop/selvedge.yaml", project.replace("mkdir", "exit 3 && mkdir"));
    dev.complains(&["failed: exit status: 3"]).await;
    developer.write("shop/probe.wasm", guest("not-http.wasm"));
    developer.write("shop/selvedge.yaml", &project);
    dev.complains(&["selvedge.yaml:6:16: error:", "wasi:http"]).await;
    assert!(body(&format!("{url}/env")).await.contains(greeting));
    let said = dev.process.stdout() + &dev.process.stderr();
    assert!(!said.contains("from the developer"), "values are not shown: {said}");

    let port = url.rsplit(':').next().expect("a port");
    let twice = ["dev", "--port", port];
    developer
        .refused("shop", &twice, &[&format!("port {port}"), "--port takes another"])
        .await;

    // A build under way ends, too.
    developer.write(
        "shop/selvedge.yaml",
        PROJECT.replace("mkdir", "touch begun; sleep 1000; mkdir"),
    );
    wait_until("the build to begin", || developer.folder().join("shop/begun").exists()).await;
    dev.end().await;
    wait_until("no process to be left", || processes_in(developer.folder()).is_empty()).await;
    let shop = developer.folder().join("shop");
    let generated = std::fs::metadata(shop.join(".selvedge/dev/edge.yaml")).expect("it is there");
    let mode = std::os::unix::fs::PermissionsExt::mode(&generated.permissions());
    assert_eq!(mode & 0o777, 0o600, "it has the developer's values");
}

/// The path of an agent's socket has an end.
#[tokio::test]
async fn dev_serves_a_project_that_lies_deep() {
    let developer = Developer::default();
    let deep = "a-folder-in-a-folder/".repeat(5) + "shop";
    let init = ["init", "shop", "--template", "static", "--folder", &deep];
    developer.say("", &init).await;
    let mut dev = Dev::start(developer.command(&deep, &["dev", "--port", "0", "--json"]));
    let url = dev.event("serving", 0).await["url"].as_str().expect("a URL").to_owned();
    dev.event("rebuilt", 0).await;
    assert!(body(&url).await.contains("Served at the edge."));
    dev.end().await;
}

#[tokio::test]
async fn dev_runs_a_platform_to_deploy_to() {
    let developer = Developer::default();
    developer.say("", &["init", "shop", "--template", "static"]).await;
    let command = developer.command("shop", &["dev", "--pops", "2", "--port", "0", "--json"]);
    let mut dev = Dev::start(command);
    let serving = dev.event("serving", 0).await;
    developer.say("shop", &["deploy", "--profile", "dev"]).await;
    let urls = serving["urls"].as_array().expect("PoPs");
    assert_eq!(urls.len(), 2, "{serving}");
    for url in urls {
        let url = url.as_str().expect("a URL");
        let page = client::client()
            .get(url)
            .header("host", HOST)
            .send()
            .await
            .expect("it answers");
        assert!(page.text().await.expect("a page").contains("Served at the edge."));
    }
    dev.end().await;
    let nobody = || processes_in(developer.folder()).is_empty();
    wait_until("no process to be left", nobody).await;

    // Again, with what it had; and when one of its processes dies, all end.
    let command = developer.command("shop", &["dev", "--pops", "2", "--port", "0", "--json"]);
    let mut dev = Dev::start(command);
    let serving = dev.event("serving", 0).await;
    let url = serving["urls"][1].as_str().expect("a URL").to_owned();
    wait_for("what was deployed to serve", async || {
        let page = client::client().get(&url).header("host", HOST).send().await.ok()?;
        page.text().await.ok()?.contains("Served at the edge.").then_some(())
    })
    .await;
    let id = process_of(&developer.folder().join("shop/.selvedge/platform/pop2/agent.json"));
    let killed = Command::new("kill").args(["-KILL", &id]).status().expect("kill runs");
    assert!(killed.success());
    let status = dev.process.wait().await;
    assert_eq!(status.code(), Some(1));
    let said = dev.process.stderr();
    assert!(said.contains("pop2's `selvedge agent` has ended"), "{said}");
    wait_until("no process to be left", nobody).await;
}

/// The process that has this file on its command line.
fn process_of(file: &Path) -> String {
    let entries = std::fs::read_dir("/proc").expect("a list of processes").flatten();
    let found = entries.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.split('\0').any(|word| Path::new(word) == file)
    });
    let found: Vec<_> = found.map(|entry| entry.file_name()).collect();
    assert_eq!(found.len(), 1, "{}: {found:?}", file.display());
    found[0].to_string_lossy().into_owned()
}
