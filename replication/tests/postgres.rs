//! A real PostgreSQL behind real agents: what a PoP's proxy can do with it, and what it is told when it cannot.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use selvedge_replication::agent::{Agent, AgentSettings, Role};
use selvedge_replication::client::{AgentClient, Thresholds};
use selvedge_replication::postgres::{
    Bound, DataType, DatabaseError, Interval, Postgres, PostgresError, PostgresSettings, Range, RowSet, Value,
};
use selvedge_tests::postgres::{PASSWORD, Postgres as Server};
use selvedge_tests::wait::wait_for;

/// A primary that reaches the server, and a PoP's agent that reaches the primary.
struct Sites {
    primary: Option<Agent>,
    client: Arc<AgentClient>,
    _pop: Agent,
    _folders: [tempfile::TempDir; 2],
}

fn settings(name: &str, url: String, pool: usize) -> PostgresSettings {
    PostgresSettings {
        name: name.to_owned(),
        url,
        pool,
        statement_timeout: Duration::from_secs(60),
        ca: None,
    }
}

async fn sites(postgres: Vec<PostgresSettings>) -> Sites {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut primary = AgentSettings::new("primary", Role::Primary, folders[0].path());
    primary.listen = Some(([127, 0, 0, 1], 0).into());
    primary.token = Some("secret".to_owned());
    primary.postgres = postgres;
    let primary = Agent::start(primary).await.unwrap();
    let role = Role::Replica {
        primary: format!("http://{}", primary.address().unwrap()),
    };
    let mut pop = AgentSettings::new("pop", role, folders[1].path());
    pop.token = Some("secret".to_owned());
    let pop = Agent::start(pop).await.unwrap();
    let client = AgentClient::start(pop.socket(), folders[1].path(), Thresholds::default()).unwrap();
    Sites {
        primary: Some(primary),
        client,
        _pop: pop,
        _folders: folders,
    }
}

impl Sites {
    /// As a handler's binding at the PoP has it, as soon as the PoP has heard from the primary.
    async fn reach(&self, name: &str) -> Arc<Postgres> {
        let postgres = Postgres::of_agent(name, Arc::clone(&self.client));
        wait_for("the PoP to follow the primary", async || {
            match postgres.query("SELECT 1", vec![]).await {
                Err(PostgresError::Agent { code, .. }) if code == "primary_unreachable" => None,
                _ => Some(()),
            }
        })
        .await;
        postgres
    }
}

async fn one(postgres: &Postgres, statement: &str) -> Value {
    let set = postgres.query(statement, vec![]).await.unwrap();
    set.rows[0][0].clone()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

async fn refused(postgres: &Postgres, statement: &str, parameters: Vec<Value>) -> PostgresError {
    postgres.query(statement, parameters).await.unwrap_err()
}

fn database_error(error: PostgresError) -> DatabaseError {
    match error {
        PostgresError::Database(error) => *error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_go_there_and_rows_come_back() {
    let Some(server) = Server::start().await else { return };
    let sites = sites(vec![settings("legacy", server.url("sslmode=disable"), 1)]).await;
    let postgres = sites.reach("legacy").await;

    // What was written is what is read.
    let created =
        "CREATE TABLE things (id serial PRIMARY KEY, name varchar(9) UNIQUE, price numeric(9, 2), tags text[])";
    assert_eq!(postgres.execute(created, vec![]).await, Ok(0));
    let insert = "INSERT INTO things (name, price, tags) VALUES ($1, $2, $3) RETURNING id, price";
    let tags = Value::ArrayText(vec![Some("a\"b,".into()), None, Some("NULL".into())]);
    let rows = postgres
        .query(insert, vec![text("O'Neil"), Value::Int32(7), tags.clone()])
        .await
        .unwrap();
    assert_eq!(rows.rows, [[Value::Int32(1), Value::Decimal("7.00".into())]]);
    let columns: Vec<_> = rows
        .columns
        .iter()
        .map(|column| (&*column.name, &column.data_type))
        .collect();
    assert_eq!(columns, [("id", &DataType::Int32), ("price", &DataType::Decimal)]);
    assert_eq!(one(&postgres, "SELECT tags FROM things").await, tags);
    let update = "UPDATE things SET price = price + $1 WHERE name = $2";
    let changed = postgres
        .execute(update, vec![Value::Decimal("0.25".into()), text("O'Neil")])
        .await;
    assert_eq!(changed, Ok(1));
    assert_eq!(
        one(&postgres, "SELECT price FROM things").await,
        Value::Decimal("7.25".into())
    );
    let none = postgres
        .query("SELECT id FROM things WHERE id = 99", vec![])
        .await
        .unwrap();
    assert_eq!((none.columns.len(), none.rows.len()), (1, 0));

    every_type_survives(&postgres).await;
    errors_say_what_postgresql_said(&postgres).await;
    nothing_is_left_on_a_connection(&postgres).await;

    // Bounds, and that the pool of one goes on after them.
    let many = "SELECT repeat('x', 1000) FROM generate_series(1, 50000)";
    assert!(matches!(
        refused(&postgres, many, vec![]).await,
        PostgresError::TooLarge { .. }
    ));
    assert_eq!(one(&postgres, "SELECT 1").await, Value::Int32(1));
    let unknown = refused(&*sites.reach("other").await, "SELECT 1", vec![]).await;
    assert_eq!(
        unknown,
        PostgresError::Unknown {
            name: "other".to_owned()
        }
    );
}

/// Each value as a parameter of its type comes back as it was.
async fn every_type_survives(postgres: &Postgres) {
    let bound = |value, inclusive| Some(Bound { value, inclusive });
    let date_time = |year| Value::DateTime(year, 2, 28, 23, 59, 58, 123_456_000);
    for (kind, value) in [
        ("bool", Value::Boolean(true)),
        ("\"char\"", Value::Int8(65)),
        ("int2", Value::Int16(i16::MIN)),
        ("int4", Value::Int32(i32::MAX)),
        ("int8", Value::Int64(i64::MIN)),
        ("float4", Value::Float32(0.1)),
        ("float8", Value::Float64(-1.5e300)),
        ("float8", Value::Float64(f64::INFINITY)),
        ("text", text("ä\n\"'\\")),
        ("bpchar", text("a")),
        ("bytea", Value::Binary(vec![0, 1, 255])),
        ("date", Value::Date(2024, 2, 29)),
        ("date", Value::Date(-43, 3, 15)),
        ("time", Value::Time(23, 59, 59, 999_999_000)),
        ("timestamp", date_time(1969)),
        ("timestamptz", date_time(-1)),
        ("uuid", Value::Uuid("0193e5a4-7c1e-7000-8000-0123456789ab".into())),
        ("jsonb", Value::Json(r#"{"a": [1, null]}"#.into())),
        ("json", Value::Json(r#"{"a":1}"#.into())),
        (
            "numeric",
            Value::Decimal("-12345678901234567890123456789012345.00010".into()),
        ),
        ("numeric", Value::Decimal("0.000000000000000000000000000000001".into())),
        ("numeric", Value::Decimal("NaN".into())),
        (
            "int4range",
            Value::RangeInt32(Range {
                lower: bound(1, true),
                upper: bound(5, false),
            }),
        ),
        (
            "int8range",
            Value::RangeInt64(Range {
                lower: None,
                upper: Some(Bound {
                    value: -5,
                    inclusive: false,
                }),
            }),
        ),
        (
            "numrange",
            Value::RangeDecimal(Range {
                lower: Some(Bound {
                    value: "1.50".into(),
                    inclusive: false,
                }),
                upper: None,
            }),
        ),
        ("int4[]", Value::ArrayInt32(vec![Some(1), None])),
        ("int8[]", Value::ArrayInt64(vec![])),
        ("numeric[]", Value::ArrayDecimal(vec![Some("1.50".into()), None])),
        (
            "interval",
            Value::Interval(Interval {
                months: -14,
                days: 3,
                micros: -1,
            }),
        ),
        ("int4", Value::Null),
    ] {
        let read = postgres.query(&format!("SELECT $1::{kind}"), vec![value.clone()]).await;
        assert_eq!(read.map(|set| set.rows), Ok(vec![vec![value]]), "{kind}");
    }
    let epoch = postgres
        .query("SELECT $1::timestamptz", vec![Value::Timestamp(86_399)])
        .await
        .unwrap();
    assert_eq!(epoch.rows, [[Value::DateTime(1970, 1, 1, 23, 59, 59, 0)]]);
    let point = postgres.query("SELECT point(1, 2), 'x'::name", vec![]).await.unwrap();
    assert_eq!(point.columns[0].data_type, DataType::Other("point".to_owned()));
    assert!(matches!(&point.rows[0][..], [Value::Unsupported(raw), Value::Text(_)] if raw.len() == 16));
    let infinite = refused(postgres, "SELECT 'infinity'::date AS forever", vec![]).await;
    assert!(matches!(infinite, PostgresError::Value { column, .. } if column == "forever"));
}

async fn errors_say_what_postgresql_said(postgres: &Postgres) {
    let twice = database_error(refused(postgres, "INSERT INTO things (name) VALUES ('O''Neil')", vec![]).await);
    assert_eq!((&*twice.code, &*twice.severity), ("23505", "ERROR"));
    assert!(
        twice
            .extras
            .contains(&("constraint".to_owned(), "things_name_key".to_owned()))
    );
    assert!(twice.detail.unwrap().contains("O'Neil"));
    for (statement, parameter, code) in [
        ("SELEC 1", None, "42601"),
        ("SELECT * FROM nowhere", None, "42P01"),
        ("SELECT $1::int4", Some(text("seven")), "22P02"),
        ("SELECT $1::int2", Some(Value::Int32(40_000)), "22003"),
        ("SELECT 1; SELECT 2", None, "42601"),
    ] {
        let error = database_error(refused(postgres, statement, parameter.into_iter().collect()).await);
        assert_eq!(error.code, code, "{statement}");
    }
    let given = refused(postgres, "SELECT $1::int4", vec![]).await;
    assert_eq!(given, PostgresError::Parameters { expected: 1, given: 0 });
    let bytes = refused(
        postgres,
        "SELECT $1::int4, $2::int4",
        vec![Value::Null, Value::Binary(vec![])],
    )
    .await;
    assert!(matches!(bytes, PostgresError::Parameter { position: 2, .. }));
    for statement in ["BEGIN", "/* x */ commit", "SET role x", "COPY things TO STDOUT"] {
        let error = refused(postgres, statement, vec![]).await;
        assert!(matches!(error, PostgresError::Refused { .. }), "{statement}: {error:?}");
    }
}

/// The pool has one connection, which every statement gets in turn.
async fn nothing_is_left_on_a_connection(postgres: &Postgres) {
    let process = one(postgres, "SELECT pg_backend_pid()").await;
    one(postgres, "SELECT set_config('search_path', 'nowhere', false)").await;
    one(postgres, "SELECT set_config('statement_timeout', '0', false)").await;
    postgres
        .execute("CREATE TEMPORARY TABLE left_behind (id int)", vec![])
        .await
        .unwrap();
    one(postgres, "SELECT 1 FROM (SELECT pg_advisory_lock(7)) locked").await;
    assert_eq!(one(postgres, "SELECT count(*) FROM things").await, Value::Int64(1));
    assert_eq!(
        one(postgres, "SELECT current_setting('statement_timeout')").await,
        text("1min")
    );
    assert_eq!(
        one(postgres, "SELECT to_regclass('left_behind')::text").await,
        Value::Null
    );
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(one(postgres, locks).await, Value::Int64(0));
    assert_eq!(one(postgres, "SELECT pg_backend_pid()").await, process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_a_busy_and_a_lost_server_are_told_apart() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    let url = server.url("sslmode=disable");
    let mut short = settings("short", url.clone(), 1);
    short.statement_timeout = Duration::from_millis(50);
    let mut sites = sites(vec![
        settings("narrow", url.clone(), 1),
        settings("other", url, 1),
        short,
    ])
    .await;

    let short = sites.reach("short").await;
    assert_eq!(
        database_error(refused(&short, "SELECT pg_sleep(60)", vec![]).await).code,
        "57014"
    );
    assert_eq!(one(&short, "SELECT 1").await, Value::Int32(1));

    let (narrow, other) = (sites.reach("narrow").await, sites.reach("other").await);
    let slow = {
        let narrow = Arc::clone(&narrow);
        tokio::spawn(async move { narrow.query("SELECT 'slow', pg_sleep(3600)", vec![]).await })
    };
    wait_for("the slow statement to run", async || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT ''slow''%'";
        (one(&other, running).await == Value::Int64(1)).then_some(())
    })
    .await;
    let busy = refused(&narrow, "SELECT 1", vec![]).await;
    let expected = PostgresError::Busy {
        name: "narrow".to_owned(),
        connections: 1,
    };
    assert_eq!(busy, expected);

    // The server goes, and with it the slow statement; what comes then is told that nothing was done.
    server.stop();
    let interrupted: Result<RowSet, _> = slow.await.unwrap();
    assert_eq!(database_error(interrupted.unwrap_err()).code, "57P01");
    let gone = refused(&narrow, "SELECT 1", vec![]).await;
    assert!(matches!(gone, PostgresError::Unreachable { .. }), "{gone:?}");
    server.resume().await;
    assert_eq!(one(&narrow, "SELECT 1").await, Value::Int32(1));

    // And so it is without the primary.
    sites.primary.take().unwrap().stop().await;
    let gone = wait_for("the PoP to miss the primary", async || {
        other.query("SELECT 1", vec![]).await.err()
    })
    .await;
    assert!(
        matches!(&gone, PostgresError::Agent { code, .. } if code == "primary_unreachable")
            || matches!(gone, PostgresError::Lost { .. }),
        "{gone:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_verified_and_passwords_not_told() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    server.stop();
    let Some(authority) = server.encrypt() else { return };
    server.resume().await;
    let url = server.url("sslmode=require");
    let with = |name: &str, url: String, ca: Option<PathBuf>| PostgresSettings {
        ca,
        ..settings(name, url, 1)
    };
    let wrong = url.replace("correct", "incorrect");
    let sites = sites(vec![
        with("believed", url.clone(), Some(authority.clone())),
        with("unknown", url.clone(), None),
        with("named", url.replace("localhost", "127.0.0.1"), Some(authority.clone())),
        with("wrong", wrong, Some(authority)),
    ])
    .await;

    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let believed = sites.reach("believed").await;
    assert_eq!(one(&believed, encrypted).await, Value::Boolean(true));
    for (name, why) in [
        ("unknown", "UnknownIssuer"),
        ("named", "not valid for name"),
        ("wrong", "password authentication failed"),
    ] {
        let error = refused(&*sites.reach(name).await, "SELECT 1", vec![]).await;
        let shown = error.to_string();
        assert!(matches!(error, PostgresError::Unreachable { .. }), "{name}: {shown}");
        assert!(shown.contains(why), "{name}: {shown}");
        assert!(!shown.contains(&PASSWORD[10..]), "{name}: {shown}");
    }
}
