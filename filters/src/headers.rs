//! `headers`: sets, adds and removes header fields of requests and responses.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{BuildContext, BuildError, Filter, FilterState, Flow, Request, field_name, settings};

/// Changes header fields. Removing comes first, then setting, then adding.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What the target sees.
    #[serde(default)]
    request: Changes,
    /// What the client sees.
    #[serde(default)]
    response: Changes,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Changes {
    /// Replace the field, or make it.
    #[serde(default)]
    set: BTreeMap<String, String>,
    /// Add a value beside those that are there.
    #[serde(default)]
    add: BTreeMap<String, String>,
    /// Remove the field.
    #[serde(default)]
    remove: Vec<String>,
}

/// Framing and connection belong to the proxy (RFC 9110 section 7.6.1); a rule about them would be undone or unsafe.
const OURS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[derive(Default)]
struct Rules {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

struct Headers {
    request: Rules,
    response: Rules,
}

pub(crate) fn build(value: Value, _context: &BuildContext) -> Result<Arc<dyn Filter>, BuildError> {
    let settings: Settings = settings(value)?;
    Ok(Arc::new(Headers {
        request: rules(&settings.request, "/request")?,
        response: rules(&settings.response, "/response")?,
    }))
}

fn rules(changes: &Changes, pointer: &str) -> Result<Rules, BuildError> {
    let removed = changes.remove.iter().enumerate();
    let remove = removed.map(|(index, name)| changeable(name, &format!("{pointer}/remove/{index}")));
    let fields = |fields: &BTreeMap<String, String>, kind: &str| {
        let field = |(name, value): (&String, &String)| {
            let pointer = format!("{pointer}/{kind}/{}", name.replace('~', "~0").replace('/', "~1"));
            let parsed = HeaderValue::from_str(value).map_err(|_| BuildError {
                message: format!("the value of {name} has characters that a header field cannot carry"),
                pointer: pointer.clone(),
                help: Some("use visible ASCII and spaces".to_owned()),
            })?;
            Ok((changeable(name, &pointer)?, parsed))
        };
        fields.iter().map(field).collect::<Result<Vec<_>, BuildError>>()
    };
    Ok(Rules {
        remove: remove.collect::<Result<_, _>>()?,
        set: fields(&changes.set, "set")?,
        add: fields(&changes.add, "add")?,
    })
}

fn changeable(name: &str, pointer: &str) -> Result<HeaderName, BuildError> {
    let name = field_name(name, pointer)?;
    if OURS.contains(&name.as_str()) {
        return Err(BuildError {
            message: format!("{name} is the proxy's own and cannot be changed by a rule"),
            pointer: pointer.to_owned(),
            help: (name == "host").then(|| "set `host` of the upstream instead".to_owned()),
        });
    }
    Ok(name)
}

#[async_trait]
impl Filter for Headers {
    fn name(&self) -> &'static str {
        "headers"
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Flow {
        for name in &self.request.remove {
            request.head.remove_header(name);
        }
        for (name, value) in &self.request.set {
            let _ = request.head.insert_header(name.clone(), value.clone());
        }
        for (name, value) in &self.request.add {
            let _ = request.head.append_header(name.clone(), value.clone());
        }
        Flow::Continue
    }

    fn on_response(&self, _state: &FilterState, response: &mut ResponseHeader) {
        for name in &self.response.remove {
            response.remove_header(name);
        }
        for (name, value) in &self.response.set {
            let _ = response.insert_header(name.clone(), value.clone());
        }
        for (name, value) in &self.response.add {
            let _ = response.append_header(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_support::{Trial, refused_at};

    #[tokio::test]
    async fn fields_are_removed_set_and_added() {
        let rules = json!({ "set": { "x-set": "new" }, "add": { "x-add": "b" }, "remove": ["x-gone", "x-set"] });
        let trial = Trial::of("headers", json!({ "request": rules, "response": rules }));
        let sent = [("x-set", "old"), ("x-add", "a"), ("x-gone", "1")];
        let seen = trial.request("GET", "/", &sent).await;
        assert_eq!(
            (seen.header("x-set"), seen.header("x-add"), seen.header("x-gone")),
            ("new", "a, b", "")
        );
        assert_eq!(
            (seen.response_header("x-set"), seen.response_header("x-add")),
            ("new", "b")
        );
    }

    #[test]
    fn what_the_proxy_owns_is_refused() {
        refused_at(
            "headers",
            json!({ "request": { "set": { "Host": "x" } } }),
            "/request/set/Host",
        );
        refused_at(
            "headers",
            json!({ "response": { "remove": ["a", "Content-Length"] } }),
            "/response/remove/1",
        );
        refused_at(
            "headers",
            json!({ "request": { "add": { "a b": "x" } } }),
            "/request/add/a b",
        );
        refused_at(
            "headers",
            json!({ "request": { "add": { "a": "x\r\nb: c" } } }),
            "/request/add/a",
        );
    }
}
