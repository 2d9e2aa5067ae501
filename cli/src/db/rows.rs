//! Rows as a table, as CSV or as JSON.

use std::str::FromStr;

use selvedge_replication::dump::csv_text;
use selvedge_replication::{Rows, Value};
use serde_json::json;

/// A longer value is cut in a table; CSV and JSON have all of it.
const CELL: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Table,
    Csv,
    Json,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text {
            "table" => Ok(Mode::Table),
            "csv" => Ok(Mode::Csv),
            "json" => Ok(Mode::Json),
            other => Err(format!("there is no mode {other:?}; there are table, csv and json")),
        }
    }
}

/// The result of one statement, without a line end; empty when there is nothing to show.
pub(super) fn show(rows: &Rows, mode: Mode) -> String {
    match mode {
        Mode::Table if rows.columns.is_empty() => match rows.changes {
            0 => "done".to_owned(),
            1 => "done, 1 row changed".to_owned(),
            changes => format!("done, {changes} rows changed"),
        },
        Mode::Table => {
            let columns: Vec<&str> = rows.columns.iter().map(String::as_str).collect();
            let lines: Vec<_> = rows.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
            aligned(&columns, &lines)
        }
        Mode::Csv if rows.columns.is_empty() => String::new(),
        Mode::Csv => {
            let names = rows
                .columns
                .iter()
                .map(|name| csv_text(name))
                .collect::<Vec<_>>()
                .join(",");
            let lines = rows
                .rows
                .iter()
                .map(|row| row.iter().map(csv_value).collect::<Vec<_>>().join(","));
            std::iter::once(names).chain(lines).collect::<Vec<_>>().join("\n")
        }
        Mode::Json => {
            let objects = rows.rows.iter().map(|row| {
                let pairs = rows
                    .columns
                    .iter()
                    .zip(row)
                    .map(|(name, value)| (name.clone(), json!(value)));
                pairs.collect::<serde_json::Map<_, _>>()
            });
            let mut answer = json!({ "columns": rows.columns, "rows": objects.collect::<Vec<_>>() });
            if rows.columns.is_empty() {
                answer = json!({ "changes": rows.changes, "last_insert_rowid": rows.last_insert_rowid });
            }
            answer.to_string()
        }
    }
}

/// Columns of equal width under their names.
pub(crate) fn aligned(columns: &[&str], lines: &[Vec<String>]) -> String {
    let width_of = |text: &str| text.chars().count();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let cells = lines.iter().filter_map(|line| line.get(index));
            cells.map(|cell| width_of(cell)).max().unwrap_or(0).max(width_of(name))
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - width_of(cell))))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = vec![
        line(&mut columns.iter().copied()),
        line(&mut rule.iter().map(String::as_str)),
    ];
    text.extend(lines.iter().map(|cells| line(&mut cells.iter().map(String::as_str))));
    text.join("\n")
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => text
            .escape_debug()
            .to_string()
            .replace("\\'", "'")
            .replace("\\\"", "\""),
        Value::Blob(bytes) => hex(&bytes[..bytes.len().min(CELL)]),
    };
    match text.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn csv_value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => csv_text(text),
        Value::Blob(bytes) => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold("0x".to_owned(), |text, byte| text + &format!("{byte:02X}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_ways_to_show_the_same() {
        let rows = Rows {
            columns: vec!["id".into(), "a, b".into()],
            rows: vec![
                vec![Value::Integer(1), Value::Text("two\nlines".into())],
                vec![Value::Null, Value::Blob(vec![0, 255])],
                vec![Value::Real(1.0), Value::Text(String::new())],
            ],
            ..Rows::default()
        };
        let table = "id    a, b\n----  ----------\n1     two\\nlines\nNULL  0x00FF\n1.0";
        assert_eq!(show(&rows, Mode::Table), table);
        assert_eq!(
            show(&rows, Mode::Csv),
            "id,\"a, b\"\n1,\"two\nlines\"\n,0x00FF\n1.0,\"\""
        );
        let json: serde_json::Value = serde_json::from_str(&show(&rows, Mode::Json)).unwrap();
        assert_eq!(json["rows"][0]["a, b"], "two\nlines");
        assert_eq!(json["rows"][1]["id"], serde_json::Value::Null);
        let long = Value::Text("ä".repeat(500));
        assert_eq!(cell(&long).chars().count(), CELL + 1);
    }
}
