//! What the two sqlite interfaces of Spin have in common: the resource, running a statement, values and errors.
//!
//! The guest's call looks synchronous to it; here it waits without holding a thread. Which connection runs a statement is
//! the database's decision (see `selvedge_replication`).

use std::sync::Arc;

use selvedge_replication::{Database, Rows, Statement, Value};
use wasmtime::component::Resource;

use crate::instance::GuestState;

/// An open `connection` resource: the right to use one database, and what its last statements did.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Connection {
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

impl GuestState {
    /// `None` when nothing is bound under `name`.
    pub(super) fn open_database(&mut self, name: &str) -> wasmtime::Result<Option<Resource<Connection>>> {
        let Some(database) = self.capabilities.database(name) else {
            return Ok(None);
        };
        let connection = Connection {
            database,
            last_insert_rowid: 0,
            changes: 0,
        };
        Ok(Some(self.table.push(connection)?))
    }

    /// A statement that changes nothing leaves rowid and count as they are, as SQLite does.
    pub(super) async fn run_statement(
        &mut self,
        connection: &Resource<Connection>,
        statement: &str,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<Rows, Refused>> {
        let database = Arc::clone(&self.table.get(connection)?.database);
        let session = self.control.session();
        let statement = Statement::new(statement, parameters);
        let rows = match database.query_in(&session, statement).await {
            Ok(rows) => rows,
            Err(error) => {
                return Ok(Err(match error.code() {
                    "disk_full" => Refused::DatabaseFull,
                    code => Refused::Io(format!("{code}: {error}")),
                }));
            }
        };
        let connection = self.table.get_mut(connection)?;
        if rows.changes > 0 {
            connection.changes = rows.changes;
        }
        if rows.last_insert_rowid != 0 {
            connection.last_insert_rowid = rows.last_insert_rowid;
        }
        Ok(Ok(rows))
    }
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
