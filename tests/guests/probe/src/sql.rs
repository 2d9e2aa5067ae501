//! SQL through `fermyon:spin/sqlite@2.0.0`, results as JSON.
//!
//! A parameter is text unless it says otherwise: `i:5`, `f:1.5`, `x:00ff` (a blob in hexadecimal), `null:`.

use crate::bindings::fermyon::spin::sqlite::{Connection, Error, QueryResult, Value};
use crate::{Reply, Target, json};

/// `/sql?db=&q=&p=…`: one statement.
pub fn query(target: &Target) -> Reply {
    answer(run(target, |connection| {
        let parameters: Vec<Value> = target.all("p").map(parameter).collect();
        connection.execute(target.get("q").unwrap_or("SELECT 1"), &parameters).map(|result| rows(&result))
    }))
}

/// `/sql-write?db=&note=`: adds a note and answers how many there are.
pub fn write(target: &Target) -> Reply {
    answer(run(target, |connection| {
        connection.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, note TEXT NOT NULL)", &[])?;
        let note = Value::Text(target.get("note").unwrap_or("a note").to_owned());
        connection.execute("INSERT INTO notes (note) VALUES (?1)", &[note])?;
        connection.execute("SELECT count(*) AS notes FROM notes", &[]).map(|result| rows(&result))
    }))
}

/// `/sql-exec?db=` with SQL as the body: statements, each ended by a `;` at a line's end, on one connection.
///
/// Answers an array with one result a statement; a failed statement does not keep the later ones from running.
pub fn script(target: &Target, sql: &[u8]) -> Reply {
    let sql = String::from_utf8_lossy(sql);
    answer(run(target, |connection| {
        let statements = sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty());
        Ok(json::array(statements.map(|statement| match connection.execute(statement, &[]) {
            Ok(result) => rows(&result),
            Err(error) => error_json(&error),
        })))
    }))
}

/// Which render of `key` this is, counted in the database and so across instances: 1, 2, …
pub fn count_render(target: &Target) -> Result<i64, Reply> {
    run(target, |connection| {
        connection.execute("CREATE TABLE IF NOT EXISTS renders (key TEXT PRIMARY KEY, n INTEGER NOT NULL)", &[])?;
        let key = Value::Text(target.get("key").unwrap_or("default").to_owned());
        let counted = connection.execute(
            "INSERT INTO renders VALUES (?1, 1) ON CONFLICT DO UPDATE SET n = n + 1 RETURNING n",
            &[key],
        )?;
        match counted.rows.first().and_then(|row| row.values.first()) {
            Some(Value::Integer(render)) => Ok(*render),
            _ => Err(Error::Io("the count is not an integer".to_owned())),
        }
    })
    .map_err(|error| answer(Err(error)))
}

fn run<T>(target: &Target, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
    work(&Connection::open(target.get("db").unwrap_or("default"))?)
}

fn answer(outcome: Result<String, Error>) -> Reply {
    match outcome {
        Ok(body) => Reply::json(200, body),
        Err(error) => Reply::json(500, error_json(&error)),
    }
}

fn parameter(text: &str) -> Value {
    match text.split_once(':') {
        Some(("i", number)) => Value::Integer(number.parse().unwrap_or_default()),
        Some(("f", number)) => Value::Real(number.parse().unwrap_or_default()),
        Some(("x", hex)) => Value::Blob(unhex(hex)),
        Some(("null", _)) => Value::Null,
        _ => Value::Text(text.to_owned()),
    }
}

fn rows(result: &QueryResult) -> String {
    let rows = result.rows.iter().map(|row| json::array(row.values.iter().map(value_json)));
    rows_json(&result.columns, rows)
}

fn value_json(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => real_json(*number),
        Value::Text(text) => json::string(text),
        Value::Blob(bytes) => blob_json(bytes),
        Value::Null => "null".to_owned(),
    }
}

fn error_json(error: &Error) -> String {
    let (code, message) = match error {
        Error::NoSuchDatabase => ("no-such-database", ""),
        Error::AccessDenied => ("access-denied", ""),
        Error::InvalidConnection => ("invalid-connection", ""),
        Error::DatabaseFull => ("database-full", ""),
        Error::Io(message) => ("io", message.as_str()),
    };
    problem_json(code, message)
}

/// The JSON of a result, of its values and of a failure; `spin:sqlite` 3 in the 0.3 probe writes the same.
pub fn rows_json(columns: &[String], rows: impl IntoIterator<Item = String>) -> String {
    let columns = json::array(columns.iter().map(|column| json::string(column)));
    format!("{{\"columns\":{columns},\"rows\":{}}}", json::array(rows))
}

pub fn real_json(number: f64) -> String {
    if number.is_finite() { format!("{number:?}") } else { "null".to_owned() }
}

pub fn text_json(text: &str) -> String {
    json::string(text)
}

pub fn blob_json(bytes: &[u8]) -> String {
    format!("{{\"blob\":\"{}\"}}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

pub fn row_json(values: impl IntoIterator<Item = String>) -> String {
    json::array(values)
}

pub fn problem_json(code: &str, message: &str) -> String {
    format!("{{\"error\":{},\"message\":{}}}", json::string(code), json::string(message))
}

/// The bytes of pairs of hexadecimal digits; a broken pair is zero.
pub fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0))
        .collect()
}
