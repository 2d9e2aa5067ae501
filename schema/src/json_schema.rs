//! The JSON Schema of the configuration (draft 2020-12): what `selvedge schema` prints and what the walker checks.
//!
//! Derived from the types as written, completed with the schemas of the filters, which live in another crate.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::written;

/// Definition that [`json_schema`] puts together from all filters.
pub(crate) const FILTER_DEFINITION: &str = "Filter";

/// A filter as the configuration knows it: a name and the schema of its settings.
#[derive(Debug, Clone)]
pub struct FilterSchema {
    pub name: String,
    /// A root schema; its own definitions move into the whole under names that cannot clash.
    pub schema: schemars::Schema,
}

/// The schema of a whole configuration file with these filters.
pub fn json_schema(filters: &[FilterSchema]) -> Value {
    completed::<written::Config>("Selvedge configuration", filters)
}

/// The schema of a project's file with these filters.
pub fn project_schema(filters: &[FilterSchema]) -> Value {
    completed::<written::project::Project>("Selvedge project", filters)
}

fn completed<T: JsonSchema>(title: &str, filters: &[FilterSchema]) -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut root = generator.into_root_schema_for::<T>().to_value();
    let mut definitions = Map::new();
    let mut properties = Map::new();
    for filter in filters {
        let (settings, own) = hoisted(filter);
        properties.insert(filter.name.clone(), settings);
        definitions.extend(own);
    }
    let entry = json!({
        "description": "One filter: its name and its settings.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "minProperties": 1,
        "maxProperties": 1,
    });
    definitions.insert(FILTER_DEFINITION.to_owned(), entry);
    let all = root
        .get_mut("$defs")
        .and_then(Value::as_object_mut)
        .expect("the root schema has definitions");
    all.extend(definitions);
    tidy(&mut root);
    root["title"] = title.into();
    root
}

/// A filter's settings without their own root, and their definitions under `filter_NAME_…`.
fn hoisted(filter: &FilterSchema) -> (Value, Map<String, Value>) {
    let mut settings = filter.schema.clone().to_value();
    let mut own = Map::new();
    if let Some(object) = settings.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
        if let Some(Value::Object(definitions)) = object.remove("$defs") {
            own = definitions;
        }
    }
    let renamed = |name: &str| format!("filter_{}_{name}", filter.name);
    let point_anew = |reference: &str| match reference.strip_prefix("#/$defs/") {
        Some(name) => format!("#/$defs/{}", renamed(name)),
        None => reference.to_owned(),
    };
    rewrite_references(&mut settings, &point_anew);
    let own = own.into_iter().map(|(name, mut definition)| {
        rewrite_references(&mut definition, &point_anew);
        (renamed(&name), definition)
    });
    (settings, own.collect())
}

fn rewrite_references(schema: &mut Value, rewrite: &dyn Fn(&str) -> String) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get_mut("$ref") {
                *reference = rewrite(reference);
            }
            object.values_mut().for_each(|value| rewrite_references(value, rewrite));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| rewrite_references(value, rewrite)),
        _ => {}
    }
}

/// `"default": null` says nothing, and the width of our integers is no format of JSON Schema that editors know; the
/// bounds it implies are written out.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
            let bits = object
                .get("format")
                .and_then(Value::as_str)
                .and_then(|format| match format {
                    "uint32" => Some(u64::from(u32::MAX)),
                    "uint64" | "uint" => Some(i64::MAX as u64),
                    _ => None,
                });
            if let Some(maximum) = bits {
                object.remove("format");
                object.entry("maximum").or_insert(maximum.into());
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(schemars::JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Settings {
        inner: Inner,
    }

    #[derive(schemars::JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Inner {
        count: u32,
    }

    #[test]
    fn filters_become_alternatives_and_keep_their_definitions() {
        let filter = FilterSchema {
            name: "sample".to_owned(),
            schema: schemars::schema_for!(Settings),
        };
        let schema = json_schema(&[filter]);
        let settings = &schema["$defs"]["Filter"]["properties"]["sample"];
        assert_eq!(settings["properties"]["inner"]["$ref"], "#/$defs/filter_sample_Inner");
        let count = &schema["$defs"]["filter_sample_Inner"]["properties"]["count"];
        assert_eq!((&count["minimum"], &count["maximum"]), (&json!(0), &json!(u32::MAX)));
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_key_is_described() {
        let schema = json_schema(&[]);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        let mut missing = Vec::new();
        visit(&schema, &mut |value| {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str)
                && schema.pointer(&reference[1..]).is_none()
            {
                missing.push(reference.to_owned());
            }
            for (key, property) in value.get("properties").and_then(Value::as_object).into_iter().flatten() {
                // A choice of one key describes itself, not the key.
                if property.get("description").is_none() && !["file", "database", "postgres"].contains(&key.as_str()) {
                    missing.push(key.clone());
                }
            }
        });
        assert_eq!(missing, Vec::<String>::new());
    }

    fn visit(value: &Value, see: &mut dyn FnMut(&Value)) {
        see(value);
        match value {
            Value::Object(object) => object.values().for_each(|value| visit(value, see)),
            Value::Array(items) => items.iter().for_each(|value| visit(value, see)),
            _ => {}
        }
    }
}
