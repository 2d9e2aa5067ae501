//! One statement on one connection: prepare, judge, bind, step, and collect within bounds.

use rusqlite::types::ValueRef;

use crate::connection::Connection;
use crate::error::SqlError;
use crate::guard::Author;
use crate::settings::DatabaseSettings;
use crate::value::{Rows, Statement, Value};

/// What a statement may return.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResultBounds {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

impl ResultBounds {
    pub(crate) fn of(settings: &DatabaseSettings) -> ResultBounds {
        ResultBounds {
            rows: settings.max_rows,
            bytes: settings.max_result_bytes,
        }
    }
}

/// A reader's answer.
#[derive(Debug)]
pub(crate) enum Read {
    Rows(Rows),
    /// The statement may change the database; nothing of it has run.
    NeedsWriter,
}

/// Runs a statement that only reads. EXPLAIN of a write reads.
pub(crate) fn read(connection: &Connection, statement: &Statement, bounds: ResultBounds) -> Result<Read, SqlError> {
    connection.theirs(Author::Application, |_| {
        let mut prepared = connection.prepare(Author::Application, &statement.sql)?;
        if !prepared.readonly() && prepared.is_explain() == 0 {
            return Ok(Read::NeedsWriter);
        }
        step(&mut prepared, statement, bounds).map(Read::Rows)
    })
}

/// Runs any statement, inside the writer's transaction.
pub(crate) fn write(connection: &Connection, statement: &Statement, bounds: ResultBounds) -> Result<Rows, SqlError> {
    connection.theirs(Author::Application, |raw| {
        let mut prepared = connection.prepare(Author::Application, &statement.sql)?;
        let total_before = raw.total_changes();
        let mut rows = step(&mut prepared, statement, bounds)?;
        // `changes` keeps the count of an earlier statement when this one is not an INSERT, UPDATE or DELETE.
        if raw.total_changes() != total_before {
            rows.changes = raw.changes();
            rows.last_insert_rowid = raw.last_insert_rowid();
        }
        Ok(rows)
    })
}

fn step(prepared: &mut rusqlite::Statement<'_>, statement: &Statement, bounds: ResultBounds) -> Result<Rows, SqlError> {
    let (columns, decltypes): (Vec<String>, Vec<Option<String>>) = prepared
        .columns()
        .map(|column| (column.name().to_owned(), column.decl_type().map(str::to_owned)))
        .unzip();
    let mut size_bytes = 0;
    let mut collected = Vec::new();
    let mut rows = if statement.named.is_empty() {
        let params = rusqlite::params_from_iter(&statement.params);
        prepared.query(params).map_err(SqlError::from_sqlite)?
    } else {
        bind(prepared, statement)?;
        prepared.raw_query()
    };
    while let Some(row) = rows.next().map_err(SqlError::from_sqlite)? {
        if collected.len() == bounds.rows {
            return Err(too_large(format!("the result has more than {} rows", bounds.rows)));
        }
        let mut values = Vec::with_capacity(columns.len());
        for (index, column) in columns.iter().enumerate() {
            // Measured before it is copied: a bound that copies first is not one.
            let value = row.get_ref(index).map_err(SqlError::from_sqlite)?;
            size_bytes += heap_bytes(&value) + size_of::<Value>();
            if size_bytes > bounds.bytes {
                return Err(too_large(format!("the result is larger than {} bytes", bounds.bytes)));
            }
            values.push(owned(value, column)?);
        }
        collected.push(values);
    }
    drop(rows);
    Ok(Rows {
        columns,
        decltypes,
        rows: collected,
        changes: 0,
        last_insert_rowid: 0,
    })
}

/// Binds every parameter: by its number when there are so many values, else by its name.
fn bind(prepared: &mut rusqlite::Statement<'_>, statement: &Statement) -> Result<(), SqlError> {
    let expected = prepared.parameter_count();
    let given = statement.params.len();
    if given > expected {
        return Err(SqlError::Parameters { expected, given });
    }
    for number in 1..=expected {
        let name = prepared.parameter_name(number).unwrap_or_default().to_owned();
        let value = match statement.params.get(number - 1) {
            Some(value) => value,
            None => find(&statement.named, &name).ok_or_else(|| match name.is_empty() {
                true => SqlError::Parameters { expected, given },
                false => SqlError::Parameter { name: name.clone() },
            })?,
        };
        prepared
            .raw_bind_parameter(number, value)
            .map_err(SqlError::from_sqlite)?;
    }
    Ok(())
}

/// The value for the parameter SQLite calls `name`, which begins with its sign.
fn find<'a>(named: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    let bare = name.get(1..)?;
    let found = named.iter().find(|(given, _)| given == name || given == bare);
    found.map(|(_, value)| value)
}

fn heap_bytes(value: &ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
    }
}

fn owned(value: ValueRef<'_>, column: &str) -> Result<Value, SqlError> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => {
                return Err(SqlError::NotUtf8 {
                    column: column.to_owned(),
                });
            }
        },
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}

fn too_large(message: String) -> SqlError {
    SqlError::TooLarge { message }
}
