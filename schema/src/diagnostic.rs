//! What is wrong with a configuration, and where: said to a person as text with the source line, to a program as JSON.
//!
//! Lines and columns begin at 1; columns count characters. A value that came from the environment is never quoted.

use std::fmt;

use serde::Serialize;
use serde::ser::SerializeStruct;

use crate::Document;
use crate::source::SourceMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The configuration is not used.
    Error,
    /// It is used, but something in it has no effect.
    Warning,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One finding at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    /// JSON pointer (RFC 6901) of the value, or of the mapping where a key is missing or unknown.
    pub pointer: String,
    pub line: usize,
    pub column: usize,
    /// Characters to underline; at least 1.
    #[serde(skip)]
    pub width: usize,
    /// What to do about it.
    pub help: Option<String>,
}

/// All findings of one file with its text, in the order of the text.
#[derive(Clone)]
pub struct Diagnostics {
    source: SourceMap,
    items: Vec<Diagnostic>,
}

/// Whether the text goes to a terminal that shows ANSI colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Ansi,
}

impl Diagnostics {
    pub(crate) fn new(source: SourceMap, mut items: Vec<Diagnostic>) -> Self {
        items.sort_by_key(|d| (d.line, d.column));
        items.dedup();
        Self { source, items }
    }

    /// None yet: for a stage that builds what the document describes and may find more.
    pub fn for_document(document: &Document) -> Self {
        Self::new(document.source.clone(), Vec::new())
    }

    /// Adds an error at the value of a pointer.
    pub fn error(&mut self, pointer: &str, message: impl Into<String>, help: Option<String>) {
        self.push(self.source.at_value(Severity::Error, pointer, message, help));
    }

    pub fn push(&mut self, item: Diagnostic) {
        let after = self
            .items
            .partition_point(|d| (d.line, d.column) <= (item.line, item.column));
        self.items.insert(after, item);
    }

    pub fn source_name(&self) -> &str {
        self.source.name()
    }

    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|d| d.severity == Severity::Error)
    }

    /// One paragraph for each finding: `file:line:column: error: message`, the source line, a caret, and the help.
    pub fn render(&self, colour: Colour) -> String {
        let paint = Paint {
            on: colour == Colour::Ansi,
        };
        let mut out = String::new();
        for diagnostic in &self.items {
            self.render_one(diagnostic, paint, &mut out);
        }
        out
    }

    fn render_one(&self, d: &Diagnostic, paint: Paint, out: &mut String) {
        let severity = match d.severity {
            Severity::Error => paint.red(d.severity.word()),
            Severity::Warning => paint.yellow(d.severity.word()),
        };
        let place = paint.bold(&format!("{}:{}:{}:", self.source.name(), d.line, d.column));
        out.push_str(&format!("{place} {severity}: {}\n", d.message));
        let margin = " ".repeat(5.max(d.line.to_string().len()));
        if let Some(line) = self.source.text().lines().nth(d.line.saturating_sub(1)) {
            let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let shown = shown.trim_end();
            let before = d.column.saturating_sub(1);
            let width = d.width.min(shown.chars().count().saturating_sub(before)).max(1);
            let caret = paint.red(&"^".repeat(width));
            out.push_str(&format!(
                "{:>5} | {shown}\n{margin} | {}{caret}\n",
                d.line,
                " ".repeat(before)
            ));
        }
        if let Some(help) = &d.help {
            out.push_str(&format!("{margin} = help: {help}\n"));
        }
    }
}

/// Plain text; what a log or a panic shows.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Colour::Plain).trim_end())
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Diagnostics {}

/// `{"file": …, "diagnostics": [{"severity", "message", "pointer", "line", "column", "help"}]}`
impl Serialize for Diagnostics {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Diagnostics", 2)?;
        object.serialize_field("file", self.source.name())?;
        object.serialize_field("diagnostics", &self.items)?;
        object.end()
    }
}

#[derive(Clone, Copy)]
struct Paint {
    on: bool,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    fn yellow(self, text: &str) -> String {
        self.wrap("1;33", text)
    }

    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Diagnostics {
        let item = |line, column, severity| Diagnostic {
            severity,
            message: "something".to_owned(),
            pointer: "/a".to_owned(),
            line,
            column,
            width: 99,
            help: Some("do this".to_owned()),
        };
        let items = vec![
            item(2, 4, Severity::Warning),
            item(1, 1, Severity::Error),
            item(7, 1, Severity::Error),
        ];
        Diagnostics::new(
            SourceMap::without_places("edge.yaml", "a: 1\n\tb: \u{e9}\u{1b}[2J\n"),
            items,
        )
    }

    #[test]
    fn text_is_sorted_clipped_and_free_of_control_characters() {
        insta::assert_snapshot!(sample().render(Colour::Plain), @r"
        edge.yaml:1:1: error: something
            1 | a: 1
              | ^^^^
              = help: do this
        edge.yaml:2:4: warning: something
            2 |  b: é [2J
              |    ^^^^^^
              = help: do this
        edge.yaml:7:1: error: something
              = help: do this
        ");
    }

    #[test]
    fn colour_is_opt_in() {
        assert!(
            sample()
                .render(Colour::Ansi)
                .contains("\x1b[1;31merror\x1b[0m: something")
        );
        assert!(!sample().to_string().contains('\x1b'));
    }

    #[test]
    fn json_names_every_field() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["file"], "edge.yaml");
        let expected = serde_json::json!({
            "severity": "warning", "message": "something", "pointer": "/a", "line": 2, "column": 4, "help": "do this",
        });
        assert_eq!(json["diagnostics"][1], expected);
    }
}
