//! Clients of the agent as they are written: what is taken, and what their author is told.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::parse;
use selvedge_schema::ClientRole;

/// An agent with these clients.
fn told(clients: &str, databases: &str) -> Result<Vec<(String, ClientRole)>, String> {
    let text = format!(
        "agent:\n  listen: 127.0.0.1:7100\n  token: the-token-of-the-agents\n  clients: [{clients}]\ndatabases: {{ {databases} }}\n"
    );
    match parse(&text) {
        Ok(document) => {
            let clients = document.config.agent.unwrap().clients;
            Ok(clients
                .into_iter()
                .map(|client| (client.database, client.role))
                .collect())
        }
        Err(problems) => Err(problems
            .items()
            .iter()
            .map(|item| item.message.clone())
            .collect::<Vec<_>>()
            .join("; ")),
    }
}

#[test]
fn a_token_is_one_database_and_one_role() {
    let reader = "{ token: reader-0123456789, database: shop, role: read }";
    let writer = "{ token: writer-0123456789, database: shop, role: write }";
    let both = Ok(vec![
        ("shop".to_owned(), ClientRole::Read),
        ("shop".to_owned(), ClientRole::Write),
    ]);
    assert_eq!(told(&format!("{reader}, {writer}"), "shop: {}"), both);
    // An agent may keep databases its file does not name.
    assert_eq!(told(&format!("{reader}, {writer}"), ""), both);
    for (clients, databases, expected) in [
        (
            format!("{reader}, {reader}"),
            "shop: {}",
            "another client has this token",
        ),
        (
            "{ token: the-token-of-the-agents, database: shop, role: read }".to_owned(),
            "shop: {}",
            "this is the token of the agents",
        ),
        (
            reader.to_owned(),
            "shoq: {}",
            "the database \"shop\" is not defined; did you mean \"shoq\"?",
        ),
        (
            reader.to_owned(),
            "shop: { path: shop.db }",
            "database \"shop\" is this machine's alone",
        ),
    ] {
        let told = told(&clients, databases).unwrap_err();
        assert!(told.starts_with(expected), "{clients}: {told}");
    }
    for (clients, part) in [
        ("{ token: short, database: shop, role: read }", "16"),
        ("{ token: reader-0123456789, database: shop, role: admin }", "read"),
        ("{ token: reader-0123456789, database: shop }", "role"),
    ] {
        let told = told(clients, "shop: {}").unwrap_err();
        assert!(told.contains(part), "{clients}: {told}");
    }
}
