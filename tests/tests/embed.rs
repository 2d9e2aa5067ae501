//! The edge as a library: `proxy/examples/embed.rs` serves as the executable does.

use std::process::{Command, Stdio};

use selvedge_tests::client;
use selvedge_tests::executable::{executable, repository};
use selvedge_tests::process::{Process, Signal};
use selvedge_tests::wait::wait_for;

#[tokio::test]
async fn the_example_serves_inside_another_server() {
    let example = executable().parent().expect("a folder").join("examples/embed");
    let directory = tempfile::tempdir().expect("a folder");
    let address = selvedge_tests::nginx::free_address();
    let mut command = Command::new(example);
    command
        .arg(repository().join("conf/static.yaml"))
        .arg(address.to_string())
        .env("DATA_DIR", directory.path())
        .stdin(Stdio::null());
    let mut process = Process::start(command, directory.path());
    wait_for("the server to accept", async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
    let page = client::get(&format!("http://{address}/"))
        .await
        .text()
        .await
        .expect("a body");
    assert!(page.contains("conf/public/index.html"), "{page}");
    let moved = client::get(&format!("http://{address}/home")).await;
    assert_eq!(moved.status(), 308);
    process.signal(Signal::Terminate);
    process.wait().await;
}
