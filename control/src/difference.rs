//! How two deployments differ: in their manifests, and in their files.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::store::deployments::DeployedBlob;

/// A value of the manifest that is another one, is new, or is gone.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct ChangedValue {
    /// JSON pointer (RFC 6901) of the outermost value that differs; items of lists are compared by their places.
    pub(crate) pointer: String,
    /// Absent when it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) before: Option<Value>,
    /// Absent when it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub(crate) after: Option<Value>,
}

/// Each list is sorted by path.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct ChangedFiles {
    pub(crate) added: Vec<DeployedBlob>,
    pub(crate) removed: Vec<DeployedBlob>,
    pub(crate) changed: Vec<ChangedFile>,
}

/// A file with another content.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct ChangedFile {
    pub(crate) path: String,
    pub(crate) before: DeployedBlob,
    pub(crate) after: DeployedBlob,
}

/// The values that differ, in the order of their pointers.
pub(crate) fn of_manifests(before: &Value, after: &Value) -> Vec<ChangedValue> {
    let mut found = Vec::new();
    compare("", Some(before), Some(after), &mut found);
    found
}

/// A manifest is nested no deeper than the parser of JSON lets it be.
fn compare(pointer: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<ChangedValue>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let below = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                compare(&below, old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for place in 0..old.len().max(new.len()) {
                compare(&format!("{pointer}/{place}"), old.get(place), new.get(place), found);
            }
        }
        (before, after) => found.push(ChangedValue {
            pointer: pointer.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        }),
    }
}

pub(crate) fn of_files(before: Vec<DeployedBlob>, after: Vec<DeployedBlob>) -> ChangedFiles {
    let by_path = |blob: DeployedBlob| (blob.path.clone(), blob);
    let mut new: BTreeMap<_, _> = after.into_iter().map(by_path).collect();
    let old: BTreeMap<_, _> = before.into_iter().map(by_path).collect();
    let mut files = ChangedFiles::default();
    for (path, before) in old {
        match new.remove(&path) {
            None => files.removed.push(before),
            Some(after) if after.digest == before.digest => {}
            Some(after) => files.changed.push(ChangedFile { path, before, after }),
        }
    }
    files.added = new.into_values().collect();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_that_differ() {
        for (before, after, expected) in [
            (json!({ "a": 1 }), json!({ "a": 1 }), json!([])),
            (
                json!({ "a": { "x": 1, "y": 2 }, "b": [] }),
                json!({ "a": { "x": 1, "y": 3 }, "b": [] }),
                json!([{ "pointer": "/a/y", "before": 2, "after": 3 }]),
            ),
            (
                json!({ "a/b": 1 }),
                json!({ "a~b": null }),
                json!([{ "pointer": "/a~1b", "before": 1 }, { "pointer": "/a~0b", "after": null }]),
            ),
            (
                json!([1, 2, { "c": 3 }]),
                json!([1, 5]),
                json!([{ "pointer": "/1", "before": 2, "after": 5 }, { "pointer": "/2", "before": { "c": 3 } }]),
            ),
            (
                json!({ "a": [] }),
                json!({ "a": {} }),
                json!([{ "pointer": "/a", "before": [], "after": {} }]),
            ),
        ] {
            assert_eq!(json!(of_manifests(&before, &after)), expected);
        }
    }

    #[test]
    fn files_that_differ() {
        let blob = |path: &str, digest: &str| DeployedBlob {
            path: path.to_owned(),
            digest: digest.to_owned(),
            bytes: 1,
        };
        let before = vec![blob("a", "1"), blob("b", "2"), blob("c", "3")];
        let after = vec![blob("a", "1"), blob("b", "4"), blob("d", "3")];
        let expected = ChangedFiles {
            added: vec![blob("d", "3")],
            removed: vec![blob("c", "3")],
            changed: vec![ChangedFile {
                path: "b".to_owned(),
                before: blob("b", "2"),
                after: blob("b", "4"),
            }],
        };
        assert_eq!(of_files(before, after), expected);
    }
}
