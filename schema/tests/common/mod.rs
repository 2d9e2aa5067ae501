//! Filters as another crate would hand them in, and a fixed environment.

use std::path::Path;

use schemars::JsonSchema;
use selvedge_schema::{Diagnostics, Document, FilterSchema};

/// Settings of a filter without any.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(crate) struct RequestId {}

/// Settings with a required key, a pattern and a choice.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct RateLimit {
    /// What is counted.
    key: Key,
    /// Requests and the time they are counted over, such as 100/s.
    #[schemars(regex(pattern = r"^[1-9][0-9]*/(s|m|h)$"))]
    rate: String,
    /// Requests above the rate that may come at once.
    burst: Option<u32>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum Key {
    ClientIp,
    Header(String),
}

/// Settings with a mapping of any names.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct Jwt {
    jwks: String,
    audience: Option<String>,
    #[schemars(default)]
    forward_claims: std::collections::BTreeMap<String, String>,
}

pub(crate) fn filters() -> Vec<FilterSchema> {
    vec![
        FilterSchema {
            name: "request_id".to_owned(),
            schema: schemars::schema_for!(RequestId),
        },
        FilterSchema {
            name: "rate_limit".to_owned(),
            schema: schemars::schema_for!(RateLimit),
        },
        FilterSchema {
            name: "jwt".to_owned(),
            schema: schemars::schema_for!(Jwt),
        },
    ]
}

pub(crate) fn parse(text: &str) -> Result<Document, Diagnostics> {
    let env = |name: &str| match name {
        "PORT" => Some("8080".to_owned()),
        "TOKEN" => Some("123456789012345678".to_owned()),
        "BALANCE" => Some("random".to_owned()),
        "BROKEN" => Some("hunter2".to_owned()),
        "file:/etc/selvedge/token" => Some("from-a-file\n".to_owned()),
        _ => None,
    };
    selvedge_schema::parse("edge.yaml", text, Path::new("/etc/selvedge"), &env, &filters())
}
