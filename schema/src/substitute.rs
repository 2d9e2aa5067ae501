//! `${NAME}`, `${NAME:-default}` and `${file:path}` inside scalar values.
//!
//! Done on the tree, after parsing: a value from outside can never add a key or change the shape of the configuration.
//! Keys and comments are left alone. `$${` stands for `${` itself; any other `$` is just a `$`.

use std::path::Path;

use crate::diagnostic::{Diagnostic, Severity};
use crate::source::child;
use crate::yaml::{Node, Value, resolve_plain};

/// What stands outside the configuration. Names that begin with `file:` are followed by a path, already resolved.
pub(crate) struct Environment<'a> {
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) base_dir: &'a Path,
}

pub(crate) fn substitute(
    node: &mut Node,
    pointer: &str,
    environment: &Environment<'_>,
    findings: &mut Vec<Diagnostic>,
) {
    match &mut node.value {
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                substitute(item, &child(pointer, &index.to_string()), environment, findings);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                substitute(&mut entry.node, &child(pointer, &entry.key), environment, findings);
            }
        }
        _ => substitute_scalar(node, pointer, environment, findings),
    }
}

fn substitute_scalar(node: &mut Node, pointer: &str, environment: &Environment<'_>, findings: &mut Vec<Diagnostic>) {
    let Some(scalar) = node.scalar.as_mut().filter(|scalar| scalar.text.contains("${")) else {
        return;
    };
    match expand(&scalar.text, environment) {
        Ok(text) => {
            node.value = if scalar.plain {
                resolve_plain(&text)
            } else {
                Value::String(text.clone())
            };
            scalar.text = text;
            scalar.substituted = true;
        }
        Err(refusal) => {
            findings.push(
                node.place
                    .diagnostic(Severity::Error, pointer, refusal.message, refusal.help),
            );
            node.value = Value::Reported;
        }
    }
}

struct Refusal {
    message: String,
    help: Option<String>,
}

fn refusal(message: impl Into<String>, help: impl Into<String>) -> Refusal {
    Refusal {
        message: message.into(),
        help: Some(help.into()),
    }
}

fn expand(text: &str, environment: &Environment<'_>) -> Result<String, Refusal> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let inside = &rest[start + 2..];
        let end = inside.find('}').ok_or_else(|| {
            refusal(
                "a substitution `${` without its `}`",
                "write `$${` for the two characters themselves",
            )
        })?;
        out.push_str(&value_of(&inside[..end], environment)?);
        rest = &inside[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(reference: &str, environment: &Environment<'_>) -> Result<String, Refusal> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let found = match name.strip_prefix("file:") {
        Some(path) if !path.is_empty() => {
            let path = environment.base_dir.join(path);
            (environment.lookup)(&format!("file:{}", path.display())).map(|text| text.trim_end().to_owned())
        }
        _ if is_variable_name(name) => (environment.lookup)(name),
        _ => {
            return Err(refusal(
                format!("`${{{name}}}` is not a variable"),
                "write `${NAME}`, `${NAME:-default}` or `${file:path}`; `$${` stands for `${` itself",
            ));
        }
    };
    match (found, default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(match name.strip_prefix("file:") {
            Some(path) => refusal(
                format!(
                    "the file `{}` cannot be read",
                    environment.base_dir.join(path).display()
                ),
                format!("create it, or give a default: `${{{name}:-…}}`"),
            ),
            None => refusal(
                format!("the environment variable `{name}` is not set"),
                format!("set it, or give a default: `${{{name}:-…}}`"),
            ),
        }),
    }
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand() {
        let lookup = |name: &str| match name {
            "NAME" => Some("shop".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${NAME}".to_owned()),
            "file:/etc/edge/token" => Some("s3cret\n".to_owned()),
            _ => None,
        };
        let environment = Environment {
            lookup: &lookup,
            base_dir: Path::new("/etc/edge"),
        };
        let check = |text: &str, expected: &str| {
            let got = expand(text, &environment).unwrap_or_else(|r| format!("error: {}", r.message));
            assert_eq!(got, expected, "{text}");
        };
        check("${NAME}", "shop");
        check("a-${NAME}.${NAME}-b", "a-shop.shop-b");
        check("${NAME:-other}", "shop");
        check("${MISSING:-other}", "other");
        check("${MISSING:-}", "");
        check("${EMPTY:-other}", "other");
        check("${EMPTY}", "");
        check("$${NAME}", "${NAME}");
        check("$$${NAME}", "$${NAME}");
        check("$NAME costs 5$", "$NAME costs 5$");
        check("${TRICKY}", "${NAME}");
        check("${file:token}", "s3cret");
        check("${file:/etc/edge/token}", "s3cret");
        check("${file:missing:-none}", "none");
        check("${file:missing}", "error: the file `/etc/edge/missing` cannot be read");
        check("${MISSING}", "error: the environment variable `MISSING` is not set");
        check("${NAME", "error: a substitution `${` without its `}`");
        check("${}", "error: `${}` is not a variable");
        check("${a b}", "error: `${a b}` is not a variable");
        check("${NAME-x}", "error: `${NAME-x}` is not a variable");
    }
}
