//! CSV as it comes (RFC 4180): fields in quotes may hold separators, quotes twice and line ends.
//!
//! A field that is empty is told from one that is `""`: the first is NULL, the second an empty text.

use std::io::{self, BufRead};

use thiserror::Error;

/// A longer record is not believed to be one: a quote is missing.
const RECORD_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug, Error)]
pub(super) enum CsvError {
    #[error("the file cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("line {line}: a quote is not closed")]
    Open { line: u64 },
    #[error("line {line}: after a closing quote comes a comma or the line's end")]
    AfterQuote { line: u64 },
    #[error("line {line}: the text is not UTF-8")]
    NotUtf8 { line: u64 },
}

/// One record: the line it begins on, and its fields.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) line: u64,
    pub(super) fields: Vec<Option<String>>,
    /// Where it ends, in bytes.
    pub(super) end: u64,
}

pub(super) struct Records<R> {
    reader: R,
    line: u64,
    offset: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing of the field was seen.
    Start,
    Plain,
    Quoted,
    /// A quote in a quoted field: its end, or the first of two.
    Quote,
}

impl<R: BufRead> Records<R> {
    pub(super) fn of(reader: R) -> Records<R> {
        Records {
            reader,
            line: 1,
            offset: 0,
        }
    }

    /// The next record; empty lines are none.
    pub(super) fn next(&mut self) -> Result<Option<Record>, CsvError> {
        let mut fields = Vec::new();
        let mut field = Vec::new();
        let mut state = State::Start;
        let mut begin = self.line;
        let mut size = 0;
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                if state == State::Quoted {
                    return Err(CsvError::Open { line: begin });
                }
                if state == State::Start && fields.is_empty() {
                    return Ok(None);
                }
                fields.push(value(&mut field, state, begin)?);
                return Ok(Some(self.record(begin, fields)));
            }
            let mut used = 0;
            let mut ended = false;
            for &byte in bytes {
                used += 1;
                self.line += u64::from(byte == b'\n');
                match (state, byte) {
                    (State::Quoted, b'"') => state = State::Quote,
                    (State::Quoted, _) => field.push(byte),
                    (State::Quote, b'"') => {
                        field.push(b'"');
                        state = State::Quoted;
                    }
                    (State::Start, b'"') => state = State::Quoted,
                    (_, b',') => {
                        fields.push(value(&mut field, state, begin)?);
                        state = State::Start;
                    }
                    // An empty line is nothing; a return before a line's end is part of it.
                    (State::Start, b'\n') if fields.is_empty() => begin = self.line,
                    (_, b'\n') => {
                        fields.push(value(&mut field, state, begin)?);
                        ended = true;
                        break;
                    }
                    (State::Start | State::Quote, b'\r') => {}
                    (State::Quote, _) => return Err(CsvError::AfterQuote { line: begin }),
                    (State::Start | State::Plain, _) => {
                        field.push(byte);
                        state = State::Plain;
                    }
                }
            }
            self.reader.consume(used);
            self.offset += used as u64;
            size += used;
            if ended {
                return Ok(Some(self.record(begin, fields)));
            }
            if size > RECORD_BYTES {
                return Err(CsvError::Open { line: begin });
            }
        }
    }

    fn record(&self, line: u64, fields: Vec<Option<String>>) -> Record {
        Record {
            line,
            fields,
            end: self.offset,
        }
    }
}

fn value(field: &mut Vec<u8>, state: State, line: u64) -> Result<Option<String>, CsvError> {
    if state == State::Plain && field.ends_with(b"\r") {
        field.pop();
    }
    let text = String::from_utf8(std::mem::take(field)).map_err(|_| CsvError::NotUtf8 { line })?;
    Ok(match state {
        State::Start => None,
        State::Plain if text.is_empty() => None,
        _ => Some(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line a record begins on, and its fields.
    type Record = (u64, Vec<Option<String>>);

    fn read(text: &[u8], size: usize) -> Result<Vec<Record>, CsvError> {
        let mut records = Records::of(io::BufReader::with_capacity(size, text));
        let mut all = Vec::new();
        while let Some(record) = records.next()? {
            all.push((record.line, record.fields));
        }
        assert_eq!(records.offset, text.len() as u64);
        Ok(all)
    }

    #[test]
    fn records() {
        let text = "a,b\r\n1,\"x,\"\"y\"\"\nz\"\r\n\r\n,\"\"\nlast, kept ";
        let some = |text: &str| Some(text.to_owned());
        for size in [1, 3, 1000] {
            assert_eq!(
                read(text.as_bytes(), size).unwrap(),
                [
                    (1, vec![some("a"), some("b")]),
                    (2, vec![some("1"), some("x,\"y\"\nz")]),
                    (5, vec![None, some("")]),
                    (6, vec![some("last"), some(" kept ")]),
                ]
            );
        }
        assert_eq!(read(b"", 10).unwrap(), []);
        assert_eq!(read(b"a,\n", 10).unwrap(), [(1, vec![some("a"), None])]);
        assert!(matches!(read(b"a\n\"open\n", 10), Err(CsvError::Open { line: 2 })));
        assert!(matches!(read(b"\"a\"b\n", 10), Err(CsvError::AfterQuote { line: 1 })));
        assert!(matches!(read(b"a\n\xff\n", 10), Err(CsvError::NotUtf8 { line: 2 })));
    }
}
