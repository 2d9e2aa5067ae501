//! Where every value of a configuration stands in its text, so that any later stage can point at it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Severity};
use crate::yaml::{Node, Place, Value};

/// Appends one reference token (RFC 6901 section 3).
pub(crate) fn child(pointer: &str, token: &str) -> String {
    format!("{pointer}/{}", token.replace('~', "~0").replace('/', "~1"))
}

/// A pointer as a person would write it: `listeners[0].tls`, `handlers.shop`; the empty pointer is empty.
pub(crate) fn spoken(pointer: &str) -> String {
    let mut text = String::new();
    for token in pointer.split('/').skip(1) {
        if !token.is_empty() && token.bytes().all(|b| b.is_ascii_digit()) {
            text.push_str(&format!("[{token}]"));
            continue;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(&token.replace("~1", "/").replace("~0", "~"));
    }
    text
}

/// The text of a configuration and the places of its values and keys by JSON pointer. Clones share it.
#[derive(Debug, Clone)]
pub struct SourceMap {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    text: String,
    places: Places,
}

#[derive(Debug, Default)]
struct Places {
    values: BTreeMap<String, Place>,
    keys: BTreeMap<String, Place>,
}

impl Places {
    fn record(&mut self, pointer: &str, node: &Node) {
        self.values.insert(pointer.to_owned(), node.place);
        match &node.value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.record(&child(pointer, &index.to_string()), item);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    let pointer = child(pointer, &entry.key);
                    self.keys.insert(pointer.clone(), entry.place);
                    self.record(&pointer, &entry.node);
                }
            }
            _ => {}
        }
    }
}

impl SourceMap {
    pub(crate) fn new(name: &str, text: &str, root: &Node) -> Self {
        let mut places = Places::default();
        places.record("", root);
        Self::of(name, text, places)
    }

    /// For a text that is no tree.
    pub(crate) fn without_places(name: &str, text: &str) -> Self {
        Self::of(name, text, Places::default())
    }

    fn of(name: &str, text: &str, places: Places) -> Self {
        Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                text: text.to_owned(),
                places,
            }),
        }
    }

    /// The name the text was parsed under, usually a file name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    pub fn text(&self) -> &str {
        &self.shared.text
    }

    /// Line and column of the value at a pointer or, where the text has none (a default), of the nearest value around.
    pub fn position(&self, pointer: &str) -> (usize, usize) {
        let place = self.place(pointer);
        (place.line, place.column)
    }

    fn place(&self, pointer: &str) -> Place {
        let mut pointer = pointer;
        loop {
            if let Some(place) = self.shared.places.values.get(pointer) {
                return *place;
            }
            match pointer.rsplit_once('/') {
                Some((parent, _)) => pointer = parent,
                None => return Place::START,
            }
        }
    }

    pub(crate) fn has(&self, pointer: &str) -> bool {
        self.shared.places.values.contains_key(pointer)
    }

    /// A finding at the value of a pointer.
    pub fn at_value(
        &self,
        severity: Severity,
        pointer: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        self.place(pointer).diagnostic(severity, pointer, message.into(), help)
    }

    /// A finding at the key of a pointer, where it has one: for what concerns a named thing as a whole.
    pub fn at_key(
        &self,
        severity: Severity,
        pointer: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostic {
        let place = self
            .shared
            .places
            .keys
            .get(pointer)
            .copied()
            .unwrap_or_else(|| self.place(pointer));
        place.diagnostic(severity, pointer, message.into(), help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_spoken() {
        let check = |pointer: &str, expected: &str| assert_eq!(spoken(pointer), expected);
        check("", "");
        check("/listeners/0/tls", "listeners[0].tls");
        check("/handlers/shop", "handlers.shop");
        check("/routes/3/filters/0/jwt", "routes[3].filters[0].jwt");
        check(&child("/env", "a/b~c"), "env.a/b~c");
    }
}
