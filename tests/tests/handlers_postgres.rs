//! Handlers with a PostgreSQL: a primary's agent that holds the pool, a PoP's agent and proxy, and an application built
//! with Spin's SDK.

use selvedge_tests::client;
use selvedge_tests::executable::repository;
use selvedge_tests::wait::wait_for;
use selvedge_tests::{Agent, Edge, Postgres};

/// One statement, and its parameters a line each, as the guest `pg-app` takes them.
async fn ask(edge: &Edge, path: &str, lines: &[&str]) -> (u16, String) {
    let request = client::client().post(edge.url(path)).body(lines.join("\n"));
    let response = request.send().await.expect("the edge answers");
    let status = response.status().as_u16();
    (status, response.text().await.expect("a whole body"))
}

async fn primary(postgres: &Postgres, keys: &str) -> Agent {
    Agent::start(&format!(
        "agent: {{ name: primary, listen: \"127.0.0.1:0\", token: a cluster's secret }}\n\
         postgres: {{ legacy: {{ url: \"{}\"{keys} }} }}\n",
        postgres.url("sslmode=disable")
    ))
    .await
}

/// A PoP whose handler has the PostgreSQL `legacy` as `PG`.
async fn pop(primary: &Agent) -> (Agent, Edge) {
    let agent_yaml = |data: &str| {
        format!(
            "agent: {{ name: pop, primary: \"{}\", token: a cluster's secret{data} }}\n",
            primary.url("")
        )
    };
    let agent = Agent::start(&agent_yaml("")).await;
    let data = agent.directory().join("data/agent");
    let edge = Edge::start(&format!(
        "{agent}\
         postgres: {{ legacy: {{}} }}\n\
         handlers:\n  app:\n    component: {guest}\n    bindings: {{ PG: {{ postgres: legacy }} }}\n\
         routes: [{{ name: app, match: {{ path: /* }}, handler: app }}]\n",
        agent = agent_yaml(&format!(", data_dir: {}", data.display())),
        guest = repository().join("tests/guests/pg-app.wasm").display(),
    ))
    .await;
    wait_for("the way to PostgreSQL", async || {
        (ask(&edge, "/v4/query/PG", &["SELECT 1"]).await.0 == 200).then_some(())
    })
    .await;
    (agent, edge)
}

#[tokio::test]
async fn an_application_for_spin_uses_a_postgresql_behind_the_primary() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    let primary = primary(&postgres, ", pool: 2, statement_timeout: 500ms").await;
    let (agent, edge) = pop(&primary).await;

    let table = "CREATE TABLE guests (name text UNIQUE, born date, id uuid, paid numeric, tags text[])";
    assert_eq!(ask(&edge, "/v2/execute/PG", &[table]).await, (200, "0\n".to_owned()));
    for (path, lines, expected) in [
        // Each interface with what it has.
        (
            "/v2/query/PG",
            &[
                "INSERT INTO guests (name) VALUES ($1) RETURNING name, 7::int8 AS seven, NULL AS none",
                "text Ada",
            ][..],
            "name:DbDataType::Str seven:DbDataType::Int64 none:DbDataType::Str\n\
             [DbValue::Str(\"Ada\"), DbValue::Int64(7), DbValue::DbNull]\n",
        ),
        (
            "/v3/query/PG",
            &[
                "UPDATE guests SET born = $1 WHERE name = $2 RETURNING born, $3::timestamptz AS at, id",
                "date 1815 12 10",
                "text Ada",
                "timestamp 86400",
            ],
            "born:DbDataType::Date at:DbDataType::Datetime id:DbDataType::Other\n\
             [DbValue::Date((1815, 12, 10)), DbValue::Datetime((1970, 1, 2, 0, 0, 0, 0)), DbValue::DbNull]\n",
        ),
        (
            "/v4/query/PG",
            &[
                "UPDATE guests SET id = $1, paid = $2, tags = $3 WHERE name = $4 RETURNING id, paid, tags",
                "uuid 0193e5a4-7c1e-7000-8000-0123456789ab",
                "decimal 12.50",
                "texts a,b|NULL|c",
                "text Ada",
            ],
            "id:DbDataType::Uuid paid:DbDataType::Decimal tags:DbDataType::ArrayStr\n\
             [DbValue::Uuid(\"0193e5a4-7c1e-7000-8000-0123456789ab\"), DbValue::Decimal(\"12.50\"), \
             DbValue::ArrayStr([Some(\"a,b\"), None, Some(\"c\")])]\n",
        ),
        (
            "/v4/execute/PG",
            &["DELETE FROM guests WHERE paid > $1", "int32 100"],
            "0\n",
        ),
    ] {
        assert_eq!(ask(&edge, path, lines).await, (200, expected.to_owned()), "{lines:?}");
    }

    let twice = &["INSERT INTO guests (name) VALUES ($1)", "text Ada"][..];
    for (path, lines, expected) in [
        (
            "/v2/execute/PG",
            twice,
            &["QueryFailed", "23505", "guests_name_key"][..],
        ),
        (
            "/v4/execute/PG",
            twice,
            &["DbError", "code: \"23505\"", "(\"constraint\", \"guests_name_key\")"],
        ),
        ("/v3/query/PG", &["SELEC 1"], &["QueryFailed", "42601"]),
        ("/v4/query/PG", &["SELECT pg_sleep(60)"], &["code: \"57014\""]),
        ("/v3/execute/PG", &["BEGIN"], &["QueryFailed", "refused: BEGIN"]),
        (
            "/v2/query/PG",
            &["SELECT $1::int8", "uint64 1"],
            &["ValueConversionFailed", "unsigned"],
        ),
        (
            "/v4/query/PG",
            &["SELECT $1::int8"],
            &["BadParameter", "1 parameters, 0 values"],
        ),
        // Only what is bound, under the name it is bound as.
        (
            "/v2/query/legacy",
            &["SELECT 1"],
            &["ConnectionFailed", "no PostgreSQL is bound"],
        ),
        (
            "/v4/query/postgres://app@localhost/postgres",
            &["SELECT 1"],
            &["ConnectionFailed"],
        ),
    ] {
        let (status, text) = ask(&edge, path, lines).await;
        assert_eq!(status, 422, "{path} {lines:?}: {text}");
        for part in expected {
            assert!(text.contains(part), "{path} {lines:?}: {text}");
        }
    }

    // Without the server the guest is told so, and afterwards nothing has to be started again.
    postgres.stop();
    let (status, text) = ask(&edge, "/v4/query/PG", &["SELECT 1"]).await;
    assert!(
        status == 422 && text.contains("ConnectionFailed(\"postgres_unreachable"),
        "{text}"
    );
    postgres.resume().await;
    assert_eq!(
        ask(&edge, "/v3/query/PG", &["SELECT count(*) FROM guests"]).await.0,
        200
    );

    for log in [edge.log(), agent.log(), primary.log()] {
        assert!(!log.contains("battery"), "a log shows the password:\n{log}");
    }
}
