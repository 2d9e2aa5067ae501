//! What crosses the boundary: statements with bound parameters go in, rows come out.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

/// A value of one of SQLite's five storage classes (sqlite.org/datatype3.html).
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    /// SQLite stores NaN as NULL.
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// One SQL statement and the values of its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    pub sql: String,
    /// Of `?1`, `?2`, … in order.
    pub params: Vec<Value>,
    /// Of `:name`, `@name` and `$name`, with or without the sign. A name that is not in the statement is passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<(String, Value)>,
}

/// The whole result of one statement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    pub columns: Vec<String>,
    /// For each column the type its table declares; `None` when it is computed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decltypes: Vec<Option<String>>,
    /// Each row has as many values as there are columns.
    pub rows: Vec<Vec<Value>>,
    /// Rows inserted, updated or deleted by this statement itself; without those of triggers and foreign keys.
    pub changes: u64,
    /// The rowid of the last row this statement inserted; 0 when it changed nothing.
    pub last_insert_rowid: i64,
}

impl Statement {
    pub fn new(sql: impl Into<String>, params: Vec<Value>) -> Statement {
        Statement {
            sql: sql.into(),
            params,
            named: Vec::new(),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Integer(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}
