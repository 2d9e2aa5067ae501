//! Values, columns and rows as guests know them, and as JSON between processes of the platform.

use serde::{Deserialize, Serialize};

/// A value, as a parameter or in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    Null,
    Boolean(bool),
    /// PostgreSQL's `"char"`.
    Int8(i8),
    Int16(i16),
    Int32(i32),
    Int64(i64),
    #[serde(with = "as_text")]
    Float32(f32),
    #[serde(with = "as_text")]
    Float64(f64),
    Text(String),
    #[serde(with = "as_base64")]
    Binary(Vec<u8>),
    /// Year (0 is 1 BC), month, day.
    Date(i32, u8, u8),
    /// Hour, minute, second, nanosecond.
    Time(u8, u8, u8, u32),
    /// In UTC: year, month, day, hour, minute, second, nanosecond.
    DateTime(i32, u8, u8, u8, u8, u8, u32),
    /// Seconds since 1970 in UTC. Only a parameter.
    Timestamp(i64),
    Uuid(String),
    /// The text of `json` or `jsonb`.
    Json(String),
    /// In decimal notation, of any length; also `NaN`, `Infinity` and `-Infinity`.
    Decimal(String),
    RangeInt32(Range<i32>),
    RangeInt64(Range<i64>),
    RangeDecimal(Range<String>),
    ArrayInt32(Vec<Option<i32>>),
    ArrayInt64(Vec<Option<i64>>),
    ArrayDecimal(Vec<Option<String>>),
    ArrayText(Vec<Option<String>>),
    Interval(Interval),
    /// A type that is none of these, as PostgreSQL sends it in binary. Only in a row.
    #[serde(with = "as_base64")]
    Unsupported(Vec<u8>),
}

/// `None` is no bound. The empty range is `[0,0)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Range<T> {
    pub lower: Option<Bound<T>>,
    pub upper: Option<Bound<T>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bound<T> {
    pub value: T,
    pub inclusive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

/// What a column holds, NULL aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataType {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Text,
    Binary,
    Date,
    Time,
    DateTime,
    Uuid,
    Json,
    Decimal,
    RangeInt32,
    RangeInt64,
    RangeDecimal,
    ArrayInt32,
    ArrayInt64,
    ArrayDecimal,
    ArrayText,
    Interval,
    /// PostgreSQL's name of a type whose values are [`Value::Unsupported`].
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
}

/// The whole result of one statement. Each row has as many values as there are columns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RowSet {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
}

impl Value {
    /// Bytes it takes in memory.
    pub(super) fn size_bytes(&self) -> usize {
        let owned = match self {
            Value::Text(text) | Value::Uuid(text) | Value::Json(text) | Value::Decimal(text) => text.len(),
            Value::Binary(bytes) | Value::Unsupported(bytes) => bytes.len(),
            Value::ArrayInt32(items) => items.len() * size_of::<Option<i32>>(),
            Value::ArrayInt64(items) => items.len() * size_of::<Option<i64>>(),
            Value::ArrayDecimal(items) | Value::ArrayText(items) => items
                .iter()
                .map(|item| size_of::<Option<String>>() + item.as_ref().map_or(0, String::len))
                .sum(),
            _ => 0,
        };
        size_of::<Value>() + owned
    }
}

/// Numbers JSON cannot say all of: NaN and the infinities. Rust's text of a float names exactly that float.
mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(number: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<T, D::Error>
    where
        T::Err: Display,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

mod as_base64 {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_the_way_between_processes() {
        let range = Range {
            lower: Some(Bound {
                value: 1,
                inclusive: true,
            }),
            upper: None,
        };
        for (value, json) in [
            (Value::Null, r#""null""#),
            (Value::Boolean(true), r#"{"boolean":true}"#),
            (Value::Int64(i64::MIN), r#"{"int64":-9223372036854775808}"#),
            (Value::Float64(f64::INFINITY), r#"{"float64":"inf"}"#),
            (Value::Float32(0.1), r#"{"float32":"0.1"}"#),
            (Value::Text("ä\0".into()), r#"{"text":"ä\u0000"}"#),
            (Value::Binary(vec![0, 255]), r#"{"binary":"AP8="}"#),
            (Value::Date(-43, 3, 15), r#"{"date":[-43,3,15]}"#),
            (
                Value::RangeInt32(range),
                r#"{"range_int32":{"lower":{"value":1,"inclusive":true},"upper":null}}"#,
            ),
            (
                Value::ArrayText(vec![None, Some("x".into())]),
                r#"{"array_text":[null,"x"]}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Value>(json).unwrap(), value);
        }
        let nan = serde_json::to_string(&Value::Float64(f64::NAN)).unwrap();
        assert!(matches!(serde_json::from_str(&nan).unwrap(), Value::Float64(number) if number.is_nan()));
    }
}
