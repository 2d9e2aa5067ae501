//! The pool of one PostgreSQL, at the primary.
//!
//! Connections are made when they are needed and made anew when they are lost, so an agent starts and goes on without
//! the server. A statement runs to its end also when nobody waits for it any more: a connection whose statement was
//! abandoned half-way would make the next one wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Manager, ManagerConfig, Object, PoolError, RecyclingMethod, Runtime, TimeoutType};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls};

use super::error::{PostgresError, PostgresOpenError, with_causes};
use super::settings::PostgresSettings;
use super::value::{Column, RowSet, Value};
use super::{column, parameter, session, tls};
use crate::bounds;

/// Undoes what a statement may have left behind, in one message: a transaction, temporary tables, settings, locks, a
/// changed role. As `DISCARD ALL`, which a message with more statements may not hold. Without a transaction the ROLLBACK
/// is only a warning.
const CLEAN: &str = "ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
                     SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES";

/// What a proxy asks of a PostgreSQL.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) statement: String,
    pub(crate) parameters: Vec<Value>,
    pub(crate) wanted: Wanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    Rows,
    Count,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Rows(RowSet),
    /// Rows the statement changed or returned.
    Count(u64),
}

/// Every PostgreSQL of a primary, by name.
#[derive(Default)]
pub(crate) struct Pools(BTreeMap<String, Arc<Pool>>);

/// Connections that exist, those that run a statement, and statements that wait for one.
#[derive(Serialize)]
pub(crate) struct PoolFigures {
    connections: usize,
    in_use: usize,
    waiting: usize,
}

pub(crate) struct Pool {
    settings: PostgresSettings,
    connections: deadpool_postgres::Pool,
}

impl Pools {
    /// Fails with the name of the one that cannot be used.
    pub(crate) fn open(settings: &[PostgresSettings]) -> Result<Pools, (String, PostgresOpenError)> {
        let open = |settings: &PostgresSettings| match Pool::open(settings.clone()) {
            Ok(pool) => Ok((settings.name.clone(), Arc::new(pool))),
            Err(error) => Err((settings.name.clone(), error)),
        };
        settings.iter().map(open).collect::<Result<_, _>>().map(Pools)
    }

    /// What each pool does now.
    pub(crate) fn figures(&self) -> BTreeMap<String, PoolFigures> {
        let figures = |(name, pool): (&String, &Arc<Pool>)| {
            let status = pool.connections.status();
            let figures = PoolFigures {
                connections: status.size,
                in_use: status.size.saturating_sub(status.available),
                waiting: status.waiting,
            };
            (name.clone(), figures)
        };
        self.0.iter().map(figures).collect()
    }

    pub(crate) async fn run(&self, name: &str, request: Request) -> Result<Answer, PostgresError> {
        match self.0.get(name) {
            Some(pool) => Arc::clone(pool).run(request).await,
            None => Err(PostgresError::Unknown { name: name.to_owned() }),
        }
    }
}

impl Pool {
    pub(crate) fn open(settings: PostgresSettings) -> Result<Pool, PostgresOpenError> {
        let connections = deadpool_postgres::Pool::builder(manager(&settings)?)
            .max_size(settings.pool)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(bounds::POSTGRES_WAIT))
            .create_timeout(Some(bounds::POSTGRES_CONNECT))
            .recycle_timeout(Some(bounds::POSTGRES_CONNECT))
            .build()
            .map_err(PostgresOpenError::Pool)?;
        Ok(Pool { settings, connections })
    }

    /// Runs the statement on a connection. Dropped, it runs on.
    async fn run(self: Arc<Self>, request: Request) -> Result<Answer, PostgresError> {
        if let Some(message) = session::refusal(&request.statement) {
            return Err(PostgresError::Refused { message });
        }
        if request.statement.len() > bounds::SQL_BYTES as usize {
            let message = format!("the statement is longer than {} bytes", bounds::SQL_BYTES);
            return Err(PostgresError::Refused { message });
        }
        if self.connections.status().waiting >= bounds::POSTGRES_WAITING {
            return Err(self.busy());
        }
        match tokio::spawn(async move { self.run_to_its_end(request).await }).await {
            Ok(outcome) => outcome,
            Err(error) => Err(PostgresError::Lost {
                message: error.to_string(),
            }),
        }
    }

    async fn run_to_its_end(&self, request: Request) -> Result<Answer, PostgresError> {
        let client = self.connections.get().await.map_err(|error| self.unavailable(&error))?;
        // The server ends a statement at its limit; this is for one that cannot be heard.
        let limit = self.settings.statement_timeout + bounds::POSTGRES_GRACE;
        let outcome = tokio::time::timeout(limit, execute(&client, &request)).await;
        let silent = PostgresError::Silent {
            limit_ms: limit.as_millis() as u64,
        };
        let outcome = outcome.unwrap_or(Err(silent));
        if matches!(
            outcome,
            Err(PostgresError::Silent { .. } | PostgresError::Lost { .. } | PostgresError::TooLarge { .. })
        ) {
            // Rows may still be on their way: the connection is closed, not given to the next one.
            drop(Object::take(client));
        }
        outcome
    }

    fn unavailable(&self, error: &PoolError) -> PostgresError {
        let message = match error {
            PoolError::Timeout(TimeoutType::Wait) => return self.busy(),
            PoolError::Timeout(_) => format!("there is no answer within {:?}", bounds::POSTGRES_CONNECT),
            PoolError::Backend(error) => with_causes(error),
            other => other.to_string(),
        };
        PostgresError::Unreachable {
            name: self.settings.name.clone(),
            message,
        }
    }

    fn busy(&self) -> PostgresError {
        PostgresError::Busy {
            name: self.settings.name.clone(),
            connections: self.settings.pool,
        }
    }
}

/// What makes connections as the settings say.
pub(super) fn manager(settings: &PostgresSettings) -> Result<Manager, PostgresOpenError> {
    let mut config: Config = settings.url.parse().map_err(PostgresOpenError::Url)?;
    if config.get_hosts().is_empty() {
        return Err(PostgresOpenError::NoHost);
    }
    if config.get_application_name().is_none() {
        config.application_name("selvedge");
    }
    let limit = format!("-c statement_timeout={}", settings.statement_timeout.as_millis().max(1));
    let options = match config.get_options() {
        Some(options) => format!("{options} {limit}"),
        None => limit,
    };
    config.options(options);
    config.connect_timeout(bounds::POSTGRES_CONNECT);
    config.tcp_user_timeout(settings.statement_timeout + bounds::POSTGRES_GRACE);
    config.keepalives_idle(Duration::from_secs(60));
    let pooling = ManagerConfig {
        recycling_method: RecyclingMethod::Custom(CLEAN.to_owned()),
    };
    Ok(match config.get_ssl_mode() {
        SslMode::Disable => Manager::from_config(config, NoTls, pooling),
        _ => Manager::from_config(config, tls::connector(settings.ca.as_deref())?, pooling),
    })
}

async fn execute(client: &Client, request: &Request) -> Result<Answer, PostgresError> {
    let failed = |error: tokio_postgres::Error| PostgresError::of_statement(&error);
    let statement = client.prepare(&request.statement).await.map_err(failed)?;
    let types = statement.params();
    if types.len() != request.parameters.len() {
        return Err(PostgresError::Parameters {
            expected: types.len(),
            given: request.parameters.len(),
        });
    }
    let written = types.iter().zip(&request.parameters).enumerate();
    let parameters = written
        .map(|(index, (kind, value))| {
            parameter::written(value, kind).map_err(|message| PostgresError::Parameter {
                position: index + 1,
                message,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if request.wanted == Wanted::Count {
        let count = client.execute_raw(&statement, &parameters).await.map_err(failed)?;
        return Ok(Answer::Count(count));
    }
    let columns: Vec<Column> = statement.columns().iter().map(column::described).collect();
    let stream = client.query_raw(&statement, &parameters).await.map_err(failed)?;
    let mut stream = std::pin::pin!(stream);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = stream.try_next().await.map_err(failed)? {
        let values = column::values(&row)?;
        bytes += values.iter().map(Value::size_bytes).sum::<usize>();
        rows.push(values);
        let message = match () {
            () if rows.len() > bounds::POSTGRES_ROWS => format!("more than {} rows", bounds::POSTGRES_ROWS),
            () if bytes > bounds::POSTGRES_RESULT_BYTES => format!("more than {} bytes", bounds::POSTGRES_RESULT_BYTES),
            () => continue,
        };
        return Err(PostgresError::TooLarge {
            message: format!("the result has {message}; ask for pages with LIMIT"),
        });
    }
    Ok(Answer::Rows(RowSet { columns, rows }))
}
