//! Values, statements and rows as JSON, between processes of the platform and in its tables.
//!
//! `null` · `1` integer · `1.0` real · `"text"` · `{"blob": base64}` · `{"real": "inf"}` for what JSON cannot say.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::value::Value;

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Real(number) if number.is_finite() => serializer.serialize_f64(*number),
            Value::Real(number) => tagged(serializer, "real", &number.to_string()),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Blob(bytes) => tagged(serializer, "blob", &BASE64_STANDARD.encode(bytes)),
        }
    }
}

fn tagged<S: Serializer>(serializer: S, tag: &str, text: &str) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(tag, text)?;
    map.end()
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("null, a number, a string, {\"blob\": base64} or {\"real\": text}")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        i64::try_from(number)
            .map(Value::Integer)
            .map_err(|_| E::custom("an integer beyond 64 bits"))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Real(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let (tag, text): (String, String) = map.next_entry()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
        match tag.as_str() {
            "blob" => BASE64_STANDARD.decode(text).map(Value::Blob).map_err(de::Error::custom),
            "real" => text.parse().map(Value::Real).map_err(de::Error::custom),
            other => Err(de::Error::unknown_field(other, &["blob", "real"])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives() {
        for (value, json) in [
            (Value::Null, "null"),
            (Value::Integer(i64::MAX), "9223372036854775807"),
            (Value::Integer(-1), "-1"),
            (Value::Real(1.0), "1.0"),
            (Value::Real(0.1 + 0.2), "0.30000000000000004"),
            (Value::Real(f64::NEG_INFINITY), r#"{"real":"-inf"}"#),
            (Value::Text("ä\"".into()), "\"ä\\\"\""),
            (Value::Blob(vec![0, 255]), r#"{"blob":"AP8="}"#),
        ] {
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Value>(json).unwrap(), value);
        }
        for bad in [
            "18446744073709551615",
            "true",
            "[1]",
            "{}",
            r#"{"blob":"?"}"#,
            r#"{"x":""}"#,
        ] {
            assert!(serde_json::from_str::<Value>(bad).is_err(), "{bad}");
        }
    }
}
