//! What the two sqlite interfaces of Spin have in common: the resource, running a statement, values and errors.
//!
//! The guest's call looks synchronous to it; here it waits without holding a thread. Which connection runs a statement is
//! the database's decision (see `selvedge_replication`).

use std::sync::Arc;

use selvedge_replication::{Database, Rows, SqlError, Value};

/// An open `connection` resource: the right to use one database, and what its last statements did.
pub(super) struct OpenDatabase {
    database: Arc<Database>,
    pub(super) last_insert_rowid: i64,
    pub(super) changes: u64,
}

/// What a guest is told of a statement that failed.
pub(super) enum Refused {
    DatabaseFull,
    /// The code comes first, so that a guest can tell errors apart: `constraint: UNIQUE constraint failed: …`.
    Io(String),
}

impl OpenDatabase {
    pub(super) fn new(database: Arc<Database>) -> OpenDatabase {
        OpenDatabase {
            database,
            last_insert_rowid: 0,
            changes: 0,
        }
    }

    pub(super) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// Notes what a statement did. One that changed nothing leaves both figures as they are, as SQLite does.
    pub(super) fn note(&mut self, rows: &Rows) {
        if rows.changes > 0 {
            self.changes = rows.changes;
        }
        if rows.last_insert_rowid != 0 {
            self.last_insert_rowid = rows.last_insert_rowid;
        }
    }
}

pub(super) async fn run(database: &Database, statement: &str, parameters: Vec<Value>) -> Result<Rows, Refused> {
    database
        .query(statement, parameters)
        .await
        .map_err(|error: SqlError| match error.code() {
            "disk_full" => Refused::DatabaseFull,
            code => Refused::Io(format!("{code}: {error}")),
        })
}

/// Conversions for one interface's generated types, which are alike but not the same.
macro_rules! conversions {
    ($value:ident, $error:ident, $result:ident, $row:ident) => {
        impl From<$value> for selvedge_replication::Value {
            fn from(value: $value) -> Self {
                match value {
                    $value::Null => Self::Null,
                    $value::Integer(number) => Self::Integer(number),
                    $value::Real(number) => Self::Real(number),
                    $value::Text(text) => Self::Text(text),
                    $value::Blob(bytes) => Self::Blob(bytes),
                }
            }
        }

        impl From<selvedge_replication::Value> for $value {
            fn from(value: selvedge_replication::Value) -> Self {
                match value {
                    selvedge_replication::Value::Null => Self::Null,
                    selvedge_replication::Value::Integer(number) => Self::Integer(number),
                    selvedge_replication::Value::Real(number) => Self::Real(number),
                    selvedge_replication::Value::Text(text) => Self::Text(text),
                    selvedge_replication::Value::Blob(bytes) => Self::Blob(bytes),
                }
            }
        }

        impl From<super::sql::Refused> for $error {
            fn from(refused: super::sql::Refused) -> Self {
                match refused {
                    super::sql::Refused::DatabaseFull => Self::DatabaseFull,
                    super::sql::Refused::Io(text) => Self::Io(text),
                }
            }
        }

        impl From<selvedge_replication::Rows> for $result {
            fn from(rows: selvedge_replication::Rows) -> Self {
                let row = |values: Vec<selvedge_replication::Value>| $row {
                    values: values.into_iter().map(Into::into).collect(),
                };
                Self {
                    columns: rows.columns,
                    rows: rows.rows.into_iter().map(row).collect(),
                }
            }
        }
    };
}
pub(super) use conversions;
