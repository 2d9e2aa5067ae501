//! Configurations that are wrong, and what their author is told: place, key, and the nearest right one.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::parse;

/// A configuration that is right but for `part`.
fn refused(part: &str) -> String {
    const LISTENERS: &str = "listeners: [{ address: 127.0.0.1:0 }]\n";
    const ROUTES: &str = "routes: [{ match: { path: /* }, respond: { body: hi } }]\n";
    let mut text = String::new();
    if !part.contains("listeners:") {
        text.push_str(LISTENERS);
    }
    if !part.contains("routes:") {
        text.push_str(ROUTES);
    }
    text.push_str(part);
    let shown = match parse(&text) {
        Ok(_) => panic!("accepted:\n{part}"),
        Err(problems) => problems,
    };
    let line = |item: &selvedge_schema::Diagnostic| {
        let help = item.help.as_ref().map(|help| format!(" = {help}")).unwrap_or_default();
        let line = text.lines().nth(item.line - 1).unwrap_or_default();
        let at: String = line.chars().skip(item.column - 1).take(item.width).collect();
        format!("`{at}` {}{help}", item.message)
    };
    shown.items().iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What the author reads, for one mistake after the other.
#[test]
fn mistakes_are_explained() {
    let mut told = String::new();
    for part in [
        "listener: []\n",
        "admin: { adress: 127.0.0.1:1 }\n",
        "listeners: []\n",
        "listeners: [{ address: 127.0.0.1 }]\n",
        "listeners: [{ address: 127.0.0.1:80, tls: {} }]\n",
        "listeners: [{ address: 127.0.0.1:80 }, { address: 127.0.0.1:80 }]\n",
        "listeners: [{ address: 127.0.0.1:80, tls: { acme: {} } }]\n",
        "admin: { address: 0.0.0.0:9180 }\n",
        "limits: { header_timeout: 10 }\n",
        "limits: { header_timeout: soon, body_bytes: 1Gib }\n",
        "cache: { memory: -1 }\n",
        "cache: { disk: { path: x } }\n",
        "upstreams: { a: { servers: [] } }\n",
        "upstreams: { a: { servers: [{ address: 127.0.0.1:1, backup: true }] } }\n",
        "upstreams: { a: { servers: [{ address: 127.0.0.1:1 }], balance: robin } }\n",
        "upstreams: { a: { servers: [{ address: 127.0.0.1:1 }], http2: yes } }\n",
        "routes: []\n",
        "routes:\n  - match: { path: products }\n    respond: {}\n",
        "routes:\n  - match: { path: /a }\n",
        "routes:\n  - match: { path: /a }\n    handler: shop\n    upstream: b\n",
        "routes:\n  - match: { path: /a }\n    handler: shop\n",
        "upstreams: { legacy: { servers: [{ address: 127.0.0.1:1 }] } }\nroutes:\n  - match: { path: /a }\n    upstream: legaci\n",
        "routes:\n  - match: { path: /a, method: [GET] }\n    respond: {}\n",
        "routes:\n  - match: { path: /a }\n    respond: {}\n    filters: [{ request_ids: {} }]\n",
        "routes:\n  - match: { path: /a }\n    respond: {}\n    filters: [{ rate_limit: { key: client_ip, rate: fast } }]\n",
        "routes:\n  - match: { path: /a }\n    respond: {}\n    filters: [{ compress: {} }]\n",
        "routes:\n  - match: { path: /a }\n    respond: {}\n    filters: [{ jwt: {} }]\n",
        "routes:\n  - match: { path: /a }\n    respond: {}\n    cache: { isr: { revalidate: 0s } }\n",
        "routes:\n  - match: { path: /a }\n    respond: {}\n    cache: { isr: { revalidate: 10s, expire: 5s } }\n",
        "admin: { address: \"${NOTHING}\" }\n",
        "cache: { memory: 1MiB }\ncache: { memory: 2MiB }\n",
        "data_dir: [\n",
        "\tdata_dir: a\n",
    ] {
        told.push_str(&format!("{part}{}\n\n", refused(part)));
    }
    insta::assert_snapshot!(told);
}

/// Who connects to a PostgreSQL, and who must not.
#[test]
fn only_the_primary_has_an_address() {
    const PRIMARY: &str = "agent: { name: a }\n";
    const REPLICA: &str = "agent: { primary: \"http://127.0.0.1:1\" }\n";
    for (part, told) in [
        (
            "postgres: { old: { url: \"postgres://a@b/c\" } }\n".to_owned(),
            "reached through the agent, and there is none",
        ),
        (
            format!("{PRIMARY}postgres: {{ old: {{}} }}\n"),
            "has no url, and this agent is the primary",
        ),
        (
            format!("{REPLICA}postgres: {{ old: {{ url: \"postgres://a@b/c\" }} }}\n"),
            "has a url, but only the primary connects",
        ),
        (
            format!("{PRIMARY}postgres: {{ old: {{ url: x, statement_timeout: 61s }} }}\n"),
            "expected at most 60s",
        ),
        (
            format!(
                "{REPLICA}postgres: {{ old: {{}} }}\nhandlers: {{ a: {{ component: a.wasm, bindings: {{ PG: {{ postgres: odl }} }} }} }}\n"
            ),
            "the postgres \"odl\" is not defined; did you mean \"old\"?",
        ),
    ] {
        let shown = refused(&part);
        assert!(shown.contains(told), "{part}{shown}");
        assert!(!shown.contains("a@b"), "{part}{shown}");
    }
}

#[test]
fn a_store_says_what_is_wrong_with_it() {
    for (store, expected) in [
        (
            "url: s3://b, access_key_id: a",
            "`access_key_id` and `secret_access_key` belong together",
        ),
        (
            "url: ./b, snapshot_interval: 60d",
            "no snapshot would be as old as `retention` says",
        ),
        (
            "url: s3://b, endpoint: \"http://x\"",
            "the store's endpoint is reached without TLS",
        ),
        ("url: \"gs://b\"", "agent.store.url"),
        ("region: x", "url"),
    ] {
        let told = refused(&format!("agent: {{ store: {{ {store} }} }}\n"));
        assert!(told.contains(expected), "{store}: {told}");
    }
}
