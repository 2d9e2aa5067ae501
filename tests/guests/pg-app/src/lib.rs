//! PostgreSQL through the three interfaces of Spin's SDK: a request's path is `/INTERFACE/FUNCTION/ADDRESS`, such as
//! `/v4/query/PG`; its body is one statement in the first line and one parameter in each further line, as `KIND VALUE`.
//!
//! Answers: 200 and the number of changed rows, or a line of columns and a line for each row; 422 and the error.

use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::http_component;
use std::fmt::Debug;

#[http_component]
fn handle(request: Request) -> impl IntoResponse {
    let body = String::from_utf8_lossy(request.body()).into_owned();
    let (statement, parameters) = body.split_once('\n').unwrap_or((&body, ""));
    let path: Vec<&str> = request.path().trim_start_matches('/').splitn(3, '/').collect();
    let [interface, function, address] = path[..] else {
        return Response::new(404, "/INTERFACE/FUNCTION/ADDRESS\n");
    };
    let outcome = match interface {
        "v2" => v2::run(function, address, statement, parameters),
        "v3" => v3::run(function, address, statement, parameters),
        "v4" => v4::run(function, address, statement, parameters),
        other => Err(format!("no interface {other}")),
    };
    match outcome {
        Ok(text) => Response::new(200, text),
        Err(text) => Response::new(422, text),
    }
}

/// One line for the columns, one for each row.
fn table(columns: Vec<String>, rows: impl Iterator<Item = String>) -> String {
    let mut text = columns.join(" ") + "\n";
    rows.for_each(|row| text.push_str(&(row + "\n")));
    text
}

fn shown(error: impl Debug) -> String {
    format!("{error:?}")
}

/// The three interfaces have the same shape; their types are not the same.
macro_rules! interface {
    ($module:ident, $pg:ident, $parameter:ident) => {
        mod $module {
            use super::{shown, table};
            use spin_sdk::$pg::{Connection, ParameterValue};

            pub fn run(function: &str, address: &str, statement: &str, parameters: &str) -> Result<String, String> {
                let connection = Connection::open(address).map_err(shown)?;
                let parameters: Vec<ParameterValue> = parameters.lines().map(super::$parameter).collect();
                if function == "execute" {
                    let changed = connection.execute(statement, &parameters).map_err(shown)?;
                    return Ok(format!("{changed}\n"));
                }
                let result = connection.query(statement, &parameters).map_err(shown)?;
                let columns = result.columns.iter().map(|column| format!("{}:{:?}", column.name, column.data_type));
                Ok(table(columns.collect(), result.rows.iter().map(|row| format!("{row:?}"))))
            }
        }
    };
}

interface!(v2, pg, parameter2);
interface!(v3, pg3, parameter3);
interface!(v4, pg4, parameter4);

/// Parameters that an interface has under the same name as the others.
macro_rules! common {
    ($type:path, $kind:expr, $value:expr) => {{
        use $type as Parameter;
        match $kind {
            "bool" => Some(Parameter::Boolean($value == "true")),
            "int16" => Some(Parameter::Int16($value.parse().expect("an int16"))),
            "int32" => Some(Parameter::Int32($value.parse().expect("an int32"))),
            "int64" => Some(Parameter::Int64($value.parse().expect("an int64"))),
            "float32" => Some(Parameter::Floating32($value.parse().expect("a float32"))),
            "float64" => Some(Parameter::Floating64($value.parse().expect("a float64"))),
            "text" => Some(Parameter::Str($value.to_owned())),
            "binary" => Some(Parameter::Binary($value.as_bytes().to_vec())),
            "null" => Some(Parameter::DbNull),
            _ => None,
        }
    }};
}

fn split(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}

fn numbers(value: &str) -> Vec<i64> {
    value.split(' ').map(|number| number.parse().expect("a number")).collect()
}

fn parameter2(line: &str) -> spin_sdk::pg::ParameterValue {
    use spin_sdk::pg::ParameterValue;
    let (kind, value) = split(line);
    common!(ParameterValue, kind, value).unwrap_or_else(|| match kind {
        "uint32" => ParameterValue::Uint32(value.parse().expect("a uint32")),
        "uint64" => ParameterValue::Uint64(value.parse().expect("a uint64")),
        other => panic!("no parameter {other}"),
    })
}

/// Parameters of dates, which came with the third version.
macro_rules! dated {
    ($type:path, $kind:expr, $value:expr) => {{
        use $type as Parameter;
        match $kind {
            "date" => {
                let parts = numbers($value);
                Some(Parameter::Date((parts[0] as i32, parts[1] as u8, parts[2] as u8)))
            }
            "time" => {
                let parts = numbers($value);
                Some(Parameter::Time((parts[0] as u8, parts[1] as u8, parts[2] as u8, parts[3] as u32)))
            }
            "datetime" => {
                let p = numbers($value);
                let (date, time) = ((p[0] as i32, p[1] as u8, p[2] as u8), (p[3] as u8, p[4] as u8, p[5] as u8));
                Some(Parameter::Datetime((date.0, date.1, date.2, time.0, time.1, time.2, p[6] as u32)))
            }
            "timestamp" => Some(Parameter::Timestamp($value.parse().expect("a timestamp"))),
            _ => None,
        }
    }};
}

fn parameter3(line: &str) -> spin_sdk::pg3::ParameterValue {
    use spin_sdk::pg3::ParameterValue;
    let (kind, value) = split(line);
    common!(ParameterValue, kind, value)
        .or_else(|| dated!(ParameterValue, kind, value))
        .unwrap_or_else(|| panic!("no parameter {kind}"))
}

fn parameter4(line: &str) -> spin_sdk::pg4::ParameterValue {
    use spin_sdk::pg4::{Interval, ParameterValue, RangeBoundKind};
    let (kind, value) = split(line);
    let plain = common!(ParameterValue, kind, value).or_else(|| dated!(ParameterValue, kind, value));
    plain.unwrap_or_else(|| match kind {
        "uuid" => ParameterValue::Uuid(value.to_owned()),
        "jsonb" => ParameterValue::Jsonb(value.as_bytes().to_vec()),
        "decimal" => ParameterValue::Decimal(value.to_owned()),
        "interval" => {
            let parts = numbers(value);
            let (months, days, micros) = (parts[0] as i32, parts[1] as i32, parts[2]);
            ParameterValue::Interval(Interval { micros, days, months })
        }
        "range" => {
            let parts = numbers(value);
            let lower = Some((parts[0] as i32, RangeBoundKind::Inclusive));
            ParameterValue::RangeInt32((lower, Some((parts[1] as i32, RangeBoundKind::Exclusive))))
        }
        "texts" => ParameterValue::ArrayStr(value.split('|').map(|item| (item != "NULL").then(|| item.into())).collect()),
        "int64s" => ParameterValue::ArrayInt64(numbers(value).into_iter().map(Some).collect()),
        other => panic!("no parameter {other}"),
    })
}
