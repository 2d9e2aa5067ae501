//! The 0.3 probe: one instance serves several requests, also at the same time. `/headers` tells what it sees of a request,
//! `/trailers` ends with some, `/sleep` waits for a second, `/trap` ends the instance and whoever it serves; the rest is
//! a greeting.

wit_bindgen::generate!({ path: "../wit", world: "probe-p3", generate_all });

use exports::wasi::http0_3_0::handler::Guest;
use wasi::clocks0_3_0::monotonic_clock::wait_for;
use wasi::http0_3_0::types::{ErrorCode, Fields, Request, Response, Scheme};

struct Probe;

impl Guest for Probe {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let body = match path.as_str() {
            "/headers" => describe(&request),
            "/trap" => core::arch::wasm32::unreachable(),
            "/sleep" => {
                wait_for(1_000_000_000).await;
                "slept\n".to_owned()
            }
            _ => "hello\n".to_owned(),
        };
        let trailers = path == "/trailers";
        let (mut writer, reader) = wit_stream::new();
        let (trailers_writer, trailers_reader) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers_reader);
        wit_bindgen::spawn_local(async move {
            writer.write_all(body.into_bytes()).await;
            drop(writer);
            let fields = trailers.then(|| {
                let fields = Fields::new();
                let _ = fields.append("x-checksum", b"abc");
                fields
            });
            let _ = trailers_writer.write(Ok(fields)).await;
        });
        Ok(response)
    }
}

fn describe(request: &Request) -> String {
    let scheme = match request.get_scheme() {
        Some(Scheme::Http) => "http".to_owned(),
        Some(Scheme::Https) => "https".to_owned(),
        Some(Scheme::Other(other)) => other,
        None => "-".to_owned(),
    };
    let authority = request.get_authority().unwrap_or_else(|| "-".to_owned());
    let fields = request.get_headers().copy_all();
    let lines: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value))).collect();
    format!("scheme {scheme}\nauthority {authority}\n{}", lines.concat())
}

export!(Probe);
