//! The README keeps its word: what it tells a newcomer to write, check, reload and ask works as it stands there.

use std::path::Path;

use selvedge_tests::client::header;
use selvedge_tests::executable::{executable, repository};
use selvedge_tests::process::Signal;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Edge, Origin, Reply, client};

fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The indented block of `text` whose first line contains `start`, without the indentation it has as a whole.
fn block(text: &str, start: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| line.contains(start) && indent(line) >= 4);
    let first = first.unwrap_or_else(|| panic!("no block with {start:?}"));
    let margin = indent(lines[first]);
    let inside = |line: &&&str| !line.trim().is_empty() && indent(line) >= margin;
    lines[first..]
        .iter()
        .take_while(inside)
        .map(|line| line[margin..].to_owned())
        .collect()
}

/// `conf/quickstart.yaml` with paths that hold anywhere, as the demo serves it.
fn quickstart() -> String {
    let examples = repository().join("examples");
    read("conf/quickstart.yaml").replace("../examples", &examples.display().to_string())
}

async fn check(file: &Path, environment: &[(&str, String)]) -> std::process::Output {
    let output = tokio::process::Command::new(executable())
        .arg("check")
        .arg(file)
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .output();
    output.await.expect("the executable runs")
}

#[tokio::test]
async fn the_route_of_the_five_minutes_is_checked_reloaded_and_answers() {
    let readme = read("README.md");
    let route: String = block(&readme, "- name: hello")
        .iter()
        .map(|line| format!("  {line}\n"))
        .collect();
    let commands = block(&readme, "selvedge check conf/quickstart.yaml");
    let path = commands
        .iter()
        .find_map(|line| line.strip_prefix("curl -i http://127.0.0.1:8080"))
        .unwrap_or_else(|| panic!("no curl among {commands:?}"));
    let before = quickstart();
    assert_eq!(before.matches("\n  - name: pages\n").count(), 1);
    let after = before.replace("\n  - name: pages\n", &format!("\n{route}  - name: pages\n"));
    let wrong = after.replace("    respond: {", "    respnod: {");
    assert_ne!(wrong, after, "{route}");

    let setup = Edge::configure(&before);
    let data = setup.directory().display().to_string();
    let environment = [
        ("HTTP_PORT", "0".to_owned()),
        ("HTTPS_PORT", "0".to_owned()),
        ("ADMIN_PORT", "0".to_owned()),
        ("DATA_DIR", data),
    ];
    let setup = environment
        .iter()
        .fold(setup, |setup, (name, value)| setup.env(name, value));
    let mut edge = setup.start().await;
    assert_ne!(
        edge.get(path).await.text().await.expect("a body"),
        "hello\n",
        "not there yet"
    );

    for (yaml, verdict, says) in [(&wrong, Some(1), "respond"), (&after, Some(0), "")] {
        let file = edge.directory().join("checked.yaml");
        std::fs::write(&file, yaml).expect("writing");
        let output = check(&file, &environment).await;
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), verdict, "{told}");
        assert!(told.contains(says), "{told}");
    }
    // A mistake changes nothing,
    edge.rewrite(&wrong);
    edge.signal(Signal::HangUp);
    edge.logs("configuration not reloaded; the previous one keeps serving")
        .await;
    edge.logs("respnod").await;
    // and what was checked serves.
    edge.reload(&after).await;
    let response = edge.get(path).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.expect("a body"), "hello\n");
    wait_for("the limit to be met", async || {
        (edge.get(path).await.status() == 429).then_some(())
    })
    .await;
    assert_eq!(client::get(&edge.admin_url("/readyz")).await.status(), 200);
}

#[tokio::test]
async fn the_demos_site_is_the_legacy_backends_while_its_component_is_missing() {
    let legacy = Origin::start();
    legacy.reply("/*", Reply::ok("legacy"));
    let setup = Edge::configure(&quickstart().replace("dictionary.wasm", "gone.wasm"));
    let data = setup.directory().display().to_string();
    let setup = setup
        .env("HTTP_PORT", "0")
        .env("HTTPS_PORT", "0")
        .env("ADMIN_PORT", "0")
        .env("DATA_DIR", data);
    let edge = setup
        .env("LEGACY_PORT", legacy.address().port().to_string())
        .start()
        .await;
    for path in ["/", "/stream", "/notes", "/api/word/ada", "/fail/trap"] {
        let response = edge.get(path).await;
        assert_eq!(
            header(&response, "proxy-status"),
            "selvedge; error=destination_unavailable; details=\"dictionary: handler_unavailable; answered by legacy\"",
            "{path}"
        );
        assert_eq!(response.text().await.expect("a body"), "legacy", "{path}");
    }
}

#[test]
fn every_file_the_readme_names_is_there() {
    let readme = read("README.md");
    let words = readme.split(['`', '(', ')', ' ', '\n']);
    // `docs/promises.md`, `conf/`; not `wasi:http`, not `/fail/trap`, and not what a build makes.
    let is_path = |word: &&str| {
        let plain = word
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || b"/_.-".contains(&byte));
        plain && word.contains('/') && !word.starts_with('/') && !word.starts_with("target/")
    };
    let named: Vec<&str> = words.filter(is_path).collect();
    assert!(named.len() > 20, "{named:?}");
    for path in named {
        assert!(repository().join(path).exists(), "{path} is named in the README");
    }
}
