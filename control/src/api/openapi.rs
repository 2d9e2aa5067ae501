//! The API's own description, put together from what the handlers say.

use std::sync::LazyLock;

use axum::http::header;
use serde_json::{Value, json};
use utoipa::{OpenApi, PartialSchema, ToSchema};

use super::problem::Problem;

#[derive(OpenApi)]
#[openapi(info(
    title = "Selvedge control",
    description = "Apps, deployments, configuration and PoPs. Errors are `application/problem+json` and say what to do. \
        A POST with an `Idempotency-Key` that is sent again gets the answer it got.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct About;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", build()));

/// The same text for the same build.
pub(crate) fn text() -> &'static str {
    &DOCUMENT
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health", security(()), responses((status = 200, body = Object)))]
pub(super) async fn document() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], text())
}

fn build() -> Value {
    let (_, open) = super::open().split_for_parts();
    let (_, guarded) = super::guarded().split_for_parts();
    let mut about = About::openapi();
    about.merge(open);
    about.merge(guarded);
    let mut document = serde_json::to_value(about).expect("a document is JSON");
    document["components"]["securitySchemes"] = json!({ "key": { "type": "http", "scheme": "bearer" } });
    document["components"]["schemas"]["Problem"] =
        serde_json::to_value(<Problem as PartialSchema>::schema()).expect("a schema is JSON");
    document["security"] = json!([{ "key": [] }]);
    let refused = json!({
        "description": "It was not done; the problem says why, and what to do.",
        "content": { "application/problem+json": { "schema": { "$ref": format!("#/components/schemas/{}", Problem::name()) } } },
    });
    let paths = document["paths"].as_object_mut().expect("there are paths");
    for operation in paths
        .values_mut()
        .filter_map(Value::as_object_mut)
        .flat_map(|path| path.values_mut())
    {
        // Handlers are named within their subject.
        let subject = operation["tags"][0].as_str().unwrap_or_default();
        operation["operationId"] = json!(format!(
            "{subject}_{}",
            operation["operationId"].as_str().unwrap_or_default()
        ));
        if let Some(responses) = operation["responses"].as_object_mut() {
            responses.insert("default".to_owned(), refused.clone());
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn operations_have_names_of_their_own_and_references_lead_somewhere() {
        let document: Value = serde_json::from_str(text()).unwrap();
        let paths = document["paths"].as_object().unwrap().values();
        let ids: Vec<_> = paths
            .flat_map(|path| path.as_object().unwrap().values())
            .map(|operation| operation["operationId"].as_str().unwrap())
            .collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
        let references = text()
            .lines()
            .filter_map(|line| line.trim().strip_prefix("\"$ref\": \"#"));
        for reference in references {
            let pointer = reference.trim_end_matches(['"', ',']);
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
