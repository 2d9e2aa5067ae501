//! Invocations of real guests, both WASI versions.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use selvedge_runtime::{Failure, Handler, HandlerSpec, Invocation, Runtime, RuntimeSettings, request_body};
use selvedge_schema::HandlerLimits;

const GUESTS: [&str; 2] = ["probe-p2", "probe-p3"];

fn runtime(dir: &tempfile::TempDir) -> Arc<Runtime> {
    let mut settings = RuntimeSettings::new(dir.path().join("artifacts"));
    settings.instances = 100;
    Runtime::start(settings).unwrap()
}

fn load(runtime: &Arc<Runtime>, guest: &str, limits: HandlerLimits) -> Arc<Handler> {
    let component = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/guests")
        .join(format!("{guest}.wasm"));
    runtime
        .load(HandlerSpec {
            name: guest.to_owned(),
            component,
            limits,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            bindings: BTreeMap::new(),
        })
        .unwrap()
}

fn get(handler: &Arc<Handler>, path: &str) -> Invocation {
    let request = http::Request::get(format!("http://site.example{path}")).header("host", "site.example");
    let (mut writer, body) = request_body(1024, None);
    writer.finish();
    handler.invoke(request.body(()).unwrap().into_parts().0, body)
}

async fn collect(invocation: &mut Invocation) -> Result<(u16, Vec<u8>), Failure> {
    let head = invocation.response_head().await?;
    let mut body = Vec::new();
    while let Some(chunk) = invocation.next_chunk().await? {
        body.extend_from_slice(&chunk);
    }
    Ok((head.status.as_u16(), body))
}

#[tokio::test]
async fn both_versions_answer() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(&dir);
    for guest in GUESTS {
        let handler = load(&runtime, guest, HandlerLimits::default());
        let (status, body) = collect(&mut get(&handler, "/hello")).await.unwrap();
        assert_eq!((status, body.as_slice()), (200, b"hello\n".as_slice()), "{guest}");
    }
}
