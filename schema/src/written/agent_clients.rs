//! Clients of the agent: who may reach which database with a client of libSQL's.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config;
use crate::text::{Name, Text};

/// A client that reaches one database, over Hrana, with a token of its own.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentClient {
    /// What the client sends as its token; it also chooses the database, so that the client's URL needs no path.
    #[schemars(length(min = 16))]
    token: String,
    /// The database, one without `path`.
    database: Text<Name>,
    /// What the client may do.
    role: ClientRole,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ClientRole {
    /// Read; every write is refused.
    Read,
    /// Read and write.
    Write,
}

impl AgentClient {
    pub(super) fn into_used(self) -> config::AgentClient {
        config::AgentClient {
            token: self.token,
            database: self.database.0.0,
            role: match self.role {
                ClientRole::Read => config::ClientRole::Read,
                ClientRole::Write => config::ClientRole::Write,
            },
        }
    }
}
