//! How long a pooled instance of a component takes to make: one line of JSON, microseconds.
//!
//!     cargo run --release -p selvedge-runtime --example instantiate -- tests/guests/probe-p2.wasm /hello 2000

use std::path::PathBuf;

use selvedge_runtime::{Bindings, HandlerSpec, Runtime, RuntimeSettings, request_body};
use selvedge_schema::HandlerLimits;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: instantiate COMPONENT PATH COUNT";
    let component = PathBuf::from(arguments.next().ok_or(usage)?);
    let path = arguments.next().ok_or(usage)?;
    let count: usize = arguments.next().ok_or(usage)?.parse()?;
    let folder = tempfile::tempdir()?;
    let runtime = Runtime::start(RuntimeSettings::new(folder.path().to_owned()))?;
    let handler = runtime.load(HandlerSpec {
        name: "bench".to_owned(),
        component,
        limits: HandlerLimits {
            reuse: 1,
            ..HandlerLimits::default()
        },
        env: Default::default(),
        secrets: Default::default(),
        bindings: Bindings::default(),
    })?;
    let mut each = Vec::with_capacity(count);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            for _ in 0..count {
                let before = handler.stats().instantiation_time;
                let (mut writer, body) = request_body(0, None);
                writer.finish();
                let request = http::Request::get(format!("http://bench.test{path}")).header("host", "bench.test");
                let mut invocation = handler.invoke(request.body(())?.into_parts().0, body);
                invocation.response_head().await?;
                while invocation.next_chunk().await?.is_some() {}
                each.push(handler.stats().instantiation_time - before);
            }
            Ok::<(), Box<dyn std::error::Error>>(())
        })?;
    each.sort_unstable();
    let at = |share: f64| each[((count - 1) as f64 * share) as usize].as_nanos() as f64 / 1000.0;
    println!(
        "{{\"p50\": {:.1}, \"p99\": {:.1}, \"count\": {count}}}",
        at(0.5),
        at(0.99)
    );
    Ok(())
}
