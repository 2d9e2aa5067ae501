//! `fermyon:spin/sqlite@2.0.0`: SQL for guests built with any Spin SDK up to 5 and for our own.
//!
//! The guest's call looks synchronous to it; here it waits without holding a thread. Which connection runs a statement is
//! the database's decision (see `selvedge_replication`).

use std::sync::Arc;

use selvedge_replication::{Database, SqlError, Value as SqlValue};
use wasmtime::component::{HasData, Linker, Resource};

use crate::instance::GuestState;

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/deps/fermyon-spin-2.0.0.wit",
        inline: "package selvedge:fermyon-sqlite; world host { import fermyon:spin/sqlite@2.0.0; }",
        world: "selvedge:fermyon-sqlite/host",
        imports: { default: async | trappable },
        with: { "fermyon:spin/sqlite.connection": super::Connection },
    });
}

use generated::fermyon::spin::sqlite::{self, Error, QueryResult, RowResult, Value};

/// An open `connection` resource: the right to use one database.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Connection(Arc<Database>);

struct Sqlite;

impl HasData for Sqlite {
    type Data<'a> = &'a mut GuestState;
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    sqlite::add_to_linker::<GuestState, Sqlite>(linker, |state| state)
}

impl sqlite::Host for &mut GuestState {}

impl sqlite::HostConnection for &mut GuestState {
    async fn open(&mut self, name: String) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        match self.capabilities.database(&name) {
            Some(database) => Ok(Ok(self.table.push(Connection(database))?)),
            None => Ok(Err(Error::AccessDenied)),
        }
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<QueryResult, Error>> {
        let database = Arc::clone(&self.table.get(&connection)?.0);
        let parameters = parameters.into_iter().map(SqlValue::from).collect();
        Ok(match database.query(&statement, parameters).await {
            Ok(rows) => {
                let row = |values: Vec<SqlValue>| RowResult {
                    values: values.into_iter().map(Value::from).collect(),
                };
                Ok(QueryResult {
                    columns: rows.columns,
                    rows: rows.rows.into_iter().map(row).collect(),
                })
            }
            Err(error) => Err(guest_error(&error)),
        })
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

/// The code comes first, so that a guest can tell errors apart: `constraint: UNIQUE constraint failed: …`.
fn guest_error(error: &SqlError) -> Error {
    match error.code() {
        "disk_full" => Error::DatabaseFull,
        code => Error::Io(format!("{code}: {error}")),
    }
}

impl From<Value> for SqlValue {
    fn from(value: Value) -> SqlValue {
        match value {
            Value::Null => SqlValue::Null,
            Value::Integer(number) => SqlValue::Integer(number),
            Value::Real(number) => SqlValue::Real(number),
            Value::Text(text) => SqlValue::Text(text),
            Value::Blob(bytes) => SqlValue::Blob(bytes),
        }
    }
}

impl From<SqlValue> for Value {
    fn from(value: SqlValue) -> Value {
        match value {
            SqlValue::Null => Value::Null,
            SqlValue::Integer(number) => Value::Integer(number),
            SqlValue::Real(number) => Value::Real(number),
            SqlValue::Text(text) => Value::Text(text),
            SqlValue::Blob(bytes) => Value::Blob(bytes),
        }
    }
}
