//! `spin:postgres/postgres@4.0.0`: PostgreSQL for guests built with Spin SDK 5 (`pg4`) and later; knows identifiers,
//! documents, decimals, ranges, arrays and intervals, and tells what PostgreSQL said in its parts.

use selvedge_replication::postgres as pg;
use wasmtime::component::{HasData, Linker, Resource};

use super::postgres::{Connection, Refused, conversions, query_failed};
use crate::instance::GuestState;

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/deps/spin-postgres-4.0.0.wit",
        inline: "package selvedge:spin-postgres; world host { import spin:postgres/postgres@4.0.0; }",
        world: "selvedge:spin-postgres/host",
        imports: { default: async | trappable },
        with: { "spin:postgres/postgres.connection": super::super::postgres::Connection },
    });
}

use generated::spin::postgres::postgres::{
    self, Column, DbDataType, DbError, DbValue, Error, HostConnection as GuestConnection, Interval, ParameterValue,
    QueryError, RangeBoundKind, RowSet,
};

struct Postgres;

impl HasData for Postgres {
    type Data<'a> = &'a mut GuestState;
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    postgres::add_to_linker::<GuestState, Postgres>(linker, |state| state)
}

conversions!(ParameterValue, DbValue, RowSet, Column, Error, in_parts);

impl postgres::Host for &mut GuestState {}

fn in_parts(error: pg::PostgresError) -> QueryError {
    let as_text = query_failed(&error);
    match error {
        pg::PostgresError::Database(error) => QueryError::DbError(DbError {
            as_text,
            severity: error.severity,
            code: error.code,
            message: error.message,
            detail: error.detail,
            extras: error.extras,
        }),
        _ => QueryError::Text(as_text),
    }
}

fn parameter(parameter: ParameterValue) -> Result<pg::Value, Refused> {
    Ok(match parameter {
        ParameterValue::Boolean(truth) => pg::Value::Boolean(truth),
        ParameterValue::Int8(number) => pg::Value::Int8(number),
        ParameterValue::Int16(number) => pg::Value::Int16(number),
        ParameterValue::Int32(number) => pg::Value::Int32(number),
        ParameterValue::Int64(number) => pg::Value::Int64(number),
        ParameterValue::Floating32(number) => pg::Value::Float32(number),
        ParameterValue::Floating64(number) => pg::Value::Float64(number),
        ParameterValue::Str(text) => pg::Value::Text(text),
        ParameterValue::Binary(bytes) => pg::Value::Binary(bytes),
        ParameterValue::Date((year, month, day)) => pg::Value::Date(year, month, day),
        ParameterValue::Time((hour, minute, second, nanosecond)) => pg::Value::Time(hour, minute, second, nanosecond),
        ParameterValue::Datetime((year, month, day, hour, minute, second, nanosecond)) => {
            pg::Value::DateTime(year, month, day, hour, minute, second, nanosecond)
        }
        ParameterValue::Timestamp(seconds) => pg::Value::Timestamp(seconds),
        ParameterValue::Uuid(text) => pg::Value::Uuid(text),
        ParameterValue::Jsonb(text) => {
            let text = String::from_utf8(text);
            pg::Value::Json(text.map_err(|_| Refused::BadParameter("parameters: JSON is not UTF-8".to_owned()))?)
        }
        ParameterValue::Decimal(text) => pg::Value::Decimal(text),
        ParameterValue::RangeInt32(range) => pg::Value::RangeInt32(from_guest(range)),
        ParameterValue::RangeInt64(range) => pg::Value::RangeInt64(from_guest(range)),
        ParameterValue::RangeDecimal(range) => pg::Value::RangeDecimal(from_guest(range)),
        ParameterValue::ArrayInt32(items) => pg::Value::ArrayInt32(items),
        ParameterValue::ArrayInt64(items) => pg::Value::ArrayInt64(items),
        ParameterValue::ArrayDecimal(items) => pg::Value::ArrayDecimal(items),
        ParameterValue::ArrayStr(items) => pg::Value::ArrayText(items),
        ParameterValue::Interval(interval) => pg::Value::Interval(pg::Interval {
            months: interval.months,
            days: interval.days,
            micros: interval.micros,
        }),
        ParameterValue::DbNull => pg::Value::Null,
    })
}

/// A range as the interface has it.
type GuestRange<T> = (Option<(T, RangeBoundKind)>, Option<(T, RangeBoundKind)>);

fn from_guest<T>((lower, upper): GuestRange<T>) -> pg::Range<T> {
    let bound = |(value, kind)| pg::Bound {
        value,
        inclusive: kind == RangeBoundKind::Inclusive,
    };
    pg::Range {
        lower: lower.map(bound),
        upper: upper.map(bound),
    }
}

fn to_guest<T>(range: pg::Range<T>) -> GuestRange<T> {
    let bound = |bound: pg::Bound<T>| match bound.inclusive {
        true => (bound.value, RangeBoundKind::Inclusive),
        false => (bound.value, RangeBoundKind::Exclusive),
    };
    (range.lower.map(bound), range.upper.map(bound))
}

impl From<pg::Value> for DbValue {
    fn from(value: pg::Value) -> DbValue {
        match value {
            pg::Value::Null => DbValue::DbNull,
            pg::Value::Boolean(truth) => DbValue::Boolean(truth),
            pg::Value::Int8(number) => DbValue::Int8(number),
            pg::Value::Int16(number) => DbValue::Int16(number),
            pg::Value::Int32(number) => DbValue::Int32(number),
            pg::Value::Int64(number) => DbValue::Int64(number),
            pg::Value::Float32(number) => DbValue::Floating32(number),
            pg::Value::Float64(number) => DbValue::Floating64(number),
            pg::Value::Text(text) => DbValue::Str(text),
            pg::Value::Binary(bytes) => DbValue::Binary(bytes),
            pg::Value::Date(year, month, day) => DbValue::Date((year, month, day)),
            pg::Value::Time(hour, minute, second, nanosecond) => DbValue::Time((hour, minute, second, nanosecond)),
            pg::Value::DateTime(year, month, day, hour, minute, second, nanosecond) => {
                DbValue::Datetime((year, month, day, hour, minute, second, nanosecond))
            }
            pg::Value::Timestamp(seconds) => DbValue::Timestamp(seconds),
            pg::Value::Uuid(text) => DbValue::Uuid(text),
            pg::Value::Json(text) => DbValue::Jsonb(text.into_bytes()),
            pg::Value::Decimal(text) => DbValue::Decimal(text),
            pg::Value::RangeInt32(range) => DbValue::RangeInt32(to_guest(range)),
            pg::Value::RangeInt64(range) => DbValue::RangeInt64(to_guest(range)),
            pg::Value::RangeDecimal(range) => DbValue::RangeDecimal(to_guest(range)),
            pg::Value::ArrayInt32(items) => DbValue::ArrayInt32(items),
            pg::Value::ArrayInt64(items) => DbValue::ArrayInt64(items),
            pg::Value::ArrayDecimal(items) => DbValue::ArrayDecimal(items),
            pg::Value::ArrayText(items) => DbValue::ArrayStr(items),
            pg::Value::Interval(interval) => DbValue::Interval(Interval {
                micros: interval.micros,
                days: interval.days,
                months: interval.months,
            }),
            pg::Value::Unsupported(bytes) => DbValue::Unsupported(bytes),
        }
    }
}

impl From<pg::DataType> for DbDataType {
    fn from(data_type: pg::DataType) -> DbDataType {
        match data_type {
            pg::DataType::Boolean => DbDataType::Boolean,
            pg::DataType::Int8 => DbDataType::Int8,
            pg::DataType::Int16 => DbDataType::Int16,
            pg::DataType::Int32 => DbDataType::Int32,
            pg::DataType::Int64 => DbDataType::Int64,
            pg::DataType::Float32 => DbDataType::Floating32,
            pg::DataType::Float64 => DbDataType::Floating64,
            pg::DataType::Text => DbDataType::Str,
            pg::DataType::Binary => DbDataType::Binary,
            pg::DataType::Date => DbDataType::Date,
            pg::DataType::Time => DbDataType::Time,
            pg::DataType::DateTime => DbDataType::Datetime,
            pg::DataType::Uuid => DbDataType::Uuid,
            pg::DataType::Json => DbDataType::Jsonb,
            pg::DataType::Decimal => DbDataType::Decimal,
            pg::DataType::RangeInt32 => DbDataType::RangeInt32,
            pg::DataType::RangeInt64 => DbDataType::RangeInt64,
            pg::DataType::RangeDecimal => DbDataType::RangeDecimal,
            pg::DataType::ArrayInt32 => DbDataType::ArrayInt32,
            pg::DataType::ArrayInt64 => DbDataType::ArrayInt64,
            pg::DataType::ArrayDecimal => DbDataType::ArrayDecimal,
            pg::DataType::ArrayText => DbDataType::ArrayStr,
            pg::DataType::Interval => DbDataType::Interval,
            pg::DataType::Other(name) => DbDataType::Other(name),
        }
    }
}
