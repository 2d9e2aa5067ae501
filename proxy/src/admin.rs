//! The admin listener: health, readiness, metrics, routes, purge, reload and drain for operators and orchestrators.
//!
//! It is a listener of its own and never shares a port with the sites. On a loopback address no token is needed, so
//! requests a browser could be tricked into sending are refused: the `Host` must name this machine (DNS rebinding) and
//! anything that changes state must be sent as `application/json` (a cross-site form cannot). Elsewhere every request
//! except the two probes needs `Authorization: Bearer TOKEN`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::edge::Edge;

/// Changing operations the listener can ask of whoever runs the process.
pub trait Operator: Send + Sync + 'static {
    /// Re-reads the configuration; the answer is the new generation or why the old one stays.
    fn reload(&self) -> Result<u64, String>;
    /// Starts an orderly shutdown.
    fn drain(&self);
}

#[derive(Clone)]
struct Admin {
    edge: Arc<Edge>,
    operator: Arc<dyn Operator>,
    token: Option<Arc<str>>,
}

/// The admin API of `edge` as an axum router. `token` as in `admin.token`; `None` only on loopback addresses.
pub fn router(edge: Arc<Edge>, operator: Arc<dyn Operator>, token: Option<String>) -> Router {
    let admin = Admin {
        edge,
        operator,
        token: token.map(Arc::from),
    };
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/routes", get(routes))
        .route("/purge", post(purge))
        .route("/reload", post(reload))
        .route("/drain", post(drain))
        .layer(middleware::from_fn_with_state(admin.clone(), guard));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "no such endpoint", ENDPOINTS) })
        .with_state(admin)
}

const ENDPOINTS: &str = "GET /healthz /readyz /metrics /routes; POST /purge /reload /drain";

async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if let Err(refused) = allow(&admin, request.headers(), request.method().is_safe()) {
        return *refused;
    }
    next.run(request).await
}

fn allow(admin: &Admin, headers: &HeaderMap, safe: bool) -> Result<(), Box<Response>> {
    match &admin.token {
        Some(token) => {
            let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
            let wanted = format!("Bearer {token}");
            if !given.is_some_and(|given| same(given, wanted.as_bytes())) {
                let mut refused = problem(
                    StatusCode::UNAUTHORIZED,
                    "admin token required",
                    "send `Authorization: Bearer TOKEN`",
                );
                refused
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
                return Err(Box::new(refused));
            }
            Ok(())
        }
        None => {
            let host = headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or_default();
            if !names_this_machine(host) {
                return Err(Box::new(problem(
                    StatusCode::FORBIDDEN,
                    "unexpected Host",
                    "use the loopback address itself",
                )));
            }
            let content_type = headers
                .get(header::CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            if !safe && !content_type.starts_with("application/json") {
                return Err(Box::new(problem(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "changes are sent as application/json",
                    "add `-H 'content-type: application/json'`",
                )));
            }
            Ok(())
        }
    }
}

/// Compares without leaking the position of the first difference.
pub(crate) fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn names_this_machine(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let unready = admin.edge.unready();
    let status = if unready.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "ready": unready.is_empty(),
        "generation": admin.edge.generation().number,
        "level": admin.edge.level(),
        "control_lost": admin.edge.is_control_lost(),
        "reasons": unready,
    });
    (status, Json(body)).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let text = admin.edge.render_metrics();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

async fn routes(State(admin): State<Admin>) -> Response {
    let mut described = admin.edge.generation().describe();
    described["apps"] = admin.edge.sites.load().describe();
    Json(described).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    /// Absolute URLs as a client would request them; every variant of each is purged.
    #[serde(default)]
    urls: Vec<String>,
    /// Every page there is, instead.
    #[serde(default)]
    everything: bool,
    /// `true` keeps the pages as stale copies until they are regenerated.
    #[serde(default)]
    soft: bool,
}

#[derive(Debug, Serialize)]
struct Purged {
    url: String,
    /// Whether an entry was stored under this URL. A purge also holds against fills still under way.
    found: bool,
}

async fn purge(State(admin): State<Admin>, body: String) -> Response {
    let purge: Purge = match serde_json::from_str(&body) {
        Ok(purge) => purge,
        Err(error) => {
            return problem(
                StatusCode::BAD_REQUEST,
                &format!("not a purge: {error}"),
                r#"send {"urls": ["https://site.example/page"], "soft": false}"#,
            );
        }
    };
    if purge.everything {
        return Json(json!({ "pages": admin.edge.cache.purge_everything() })).into_response();
    }
    // All or none: an error means that nothing was purged.
    let pages = purge.urls.into_iter().map(|url| match admin.edge.pages(&url) {
        Ok(pages) => Ok((url, pages)),
        Err(reason) => Err(format!("{url}: {reason}")),
    });
    let pages: Vec<_> = match pages.collect::<Result<_, _>>() {
        Ok(pages) => pages,
        Err(reason) => return problem(StatusCode::BAD_REQUEST, &reason, "send absolute URLs"),
    };
    let purged = pages.into_iter().map(|(url, pages)| Purged {
        url,
        found: admin.edge.purge(&pages, purge.soft),
    });
    let purged: Vec<_> = purged.collect();
    Json(json!({ "purged": purged })).into_response()
}

async fn reload(State(admin): State<Admin>) -> Response {
    let operator = Arc::clone(&admin.operator);
    let outcome = tokio::task::spawn_blocking(move || operator.reload()).await;
    match outcome {
        Ok(Ok(generation)) => Json(json!({ "generation": generation })).into_response(),
        Ok(Err(why)) => problem(
            StatusCode::CONFLICT,
            "not reloaded; the previous configuration keeps serving",
            &why,
        ),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), "see the log"),
    }
}

async fn drain(State(admin): State<Admin>) -> Response {
    admin.operator.drain();
    (StatusCode::ACCEPTED, Json(json!({ "draining": true }))).into_response()
}

/// RFC 9457 problem details; `detail` says what to do next.
fn problem(status: StatusCode, title: &str, detail: &str) -> Response {
    let body = json!({ "title": title, "status": status.as_u16(), "detail": detail });
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        format!("{body}\n"),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass_as_host() {
        for (host, expected) in [
            ("127.0.0.1:9180", true),
            ("[::1]:9180", true),
            ("localhost:9180", true),
            ("localhost", true),
            ("evil.example:9180", false),
            ("10.0.0.1:9180", false),
            ("", false),
        ] {
            assert_eq!(names_this_machine(host), expected, "{host}");
        }
    }
}
