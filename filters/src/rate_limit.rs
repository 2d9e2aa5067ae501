//! `rate_limit`: how often somebody may ask, by the generic cell rate algorithm.
//!
//! One limiter a filter, in this process: a PoP limits for itself. Memory is bounded; when more keys than that are
//! active at once, the newcomers share one bucket.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{BuildContext, BuildError, Filter, Flow, Request, Response, field_name, settings};

/// Keys remembered at the same time; about 10 MiB.
const KEYS: usize = 100_000;
/// Checks between two looks at what can be forgotten.
const SWEEP_EVERY: u32 = 4096;
/// Stands for every key that found no room.
const OVERFLOW: &str = "\u{0}overflow";

/// Refuses requests beyond a rate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Who is counted: `client_ip` (IPv6 by /64), `host`, `route`, `user` or `{ header: NAME }`.
    #[serde(default)]
    key: KeySetting,
    /// Requests and the time they refer to: `100/s`, `60/m`, `1000/h`.
    #[schemars(regex(pattern = r"^[0-9]+/(s|m|h)$"))]
    rate: String,
    /// Requests that may come at once; by default as many as the rate names.
    burst: Option<NonZeroU32>,
    /// Status of the refusal: 429 or 503.
    #[serde(default = "status")]
    #[schemars(extend("enum" = [429, 503]))]
    status: u16,
}

fn status() -> u16 {
    429
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum KeySetting {
    Word(KeyWord),
    Header(HeaderKey),
}

impl Default for KeySetting {
    fn default() -> KeySetting {
        KeySetting::Word(KeyWord::ClientIp)
    }
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum KeyWord {
    ClientIp,
    Host,
    Route,
    User,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct HeaderKey {
    /// Name of the header whose value is counted; requests without it are one.
    header: String,
}

enum Key {
    Word(KeyWord),
    Header(HeaderName),
}

struct RateLimit {
    key: Key,
    limiter: RateLimiter<String, HashMapStateStore<String>, DefaultClock>,
    clock: DefaultClock,
    checks: AtomicU32,
    status: StatusCode,
    /// `RateLimit-Policy`.
    policy: HeaderValue,
}

pub(crate) fn build(value: Value, _context: &BuildContext) -> Result<Arc<dyn Filter>, BuildError> {
    let settings: Settings = settings(value)?;
    let (count, per) = parse_rate(&settings.rate).ok_or_else(|| BuildError {
        message: format!("\"{}\" is not a rate", settings.rate),
        pointer: "/rate".to_owned(),
        help: Some("write a number and a unit: 100/s, 60/m, 1000/h".to_owned()),
    })?;
    let burst = settings.burst.unwrap_or(count);
    let interval = per / count.get();
    let quota = Quota::with_period(interval).ok_or_else(|| BuildError {
        message: format!("{} is too fast to be counted", settings.rate),
        pointer: "/rate".to_owned(),
        help: None,
    })?;
    let policy = format!("{count};w={};burst={burst}", per.as_secs());
    Ok(Arc::new(RateLimit {
        key: match settings.key {
            KeySetting::Word(word) => Key::Word(word),
            KeySetting::Header(key) => Key::Header(field_name(&key.header, "/key/header")?),
        },
        limiter: RateLimiter::hashmap(quota.allow_burst(burst)),
        clock: DefaultClock::default(),
        checks: AtomicU32::new(0),
        status: StatusCode::from_u16(settings.status).expect("the schema lists the statuses"),
        policy: HeaderValue::from_str(&policy).expect("digits and letters"),
    }))
}

fn parse_rate(text: &str) -> Option<(NonZeroU32, Duration)> {
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some((count.trim().parse().ok()?, Duration::from_secs(seconds)))
}

#[async_trait]
impl Filter for RateLimit {
    fn name(&self) -> &'static str {
        "rate_limit"
    }

    fn is_admission(&self) -> bool {
        true
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Flow {
        let mut key = self.key(request);
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
        }
        if self.limiter.len() >= KEYS {
            key = OVERFLOW.to_owned();
        }
        let Err(refused) = self.limiter.check_key(&key) else {
            return Flow::Continue;
        };
        let wait = refused.wait_time_from(self.clock.now());
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let mut response = Response::refusal(self.status, "rate_limited");
        response
            .headers
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        response.headers.insert("ratelimit-policy", self.policy.clone());
        Flow::Respond(response)
    }
}

impl RateLimit {
    fn key(&self, request: &Request<'_>) -> String {
        match &self.key {
            Key::Word(KeyWord::ClientIp) => subscriber(request.client.address).to_string(),
            Key::Word(KeyWord::Host) => request.host.to_owned(),
            Key::Word(KeyWord::Route) => request.route.to_owned(),
            Key::Word(KeyWord::User) => request.state.user.clone().unwrap_or_default(),
            Key::Header(name) => {
                let value = request.head.headers.get(name);
                value.map_or_else(String::new, |value| {
                    String::from_utf8_lossy(value.as_bytes()).into_owned()
                })
            }
        }
    }
}

/// One subscriber has at least a /64 of IPv6 (RFC 6177), and would otherwise have as many keys.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_support::{Trial, refused_at};

    #[tokio::test]
    async fn a_burst_passes_and_the_rest_is_told_when_to_come_back() {
        let trial = Trial::of("rate_limit", json!({ "rate": "60/h", "burst": 2 }));
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(trial.request("GET", "/", &[]).await.status());
        }
        assert_eq!(statuses, [0, 0, 429]);
        let refused = trial.request("GET", "/", &[]).await;
        assert_eq!(refused.reason(), "rate_limited");
        let wait: u64 = refused.answer_header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        let trial = trial.from("192.0.2.77");
        assert_eq!(trial.request("GET", "/", &[]).await.status(), 0, "somebody else");
    }

    #[tokio::test]
    async fn who_is_counted() {
        let by_address = Trial::of("rate_limit", json!({ "rate": "1/h" })).from("2001:db8::1");
        assert_eq!(by_address.request("GET", "/", &[]).await.status(), 0);
        let neighbour = by_address.from("2001:db8::ffff");
        assert_eq!(neighbour.request("GET", "/", &[]).await.status(), 429, "the same /64");

        let by_header = Trial::of(
            "rate_limit",
            json!({ "rate": "1/h", "key": { "header": "x-key" }, "status": 503 }),
        );
        for (key, status) in [("a", 0), ("b", 0), ("a", 503)] {
            assert_eq!(
                by_header.request("GET", "/", &[("x-key", key)]).await.status(),
                status,
                "{key}"
            );
        }
        assert_eq!(
            by_header.request("GET", "/", &[]).await.status(),
            0,
            "without the header, once"
        );
        assert_eq!(by_header.request("GET", "/", &[]).await.status(), 503);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for rate in ["100", "0/s", "x/s", "1/d", "-1/s"] {
            refused_at("rate_limit", json!({ "rate": rate }), "/rate");
        }
        refused_at(
            "rate_limit",
            json!({ "rate": "1/s", "key": { "header": "a b" } }),
            "/key/header",
        );
    }
}
