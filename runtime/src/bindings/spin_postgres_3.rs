//! `spin:postgres/postgres@3.0.0`: PostgreSQL for guests built with Spin SDK 4 and 5 (`pg3`); knows times.

use selvedge_replication::postgres as pg;
use wasmtime::component::{HasData, Linker, Resource};

use super::postgres::{Connection, Refused, conversions, query_failed};
use crate::instance::GuestState;

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/deps/spin-postgres-3.0.0.wit",
        inline: "package selvedge:spin-postgres; world host { import spin:postgres/postgres@3.0.0; }",
        world: "selvedge:spin-postgres/host",
        imports: { default: async | trappable },
        with: { "spin:postgres/postgres.connection": super::super::postgres::Connection },
    });
}

use generated::spin::postgres::postgres::{
    self, Column, DbDataType, DbValue, Error, HostConnection as GuestConnection, ParameterValue, RowSet,
};

struct Postgres;

impl HasData for Postgres {
    type Data<'a> = &'a mut GuestState;
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    postgres::add_to_linker::<GuestState, Postgres>(linker, |state| state)
}

conversions!(ParameterValue, DbValue, RowSet, Column, Error, |error| query_failed(
    &error
));

impl postgres::Host for &mut GuestState {}

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
        ParameterValue::DbNull => pg::Value::Null,
    })
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
            _ => DbValue::Unsupported,
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
            _ => DbDataType::Other,
        }
    }
}
