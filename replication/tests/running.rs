//! Statements that run: their bounds, their neighbours, and who sees what when.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use selvedge_replication::{Database, DatabaseSettings, SqlError, Statement, Value};
use tempfile::TempDir;

const FOREVER: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

fn open(change: impl FnOnce(&mut DatabaseSettings)) -> (TempDir, Arc<Database>) {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = DatabaseSettings::new("test", directory.path().join("test.db"));
    change(&mut settings);
    let database = Database::open(settings).unwrap();
    (directory, database)
}

async fn rows(database: &Database, sql: &str) -> Vec<Vec<Value>> {
    database.query(sql, vec![]).await.unwrap().rows
}

/// Waits until the condition holds; the test's own harness bounds how long.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn values_come_back_as_they_went_in() {
    let (_directory, database) = open(|_| {});
    for value in [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Real(1.5e300),
        Value::Text(String::new()),
        Value::Text("Grüße \0 \u{1f9f5}".to_owned()),
        Value::Blob(vec![]),
        Value::Blob(vec![0, 255]),
    ] {
        let result = database.query("SELECT ?1 AS v", vec![value.clone()]).await.unwrap();
        assert_eq!((result.columns, result.rows), (vec!["v".to_owned()], vec![vec![value]]));
    }
    let nan = database.query("SELECT ?1", vec![Value::Real(f64::NAN)]).await.unwrap();
    assert_eq!(nan.rows, [[Value::Null]]);
}

#[tokio::test]
async fn a_write_tells_what_it_changed() {
    let (_directory, database) = open(|_| {});
    let check = async |sql: &str, changes: u64, rowid: i64| {
        let result = database.query(sql, vec![]).await.unwrap();
        assert_eq!((result.changes, result.last_insert_rowid), (changes, rowid), "{sql}");
    };
    check("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", 0, 0).await;
    check("INSERT INTO t (b) VALUES ('x'), ('y'), ('z')", 3, 3).await;
    check("INSERT INTO t (a, b) VALUES (10, 'x') RETURNING a", 1, 10).await;
    check("UPDATE t SET b = 'w' WHERE b = 'nothing'", 0, 0).await;
    check("CREATE INDEX i ON t (b)", 0, 0).await;
    check("SELECT count(*) FROM t", 0, 0).await;
    check("EXPLAIN DELETE FROM t", 0, 0).await;
    check("DELETE FROM t", 4, 10).await;
}

#[tokio::test]
async fn a_statement_that_runs_too_long_is_stopped() {
    let (_directory, database) = open(|settings| settings.statement_timeout = Duration::from_millis(100));
    database.query("CREATE TABLE t (a)", vec![]).await.unwrap();
    let write = format!("INSERT INTO t {FOREVER}");
    let check = async |error: SqlError| assert_eq!(error.code(), "timeout", "{error}");
    check(database.query(FOREVER, vec![]).await.unwrap_err()).await;
    check(database.query(&write, vec![]).await.unwrap_err()).await;
    let batch = vec![
        Statement::new("INSERT INTO t VALUES (1)", vec![]),
        Statement::new(write, vec![]),
    ];
    check(database.batch(batch).await.unwrap_err()).await;
    // Both kinds of connection go on.
    assert_eq!(rows(&database, "SELECT count(*) FROM t").await, [[Value::Integer(0)]]);
    database.query("INSERT INTO t VALUES (2)", vec![]).await.unwrap();
    assert_eq!(rows(&database, "SELECT a FROM t").await, [[Value::Integer(2)]]);
    assert_eq!(database.stats().timeouts, 3);
}

#[tokio::test]
async fn a_reader_whose_asker_has_gone_stops() {
    let (_directory, database) = open(|settings| {
        settings.statement_timeout = Duration::from_secs(3600);
        settings.readers = 1;
    });
    for _ in 0..10 {
        let asker = tokio::spawn({
            let database = Arc::clone(&database);
            async move { database.query(FOREVER, vec![]).await }
        });
        until(|| database.stats().readers_busy == 1).await;
        asker.abort();
        assert!(asker.await.unwrap_err().is_cancelled());
        // The only reader answers again, and the late cancellation does not hit this statement.
        assert_eq!(rows(&database, "SELECT 1").await, [[Value::Integer(1)]]);
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_reader_ends() {
    let (_directory, database) = open(|settings| {
        settings.statement_timeout = Duration::from_secs(3600);
        settings.readers = 1;
    });
    let asker = tokio::spawn({
        let database = Arc::clone(&database);
        async move { database.query(FOREVER, vec![]).await }
    });
    until(|| database.stats().readers_busy == 1).await;
    let error = database.query("SELECT 1", vec![]).await.unwrap_err();
    assert_eq!(error.code(), "busy", "{error}");
    assert_eq!(database.stats().reads_waiting, 0);
    asker.abort();
}

#[tokio::test]
async fn results_are_bounded() {
    let (_directory, database) = open(|settings| {
        settings.max_rows = 3;
        settings.max_result_bytes = 1000;
    });
    let check = async |sql: &str, expected: &str| {
        let result = database.query(sql, vec![]).await;
        assert_eq!(
            result.as_ref().map_or_else(SqlError::code, |_| "ok"),
            expected,
            "{sql}: {result:?}"
        );
    };
    check("CREATE TABLE t (a)", "ok").await;
    check("VALUES (1), (2), (3)", "ok").await;
    check("VALUES (1), (2), (3), (4)", "too_large").await;
    check("SELECT zeroblob(900)", "ok").await;
    check("SELECT zeroblob(1000)", "too_large").await;
    check("INSERT INTO t VALUES (1), (2), (3), (4) RETURNING a", "too_large").await;
    assert_eq!(
        rows(&database, "SELECT count(*) FROM t").await,
        [[Value::Integer(0)]],
        "nothing of it was kept"
    );
}

#[tokio::test]
async fn a_batch_is_done_whole_or_not_at_all() {
    let (_directory, database) = open(|_| {});
    let batch = |texts: &[&str]| texts.iter().map(|sql| Statement::new(*sql, vec![])).collect::<Vec<_>>();
    let created = batch(&[
        "CREATE TABLE t (a UNIQUE)",
        "INSERT INTO t VALUES (1)",
        "SELECT a FROM t",
    ]);
    let results = database.batch(created).await.unwrap();
    assert_eq!(results[2].rows, [[Value::Integer(1)]]);
    assert_eq!(database.batch(vec![]).await.unwrap(), []);

    let error = database
        .batch(batch(&["INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (1)"]))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "statement 1 of the batch: UNIQUE constraint failed: t.a"
    );
    assert_eq!(error.code(), "constraint");
    let dropped = database
        .batch(batch(&["DROP TABLE t", "SELECT 1 FROM t"]))
        .await
        .unwrap_err();
    assert_eq!(dropped.code(), "sql");
    let many = (0..1001).map(|_| Statement::new("SELECT 1", vec![])).collect();
    assert_eq!(database.batch(many).await.unwrap_err().code(), "too_large");
    assert_eq!(rows(&database, "SELECT a FROM t").await, [[Value::Integer(1)]]);
}

/// Writes that share a commit do not notice: whatever ends the shared transaction, each has its own outcome.
#[tokio::test]
async fn writes_that_share_a_commit_are_independent() {
    let (_directory, database) = open(|settings| settings.statement_timeout = Duration::from_secs(2));
    for sql in [
        "CREATE TABLE t (a INTEGER PRIMARY KEY)",
        "CREATE TABLE child (t INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER ends_everything BEFORE INSERT ON t WHEN new.a = 666 BEGIN SELECT raise(ROLLBACK, 'all'); END",
    ] {
        database.query(sql, vec![]).await.unwrap();
    }
    // Holds the writer, so that those after it arrive together.
    let slow = "INSERT INTO t SELECT -1 FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) \
                SELECT count(*) FROM n)";
    let at_once = [
        (slow, "ok"),
        ("INSERT INTO t VALUES (1)", "ok"),
        ("INSERT INTO t VALUES (-1)", "constraint"),
        ("INSERT INTO child VALUES (99)", "constraint"),
        ("INSERT INTO t VALUES (2)", "ok"),
        ("INSERT INTO t VALUES (666)", "constraint"),
        ("INSERT INTO nowhere VALUES (2)", "sql"),
        ("INSERT INTO t VALUES (3)", "ok"),
        ("COMMIT", "refused"),
        ("INSERT INTO child VALUES (3)", "ok"),
    ];
    for round in 0..5 {
        let writes: Vec<_> = at_once
            .map(|(sql, expected)| {
                let database = Arc::clone(&database);
                // Batches go to the writer directly, and so in this order.
                let batch = vec![Statement::new(sql, vec![])];
                let write = tokio::spawn(async move { database.batch(batch).await });
                (sql, expected, write)
            })
            .into_iter()
            .collect();
        for (sql, expected, write) in writes {
            let result = write.await.unwrap();
            assert_eq!(
                result.as_ref().map_or_else(SqlError::code, |_| "ok"),
                expected,
                "{round}: {sql}: {result:?}"
            );
        }
        let kept = rows(
            &database,
            "SELECT a FROM t UNION ALL SELECT t + 100 FROM child ORDER BY 1",
        )
        .await;
        assert_eq!(
            kept,
            [-1, 1, 2, 3, 103].map(|a| vec![Value::Integer(a)]),
            "round {round}"
        );
        database.query("DELETE FROM child", vec![]).await.unwrap();
        database.query("DELETE FROM t", vec![]).await.unwrap();
    }

    // And they do share.
    let before = database.stats();
    let writes: Vec<_> = (0..200)
        .map(|a: i64| {
            let database = Arc::clone(&database);
            tokio::spawn(async move { database.query("INSERT INTO t VALUES (?1)", vec![a.into()]).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let after = database.stats();
    assert_eq!(after.writes - before.writes, 200);
    assert!(
        after.commits - before.commits < 200,
        "{} commits",
        after.commits - before.commits
    );
}

/// Money moves between accounts; whoever looks, sees all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_whole_transactions() {
    const ACCOUNTS: i64 = 20;
    let (_directory, database) = open(|_| {});
    database
        .query("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)", vec![])
        .await
        .unwrap();
    let accounts = (0..ACCOUNTS).map(|id| Statement::new("INSERT INTO account VALUES (?1, 100)", vec![id.into()]));
    database.batch(accounts.collect()).await.unwrap();

    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (database, done) = (Arc::clone(&database), Arc::clone(&done));
            tokio::spawn(async move {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    let sum = rows(&database, "SELECT sum(balance), count(*) FROM account").await;
                    assert_eq!(sum, [[Value::Integer(ACCOUNTS * 100), Value::Integer(ACCOUNTS)]]);
                    looks += 1;
                }
                looks
            })
        })
        .collect();
    let movers: Vec<_> = (0..4_i64)
        .map(|mover| {
            let database = Arc::clone(&database);
            tokio::spawn(async move {
                for step in 0..100 {
                    let (from, to) = ((mover * 7 + step) % ACCOUNTS, (mover + step * 3) % ACCOUNTS);
                    let change = |id: i64, by: i64| {
                        Statement::new(
                            "UPDATE account SET balance = balance + ?2 WHERE id = ?1",
                            vec![id.into(), by.into()],
                        )
                    };
                    database
                        .batch(vec![change(from, -step), change(to, step)])
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for mover in movers {
        mover.await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn an_acknowledged_write_is_seen_by_the_next_read() {
    let (_directory, database) = open(|_| {});
    database.query("CREATE TABLE t (a)", vec![]).await.unwrap();
    for count in 1..=50 {
        database.query("INSERT INTO t VALUES (1)", vec![]).await.unwrap();
        assert_eq!(
            rows(&database, "SELECT count(*) FROM t").await,
            [[Value::Integer(count)]]
        );
    }
}

/// Pages are overwritten while the database is closed; reading them is an error of this database only.
#[tokio::test]
async fn damage_is_told_and_stops_writes() {
    let (directory, database) = open(|_| {});
    database.query("CREATE TABLE t (a, b)", vec![]).await.unwrap();
    for _ in 0..50 {
        database
            .query("INSERT INTO t VALUES (1, randomblob(3000))", vec![])
            .await
            .unwrap();
    }
    let path = directory.path().join("test.db");
    let wal = directory.path().join("test.db-wal");
    drop(database);
    // The last connection to close moves the log into the file and removes it.
    until(|| !wal.exists()).await;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].iter_mut().for_each(|byte| *byte = 0xa5);
    std::fs::write(&path, bytes).unwrap();

    let database = Database::open(DatabaseSettings::new("test", &path));
    let database = match database {
        Ok(database) => database,
        Err(error) => panic!("only the data pages are damaged: {error:?}"),
    };
    let check = async |sql: &str, expected: &str| {
        let result = database.query(sql, vec![]).await;
        assert_eq!(
            result.as_ref().map_or_else(SqlError::code, |_| "ok"),
            expected,
            "{sql}: {result:?}"
        );
    };
    check("SELECT 1", "ok").await;
    check("SELECT sum(length(b)) FROM t", "corrupt").await;
    check("CREATE TABLE u (a)", "corrupt").await;
    check("SELECT 1", "ok").await;
    assert!(database.stats().damaged);
}
