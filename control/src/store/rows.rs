//! Rows as types: a struct takes columns by their names, a tuple in their order.

use selvedge_replication::{Rows, Value};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer};

pub(super) fn typed<T: DeserializeOwned>(rows: Rows) -> Result<Vec<T>, serde_json::Error> {
    let columns = rows.columns;
    let typed = rows.rows.into_iter().map(|values| {
        T::deserialize(Row {
            columns: &columns,
            values,
        })
    });
    typed.collect()
}

struct Row<'c> {
    columns: &'c [String],
    values: Vec<Value>,
}

impl<'de> Deserializer<'de> for Row<'_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let cells = self.values.into_iter().map(Cell);
        let names = self.columns.iter().map(String::as_str);
        MapDeserializer::new(names.zip(cells)).deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        SeqDeserializer::new(self.values.into_iter().map(Cell)).deserialize_tuple(len, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple_struct map struct enum identifier ignored_any
    }
}

struct Cell(Value);

impl<'de> IntoDeserializer<'de, serde_json::Error> for Cell {
    type Deserializer = Cell;

    fn into_deserializer(self) -> Cell {
        self
    }
}

impl<'de> Deserializer<'de> for Cell {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Real(number) => visitor.visit_f64(number),
            Value::Text(text) => visitor.visit_string(text),
            Value::Blob(bytes) => visitor.visit_byte_buf(bytes),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Text(text) => text.into_deserializer().deserialize_enum(name, variants, visitor),
            _ => Err(de::Error::custom("expected a text")),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A column of bytes.
pub(crate) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
    deserializer.deserialize_byte_buf(Bytes)
}

/// A column of JSON text.
pub(crate) fn json_text<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    serde_json::from_str(&text).map_err(de::Error::custom)
}

/// A column of JSON text, or NULL.
pub(crate) fn json_text_or_null<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let value = text.map(|text| serde_json::from_str(&text).map_err(de::Error::custom));
    value.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Flag {
        name: String,
        version: u32,
        state: State,
        #[serde(deserialize_with = "json_text")]
        rule: serde_json::Value,
        #[serde(deserialize_with = "json_text_or_null")]
        load: Option<Vec<u8>>,
        message: Option<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum State {
        Active,
    }

    #[test]
    fn columns_become_fields() {
        let rows = |state: &str| Rows {
            columns: ["rule", "name", "version", "state", "load", "message"]
                .map(str::to_owned)
                .to_vec(),
            rows: vec![vec![
                "{\"a\":1}".into(),
                "x".into(),
                7.into(),
                state.into(),
                Value::Null,
                Value::Null,
            ]],
            ..Rows::default()
        };
        let expected = Flag {
            name: "x".to_owned(),
            version: 7,
            state: State::Active,
            rule: serde_json::json!({ "a": 1 }),
            load: None,
            message: None,
        };
        assert_eq!(typed::<Flag>(rows("active")).unwrap(), [expected]);
        assert!(typed::<Flag>(rows("asleep")).is_err());
        let tuple = typed::<(String, i64)>(Rows {
            rows: vec![vec!["x".into(), 7.into()]],
            ..Rows::default()
        });
        assert_eq!(tuple.unwrap(), [("x".to_owned(), 7)]);
    }
}
