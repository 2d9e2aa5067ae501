//! The proxy's side: a PostgreSQL as a handler's binding sees it, through the agent of this machine.

use std::sync::Arc;

use serde::Deserialize;

use super::error::PostgresError;
use super::pool::{Answer, Request, Wanted};
use super::value::{RowSet, Value};
use crate::bounds;
use crate::client::AgentClient;

/// One PostgreSQL of the configuration.
pub struct Postgres {
    name: String,
    agent: Arc<AgentClient>,
}

/// How an agent says no.
#[derive(Deserialize)]
struct Failed {
    code: String,
    message: String,
    postgres: Option<PostgresError>,
}

impl Postgres {
    pub fn of_agent(name: impl Into<String>, agent: Arc<AgentClient>) -> Arc<Postgres> {
        Arc::new(Postgres {
            name: name.into(),
            agent,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rows a statement returns.
    pub async fn query(&self, statement: &str, parameters: Vec<Value>) -> Result<RowSet, PostgresError> {
        match self.ask(statement, parameters, Wanted::Rows).await? {
            Answer::Rows(rows) => Ok(rows),
            Answer::Count(_) => Err(lost("the agent answers something else; update all agents")),
        }
    }

    /// The number of rows a statement changed, or returned.
    pub async fn execute(&self, statement: &str, parameters: Vec<Value>) -> Result<u64, PostgresError> {
        match self.ask(statement, parameters, Wanted::Count).await? {
            Answer::Count(count) => Ok(count),
            Answer::Rows(_) => Err(lost("the agent answers something else; update all agents")),
        }
    }

    async fn ask(&self, statement: &str, parameters: Vec<Value>, wanted: Wanted) -> Result<Answer, PostgresError> {
        let request = Request {
            statement: statement.to_owned(),
            parameters,
            wanted,
        };
        let sent = self
            .agent
            .request(&format!("/v1/postgres/{}", self.name))
            .timeout(bounds::POSTGRES_REQUEST)
            .json(&request)
            .send()
            .await;
        let response = sent.map_err(|error| match error.is_connect() {
            true => PostgresError::Agent {
                code: "agent_unreachable".to_owned(),
                message: "the agent of this machine does not answer; nothing was done".to_owned(),
            },
            false => lost(error),
        })?;
        if response.status().is_success() {
            return response.json().await.map_err(lost);
        }
        let Failed {
            code,
            message,
            postgres,
        } = response.json().await.map_err(lost)?;
        Err(postgres.unwrap_or(PostgresError::Agent { code, message }))
    }
}

fn lost(why: impl std::fmt::Display) -> PostgresError {
    PostgresError::Lost {
        message: why.to_string(),
    }
}
