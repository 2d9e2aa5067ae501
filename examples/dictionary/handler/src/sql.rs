//! The dictionary's database, through the `DB` binding.

use crate::fermyon::spin::sqlite::{Connection, RowResult, Value};

pub use crate::fermyon::spin::sqlite::Error;

/// A row whose columns are taken in order.
pub struct Row(std::vec::IntoIter<Value>);

pub fn query(sql: &str, parameters: &[Value]) -> Result<Vec<Row>, Error> {
    let result = Connection::open("DB")?.execute(sql, parameters)?;
    Ok(result
        .rows
        .into_iter()
        .map(|RowResult { values }| Row(values.into_iter()))
        .collect())
}

/// The first column of the first row.
pub fn number(sql: &str, parameters: &[Value]) -> Result<i64, Error> {
    Ok(query(sql, parameters)?
        .into_iter()
        .next()
        .map_or(0, |mut row| row.number()))
}

pub fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub fn integer(number: impl Into<i64>) -> Value {
    Value::Integer(number.into())
}

impl Row {
    pub fn text(&mut self) -> String {
        match self.0.next() {
            Some(Value::Text(text)) => text,
            other => unreachable!("the statement selects text, not {other:?}"),
        }
    }

    pub fn number(&mut self) -> i64 {
        match self.0.next() {
            Some(Value::Integer(number)) => number,
            other => unreachable!("the statement selects a number, not {other:?}"),
        }
    }
}

/// What the log or the page says of it.
pub fn explain(error: &Error) -> &str {
    match error {
        Error::NoSuchDatabase | Error::AccessDenied => "no database is bound as DB",
        Error::InvalidConnection => "the connection is not valid",
        Error::DatabaseFull => "the disk is full",
        Error::Io(message) => message,
    }
}
