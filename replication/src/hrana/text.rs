//! The little that is read from SQL text itself: where one statement of a script ends, and what controls a transaction.
//!
//! Whether a statement reads or writes is SQLite's judgement, and a transaction statement that is not recognised here
//! is refused by SQLite's authorizer. So a mistake here refuses something; it never lets something through.

use crate::savepoint::Savepoint;

/// A statement about transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Control {
    Begin(Begin),
    Commit,
    Rollback,
    Savepoint(Savepoint),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// It may turn out to write.
    Deferred,
    /// IMMEDIATE, EXCLUSIVE, CONCURRENT.
    Write,
    /// libSQL's `BEGIN READONLY`.
    ReadOnly,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    /// A keyword, a name or a number.
    Word(&'a str),
    /// A name or a text in quotes, with them.
    Quoted(&'a str),
    Semicolon,
    Sign(char),
}

/// What the statement does to transactions; `None` for every other statement.
pub(super) fn control(sql: &str) -> Option<Control> {
    let tokens = one_statement(sql)?;
    let (first, rest) = tokens.split_first()?;
    let rest = skip(rest, "transaction");
    match word(first)?.as_str() {
        "begin" => begin(rest).map(Control::Begin),
        "commit" | "end" => rest.is_empty().then_some(Control::Commit),
        "rollback" => match rest {
            [] => Some(Control::Rollback),
            [to, rest @ ..] if is(to, "to") => name(skip(rest, "savepoint"))
                .map(Savepoint::RollBackTo)
                .map(Control::Savepoint),
            _ => None,
        },
        "savepoint" => name(rest).map(Savepoint::Set).map(Control::Savepoint),
        "release" => name(skip(rest, "savepoint"))
            .map(Savepoint::Release)
            .map(Control::Savepoint),
        _ => None,
    }
}

fn begin(tokens: &[Token<'_>]) -> Option<Begin> {
    let words: Option<Vec<String>> = tokens.iter().map(word).collect();
    let words = words?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["deferred"] | ["deferred", "transaction"] => Some(Begin::Deferred),
        ["immediate" | "exclusive" | "concurrent"] | ["immediate" | "exclusive" | "concurrent", "transaction"] => {
            Some(Begin::Write)
        }
        ["readonly"] | ["readonly", "transaction"] => Some(Begin::ReadOnly),
        _ => None,
    }
}

/// What `PRAGMA foreign_keys = …` asks for.
pub(super) fn foreign_keys(sql: &str) -> Option<bool> {
    let tokens = one_statement(sql)?;
    let value = match &tokens[..] {
        [pragma, name, Token::Sign('='), value] if is(pragma, "pragma") && is(name, "foreign_keys") => value,
        [pragma, name, Token::Sign('('), value, Token::Sign(')')]
            if is(pragma, "pragma") && is(name, "foreign_keys") =>
        {
            value
        }
        _ => return None,
    };
    match word(value)?.as_str() {
        "on" | "yes" | "true" | "1" => Some(true),
        "off" | "no" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// Whether it begins like a statement that only reads: worth a try where reading is cheaper.
pub(super) fn may_only_read(sql: &str) -> bool {
    let first = Tokens::of(sql).next().and_then(|(token, _)| word(&token));
    first.is_some_and(|word| ["select", "with", "values", "explain", "pragma"].contains(&word.as_str()))
}

/// The statements of a script, without the empty ones. A trigger's body belongs to its statement.
pub(super) fn split(script: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let mut start = 0;
    let mut tokens: Vec<Token<'_>> = Vec::new();
    for (token, end) in Tokens::of(script) {
        let ends = token == Token::Semicolon && (!is_trigger(&tokens) || ends_trigger(&tokens));
        if !ends {
            // A trigger's head and its last two tokens decide; the rest need not be kept.
            if tokens.len() > 8 {
                tokens.remove(6);
            }
            tokens.push(token);
            continue;
        }
        if !tokens.is_empty() {
            statements.push(script[start..end].trim());
        }
        tokens.clear();
        start = end;
    }
    if !tokens.is_empty() {
        statements.push(script[start..].trim());
    }
    statements
}

/// `[EXPLAIN [QUERY PLAN]] CREATE [TEMP] TRIGGER`
fn is_trigger(tokens: &[Token<'_>]) -> bool {
    let tokens = skip(tokens, "explain");
    let tokens = skip(skip(tokens, "query"), "plan");
    let [create, rest @ ..] = tokens else { return false };
    let rest = skip(skip(rest, "temp"), "temporary");
    is(create, "create") && rest.first().is_some_and(|token| is(token, "trigger"))
}

/// `; END` before the semicolon that ends it.
fn ends_trigger(tokens: &[Token<'_>]) -> bool {
    matches!(tokens, [.., Token::Semicolon, last] if is(last, "end"))
}

/// The tokens of a short statement, without semicolons at its end. Transaction statements have at most six.
fn one_statement(sql: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens: Vec<Token<'_>> = Tokens::of(sql).map(|(token, _)| token).take(12).collect();
    while tokens.last() == Some(&Token::Semicolon) {
        tokens.pop();
    }
    (tokens.len() <= 6 && !tokens.contains(&Token::Semicolon)).then_some(tokens)
}

fn skip<'t, 'a>(tokens: &'t [Token<'a>], keyword: &str) -> &'t [Token<'a>] {
    match tokens {
        [first, rest @ ..] if is(first, keyword) => rest,
        _ => tokens,
    }
}

fn is(token: &Token<'_>, keyword: &str) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
}

fn word(token: &Token<'_>) -> Option<String> {
    match token {
        Token::Word(word) => Some(word.to_ascii_lowercase()),
        _ => None,
    }
}

/// The only token, as a name.
fn name(tokens: &[Token<'_>]) -> Option<String> {
    match tokens {
        [Token::Word(name)] => Some((*name).to_owned()),
        [Token::Quoted(quoted)] => {
            let quote = quoted.chars().next()?;
            let inner = quoted.get(1..quoted.len().checked_sub(1)?)?;
            Some(inner.replace(&format!("{quote}{quote}"), &quote.to_string()))
        }
        _ => None,
    }
}

/// Tokens, each with the offset of its end; comments and space are left out.
struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn of(text: &'a str) -> Tokens<'a> {
        Tokens { text, at: 0 }
    }

    /// The end of what begins here and ends with `end`, or of the text.
    fn after(&self, skipped: usize, end: &str) -> usize {
        let from = self.at + skipped;
        match self.text[from..].find(end) {
            Some(found) => from + found + end.len(),
            None => self.text.len(),
        }
    }

    /// The end of a quoted part; the quote twice is the quote itself.
    fn after_quoted(&self, quote: u8) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = self.at + 1;
        while at < bytes.len() {
            if bytes[at] != quote {
                at += 1;
            } else if bytes.get(at + 1) == Some(&quote) {
                at += 2;
            } else {
                return at + 1;
            }
        }
        bytes.len()
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (Token<'a>, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = &self.text[self.at..];
            let first = rest.chars().next()?;
            let end = match first {
                _ if first.is_ascii_whitespace() => {
                    self.at += 1;
                    continue;
                }
                '-' if rest.starts_with("--") => {
                    self.at = self.after(2, "\n");
                    continue;
                }
                '/' if rest.starts_with("/*") => {
                    self.at = self.after(2, "*/");
                    continue;
                }
                '\'' | '"' | '`' => self.after_quoted(first as u8),
                '[' => self.after(1, "]"),
                _ if is_word(first) => self.at + rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                _ => self.at + first.len_utf8(),
            };
            let text = &self.text[self.at..end];
            self.at = end;
            let token = match first {
                ';' => Token::Semicolon,
                '\'' | '"' | '`' | '[' => Token::Quoted(text),
                _ if is_word(first) => Token::Word(text),
                sign => Token::Sign(sign),
            };
            return Some((token, end));
        }
    }
}

/// As in SQLite, every character beyond ASCII is part of a word.
fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == '$' || !character.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_statements_are_recognised() {
        let named = |name: &str| name.to_owned();
        for (sql, expected) in [
            ("BEGIN", Some(Control::Begin(Begin::Deferred))),
            (" begin transaction ; ", Some(Control::Begin(Begin::Deferred))),
            ("BEGIN DEFERRED", Some(Control::Begin(Begin::Deferred))),
            (
                "/* now */ BEGIN IMMEDIATE TRANSACTION -- go",
                Some(Control::Begin(Begin::Write)),
            ),
            ("BEGIN EXCLUSIVE", Some(Control::Begin(Begin::Write))),
            ("BEGIN TRANSACTION READONLY", Some(Control::Begin(Begin::ReadOnly))),
            ("COMMIT", Some(Control::Commit)),
            ("end transaction;", Some(Control::Commit)),
            ("ROLLBACK", Some(Control::Rollback)),
            ("ROLLBACK TRANSACTION", Some(Control::Rollback)),
            ("SAVEPOINT sp0", Some(Control::Savepoint(Savepoint::Set(named("sp0"))))),
            (
                "savepoint \"a\"\"b\"",
                Some(Control::Savepoint(Savepoint::Set(named("a\"b")))),
            ),
            (
                "RELEASE SAVEPOINT sp0",
                Some(Control::Savepoint(Savepoint::Release(named("sp0")))),
            ),
            (
                "release sp0",
                Some(Control::Savepoint(Savepoint::Release(named("sp0")))),
            ),
            (
                "ROLLBACK TO sp0",
                Some(Control::Savepoint(Savepoint::RollBackTo(named("sp0")))),
            ),
            (
                "rollback transaction to savepoint sp0",
                Some(Control::Savepoint(Savepoint::RollBackTo(named("sp0")))),
            ),
            ("BEGIN; SELECT 1", None),
            ("SELECT 'BEGIN'", None),
            ("BEGIN NOTHING", None),
            ("COMMIT 1", None),
            ("", None),
            ("-- BEGIN", None),
        ] {
            assert_eq!(control(sql), expected, "{sql}");
        }
    }

    #[test]
    fn foreign_keys_are_switched() {
        for (sql, expected) in [
            ("PRAGMA foreign_keys=off", Some(false)),
            ("pragma foreign_keys = ON;", Some(true)),
            ("PRAGMA foreign_keys(0)", Some(false)),
            ("PRAGMA foreign_keys", None),
            ("PRAGMA foreign_keys = maybe", None),
            ("PRAGMA foreign_key_list(t)", None),
        ] {
            assert_eq!(foreign_keys(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_script_is_split_where_its_statements_end() {
        let trigger =
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET a = CASE 1 WHEN 1 THEN 2 ELSE 3 END; SELECT 1; END";
        let with_trigger = format!("SELECT 0; {trigger}; SELECT 2");
        for (script, expected) in [
            ("", vec![]),
            (" ; ;; -- nothing\n ", vec![]),
            ("SELECT 1", vec!["SELECT 1"]),
            (
                "SELECT ';'; SELECT \"a;b\" /* ; */;",
                vec!["SELECT ';';", "SELECT \"a;b\" /* ; */;"],
            ),
            (
                "SELECT 'it''s;'; SELECT [a;b]",
                vec!["SELECT 'it''s;';", "SELECT [a;b]"],
            ),
            ("SELECT 'open; SELECT 2", vec!["SELECT 'open; SELECT 2"]),
            ("SELECT 'ä;'; SELECT ö", vec!["SELECT 'ä;';", "SELECT ö"]),
            (
                "CREATE TABLE trigger_log (a); SELECT 1",
                vec!["CREATE TABLE trigger_log (a);", "SELECT 1"],
            ),
            (
                with_trigger.as_str(),
                vec!["SELECT 0;", &with_trigger[10..with_trigger.len() - 9], "SELECT 2"],
            ),
            (
                "create temp trigger x begin select 1; end; select 2",
                vec!["create temp trigger x begin select 1; end;", "select 2"],
            ),
        ] {
            assert_eq!(split(script), expected, "{script}");
        }
    }

    #[test]
    fn what_begins_like_a_read() {
        for (sql, expected) in [
            ("SELECT 1", true),
            (" -- hello\n with a as (select 1) select * from a", true),
            ("explain delete from t", true),
            ("INSERT INTO t VALUES (1)", false),
            ("", false),
        ] {
            assert_eq!(may_only_read(sql), expected, "{sql}");
        }
    }
}
