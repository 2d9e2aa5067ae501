//! Clients as users have them: `reqwest` for HTTP/1.1 and HTTP/2, and the real curl.
//!
//! None follows redirects, none goes through a proxy, and certificates are not verified unless a test says so.

use std::io;
use std::path::Path;
use std::sync::Once;

use bytes::Bytes;
use reqwest::{Body, Client, ClientBuilder, Response};
use tokio::sync::mpsc;

use crate::peer;

/// A builder with the harness's defaults, for clients that need more.
pub fn builder() -> ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Another part of the same process may have installed one before; any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(true)
        .timeout(crate::wait::DEADLINE)
}

/// HTTP/1.1, or what ALPN picks on TLS.
pub fn client() -> Client {
    builder().build().expect("these settings make a client")
}

/// HTTP/1.1 also on TLS.
pub fn http1() -> Client {
    builder().http1_only().build().expect("these settings make a client")
}

/// HTTP/2 also without TLS, by prior knowledge.
pub fn http2() -> Client {
    builder()
        .http2_prior_knowledge()
        .build()
        .expect("these settings make a client")
}

/// The answer to a GET on a new connection.
pub async fn get(url: &str) -> Response {
    client()
        .get(url)
        .send()
        .await
        .unwrap_or_else(|error| panic!("getting {url}: {error:?}"))
}

/// The value of a response field, empty when it is missing or not text.
pub fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// A body that is sent piece by piece, and where the pieces go in. Dropping the sender ends it; an error breaks it off.
pub fn streamed() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    (sender, Body::wrap_stream(pieces))
}

/// What the real curl made of a request.
#[derive(Clone, Debug)]
pub struct Curl {
    /// curl's exit status: 0 well, 18 a transfer cut short, 52 no answer, 92 a reset HTTP/2 stream.
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs curl with these arguments; `None` when it is missing and the test is to be skipped.
pub async fn curl(arguments: &[&str]) -> Option<Curl> {
    let curl = peer::find("curl")?;
    let output = run(
        &curl,
        &[
            &["--silent", "--show-error", "--insecure", "--max-time", "60"],
            arguments,
        ]
        .concat(),
    )
    .await;
    Some(Curl {
        exit: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a peer to its end without keeping the test's own runtime from working.
pub async fn run(program: &Path, arguments: &[&str]) -> std::process::Output {
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let what = format!("{} to end", program.display());
    crate::wait::within(&what, child)
        .await
        .unwrap_or_else(|error| panic!("running {}: {error}", program.display()))
}
