//! The messages of Hrana over HTTP, versions 2 and 3, once for both encodings.
//!
//! The fields' tags are those of `hrana/http.proto` and `hrana/hrana.proto`, their JSON that of `HRANA_3_SPEC.md`, both
//! in github.com/tursodatabase/libsql. Protobuf wants a message around each choice and JSON does not: the types named
//! `…Message` are transparent there. A choice that is absent is one of a newer client.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use prost::{Message, Oneof};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct PipelineReqBody {
    #[serde(default)]
    #[prost(string, optional, tag = "1")]
    pub(super) baton: Option<String>,
    #[prost(message, repeated, tag = "2")]
    pub(super) requests: Vec<RequestMessage>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct PipelineRespBody {
    #[prost(string, optional, tag = "1")]
    pub(super) baton: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) base_url: Option<String>,
    #[prost(message, repeated, tag = "3")]
    pub(super) results: Vec<ResultMessage>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct CursorReqBody {
    #[serde(default)]
    #[prost(string, optional, tag = "1")]
    pub(super) baton: Option<String>,
    #[prost(message, required, tag = "2")]
    pub(super) batch: Batch,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct CursorRespBody {
    #[prost(string, optional, tag = "1")]
    pub(super) baton: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) base_url: Option<String>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct RequestMessage {
    #[prost(oneof = "StreamRequest", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub(super) request: Option<StreamRequest>,
}

#[derive(Clone, PartialEq, Oneof, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum StreamRequest {
    #[prost(message, tag = "1")]
    Close(Nothing),
    #[prost(message, tag = "2")]
    Execute(ExecuteReq),
    #[prost(message, tag = "3")]
    Batch(BatchReq),
    #[prost(message, tag = "4")]
    Sequence(SqlReq),
    #[prost(message, tag = "5")]
    Describe(SqlReq),
    #[prost(message, tag = "6")]
    StoreSql(StoreSqlReq),
    #[prost(message, tag = "7")]
    CloseSql(CloseSqlReq),
    #[prost(message, tag = "8")]
    GetAutocommit(Nothing),
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ResultMessage {
    #[prost(oneof = "StreamResult", tags = "1, 2")]
    pub(super) result: Option<StreamResult>,
}

#[derive(Clone, PartialEq, Oneof, Serialize, Deserialize)]
#[serde(into = "JsonResult", from = "JsonResult")]
pub(super) enum StreamResult {
    #[prost(message, tag = "1")]
    Ok(ResponseMessage),
    #[prost(message, tag = "2")]
    Error(Error),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum JsonResult {
    Ok { response: ResponseMessage },
    Error { error: Error },
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ResponseMessage {
    #[prost(oneof = "StreamResponse", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub(super) response: Option<StreamResponse>,
}

#[derive(Clone, PartialEq, Oneof, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum StreamResponse {
    #[prost(message, tag = "1")]
    Close(Nothing),
    #[prost(message, tag = "2")]
    Execute(ExecuteResp),
    #[prost(message, tag = "3")]
    Batch(BatchResp),
    #[prost(message, tag = "4")]
    Sequence(Nothing),
    #[prost(message, tag = "5")]
    Describe(DescribeResp),
    #[prost(message, tag = "6")]
    StoreSql(Nothing),
    #[prost(message, tag = "7")]
    CloseSql(Nothing),
    #[prost(message, tag = "8")]
    GetAutocommit(GetAutocommitResp),
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct Nothing {}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct ExecuteReq {
    #[prost(message, required, tag = "1")]
    pub(super) stmt: Stmt,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct ExecuteResp {
    #[prost(message, required, tag = "1")]
    pub(super) result: StmtResult,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct BatchReq {
    #[prost(message, required, tag = "1")]
    pub(super) batch: Batch,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct BatchResp {
    #[prost(message, required, tag = "1")]
    pub(super) result: BatchResult,
}

/// `sequence` and `describe`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct SqlReq {
    #[serde(default)]
    #[prost(string, optional, tag = "1")]
    pub(super) sql: Option<String>,
    #[serde(default)]
    #[prost(int32, optional, tag = "2")]
    pub(super) sql_id: Option<i32>,
    #[serde(default, with = "number_as_text")]
    #[prost(uint64, optional, tag = "3")]
    pub(super) replication_index: Option<u64>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct DescribeResp {
    #[prost(message, required, tag = "1")]
    pub(super) result: DescribeResult,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct StoreSqlReq {
    #[prost(int32, tag = "1")]
    pub(super) sql_id: i32,
    #[prost(string, tag = "2")]
    pub(super) sql: String,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct CloseSqlReq {
    #[prost(int32, tag = "1")]
    pub(super) sql_id: i32,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct GetAutocommitResp {
    #[prost(bool, tag = "1")]
    pub(super) is_autocommit: bool,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct Error {
    #[prost(string, tag = "1")]
    pub(super) message: String,
    #[prost(string, tag = "2")]
    pub(super) code: String,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct Stmt {
    #[serde(default)]
    #[prost(string, optional, tag = "1")]
    pub(super) sql: Option<String>,
    #[serde(default)]
    #[prost(int32, optional, tag = "2")]
    pub(super) sql_id: Option<i32>,
    #[serde(default)]
    #[prost(message, repeated, tag = "3")]
    pub(super) args: Vec<ValueMessage>,
    #[serde(default)]
    #[prost(message, repeated, tag = "4")]
    pub(super) named_args: Vec<NamedArg>,
    #[serde(default)]
    #[prost(bool, optional, tag = "5")]
    pub(super) want_rows: Option<bool>,
    #[serde(default, with = "number_as_text")]
    #[prost(uint64, optional, tag = "6")]
    pub(super) replication_index: Option<u64>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct NamedArg {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, required, tag = "2")]
    pub(super) value: ValueMessage,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StmtResult {
    #[prost(message, repeated, tag = "1")]
    pub(super) cols: Vec<Col>,
    #[prost(message, repeated, tag = "2")]
    pub(super) rows: Vec<Row>,
    #[prost(uint64, tag = "3")]
    pub(super) affected_row_count: u64,
    #[serde(with = "number_as_text")]
    #[prost(sint64, optional, tag = "4")]
    pub(super) last_insert_rowid: Option<i64>,
    #[serde(with = "number_as_text")]
    #[prost(uint64, optional, tag = "5")]
    pub(super) replication_index: Option<u64>,
    /// Not counted: libSQL's SQLite can, SQLite cannot.
    #[prost(uint64, tag = "6")]
    pub(super) rows_read: u64,
    /// Not counted.
    #[prost(uint64, tag = "7")]
    pub(super) rows_written: u64,
    #[prost(double, tag = "8")]
    pub(super) query_duration_ms: f64,
}

/// A column, also as `describe` tells of it.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct Col {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) decltype: Option<String>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Row {
    #[prost(message, repeated, tag = "1")]
    pub(super) values: Vec<ValueMessage>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct Batch {
    #[prost(message, repeated, tag = "1")]
    pub(super) steps: Vec<BatchStep>,
    #[serde(default, with = "number_as_text")]
    #[prost(uint64, optional, tag = "2")]
    pub(super) replication_index: Option<u64>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct BatchStep {
    #[serde(default)]
    #[prost(message, optional, tag = "1")]
    pub(super) condition: Option<CondMessage>,
    #[prost(message, required, tag = "2")]
    pub(super) stmt: Stmt,
}

/// By the steps' numbers; a step that did not run is in neither.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(into = "JsonBatchResult", from = "JsonBatchResult")]
pub(super) struct BatchResult {
    #[prost(btree_map = "uint32, message", tag = "1")]
    pub(super) step_results: BTreeMap<u32, StmtResult>,
    #[prost(btree_map = "uint32, message", tag = "2")]
    pub(super) step_errors: BTreeMap<u32, Error>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) replication_index: Option<u64>,
    /// How long the lists are in JSON. Not in the protocol: who reads protobuf passes over it.
    #[prost(uint32, tag = "1000")]
    pub(super) steps: u32,
}

#[derive(Serialize, Deserialize)]
struct JsonBatchResult {
    step_results: Vec<Option<StmtResult>>,
    step_errors: Vec<Option<Error>>,
    #[serde(default, with = "number_as_text")]
    replication_index: Option<u64>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct CondMessage {
    #[prost(oneof = "BatchCond", tags = "1, 2, 3, 4, 5, 6")]
    pub(super) cond: Option<BatchCond>,
}

#[derive(Clone, PartialEq, Oneof, Serialize, Deserialize)]
#[serde(into = "JsonCond", from = "JsonCond")]
pub(super) enum BatchCond {
    #[prost(uint32, tag = "1")]
    Ok(u32),
    #[prost(uint32, tag = "2")]
    Error(u32),
    #[prost(message, tag = "3")]
    Not(Box<CondMessage>),
    #[prost(message, tag = "4")]
    And(CondList),
    #[prost(message, tag = "5")]
    Or(CondList),
    #[prost(message, tag = "6")]
    IsAutocommit(Nothing),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum JsonCond {
    Ok { step: u32 },
    Error { step: u32 },
    Not { cond: Box<CondMessage> },
    And(CondList),
    Or(CondList),
    IsAutocommit {},
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct CondList {
    #[prost(message, repeated, tag = "1")]
    pub(super) conds: Vec<CondMessage>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(transparent)]
pub(super) struct EntryMessage {
    #[prost(oneof = "CursorEntry", tags = "1, 2, 3, 4, 5")]
    pub(super) entry: Option<CursorEntry>,
}

#[derive(Clone, PartialEq, Oneof, Serialize)]
#[serde(into = "JsonEntry")]
pub(super) enum CursorEntry {
    #[prost(message, tag = "1")]
    StepBegin(StepBegin),
    #[prost(message, tag = "2")]
    StepEnd(StepEnd),
    #[prost(message, tag = "3")]
    StepError(StepError),
    #[prost(message, tag = "4")]
    Row(Row),
    #[prost(message, tag = "5")]
    Error(Error),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum JsonEntry {
    StepBegin(StepBegin),
    StepEnd(StepEnd),
    StepError(StepError),
    Row { row: Row },
    Error { error: Error },
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct StepBegin {
    #[prost(uint32, tag = "1")]
    pub(super) step: u32,
    #[prost(message, repeated, tag = "2")]
    pub(super) cols: Vec<Col>,
}

/// The rowid is a number in JSON, against the specification: libSQL's server writes one, and its Rust client reads
/// nothing else.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct StepEnd {
    #[prost(uint64, tag = "1")]
    pub(super) affected_row_count: u64,
    #[prost(sint64, optional, tag = "2")]
    pub(super) last_insert_rowid: Option<i64>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct StepError {
    #[prost(uint32, tag = "1")]
    pub(super) step: u32,
    #[prost(message, required, tag = "2")]
    pub(super) error: Error,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct DescribeResult {
    #[prost(message, repeated, tag = "1")]
    pub(super) params: Vec<DescribeParam>,
    #[prost(message, repeated, tag = "2")]
    pub(super) cols: Vec<Col>,
    #[prost(bool, tag = "3")]
    pub(super) is_explain: bool,
    #[prost(bool, tag = "4")]
    pub(super) is_readonly: bool,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub(super) struct DescribeParam {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ValueMessage {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5")]
    pub(super) value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof, Serialize, Deserialize)]
#[serde(into = "JsonValue", try_from = "JsonValue")]
pub(super) enum Value {
    #[prost(message, tag = "1")]
    Null(Nothing),
    #[prost(sint64, tag = "2")]
    Integer(i64),
    #[prost(double, tag = "3")]
    Float(f64),
    #[prost(string, tag = "4")]
    Text(String),
    #[prost(bytes = "vec", tag = "5")]
    Blob(Vec<u8>),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum JsonValue {
    Null,
    Integer { value: String },
    Float { value: f64 },
    Text { value: String },
    Blob { base64: String },
}

impl From<StreamResult> for JsonResult {
    fn from(result: StreamResult) -> JsonResult {
        match result {
            StreamResult::Ok(response) => JsonResult::Ok { response },
            StreamResult::Error(error) => JsonResult::Error { error },
        }
    }
}

impl From<JsonResult> for StreamResult {
    fn from(result: JsonResult) -> StreamResult {
        match result {
            JsonResult::Ok { response } => StreamResult::Ok(response),
            JsonResult::Error { error } => StreamResult::Error(error),
        }
    }
}

impl From<BatchResult> for JsonBatchResult {
    fn from(mut result: BatchResult) -> JsonBatchResult {
        JsonBatchResult {
            step_results: (0..result.steps)
                .map(|step| result.step_results.remove(&step))
                .collect(),
            step_errors: (0..result.steps).map(|step| result.step_errors.remove(&step)).collect(),
            replication_index: result.replication_index,
        }
    }
}

impl From<JsonBatchResult> for BatchResult {
    fn from(json: JsonBatchResult) -> BatchResult {
        BatchResult {
            steps: json.step_results.len() as u32,
            step_results: present(json.step_results),
            step_errors: present(json.step_errors),
            replication_index: json.replication_index,
        }
    }
}

fn present<T>(list: Vec<Option<T>>) -> BTreeMap<u32, T> {
    (0..).zip(list).filter_map(|(step, item)| Some((step, item?))).collect()
}

impl From<BatchCond> for JsonCond {
    fn from(cond: BatchCond) -> JsonCond {
        match cond {
            BatchCond::Ok(step) => JsonCond::Ok { step },
            BatchCond::Error(step) => JsonCond::Error { step },
            BatchCond::Not(cond) => JsonCond::Not { cond },
            BatchCond::And(list) => JsonCond::And(list),
            BatchCond::Or(list) => JsonCond::Or(list),
            BatchCond::IsAutocommit(_) => JsonCond::IsAutocommit {},
        }
    }
}

impl From<JsonCond> for BatchCond {
    fn from(cond: JsonCond) -> BatchCond {
        match cond {
            JsonCond::Ok { step } => BatchCond::Ok(step),
            JsonCond::Error { step } => BatchCond::Error(step),
            JsonCond::Not { cond } => BatchCond::Not(cond),
            JsonCond::And(list) => BatchCond::And(list),
            JsonCond::Or(list) => BatchCond::Or(list),
            JsonCond::IsAutocommit {} => BatchCond::IsAutocommit(Nothing {}),
        }
    }
}

impl From<CursorEntry> for JsonEntry {
    fn from(entry: CursorEntry) -> JsonEntry {
        match entry {
            CursorEntry::StepBegin(begin) => JsonEntry::StepBegin(begin),
            CursorEntry::StepEnd(end) => JsonEntry::StepEnd(end),
            CursorEntry::StepError(error) => JsonEntry::StepError(error),
            CursorEntry::Row(row) => JsonEntry::Row { row },
            CursorEntry::Error(error) => JsonEntry::Error { error },
        }
    }
}

impl From<Value> for JsonValue {
    fn from(value: Value) -> JsonValue {
        match value {
            Value::Null(_) => JsonValue::Null,
            Value::Integer(number) => JsonValue::Integer {
                value: number.to_string(),
            },
            Value::Float(value) => JsonValue::Float { value },
            Value::Text(value) => JsonValue::Text { value },
            Value::Blob(bytes) => JsonValue::Blob {
                base64: BASE64_STANDARD_NO_PAD.encode(bytes),
            },
        }
    }
}

impl TryFrom<JsonValue> for Value {
    type Error = String;

    fn try_from(value: JsonValue) -> Result<Value, String> {
        Ok(match value {
            JsonValue::Null => Value::Null(Nothing {}),
            JsonValue::Integer { value } => match value.parse() {
                Ok(number) => Value::Integer(number),
                Err(_) => return Err(format!("{value:?} is not an integer of 64 bits")),
            },
            JsonValue::Float { value } => Value::Float(value),
            JsonValue::Text { value } => Value::Text(value),
            JsonValue::Blob { base64 } => Value::Blob(bytes(&base64)?),
        })
    }
}

/// Clients write it with padding and without.
fn bytes(base64: &str) -> Result<Vec<u8>, String> {
    let engine = match base64.ends_with('=') {
        true => &BASE64_STANDARD,
        false => &BASE64_STANDARD_NO_PAD,
    };
    engine.decode(base64).map_err(|error| format!("not base64: {error}"))
}

/// Numbers that JavaScript could not hold are texts in JSON; a number is read as well.
mod number_as_text {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written<T> {
        Number(T),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer, T: ToString>(number: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        number.as_ref().map(T::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: Deserialize<'de> + std::str::FromStr,
    {
        match Option::<Written<T>>::deserialize(deserializer)? {
            None => Ok(None),
            Some(Written::Number(number)) => Ok(Some(number)),
            Some(Written::Text(text)) => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(serde::de::Error::custom(format!("{text:?} is not a number"))),
            },
        }
    }
}

impl StreamRequest {
    pub(super) fn into_message(self) -> RequestMessage {
        RequestMessage { request: Some(self) }
    }
}

impl StreamResponse {
    pub(super) fn into_result(self) -> StreamResult {
        StreamResult::Ok(ResponseMessage { response: Some(self) })
    }
}

impl StreamResult {
    pub(super) fn into_message(self) -> ResultMessage {
        ResultMessage { result: Some(self) }
    }
}
