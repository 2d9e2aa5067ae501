//! What the three PostgreSQL interfaces of Spin have in common: the resource, running a statement, values and errors.
//!
//! What a guest calls an address is the name of its binding: addresses and passwords stay with the primary. A connection
//! of the guest is no connection to the server: each statement runs on one of the primary's pool.

use std::sync::Arc;

use selvedge_replication::postgres::{Postgres, PostgresError, RowSet, Value};
use wasmtime::component::Resource;

use crate::instance::GuestState;

/// An open `connection` resource: the right to use one PostgreSQL.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Connection {
    postgres: Arc<Postgres>,
}

/// The error of each interface has these cases.
pub(super) enum Refused {
    ConnectionFailed(String),
    BadParameter(String),
    QueryFailed(PostgresError),
    ValueConversionFailed(String),
    Other(String),
}

impl GuestState {
    /// Refused when nothing is bound under `address`.
    pub(super) fn open_postgres(&mut self, address: &str) -> wasmtime::Result<Result<Resource<Connection>, Refused>> {
        let Some(postgres) = self.capabilities.postgres(address) else {
            let message = "no PostgreSQL is bound under this name; open the name of a binding, not an address";
            return Ok(Err(Refused::ConnectionFailed(message.to_owned())));
        };
        Ok(Ok(self.table.push(Connection { postgres })?))
    }

    pub(super) async fn query_postgres(
        &mut self,
        connection: &Resource<Connection>,
        statement: &str,
        parameters: Result<Vec<Value>, Refused>,
    ) -> wasmtime::Result<Result<RowSet, Refused>> {
        let postgres = Arc::clone(&self.table.get(connection)?.postgres);
        Ok(match parameters {
            Ok(parameters) => postgres.query(statement, parameters).await.map_err(Refused::from),
            Err(refused) => Err(refused),
        })
    }

    pub(super) async fn execute_postgres(
        &mut self,
        connection: &Resource<Connection>,
        statement: &str,
        parameters: Result<Vec<Value>, Refused>,
    ) -> wasmtime::Result<Result<u64, Refused>> {
        let postgres = Arc::clone(&self.table.get(connection)?.postgres);
        Ok(match parameters {
            Ok(parameters) => postgres.execute(statement, parameters).await.map_err(Refused::from),
            Err(refused) => Err(refused),
        })
    }
}

/// The code comes first where it is ours, so that a guest can tell errors apart: `postgres_busy: all 8 connections …`.
impl From<PostgresError> for Refused {
    fn from(error: PostgresError) -> Refused {
        let text = format!("{}: {error}", error.code());
        match error {
            PostgresError::Unknown { .. }
            | PostgresError::Unreachable { .. }
            | PostgresError::Busy { .. }
            | PostgresError::Agent { .. } => Refused::ConnectionFailed(text),
            PostgresError::Parameter { .. } | PostgresError::Parameters { .. } => Refused::BadParameter(text),
            PostgresError::Value { .. } => Refused::ValueConversionFailed(text),
            PostgresError::Database(_) | PostgresError::Refused { .. } => Refused::QueryFailed(error),
            PostgresError::Lost { .. } | PostgresError::Silent { .. } | PostgresError::TooLarge { .. } => {
                Refused::Other(text)
            }
        }
    }
}

/// What PostgreSQL said, or we in its place, in one line.
pub(super) fn query_failed(error: &PostgresError) -> String {
    match error {
        PostgresError::Database(error) => error.to_string(),
        other => format!("{}: {other}", other.code()),
    }
}

/// Conversions for one interface's generated types, of what all three have.
macro_rules! conversions {
    ($parameter:ident, $value:ident, $row_set:ident, $column:ident, $error:ident, $query_failed:expr) => {
        impl From<super::postgres::Refused> for $error {
            fn from(refused: super::postgres::Refused) -> Self {
                match refused {
                    super::postgres::Refused::ConnectionFailed(text) => Self::ConnectionFailed(text),
                    super::postgres::Refused::BadParameter(text) => Self::BadParameter(text),
                    super::postgres::Refused::QueryFailed(error) => Self::QueryFailed($query_failed(error)),
                    super::postgres::Refused::ValueConversionFailed(text) => Self::ValueConversionFailed(text),
                    super::postgres::Refused::Other(text) => Self::Other(text),
                }
            }
        }

        impl From<selvedge_replication::postgres::RowSet> for $row_set {
            fn from(set: selvedge_replication::postgres::RowSet) -> Self {
                let column = |column: selvedge_replication::postgres::Column| $column {
                    name: column.name,
                    data_type: column.data_type.into(),
                };
                let row = |values: Vec<selvedge_replication::postgres::Value>| -> Vec<$value> {
                    values.into_iter().map(Into::into).collect()
                };
                Self {
                    columns: set.columns.into_iter().map(column).collect(),
                    rows: set.rows.into_iter().map(row).collect(),
                }
            }
        }

        /// Refuses the whole list for its first value that PostgreSQL does not have.
        fn parameters(
            parameters: Vec<$parameter>,
        ) -> Result<Vec<selvedge_replication::postgres::Value>, super::postgres::Refused> {
            parameters.into_iter().map(parameter).collect()
        }

        impl GuestConnection for &mut GuestState {
            async fn open(&mut self, address: String) -> wasmtime::Result<Result<Resource<Connection>, $error>> {
                Ok(self.open_postgres(&address)?.map_err($error::from))
            }

            async fn query(
                &mut self,
                connection: Resource<Connection>,
                statement: String,
                values: Vec<$parameter>,
            ) -> wasmtime::Result<Result<$row_set, $error>> {
                let outcome = self
                    .query_postgres(&connection, &statement, parameters(values))
                    .await?;
                Ok(outcome.map($row_set::from).map_err($error::from))
            }

            async fn execute(
                &mut self,
                connection: Resource<Connection>,
                statement: String,
                values: Vec<$parameter>,
            ) -> wasmtime::Result<Result<u64, $error>> {
                let outcome = self
                    .execute_postgres(&connection, &statement, parameters(values))
                    .await?;
                Ok(outcome.map_err($error::from))
            }

            async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
                self.table.delete(connection)?;
                Ok(())
            }
        }
    };
}
pub(super) use conversions;
