//! An application for Spin, as its SDK's documentation has it, unchanged: `spin:sqlite` 3 behind `wasi:http` 0.2.

use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::http_component;
use spin_sdk::sqlite3::{Connection, Value};

#[http_component]
fn handle(request: Request) -> anyhow::Result<impl IntoResponse> {
    let connection = Connection::open_default()?;
    connection.execute("CREATE TABLE IF NOT EXISTS todos (id INTEGER PRIMARY KEY, text TEXT NOT NULL, done REAL)", &[])?;
    let text = request.query().trim_start_matches("todo=").to_owned();
    connection.execute("INSERT INTO todos (text, done) VALUES (?, ?)", &[Value::Text(text), Value::Real(0.5)])?;
    let (rowid, changes) = (connection.last_insert_rowid(), connection.changes());
    let todos = connection.execute("SELECT text, done, NULL AS empty FROM todos ORDER BY id", &[])?;
    let lines: Vec<String> = todos
        .rows()
        .map(|row| format!("{} {}", row.get::<&str>("text").unwrap_or("?"), row.get::<f64>("done").unwrap_or(-1.0)))
        .collect();
    Ok(Response::new(200, format!("rowid {rowid}, changes {changes}: {}\n", lines.join(", "))))
}
