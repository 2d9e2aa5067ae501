//! Statements that are about a session, which no statement has: each may run on another connection.
//!
//! Refusing them is a courtesy, so that nobody believes in a transaction that is none. The guarantee is the pool's: what
//! a statement leaves behind on its connection, whatever its text, is undone before the next one gets it.

/// First words of what is refused, and why.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &[
            "BEGIN",
            "START",
            "COMMIT",
            "END",
            "ROLLBACK",
            "ABORT",
            "SAVEPOINT",
            "RELEASE",
        ],
        "each statement is a transaction of its own; several changes fit into one statement with WITH, or into a function",
    ),
    (
        &["SET", "RESET", "DISCARD", "LISTEN", "UNLISTEN", "LOAD"],
        "each statement has a session of its own; ALTER ROLE … SET changes it for all",
    ),
    (
        &["PREPARE", "EXECUTE", "DEALLOCATE", "DECLARE", "FETCH", "MOVE", "CLOSE"],
        "each statement has a session of its own; values go into parameters, large results into pages with LIMIT",
    ),
    (
        &["COPY"],
        "a handler cannot stream rows; insert them with unnest($1::text[])",
    ),
];

/// Why the statement is refused, if it is.
pub(super) fn refusal(statement: &str) -> Option<String> {
    let word = first_word(statement).to_ascii_uppercase();
    let (_, why) = REFUSED.iter().find(|(words, _)| words.contains(&word.as_str()))?;
    Some(format!("{word} is refused: {why}"))
}

/// The first word behind white space, comments and empty statements; empty when it is no word.
fn first_word(statement: &str) -> &str {
    let mut rest = statement;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = behind_comment(comment);
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            return &rest[..end];
        }
    }
}

/// What follows a comment whose start is cut off. PostgreSQL's comments nest.
fn behind_comment(text: &str) -> &str {
    let mut depth = 1;
    let mut rest = text;
    while let Some(at) = rest.find(['*', '/']) {
        rest = &rest[at..];
        if rest.starts_with("*/") {
            depth -= 1;
            rest = &rest[2..];
            if depth == 0 {
                return rest;
            }
        } else if rest.starts_with("/*") {
            depth += 1;
            rest = &rest[2..];
        } else {
            rest = &rest[1..];
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_about_a_session_are_refused() {
        for (statement, refused) in [
            ("SELECT 1", false),
            ("  select 1", false),
            ("WITH a AS (SELECT 1) INSERT INTO b SELECT * FROM a", false),
            ("(SELECT 1) UNION (SELECT 2)", false),
            ("BEGIN", true),
            ("begin;", true),
            (";; -- x\n /* /* y */ COMMIT */ Rollback", true),
            ("/*/ SELECT */ end", true),
            ("/* SELECT", false),
            ("-- begin", false),
            ("SET search_path = x", true),
            ("COPY t FROM STDIN", true),
            ("SETTLE", false),
            ("\"begin\"", false),
            ("", false),
        ] {
            assert_eq!(refusal(statement).is_some(), refused, "{statement}");
        }
    }
}
