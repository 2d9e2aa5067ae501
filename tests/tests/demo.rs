//! `cargo xtask demo` as a newcomer runs it, in a network where its ports are free.

use std::os::unix::process::CommandExt;
use std::path::Path;

use selvedge_tests::executable::executable;
use selvedge_tests::process::{Process, Signal};
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Network, peer};

/// Starts the demo with `folder` as its own; `None` tells the test to return.
fn start(network: &Network, folder: &Path) -> Option<Process> {
    let dictionary = peer::dictionary()?;
    std::fs::copy(dictionary, folder.join("dictionary.db")).expect("copying the dictionary");
    let mut command = network.command(&executable().with_file_name("xtask"));
    command
        .arg("demo")
        .env("SELVEDGE_EXE", executable())
        .env("DATA_DIR", folder)
        .process_group(0);
    Some(Process::start(command, folder))
}

/// The response to what curl is told to ask, head and body.
async fn curl(network: &Network, arguments: &[&str]) -> Option<String> {
    let mut command = network.command(&peer::find("curl")?);
    command
        .args([
            "--silent",
            "--show-error",
            "--include",
            "--insecure",
            "--max-time",
            "60",
        ])
        .args(arguments);
    let output = tokio::process::Command::from(command).output();
    let output = output.await.expect("curl runs");
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

async fn nothing_is_left(network: &Network) {
    wait_for("the demo's processes to be gone", async || {
        network.processes().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_demo_serves_what_it_invites_to_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(network) = Network::start().await else { return };
    let Some(mut demo) = start(&network, folder.path()) else {
        return;
    };
    wait_for("the invitation", async || {
        assert!(demo.ended().is_none(), "{}", demo.describe());
        demo.stdout().contains("Ctrl-C stops everything").then_some(())
    })
    .await;
    for (url, wanted) in [
        ("http://127.0.0.1:8080/", "meanings"),
        ("https://127.0.0.1:8443/", "meanings"),
        ("http://127.0.0.1:8080/words?letter=q", "quail"),
        (
            "http://127.0.0.1:8080/word/selvedge",
            "cache-status: selvedge; fwd=uri-miss; stored",
        ),
        ("http://127.0.0.1:8080/search?q=domesticated+prehistoric", "/word/dog"),
        ("http://127.0.0.1:8080/stream", "</html>"),
        ("http://127.0.0.1:8080/assets/mark.svg", "<svg"),
        ("http://127.0.0.1:8080/legacy/", "The site you had before"),
        ("http://127.0.0.1:8080/fail/trap", "answered by legacy"),
        ("http://127.0.0.1:8083/word/dog", "domesticated by man"),
        ("http://127.0.0.1:9180/readyz", "\"ready\":true"),
    ] {
        let Some(answer) = curl(&network, &[url]).await else {
            return;
        };
        assert!(answer.contains(wanted), "{url}: {answer}\n{}", demo.describe());
    }
    let jar = folder.path().join("jar").display().to_string();
    let note = "word=dog&author=Ada&body=Barks+at+night";
    let written = curl(
        &network,
        &["--cookie-jar", &jar, "--data", note, "http://127.0.0.1:8081/notes"],
    )
    .await;
    assert!(written.is_some_and(|answer| answer.contains(" 303 ")));
    let read = curl(&network, &["--cookie", &jar, "http://127.0.0.1:8082/notes?word=dog"]).await;
    assert!(read.is_some_and(|answer| answer.contains("Barks at night")));
    demo.signal_group(Signal::Interrupt);
    let status = demo.wait().await;
    assert!(status.success(), "{}", demo.describe());
    nothing_is_left(&network).await;
}

/// What it needs first, and what it needs when most of it runs already.
#[tokio::test]
async fn a_demo_whose_port_is_in_use_says_so_and_leaves_nothing_behind() {
    for port in [8080, 8083] {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(network) = Network::start().await else { return };
        let mut occupant = occupy(&network, port, &folder.path().join("occupant")).await;
        let Some(mut demo) = start(&network, folder.path()) else {
            return;
        };
        assert!(!demo.wait().await.success());
        let says = demo.stderr();
        assert!(says.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{says}");
        assert!(
            says.lines().last().is_some_and(|line| line.starts_with("error: ")),
            "{says}"
        );
        occupant.kill();
        nothing_is_left(&network).await;
    }
}

/// Somebody who listens at `port`.
async fn occupy(network: &Network, port: u16, folder: &Path) -> Process {
    std::fs::create_dir(folder).expect("a folder");
    let config = folder.join("config.yaml");
    let yaml = format!("listeners: [{{ address: 127.0.0.1:{port} }}]\nroutes: [{{ match: {{}}, respond: {{}} }}]\n");
    std::fs::write(&config, yaml).expect("writing a configuration");
    let ready = folder.join("ready.json");
    let mut command = network.command(executable());
    command.arg("run").arg(&config).arg("--ready-file").arg(&ready);
    let mut process = Process::start(command, folder);
    wait_for("the port to be in use", async || {
        assert!(process.ended().is_none(), "{}", process.describe());
        ready.exists().then_some(())
    })
    .await;
    process
}
