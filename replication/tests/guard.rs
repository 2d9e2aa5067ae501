//! What application SQL may do, and what it is told when it may not.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use selvedge_replication::{Database, DatabaseSettings, SqlError, Statement};

/// Expected codes: "ok", or the error's. One database for all rows, in order.
const TABLE: &[(&str, &str)] = &[
    // Ordinary work.
    ("SELECT 1", "ok"),
    ("SELECT 1;", "ok"),
    ("SELECT 1 -- a remark", "ok"),
    ("VALUES (1, 2), (3, 4)", "ok"),
    (
        "CREATE TABLE author (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
        "ok",
    ),
    (
        "CREATE TABLE book (id INTEGER PRIMARY KEY, author INTEGER REFERENCES author, title TEXT CHECK (title <> ''))",
        "ok",
    ),
    ("CREATE INDEX book_by_author ON book (author)", "ok"),
    (
        "CREATE VIEW titles AS SELECT name, title FROM book JOIN author ON author.id = book.author",
        "ok",
    ),
    (
        "CREATE TRIGGER tidy AFTER INSERT ON book BEGIN UPDATE book SET title = trim(title) WHERE id = new.id; END",
        "ok",
    ),
    ("INSERT INTO author (name) VALUES ('Ursula')", "ok"),
    (
        "INSERT INTO book (author, title) VALUES (1, ' Planet ') RETURNING id, title",
        "ok",
    ),
    (
        "INSERT INTO author (name) VALUES ('Ursula') ON CONFLICT DO UPDATE SET name = excluded.name",
        "ok",
    ),
    (
        "WITH t AS (SELECT 2 AS a) INSERT INTO book (author, title) SELECT 1, 'x' FROM t",
        "ok",
    ),
    (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT sum(i) FROM n",
        "ok",
    ),
    ("UPDATE book SET title = 'y' WHERE title = 'x'", "ok"),
    ("DELETE FROM book WHERE title = 'y'", "ok"),
    ("SELECT * FROM titles", "ok"),
    ("EXPLAIN QUERY PLAN SELECT * FROM book", "ok"),
    ("EXPLAIN DELETE FROM book", "ok"),
    ("SELECT name FROM sqlite_schema WHERE type = 'table'", "ok"),
    (
        "SELECT json_extract('{\"a\":1}', '$.a'), value FROM json_each('[1]')",
        "ok",
    ),
    ("SELECT row_number() OVER (ORDER BY id) FROM book", "ok"),
    (
        "CREATE VIRTUAL TABLE words USING fts5(title, content='book', content_rowid='id')",
        "ok",
    ),
    ("INSERT INTO words (words) VALUES ('rebuild')", "ok"),
    (
        "SELECT snippet(words, 0, '<', '>', '…', 8) FROM words WHERE words MATCH 'planet' ORDER BY rank",
        "ok",
    ),
    (
        "CREATE TRIGGER words_insert AFTER INSERT ON book BEGIN \
         INSERT INTO words (rowid, title) VALUES (new.id, new.title); END",
        "ok",
    ),
    ("INSERT INTO book (author, title) VALUES (1, 'Rocannon')", "ok"),
    ("CREATE VIRTUAL TABLE area USING rtree(id, x0, x1)", "ok"),
    ("INSERT INTO area VALUES (1, 0, 1)", "ok"),
    ("ALTER TABLE author RENAME TO writer", "ok"),
    ("ALTER TABLE writer ADD COLUMN born INTEGER", "ok"),
    ("ALTER TABLE writer RENAME COLUMN born TO birth", "ok"),
    ("ALTER TABLE writer DROP COLUMN birth", "ok"),
    ("ALTER TABLE writer RENAME TO author", "ok"),
    ("ANALYZE", "ok"),
    ("REINDEX book", "ok"),
    ("CREATE TABLE gone (id INTEGER PRIMARY KEY AUTOINCREMENT)", "ok"),
    ("DROP TABLE gone", "ok"),
    ("DROP INDEX book_by_author", "ok"),
    ("DROP TABLE area", "ok"),
    ("DROP VIEW titles", "ok"),
    ("PRAGMA table_info(book)", "ok"),
    ("PRAGMA main.table_xinfo('book')", "ok"),
    ("PRAGMA foreign_key_list(book)", "ok"),
    ("PRAGMA index_list(author)", "ok"),
    ("PRAGMA user_version", "ok"),
    ("PRAGMA quick_check", "ok"),
    // SQLite checks the rows there are with a pragma of its own.
    ("CREATE TABLE strict (id INTEGER PRIMARY KEY, a TEXT) STRICT", "ok"),
    ("INSERT INTO strict (a) VALUES ('x')", "ok"),
    ("ALTER TABLE strict ADD COLUMN b INTEGER NOT NULL DEFAULT 7", "ok"),
    ("ALTER TABLE strict ADD COLUMN c TEXT", "ok"),
    ("ALTER TABLE strict ADD COLUMN d INTEGER CHECK (d > 5) DEFAULT 6", "ok"),
    ("ALTER TABLE strict ADD COLUMN e INTEGER AS (b + 1) NOT NULL", "ok"),
    ("ALTER TABLE strict ADD COLUMN f INTEGER CHECK (f > 5) DEFAULT 4", "sql"),
    ("ALTER TABLE strict ADD COLUMN g INTEGER DEFAULT 'x'", "sql"),
    ("SELECT name FROM pragma_table_info('book')", "ok"),
    // Ordinary mistakes.
    ("", "sql"),
    ("-- nothing", "sql"),
    ("SELEC 1", "sql"),
    ("SELECT * FROM nowhere", "sql"),
    ("SELECT 1; SELECT 2", "sql"),
    ("SELECT 1; DROP TABLE book", "sql"),
    ("INSERT INTO author (name) VALUES ('Ursula')", "constraint"),
    ("INSERT INTO author (name) VALUES (NULL)", "constraint"),
    ("INSERT INTO book (author, title) VALUES (99, 'z')", "constraint"),
    ("INSERT INTO book (author, title) VALUES (1, '')", "constraint"),
    ("SELECT ?1", "parameters"),
    ("SELECT CAST(x'ff' AS TEXT)", "not_utf8"),
    // Transactions belong to the batch.
    ("BEGIN", "refused"),
    ("begin immediate", "refused"),
    ("COMMIT", "refused"),
    ("END", "refused"),
    ("ROLLBACK", "refused"),
    ("SAVEPOINT a", "refused"),
    ("RELEASE write", "refused"),
    ("/* BEGIN */ ROLLBACK TO write", "refused"),
    ("EXPLAIN BEGIN", "refused"),
    // Other files, and code.
    ("ATTACH 'other.db' AS other", "refused"),
    ("ATTACH ':memory:' AS other", "refused"),
    ("DETACH main", "refused"),
    ("VACUUM", "sql"),
    ("VACUUM INTO 'copy.db'", "sql"),
    ("SELECT load_extension('x')", "refused"),
    ("SELECT fts3_tokenizer('simple')", "refused"),
    // Settings of shared connections and of the file.
    ("PRAGMA journal_mode", "refused"),
    ("PRAGMA journal_mode = delete", "refused"),
    ("PRAGMA synchronous = off", "refused"),
    ("PRAGMA foreign_keys = off", "refused"),
    ("PRAGMA user_version = 7", "refused"),
    ("PRAGMA writable_schema = on", "refused"),
    ("PRAGMA writable_schema = reset", "refused"),
    ("PRAGMA query_only = off", "refused"),
    ("PRAGMA trusted_schema = on", "refused"),
    ("PRAGMA hard_heap_limit = 1", "refused"),
    ("PRAGMA temp_store_directory = '/tmp'", "refused"),
    ("PRAGMA database_list", "refused"),
    ("PRAGMA wal_checkpoint(TRUNCATE)", "refused"),
    ("PRAGMA mmap_size = 1000000", "refused"),
    ("SELECT * FROM pragma_database_list", "refused"),
    // Internal tables.
    ("SELECT * FROM sqlite_dbpage", "refused"),
    (
        "UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 1",
        "refused",
    ),
    ("SELECT * FROM dbstat", "refused"),
    ("CREATE VIRTUAL TABLE pages USING sqlite_dbpage", "refused"),
    ("CREATE VIRTUAL TABLE pages USING dbstat", "refused"),
    ("SELECT * FROM _selvedge_migrations", "refused"),
    ("SELECT count(*) FROM _SELVEDGE_migrations", "refused"),
    (
        "INSERT INTO _selvedge_migrations (number, file, checksum) VALUES (1, 'a', 'b')",
        "refused",
    ),
    ("DROP TABLE _selvedge_migrations", "refused"),
    ("ALTER TABLE _selvedge_migrations RENAME TO mine", "refused"),
    ("CREATE INDEX i ON _selvedge_migrations (file)", "refused"),
    ("CREATE TABLE _selvedge_own (a)", "refused"),
    ("DELETE FROM sqlite_sequence", "refused"),
    ("UPDATE sqlite_stat1 SET stat = '1'", "refused"),
    ("DROP TABLE sqlite_stat1", "refused"),
    ("DELETE FROM sqlite_schema", "sql"),
    ("UPDATE sqlite_master SET sql = 'x'", "sql"),
    ("INSERT INTO words_data VALUES (1, x'00')", "sql"),
    // State that the next application on the connection would find.
    ("CREATE TEMP TABLE t (a)", "refused"),
    ("CREATE TABLE temp.t (a)", "refused"),
    ("CREATE VIRTUAL TABLE temp.t USING fts5(a)", "refused"),
    ("SELECT * FROM sqlite_temp_schema", "ok"),
    ("CREATE TEMP VIEW v AS SELECT 1", "refused"),
    (
        "CREATE TEMP TRIGGER tr AFTER INSERT ON book BEGIN SELECT 1; END",
        "refused",
    ),
    // Too much of anything.
    ("SELECT randomblob(100000000)", "too_large"),
    ("SELECT zeroblob(20000000), zeroblob(20000000)", "too_large"),
    (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n LIMIT 100001",
        "too_large",
    ),
];

#[tokio::test]
async fn what_a_statement_may_do() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(DatabaseSettings::new("guard", directory.path().join("guard.db"))).unwrap();
    let mut wrong = Vec::new();
    for (sql, expected) in TABLE {
        let result = database.query(sql, vec![]).await;
        let code = result.as_ref().map_or_else(SqlError::code, |_| "ok");
        if code != *expected {
            wrong.push(format!("{sql}: expected {expected}, not {result:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The same judgement inside a batch, where a transaction is open.
    for sql in [
        "COMMIT",
        "ROLLBACK TO write",
        "ATTACH 'x' AS x",
        "PRAGMA synchronous = off",
        "CREATE TEMP TABLE t (a)",
    ] {
        let result = database.batch(vec![Statement::new(sql, vec![])]).await;
        assert_eq!(result.unwrap_err().code(), "refused", "{sql}");
    }
    assert!(!database.stats().damaged);
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        3,
        "the file, its log and its index, no others"
    );
}

#[tokio::test]
async fn long_and_deep_statements() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(DatabaseSettings::new("guard", directory.path().join("guard.db"))).unwrap();
    let check = async |sql: String, expected: &str| {
        let result = database.query(&sql, vec![]).await;
        let code = result.as_ref().map_or_else(SqlError::code, |_| "ok");
        assert_eq!(code, expected, "{}…: {result:?}", &sql[..30.min(sql.len())]);
    };
    check(format!("SELECT '{}'", "x".repeat(1_000_000)), "ok").await;
    check(format!("SELECT '{}'", "x".repeat(1_100_000)), "too_large").await;
    check(format!("SELECT {}1", "1+".repeat(100)), "ok").await;
    check(format!("SELECT {}1", "1+".repeat(1000)), "sql").await;
    check(format!("SELECT 1{}", ", 1".repeat(400)), "ok").await;
    check(format!("SELECT 1{}", ", 1".repeat(600)), "sql").await;
    check(format!("SELECT 1{}", " UNION SELECT 1".repeat(50)), "ok").await;
    check(format!("SELECT 1{}", " UNION SELECT 1".repeat(200)), "sql").await;
    check(format!("VALUES (1){}", ", (1)".repeat(5000)), "ok").await;
}

#[tokio::test]
async fn a_refusal_says_what_to_do_instead() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(DatabaseSettings::new("guard", directory.path().join("guard.db"))).unwrap();
    let check = async |sql: &str, expected: &str| {
        assert_eq!(database.query(sql, vec![]).await.unwrap_err().to_string(), expected);
    };
    check(
        "BEGIN",
        "transactions are not opened by statements; send the statements as one batch",
    )
    .await;
    check(
        "PRAGMA synchronous = off",
        "PRAGMA synchronous is not available, or not with a value",
    )
    .await;
    check("SELECT 1; SELECT 2", "more than one statement; send them as a batch").await;
    check("SELECT a FROM nowhere", "no such table: nowhere").await;
    check("SELECT FROM", "near \"FROM\": syntax error (at byte 7)").await;
}
