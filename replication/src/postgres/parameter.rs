//! A value as a parameter of a statement.
//!
//! Values go as PostgreSQL's own literals, which its input functions read for whatever type the statement wants: an
//! integer fits every type of number, text fits everything. What does not fit is PostgreSQL's error (22P02, 22003) with
//! its own words. Only bytes go in binary.

use std::error::Error;
use std::fmt::{Display, Write};

use bytes::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::civil;
use super::value::{Bound, Range, Value};

const SECONDS_A_DAY: i64 = 24 * 60 * 60;

/// A parameter, ready to be sent.
#[derive(Debug, PartialEq)]
pub(super) enum Written<'v> {
    Null,
    Literal(String),
    Borrowed(&'v str),
    Bytes(&'v [u8]),
    /// PostgreSQL's `"char"`.
    Byte([u8; 1]),
}

/// The value for a parameter of type `kind`, or why it cannot be one.
pub(super) fn written<'v>(value: &'v Value, kind: &Type) -> Result<Written<'v>, String> {
    let literal = match value {
        Value::Null => return Ok(Written::Null),
        Value::Binary(bytes) if *kind == Type::BYTEA => return Ok(Written::Bytes(bytes)),
        Value::Binary(_) => return Err(format!("bytes were given for a {}", kind.name())),
        Value::Unsupported(_) => return Err("a value of an unsupported type cannot be a parameter".to_owned()),
        Value::Text(text) | Value::Json(text) | Value::Uuid(text) | Value::Decimal(text) => {
            if text.contains('\0') {
                return Err("PostgreSQL's text cannot hold the character U+0000".to_owned());
            }
            return Ok(Written::Borrowed(text));
        }
        Value::Boolean(truth) => truth.to_string(),
        Value::Int8(number) if *kind == Type::CHAR => return Ok(Written::Byte(number.to_be_bytes())),
        Value::Int8(number) => number.to_string(),
        Value::Int16(number) => number.to_string(),
        Value::Int32(number) => number.to_string(),
        Value::Int64(number) => number.to_string(),
        Value::Float32(number) => float(f64::from(*number), number),
        Value::Float64(number) => float(*number, number),
        Value::Date(year, month, day) => {
            let (date, era) = date(i64::from(*year), *month, *day)?;
            format!("{date}{era}")
        }
        Value::Time(hour, minute, second, nanosecond) => time(*hour, *minute, *second, *nanosecond)?,
        Value::DateTime(year, month, day, hour, minute, second, nanosecond) => {
            let (date, era) = date(i64::from(*year), *month, *day)?;
            format!("{date} {}+00{era}", time(*hour, *minute, *second, *nanosecond)?)
        }
        Value::Timestamp(seconds) => timestamp(*seconds, kind)?,
        Value::RangeInt32(value) => range(value),
        Value::RangeInt64(value) => range(value),
        Value::RangeDecimal(value) => range(value),
        Value::ArrayInt32(items) => array(items),
        Value::ArrayInt64(items) => array(items),
        Value::ArrayDecimal(items) | Value::ArrayText(items) => array(items),
        Value::Interval(interval) => {
            let (months, days, micros) = (interval.months, interval.days, interval.micros);
            format!("{months} mons {days} days {micros} microseconds")
        }
    };
    Ok(Written::Literal(literal))
}

fn float(number: f64, shortest: &impl Display) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        (if number > 0.0 { "Infinity" } else { "-Infinity" }).to_owned()
    } else {
        shortest.to_string()
    }
}

/// A date, and what follows at the end of the whole literal when it is before our era.
fn date(year: i64, month: u8, day: u8) -> Result<(String, &'static str), String> {
    if civil::date(civil::days(year, month.clamp(1, 12), day)) != (year, month, day) {
        return Err(format!("there is no day {year}-{month}-{day}"));
    }
    // The year 0 is 1 BC.
    Ok(match year {
        1.. => (format!("{year:04}-{month:02}-{day:02}"), ""),
        _ => (format!("{:04}-{month:02}-{day:02}", 1 - year), " BC"),
    })
}

fn time(hour: u8, minute: u8, second: u8, nanosecond: u32) -> Result<String, String> {
    if hour > 23 || minute > 59 || second > 59 || nanosecond > 999_999_999 {
        return Err(format!("there is no time {hour}:{minute}:{second} and {nanosecond} ns"));
    }
    Ok(format!("{hour:02}:{minute:02}:{second:02}.{nanosecond:09}"))
}

/// Seconds since 1970 for a time, or for a number that holds them.
fn timestamp(seconds: i64, kind: &Type) -> Result<String, String> {
    if [Type::INT8, Type::NUMERIC, Type::FLOAT8].contains(kind) {
        return Ok(seconds.to_string());
    }
    let (year, month, day) = civil::date(seconds.div_euclid(SECONDS_A_DAY));
    let second = seconds.rem_euclid(SECONDS_A_DAY);
    let (date, era) = date(year, month, day)?;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Ok(format!("{date} {hour:02}:{minute:02}:{second:02}+00{era}"))
}

/// Quoted, so that no text can end its bound.
fn range<T: Display>(range: &Range<T>) -> String {
    let quoted = |bound: &Option<Bound<T>>| bound.as_ref().map_or(String::new(), |bound| quoted(&bound.value));
    let includes = |bound: &Option<Bound<T>>| bound.as_ref().is_some_and(|bound| bound.inclusive);
    let open = if includes(&range.lower) { '[' } else { '(' };
    let close = if includes(&range.upper) { ']' } else { ')' };
    format!("{open}{},{}{close}", quoted(&range.lower), quoted(&range.upper))
}

fn array<T: Display>(items: &[Option<T>]) -> String {
    let mut text = "{".to_owned();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        match item {
            Some(item) => text.push_str(&quoted(item)),
            None => text.push_str("NULL"),
        }
    }
    text + "}"
}

/// As an element of an array or a bound of a range (postgresql.org/docs/current/arrays.html#ARRAYS-IO).
fn quoted(item: &impl Display) -> String {
    let mut text = "\"".to_owned();
    for c in item.to_string().chars() {
        if c == '"' || c == '\\' {
            text.push('\\');
        }
        // Writing to a String cannot fail.
        let _ = text.write_char(c);
    }
    text + "\""
}

impl ToSql for Written<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(match self {
            Written::Null => return Ok(IsNull::Yes),
            Written::Literal(text) => text.as_bytes(),
            Written::Borrowed(text) => text.as_bytes(),
            Written::Bytes(bytes) => bytes,
            Written::Byte(byte) => byte,
        });
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self {
            Written::Literal(_) | Written::Borrowed(_) => Format::Text,
            Written::Null | Written::Bytes(_) | Written::Byte(_) => Format::Binary,
        }
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::super::value::Interval;
    use super::*;

    fn check(value: Value, kind: Type, expected: Result<&str, &str>) {
        let shown = format!("{value:?}");
        let written = written(&value, &kind);
        let text = match &written {
            Ok(Written::Literal(text)) => Ok(text.as_str()),
            Ok(Written::Borrowed(text)) => Ok(*text),
            Ok(Written::Null) => Ok("(null)"),
            Ok(Written::Bytes(_) | Written::Byte(_)) => Ok("(bytes)"),
            Err(why) => Err(why.as_str()),
        };
        assert_eq!(text, expected, "{shown}");
    }

    #[test]
    fn values_become_literals() {
        check(Value::Null, Type::INT4, Ok("(null)"));
        check(Value::Int64(-5), Type::INT2, Ok("-5"));
        check(Value::Float32(0.1), Type::FLOAT8, Ok("0.1"));
        check(Value::Float64(f64::NEG_INFINITY), Type::FLOAT8, Ok("-Infinity"));
        check(Value::Float64(1e300), Type::FLOAT8, Ok(&1e300f64.to_string()));
        check(Value::Text("O'Neil".into()), Type::TEXT, Ok("O'Neil"));
        check(Value::Binary(vec![0]), Type::BYTEA, Ok("(bytes)"));
        check(Value::Date(2024, 2, 29), Type::DATE, Ok("2024-02-29"));
        check(Value::Date(-43, 3, 15), Type::DATE, Ok("0044-03-15 BC"));
        check(Value::Time(1, 2, 3, 4_000), Type::TIME, Ok("01:02:03.000004000"));
        check(
            Value::DateTime(0, 12, 31, 23, 59, 59, 0),
            Type::TIMESTAMPTZ,
            Ok("0001-12-31 23:59:59.000000000+00 BC"),
        );
        check(Value::Timestamp(-1), Type::TIMESTAMPTZ, Ok("1969-12-31 23:59:59+00"));
        check(Value::Timestamp(-1), Type::INT8, Ok("-1"));
        let interval = Interval {
            months: 14,
            days: -3,
            micros: 5,
        };
        check(
            Value::Interval(interval),
            Type::INTERVAL,
            Ok("14 mons -3 days 5 microseconds"),
        );
    }

    #[test]
    fn elements_cannot_end_their_array_or_range() {
        let items = vec![Some("a,b".into()), None, Some("NULL".into()), Some(r#"\"}"#.into())];
        check(
            Value::ArrayText(items),
            Type::TEXT_ARRAY,
            Ok(r#"{"a,b",NULL,"NULL","\\\"}"}"#),
        );
        check(Value::ArrayInt32(vec![]), Type::INT4_ARRAY, Ok("{}"));
        let bound = |value: &str, inclusive| {
            Some(Bound {
                value: value.to_owned(),
                inclusive,
            })
        };
        let range = Range {
            lower: bound("1.5", true),
            upper: bound("2,3", false),
        };
        check(Value::RangeDecimal(range), Type::NUM_RANGE, Ok(r#"["1.5","2,3")"#));
        let open = Range::<i64> {
            lower: None,
            upper: None,
        };
        check(Value::RangeInt64(open), Type::INT8_RANGE, Ok("(,)"));
    }

    #[test]
    fn what_is_no_value_is_refused_by_name() {
        check(Value::Date(2023, 2, 29), Type::DATE, Err("there is no day 2023-2-29"));
        check(Value::Date(2023, 13, 1), Type::DATE, Err("there is no day 2023-13-1"));
        check(Value::Date(2023, 1, 0), Type::DATE, Err("there is no day 2023-1-0"));
        check(
            Value::Time(24, 0, 0, 0),
            Type::TIME,
            Err("there is no time 24:0:0 and 0 ns"),
        );
        check(Value::Binary(vec![]), Type::TEXT, Err("bytes were given for a text"));
        let nul = "PostgreSQL's text cannot hold the character U+0000";
        check(Value::Text("a\0".into()), Type::TEXT, Err(nul));
        let unsupported = "a value of an unsupported type cannot be a parameter";
        check(Value::Unsupported(vec![]), Type::POINT, Err(unsupported));
    }
}
