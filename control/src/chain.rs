//! The chain of the audit log: each entry's hash covers the one before it, so that none can be changed or taken out.
//!
//! hash = hex(SHA-256(hash of the entry before, in hex ‖ the entry as canonical JSON)). Canonical is: keys sorted, no space
//! between, numbers whole. The first entry follows [`GENESIS`]. Whoever may write the database can compute a new chain;
//! the newest hash, kept elsewhere, shows that.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// Before the first entry.
pub(crate) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Entry {
    /// From 1, without gaps.
    pub(crate) number: i64,
    /// The database that was changed, and the revision it had then.
    pub(crate) source: String,
    pub(crate) source_number: i64,
    /// Milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// Id of the key that did it.
    pub(crate) actor: String,
    /// Such as `deployment.activate`.
    pub(crate) action: String,
    /// What was changed.
    pub(crate) subject: String,
    #[schema(value_type = Object)]
    pub(crate) detail: Value,
}

pub(crate) fn hash(before: &str, entry: &Entry) -> String {
    let value = serde_json::to_value(entry).expect("an entry is JSON");
    let mut digest = Sha256::new();
    digest.update(before);
    digest.update(canonical(&value));
    hex(&digest.finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same bytes for the same value, however its maps are kept.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<_> = object.keys().collect();
            keys.sort_unstable();
            let fields = keys
                .into_iter()
                .map(|key| format!("{}:{}", Value::from(key.as_str()), canonical(&object[key])));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(number: i64, detail: Value) -> Entry {
        Entry {
            number,
            source: "_config".to_owned(),
            source_number: 7,
            at_ms: 1,
            actor: "k".to_owned(),
            action: "flag.set".to_owned(),
            subject: "x".to_owned(),
            detail,
        }
    }

    #[test]
    fn canonical_text_is_sorted_and_dense() {
        let value = json!({ "b": [1, { "z": null, "a": "\"" }], "a": true });
        assert_eq!(canonical(&value), r#"{"a":true,"b":[1,{"a":"\"","z":null}]}"#);
    }

    #[test]
    fn every_field_and_the_one_before_count() {
        let first = hash(GENESIS, &entry(1, json!({})));
        assert_eq!(first.len(), GENESIS.len());
        let mut others = vec![first.clone(), hash(&first, &entry(1, json!({})))];
        for changed in [
            Entry {
                at_ms: 2,
                ..entry(1, json!({}))
            },
            Entry {
                actor: "l".to_owned(),
                ..entry(1, json!({}))
            },
            Entry {
                subject: "y".to_owned(),
                ..entry(1, json!({}))
            },
            entry(1, json!({ "a": 1 })),
            entry(2, json!({})),
        ] {
            others.push(hash(GENESIS, &changed));
        }
        let distinct: std::collections::BTreeSet<_> = others.iter().collect();
        assert_eq!(distinct.len(), others.len());
    }
}
