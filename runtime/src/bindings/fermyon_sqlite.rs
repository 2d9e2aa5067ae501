//! `fermyon:spin/sqlite@2.0.0`: SQL for guests built with any Spin SDK up to 5 and for our own.

use wasmtime::component::{HasData, Linker, Resource};

use super::sql::{Connection, conversions};
use crate::instance::GuestState;

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/deps/fermyon-spin-2.0.0.wit",
        inline: "package selvedge:fermyon-sqlite; world host { import fermyon:spin/sqlite@2.0.0; }",
        world: "selvedge:fermyon-sqlite/host",
        imports: { default: async | trappable },
        with: { "fermyon:spin/sqlite.connection": super::super::sql::Connection },
    });
}

use generated::fermyon::spin::sqlite::{self, Error, QueryResult, RowResult, Value};

struct Sqlite;

impl HasData for Sqlite {
    type Data<'a> = &'a mut GuestState;
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    sqlite::add_to_linker::<GuestState, Sqlite>(linker, |state| state)
}

conversions!(Value, Error, QueryResult, RowResult);

impl sqlite::Host for &mut GuestState {}

impl sqlite::HostConnection for &mut GuestState {
    async fn open(&mut self, name: String) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        Ok(self.open_database(&name)?.ok_or(Error::AccessDenied))
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<QueryResult, Error>> {
        let parameters = parameters.into_iter().map(Into::into).collect();
        let outcome = self.run_statement(&connection, &statement, parameters).await?;
        Ok(outcome.map(QueryResult::from).map_err(Error::from))
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}
