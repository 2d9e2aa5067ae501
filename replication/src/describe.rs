//! What a statement is, without running it: its parameters, its columns, and whether it writes.

use crate::connection::Connection;
use crate::error::SqlError;
use crate::guard::Author;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// In the order of their numbers, with the sign; `None` for `?`.
    pub parameters: Vec<Option<String>>,
    pub columns: Vec<DescribedColumn>,
    pub is_explain: bool,
    /// SQLite's judgement.
    pub is_readonly: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedColumn {
    pub name: String,
    /// As its table declares it; `None` when it is computed.
    pub decltype: Option<String>,
}

pub(crate) fn describe(connection: &Connection, sql: &str) -> Result<Description, SqlError> {
    connection.theirs(Author::Application, |_| {
        let prepared = connection.prepare(Author::Application, sql)?;
        let column = |column: rusqlite::Column<'_>| DescribedColumn {
            name: column.name().to_owned(),
            decltype: column.decl_type().map(str::to_owned),
        };
        let parameter = |number| prepared.parameter_name(number).map(str::to_owned);
        Ok(Description {
            parameters: (1..=prepared.parameter_count()).map(parameter).collect(),
            columns: prepared.columns().map(column).collect(),
            is_explain: prepared.is_explain() != 0,
            is_readonly: prepared.readonly(),
        })
    })
}
