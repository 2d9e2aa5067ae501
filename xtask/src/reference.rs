//! `cargo xtask reference`: `docs/configuration.md` from the JSON Schema that the executable prints.
//!
//! The schema derives from the types that parse the file and from the list of filters, so the reference cannot promise a key
//! that does not exist. `cargo xtask test` fails when the file is older than the schema.

use std::{collections::BTreeSet, fmt::Write, fs, process::Command};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::tools;

const FILE: &str = "docs/configuration.md";

/// Writes the reference.
pub(crate) fn write() -> Result<()> {
    fs::write(tools::workspace_root().join(FILE), render()?).context(FILE)
}

/// Fails when the committed reference is not what would be written.
pub(crate) fn check() -> Result<()> {
    let committed = fs::read_to_string(tools::workspace_root().join(FILE)).unwrap_or_default();
    if committed != render()? {
        bail!("{FILE} does not say what the schema says; run `cargo xtask reference`");
    }
    Ok(())
}

fn render() -> Result<String> {
    let executable = tools::target_dir()?.join("debug/selvedge");
    let output = Command::new(executable)
        .arg("schema")
        .output()
        .context("selvedge schema")?;
    let schema: Value = serde_json::from_slice(&output.stdout).context("the schema")?;
    let mut reference = Reference {
        schema: &schema,
        text: String::from(
            "# Configuration\n\nOne YAML file describes an edge. `selvedge check FILE` builds everything it describes and says what is wrong; \
             `selvedge schema` prints its JSON Schema for editors. Unknown keys are errors. `${NAME}` and `${NAME:-default}` stand for \
             environment variables, `${file:PATH}` for the contents of a file. Paths are relative to the configuration file.\n\n\
             Written by `cargo xtask reference`; examples to start from are in `conf/`.\n",
        ),
        queue: Vec::new(),
        seen: BTreeSet::new(),
    };
    reference.section("The file", &schema);
    while let Some((title, definition)) = reference.queue.pop() {
        reference.section(&title, definition);
    }
    reference.filters();
    Ok(reference.text)
}

struct Reference<'s> {
    schema: &'s Value,
    text: String,
    /// Definitions that were named but not written yet, the next one last.
    queue: Vec<(String, &'s Value)>,
    seen: BTreeSet<String>,
}

impl<'s> Reference<'s> {
    fn section(&mut self, title: &str, definition: &'s Value) {
        let _ = writeln!(self.text, "\n## {title}\n");
        self.body(definition);
    }

    /// Description and table of one object.
    fn body(&mut self, definition: &'s Value) {
        if let Some(description) = definition["description"].as_str() {
            let _ = writeln!(self.text, "{}\n", description.replace('\n', " "));
        }
        let Some(properties) = definition["properties"].as_object() else {
            return;
        };
        self.text.push_str("| key | value | default | |\n|---|---|---|---|\n");
        let required: Vec<&str> = definition["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let found: usize = self.queue.len();
        for (key, property) in properties {
            let default = match property.get("default") {
                Some(default) if !default.is_object() => format!("`{default}`"),
                _ if required.contains(&key.as_str()) => "required".to_owned(),
                _ => String::new(),
            };
            let value = self.value(property);
            let description = self.description(property).replace('\n', " ").replace('|', "\\|");
            let _ = writeln!(self.text, "| `{key}` | {value} | {default} | {description} |");
        }
        // Read in the order the keys stand.
        self.queue[found..].reverse();
    }

    fn description(&self, property: &'s Value) -> String {
        let own = property["description"].as_str();
        own.or_else(|| self.resolve(property)["description"].as_str())
            .unwrap_or_default()
            .to_owned()
    }

    fn resolve(&self, property: &'s Value) -> &'s Value {
        match property["$ref"]
            .as_str()
            .and_then(|reference| self.schema.pointer(reference.strip_prefix('#')?))
        {
            Some(target) => target,
            None => property,
        }
    }

    /// What may stand there, in a few words; definitions that need a table of their own are queued.
    fn value(&mut self, property: &'s Value) -> String {
        if let Some(name) = property["$ref"]
            .as_str()
            .and_then(|reference| reference.rsplit('/').next())
        {
            let target = self.resolve(property);
            if target["properties"].is_object() && name != "Filter" {
                if self.seen.insert(name.to_owned()) {
                    self.queue.push((name.to_owned(), target));
                }
                return format!("[{name}](#{})", name.to_lowercase());
            }
            if name == "Filter" {
                return "[filter](#filters)".to_owned();
            }
            return self.value(target);
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(branches) = property[keyword].as_array() {
                let mut words: Vec<String> = branches.iter().map(|branch| self.value(branch)).collect();
                words.retain(|word| word != "null" && !word.is_empty());
                words.dedup();
                if !words.is_empty() {
                    return words.join(" or ");
                }
            }
        }
        if let Some(values) = property["enum"].as_array() {
            return values
                .iter()
                .filter(|value| !value.is_null())
                .map(|value| format!("`{}`", plain(value)))
                .collect::<Vec<_>>()
                .join(", ");
        }
        if let Some(value) = property.get("const") {
            return format!("`{}`", plain(value));
        }
        if let Some(items) = property.get("items") {
            return format!("list of {}", self.value(items));
        }
        if let Some(format) = property["x-selvedge-format"].as_str().or(property["format"].as_str()) {
            return format.replace('-', " ");
        }
        let map = property.get("additionalProperties").filter(|value| value.is_object());
        let map = map.or_else(|| {
            property["patternProperties"]
                .as_object()
                .and_then(|patterns| patterns.values().next())
        });
        if let Some(value) = map {
            return format!("names to {}", self.value(value));
        }
        match &property["type"] {
            Value::String(kind) => kind_word(kind).to_owned(),
            Value::Array(kinds) => kinds
                .iter()
                .filter_map(Value::as_str)
                .filter(|kind| *kind != "null")
                .map(kind_word)
                .collect::<Vec<_>>()
                .join(" or "),
            _ => match property["properties"].as_object() {
                Some(properties) => keys(properties),
                None => String::new(),
            },
        }
    }

    fn filters(&mut self) {
        self.text.push_str("\n## Filters\n\nA route's filters run in the order written; the response passes them in the opposite order.\n");
        let schema = self.schema;
        for (name, filter) in schema["$defs"]["Filter"]["properties"]
            .as_object()
            .into_iter()
            .flatten()
        {
            let _ = writeln!(self.text, "\n### {name}\n");
            self.body(filter);
            while let Some((title, definition)) = self.queue.pop() {
                let title = title.rsplit('_').next().unwrap_or(&title);
                let _ = writeln!(self.text, "\n#### {title}\n");
                self.body(definition);
            }
        }
    }
}

fn keys(properties: &Map<String, Value>) -> String {
    properties
        .keys()
        .map(|key| format!("`{{ {key}: … }}`"))
        .collect::<Vec<_>>()
        .join(" or ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn kind_word(kind: &str) -> &str {
    match kind {
        "string" => "text",
        "integer" | "number" => "number",
        "boolean" => "`true`, `false`",
        "object" => "mapping",
        other => other,
    }
}
