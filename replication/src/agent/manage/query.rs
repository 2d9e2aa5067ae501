//! Reading by hand: what there is in a database, from this agent's copy or from the primary.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};

use super::super::api::Api;
use super::super::primary_site::blocking;
use super::super::{Refusal, Site};
use crate::connection::Connection;
use crate::deadline::Cancellation;
use crate::execute::{self, Read, ResultBounds};
use crate::position::Position;
use crate::{DatabaseSettings, Rows, SqlError, Statement, pages};

/// How long a statement by hand may run. It has a connection of its own, so nobody waits for it.
const TIME_LIMIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    sql: String,
    #[serde(default)]
    params: Vec<crate::Value>,
    /// Read what the primary has now.
    #[serde(default)]
    strong: bool,
}

/// The answer, or that the statement may write: then it is for `execute`.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Answer {
    Rows { rows: Rows, position: Position },
    NeedsWriter { needs_writer: bool },
}

pub(super) async fn query(
    State(api): State<Api>,
    Path(database): Path<String>,
    Json(ask): Json<Ask>,
) -> Result<Json<Answer>, Refusal> {
    let statement = Statement::new(ask.sql, ask.params);
    match &*api.site {
        Site::Primary(site) => {
            let (rows, position) = site.database(&database).await?.read(statement).await?;
            Ok(Json(match rows {
                Some(rows) => Answer::Rows { rows, position },
                None => Answer::NeedsWriter { needs_writer: true },
            }))
        }
        Site::Replica(site) => {
            let path = match ask.strong {
                true => None,
                false => api.shared.board.get(&database).and_then(|status| status.path),
            };
            let Some(path) = path else {
                return match site.read_strong(&database, &statement).await {
                    Ok(mut executed) => Ok(Json(Answer::Rows {
                        rows: executed.rows.pop().unwrap_or_default(),
                        position: executed.position,
                    })),
                    Err(refusal) if refusal.code() == "malformed" => {
                        Ok(Json(Answer::NeedsWriter { needs_writer: true }))
                    }
                    Err(refusal) => Err(refusal),
                };
            };
            blocking(move || read_file(&path, &statement)).await.map(Json)
        }
    }
}

fn read_file(path: &std::path::Path, statement: &Statement) -> Result<Answer, Refusal> {
    let connection = Connection::open_reader(path).map_err(|error| Refusal::of(&error))?;
    let position = connection.ours(|raw| {
        raw.execute_batch("BEGIN")?;
        pages::position(raw, "main")
    });
    let (_, position) = position.map_err(SqlError::from_sqlite)?;
    connection.start_deadline(TIME_LIMIT, Cancellation::default());
    let bounds = ResultBounds::of(&DatabaseSettings::new("", path));
    Ok(match execute::read(&connection, statement, bounds)? {
        Read::Rows(rows) => Answer::Rows { rows, position },
        Read::NeedsWriter => Answer::NeedsWriter { needs_writer: true },
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only this table, with its indexes and triggers.
    table: Option<String>,
}

/// Something the schema has.
#[derive(Serialize)]
pub(super) struct Item {
    r#type: crate::Value,
    name: crate::Value,
    table: crate::Value,
    sql: crate::Value,
}

/// Tables, views, indexes and triggers as they were written.
pub(super) async fn schema(
    State(api): State<Api>,
    Path(database): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Vec<Item>>, Refusal> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema
               WHERE sql IS NOT NULL AND substr(lower(tbl_name), 1, 9) <> '_selvedge' AND substr(name, 1, 7) <> 'sqlite_'
               AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow')
               AND (?1 IS NULL OR lower(tbl_name) = lower(?1))
               ORDER BY tbl_name, type <> 'table', name";
    let table = which.table.map_or(crate::Value::Null, crate::Value::Text);
    let open = api.primary()?.database(&database).await?;
    let (rows, _) = open.read(Statement::new(sql, vec![table])).await?;
    let items = rows.unwrap_or_default().rows.into_iter().filter_map(|row| {
        let [kind, name, table, sql] = <[crate::Value; 4]>::try_from(row).ok()?;
        Some(Item {
            r#type: kind,
            name,
            table,
            sql,
        })
    });
    Ok(Json(items.collect()))
}
