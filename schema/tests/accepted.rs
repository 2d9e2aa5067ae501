//! Configurations that are right, and what they become.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::parse;
use selvedge_schema::*;
use serde_json::json;

/// The example of the design document, without what comes in later versions.
const WHOLE: &str = r#"
listeners:
  - address: 0.0.0.0:8080
  - address: 0.0.0.0:8443
    tls:
      certificates: [{ cert: certs/site.pem, key: certs/site.key }]   # several; chosen by SNI
      min_version: "1.2"
admin:   { address: 127.0.0.1:9180 }         # health, readiness, metrics, purge, routes, drain
data_dir: ./data

upstreams:                                    # legacy backends
  legacy:
    servers: [{ address: 127.0.0.1:3000, weight: 2 }, { address: 127.0.0.1:3001, backup: true }]
    balance: round_robin                      # | least_connections | consistent_hash | random
    health_check: { path: /healthz, interval: 5s, healthy: 2, unhealthy: 3 }
    timeouts: { connect: 2s, read: 30s, write: 30s, idle: 60s }
    retries: 1                                # idempotent requests only, unless said otherwise
    tls: false                                # | { server_name: …, ca: … }
    http2: false

databases:
  shop: { path: shop.db, migrations: ./migrations }
handlers:
  shop:
    component: ./apps/shop.wasm
    bindings:                                 # the only capabilities the guest gets
      DB:       { database: shop }
    env: { STAGE: production }
    secrets: [STRIPE_KEY]
    limits: { memory: 128MiB, cpu: 50ms, wall: 30s, concurrency: 256, request_body: 10MiB, response_header: 64KiB }

cache:
  memory: 512MiB

routes:                                       # most specific match wins; ties are an error at check time
  - match: { host: shop.example.com, path: "/products/*", methods: [GET, HEAD] }
    filters:                                  # run in the order written
      - request_id: {}
      - rate_limit: { key: client_ip, rate: 100/s, burst: 200 }
      - jwt: { jwks: https://id.example.com/keys, audience: shop, forward_claims: { sub: x-user } }
    cache:
      isr: { revalidate: 60s, stale_if_error: 1d, allow_query: [page] }
      tags: ["products"]
      vary: [accept-language]
    handler: shop
    fallback: legacy                          # origin fallback: handler failed before a response byte was sent
  - match: { path: "/assets/*" }
    static: { root: ./public, immutable: true }
  - match: { path: "/*" }
    upstream: legacy
"#;

/// The smallest configuration, and room for more at its end.
fn smallest(more: &str) -> Config {
    let text = format!("listeners: [{{ address: 127.0.0.1:80 }}]\nroutes: [{{ match: {{}}, respond: {{}} }}]\n{more}");
    parse(&text).unwrap().config
}

#[test]
fn the_whole_vocabulary() {
    let Document { config, warnings, .. } = parse(WHOLE).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(
        config.listeners[0],
        Listener {
            address: "0.0.0.0:8080".parse().unwrap(),
            tls: None
        }
    );
    let files = CertificateFiles {
        cert: "/etc/selvedge/certs/site.pem".into(),
        key: "/etc/selvedge/certs/site.key".into(),
    };
    let tls = Tls {
        certificates: vec![files],
        self_signed: vec![],
        min_version: TlsVersion::Tls12,
    };
    assert_eq!(config.listeners[1].tls, Some(tls));
    assert_eq!(
        config.admin,
        Some(Admin {
            address: "127.0.0.1:9180".parse().unwrap(),
            token: None
        })
    );
    assert_eq!(config.data_dir, PathBuf::from("/etc/selvedge/data"));
    let legacy = Upstream {
        servers: vec![
            Server {
                address: "127.0.0.1:3000".to_owned(),
                weight: 2,
                backup: false,
            },
            Server {
                address: "127.0.0.1:3001".to_owned(),
                weight: 1,
                backup: true,
            },
        ],
        balance: Balance::RoundRobin,
        health_check: Some(HealthCheck {
            path: "/healthz".to_owned(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy: 2,
            unhealthy: 3,
        }),
        timeouts: Timeouts::default(),
        retries: 1,
        tls: None,
        http2: false,
        host: None,
    };
    assert_eq!(config.upstreams["legacy"], legacy);
    let shop = Database {
        allow_incompatible: false,
        path: Some("/etc/selvedge/shop.db".into()),
        seed: None,
        max_staleness: None,
        migrations: Some("/etc/selvedge/migrations".into()),
        statement_timeout: Duration::from_secs(5),
        readers: 4,
    };
    assert_eq!(config.databases["shop"], shop);
    let handler = Handler {
        component: "/etc/selvedge/apps/shop.wasm".into(),
        bindings: [("DB".to_owned(), Binding::Database("shop".to_owned()))].into(),
        env: [("STAGE".to_owned(), "production".to_owned())].into(),
        secrets: vec!["STRIPE_KEY".to_owned()],
        health_check: None,
        limits: HandlerLimits {
            cpu: Duration::from_millis(50),
            ..HandlerLimits::default()
        },
    };
    assert_eq!(config.handlers["shop"], handler);
    assert_eq!(
        config.cache,
        CacheBudget {
            memory: 512 << 20,
            ..CacheBudget::default()
        }
    );

    let [products, assets, rest] = config.routes.as_slice() else {
        panic!("three routes")
    };
    assert_eq!(products.name, "shop.example.com/products/*");
    assert_eq!(products.matcher.to_string(), "GET,HEAD shop.example.com/products/*");
    assert_eq!(products.target, Target::Handler("shop".to_owned()));
    assert_eq!(products.fallback.as_deref(), Some("legacy"));
    let filters: Vec<_> = products
        .filters
        .iter()
        .map(|f| (f.name.as_str(), f.pointer.as_str()))
        .collect();
    let expected = [
        ("request_id", "/routes/0/filters/0/request_id"),
        ("rate_limit", "/routes/0/filters/1/rate_limit"),
        ("jwt", "/routes/0/filters/2/jwt"),
    ];
    assert_eq!(filters, expected);
    assert_eq!(
        products.filters[1].settings,
        json!({ "key": "client_ip", "rate": "100/s", "burst": 200 })
    );
    let policy = products.cache.clone().unwrap();
    let isr = Isr {
        revalidate: Duration::from_secs(60),
        expire: None,
        stale_if_error: Duration::from_secs(86_400),
        bypass_token: None,
    };
    assert_eq!(policy.isr, Some(isr));
    assert_eq!(policy.tags, ["products"]);
    assert_eq!(policy.vary, [http::header::ACCEPT_LANGUAGE]);
    assert_eq!(policy.query, QueryKey::Only(vec!["page".to_owned()]));
    let files = StaticFiles {
        root: "/etc/selvedge/public".into(),
        index: "index.html".to_owned(),
        immutable: true,
    };
    assert_eq!(assets.target, Target::Static(files));
    assert_eq!(
        (assets.name.as_str(), assets.pointer.as_str()),
        ("/assets/*", "/routes/1")
    );
    assert_eq!(rest.target, Target::Upstream("legacy".to_owned()));
}

#[test]
fn what_is_left_out_has_a_default() {
    let config = smallest("");
    assert_eq!(config.admin, None);
    assert_eq!(config.data_dir, PathBuf::from("/etc/selvedge/data"));
    assert_eq!(config.secrets_dir, None);
    assert_eq!(config.limits, DoorLimits::default());
    assert_eq!(config.cache, CacheBudget::default());
    assert_eq!(config.shutdown, Shutdown::default());
    assert_eq!(config.access_log, AccessLog::Stdout);
    let route = &config.routes[0];
    assert_eq!(
        route.matcher,
        Match {
            host: HostPattern::Any,
            path: PathPattern::any(),
            methods: None
        }
    );
    assert_eq!(
        (route.name.as_str(), &route.cache, &route.fallback),
        ("/*", &None, &None)
    );
    let respond = FixedResponse {
        status: 200,
        body: String::new(),
        content_type: "text/plain; charset=utf-8".to_owned(),
    };
    assert_eq!(route.target, Target::Respond(respond));
}

#[test]
fn alternatives_of_one_key() {
    let log = |text: &str| smallest(&format!("access_log: {text}")).access_log;
    assert_eq!(log("off"), AccessLog::Off);
    assert_eq!(log("stderr"), AccessLog::Stderr);
    assert_eq!(
        log("{ file: ./log/access.log }"),
        AccessLog::File("/etc/selvedge/log/access.log".into())
    );

    let tls = |text: &str| {
        let upstreams = format!("upstreams: {{ a: {{ servers: [{{ address: \"a.example:443\" }}], tls: {text} }} }}");
        smallest(&upstreams).upstreams["a"].tls.clone()
    };
    assert_eq!(tls("false"), None);
    assert_eq!(tls("true"), Some(UpstreamTls::default()));
    let settings = UpstreamTls {
        server_name: Some("a.example".to_owned()),
        ca: Some("/ca.pem".into()),
    };
    assert_eq!(tls("{ server_name: a.example, ca: /ca.pem }"), Some(settings));

    let query = |text: &str| {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nroutes: [{{ match: {{}}, cache: {text}, respond: {{}} }}]"
        );
        parse(&text).unwrap().config.routes[0].cache.clone().unwrap().query
    };
    assert_eq!(query("{}"), QueryKey::All);
    assert_eq!(query("{ query: none }"), QueryKey::None);
    assert_eq!(query("{ query: all, isr: { revalidate: 1s } }"), QueryKey::All);
    assert_eq!(
        query("{ query: [a, b] }"),
        QueryKey::Only(vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(query("{ isr: { revalidate: 1s } }"), QueryKey::None);
    assert_eq!(query("{ isr: { revalidate: 1s, allow_query: [] } }"), QueryKey::None);
}

#[test]
fn a_store_is_a_folder_or_a_service_and_does_not_show_its_keys() {
    let store = |text: &str| {
        let agent = smallest(&format!("agent: {{ store: {{ {text} }} }}")).agent.unwrap();
        assert!(!format!("{agent:?}").contains("hidden"));
        agent.store.unwrap()
    };
    let folder = store("url: ./backup");
    assert_eq!(folder.url, "/etc/selvedge/backup");
    assert_eq!(folder.retention.as_secs(), 30 * 24 * 3600);
    assert_eq!(store("url: \"file:///var/backup\"").url, "file:///var/backup");
    let keys = "access_key_id: id-hidden, secret_access_key: hidden";
    let s3 = store(&format!(
        "url: \"s3://bucket/a/b\", endpoint: \"http://127.0.0.1:9000\", allow_http: true, sync_interval: 5s, {keys}"
    ));
    assert_eq!((s3.url.as_str(), s3.sync_interval.as_secs()), ("s3://bucket/a/b", 5));
    assert_eq!(s3.secret_access_key.as_deref(), Some("hidden"));
    assert!(!format!("{s3:?}").contains("hidden"));
}

#[test]
fn values_from_outside_have_the_type_that_is_expected() {
    let text = r#"
listeners:
  - address: 127.0.0.1:${PORT}
admin: { address: "127.0.0.1:9180", token: "${TOKEN}" }
limits: { connections: "${PORT}" }
cache: { memory: "${PORT}" }
shutdown:
  grace: ${GRACE:-5s}
upstreams:
  a:
    servers: [{ address: "127.0.0.1:${PORT}", weight: "${WEIGHT:-3}", backup: "${BACKUP:-false}" }]
    balance: ${BALANCE}
    tls: "${TLS:-true}"
handlers:
  h:
    component: h.wasm
    env: { PORT: "${PORT}", ZIP: 01234, YES: true, PRICE: 1.50, LITERAL: "$${PORT}" }
routes:
  - match: { path: /a }
    upstream: a
    cache:
      isr:
        revalidate: 10s
        bypass_token: ${TOKEN}
  - match: { path: /h }
    handler: h
    filters:
      - jwt: { jwks: "${file:token}" }
"#;
    let config = parse(text).unwrap().config;
    assert_eq!(config.listeners[0].address.port(), 8080);
    assert_eq!(config.admin.unwrap().token.as_deref(), Some("123456789012345678"));
    assert_eq!((config.limits.connections, config.cache.memory), (8080, 8080));
    assert_eq!(config.shutdown.grace, Duration::from_secs(5));
    let upstream = &config.upstreams["a"];
    assert_eq!((upstream.servers[0].weight, upstream.balance), (3, Balance::Random));
    assert_eq!(upstream.tls, Some(UpstreamTls::default()));
    let isr = config.routes[0].cache.clone().unwrap().isr.unwrap();
    assert_eq!(isr.bypass_token.as_deref(), Some("123456789012345678"));
    assert!(!format!("{isr:?}").contains("1234"), "tokens stay out of debug output");
    let env: Vec<_> = config.handlers["h"]
        .env
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        env,
        [
            ("LITERAL", "${PORT}"),
            ("PORT", "8080"),
            ("PRICE", "1.50"),
            ("YES", "true"),
            ("ZIP", "01234")
        ]
    );
    assert_eq!(config.routes[1].filters[0].settings["jwks"], "from-a-file");
}

#[test]
fn names_of_routes_tell_them_apart() {
    let text = "
listeners: [{ address: 127.0.0.1:0 }]
routes:
  - { match: { path: /a, methods: [GET] }, respond: {} }
  - { match: { path: /a, methods: [POST] }, respond: {} }
  - { match: { path: /a, methods: [POST] }, respond: {} }
  - { match: { path: /b }, respond: {}, name: /a }
  - { match: { host: '*.example.com' }, respond: {} }
";
    let config = parse(text).unwrap().config;
    let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["GET /a", "POST /a", "POST /a #2", "/a", "*.example.com/*"]);
}

#[test]
fn later_stages_point_into_the_text() {
    let document = parse(WHOLE).unwrap();
    let item = document.error(
        "/handlers/shop/component",
        "cannot be read",
        Some("build it first".to_owned()),
    );
    assert_eq!((item.line, item.column), (25, 16));
    let shown = document.diagnostics(vec![item]).to_string();
    insta::assert_snapshot!(shown, @r"
    edge.yaml:25:16: error: cannot be read
       25 |     component: ./apps/shop.wasm
          |                ^^^^^^^^^^^^^^^^
          = help: build it first
    ");
    let mut problems = Diagnostics::for_document(&document);
    assert!(!problems.has_errors());
    problems.error("/routes/2/upstream", "b", None);
    problems.error(
        "/routes/0/error_page",
        "a: not in the text, so its route is shown",
        None,
    );
    let lines: Vec<_> = problems.items().iter().map(|d| (d.line, d.column)).collect();
    assert_eq!(lines, [(36, 5), (50, 15)]);
}

#[test]
fn the_json_schema_is_for_editors_too() {
    let schema = json_schema(&common::filters());
    assert_eq!(schema["properties"]["data_dir"]["default"], "data");
    let route = &schema["$defs"]["Route"];
    assert_eq!(route["additionalProperties"], false);
    assert_eq!(route["required"], json!(["match"]));
    assert_eq!(route["oneOf"][0], json!({ "required": ["handler"] }));
    assert_eq!(
        route["properties"]["filters"]["items"],
        json!({ "$ref": "#/$defs/Filter" })
    );
    let limits = &schema["$defs"]["HandlerLimits"]["properties"];
    assert_eq!(
        (&limits["cpu"]["default"], &limits["memory"]["default"]),
        (&json!("1s"), &json!("128MiB"))
    );
    assert_eq!(
        schema["$defs"]["Filter"]["properties"]["rate_limit"]["required"],
        json!(["key", "rate"])
    );
}

#[test]
fn a_handler_may_be_slower_than_its_readers_wait_but_is_warned_about() {
    let warnings = |wall: &str, cache: &str| {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nhandlers: {{ app: {{ component: a.wasm, limits: {{ wall: {wall} }} }} }}\n\
             routes: [{{ name: site, match: {{}}, handler: app, {cache} }}]\n"
        );
        let warnings = parse(&text).unwrap().warnings;
        warnings.into_iter().map(|warning| warning.message).collect::<Vec<_>>()
    };
    assert_eq!(warnings("60s", "cache: {}"), [""; 0]);
    assert_eq!(warnings("61s", ""), [""; 0]);
    let warned = warnings("61s", "cache: {}");
    assert!(
        matches!(warned.as_slice(), [warning] if warning.ends_with("longer than 60s")),
        "{warned:?}"
    );
}
