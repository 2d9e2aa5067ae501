//! `fermyon:spin/postgres@2.0.0`: PostgreSQL for guests built with any Spin SDK up to 5. It knows no times, and its
//! unsigned integers do not exist in PostgreSQL.

use selvedge_replication::postgres as pg;
use wasmtime::component::{HasData, Linker, Resource};

use super::postgres::{Connection, Refused, conversions, query_failed};
use crate::instance::GuestState;

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/deps/fermyon-spin-2.0.0.wit",
        inline: "package selvedge:fermyon-postgres; world host { import fermyon:spin/postgres@2.0.0; }",
        world: "selvedge:fermyon-postgres/host",
        imports: { default: async | trappable },
        with: { "fermyon:spin/postgres.connection": super::super::postgres::Connection },
    });
}

use generated::fermyon::spin::postgres::{self, HostConnection as GuestConnection};
use generated::fermyon::spin::rdbms_types::{self, Column, DbDataType, DbValue, Error, ParameterValue, RowSet};

struct Postgres;

impl HasData for Postgres {
    type Data<'a> = &'a mut GuestState;
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    rdbms_types::add_to_linker::<GuestState, Postgres>(linker, |state| state)?;
    postgres::add_to_linker::<GuestState, Postgres>(linker, |state| state)
}

conversions!(ParameterValue, DbValue, RowSet, Column, Error, |error| query_failed(
    &error
));

impl rdbms_types::Host for &mut GuestState {}

impl postgres::Host for &mut GuestState {}

fn parameter(parameter: ParameterValue) -> Result<pg::Value, Refused> {
    Ok(match parameter {
        ParameterValue::Boolean(truth) => pg::Value::Boolean(truth),
        ParameterValue::Int8(number) => pg::Value::Int8(number),
        ParameterValue::Int16(number) => pg::Value::Int16(number),
        ParameterValue::Int32(number) => pg::Value::Int32(number),
        ParameterValue::Int64(number) => pg::Value::Int64(number),
        ParameterValue::Uint8(_)
        | ParameterValue::Uint16(_)
        | ParameterValue::Uint32(_)
        | ParameterValue::Uint64(_) => {
            let message = "PostgreSQL has no unsigned integers; use the next larger signed one";
            return Err(Refused::ValueConversionFailed(message.to_owned()));
        }
        ParameterValue::Floating32(number) => pg::Value::Float32(number),
        ParameterValue::Floating64(number) => pg::Value::Float64(number),
        ParameterValue::Str(text) => pg::Value::Text(text),
        ParameterValue::Binary(bytes) => pg::Value::Binary(bytes),
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
            _ => DbDataType::Other,
        }
    }
}
