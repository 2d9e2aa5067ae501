//! The two encodings, JSON and protobuf, over one set of types, and our values in those types.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failure::Failure;
use super::proto;
use crate::agent::Refusal;
use crate::position::{Epoch, Position, Txid};
use crate::{Description, Rows, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Protobuf,
}

/// Bits of a replication index that are the transaction; those above are the epoch.
const TXID_BITS: u32 = 32;
/// All of them.
const LARGEST_TXID: u64 = (1 << TXID_BITS) - 1;

impl Encoding {
    pub(super) fn decode<T: DeserializeOwned + Message + Default>(self, body: &[u8]) -> Result<T, Refusal> {
        match self {
            Encoding::Json => serde_json::from_slice(body)
                .map_err(|error| Refusal::Malformed(format!("Could not deserialize JSON request body: {error}"))),
            Encoding::Protobuf => T::decode(body)
                .map_err(|error| Refusal::Malformed(format!("Could not decode Protobuf request body: {error}"))),
        }
    }

    /// A whole answer.
    pub(super) fn answer<T: Serialize + Message>(self, body: &T) -> Response {
        let (body, content_type) = match self {
            Encoding::Json => (to_json(body), "application/json"),
            Encoding::Protobuf => (body.encode_to_vec(), "application/x-protobuf"),
        };
        response(body, content_type)
    }

    /// One of the items that a cursor's answer consists of.
    pub(super) fn item<T: Serialize + Message>(self, item: &T, into: &mut Vec<u8>) {
        match self {
            Encoding::Json => {
                into.extend(to_json(item));
                into.push(b'\n');
            }
            Encoding::Protobuf => into.extend(item.encode_length_delimited_to_vec()),
        }
    }

    pub(super) fn items(self, items: Vec<u8>) -> Response {
        let content_type = match self {
            Encoding::Json => "text/plain",
            Encoding::Protobuf => "application/octet-stream",
        };
        response(items, content_type)
    }

    /// Rows as Hrana has them.
    pub(super) fn result(self, rows: Rows, want_rows: bool) -> Result<proto::StmtResult, Failure> {
        let mut decltypes = rows.decltypes.into_iter();
        let cols: Vec<proto::Col> = rows
            .columns
            .into_iter()
            .map(|name| proto::Col {
                name: Some(name),
                decltype: decltypes.next().flatten(),
            })
            .collect();
        let mut told = Vec::new();
        for row in if want_rows { rows.rows } else { Vec::new() } {
            let values = row.into_iter().zip(&cols).map(|(value, column)| match value {
                Value::Real(number) if self == Encoding::Json && !number.is_finite() => Err(Failure::NotFinite {
                    column: column.name.clone().unwrap_or_default(),
                }),
                value => Ok(to_proto(value)),
            });
            told.push(proto::Row {
                values: values.collect::<Result<_, _>>()?,
            });
        }
        Ok(proto::StmtResult {
            cols,
            rows: told,
            affected_row_count: rows.changes,
            last_insert_rowid: (rows.changes > 0).then_some(rows.last_insert_rowid),
            ..proto::StmtResult::default()
        })
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data is JSON")
}

fn response(body: Vec<u8>, content_type: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

pub(super) fn to_proto(value: Value) -> proto::ValueMessage {
    let value = match value {
        Value::Null => proto::Value::Null(proto::Nothing {}),
        Value::Integer(number) => proto::Value::Integer(number),
        Value::Real(number) => proto::Value::Float(number),
        Value::Text(text) => proto::Value::Text(text),
        Value::Blob(bytes) => proto::Value::Blob(bytes),
    };
    proto::ValueMessage { value: Some(value) }
}

pub(super) fn from_proto(message: proto::ValueMessage) -> Result<Value, Refusal> {
    Ok(match message.value {
        None => return Err(Refusal::Malformed("a value has no known type".to_owned())),
        Some(proto::Value::Null(_)) => Value::Null,
        Some(proto::Value::Integer(number)) => Value::Integer(number),
        Some(proto::Value::Float(number)) => Value::Real(number),
        Some(proto::Value::Text(text)) => Value::Text(text),
        Some(proto::Value::Blob(bytes)) => Value::Blob(bytes),
    })
}

pub(super) fn description(description: Description) -> proto::DescribeResult {
    let parameter = |name| proto::DescribeParam { name };
    let column = |column: crate::DescribedColumn| proto::Col {
        name: Some(column.name),
        decltype: column.decltype,
    };
    proto::DescribeResult {
        params: description.parameters.into_iter().map(parameter).collect(),
        cols: description.columns.into_iter().map(column).collect(),
        is_explain: description.is_explain,
        is_readonly: description.is_readonly,
    }
}

/// A position as Hrana's one number; `None` when there is none. The largest transaction that fits stands for all that are
/// larger.
pub(super) fn to_index(position: Position) -> Option<u64> {
    let txid = position.txid.0.min(LARGEST_TXID);
    (position != Position::default()).then(|| u64::from(position.epoch.0) << TXID_BITS | txid)
}

/// A position that has at least what the index stands for. If that may be any large transaction, only the primary has it
/// for sure.
pub(super) fn from_index(index: u64) -> Position {
    let txid = index & LARGEST_TXID;
    Position {
        epoch: Epoch((index >> TXID_BITS) as u32),
        txid: Txid(if txid == LARGEST_TXID { u64::MAX } else { txid }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        Rows {
            columns: vec!["a".to_owned(), "b".to_owned()],
            decltypes: vec![Some("INTEGER".to_owned()), None],
            rows: vec![
                vec![Value::Integer(i64::MAX), Value::Blob(vec![0, 255, 7])],
                vec![Value::Null, Value::Real(0.5)],
            ],
            changes: 2,
            last_insert_rowid: -3,
        }
    }

    #[test]
    fn json_is_as_the_specification_has_it() {
        let result = Encoding::Json.result(rows(), true).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&to_json(&result)).unwrap();
        assert_eq!(
            json["cols"],
            serde_json::json!([{ "name": "a", "decltype": "INTEGER" }, { "name": "b", "decltype": null }])
        );
        assert_eq!(
            json["rows"],
            serde_json::json!([
                [{ "type": "integer", "value": "9223372036854775807" }, { "type": "blob", "base64": "AP8H" }],
                [{ "type": "null" }, { "type": "float", "value": 0.5 }],
            ])
        );
        assert_eq!(
            (&json["affected_row_count"], &json["last_insert_rowid"]),
            (&2.into(), &"-3".into())
        );
        let without = Encoding::Json.result(rows(), false).unwrap();
        assert_eq!((without.rows.len(), without.cols.len()), (0, 2));
    }

    #[test]
    fn a_request_is_read_in_both_encodings() {
        let json = r#"{ "baton": null, "requests": [{ "type": "execute", "stmt": {
            "sql": "SELECT ?", "args": [{ "type": "integer", "value": "-1" }, { "type": "blob", "base64": "AP8H" }],
            "named_args": [{ "name": "a", "value": { "type": "text", "value": "ä" } }], "want_rows": false } },
            { "type": "close" }] }"#;
        let body: proto::PipelineReqBody = Encoding::Json.decode(json.as_bytes()).unwrap();
        let Some(proto::StreamRequest::Execute(execute)) = &body.requests[0].request else {
            panic!("an execute");
        };
        let args: Vec<Value> = execute
            .stmt
            .args
            .iter()
            .cloned()
            .map(|v| from_proto(v).unwrap())
            .collect();
        assert_eq!(args, [Value::Integer(-1), Value::Blob(vec![0, 255, 7])]);
        assert_eq!(execute.stmt.want_rows, Some(false));
        assert_eq!(execute.stmt.named_args[0].name, "a");

        // PipelineReqBody { requests: [{ execute: { stmt: { sql: "SELECT 1", args: [{ integer: -1 }] } } }] }
        let stmt = [&[0x0a, 8][..], b"SELECT 1", &[0x1a, 2, 0x10, 1]].concat();
        let execute = [&[0x0a, stmt.len() as u8][..], &stmt].concat();
        let request = [&[0x12, execute.len() as u8][..], &execute].concat();
        let bytes = [&[0x12, request.len() as u8][..], &request].concat();
        let body: proto::PipelineReqBody = Encoding::Protobuf.decode(&bytes).unwrap();
        let Some(proto::StreamRequest::Execute(execute)) = &body.requests[0].request else {
            panic!("an execute");
        };
        assert_eq!(execute.stmt.sql.as_deref(), Some("SELECT 1"));
        assert_eq!(from_proto(execute.stmt.args[0].clone()).unwrap(), Value::Integer(-1));

        for (encoding, bad) in [
            (Encoding::Json, &b"{"[..]),
            (Encoding::Json, br#"{ "requests": [{ "type": "fly" }] }"#),
            (Encoding::Protobuf, &[0x12, 200]),
        ] {
            assert!(encoding.decode::<proto::PipelineReqBody>(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_json_cannot_say_is_an_error_and_not_null() {
        let infinite = || Rows {
            columns: vec!["a".to_owned()],
            rows: vec![vec![Value::Real(f64::INFINITY)]],
            ..Rows::default()
        };
        assert!(Encoding::Json.result(infinite(), true).is_err());
        assert!(Encoding::Protobuf.result(infinite(), true).is_ok());
    }

    #[test]
    fn positions_fit_into_an_index() {
        let position = |epoch, txid| Position {
            epoch: Epoch(epoch),
            txid: Txid(txid),
        };
        let primary_only = |epoch| Some(position(epoch, u64::MAX));
        for (at, back) in [
            (position(1, 1), Some(position(1, 1))),
            (
                position(u32::MAX, LARGEST_TXID - 1),
                Some(position(u32::MAX, LARGEST_TXID - 1)),
            ),
            (position(u32::MAX, LARGEST_TXID), primary_only(u32::MAX)),
            (position(1, 1 << 32), primary_only(1)),
            (position(1, u64::MAX), primary_only(1)),
            (position(0, 0), None),
        ] {
            assert_eq!(to_index(at).map(from_index), back, "{at}");
        }
        assert!(to_index(position(2, 1)) > to_index(position(1, u64::MAX)));
    }
}
