//! `redirect`: sends the client elsewhere, always or under conditions.

use std::{borrow::Cow, sync::Arc};

use async_trait::async_trait;
use http::{HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{BuildContext, BuildError, Filter, Flow, Request, Response, pattern, settings};

/// Answers with a redirect. A request that is where it would be sent passes on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// URL, or path on the same host. `{scheme}`, `{host}`, `{path}` and `{query}` stand for those of the request, `$1` for
    /// a group of `when.path`. The request's query is kept where `to` has none.
    #[schemars(length(min = 1))]
    to: String,
    /// 301 and 308 are permanent, 302, 303 and 307 are not; 307 and 308 keep the method.
    #[serde(default = "status")]
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    status: u16,
    /// Conditions, all of which must hold.
    #[serde(default)]
    when: When,
}

fn status() -> u16 {
    308
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct When {
    /// Scheme the client used.
    scheme: Option<WhenScheme>,
    /// Host the client asked for, without port.
    host: Option<String>,
    /// Regular expression that the path matches.
    path: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum WhenScheme {
    Http,
    Https,
}

struct Redirect {
    to: String,
    status: StatusCode,
    scheme: Option<&'static str>,
    host: Option<String>,
    path: Option<Regex>,
}

pub(crate) fn build(value: Value, _context: &BuildContext) -> Result<Arc<dyn Filter>, BuildError> {
    let Settings { to, status, when } = settings(value)?;
    if !to.starts_with('/') && !to.contains("://") {
        return Err(BuildError {
            message: format!("\"{to}\" is neither a URL nor a path"),
            pointer: "/to".to_owned(),
            help: Some("begin with / or with https://".to_owned()),
        });
    }
    let scheme = when.scheme.map(|scheme| match scheme {
        WhenScheme::Http => "http",
        WhenScheme::Https => "https",
    });
    Ok(Arc::new(Redirect {
        to,
        status: StatusCode::from_u16(status).expect("the schema lists the statuses"),
        scheme,
        host: when.host.map(|host| host.to_ascii_lowercase()),
        path: when.path.map(|path| pattern(&path, "/when/path")).transpose()?,
    }))
}

/// What may not stand in a URL; everything else was checked or encoded by whoever wrote it.
const UNSAFE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'}');

#[async_trait]
impl Filter for Redirect {
    fn name(&self) -> &'static str {
        "redirect"
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Flow {
        let Some(location) = self.location(request) else {
            return Flow::Continue;
        };
        let Ok(value) = HeaderValue::from_str(&location) else {
            return Flow::Continue;
        };
        let mut response = Response::refusal(self.status, "redirected");
        response.headers.remove(header::CACHE_CONTROL);
        response.headers.insert(header::LOCATION, value);
        Flow::Respond(response)
    }
}

impl Redirect {
    /// Where to; `None` when the conditions do not hold or the client is there already.
    fn location(&self, request: &Request<'_>) -> Option<String> {
        let scheme = request.client.scheme.as_str();
        if self.scheme.is_some_and(|wanted| wanted != scheme) {
            return None;
        }
        if self.host.as_ref().is_some_and(|wanted| wanted != request.host) {
            return None;
        }
        let mut to = Cow::Borrowed(self.to.as_str());
        if let Some(pattern) = &self.path {
            let groups = pattern.captures(request.path)?;
            let mut expanded = String::new();
            groups.expand(&self.to, &mut expanded);
            to = Cow::Owned(expanded);
        }
        let query = request.head.uri.query();
        let mut location = to
            .replace("{scheme}", scheme)
            .replace("{host}", request.host)
            .replace("{path}", request.path)
            .replace("{query}", query.unwrap_or_default());
        if let Some(query) = query
            && !self.to.contains('?')
        {
            location = format!("{location}?{query}");
        }
        // `//host` would be another site's URL.
        let location = match location.strip_prefix("//") {
            Some(rest) if self.to.starts_with('/') => format!("/{}", rest.trim_start_matches('/')),
            _ => location,
        };
        let location = utf8_percent_encode(&location, UNSAFE).to_string();
        let here = request.head.uri.path_and_query().map_or("/", |target| target.as_str());
        let absolute = format!("{scheme}://{}{here}", request.host);
        (location != here && location != absolute).then_some(location)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_support::{Trial, refused_at};

    #[tokio::test]
    async fn locations() {
        for (settings, target, expected) in [
            (json!({ "to": "/new" }), "/old?a=1", "/new?a=1"),
            (json!({ "to": "/new?b=2" }), "/old?a=1", "/new?b=2"),
            (json!({ "to": "/new" }), "/new", ""),
            (
                json!({ "to": "https://{host}{path}", "when": { "scheme": "http" } }),
                "/x?y",
                "https://a.test/x?y",
            ),
            (json!({ "to": "/x", "when": { "scheme": "https" } }), "/y", ""),
            (json!({ "to": "/x", "when": { "host": "b.test" } }), "/y", ""),
            (
                json!({ "to": "/posts/$1", "when": { "path": "^/blog/([0-9]+)$" } }),
                "/blog/7",
                "/posts/7",
            ),
            (
                json!({ "to": "/posts/$1", "when": { "path": "^/blog/([0-9]+)$" } }),
                "/blog/x",
                "",
            ),
            (
                json!({ "to": "/$1", "when": { "path": "^/out/(.*)$" } }),
                "/out//evil.test",
                "/evil.test",
            ),
        ] {
            let seen = Trial::of("redirect", settings.clone())
                .request("GET", target, &[])
                .await;
            assert_eq!(seen.answer_header("location"), expected, "{settings} {target}");
            assert_eq!(
                seen.status(),
                if expected.is_empty() { 0 } else { 308 },
                "{settings} {target}"
            );
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        refused_at("redirect", json!({ "to": "new" }), "/to");
        refused_at("redirect", json!({ "to": "/x", "when": { "path": "(" } }), "/when/path");
    }
}
