//! What a migration takes away from the version that serves while it runs, read from the tokens of its statements.
//!
//! Simple and conservative: a table, view or column that is dropped or renamed is in the way, whether somebody uses it or
//! not, unless the same migrations have made the table. What narrows what may be written (a new UNIQUE index, a trigger)
//! is not seen.

use std::collections::BTreeSet;

/// What stands in the way of running this SQL under another version: the statement's beginning. `made` are the tables that
/// these migrations have made so far.
pub(crate) fn incompatible(sql: &str, made: &mut BTreeSet<String>) -> Option<String> {
    let tokens = tokens(sql);
    let statements = tokens.split(|token| *token == Token::Other(';'));
    statements
        .map(|statement| judge(statement, made))
        .find_map(|found| found)
}

fn judge(statement: &[Token], made: &mut BTreeSet<String>) -> Option<String> {
    let words: Vec<&str> = statement.iter().map(Token::text).collect();
    let is = |index: usize, word: &str| {
        let token: Option<&Token> = statement.get(index);
        token.is_some_and(|token| matches!(token, Token::Word(text) if text.eq_ignore_ascii_case(word)))
    };
    // With IF NOT EXISTS it may have been there, and a temporary one, also `temp.t`, hides what has its name.
    let is_new = is(0, "create") && is(1, "table") && !is(2, "if");
    if is_new && statement.get(3) != Some(&Token::Other('.')) {
        made.extend(name(statement, 2));
    }
    let takes_away = if is(0, "drop") && (is(1, "table") || is(1, "view")) {
        let at = if is(2, "if") { 4 } else { 2 };
        !name(statement, at).is_some_and(|name| made.remove(&name))
    } else if is(0, "alter") && is(1, "table") {
        let of_made = name(statement, 2).is_some_and(|name| made.contains(&name));
        // After the name, or its schema and name.
        let at = if statement.get(3) == Some(&Token::Other('.')) {
            5
        } else {
            3
        };
        (is(at, "rename") || is(at, "drop")) && !of_made
    } else {
        false
    };
    takes_away.then(|| words.join(" "))
}

/// The table at a place, without its schema.
fn name(statement: &[Token], at: usize) -> Option<String> {
    let at = if statement.get(at + 1) == Some(&Token::Other('.')) {
        at + 2
    } else {
        at
    };
    match statement.get(at)? {
        Token::Word(name) | Token::Quoted(name) => Some(name.to_ascii_lowercase()),
        Token::Other(_) => None,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A keyword, name or number.
    Word(String),
    /// A name or string, without its quotes.
    Quoted(String),
    Other(char),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Word(text) | Token::Quoted(text) => text,
            Token::Other('.') => ".",
            Token::Other(_) => "…",
        }
    }
}

/// As SQLite reads them (sqlite.org/lang_keywords.html, lang_comment.html).
fn tokens(sql: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
        let length = match first {
            _ if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            '\'' | '"' | '`' | '[' => {
                let (text, length) = quoted(rest, if first == '[' { ']' } else { first });
                tokens.push(Token::Quoted(text));
                length
            }
            c if is_word(c) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..length].to_owned()));
                length
            }
            c if c.is_whitespace() => c.len_utf8(),
            c => {
                tokens.push(Token::Other(c));
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    tokens
}

/// What is between quotes, and how long it is with them. A quote in it is written twice.
fn quoted(rest: &str, end: char) -> (String, usize) {
    let mut text = String::new();
    let mut letters = rest.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter != end {
            text.push(letter);
        } else if end != ']' && letters.peek().is_some_and(|(_, next)| *next == end) {
            text.push(letter);
            letters.next();
        } else {
            return (text, at + end.len_utf8());
        }
    }
    (text, rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_something_away() {
        for (sql, expected) in [
            ("CREATE TABLE a (x); CREATE INDEX i ON a (x);", None),
            ("ALTER TABLE a ADD COLUMN y", None),
            ("DROP INDEX i; DROP TRIGGER t", None),
            ("DELETE FROM a", None),
            ("drop table Carts", Some("drop table Carts")),
            (
                "DROP /* all */ TABLE -- now\n IF EXISTS main.\"carts\"",
                Some("DROP TABLE IF EXISTS main . carts"),
            ),
            ("DROP VIEW v", Some("DROP VIEW v")),
            ("ALTER TABLE a RENAME TO b", Some("ALTER TABLE a RENAME TO b")),
            (
                "ALTER TABLE [a b] RENAME COLUMN x TO y",
                Some("ALTER TABLE a b RENAME COLUMN x TO y"),
            ),
            (
                "ALTER TABLE main.a DROP COLUMN x",
                Some("ALTER TABLE main . a DROP COLUMN x"),
            ),
            ("ALTER TABLE a DROP x", Some("ALTER TABLE a DROP x")),
            // Only said, not done.
            ("INSERT INTO a VALUES ('; DROP TABLE a;')", None),
            ("-- DROP TABLE a\n/* DROP TABLE a; */ SELECT \"x;DROP TABLE a\"", None),
            ("SELECT 'it''s'; DROP TABLE a", Some("DROP TABLE a")),
            // Perhaps there before, or only hidden.
            ("CREATE TABLE IF NOT EXISTS t (x); DROP TABLE t", Some("DROP TABLE t")),
            (
                "CREATE TEMP TABLE t (x); DROP TABLE main.t",
                Some("DROP TABLE main . t"),
            ),
            (
                "CREATE TABLE temp.t (x); DROP TABLE main.t",
                Some("DROP TABLE main . t"),
            ),
            // Made by the same migrations.
            ("CREATE TABLE t (x); ALTER TABLE t RENAME x TO y; DROP TABLE t", None),
            ("CREATE TABLE t (x); DROP TABLE t; DROP TABLE t", Some("DROP TABLE t")),
            (
                "CREATE TABLE b (x); DROP TABLE a; ALTER TABLE b RENAME TO a",
                Some("DROP TABLE a"),
            ),
            ("DROP TABLE", Some("DROP TABLE")),
            ("", None),
            ("'", None),
            ("/*", None),
        ] {
            assert_eq!(incompatible(sql, &mut BTreeSet::new()).as_deref(), expected, "{sql}");
        }
    }
}
