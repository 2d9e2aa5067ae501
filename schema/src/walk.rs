//! A tree with places against a JSON Schema: everything that is wrong, in a person's words, where it stands.
//!
//! It knows the part of JSON Schema that our types and the filters' settings produce; a keyword it does not know it
//! ignores, so a schema can only be checked too little here, never wrongly. Where a value was substituted from outside,
//! its type follows the schema: the tree is changed accordingly.

use serde_json::{Map, Value as Json};

use crate::diagnostic::{Diagnostic, Severity};
use crate::not_yet::is_planned;
use crate::source::{child, spoken};
use crate::text::{FORMAT_KEY, TextFormat, Verbatim, check_format};
use crate::words::{nearest, one_of};
use crate::yaml::{Entry, Node, Place, Value, resolve_plain};

/// Everything about `root` that `schema` does not allow.
pub(crate) fn walk(root: &mut Node, schema: &Json) -> Vec<Diagnostic> {
    let mut walker = Walker {
        schema,
        findings: Vec::new(),
    };
    walker.check(root, schema, "");
    walker.findings
}

struct Walker<'s> {
    schema: &'s Json,
    findings: Vec<Diagnostic>,
}

impl<'s> Walker<'s> {
    fn check(&mut self, node: &mut Node, schema: &'s Json, pointer: &str) {
        if matches!(node.value, Value::Reported) {
            return;
        }
        let Some(schema) = schema.as_object() else {
            return;
        };
        if let Some(target) = schema
            .get("$ref")
            .and_then(Json::as_str)
            .and_then(|r| self.schema.pointer(r.strip_prefix('#')?))
        {
            self.check(node, target, pointer);
        }
        for part in alternatives(schema, "allOf") {
            self.check(node, part, pointer);
        }
        if let Some(kinds) = schema.get("type") {
            let kinds = Kinds::of(kinds);
            adopt_expected_type(node, kinds, schema);
            if !kinds.accept(&node.value) {
                let format = schema.get(FORMAT_KEY).and_then(Json::as_str).unwrap_or_default();
                if let Value::Number(number) = &node.value
                    && format.ends_with("duration")
                {
                    let message = format!(
                        "{}: expected a duration, found the number {number}",
                        place_name(pointer)
                    );
                    return self.error(node.place, pointer, message, Some(format!("add a unit: {number}s")));
                }
                return self.wrong_type(node, &kinds.words(), pointer);
            }
        }
        for keyword in ["anyOf", "oneOf"] {
            let branches: Vec<&Json> = alternatives(schema, keyword).collect();
            if branches.is_empty() {
                continue;
            }
            if let Some(keys) = required_alternatives(&branches) {
                self.exactly_one_key(node, &keys, pointer);
            } else if !self.choose(node, &branches, pointer) {
                return;
            }
        }
        if let Some(Json::Array(values)) = schema.get("enum") {
            self.one_of(node, &values.iter().collect::<Vec<_>>(), pointer);
        } else if let Some(value) = schema.get("const") {
            self.one_of(node, &[value], pointer);
        }
        match &mut node.value {
            Value::Map(entries) => self.mapping(node.place, entries, schema, pointer),
            Value::List(items) => self.list(node.place, items, schema, pointer),
            Value::Number(_) => self.number(node, schema, pointer),
            Value::String(_) => self.string(node, schema, pointer),
            _ => {}
        }
        if let (Value::Number(number), Some(format)) = (&node.value, schema.get(FORMAT_KEY).and_then(Json::as_str))
            && let Err(why) = check_format(format, &number.to_string())
        {
            self.error(node.place, pointer, format!("{}: {why}", place_name(pointer)), None);
        }
    }

    fn error(&mut self, place: Place, pointer: &str, message: impl Into<String>, help: Option<String>) {
        self.findings
            .push(place.diagnostic(Severity::Error, pointer, message.into(), help));
    }

    fn wrong_type(&mut self, node: &Node, expected: &str, pointer: &str) {
        let message = format!("{}: expected {expected}, found {}", place_name(pointer), found(node));
        let help = match (&node.value, &node.scalar) {
            (Value::Number(_) | Value::Bool(_), Some(scalar)) if expected.contains("text") && !scalar.substituted => {
                Some(format!("in quotes it is text: \"{}\"", scalar.text))
            }
            (Value::String(text), Some(scalar)) if !scalar.substituted => match resolve_plain(text) {
                Value::Number(_) if !scalar.plain && expected.contains("number") => {
                    Some("leave out the quotes".to_owned())
                }
                Value::Bool(_) if !scalar.plain && expected.contains("true") => Some("leave out the quotes".to_owned()),
                _ if expected.contains("true") && matches!(text.as_str(), "yes" | "on") => {
                    Some("write true".to_owned())
                }
                _ if expected.contains("true") && matches!(text.as_str(), "no" | "off") => {
                    Some("write false".to_owned())
                }
                _ if expected == "a list" => Some(format!("a list of one is [{text}]")),
                _ => None,
            },
            _ => None,
        };
        self.error(node.place, pointer, message, help);
    }

    /// Exactly one of several keys, as the target of a route.
    fn exactly_one_key(&mut self, node: &Node, keys: &[&str], pointer: &str) {
        let Value::Map(entries) = &node.value else {
            return;
        };
        let is_there = |e: &&Entry| keys.contains(&e.key.as_str()) && !matches!(e.node.value, Value::Null);
        let mut there = entries.iter().filter(is_there);
        match (there.next(), there.next()) {
            (Some(_), None) => {}
            (Some(first), Some(second)) => {
                let message = format!(
                    "{} has both \"{}\" and \"{}\"",
                    place_name(pointer),
                    first.key,
                    second.key
                );
                let help = format!("keep exactly one of {}", one_of(keys));
                self.error(second.place, pointer, message, Some(help));
            }
            _ => {
                let message = format!("{} needs one of {}", place_name(pointer), one_of(keys));
                self.error(node.place, pointer, message, None);
            }
        }
    }

    /// Checks against the alternative that fits best; false when none fits even by type.
    fn choose(&mut self, node: &mut Node, branches: &[&'s Json], pointer: &str) -> bool {
        let constants: Vec<&Json> = branches.iter().flat_map(|branch| self.constants(branch)).collect();
        let candidates: Vec<&Json> = branches
            .iter()
            .copied()
            .filter(|branch| self.accepts_type(node, branch))
            .collect();
        match candidates.as_slice() {
            [] => {
                let words: Vec<String> = branches.iter().flat_map(|branch| self.expected(branch)).collect();
                let mut distinct: Vec<&str> = Vec::new();
                words.iter().filter(|word| *word != "nothing").for_each(|word| {
                    if !distinct.contains(&word.as_str()) {
                        distinct.push(word);
                    }
                });
                self.wrong_type(node, &distinct.join(" or "), pointer);
                return false;
            }
            [only] if !matches!(node.value, Value::String(_)) || constants.len() < 2 => self.check(node, only, pointer),
            _ if matches!(node.value, Value::String(_))
                && !constants.is_empty()
                && candidates.iter().all(|c| !self.constants(c).is_empty()) =>
            {
                self.one_of(node, &constants, pointer);
            }
            several => {
                let tries = several.iter().map(|branch| {
                    let mut trial = node.clone();
                    let mut walker = Walker {
                        schema: self.schema,
                        findings: Vec::new(),
                    };
                    walker.check(&mut trial, branch, pointer);
                    (walker.findings, trial)
                });
                if let Some((findings, trial)) = tries.min_by_key(|(findings, _)| findings.len()) {
                    self.findings.extend(findings);
                    *node = trial;
                }
            }
        }
        true
    }

    fn resolve(&self, schema: &'s Json) -> &'s Json {
        let target = schema
            .get("$ref")
            .and_then(Json::as_str)
            .and_then(|r| self.schema.pointer(r.strip_prefix('#')?));
        target.map_or(schema, |target| self.resolve(target))
    }

    /// The values an alternative is made of, when it is made of values.
    fn constants(&self, branch: &'s Json) -> Vec<&'s Json> {
        let branch = self.resolve(branch);
        match (branch.get("const"), branch.get("enum")) {
            (Some(value), _) => vec![value],
            (None, Some(Json::Array(values))) => values.iter().collect(),
            _ => ["anyOf", "oneOf"]
                .into_iter()
                .filter_map(|keyword| branch.get(keyword)?.as_array())
                .flatten()
                .flat_map(|inner| self.constants(inner))
                .collect(),
        }
    }

    fn accepts_type(&self, node: &Node, branch: &'s Json) -> bool {
        let branch = self.resolve(branch);
        if let Some(kinds) = branch.get("type") {
            let kinds = Kinds::of(kinds);
            let mut adopted = node.clone();
            adopt_expected_type(&mut adopted, kinds, branch.as_object().expect("it has a key"));
            return kinds.accept(&adopted.value);
        }
        let mut inner = ["anyOf", "oneOf"]
            .into_iter()
            .filter_map(|keyword| branch.get(keyword)?.as_array())
            .peekable();
        inner.peek().is_none() || inner.flatten().any(|branch| self.accepts_type(node, branch))
    }

    fn expected(&self, branch: &'s Json) -> Vec<String> {
        let branch = self.resolve(branch);
        let constants = self.constants(branch);
        if !constants.is_empty() {
            return constants.into_iter().map(Json::to_string).collect();
        }
        if let Some(kinds) = branch.get("type") {
            return vec![Kinds::of(kinds).words()];
        }
        let inner = ["anyOf", "oneOf"]
            .into_iter()
            .filter_map(|keyword| branch.get(keyword)?.as_array());
        inner.flatten().flat_map(|branch| self.expected(branch)).collect()
    }

    fn one_of(&mut self, node: &mut Node, values: &[&Json], pointer: &str) {
        if matches!(node.value, Value::Null) || values.iter().any(|value| **value == node.to_json()) {
            return;
        }
        if let Some(scalar) = node.scalar.as_ref().filter(|scalar| scalar.substituted)
            && let Some(value) = values.iter().find(|value| plain_text(value) == scalar.text)
        {
            node.value = match value {
                Json::String(text) => Value::String(text.clone()),
                other => resolve_plain(&other.to_string()),
            };
            return;
        }
        let names: Vec<String> = values.iter().map(|value| plain_text(value)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut message = format!(
            "{}: expected {}, found {}",
            place_name(pointer),
            one_of(&names),
            found(node)
        );
        let mut help = None;
        match (&node.value, &node.scalar) {
            (Value::String(text), Some(scalar)) if !scalar.substituted => {
                if let Some(nearest) = nearest(text, names.iter().copied()) {
                    message.push_str(&format!("; did you mean \"{nearest}\"?"));
                }
            }
            (Value::Number(_), Some(scalar)) if names.contains(&scalar.text.as_str()) => {
                help = Some(format!("in quotes it is text: \"{}\"", scalar.text));
            }
            _ => {}
        }
        self.error(node.place, pointer, message, help);
    }

    fn mapping(&mut self, place: Place, entries: &mut [Entry], schema: &'s Map<String, Json>, pointer: &str) {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&empty);
        let patterns = schema.get("patternProperties").and_then(Json::as_object);
        for entry in entries.iter_mut() {
            let below = child(pointer, &entry.key);
            if let Some(property) = schema.get("properties").and_then(|p| p.get(&entry.key)) {
                self.check(&mut entry.node, property, &below);
                continue;
            }
            let fitting = patterns
                .into_iter()
                .flatten()
                .find(|(pattern, _)| matches(pattern, &entry.key));
            if let Some((_, value)) = fitting {
                self.check(&mut entry.node, value, &below);
                continue;
            }
            match schema.get("additionalProperties") {
                Some(Json::Bool(false)) if patterns.is_some() && properties.is_empty() => {
                    let message = format!("\"{}\" cannot be a name in {}", entry.key, place_name(pointer));
                    let help = "a name has letters, digits, `_`, `-` and `.`, at most 64".to_owned();
                    self.error(entry.place, pointer, message, Some(help));
                }
                Some(Json::Bool(false)) => self.unknown_key(entry, properties, pointer),
                Some(value) => self.check(&mut entry.node, value, &below),
                None => {}
            }
        }
        for key in schema
            .get("required")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
        {
            if !entries.iter().any(|entry| entry.key == key) {
                let message = format!("{} needs the key \"{key}\"", place_name(pointer));
                let help = properties
                    .get(key)
                    .and_then(|p| p.get("description"))
                    .and_then(Json::as_str);
                self.error(place, pointer, message, help.map(|text| format!("{key}: {text}")));
            }
        }
        if bound(schema, "maxProperties").is_some_and(|most| entries.len() as u64 > most) {
            let message = format!(
                "{} has {} keys, expected exactly one",
                place_name(pointer),
                entries.len()
            );
            self.error(
                entries[1].place,
                pointer,
                message,
                Some("begin each with `- ` as an item of its own".to_owned()),
            );
        }
        if bound(schema, "minProperties").is_some_and(|least| (entries.len() as u64) < least) {
            self.error(place, pointer, format!("{} is empty", place_name(pointer)), None);
        }
    }

    fn unknown_key(&mut self, entry: &Entry, properties: &Map<String, Json>, pointer: &str) {
        let key = &entry.key;
        if is_planned(pointer, key) {
            let message = format!("`{key}` is not available in this version");
            return self.error(entry.place, pointer, message, Some("remove the key".to_owned()));
        }
        let at = if pointer.is_empty() {
            "at the top level".to_owned()
        } else {
            format!("in {}", spoken(pointer))
        };
        let mut message = format!("unknown key \"{key}\" {at}");
        let mut help = None;
        if key == "<<" {
            help = Some(
                "merge keys are not part of YAML 1.2; repeat the keys, or use an alias for the whole value".to_owned(),
            );
        } else if let Some(nearest) = nearest(key, properties.keys().map(String::as_str)) {
            message.push_str(&format!("; did you mean \"{nearest}\"?"));
        } else if !properties.is_empty() {
            let known: Vec<&str> = properties.keys().map(String::as_str).collect();
            help = Some(format!("known here: {}", known.join(", ")));
        }
        self.error(entry.place, pointer, message, help);
    }

    fn list(&mut self, place: Place, items: &mut [Node], schema: &'s Map<String, Json>, pointer: &str) {
        let count = items.len() as u64;
        if let Some(least) = bound(schema, "minItems").filter(|least| count < *least) {
            let what = if count == 0 {
                "is empty".to_owned()
            } else {
                format!("has {count} items")
            };
            self.error(
                place,
                pointer,
                format!("{} {what}, expected at least {least}", place_name(pointer)),
                None,
            );
        }
        if let Some(most) = bound(schema, "maxItems").filter(|most| count > *most) {
            let message = format!("{} has {count} items, expected at most {most}", place_name(pointer));
            self.error(place, pointer, message, None);
        }
        if let Some(item_schema) = schema.get("items") {
            for (index, item) in items.iter_mut().enumerate() {
                self.check(item, item_schema, &child(pointer, &index.to_string()));
            }
        }
    }

    fn number(&mut self, node: &Node, schema: &Map<String, Json>, pointer: &str) {
        let Value::Number(number) = &node.value else {
            return;
        };
        let Some(value) = number.as_f64() else {
            return;
        };
        let limit = |keyword: &str| schema.get(keyword).and_then(Json::as_f64);
        let shown = |keyword: &str| schema.get(keyword).map(Json::to_string).unwrap_or_default();
        let expected = if limit("minimum").is_some_and(|least| value < least) {
            format!("at least {}", shown("minimum"))
        } else if limit("maximum").is_some_and(|most| value > most) {
            format!("at most {}", shown("maximum"))
        } else if limit("exclusiveMinimum").is_some_and(|below| value <= below) {
            format!("more than {}", shown("exclusiveMinimum"))
        } else if limit("exclusiveMaximum").is_some_and(|above| value >= above) {
            format!("less than {}", shown("exclusiveMaximum"))
        } else {
            return;
        };
        self.error(
            node.place,
            pointer,
            format!("{}: expected {expected}, found {}", place_name(pointer), found(node)),
            None,
        );
    }

    fn string(&mut self, node: &Node, schema: &Map<String, Json>, pointer: &str) {
        let Value::String(text) = &node.value else {
            return;
        };
        let length = text.chars().count() as u64;
        if let Some(least) = bound(schema, "minLength").filter(|least| length < *least) {
            let message = match length {
                0 => format!("{} is empty", place_name(pointer)),
                _ => format!(
                    "{} has {length} characters, expected at least {least}",
                    place_name(pointer)
                ),
            };
            return self.error(node.place, pointer, message, None);
        }
        if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
            let message = format!(
                "{} has {length} characters, expected at most {most}",
                place_name(pointer)
            );
            return self.error(node.place, pointer, message, None);
        }
        match schema.get(FORMAT_KEY).and_then(Json::as_str) {
            // Our own formats say what is wrong; their pattern is for editors.
            Some(format) => {
                if let Err(why) = check_format(format, text) {
                    self.error(
                        node.place,
                        pointer,
                        format!("{}: {}: {why}", place_name(pointer), quoted(node)),
                        None,
                    );
                }
            }
            None => {
                if let Some(pattern) = schema.get("pattern").and_then(Json::as_str)
                    && !matches(pattern, text)
                {
                    let help = schema.get("description").and_then(Json::as_str).map(str::to_owned);
                    let message = format!("{}: {} is not of the form {pattern}", place_name(pointer), quoted(node));
                    self.error(node.place, pointer, message, help);
                }
            }
        }
    }
}

/// The JSON types a schema takes.
#[derive(Clone, Copy)]
struct Kinds<'s> {
    names: &'s Json,
}

impl<'s> Kinds<'s> {
    fn of(names: &'s Json) -> Self {
        Self { names }
    }

    fn includes(self, kind: &str) -> bool {
        match self.names {
            Json::String(name) => name == kind,
            Json::Array(names) => names.iter().any(|name| name == kind),
            _ => false,
        }
    }

    fn accept(self, value: &Value) -> bool {
        match value {
            Value::Null => self.includes("null"),
            Value::Bool(_) => self.includes("boolean"),
            Value::Number(n) => self.includes("number") || (self.includes("integer") && (n.is_i64() || n.is_u64())),
            Value::String(_) => self.includes("string"),
            Value::List(_) => self.includes("array"),
            Value::Map(_) => self.includes("object"),
            Value::Reported => true,
        }
    }

    fn words(self) -> String {
        let all = [
            ("string", "text"),
            ("integer", "a whole number"),
            ("number", "a number"),
            ("boolean", "true or false"),
            ("array", "a list"),
            ("object", "a mapping"),
        ];
        let words: Vec<&str> = all
            .into_iter()
            .filter(|(kind, _)| self.includes(kind))
            .map(|(_, word)| word)
            .collect();
        if words.is_empty() {
            "nothing".to_owned()
        } else {
            words.join(" or ")
        }
    }
}

/// A substituted scalar has the type that is expected of it, if its text allows; [`Verbatim`] text is always text.
fn adopt_expected_type(node: &mut Node, kinds: Kinds<'_>, schema: &Map<String, Json>) {
    let Some(scalar) = &node.scalar else {
        return;
    };
    if schema.get(FORMAT_KEY).and_then(Json::as_str) == Some(Verbatim::FORMAT) {
        node.value = Value::String(scalar.text.clone());
    }
    if !scalar.substituted || kinds.accept(&node.value) {
        return;
    }
    let as_text = Value::String(scalar.text.clone());
    let resolved = resolve_plain(&scalar.text);
    if kinds.accept(&resolved) {
        node.value = resolved;
    } else if kinds.accept(&as_text) {
        node.value = as_text;
    }
}

fn alternatives<'s>(schema: &'s Map<String, Json>, keyword: &str) -> impl Iterator<Item = &'s Json> {
    schema.get(keyword).and_then(Json::as_array).into_iter().flatten()
}

/// The keys, when every alternative is just "this key is there".
fn required_alternatives<'s>(branches: &[&'s Json]) -> Option<Vec<&'s str>> {
    let key = |branch: &&'s Json| {
        let object = branch.as_object().filter(|object| object.len() == 1)?;
        object.get("required")?.as_array()?.first()?.as_str()
    };
    branches.iter().map(key).collect()
}

fn bound(schema: &Map<String, Json>, keyword: &str) -> Option<u64> {
    schema.get(keyword).and_then(Json::as_u64)
}

fn matches(pattern: &str, text: &str) -> bool {
    // A pattern this engine cannot read is for the filter itself to judge.
    regex::Regex::new(pattern).map_or(true, |pattern| pattern.is_match(text))
}

fn place_name(pointer: &str) -> String {
    if pointer.is_empty() {
        "the configuration".to_owned()
    } else {
        spoken(pointer)
    }
}

fn plain_text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The text of a scalar, unless it came from outside: that may be a secret.
fn quoted(node: &Node) -> String {
    match &node.scalar {
        Some(scalar) if scalar.substituted => "the substituted value".to_owned(),
        Some(scalar) => format!("`{}`", scalar.text),
        None => "the value".to_owned(),
    }
}

fn found(node: &Node) -> String {
    if node.scalar.as_ref().is_some_and(|scalar| scalar.substituted) {
        return "the substituted value".to_owned();
    }
    match &node.value {
        Value::Null | Value::Reported => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(_) => format!(
            "the number {}",
            node.scalar.as_ref().map_or("", |scalar| scalar.text.as_str())
        ),
        Value::String(text) => format!("the text \"{text}\""),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}
