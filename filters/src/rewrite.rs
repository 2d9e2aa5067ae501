//! `rewrite`: changes the path that the target sees.
//!
//! Neither the route nor the page's key change by it: both are those of the URL that clients use.

use std::sync::Arc;

use async_trait::async_trait;
use http::StatusCode;
use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{BuildContext, BuildError, Filter, Flow, Request, Response, pattern, settings};

/// Changes the path: first the prefix is stripped, then the expression is replaced, then a prefix is added.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Prefix to take away, in whole segments; a path without it is left as it is.
    strip_prefix: Option<String>,
    /// Prefix to put in front.
    add_prefix: Option<String>,
    /// Expression to replace in the path.
    regex: Option<Replace>,
    /// What becomes of the query.
    #[serde(default)]
    query: Query,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Replace {
    /// Regular expression, matched against the percent-encoded path.
    pattern: String,
    /// Replacement; `$1` stands for the first group.
    with: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Query {
    #[default]
    Keep,
    Drop,
}

struct Rewrite {
    strip_prefix: Option<String>,
    add_prefix: String,
    regex: Option<(Regex, String)>,
    query: Query,
}

pub(crate) fn build(value: Value, _context: &BuildContext) -> Result<Arc<dyn Filter>, BuildError> {
    let settings: Settings = settings(value)?;
    let strip_prefix = settings
        .strip_prefix
        .map(|text| prefix(&text, "/strip_prefix"))
        .transpose()?;
    let add_prefix = settings
        .add_prefix
        .map(|text| prefix(&text, "/add_prefix"))
        .transpose()?;
    let replace = |replace: Replace| Ok::<_, BuildError>((pattern(&replace.pattern, "/regex/pattern")?, replace.with));
    Ok(Arc::new(Rewrite {
        strip_prefix,
        add_prefix: add_prefix.unwrap_or_default(),
        regex: settings.regex.map(replace).transpose()?,
        query: settings.query,
    }))
}

/// Without the slash at the end.
fn prefix(text: &str, pointer: &str) -> Result<String, BuildError> {
    if !text.starts_with('/') || text.contains(['?', '#', ' ']) {
        return Err(BuildError {
            message: format!("\"{text}\" is not a path"),
            pointer: pointer.to_owned(),
            help: Some("begin with /, without query".to_owned()),
        });
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[async_trait]
impl Filter for Rewrite {
    fn name(&self) -> &'static str {
        "rewrite"
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Flow {
        let target = self.target(request);
        match target.parse() {
            Ok(uri) if target.starts_with('/') => {
                request.head.set_uri(uri);
                Flow::Continue
            }
            _ => Flow::Respond(Response::refusal(StatusCode::BAD_REQUEST, "rewrite_invalid")),
        }
    }
}

impl Rewrite {
    fn target(&self, request: &Request<'_>) -> String {
        let mut path = request.path.to_owned();
        if let Some(prefix) = &self.strip_prefix
            && let Some(rest) = path.strip_prefix(prefix.as_str())
            && (rest.is_empty() || rest.starts_with('/'))
        {
            path = if rest.is_empty() {
                "/".to_owned()
            } else {
                rest.to_owned()
            };
        }
        if let Some((pattern, with)) = &self.regex {
            path = pattern.replace_all(&path, with.as_str()).into_owned();
        }
        let path = format!("{}{path}", self.add_prefix);
        match request.head.uri.query() {
            Some(query) if self.query == Query::Keep => format!("{path}?{query}"),
            _ => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_support::{Trial, refused_at};

    #[tokio::test]
    async fn targets() {
        for (settings, target, expected) in [
            (json!({ "strip_prefix": "/legacy" }), "/legacy/a?b", "/a?b"),
            (json!({ "strip_prefix": "/legacy/" }), "/legacy", "/"),
            (json!({ "strip_prefix": "/legacy" }), "/legacyer", "/legacyer"),
            (json!({ "add_prefix": "/v2/", "query": "drop" }), "/a?b", "/v2/a"),
            (
                json!({ "regex": { "pattern": "^/p/([0-9]+)$", "with": "/product/$1" } }),
                "/p/7",
                "/product/7",
            ),
            (json!({ "strip_prefix": "/a", "add_prefix": "/b" }), "/a/x", "/b/x"),
        ] {
            let seen = Trial::of("rewrite", settings.clone()).request("GET", target, &[]).await;
            assert_eq!(seen.target(), expected, "{settings} {target}");
        }
        let broken = json!({ "regex": { "pattern": "^/", "with": "" } });
        let seen = Trial::of("rewrite", broken).request("GET", "/x", &[]).await;
        assert_eq!(seen.status(), 400);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        refused_at("rewrite", json!({ "strip_prefix": "x" }), "/strip_prefix");
        refused_at(
            "rewrite",
            json!({ "regex": { "pattern": "(", "with": "" } }),
            "/regex/pattern",
        );
    }
}
