//! YAML 1.2 text → a tree in which every key and value knows its place.
//!
//! Scalars are resolved by the core schema, so `no` and `on` are text. One document a file. Anchors and aliases work,
//! bounded; merge keys and tags of one's own do not exist. The parser is driven event by event with our own depth
//! bound, because its loader recurses.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Number;

use crate::diagnostic::{Diagnostic, Severity};

/// Deeper than any real configuration, shallower than any stack.
const MAX_DEPTH: usize = 64;
/// Values after aliases are expanded: a few kilobytes of nested aliases can stand for billions.
const MAX_NODES: usize = 200_000;

/// Where something stands. Line and column begin at 1, the width is in characters and never crosses a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) width: usize,
}

impl Place {
    pub(crate) const START: Place = Place {
        line: 1,
        column: 1,
        width: 1,
    };

    fn of(span: Span) -> Self {
        let width = if span.start.line() == span.end.line() {
            span.end.col().saturating_sub(span.start.col())
        } else {
            1
        };
        Self {
            width: width.max(1),
            ..Self::at(span.start)
        }
    }

    fn at(marker: Marker) -> Self {
        Self {
            line: marker.line().max(1),
            column: marker.col() + 1,
            width: 1,
        }
    }

    pub(crate) fn diagnostic(
        self,
        severity: Severity,
        pointer: &str,
        message: String,
        help: Option<String>,
    ) -> Diagnostic {
        let Place { line, column, width } = self;
        Diagnostic {
            severity,
            message,
            pointer: pointer.to_owned(),
            line,
            column,
            width,
            help,
        }
    }

    fn error(self, message: impl Into<String>, help: Option<&str>) -> Diagnostic {
        self.diagnostic(Severity::Error, "", message.into(), help.map(str::to_owned))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
    /// The text of a scalar as written, before its type was decided.
    pub(crate) scalar: Option<ScalarText>,
}

#[derive(Debug, Clone)]
pub(crate) struct ScalarText {
    pub(crate) text: String,
    /// Not in quotes and without a tag: the text decides the type.
    pub(crate) plain: bool,
    /// Part of the text came from the environment: it is not to be repeated, and its type follows what is expected.
    pub(crate) substituted: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Already reported; nothing more is to be said about it.
    Reported,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null | Value::Reported => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Number(n) => serde_json::Value::Number(n.clone()),
            Value::String(s) => s.as_str().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect(),
        }
    }
}

/// Type of a plain scalar by the core schema (YAML 1.2.2 section 10.3). Infinities and NaN stay text: nothing here
/// takes them.
pub(crate) fn resolve_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = |digits: &str, base| {
        let valid = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
        valid.then(|| u64::from_str_radix(digits, base).ok()).flatten()
    };
    if let Some(n) = text.strip_prefix("0x").and_then(|d| radix(d, 16)) {
        return Value::Number(n.into());
    }
    if let Some(n) = text.strip_prefix("0o").and_then(|d| radix(d, 8)) {
        return Value::Number(n.into());
    }
    if let Ok(n) = text.parse::<i64>() {
        return Value::Number(n.into());
    }
    if let Ok(n) = text.parse::<u64>() {
        return Value::Number(n.into());
    }
    let looks_like_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && text.bytes().any(|b| b.is_ascii_digit());
    if looks_like_number && let Some(n) = text.parse::<f64>().ok().and_then(Number::from_f64) {
        return Value::Number(n);
    }
    Value::String(text.to_owned())
}

/// The one document in a text. Findings that do not stop the tree from being built (a key written twice) come with it.
pub(crate) fn load(text: &str) -> Result<(Node, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((Event::StreamEnd, _)) => break,
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(syntax_error(&error, text)),
        };
        if let Err(fatal) = step {
            builder.findings.push(fatal);
            return Err(builder.findings);
        }
    }
    match builder.root {
        Some(root) if !matches!(root.value, Value::Null) => Ok((root, builder.findings)),
        _ => {
            builder
                .findings
                .push(Place::START.error("the configuration is empty", Some("it needs listeners and routes")));
            Err(builder.findings)
        }
    }
}

fn syntax_error(error: &ScanError, text: &str) -> Diagnostic {
    let place = Place::at(*error.marker());
    let line = text.lines().nth(place.line - 1).unwrap_or("");
    let info = error.info();
    let help = if line.contains('\t') || info.contains("tab") {
        Some("indent with spaces; YAML does not allow tabs there")
    } else if line.contains("${") {
        Some("between { } and [ ] a substitution stands in quotes: \"${NAME}\"")
    } else {
        None
    };
    place.error(format!("not valid YAML: {info}"), help)
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    findings: Vec<Diagnostic>,
}

struct Open {
    place: Place,
    anchor: usize,
    nodes_before: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        key: Option<(String, Place)>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Diagnostic> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err(
                    Place::of(span).error("a second document; a configuration is one", Some("remove the `---`"))
                );
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, span)?;
                let node = scalar(&text, style, tag.as_deref(), Place::of(span))?;
                self.remember(anchor, &node, 1);
                self.add(node)?;
            }
            Event::SequenceStart(anchor, tag) => self.enter(Content::List(Vec::new()), anchor, tag.as_deref(), span)?,
            Event::MappingStart(anchor, tag) => {
                self.enter(
                    Content::Map {
                        entries: Vec::new(),
                        key: None,
                    },
                    anchor,
                    tag.as_deref(),
                    span,
                )?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.leave()?,
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some((node, size)) => {
                    self.count(size, span)?;
                    self.add(node)?;
                }
                None => return Err(Place::of(span).error("an alias inside the value it stands for", None)),
            },
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Diagnostic> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(Place::of(span).error(format!("more than {MAX_NODES} values"), None));
        }
        Ok(())
    }

    fn remember(&mut self, anchor: usize, node: &Node, size: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
    }

    fn enter(&mut self, content: Content, anchor: usize, tag: Option<&Tag>, span: Span) -> Result<(), Diagnostic> {
        let place = Place::of(span);
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            return Err(place.error(format!("unknown tag `{}{}`", tag.handle, tag.suffix), None));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(place.error(format!("nested deeper than {MAX_DEPTH} levels"), None));
        }
        let nodes_before = self.nodes;
        self.count(1, span)?;
        self.open.push(Open {
            place,
            anchor,
            nodes_before,
            content,
        });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Diagnostic> {
        let Open {
            place,
            anchor,
            nodes_before,
            content,
        } = self.open.pop().expect("the parser closes only what it opened");
        let (place, value) = match content {
            Content::List(items) => (place, Value::List(items)),
            Content::Map { entries, .. } => {
                let place = entries.first().map_or(place, |first| {
                    if place.width > 1 {
                        place
                    } else {
                        earlier(place, first.place)
                    }
                });
                (place, Value::Map(entries))
            }
        };
        let node = Node {
            place,
            value,
            scalar: None,
        };
        self.remember(anchor, &node, self.nodes - nodes_before);
        self.add(node)
    }

    fn add(&mut self, node: Node) -> Result<(), Diagnostic> {
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut parent.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, key } => match key.take() {
                Some((key, place)) => {
                    if let Some(first) = entries.iter().find(|e| e.key == key) {
                        let message = format!("the key \"{key}\" is there twice; first in line {}", first.place.line);
                        self.findings
                            .push(place.error(message, Some("a later value would silently replace the first")));
                    } else {
                        entries.push(Entry { key, place, node });
                    }
                }
                None => match node.scalar {
                    Some(scalar) => *key = Some((scalar.text, node.place)),
                    None => return Err(node.place.error("a key must be plain text", None)),
                },
            },
        }
        Ok(())
    }
}

fn earlier(a: Place, b: Place) -> Place {
    if (b.line, b.column) < (a.line, a.column) { b } else { a }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Result<Node, Diagnostic> {
    let as_text = || Value::String(text.to_owned());
    let plain = style == ScalarStyle::Plain && tag.is_none();
    let value = match tag {
        None if plain => resolve_plain(text),
        None => as_text(),
        Some(tag) if tag.is_yaml_core_schema() => match (tag.suffix.as_str(), resolve_plain(text)) {
            ("str", _) => as_text(),
            ("int" | "float", value @ Value::Number(_)) | ("bool", value @ Value::Bool(_)) => value,
            ("null", value @ Value::Null) => value,
            (suffix, _) => return Err(place.error(format!("the value does not fit its tag `!!{suffix}`"), None)),
        },
        Some(tag) => return Err(place.error(format!("unknown tag `{}{}`", tag.handle, tag.suffix), None)),
    };
    let scalar = ScalarText {
        text: text.to_owned(),
        plain,
        substituted: false,
    };
    Ok(Node {
        place,
        value,
        scalar: Some(scalar),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let show = |d: &Diagnostic| format!("{}:{}: {}", d.line, d.column, d.message);
        match load(text) {
            Ok((node, findings)) => {
                let mut lines = vec![node.to_json().to_string()];
                lines.extend(findings.iter().map(show));
                lines.join("\n")
            }
            Err(findings) => findings.iter().map(show).collect::<Vec<_>>().join("\n"),
        }
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let check =
            |text: &str, expected: &str| assert_eq!(shown(&format!("a: {text}")), format!("{{\"a\":{expected}}}"));
        check("no", "\"no\"");
        check("off", "\"off\"");
        check("True", "true");
        check("~", "null");
        check("", "null");
        check("12", "12");
        check("-12", "-12");
        check("+12", "12");
        check("0x1F", "31");
        check("0o17", "15");
        check("017", "17");
        check("1.5", "1.5");
        check("1e3", "1000.0");
        check("18446744073709551615", "18446744073709551615");
        check("'12'", "\"12\"");
        check("\"true\"", "\"true\"");
        check("!!str 12", "\"12\"");
        check("!!int 12", "12");
        check("12:30", "\"12:30\"");
        check("0.0.0.0:80", "\"0.0.0.0:80\"");
        check("10s", "\"10s\"");
        check(".inf", "\".inf\"");
        check("infinity", "\"infinity\"");
        check("|\n  x\n  y\n", "\"x\\ny\\n\"");
    }

    #[test]
    fn trees_and_refusals() {
        let check = |text: &str, expected: &str| assert_eq!(shown(text), expected, "{text}");
        check("a: &x {b: [1, 2]}\nc: *x", r#"{"a":{"b":[1,2]},"c":{"b":[1,2]}}"#);
        check("- 1\n- [2]", "[1,[2]]");
        check("1: x", r#"{"1":"x"}"#);
        check(
            "a: 1\nb: 2\na: 3\nb: 4",
            "{\"a\":1,\"b\":2}\n3:1: the key \"a\" is there twice; first in line 1\n4:1: the key \"b\" is there twice; first in line 2",
        );
        check("", "1:1: the configuration is empty");
        check("# only a comment\n", "1:1: the configuration is empty");
        check("a: 1\n---\nb: 2", "2:1: a second document; a configuration is one");
        check("[a]: 1", "1:1: a key must be plain text");
        check("a: !mine 1", "1:4: unknown tag `!mine`");
        check("a: !!int x", "1:4: the value does not fit its tag `!!int`");
        check("a: &x [*x]", "1:8: an alias inside the value it stands for");
        check(&"[".repeat(65), "1:65: nested deeper than 64 levels");
    }

    #[test]
    fn aliases_cannot_blow_up() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let previous = format!("*a{}", level - 1);
            text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![previous; 10].join(", ")));
        }
        assert!(shown(&text).ends_with("more than 200000 values"), "{}", shown(&text));
    }

    #[test]
    fn places_begin_at_the_first_character() {
        let (root, _) = load("a:\n  b: {c: 12}\n  d:\n    - x: 1\n").unwrap();
        let place = |node: &Node| (node.place.line, node.place.column, node.place.width);
        let get = |node: &Node, key: &str| match &node.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).unwrap().node.clone(),
            Value::List(items) => items[0].clone(),
            _ => unreachable!(),
        };
        assert_eq!((root.place.line, root.place.column), (1, 1));
        let a = get(&root, "a");
        assert_eq!((a.place.line, a.place.column), (2, 3));
        assert_eq!(place(&get(&get(&a, "b"), "c")), (2, 10, 2));
        let item = get(&get(&a, "d"), "");
        assert_eq!((item.place.line, item.place.column), (4, 7));
    }
}
