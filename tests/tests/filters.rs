//! Filters in a route: the order is the one written, there and back, and what each leaves is what the next one sees.

use selvedge_tests::client::{self, header};
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Connection, Edge, Origin, Reply};

/// `ada`, whose password is `selvedge`.
const BASIC_AUTH: &str =
    "basic_auth: { users: { ada: \"$2b$10$abcdefghijklmnopqrstuuDfEgzGOPr9cTvf4vzwJQ4xs9K4Uanq.\" } }";

const JWT: &str = "jwt: { secret: 0123456789abcdef0123456789abcdef, audience: shop, forward_claims: { sub: x-user } }";

/// Signed with the secret above: `{"sub":"ada","aud":"shop","exp":4102444800}`, the end of the year 2099.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhZGEiLCJhdWQiOiJzaG9wIiwiZXhwIjo0MTAyNDQ0ODAwfQ.zHScO_1Sn3yZgesJgbdhh86SQAQbzWq5nP4aYIY03tQ";

/// An upstream at `origin` and these routes.
fn site(origin: &Origin, routes: &str) -> String {
    format!(
        "upstreams: {{ site: {{ servers: [{{ address: \"{}\" }}] }} }}\nroutes:\n{routes}",
        origin.address()
    )
}

async fn status(edge: &Edge, path: &str, password: Option<&str>) -> u16 {
    let request = client::client().get(edge.url(path));
    let request = match password {
        Some(password) => request.basic_auth("ada", Some(password)),
        None => request,
    };
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn the_first_filter_that_answers_ends_it() {
    let limit = "rate_limit: { rate: 1/h }";
    let edge = Edge::start(&format!(
        "routes:\n\
         \x20 - {{ match: {{ path: /user-first }}, filters: [{{ {BASIC_AUTH} }}, {{ {limit} }}], respond: {{}} }}\n\
         \x20 - {{ match: {{ path: /rate-first }}, filters: [{{ {limit} }}, {{ {BASIC_AUTH} }}], respond: {{}} }}\n"
    ))
    .await;
    for (path, password, expected) in [
        // Nobody without a password spends the rate,
        ("/user-first", None, 401),
        ("/user-first", None, 401),
        ("/user-first", Some("selvedge"), 200),
        ("/user-first", Some("selvedge"), 429),
        ("/user-first", None, 401),
        // and here everybody does.
        ("/rate-first", None, 401),
        ("/rate-first", None, 429),
        ("/rate-first", Some("selvedge"), 429),
    ] {
        assert_eq!(status(&edge, path, password).await, expected, "{path} {password:?}");
    }
    for (reason, count) in [("rate_limited", 3.0)] {
        let sample = format!("selvedge_refusals_total{{reason=\"{reason}\"}}");
        assert_eq!(edge.metric(&sample).await, Some(count), "{sample}");
    }
}

#[tokio::test]
async fn the_response_passes_the_filters_that_saw_the_request_in_the_opposite_order() {
    let origin = Origin::start();
    origin.answer("/page", |request| {
        let marks: Vec<_> = request.head.headers_named("x-mark").collect();
        Reply::ok(format!(
            "{} {}",
            marks.join(","),
            request.header("x-last").unwrap_or("-")
        ))
    });
    let mark = |name: &str| {
        format!(
            "{{ headers: {{ request: {{ add: {{ x-mark: {name} }}, set: {{ x-last: {name} }} }}, \
             response: {{ add: {{ x-mark: {name} }}, set: {{ x-last: {name} }} }} }} }}"
        )
    };
    let (first, second) = (mark("first"), mark("second"));
    let edge = Edge::start(&site(
        &origin,
        &format!(
            "\x20 - {{ match: {{ path: /page }}, filters: [{first}, {second}], upstream: site }}\n\
             \x20 - {{ match: {{ path: /fixed }}, filters: [{first}, {second}], respond: {{ body: fixed }} }}\n\
             \x20 - {{ match: {{ path: /private }}, filters: [{first}, {{ {BASIC_AUTH} }}, {second}], upstream: site }}\n"
        ),
    ))
    .await;
    for (path, status, body, marks, last) in [
        ("/page", 200, "first,second second", &["second", "first"][..], "first"),
        ("/fixed", 200, "fixed", &["second", "first"], "first"),
        // The second never saw this request, so it does not see the answer.
        ("/private", 401, "", &["first"], "first"),
    ] {
        let mut connection = Connection::open(edge.address()).await;
        let response = connection.get(path).await;
        assert_eq!(response.status, status, "{path}");
        assert_eq!(
            response.head.headers_named("x-mark").collect::<Vec<_>>(),
            marks,
            "{path}"
        );
        assert_eq!(response.header("x-last"), Some(last), "{path}");
        assert!(response.text().starts_with(body), "{path}: {}", response.text());
    }
    assert_eq!(origin.count("/private"), 0);
}

#[tokio::test]
async fn a_token_and_a_new_path_both_reach_the_target_in_either_order() {
    let origin = Origin::start();
    origin.answer("/v2/*", |request| {
        Reply::ok(format!(
            "{} for {}",
            request.target,
            request.header("x-user").unwrap_or("-")
        ))
    });
    let rewrite = "rewrite: { strip_prefix: /api, add_prefix: /v2 }";
    for filters in [
        format!("[{{ {JWT} }}, {{ {rewrite} }}]"),
        format!("[{{ {rewrite} }}, {{ {JWT} }}]"),
    ] {
        let route =
            format!("\x20 - {{ name: api, match: {{ path: \"/api/*\" }}, filters: {filters}, upstream: site }}\n");
        let edge = Edge::start(&site(&origin, &route)).await;
        let ask = |token: &'static str| {
            let request = client::client().get(edge.url("/api/orders?open=1"));
            request.bearer_auth(token).header("x-user", "eve").send()
        };
        let answer = ask(TOKEN).await.expect("an answer").text().await.expect("a body");
        assert_eq!(answer, "/v2/orders?open=1 for ada", "{filters}");
        let asked = origin.requests().len();
        assert_eq!(
            ask("no.such.token").await.expect("an answer").status(),
            401,
            "{filters}"
        );
        assert_eq!(origin.requests().len(), asked, "{filters}");
        // The route is the one the client's path chose, and the log says what the client asked.
        let entry = edge.access_log_of(1).await[0].clone();
        assert_eq!(
            (&entry["route"], &entry["target"], &entry["user"]),
            (&"api".into(), &"/api/orders?open=1".into(), &"ada".into()),
            "{filters}"
        );
    }
}

#[tokio::test]
async fn a_regeneration_spends_no_rate_and_asks_for_the_new_path() {
    let origin = Origin::start();
    origin.reply("/page", Reply::ok("page"));
    let edge = Edge::start(&site(
        &origin,
        "\x20 - match: { path: \"/site/*\" }\n    \
         filters: [{ rate_limit: { rate: 1/h, burst: 3 } }, { rewrite: { strip_prefix: /site } }]\n    \
         cache: { isr: { revalidate: 1h } }\n    upstream: site\n",
    ))
    .await;
    let url = edge.url("/site/page");
    let get = async || {
        let response = client::get(&url).await;
        let cache = header(&response, "cache-status").to_owned();
        (response.status().as_u16(), cache)
    };
    assert_eq!(get().await.0, 200);
    // The page is stored under the URL that clients use (docs/decisions/0004), and is purged by it.
    let purged: serde_json::Value = wait_for("the page to be stored and made stale", async || {
        let purge = client::client().post(edge.admin_url("/purge"));
        let purge = purge
            .json(&serde_json::json!({ "urls": [url], "soft": true }))
            .send()
            .await;
        let purged: serde_json::Value = purge.expect("an answer").json().await.expect("JSON");
        (purged["purged"][0]["found"] == true).then_some(purged)
    })
    .await;
    let (status, cache) = get().await;
    assert_eq!(status, 200, "{purged}");
    assert!(cache.contains("hit"), "stale: {cache}");
    origin.asked("/page", 2).await;
    wait_for("the regeneration", async || {
        edge.metric("selvedge_cache_fills").await.filter(|fills| *fills == 0.0)
    })
    .await;
    // Three requests of a client were allowed and two were made; the regeneration was not one of them.
    assert_eq!(get().await.0, 200);
    assert_eq!(get().await.0, 429);
    assert_eq!(origin.requests().len(), 2);
}
