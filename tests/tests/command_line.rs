//! The command line of developers against a real control: from a key to a deployment that serves, and what goes wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use selvedge_tests::agent::Agent;
use selvedge_tests::developer::{self, Done};
use selvedge_tests::executable::{executable, repository};
use selvedge_tests::process::Process;
use selvedge_tests::wait::wait_for;
use serde_json::{Value, json};

/// A control beside its agent, and a developer's home.
struct Platform {
    control: Process,
    url: String,
    key: String,
    _agent: Agent,
    data: tempfile::TempDir,
}

impl Platform {
    async fn start() -> Platform {
        let data = tempfile::tempdir().expect("a temporary directory");
        let environment = [
            ("DATA_DIR", data.path().join("data").display().to_string()),
            ("AGENT_PORT", "0".to_owned()),
            ("CONTROL_PORT", "0".to_owned()),
        ];
        let file = repository().join("conf/control.yaml");
        let agent = Agent::start_file(&file, &environment).await;
        let ready = data.path().join("control.json");
        let logs = data.path().join("control");
        std::fs::create_dir_all(&logs).expect("a folder for logs");
        let mut command = Command::new(executable());
        command.arg("control").arg(&file).arg("--ready-file").arg(&ready);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut control = Process::start(command, &logs);
        let ready = wait_for("control to serve", async || {
            assert!(control.ended().is_none(), "control has ended: {}", control.describe());
            std::fs::read_to_string(&ready).ok()
        })
        .await;
        let ready: Value = serde_json::from_str(&ready).expect("the ready file is JSON");
        let said = control.stderr();
        let key = said
            .lines()
            .find_map(|line| line.strip_prefix("The first key, shown this once: "));
        Platform {
            url: format!("http://{}", ready["control"].as_str().expect("control listens")),
            key: key.expect("the first start shows a key").to_owned(),
            control,
            _agent: agent,
            data,
        }
    }

    fn home(&self) -> PathBuf {
        self.data.path().join("home")
    }

    /// A folder of the test's own.
    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.data.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    async fn run(&self, folder: &Path, arguments: &[&str]) -> Done {
        self.run_with(folder, arguments, "").await
    }

    async fn run_with(&self, folder: &Path, arguments: &[&str], input: &str) -> Done {
        let mut command = Command::new(executable());
        command.args(arguments).current_dir(folder);
        command.env("XDG_CONFIG_HOME", self.home()).env("SELVEDGE_LOG", "warn");
        for name in ["SELVEDGE_TOKEN", "SELVEDGE_CONTROL", "SELVEDGE_PROFILE", "SELVEDGE_CA"] {
            command.env_remove(name);
        }
        developer::run(command, input).await
    }

    /// What a command answers in JSON.
    async fn ask(&self, folder: &Path, arguments: &[&str]) -> Value {
        let done = self.run(folder, &[arguments, &["--json"]].concat()).await;
        assert_eq!(done.status, 0, "{arguments:?}: {}", done.stderr);
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", done.stdout))
    }

    /// What a command says to a person.
    async fn say(&self, folder: &Path, arguments: &[&str]) -> String {
        let done = self.run(folder, arguments).await;
        assert_eq!(done.status, 0, "{arguments:?}: {}", done.stderr);
        done.stdout
    }

    /// How a command refuses.
    async fn refused(&self, folder: &Path, arguments: &[&str], status: i32, expected: &[&str]) {
        let done = self.run(folder, arguments).await;
        assert_eq!(done.status, status, "{arguments:?}: {}{}", done.stdout, done.stderr);
        for expected in expected {
            assert!(
                done.stderr.contains(expected),
                "{arguments:?}: {expected}: {}",
                done.stderr
            );
        }
    }

    async fn log_in(&self) {
        let done = self
            .run_with(
                self.data.path(),
                &["login", "--control", &self.url, "--token", "-"],
                &format!("{}\n", self.key),
            )
            .await;
        assert_eq!(done.status, 0, "{}", done.stderr);
    }

    /// What a PoP sends to control.
    async fn post(&self, path: &str, key: &str, body: Value) -> Value {
        let response = selvedge_tests::client::builder()
            .build()
            .expect("these settings make a client")
            .post(format!("{}{path}", self.url))
            .bearer_auth(key)
            .json(&body)
            .send()
            .await
            .expect("control answers");
        let status = response.status();
        let answer: Value = response.json().await.unwrap_or_default();
        assert!(status.is_success(), "{path}: {answer}");
        answer
    }
}

fn write(folder: &Path, path: &str, text: &str) {
    let file = folder.join(path);
    std::fs::create_dir_all(file.parent().expect("it is in a folder")).expect("a folder");
    std::fs::write(file, text).expect("a file");
}

#[tokio::test]
async fn from_a_key_to_a_version_that_serves_and_back() {
    let platform = Platform::start().await;
    let here = platform.folder("work");
    platform.log_in().await;
    let file = platform.home().join("selvedge/profiles.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().expect("profiles are kept").permissions());
    assert_eq!(mode & 0o777, 0o600, "others cannot read the key");
    let profiles = platform.ask(&here, &["login", "--list"]).await;
    assert_eq!(profiles[0]["control"], json!(platform.url));
    assert!(!profiles.to_string().contains(&platform.key), "a list shows no keys");

    platform.say(&here, &["init", "shop", "--template", "static"]).await;
    let shop = here.join("shop");
    let first = platform.ask(&shop, &["deploy"]).await;
    assert_eq!(first["deployment"]["state"], "active", "{first}");
    assert_eq!(first["deployment"]["version"], 1);
    write(&shop, "public/index.html", "second\n");
    let second = platform.ask(&shop, &["deploy", "--percent", "25"]).await;
    assert_eq!(second["deployment"]["version"], 2, "{second}");
    let serves = async || {
        let versions = platform.ask(&shop, &["versions"]).await;
        let versions = versions.as_array().expect("a list").clone();
        let serves = versions.iter().map(|version| version["serves"].clone());
        serves.collect::<Vec<_>>()
    };
    assert_eq!(serves().await, [json!("25%"), json!("75%")]);
    platform.say(&shop, &["rollout", "60%"]).await;
    assert_eq!(serves().await, [json!("60%"), json!("40%")]);
    platform.say(&shop, &["rollout", "--stop"]).await;
    assert_eq!(serves().await, [Value::Null, json!("100%")]);
    platform
        .refused(&shop, &["rollout", "--stop"], 1, &["shop has no rollout"])
        .await;
    platform.say(&shop, &["rollout", "100%", "2"]).await;
    assert_eq!(serves().await, [json!("100%"), Value::Null]);
    let back = platform.say(&shop, &["rollback"]).await;
    assert!(back.contains("version 1 of shop serves everybody"), "{back}");
    platform
        .refused(
            &shop,
            &["rollback", "9"],
            1,
            &["shop has no version 9", "the newest is 2"],
        )
        .await;
    let preview = platform.say(&shop, &["preview"]).await;
    assert!(preview.contains("http://shop-v2.localhost"), "{preview}");
    write(&shop, "public/index.html", "third\n");
    let third = platform.say(&shop, &["deploy", "--no-activate"]).await;
    assert!(third.contains("version 3 of shop is prepared"), "{third}");
    assert_eq!(serves().await, [Value::Null, Value::Null, json!("100%")]);

    platform.say(&shop, &["domains", "add", "shop.example.com"]).await;
    assert_eq!(platform.say(&shop, &["domains", "list"]).await, "shop.example.com\n");
    let fourth = platform.say(&shop, &["deploy"]).await;
    assert!(fourth.contains("https://shop.example.com"), "{fourth}");
    platform.say(&shop, &["env", "set", "STAGE=test", "EMPTY="]).await;
    assert_eq!(platform.say(&shop, &["env", "list"]).await, "EMPTY=\nSTAGE=test\n");
    platform.say(&shop, &["env", "delete", "EMPTY"]).await;
    assert_eq!(platform.say(&shop, &["env", "get", "STAGE"]).await, "test\n");
    let audit = platform.ask(&shop, &["audit"]).await;
    assert!(audit.to_string().contains("deployment.create"), "{audit}");
    platform.say(&shop, &["audit", "--verify"]).await;

    platform.say(&here, &["logout"]).await;
    platform
        .refused(&shop, &["versions"], 2, &["selvedge login --control URL"])
        .await;
}

#[tokio::test]
async fn flags_settings_keys_and_purges() {
    let platform = Platform::start().await;
    let here = platform.folder("work");
    platform.log_in().await;

    platform.say(&here, &["flags", "set", "checkout", "--on", "25%"]).await;
    let flag = platform.ask(&here, &["flags", "get", "checkout"]).await;
    assert_eq!(
        flag["value"]["rules"],
        json!([{ "when": [], "serve": { "on": 25.0 } }]),
        "{flag}"
    );
    platform.say(&here, &["flags", "set", "checkout", "--off"]).await;
    let listed = platform.say(&here, &["flags", "list"]).await;
    assert!(listed.contains("checkout") && listed.contains("off"), "{listed}");
    platform.say(&here, &["flags", "rollback", "checkout", "1"]).await;
    let history = platform.ask(&here, &["flags", "history", "checkout"]).await;
    assert_eq!(history.as_array().map(Vec::len), Some(3), "{history}");
    platform
        .refused(
            &here,
            &["flags", "set", "checkout", "--on", "50%", "--if-version", "1"],
            1,
            &["changed"],
        )
        .await;
    platform
        .refused(&here, &["flags", "set", "checkout"], 2, &["--on"])
        .await;
    platform
        .refused(
            &here,
            &["flags", "set", "checkout", "--value", "{"],
            2,
            &["--value is not JSON"],
        )
        .await;
    platform.say(&here, &["flags", "delete", "checkout"]).await;
    platform
        .refused(&here, &["flags", "get", "checkout"], 1, &["there is no flag checkout"])
        .await;

    platform.say(&here, &["config", "set", "limits", "{\"a\": 1}"]).await;
    platform.say(&here, &["config", "set", "greeting", "hello there"]).await;
    let settings = platform.ask(&here, &["config", "list"]).await;
    assert_eq!(settings[0]["value"], "hello there", "{settings}");
    assert_eq!(settings[1]["value"], json!({ "a": 1 }), "{settings}");

    let purged = platform.say(&here, &["cache", "purge", "--tag", "products"]).await;
    assert!(purged.contains("the tag products is purged"), "{purged}");
    platform.say(&here, &["cache", "purge", "--everything"]).await;
    platform
        .refused(
            &here,
            &["cache", "purge", "--url", "/a"],
            1,
            &["is no URL", "begin with http"],
        )
        .await;
    platform.refused(&here, &["cache", "purge"], 2, &["--everything"]).await;

    let made = platform
        .ask(
            &here,
            &["keys", "create", "ci", "--role", "developer", "--expires", "1d"],
        )
        .await;
    let id = made["id"].as_str().expect("a key has an id");
    let listed = platform.say(&here, &["keys", "list"]).await;
    assert!(listed.contains(id) && listed.contains("until"), "{listed}");
    platform.say(&here, &["keys", "revoke", id]).await;
    let invited = platform.ask(&here, &["cluster", "invite", "zurich"]).await;
    assert!(invited["token"].is_string(), "{invited}");
    platform.say(&here, &["cluster", "list"]).await;
    for shell in ["bash", "zsh", "fish"] {
        let script = platform.say(&here, &["completion", shell]).await;
        assert!(script.contains("rollback"), "{shell}");
    }
}

/// A PoP by its API: it prepares what it is asked to, or says why it cannot.
#[tokio::test]
async fn a_deployment_waits_for_pops_and_says_what_they_say() {
    let platform = Platform::start().await;
    let here = platform.folder("work");
    platform.log_in().await;
    let invited = platform.ask(&here, &["cluster", "invite"]).await;
    let token = invited["token"].as_str().expect("a token");
    let joined = platform.post("/v1/pops", token, json!({ "name": "zurich" })).await;
    let pop = joined["key"].as_str().expect("a key").to_owned();
    platform
        .post("/v1/pops/zurich/report", &pop, json!({ "revision": 0 }))
        .await;
    platform.say(&here, &["init", "shop", "--template", "static"]).await;
    let shop = here.join("shop");

    for (said, status, expected) in [
        (json!({ "state": "prepared" }), 0, "zurich: "),
        (
            json!({ "state": "failed", "message": "no room" }),
            1,
            "zurich: failed no room",
        ),
    ] {
        write(&shop, "public/index.html", &said.to_string());
        let report = async {
            let id = wait_for("a deployment to prepare", async || {
                let versions = platform.run(&shop, &["versions", "--json"]).await;
                let versions: Value = serde_json::from_str(&versions.stdout).ok()?;
                (versions[0]["state"] == "uploaded").then(|| versions[0]["id"].as_str().unwrap_or_default().to_owned())
            })
            .await;
            let mut revision = json!(0);
            // It goes on reporting as long as the command waits.
            loop {
                let body = json!({ "revision": revision, "deployments": { id.clone(): said } });
                let heard = platform.post("/v1/pops/zurich/report", &pop, body).await;
                revision = heard["revision"].clone();
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let deployed = tokio::select! {
            done = platform.run(&shop, &["deploy"]) => done,
            () = report => unreachable!("it reports for ever"),
        };
        assert_eq!(deployed.status, status, "{}{}", deployed.stdout, deployed.stderr);
        let told = deployed.stdout + &deployed.stderr;
        assert!(told.contains(expected), "{told}");
    }
}

#[tokio::test]
async fn a_component_is_built_and_checked_as_a_pop_would() {
    let platform = Platform::start().await;
    let here = platform.folder("work");
    platform.log_in().await;
    platform.say(&here, &["init", "hello", "--template", "rust"]).await;
    let hello = here.join("hello");
    for file in ["Cargo.toml", "src/lib.rs", "README.md", ".gitignore"] {
        assert!(hello.join(file).is_file(), "{file}");
    }
    platform
        .refused(&hello, &["build", "--skip-build"], 2, &["--skip-build"])
        .await;
    platform
        .refused(
            &hello,
            &["deploy", "--skip-build"],
            1,
            &["selvedge.yaml:9:", "there is no file dist/handler.wasm", "is it built?"],
        )
        .await;
    let guests = repository().join("tests/guests");
    let yaml = |guest: &str| {
        format!(
            "app: hello\nbuild:\n  command: mkdir -p dist && cp '{}' dist/handler.wasm\nhandlers:\n  main:\n    \
             component: dist/handler.wasm\n    env: {{ PRICE: \"$${{x}}\", N: 1.10 }}\nroutes:\n  - match: {{ path: \"/*\" }}\n    handler: main\n",
            guests.join(guest).display()
        )
    };
    write(&hello, "selvedge.yaml", &yaml("not-http.wasm"));
    platform
        .refused(&hello, &["build"], 1, &["selvedge.yaml:6:16: error:", "wasi:http"])
        .await;
    write(&hello, "selvedge.yaml", &yaml("hello-p2.wasm"));
    let built = platform.ask(&hello, &["build"]).await;
    assert_eq!(built["files"][0]["path"], "dist/handler.wasm", "{built}");
    let deployed = platform.ask(&hello, &["deploy"]).await;
    assert_eq!(deployed["deployment"]["state"], "active", "{deployed}");
    write(
        &hello,
        "selvedge.yaml",
        &yaml("hello-p2.wasm").replace("mkdir", "exit 3 && mkdir"),
    );
    platform
        .refused(&hello, &["deploy"], 1, &["failed: exit status: 3", "build.command"])
        .await;
    let doctor = platform.run(&hello, &["doctor", "--json"]).await;
    let doctor: Value = serde_json::from_str(&doctor.stdout).expect("doctor answers in JSON");
    let verdict = |check: &str| {
        let checks = doctor["checks"].as_array().expect("a list");
        let found = checks.iter().find(|found| found["check"] == check);
        found.unwrap_or_else(|| panic!("{check}: {doctor}"))["verdict"].clone()
    };
    for check in ["profile", "control", "key", "databases", "project", "files"] {
        assert_eq!(verdict(check), "ok", "{check}: {doctor}");
    }
    assert_eq!(verdict("PoPs"), "note", "{doctor}");
}

#[tokio::test]
async fn what_is_wrong_is_said_with_what_to_do() {
    let mut platform = Platform::start().await;
    let here = platform.folder("work");
    platform
        .refused(&here, &["versions", "--app", "shop"], 2, &["which control?"])
        .await;
    platform
        .refused(
            &here,
            &["login", "--control", &platform.url, "--token", "sel_wrong"],
            1,
            &["the key is mistyped", "selvedge login"],
        )
        .await;
    platform
        .refused(
            &here,
            &["login", "--control", "nowhere", "--token", "x"],
            2,
            &["is no address"],
        )
        .await;
    platform.log_in().await;
    platform
        .refused(&here, &["deploy"], 1, &["there is no selvedge.yaml", "selvedge init"])
        .await;
    platform
        .refused(
            &here,
            &["init", "Shop", "--template", "static"],
            2,
            &["cannot be an app's name"],
        )
        .await;
    platform
        .refused(
            &here,
            &["versions", "--app", "nothing"],
            1,
            &["there is no app nothing"],
        )
        .await;
    // The key of a profile is not shown to another control.
    platform
        .refused(
            &here,
            &["versions", "--app", "x", "--control", "http://127.0.0.1:1"],
            1,
            &["control at http://127.0.0.1:1", "does control run?"],
        )
        .await;

    let shop = platform.folder("work/shop");
    let outside = platform.folder("outside");
    write(&outside, "secret.txt", "secret\n");
    write(&shop, "public/index.html", "hello\n");
    std::os::unix::fs::symlink(outside.join("secret.txt"), shop.join("public/link.txt")).expect("a link");
    let page = |rest: &str| format!("app: shop\nroutes:\n  - match: {{ path: \"/*\" }}\n    {rest}\n");
    for (text, expected) in [
        (
            page("static: { root: public }"),
            &[
                "selvedge.yaml:4:21: error:",
                "public/link.txt is a symbolic link that leaves the project",
            ][..],
        ),
        (
            page("static: { root: ../outside }"),
            &["selvedge.yaml:4:21: error:", "is outside the project"],
        ),
        (page("static: { root: missing }"), &["there is no file missing"]),
        (
            page("statik: { root: public }"),
            &[
                "selvedge.yaml:4:5: error: unknown key \"statik\"",
                "did you mean \"static\"?",
            ],
        ),
        (
            "app: shop\nhandler: {}\n".to_owned(),
            &[
                "selvedge.yaml:2:1: error: unknown key \"handler\"",
                "did you mean \"handlers\"?",
            ],
        ),
        (
            "app: shop\nlisteners: []\n".to_owned(),
            &["selvedge.yaml:2:1: error: unknown key \"listeners\""],
        ),
        (page("handler: shp"), &["the handler \"shp\" is not defined"]),
        (
            page("static: { root: \"${HOME}\" }"),
            &["the environment variable `HOME` is not set", "selvedge env set"],
        ),
    ] {
        write(&shop, "selvedge.yaml", &text);
        platform.refused(&shop, &["deploy"], 1, expected).await;
    }
    let done = platform.run(&shop, &["deploy", "--json"]).await;
    let error: Value = serde_json::from_str(done.stderr.trim()).expect("an error is JSON, too");
    assert_eq!(error["error"]["code"], "project", "{error}");

    std::fs::remove_file(shop.join("public/link.txt")).expect("it is there");
    write(&shop, "selvedge.yaml", &page("static: { root: public }"));
    platform.control.kill();
    platform
        .refused(&shop, &["deploy"], 1, &["control at http://", "selvedge doctor"])
        .await;
    platform
        .refused(&shop, &["doctor"], 1, &["found something wrong"])
        .await;
}

#[tokio::test]
async fn projects_of_others_are_taken_in() {
    let platform = Platform::start().await;
    let here = platform.folder("work");
    let spin = platform.folder("work/spin");
    write(
        &spin,
        "spin.toml",
        r#"
spin_manifest_version = 2
[application]
name = "My Shop"
[variables]
greeting = { default = "hello" }
token = { required = true, secret = true }
[[trigger.http]]
route = "/..."
component = "shop"
[[trigger.http]]
route = "/users/:id"
component = "shop"
[component.shop]
source = "target/shop.wasm"
allowed_outbound_hosts = ["https://api.example.com"]
sqlite_databases = ["default"]
environment = { STAGE = "${test}" }
[component.shop.variables]
greeting = "{{ greeting }}"
token = "{{ token }}"
[component.shop.build]
command = "cargo build --target wasm32-wasip2 --release"
watch = ["src/**/*.rs"]
"#,
    );
    let imported = platform.ask(&here, &["import", "spin/spin.toml"]).await;
    assert_eq!(imported["app"], "my-shop");
    let text = std::fs::read_to_string(spin.join("selvedge.yaml")).expect("it is written");
    for expected in [
        "app: \"my-shop\"",
        "component: \"target/shop.wasm\"",
        "default: { database: default }",
        "# TODO allowed_outbound_hosts https://api.example.com",
        "\"greeting\": \"hello\"",
        "\"STAGE\": \"$${test}\"",
        "secrets: [\"token\"]",
        "match: { path: \"/*\" }",
        "match: { path: \"/users/:id\" }",
        "command: \"cargo build",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    platform
        .refused(
            &here,
            &["import", "spin/spin.toml"],
            1,
            &["is there already", "--force"],
        )
        .await;

    let worker = platform.folder("work/worker");
    write(&worker, "public/css/site.css", "a {}\n");
    write(&worker, "public/index.html", "hello\n");
    write(
        &worker,
        "wrangler.jsonc",
        r#"{
  // a comment
  "name": "worker",
  "main": "src/index.ts",
  "assets": { "directory": "./public" },
  "vars": { "STAGE": "test", "LIMITS": { "a": 1 } },
  "d1_databases": [{ "binding": "DB", "database_name": "shop", "migrations_dir": "migrations" }],
  "kv_namespaces": [{ "binding": "KV", "id": "1" }],
  "routes": [{ "pattern": "shop.example.com/*", "zone_name": "example.com" }],
}"#,
    );
    platform.say(&here, &["import", "worker/wrangler.jsonc"]).await;
    let text = std::fs::read_to_string(worker.join("selvedge.yaml")).expect("it is written");
    for expected in [
        "# TODO kv_namespaces: there is no key-value store yet",
        "selvedge domains add shop.example.com",
        "DB: { database: shop }",
        "shop: { migrations: \"migrations\" }",
        "path: \"/css/*\"",
        "\"LIMITS\": \"{\\\"a\\\":1}\"",
        "handler: worker",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    write(&here, "other.toml", "a = 1\n");
    platform
        .refused(&here, &["import", "other.toml"], 1, &["neither Spin's nor wrangler's"])
        .await;
}
