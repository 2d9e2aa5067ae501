//! Clients of the agent: each token once, and only for databases that the agent keeps.

use std::collections::BTreeSet;

use super::Checker;
use crate::config::Agent;

impl Checker<'_> {
    pub(super) fn agent_clients(&mut self, agent: &Agent) {
        let config = self.config;
        let mut tokens = BTreeSet::new();
        for (index, client) in agent.clients.iter().enumerate() {
            let pointer = format!("/agent/clients/{index}");
            if !tokens.insert(&client.token) {
                let help = "a token stands for one database and one role".to_owned();
                self.error(&format!("{pointer}/token"), "another client has this token", help);
            }
            if agent.token.as_ref() == Some(&client.token) {
                let help = "the agents' token may do everything; give clients others".to_owned();
                self.error(&format!("{pointer}/token"), "this is the token of the agents", help);
            }
            let pointer = format!("{pointer}/database");
            if client.database.starts_with('_') {
                let message = format!("\"{}\" is the platform's, and not served to clients", client.database);
                self.error(&pointer, message, None);
                continue;
            }
            match config.databases.get(&client.database) {
                // An agent may keep databases that its file does not name; a list of some is a list of all.
                None if config.databases.is_empty() => {}
                None => self.defined(&pointer, "database", &client.database, &config.databases),
                Some(database) if database.path.is_some() => {
                    let message = format!("database \"{}\" is this machine's alone", client.database);
                    self.error(&pointer, message, "an agent keeps databases without `path`".to_owned());
                }
                Some(_) => {}
            }
        }
        if !agent.clients.is_empty() && agent.listen.is_none() {
            let help = "add `listen: 127.0.0.1:7100`".to_owned();
            self.error("/agent/clients", "the agent has clients, but does not listen", help);
        }
    }
}
