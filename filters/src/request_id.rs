//! `request_id`: one id per request, for logs on every side.

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{BuildContext, BuildError, Filter, FilterState, Flow, Request, field_name, settings};

/// Longer ids are not ids but payloads.
const LONGEST: usize = 128;

/// Gives every request an id: to the target, the client and the access log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Header that carries the id, to the target and to the client.
    #[serde(default = "header")]
    header: String,
    /// Keep an id that the client sent.
    #[serde(default)]
    trust: bool,
}

fn header() -> String {
    "x-request-id".to_owned()
}

struct RequestId {
    header: HeaderName,
    trust: bool,
}

pub(crate) fn build(value: Value, _context: &BuildContext) -> Result<Arc<dyn Filter>, BuildError> {
    let settings: Settings = settings(value)?;
    Ok(Arc::new(RequestId {
        header: field_name(&settings.header, "/header")?,
        trust: settings.trust,
    }))
}

#[async_trait]
impl Filter for RequestId {
    fn name(&self) -> &'static str {
        "request_id"
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Flow {
        let sent = request.head.headers.get(&self.header).filter(|_| self.trust);
        let sent = sent.and_then(|value| value.to_str().ok());
        let id = match sent.filter(|id| !id.is_empty() && id.len() <= LONGEST) {
            Some(id) => id.to_owned(),
            // Version 7 sorts by time (RFC 9562 section 5.7).
            None => Uuid::now_v7().to_string(),
        };
        // Both kinds of id are visible ASCII.
        let _ = request.head.insert_header(self.header.clone(), id.as_str());
        request.state.request_id = Some(id);
        Flow::Continue
    }

    fn on_response(&self, state: &FilterState, response: &mut ResponseHeader) {
        if let Some(id) = state
            .request_id
            .as_deref()
            .and_then(|id| HeaderValue::from_str(id).ok())
        {
            let _ = response.insert_header(self.header.clone(), id);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_support::Trial;

    #[tokio::test]
    async fn an_id_is_made_or_trusted() {
        let sent = [("x-request-id", "from-client")];
        let made = Trial::of("request_id", json!({})).request("GET", "/", &sent).await;
        let id = made.header("x-request-id");
        assert_eq!(id.len(), 36, "{id}");
        assert_eq!(made.response_header("x-request-id"), id);
        let trusted = Trial::of("request_id", json!({ "trust": true }))
            .request("GET", "/", &sent)
            .await;
        assert_eq!(trusted.header("x-request-id"), "from-client");
        let long = "x".repeat(200);
        let refused = [("x-id", long.as_str())];
        let other = json!({ "trust": true, "header": "x-id" });
        let made = Trial::of("request_id", other).request("GET", "/", &refused).await;
        assert_eq!(made.header("x-id").len(), 36);
    }
}
