//! Where a SQL statement ends, found as the text comes: in files of any size and in what somebody types.
//!
//! The rules are those of `sqlite3_complete` (sqlite.org/c3ref/complete.html): a semicolon ends a statement unless it is in
//! a string, a name, a comment or the body of a trigger, which ends with `;END;`.

use std::io::{self, BufRead};

use thiserror::Error;

use crate::value::{Statement, Value};

/// A longer statement is not believed to be one.
const STATEMENT_BYTES: usize = 128 * 1024 * 1024;
/// Statements longer than this have their large values moved into parameters, as a statement's text is bounded.
const TEXT_BYTES: usize = 512 * 1024;
/// Values shorter than this stay in the text.
const VALUE_BYTES: usize = 1024;
/// The longest word that matters.
const WORD_BYTES: usize = 9;

#[derive(Debug, Error)]
pub enum ScriptError {
    #[error("the script cannot be read")]
    Read(#[from] io::Error),
    #[error("line {line}: the text is not UTF-8")]
    NotUtf8 { line: u64 },
    #[error("line {line}: a statement is longer than {STATEMENT_BYTES} bytes")]
    TooLong { line: u64 },
    #[error("line {line}: the last statement does not end; a string, a comment or a trigger is open")]
    Open { line: u64 },
}

/// A statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub sql: String,
    /// Where it begins, counted from 1.
    pub line: u64,
    /// Where it ends in the script, in bytes.
    pub end: u64,
}

/// The statements of a script, one after another.
pub struct Statements<R> {
    reader: R,
    line: u64,
    offset: u64,
    ended: bool,
}

impl<R: BufRead> Statements<R> {
    pub fn of(reader: R) -> Statements<R> {
        Statements {
            reader,
            line: 1,
            offset: 0,
            ended: false,
        }
    }

    fn read(&mut self) -> Result<Option<Found>, ScriptError> {
        let mut finder = Finder::default();
        let mut text = Vec::new();
        let mut line = self.line;
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return match (finder.is_blank(), finder.is_inside()) {
                    (true, false) => Ok(None),
                    // The last semicolon may be left out.
                    (false, false) => found(text, line, self.offset).map(Some),
                    (_, true) => Err(ScriptError::Open { line }),
                };
            }
            let mut used = bytes.len();
            let mut complete = false;
            for (index, byte) in bytes.iter().enumerate() {
                let was_blank = finder.is_blank();
                if finder.feed(*byte) {
                    (used, complete) = (index + 1, true);
                    break;
                }
                if was_blank && !finder.is_blank() {
                    line = self.line;
                }
                self.line += u64::from(*byte == b'\n');
            }
            text.extend_from_slice(&bytes[..used]);
            self.reader.consume(used);
            self.offset += used as u64;
            if complete && finder.is_blank() {
                text.clear();
                finder = Finder::default();
            } else if complete {
                return found(text, line, self.offset).map(Some);
            } else if text.len() > STATEMENT_BYTES {
                return Err(ScriptError::TooLong { line });
            }
        }
    }
}

impl<R: BufRead> Iterator for Statements<R> {
    type Item = Result<Found, ScriptError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let found = self.read().transpose();
        self.ended = !matches!(found, Some(Ok(_)));
        found
    }
}

fn found(text: Vec<u8>, line: u64, end: u64) -> Result<Found, ScriptError> {
    let sql = String::from_utf8(text).map_err(|_| ScriptError::NotUtf8 { line })?;
    Ok(Found {
        sql: sql.trim().to_owned(),
        line,
        end,
    })
}

/// Whether `text` ends with a whole statement.
pub fn is_complete(text: &str) -> bool {
    let mut finder = Finder::default();
    text.bytes().fold(false, |complete, byte| {
        finder.feed(byte) || complete && (byte.is_ascii_whitespace() || !matches!(finder.lexeme, Lexeme::Plain))
    }) && matches!(finder.lexeme, Lexeme::Plain | Lexeme::LineComment)
}

/// The first word, in capitals; of EXPLAIN and WITH no more.
pub fn first_word(sql: &str) -> String {
    let mut rest = sql.trim_start();
    while let Some(comment) = rest.strip_prefix("--") {
        rest = comment.split_once('\n').map_or("", |(_, after)| after).trim_start();
    }
    let word = rest.split(|letter: char| !letter.is_ascii_alphabetic()).next();
    word.unwrap_or_default().to_ascii_uppercase()
}

/// A statement that may be long because of the values in it: those become parameters.
pub fn with_parameters(sql: String) -> Statement {
    let changes_rows = ["INSERT", "REPLACE", "UPDATE"].contains(&&*first_word(&sql));
    if sql.len() <= TEXT_BYTES || !changes_rows {
        return Statement::new(sql, Vec::new());
    }
    let mut text = String::with_capacity(TEXT_BYTES);
    let mut params = Vec::new();
    let mut finder = Finder::default();
    let mut copied = 0;
    let mut begin = None;
    for (index, byte) in sql.bytes().enumerate() {
        let before = finder.lexeme;
        finder.feed(byte);
        match (before, finder.lexeme) {
            (before, Lexeme::Quoted(b'\'')) if before != Lexeme::Quoted(b'\'') => {
                // A quote right after another one is part of the same text.
                begin = begin
                    .filter(|_| sql.as_bytes()[..index].ends_with(b"'"))
                    .or(Some(index));
            }
            (Lexeme::Quoted(b'\''), Lexeme::Plain) if sql.as_bytes().get(index + 1) != Some(&b'\'') => {
                let Some(start) = begin.take().filter(|start| index - start > VALUE_BYTES) else {
                    continue;
                };
                let inner = &sql[start + 1..index];
                let is_blob = sql[..start].ends_with(['x', 'X']);
                let value = match is_blob {
                    true => from_hex(inner).map(Value::Blob),
                    false => Some(Value::Text(inner.replace("''", "'"))),
                };
                if let Some(value) = value {
                    params.push(value);
                    text.push_str(&sql[copied..start - usize::from(is_blob)]);
                    text.push_str(&format!("?{}", params.len()));
                    copied = index + 1;
                }
            }
            _ => {}
        }
    }
    text.push_str(&sql[copied..]);
    Statement::new(text, params)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect()).flatten()
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Lexeme {
    #[default]
    Plain,
    Word,
    /// A string or a name, until this byte.
    Quoted(u8),
    Dash,
    LineComment,
    Slash,
    BlockComment,
    BlockCommentStar,
}

/// What the statement is so far, as far as its end depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Shape {
    #[default]
    Start,
    Normal,
    Explain,
    Create,
    Trigger,
    /// In a trigger, after a semicolon.
    Semicolon,
    /// In a trigger, after `;END`.
    End,
}

#[derive(Debug, Clone, Copy)]
enum Token {
    Other,
    Explain,
    Create,
    Temporary,
    Trigger,
    End,
}

/// Sees a text byte by byte.
#[derive(Debug, Default)]
struct Finder {
    lexeme: Lexeme,
    shape: Shape,
    word: Vec<u8>,
    /// Something else than space, comments and semicolons was seen.
    content: bool,
}

impl Finder {
    /// Whether `byte` ends a statement.
    fn feed(&mut self, byte: u8) -> bool {
        let is_word = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
        match self.lexeme {
            Lexeme::Quoted(end) if byte == end => return self.become_(Lexeme::Plain),
            Lexeme::Quoted(_) => return false,
            Lexeme::LineComment if byte == b'\n' => return self.become_(Lexeme::Plain),
            Lexeme::LineComment => return false,
            Lexeme::BlockComment if byte == b'*' => return self.become_(Lexeme::BlockCommentStar),
            Lexeme::BlockComment => return false,
            Lexeme::BlockCommentStar if byte == b'/' => return self.become_(Lexeme::Plain),
            Lexeme::BlockCommentStar if byte == b'*' => return false,
            Lexeme::BlockCommentStar => return self.become_(Lexeme::BlockComment),
            Lexeme::Dash if byte == b'-' => return self.become_(Lexeme::LineComment),
            Lexeme::Slash if byte == b'*' => return self.become_(Lexeme::BlockComment),
            Lexeme::Dash | Lexeme::Slash => self.take(Token::Other),
            Lexeme::Word if is_word => {
                if self.word.len() <= WORD_BYTES {
                    self.word.push(byte.to_ascii_uppercase());
                }
                return false;
            }
            Lexeme::Word => self.end_word(),
            Lexeme::Plain => {}
        }
        self.lexeme = Lexeme::Plain;
        match byte {
            b';' => return self.semicolon(),
            b' ' | b'\t' | b'\r' | b'\n' | 0x0c => {}
            b'-' => self.lexeme = Lexeme::Dash,
            b'/' => self.lexeme = Lexeme::Slash,
            b'\'' | b'"' | b'`' | b'[' => {
                self.take(Token::Other);
                self.lexeme = Lexeme::Quoted(if byte == b'[' { b']' } else { byte });
            }
            _ if is_word => {
                self.content = true;
                self.word = vec![byte.to_ascii_uppercase()];
                self.lexeme = Lexeme::Word;
            }
            _ => self.take(Token::Other),
        }
        false
    }

    fn is_blank(&self) -> bool {
        !self.content
    }

    /// Whether a string, a comment or a trigger has begun and not ended.
    fn is_inside(&self) -> bool {
        matches!(
            self.lexeme,
            Lexeme::Quoted(_) | Lexeme::BlockComment | Lexeme::BlockCommentStar
        ) || match self.shape {
            // Without its last semicolon.
            Shape::Semicolon => self.lexeme != Lexeme::Word || self.word != b"END",
            Shape::Trigger => true,
            _ => false,
        }
    }

    fn become_(&mut self, lexeme: Lexeme) -> bool {
        self.lexeme = lexeme;
        false
    }

    fn end_word(&mut self) {
        let token = match &self.word[..] {
            b"EXPLAIN" => Token::Explain,
            b"CREATE" => Token::Create,
            b"TEMP" | b"TEMPORARY" => Token::Temporary,
            b"TRIGGER" => Token::Trigger,
            b"END" => Token::End,
            _ => Token::Other,
        };
        self.take(token);
    }

    fn semicolon(&mut self) -> bool {
        self.shape = match self.shape {
            Shape::Trigger | Shape::Semicolon => Shape::Semicolon,
            _ => Shape::Start,
        };
        self.shape == Shape::Start
    }

    fn take(&mut self, token: Token) {
        self.content = true;
        self.shape = match (self.shape, token) {
            (Shape::Start, Token::Explain) => Shape::Explain,
            (Shape::Start | Shape::Explain, Token::Create) => Shape::Create,
            (Shape::Explain, Token::Other) => Shape::Explain,
            (Shape::Start | Shape::Normal | Shape::Explain, _) => Shape::Normal,
            (Shape::Create, Token::Temporary) => Shape::Create,
            (Shape::Create, Token::Trigger) => Shape::Trigger,
            (Shape::Create, _) => Shape::Normal,
            (Shape::Semicolon, Token::End) => Shape::End,
            (Shape::Trigger | Shape::Semicolon | Shape::End, _) => Shape::Trigger,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(script: &str) -> Vec<(String, u64)> {
        // However the text is cut into pieces.
        let whole: Vec<_> = Statements::of(script.as_bytes()).map(Result::unwrap).collect();
        for size in [1, 2, 7] {
            let reader = io::BufReader::with_capacity(size, script.as_bytes());
            assert!(
                Statements::of(reader).map(Result::unwrap).eq(whole.iter().cloned()),
                "{size}"
            );
        }
        whole.into_iter().map(|found| (found.sql, found.line)).collect()
    }

    #[test]
    fn statements_end_where_sqlite_ends_them() {
        let check = |script: &str, expected: &[(&str, u64)]| {
            let expected: Vec<_> = expected.iter().map(|(sql, line)| ((*sql).to_owned(), *line)).collect();
            assert_eq!(split(script), expected, "{script}");
        };
        check("", &[]);
        check(" ;; -- nothing; here\n /* ; */ ;", &[]);
        check("SELECT 1;\nSELECT 2", &[("SELECT 1;", 1), ("SELECT 2", 2)]);
        check(
            "SELECT ';''; ', \"a;b\", [c;d], `e;f`;SELECT 1-2/3;",
            &[("SELECT ';''; ', \"a;b\", [c;d], `e;f`;", 1), ("SELECT 1-2/3;", 1)],
        );
        let trigger = "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN\n  SELECT ';END;'; UPDATE a SET b = CASE 1 WHEN 1 THEN 2 END;\nEND;";
        check(&format!("\n\n{trigger}\nSELECT 1;"), &[(trigger, 3), ("SELECT 1;", 6)]);
        check(
            "CREATE TABLE trigger_x (a); END;",
            &[("CREATE TABLE trigger_x (a);", 1), ("END;", 1)],
        );
        check(
            "EXPLAIN SELECT 1; BEGIN; COMMIT;",
            &[("EXPLAIN SELECT 1;", 1), ("BEGIN;", 1), ("COMMIT;", 1)],
        );
    }

    #[test]
    fn what_does_not_end_is_said() {
        for script in [
            "SELECT 'a",
            "/* x",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1;",
            "SELECT 1; SELECT \"a",
        ] {
            let last = Statements::of(script.as_bytes()).last();
            assert!(matches!(last, Some(Err(ScriptError::Open { line: 1 }))), "{script}");
        }
        let last = Statements::of(&b"SELECT '\xff';"[..]).last();
        assert!(matches!(last, Some(Err(ScriptError::NotUtf8 { .. }))));
    }

    #[test]
    fn completeness() {
        for (text, expected) in [
            ("SELECT 1", false),
            ("SELECT 1;", true),
            ("SELECT 1; ", true),
            ("SELECT 1; -- done", true),
            ("SELECT 1; SELECT", false),
            ("SELECT ';", false),
            ("", false),
            ("CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1;", false),
        ] {
            assert_eq!(is_complete(text), expected, "{text}");
        }
    }

    #[test]
    fn large_values_become_parameters() {
        let text = "it''s ".repeat(100_000);
        let blob = "00ff".repeat(100_000);
        let sql = format!("INSERT INTO t VALUES ('short', '{text}', X'{blob}', 'x');");
        let statement = with_parameters(sql);
        assert_eq!(statement.sql, "INSERT INTO t VALUES ('short', ?1, ?2, 'x');");
        assert_eq!(statement.params[0], Value::Text("it's ".repeat(100_000)));
        assert_eq!(statement.params[1], Value::Blob([0, 255].repeat(100_000)));
        let view = format!("CREATE VIEW v AS SELECT '{text}'");
        assert_eq!(with_parameters(view.clone()).sql, view);
    }
}
