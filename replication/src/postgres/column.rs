//! What a statement returns: columns and values, from PostgreSQL's binary formats.
//!
//! The formats are those of its send functions (`src/backend/utils/adt` there); big-endian throughout.

use std::error::Error;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Kind, Type};

use super::civil;
use super::error::PostgresError;
use super::value::{Bound, Column, DataType, Interval, Range, Value};

/// From 1970-01-01 to 2000-01-01, PostgreSQL's first day.
const DAYS_TO_2000: i64 = 10_957;
const MICROS_A_SECOND: i64 = 1_000_000;
const MICROS_A_DAY: i64 = 24 * 60 * 60 * MICROS_A_SECOND;

pub(super) fn described(column: &tokio_postgres::Column) -> Column {
    Column {
        name: column.name().to_owned(),
        data_type: data_type(column.type_()),
    }
}

/// The values of a row, or the first column whose value cannot be said.
pub(super) fn values(row: &Row) -> Result<Vec<Value>, PostgresError> {
    let columns = row.columns().iter().enumerate();
    columns
        .map(|(index, column)| {
            // Every type is accepted and nothing is read yet: only a column that is not there could fail.
            let raw: Raw = row.get(index);
            raw.0
                .map_or(Ok(Value::Null), |raw| value(column.type_(), raw))
                .map_err(|message| PostgresError::Value {
                    column: column.name().to_owned(),
                    message,
                })
        })
        .collect()
}

struct Raw<'r>(Option<&'r [u8]>);

impl<'r> FromSql<'r> for Raw<'r> {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Raw<'r>, Box<dyn Error + Sync + Send>> {
        Ok(Raw(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Raw<'r>, Box<dyn Error + Sync + Send>> {
        Ok(Raw(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn data_type(kind: &Type) -> DataType {
    match *kind {
        Type::BOOL => DataType::Boolean,
        Type::CHAR => DataType::Int8,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::XML => DataType::Text,
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date,
        Type::TIME => DataType::Time,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => DataType::DateTime,
        Type::UUID => DataType::Uuid,
        Type::JSON | Type::JSONB => DataType::Json,
        Type::NUMERIC => DataType::Decimal,
        Type::INT4_RANGE => DataType::RangeInt32,
        Type::INT8_RANGE => DataType::RangeInt64,
        Type::NUM_RANGE => DataType::RangeDecimal,
        Type::INT4_ARRAY => DataType::ArrayInt32,
        Type::INT8_ARRAY => DataType::ArrayInt64,
        Type::NUMERIC_ARRAY => DataType::ArrayDecimal,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::BPCHAR_ARRAY => DataType::ArrayText,
        Type::INTERVAL => DataType::Interval,
        _ => match kind.kind() {
            Kind::Enum(_) => DataType::Text,
            Kind::Domain(base) => data_type(base),
            // An extension's type has no fixed number; this one is a text that ignores case.
            _ if kind.name() == "citext" => DataType::Text,
            _ => DataType::Other(kind.name().to_owned()),
        },
    }
}

fn value(kind: &Type, raw: &[u8]) -> Result<Value, String> {
    let mut input = Input(raw);
    let value = match data_type(kind) {
        DataType::Boolean => Value::Boolean(input.take::<1>()?[0] != 0),
        DataType::Int8 => Value::Int8(i8::from_be_bytes(input.take()?)),
        DataType::Int16 => Value::Int16(i16::from_be_bytes(input.take()?)),
        DataType::Int32 => Value::Int32(input.int32()?),
        DataType::Int64 => Value::Int64(input.int64()?),
        DataType::Float32 => Value::Float32(f32::from_be_bytes(input.take()?)),
        DataType::Float64 => Value::Float64(f64::from_be_bytes(input.take()?)),
        DataType::Text => Value::Text(text(input.rest())?),
        DataType::Binary => Value::Binary(input.rest().to_vec()),
        DataType::Date => date(input.int32()?)?,
        DataType::Time => {
            let (hour, minute, second, nanosecond) = time(input.int64()?);
            Value::Time(hour, minute, second, nanosecond)
        }
        DataType::DateTime => date_time(input.int64()?)?,
        DataType::Uuid => Value::Uuid(uuid::Uuid::from_bytes(input.take()?).to_string()),
        DataType::Json => {
            // The binary form of jsonb is the version 1 and its text.
            if *kind == Type::JSONB && input.take::<1>()? != [1] {
                return Err("a jsonb of an unknown version".to_owned());
            }
            Value::Json(text(input.rest())?)
        }
        DataType::Decimal => Value::Decimal(decimal(&mut input)?),
        DataType::RangeInt32 => Value::RangeInt32(range(&mut input, |input| input.int32())?),
        DataType::RangeInt64 => Value::RangeInt64(range(&mut input, |input| input.int64())?),
        DataType::RangeDecimal => Value::RangeDecimal(range(&mut input, decimal)?),
        DataType::ArrayInt32 => Value::ArrayInt32(array(&mut input, |input| input.int32())?),
        DataType::ArrayInt64 => Value::ArrayInt64(array(&mut input, |input| input.int64())?),
        DataType::ArrayDecimal => Value::ArrayDecimal(array(&mut input, decimal)?),
        DataType::ArrayText => Value::ArrayText(array(&mut input, |input| text(input.rest()))?),
        DataType::Interval => {
            let (micros, days, months) = (input.int64()?, input.int32()?, input.int32()?);
            Value::Interval(Interval { months, days, micros })
        }
        DataType::Other(_) => Value::Unsupported(input.rest().to_vec()),
    };
    match input.0 {
        [] => Ok(value),
        rest => Err(format!("{} bytes too many for a {}", rest.len(), kind.name())),
    }
}

/// Bytes that are read from the front.
struct Input<'r>(&'r [u8]);

impl<'r> Input<'r> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (first, rest) = self.0.split_first_chunk().ok_or("bytes are missing")?;
        self.0 = rest;
        Ok(*first)
    }

    fn int16(&mut self) -> Result<i16, String> {
        self.take().map(i16::from_be_bytes)
    }

    fn int32(&mut self) -> Result<i32, String> {
        self.take().map(i32::from_be_bytes)
    }

    fn int64(&mut self) -> Result<i64, String> {
        self.take().map(i64::from_be_bytes)
    }

    fn rest(&mut self) -> &'r [u8] {
        std::mem::take(&mut self.0)
    }

    /// Bytes behind their length; `None` for the length -1, which is NULL.
    fn sized(&mut self) -> Result<Option<Input<'r>>, String> {
        match usize::try_from(self.int32()?) {
            Err(_) => Ok(None),
            Ok(length) => {
                let (first, rest) = self.0.split_at_checked(length).ok_or("bytes are missing")?;
                self.0 = rest;
                Ok(Some(Input(first)))
            }
        }
    }
}

fn text(raw: &[u8]) -> Result<String, String> {
    String::from_utf8(raw.to_vec()).map_err(|_| "text that is not UTF-8".to_owned())
}

fn date(days: i32) -> Result<Value, String> {
    if days == i32::MAX || days == i32::MIN {
        return Err("an infinite date has no year".to_owned());
    }
    let (year, month, day) = civil::date(i64::from(days) + DAYS_TO_2000);
    Ok(Value::Date(year as i32, month, day))
}

/// Hour, minute, second, nanosecond. PostgreSQL's 24:00:00 stays what it is.
fn time(micros: i64) -> (u8, u8, u8, u32) {
    let seconds = micros / MICROS_A_SECOND;
    let nanosecond = (micros % MICROS_A_SECOND) as u32 * 1000;
    (
        (seconds / 3600) as u8,
        (seconds / 60 % 60) as u8,
        (seconds % 60) as u8,
        nanosecond,
    )
}

fn date_time(micros: i64) -> Result<Value, String> {
    if micros == i64::MAX || micros == i64::MIN {
        return Err("an infinite time has no year".to_owned());
    }
    let (year, month, day) = civil::date(micros.div_euclid(MICROS_A_DAY) + DAYS_TO_2000);
    let (hour, minute, second, nanosecond) = time(micros.rem_euclid(MICROS_A_DAY));
    Ok(Value::DateTime(
        year as i32,
        month,
        day,
        hour,
        minute,
        second,
        nanosecond,
    ))
}

/// Number of groups of four digits, weight of the first group (in groups before the point, less one), sign, digits behind
/// the point, groups; 16 bits each (`numeric_send`).
fn decimal(input: &mut Input<'_>) -> Result<String, String> {
    let (count, weight) = (input.int16()?, i32::from(input.int16()?));
    let (sign, scale) = (input.int16()? as u16, input.int16()?);
    let groups = (0..count).map(|_| input.int16()).collect::<Result<Vec<_>, _>>()?;
    let mut text = match sign {
        0x0000 => String::new(),
        0x4000 => "-".to_owned(),
        0xC000 => return Ok("NaN".to_owned()),
        0xD000 => return Ok("Infinity".to_owned()),
        0xF000 => return Ok("-Infinity".to_owned()),
        other => return Err(format!("a numeric with the sign {other:#x}")),
    };
    let group = |power: i32| {
        let index = usize::try_from(weight - power).ok();
        index.and_then(|index| groups.get(index)).copied().unwrap_or(0)
    };
    text += &group(weight.max(0)).to_string();
    for power in (0..weight.max(0)).rev() {
        text += &format!("{:04}", group(power));
    }
    let scale = usize::try_from(scale).map_err(|_| "a numeric with a negative scale")?;
    if scale > 0 {
        let mut fraction = String::new();
        let mut power = -1;
        while fraction.len() < scale {
            fraction += &format!("{:04}", group(power));
            power -= 1;
        }
        fraction.truncate(scale);
        text = text + "." + &fraction;
    }
    Ok(text)
}

/// Flags, and the bounds that are not infinite, each behind its length (`range_send`).
fn range<T: FromZero>(
    input: &mut Input<'_>,
    mut read: impl FnMut(&mut Input<'_>) -> Result<T, String>,
) -> Result<Range<T>, String> {
    const EMPTY: u8 = 0x01;
    const LOWER_INCLUSIVE: u8 = 0x02;
    const UPPER_INCLUSIVE: u8 = 0x04;
    const LOWER_INFINITE: u8 = 0x08;
    const UPPER_INFINITE: u8 = 0x10;
    let [flags] = input.take()?;
    let has = |flag: u8| flags & flag != 0;
    if has(EMPTY) {
        let bound = |inclusive| {
            Some(Bound {
                value: T::zero(),
                inclusive,
            })
        };
        return Ok(Range {
            lower: bound(true),
            upper: bound(false),
        });
    }
    let mut bound = |infinite, inclusive| {
        if infinite {
            return Ok(None);
        }
        let mut value = input.sized()?.ok_or("a bound is missing")?;
        Ok::<_, String>(Some(Bound {
            value: read(&mut value)?,
            inclusive,
        }))
    };
    Ok(Range {
        lower: bound(has(LOWER_INFINITE), has(LOWER_INCLUSIVE))?,
        upper: bound(has(UPPER_INFINITE), has(UPPER_INCLUSIVE))?,
    })
}

/// Dimensions, whether there are NULLs, type of the elements, size and first index of each dimension, and the elements,
/// each behind its length (`array_send`).
fn array<T>(
    input: &mut Input<'_>,
    mut read: impl FnMut(&mut Input<'_>) -> Result<T, String>,
) -> Result<Vec<Option<T>>, String> {
    let dimensions = input.int32()?;
    let (_has_nulls, _kind) = (input.int32()?, input.int32()?);
    match dimensions {
        0 => return Ok(Vec::new()),
        1 => {}
        more => return Err(format!("an array of {more} dimensions; select its elements")),
    }
    let (size, _first) = (input.int32()?, input.int32()?);
    (0..size)
        .map(|_| input.sized()?.map(|mut element| read(&mut element)).transpose())
        .collect()
}

/// What the bounds of an empty range are said to be.
trait FromZero {
    fn zero() -> Self;
}

impl FromZero for i32 {
    fn zero() -> i32 {
        0
    }
}

impl FromZero for i64 {
    fn zero() -> i64 {
        0
    }
}

impl FromZero for String {
    fn zero() -> String {
        "0".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Type, raw: &[u8], expected: Result<Value, &str>) {
        let read = value(&kind, raw);
        assert_eq!(
            read.as_ref().map_err(String::as_str),
            expected.as_ref().map_err(|why| *why),
            "{raw:?}"
        );
    }

    fn shorts(shorts: &[u16]) -> Vec<u8> {
        shorts.iter().flat_map(|short| short.to_be_bytes()).collect()
    }

    fn ints(ints: &[i32]) -> Vec<u8> {
        ints.iter().flat_map(|int| int.to_be_bytes()).collect()
    }

    #[test]
    fn times_are_read() {
        check(Type::DATE, &ints(&[0]), Ok(Value::Date(2000, 1, 1)));
        check(Type::DATE, &ints(&[-730_119]), Ok(Value::Date(1, 1, 1)));
        check(Type::DATE, &ints(&[-730_120]), Ok(Value::Date(0, 12, 31)));
        check(Type::DATE, &ints(&[i32::MAX]), Err("an infinite date has no year"));
        check(
            Type::TIME,
            &86_399_999_999_i64.to_be_bytes(),
            Ok(Value::Time(23, 59, 59, 999_999_000)),
        );
        check(
            Type::TIMESTAMPTZ,
            &(-1_i64).to_be_bytes(),
            Ok(Value::DateTime(1999, 12, 31, 23, 59, 59, 999_999_000)),
        );
        check(
            Type::TIMESTAMP,
            &i64::MIN.to_be_bytes(),
            Err("an infinite time has no year"),
        );
    }

    #[test]
    fn decimals_are_read_whole() {
        for (groups, expected) in [
            (&[0, 0, 0, 0][..], "0"),
            (&[0, 0, 0, 2], "0.00"),
            (&[1, 0, 0, 0, 7], "7"),
            (&[1, 1, 0, 0, 7], "70000"),
            (&[2, 1, 0x4000, 0, 12, 34], "-120034"),
            (&[2, 0, 0, 3, 12, 3450], "12.345"),
            (&[1, 0xFFFF, 0, 4, 5], "0.0005"),
            (&[1, 0xFFFE, 0, 8, 5000], "0.00005000"),
            (&[0, 0, 0xC000, 0], "NaN"),
            (&[0, 0, 0xF000, 0], "-Infinity"),
        ] {
            check(Type::NUMERIC, &shorts(groups), Ok(Value::Decimal(expected.to_owned())));
        }
        check(Type::NUMERIC, &shorts(&[2, 0, 0, 0, 1]), Err("bytes are missing"));
        check(
            Type::NUMERIC,
            &shorts(&[0, 0, 0x1234, 0]),
            Err("a numeric with the sign 0x1234"),
        );
    }

    #[test]
    fn arrays_and_ranges_are_read() {
        let array = ints(&[1, 1, 23, 2, 1, -1, 4, 9]);
        check(Type::INT4_ARRAY, &array, Ok(Value::ArrayInt32(vec![None, Some(9)])));
        check(Type::TEXT_ARRAY, &ints(&[0, 0, 25]), Ok(Value::ArrayText(vec![])));
        let matrix = ints(&[2, 0, 23, 1, 1, 1, 1, 4, 9]);
        check(
            Type::INT4_ARRAY,
            &matrix,
            Err("an array of 2 dimensions; select its elements"),
        );
        let bound = |value, inclusive| Some(Bound { value, inclusive });
        let range = |lower, upper| Ok(Value::RangeInt32(Range { lower, upper }));
        let raw = [&[0x02][..], &ints(&[4, 1, 4, 5])].concat();
        check(Type::INT4_RANGE, &raw, range(bound(1, true), bound(5, false)));
        check(Type::INT4_RANGE, &[0x18], range(None, None));
        check(Type::INT4_RANGE, &[0x01], range(bound(0, true), bound(0, false)));
    }

    #[test]
    fn what_does_not_fit_its_type_is_an_error() {
        check(Type::INT4, &[0, 0], Err("bytes are missing"));
        check(Type::INT4, &[0; 5], Err("1 bytes too many for a int4"));
        check(Type::TEXT, &[0xFF], Err("text that is not UTF-8"));
        check(Type::JSONB, b"\x02{}", Err("a jsonb of an unknown version"));
        check(Type::JSONB, b"\x01{}", Ok(Value::Json("{}".to_owned())));
        check(Type::POINT, &[1, 2], Ok(Value::Unsupported(vec![1, 2])));
    }
}
