//! Invocations of real guests, both WASI versions.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;

use selvedge_replication::{Database, DatabaseSettings};
use selvedge_runtime::{
    Bindings, Failure, Handler, HandlerSpec, Invocation, LoadError, Runtime, RuntimeSettings, request_body,
};
use selvedge_schema::HandlerLimits;

const GUESTS: [&str; 2] = ["probe-p2", "probe-p3"];

fn runtime(dir: &tempfile::TempDir) -> Arc<Runtime> {
    let mut settings = RuntimeSettings::new(dir.path().join("artifacts"));
    settings.instances = 100;
    Runtime::start(settings).unwrap()
}

fn component(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn spec(guest: &str, limits: HandlerLimits) -> HandlerSpec {
    HandlerSpec {
        name: guest.to_owned(),
        component: component(&format!("tests/guests/{guest}.wasm")),
        limits,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        bindings: Bindings::default(),
    }
}

fn load(runtime: &Arc<Runtime>, guest: &str, limits: HandlerLimits) -> Arc<Handler> {
    runtime.load(spec(guest, limits)).unwrap()
}

/// Limits that a well-behaved guest does not notice and a test does not wait long for.
fn tight() -> HandlerLimits {
    HandlerLimits {
        cpu: Duration::from_millis(100),
        wall: Duration::from_millis(800),
        memory: 16 << 20,
        queue: Duration::from_millis(20),
        ..HandlerLimits::default()
    }
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

/// The reason a request to the 0.2 probe fails with, and whether its head arrived before.
async fn failure(handler: &Arc<Handler>, path: &str) -> (&'static str, bool) {
    let mut invocation = get(handler, path);
    if let Err(failure) = invocation.response_head().await {
        return (failure.reason(), false);
    }
    loop {
        match invocation.next_chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => return ("complete", true),
            Err(failure) => return (failure.reason(), true),
        }
    }
}

#[tokio::test]
async fn every_failure_has_its_name_and_a_cut_body_is_never_complete() {
    let dir = tempfile::tempdir().unwrap();
    let handler = load(&runtime(&dir), "probe-p2", tight());
    for (path, expected) in [
        ("/trap-before", ("handler_trap", false)),
        ("/panic", ("handler_trap", false)),
        ("/no-response", ("handler_no_response", false)),
        ("/loop", ("handler_cpu_limit", false)),
        ("/sleep?ms=5000", ("handler_wall_deadline", false)),
        ("/trap-after-head", ("handler_trap", true)),
        ("/loop-mid", ("handler_cpu_limit", true)),
        ("/sleep-mid?ms=5000", ("handler_wall_deadline", true)),
        ("/stream?chunks=5&size=100", ("complete", true)),
        ("/big?bytes=300000", ("complete", true)),
    ] {
        assert_eq!(failure(&handler, path).await, expected, "{path}");
    }
    // Whether their head was handed on before they trapped is a matter of microseconds; that they trapped is not.
    for path in ["/trap-mid?after=1000", "/trap-mid?after=100000&length=200000"] {
        assert_eq!(failure(&handler, path).await.0, "handler_trap", "{path}");
    }
    let (status, _) = collect(&mut get(&handler, "/hello")).await.unwrap();
    assert_eq!(status, 200, "the handler still answers");
}

#[tokio::test]
async fn a_body_of_another_length_than_declared_is_not_complete() {
    let dir = tempfile::tempdir().unwrap();
    let handler = load(&runtime(&dir), "probe-p2", tight());
    for path in ["/short", "/long"] {
        assert_ne!(failure(&handler, path).await.0, "complete", "{path}");
    }
}

#[tokio::test]
async fn memory_is_refused_above_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let handler = load(&runtime(&dir), "probe-p2", tight());
    let (_, body) = collect(&mut get(&handler, "/memory?mib=64")).await.unwrap();
    let text = String::from_utf8(body).unwrap();
    let granted: u32 = text.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(granted < 16, "{text}");
}

/// More than the gate, the channels and the guest hold together: each side must keep moving for the other.
#[tokio::test]
async fn a_large_echo_does_not_deadlock() {
    const CHUNKS: usize = 320;
    let dir = tempfile::tempdir().unwrap();
    let limits = HandlerLimits {
        request_body: 64 << 20,
        ..HandlerLimits::default()
    };
    let handler = load(&runtime(&dir), "probe-p2", limits);
    let request = http::Request::post("http://site.example/echo").header("host", "site.example");
    let (mut writer, body) = request_body(64 << 20, None);
    let mut invocation = handler.invoke(request.body(()).unwrap().into_parts().0, body);
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    // One task does both, as the proxy does: a write that waits for ever would stop the reads too.
    invocation.response_head().await.unwrap();
    let mut received = 0;
    for _ in 0..CHUNKS {
        writer.write(chunk.clone()).await.unwrap();
        while received < chunk.len() {
            let Some(piece) = invocation.next_chunk().await.unwrap() else {
                panic!("ended early")
            };
            received += piece.len();
        }
        received -= chunk.len();
    }
    writer.finish();
    while let Some(piece) = invocation.next_chunk().await.unwrap() {
        received += piece.len();
    }
    assert_eq!(received, 0, "every byte came back once");
}

#[tokio::test]
async fn a_request_body_over_the_limit_fails_the_invocation_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let handler = load(&runtime(&dir), "probe-p2", tight());
    let request = http::Request::post("http://site.example/drain").header("host", "site.example");
    let (mut writer, body) = request_body(10, None);
    let mut invocation = handler.invoke(request.body(()).unwrap().into_parts().0, body);
    assert!(writer.write(Bytes::from_static(b"more than ten bytes")).await.is_err());
    let outcome = invocation.response_head().await;
    assert!(outcome.is_err() || invocation.next_chunk().await.is_ok(), "{outcome:?}");
}

#[tokio::test]
async fn a_full_handler_says_so_and_a_dropped_invocation_frees_its_slot() {
    let dir = tempfile::tempdir().unwrap();
    let limits = HandlerLimits {
        concurrency: 1,
        wall: Duration::from_secs(30),
        ..tight()
    };
    let handler = load(&runtime(&dir), "probe-p2", limits);
    let mut first = get(&handler, "/sleep-mid?ms=20000");
    first.response_head().await.unwrap();
    assert_eq!(failure(&handler, "/hello").await.0, "handler_overloaded");
    drop(first);
    while failure(&handler, "/hello").await.0 == "handler_overloaded" {}
    while handler.stats().instances > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_not_a_handler_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(&dir);
    let refused = |component: PathBuf| {
        let spec = HandlerSpec {
            component,
            ..spec("probe-p2", HandlerLimits::default())
        };
        runtime.load(spec).err().unwrap()
    };
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    assert!(matches!(refused(dir.path().join("absent")), LoadError::Read { .. }));
    assert!(matches!(
        refused(file("text", b"hello, not wasm")),
        LoadError::NotWasm { .. }
    ));
    assert!(matches!(
        refused(file("core", b"\0asm\x01\0\0\0")),
        LoadError::CoreModule { .. }
    ));
    assert!(matches!(
        refused(file("cut", b"\0asm\x0d\0\x01\0\x07")),
        LoadError::Compile { .. }
    ));
    assert!(matches!(
        refused(component("tests/guests/not-http.wasm")),
        LoadError::WrongWorld { .. }
    ));
    assert!(matches!(
        refused(component("tests/guests/unknown-import.wasm")),
        LoadError::Import { .. }
    ));
}

/// The 0.3 guest of the demo: SQL, instance reuse, and its deliberate failures.
#[tokio::test]
async fn the_dictionary_reads_its_database_and_fails_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let schema = ["schema.sql", "indexes.sql"]
        .map(|file| std::fs::read_to_string(component("examples/dictionary").join(file)).unwrap())
        .join("\n");
    let migrations = dir.path().join("migrations");
    std::fs::create_dir(&migrations).unwrap();
    std::fs::write(migrations.join("0001_dictionary.sql"), schema).unwrap();
    let notes = std::fs::read(component("examples/dictionary/migrations/0001_notes.sql")).unwrap();
    std::fs::write(migrations.join("0002_notes.sql"), notes).unwrap();
    let mut settings = DatabaseSettings::new("dictionary", dir.path().join("dictionary.db"));
    settings.migrations = Some(migrations);
    let database = Database::open(settings).unwrap();
    let handler = runtime(&dir)
        .load(HandlerSpec {
            component: component("examples/dictionary/dictionary.wasm"),
            bindings: Bindings {
                databases: BTreeMap::from([("DB".to_owned(), database)]),
                ..Bindings::default()
            },
            ..spec("dictionary", tight())
        })
        .unwrap();
    for _ in 0..20 {
        let (status, body) = collect(&mut get(&handler, "/search?q=cat")).await.unwrap();
        assert_eq!(status, 200);
        assert!(String::from_utf8(body).unwrap().contains("</html>"));
    }
    let stats = handler.stats();
    assert!(
        stats.instantiations < stats.invocations,
        "instances are reused: {stats:?}"
    );
    assert_eq!(failure(&handler, "/fail/trap").await, ("handler_trap", false));
    assert_eq!(failure(&handler, "/fail/loop").await, ("handler_cpu_limit", false));
    assert_eq!(failure(&handler, "/fail/late").await, ("handler_trap", true));
}

/// Built with Spin's own SDK, as its documentation has it.
#[tokio::test]
async fn an_application_for_spin_runs_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(DatabaseSettings::new("todos", dir.path().join("todos.db"))).unwrap();
    let mut spec = spec("spin-app", HandlerLimits::default());
    spec.bindings.databases.insert("todos".to_owned(), database);
    let handler = runtime(&dir).load(spec).unwrap();
    for (path, expected) in [
        ("/?todo=sleep", "rowid 1, changes 1: sleep 0.5\n"),
        ("/?todo=eat", "rowid 2, changes 1: sleep 0.5, eat 0.5\n"),
    ] {
        let (status, body) = collect(&mut get(&handler, path)).await.unwrap();
        assert_eq!(
            (status, String::from_utf8(body).unwrap().as_str()),
            (200, expected),
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_idle_instance_gives_up_its_place_to_another_handler() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = RuntimeSettings::new(dir.path().join("artifacts"));
    settings.instances = 2;
    let runtime = Runtime::start(settings).unwrap();
    let kept = HandlerLimits {
        idle: Duration::from_secs(3600),
        wall: Duration::from_secs(3600),
        ..HandlerLimits::default()
    };
    let handlers = GUESTS.map(|guest| [load(&runtime, guest, kept.clone()), load(&runtime, guest, kept.clone())]);
    let busy = &handlers[1][0];
    let mut running = get(busy, "/sleep-mid?ms=3600000");
    running.response_head().await.unwrap();
    for handler in handlers.iter().flatten().chain([&handlers[1][1]]).cycle().take(20) {
        if !Arc::ptr_eq(handler, busy) {
            collect(&mut get(handler, "/hello")).await.unwrap();
        }
    }
    assert_eq!(busy.stats().instances, 1, "who is busy keeps it");
}

#[tokio::test]
async fn when_all_instances_of_the_process_are_in_use_a_handler_is_overloaded() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = RuntimeSettings::new(dir.path().join("artifacts"));
    settings.instances = 2;
    let runtime = Runtime::start(settings).unwrap();
    let (first, second) = (load(&runtime, "probe-p2", tight()), load(&runtime, "probe-p2", tight()));
    let mut running = [get(&first, "/sleep-mid?ms=5000"), get(&first, "/sleep-mid?ms=5000")];
    for invocation in &mut running {
        invocation.response_head().await.unwrap();
    }
    assert_eq!(failure(&second, "/hello").await, ("handler_overloaded", false));
    drop(running);
    let answers = async || collect(&mut get(&second, "/hello")).await.is_ok();
    while !answers().await {}
}
