//! May a response be stored, and for how long? RFC 9111 for a shared cache, RFC 5861, RFC 9213, and ISR.
//!
//! One pure function, [`decide`]. Precedence: what forbids storing always wins; then the route's ISR policy; then
//! `CDN-Cache-Control` (RFC 9213; an invalid field is ignored); then `Cache-Control`; then `Expires`. There are no
//! heuristics: without explicit freshness nothing is stored.
//!
//! One deliberate difference from the letter of RFC 9111 section 5.2.2.10: an explicit `stale-while-revalidate` is
//! honoured beside `s-maxage`. Frameworks send exactly that pair for pages to be regenerated in the background, and
//! refusing it would turn each of them into a blocking revalidation.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pingora_http::ResponseHeader;
use selvedge_schema::{CachePolicy, Isr};

/// What of the request matters to whether its response may be stored.
#[derive(Clone, Debug)]
pub struct RequestFacts<'a> {
    pub method: &'a Method,
    /// It carried `Authorization` to whoever made the response.
    pub authorized: bool,
}

/// How a response is stored. Times are wall-clock; `created` lies `Age` in the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub created: SystemTime,
    pub fresh_until: SystemTime,
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
}

/// Why a response is not stored. The names appear in `Cache-Status` and in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoNotStore {
    Method,
    Status,
    NoStore,
    Private,
    SetCookie,
    Authorization,
    Vary,
    ContentRange,
    /// Nothing says how long it is fresh.
    NoFreshness,
    /// Its freshness is over already and nothing allows it to be served stale.
    AlreadyStale,
    /// An ISR page without a body is a mistake worth showing once, not keeping.
    EmptyPage,
}

impl DoNotStore {
    pub fn as_str(self) -> &'static str {
        match self {
            DoNotStore::Method => "method",
            DoNotStore::Status => "status",
            DoNotStore::NoStore => "no-store",
            DoNotStore::Private => "private",
            DoNotStore::SetCookie => "set-cookie",
            DoNotStore::Authorization => "authorization",
            DoNotStore::Vary => "vary",
            DoNotStore::ContentRange => "content-range",
            DoNotStore::NoFreshness => "no-freshness",
            DoNotStore::AlreadyStale => "already-stale",
            DoNotStore::EmptyPage => "empty-page",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Store(Plan),
    DoNotStore(DoNotStore),
}

/// A stale page may be served for ever; pingora counts the window in seconds of 32 bits.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// RFC 9111 section 1.2.2: a delta of this many seconds is as good as infinite, and does not overflow.
const LONGEST: u64 = 1 << 31;

/// Whether and how `response` is stored. `fill_started` is when the request for it was sent: the page is as old as that.
pub fn decide(
    request: &RequestFacts<'_>,
    response: &ResponseHeader,
    policy: &CachePolicy,
    fill_started: SystemTime,
    now: SystemTime,
) -> Decision {
    match forbidden(request, response, policy) {
        Some(reason) => Decision::DoNotStore(reason),
        None => match &policy.isr {
            Some(isr) => isr_plan(isr, response, fill_started),
            None => plan(request, response, fill_started, now),
        },
    }
}

fn forbidden(request: &RequestFacts<'_>, response: &ResponseHeader, policy: &CachePolicy) -> Option<DoNotStore> {
    if !matches!(*request.method, Method::GET | Method::HEAD) {
        return Some(DoNotStore::Method);
    }
    if !storable_status(response.status, policy.isr.is_some()) {
        return Some(DoNotStore::Status);
    }
    let headers = &response.headers;
    let directives = Directives::of(headers, "cache-control");
    if directives.no_store {
        return Some(DoNotStore::NoStore);
    }
    if directives.private {
        return Some(DoNotStore::Private);
    }
    if headers.contains_key(header::SET_COOKIE) {
        return Some(DoNotStore::SetCookie);
    }
    if headers.contains_key(header::CONTENT_RANGE) {
        return Some(DoNotStore::ContentRange);
    }
    if varies_by_reader(headers) {
        return Some(DoNotStore::Vary);
    }
    None
}

/// Statuses with a defined reuse (RFC 9110 section 15.1). ISR keeps pages and redirects; 204 and 206 are no pages.
fn storable_status(status: StatusCode, isr: bool) -> bool {
    match status.as_u16() {
        200 | 301 | 302 | 307 | 308 | 404 | 410 => true,
        203 | 204 | 300 | 303 | 405 | 414 | 501 => !isr,
        _ => false,
    }
}

/// `*` never matches; cookies and credentials are the reader.
fn varies_by_reader(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|name| name == b"*" || name.eq_ignore_ascii_case(b"cookie") || name.eq_ignore_ascii_case(b"authorization"))
}

fn isr_plan(isr: &Isr, response: &ResponseHeader, fill_started: SystemTime) -> Decision {
    let empty = response
        .headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|length| length.as_bytes() == b"0");
    if empty && response.status == StatusCode::OK {
        return Decision::DoNotStore(DoNotStore::EmptyPage);
    }
    let stale_while_revalidate = match isr.expire {
        Some(expire) => expire.saturating_sub(isr.revalidate),
        None => FOR_EVER,
    };
    Decision::Store(Plan {
        created: fill_started,
        fresh_until: fill_started + isr.revalidate,
        stale_while_revalidate,
        stale_if_error: isr.stale_if_error,
    })
}

fn plan(request: &RequestFacts<'_>, response: &ResponseHeader, fill_started: SystemTime, now: SystemTime) -> Decision {
    let headers = &response.headers;
    let targeted = Directives::structured(headers, "cdn-cache-control");
    if let Some(targeted) = &targeted
        && (targeted.no_store || targeted.private)
    {
        return Decision::DoNotStore(if targeted.no_store {
            DoNotStore::NoStore
        } else {
            DoNotStore::Private
        });
    }
    let has_targeted = targeted.is_some();
    let directives = targeted.unwrap_or_else(|| Directives::of(headers, "cache-control"));
    // RFC 9111 section 3.5: only what says so may be given to somebody without the credentials.
    let shareable = directives.public || directives.must_revalidate || directives.s_maxage.is_some();
    if request.authorized && !shareable {
        return Decision::DoNotStore(DoNotStore::Authorization);
    }
    let lifetime = match directives.s_maxage.or(directives.max_age) {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None if has_targeted => None,
        None => expires(headers, now),
    };
    let lifetime = match lifetime {
        _ if directives.no_cache => Duration::ZERO,
        Some(lifetime) => lifetime,
        None => return Decision::DoNotStore(DoNotStore::NoFreshness),
    };
    let age = age(headers, fill_started, now);
    let never_stale = directives.no_cache
        || directives.must_revalidate
        || directives.proxy_revalidate
        || (directives.s_maxage.is_some() && directives.stale_while_revalidate.is_none());
    let window = |seconds: Option<u64>| match never_stale {
        true => Duration::ZERO,
        false => Duration::from_secs(seconds.unwrap_or(0)),
    };
    let plan = Plan {
        created: now - age,
        fresh_until: now - age + lifetime,
        stale_while_revalidate: window(directives.stale_while_revalidate),
        stale_if_error: window(directives.stale_if_error),
    };
    let validator = headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED);
    if plan.fresh_until <= now && plan.stale_while_revalidate.is_zero() && plan.stale_if_error.is_zero() && !validator {
        return Decision::DoNotStore(DoNotStore::AlreadyStale);
    }
    Decision::Store(plan)
}

/// RFC 9111 section 4.2.3: the larger of what the response says and what its `Date` implies.
fn age(headers: &HeaderMap, fill_started: SystemTime, now: SystemTime) -> Duration {
    let apparent = date(headers.get(header::DATE))
        .and_then(|date| now.duration_since(date).ok())
        .unwrap_or_default();
    let stated = headers
        .get(header::AGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').next()?.trim().parse::<u64>().ok())
        .map(|seconds| Duration::from_secs(seconds.min(LONGEST)))
        .unwrap_or_default();
    let delay = now.duration_since(fill_started).unwrap_or_default();
    // `Date` has whole seconds: what looks like up to one second of age is rounding.
    let apparent = if apparent < Duration::from_secs(1) {
        Duration::ZERO
    } else {
        apparent
    };
    match stated {
        Duration::ZERO => apparent,
        stated => apparent.max(stated + delay),
    }
}

/// `Expires` minus `Date`; an invalid `Expires` is in the past (RFC 9111 section 5.3).
fn expires(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::EXPIRES)?;
    let Some(expires) = date(Some(value)) else {
        return Some(Duration::ZERO);
    };
    let from = date(headers.get(header::DATE)).unwrap_or(now);
    Some(expires.duration_since(from).unwrap_or_default())
}

fn date(value: Option<&HeaderValue>) -> Option<SystemTime> {
    httpdate::parse_http_date(value?.to_str().ok()?).ok()
}

/// The directives that matter to a shared cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Directives {
    no_store: bool,
    no_cache: bool,
    private: bool,
    public: bool,
    must_revalidate: bool,
    proxy_revalidate: bool,
    max_age: Option<u64>,
    s_maxage: Option<u64>,
    stale_while_revalidate: Option<u64>,
    stale_if_error: Option<u64>,
}

impl Directives {
    /// The classic syntax: lenient, the first of repeated directives counts, an unreadable lifetime is none at all.
    fn of(headers: &HeaderMap, name: &str) -> Directives {
        let mut directives = Directives::default();
        for value in headers.get_all(name) {
            let Ok(text) = value.to_str() else {
                continue;
            };
            for part in split_outside_quotes(text) {
                let (name, argument) = match part.split_once('=') {
                    Some((name, argument)) => (name.trim(), Some(argument.trim().trim_matches('"'))),
                    None => (part.trim(), None),
                };
                directives.set(&name.to_ascii_lowercase(), argument.map(seconds));
            }
        }
        directives
    }

    /// RFC 9213 section 2.1: a dictionary structured field; `None` when absent, empty or not one.
    fn structured(headers: &HeaderMap, name: &str) -> Option<Directives> {
        let mut values = Vec::new();
        for value in headers.get_all(name) {
            values.push(value.to_str().ok()?);
        }
        if values.is_empty() {
            return None;
        }
        let dictionary: sfv::Dictionary = sfv::Parser::new(&values.join(", ")).parse().ok()?;
        let mut directives = Directives::default();
        for (name, entry) in &dictionary {
            let sfv::ListEntry::Item(item) = entry else {
                continue;
            };
            match &item.bare_item {
                sfv::BareItem::Boolean(true) => directives.set(name.as_str(), None),
                sfv::BareItem::Integer(number) => {
                    let number = i64::from(*number);
                    directives.set(name.as_str(), Some(u64::try_from(number).unwrap_or(0).min(LONGEST)));
                }
                _ => {}
            }
        }
        (!dictionary.is_empty()).then_some(directives)
    }

    fn set(&mut self, name: &str, seconds: Option<u64>) {
        let lifetime = Some(seconds.unwrap_or(0));
        match name {
            "no-store" => self.no_store = true,
            // `no-cache="field"` and `private="field"` speak of single fields; taken as the whole, which is safe.
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "max-age" => self.max_age = self.max_age.or(lifetime),
            "s-maxage" => self.s_maxage = self.s_maxage.or(lifetime),
            "stale-while-revalidate" => self.stale_while_revalidate = self.stale_while_revalidate.or(lifetime),
            "stale-if-error" => self.stale_if_error = self.stale_if_error.or(lifetime),
            _ => {}
        }
    }
}

fn seconds(argument: &str) -> u64 {
    match argument.parse::<u64>() {
        Ok(seconds) => seconds.min(LONGEST),
        Err(_) if !argument.is_empty() && argument.bytes().all(|byte| byte.is_ascii_digit()) => LONGEST,
        Err(_) => 0,
    }
}

fn split_outside_quotes(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    })
}

/// The lower-case names of the fields that `Connection` nominates (RFC 9110 section 7.6.1).
pub fn connection_nominated(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Removes what belongs to one connection or one client and must not be replayed to another.
pub fn strip_before_storing(response: &mut ResponseHeader) {
    let nominated = connection_nominated(&response.headers);
    for name in nominated {
        response.remove_header(&name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "te",
        "upgrade",
        "age",
    ] {
        response.remove_header(name);
    }
}

#[cfg(test)]
mod tests {
    use selvedge_schema::QueryKey;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn now() -> SystemTime {
        NOW + Duration::from_secs(784_111_777) // Sun, 06 Nov 1994 08:49:37 GMT
    }

    fn policy(isr: Option<Isr>) -> CachePolicy {
        CachePolicy {
            isr,
            tags: Vec::new(),
            vary: Vec::new(),
            query: QueryKey::All,
        }
    }

    fn decision(status: u16, authorized: bool, isr: Option<Isr>, headers: &[(&str, &str)]) -> Decision {
        let mut response = ResponseHeader::build(status, None).unwrap();
        for (name, value) in headers {
            response.append_header((*name).to_owned(), *value).unwrap();
        }
        let request = RequestFacts {
            method: &Method::GET,
            authorized,
        };
        decide(&request, &response, &policy(isr), now(), now())
    }

    /// (fresh, stale-while-revalidate, stale-if-error) in seconds; fresh is what is left of it.
    fn check(headers: &[(&str, &str)], expected: Result<(i64, u64, u64), DoNotStore>) {
        let actual = match decision(200, false, None, headers) {
            Decision::DoNotStore(reason) => Err(reason),
            Decision::Store(plan) => {
                let left = match plan.fresh_until.duration_since(now()) {
                    Ok(left) => left.as_secs() as i64,
                    Err(past) => -(past.duration().as_secs() as i64),
                };
                Ok((
                    left,
                    plan.stale_while_revalidate.as_secs(),
                    plan.stale_if_error.as_secs(),
                ))
            }
        };
        assert_eq!(actual, expected, "{headers:?}");
    }

    #[test]
    fn explicit_freshness() {
        use DoNotStore::*;
        let cc = "cache-control";
        check(&[], Err(NoFreshness));
        check(&[(cc, "public")], Err(NoFreshness));
        check(&[(cc, "max-age=60")], Ok((60, 0, 0)));
        check(&[(cc, "MAX-AGE=60")], Ok((60, 0, 0)));
        check(&[(cc, "max-age=\"60\"")], Ok((60, 0, 0)));
        check(&[(cc, "max-age=60, s-maxage=10")], Ok((10, 0, 0)));
        check(&[(cc, "max-age=60"), (cc, "max-age=10")], Ok((60, 0, 0)));
        check(&[(cc, "max-age=0")], Err(AlreadyStale));
        check(&[(cc, "max-age=0"), ("etag", "\"1\"")], Ok((0, 0, 0)));
        check(&[(cc, "max-age=-5"), ("etag", "\"1\"")], Ok((0, 0, 0)));
        check(&[(cc, "max-age=99999999999999999999")], Ok((1 << 31, 0, 0)));
        check(&[(cc, "max-age=60, no-store")], Err(NoStore));
        check(&[(cc, "private, max-age=60")], Err(Private));
        check(&[(cc, "private=\"x-field\", max-age=60")], Err(Private));
        check(&[(cc, "extension=\"no-store\", max-age=60")], Ok((60, 0, 0)));
        check(&[(cc, "no-cache, max-age=60"), ("etag", "\"1\"")], Ok((0, 0, 0)));
        check(&[(cc, "max-age=60"), ("set-cookie", "a=b")], Err(SetCookie));
        check(&[(cc, "max-age=60"), ("vary", "*")], Err(Vary));
        check(&[(cc, "max-age=60"), ("vary", "accept, *")], Err(Vary));
        check(&[(cc, "max-age=60"), ("vary", "Cookie")], Err(Vary));
        check(&[(cc, "max-age=60"), ("vary", "accept-language")], Ok((60, 0, 0)));
        check(
            &[(cc, "max-age=60"), ("content-range", "bytes 0-1/2")],
            Err(ContentRange),
        );
    }

    #[test]
    fn age_is_subtracted() {
        let cc = ("cache-control", "max-age=60");
        check(&[cc, ("age", "20")], Ok((40, 0, 0)));
        check(&[cc, ("age", "20, 30")], Ok((40, 0, 0)));
        check(&[cc, ("age", "nonsense")], Ok((60, 0, 0)));
        check(&[cc, ("date", "Sun, 06 Nov 1994 08:49:07 GMT")], Ok((30, 0, 0)));
        check(&[cc, ("date", "Sun, 06 Nov 1994 08:49:37 GMT")], Ok((60, 0, 0)));
        check(&[cc, ("date", "Sun, 06 Nov 1994 08:50:37 GMT")], Ok((60, 0, 0)));
    }

    #[test]
    fn expires_is_relative_to_date() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        check(&[date, ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], Ok((60, 0, 0)));
        check(&[date, ("expires", "0")], Err(DoNotStore::AlreadyStale));
        check(
            &[
                date,
                ("expires", "Sun, 06 Nov 1994 08:50:37 GMT"),
                ("cache-control", "max-age=5"),
            ],
            Ok((5, 0, 0)),
        );
    }

    #[test]
    fn staleness_is_allowed_only_explicitly() {
        let cc = "cache-control";
        check(
            &[(cc, "max-age=60, stale-while-revalidate=30, stale-if-error=90")],
            Ok((60, 30, 90)),
        );
        check(&[(cc, "s-maxage=60, stale-while-revalidate=30")], Ok((60, 30, 0)));
        check(&[(cc, "s-maxage=60, stale-if-error=30")], Ok((60, 0, 0)));
        check(
            &[(cc, "max-age=60, must-revalidate, stale-while-revalidate=30")],
            Ok((60, 0, 0)),
        );
        check(
            &[(cc, "max-age=60, proxy-revalidate, stale-if-error=30")],
            Ok((60, 0, 0)),
        );
    }

    #[test]
    fn targeted_directives_win_and_invalid_ones_are_ignored() {
        let cdn = "cdn-cache-control";
        check(&[("cache-control", "max-age=1"), (cdn, "max-age=60")], Ok((60, 0, 0)));
        check(&[("cache-control", "max-age=1"), (cdn, "max-age=60,,")], Ok((1, 0, 0)));
        check(&[("cache-control", "max-age=1"), (cdn, "max-age=\"60")], Ok((1, 0, 0)));
        check(
            &[("cache-control", "max-age=60"), (cdn, "no-store")],
            Err(DoNotStore::NoStore),
        );
        check(
            &[("cache-control", "max-age=60"), (cdn, "private")],
            Err(DoNotStore::Private),
        );
        check(
            &[("expires", "Sun, 06 Nov 1995 08:49:37 GMT"), (cdn, "public")],
            Err(DoNotStore::NoFreshness),
        );
        // What the response forbids to everybody, it forbids to us.
        check(
            &[("cache-control", "no-store"), (cdn, "max-age=60")],
            Err(DoNotStore::NoStore),
        );
    }

    #[test]
    fn a_response_to_credentials_is_shared_only_when_it_says_so() {
        let authorized = |value| decision(200, true, None, &[("cache-control", value)]);
        assert_eq!(
            authorized("max-age=60"),
            Decision::DoNotStore(DoNotStore::Authorization)
        );
        for value in ["public, max-age=60", "s-maxage=60", "must-revalidate, max-age=60"] {
            assert!(matches!(authorized(value), Decision::Store(_)), "{value}");
        }
    }

    #[test]
    fn statuses() {
        for (status, stored) in [
            (200, true),
            (204, true),
            (404, true),
            (206, false),
            (304, false),
            (500, false),
        ] {
            let decision = decision(status, false, None, &[("cache-control", "max-age=60")]);
            assert_eq!(matches!(decision, Decision::Store(_)), stored, "{status}");
        }
    }

    fn isr() -> Isr {
        Isr {
            revalidate: Duration::from_secs(60),
            expire: None,
            stale_if_error: Duration::from_secs(86_400),
            bypass_token: None,
        }
    }

    #[test]
    fn isr_decides_freshness_but_never_overrides_what_forbids_storing() {
        let stored = decision(200, false, Some(isr()), &[]);
        let Decision::Store(plan) = stored else {
            panic!("{stored:?}")
        };
        assert_eq!(plan.fresh_until, now() + Duration::from_secs(60));
        assert_eq!(plan.stale_while_revalidate, FOR_EVER);
        assert_eq!(plan.stale_if_error, Duration::from_secs(86_400));
        let bounded = Isr {
            expire: Some(Duration::from_secs(100)),
            ..isr()
        };
        let Decision::Store(plan) = decision(200, false, Some(bounded), &[]) else {
            panic!("stored")
        };
        assert_eq!(plan.stale_while_revalidate, Duration::from_secs(40));
        for (status, headers, reason) in [
            (200, &[("cache-control", "private")][..], DoNotStore::Private),
            (200, &[("cache-control", "no-store")], DoNotStore::NoStore),
            (200, &[("set-cookie", "a=b")], DoNotStore::SetCookie),
            (200, &[("content-length", "0")], DoNotStore::EmptyPage),
            (204, &[], DoNotStore::Status),
            (500, &[], DoNotStore::Status),
            (403, &[], DoNotStore::Status),
        ] {
            assert_eq!(
                decision(status, false, Some(isr()), headers),
                Decision::DoNotStore(reason),
                "{headers:?}"
            );
        }
    }
}
