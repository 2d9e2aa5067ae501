//! Opening a database: what is wrong with the file, and the migrations.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::error::Error;
use std::path::{Path, PathBuf};

use selvedge_replication::{Database, DatabaseSettings, OpenError, Value};

/// The error and its causes as an operator reads them, with `DIR` for the directory.
fn told(error: &OpenError, directory: &Path) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text.replace(directory.to_str().unwrap(), "DIR")
}

#[test]
fn files_that_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(
        at("text.db"),
        "This is a text file, much longer than a header of SQLite. ".repeat(100),
    )
    .unwrap();
    std::fs::create_dir(at("directory.db")).unwrap();
    std::os::unix::fs::symlink(at("loop.db"), at("loop.db")).unwrap();
    let check = |path: &str, expected: &str| {
        let Err(error) = Database::open(DatabaseSettings::new("test", at(path))) else {
            panic!("{path} was opened")
        };
        assert_eq!(told(&error, directory.path()), expected);
    };
    check("text.db", "DIR/text.db is not a SQLite database");
    check("directory.db", "DIR/directory.db is a directory, not a database file");
    check(
        "nowhere/a.db",
        "the directory DIR/nowhere does not exist; create it or change the database's path",
    );
    check(
        "text.db/a.db",
        "the directory DIR/text.db does not exist; create it or change the database's path",
    );
    check(
        "loop.db",
        "DIR/loop.db cannot be read: Too many levels of symbolic links (os error 40)",
    );
    // Nothing was left behind, and the text is still a text.
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
    assert!(std::fs::read_to_string(at("text.db")).unwrap().starts_with("This is"));
}

/// A directory of migrations and the database they are for.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("migrations")).unwrap();
        Site { directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("migrations").join(name)
    }

    fn write(&self, name: &str, sql: &str) {
        std::fs::write(self.file(name), sql).unwrap();
    }

    fn open(&self) -> Result<std::sync::Arc<Database>, OpenError> {
        let mut settings = DatabaseSettings::new("test", self.directory.path().join("test.db"));
        settings.migrations = Some(self.directory.path().join("migrations"));
        Database::open(settings)
    }

    fn refuses(&self, expected: &str) {
        let Err(error) = self.open() else {
            panic!("opened, expected: {expected}")
        };
        assert_eq!(
            told(&error, self.directory.path()),
            format!("migrating DIR/test.db: {expected}")
        );
    }

    async fn tables(&self) -> String {
        let database = Database::open(DatabaseSettings::new("look", self.directory.path().join("test.db"))).unwrap();
        let sql = "SELECT group_concat(name, ' ') FROM sqlite_schema WHERE name NOT LIKE '\\_%' ESCAPE '\\'";
        let rows = database.query(sql, vec![]).await.unwrap().rows;
        let Value::Text(names) = rows[0][0].clone() else {
            return String::new();
        };
        names
    }
}

#[tokio::test]
async fn migrations_are_applied_once_and_in_order() {
    let site = Site::new();
    site.write(
        "0002_b.sql",
        "CREATE TABLE b (a REFERENCES a);\nINSERT INTO b SELECT id FROM a; -- both\n",
    );
    site.write(
        "0001_a.sql",
        "CREATE TABLE a (id INTEGER PRIMARY KEY); INSERT INTO a VALUES (1);",
    );
    site.write("README.md", "not a migration");
    let database = site.open().unwrap();
    assert_eq!(
        database.query("SELECT * FROM b", vec![]).await.unwrap().rows,
        [[Value::Integer(1)]]
    );
    drop(database);
    site.write(
        "0010_c.sql",
        "PRAGMA user_version = 3; CREATE TABLE c (x); CREATE VIRTUAL TABLE f USING fts5(x);",
    );
    for _ in 0..2 {
        let database = site.open().unwrap();
        assert_eq!(
            database.query("SELECT count(*) FROM b", vec![]).await.unwrap().rows,
            [[Value::Integer(1)]]
        );
        assert_eq!(
            database.query("PRAGMA user_version", vec![]).await.unwrap().rows,
            [[Value::Integer(3)]]
        );
    }
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing() {
    let site = Site::new();
    site.write("0001_a.sql", "CREATE TABLE a (id);");
    site.write(
        "0002_b.sql",
        "CREATE TABLE b (id); INSERT INTO a VALUES (1); INSERT INTO nowhere VALUES (1);",
    );
    site.write("0003_c.sql", "CREATE TABLE c (id);");
    site.refuses("0002_b.sql was undone: no such table: nowhere");
    assert_eq!(site.tables().await, "a");
    site.write("0002_b.sql", "CREATE TABLE b (id);");
    site.open().unwrap();
    assert_eq!(site.tables().await, "a b c");
    // What a migration may not do, it may not do half.
    for (sql, why) in [
        (
            "CREATE TABLE d (id); COMMIT; CREATE TABLE e (id);",
            "transactions are not opened by statements; send the statements as one batch",
        ),
        (
            "CREATE TABLE d (id); ATTACH 'x.db' AS x;",
            "a statement reaches its own database only (ATTACH, DETACH, VACUUM)",
        ),
        (
            "CREATE TABLE d (id); DROP TABLE _selvedge_migrations;",
            "_selvedge_migrations is internal",
        ),
        (
            "CREATE TABLE d (id); PRAGMA journal_mode = off;",
            "PRAGMA journal_mode is not available, or not with a value",
        ),
    ] {
        site.write("0004_d.sql", sql);
        site.refuses(&format!("0004_d.sql was undone: {why}"));
        assert_eq!(site.tables().await, "a b c");
    }
}

#[test]
fn applied_migrations_are_history() {
    let site = Site::new();
    site.write("0001_a.sql", "CREATE TABLE a (id);");
    site.write("0003_c.sql", "CREATE TABLE c (id);");
    site.open().unwrap();

    site.write("0001_a.sql", "CREATE TABLE a (id, more);");
    site.refuses("0001_a.sql was changed after it had been applied; undo the change and write a new migration");
    std::fs::remove_file(site.file("0001_a.sql")).unwrap();
    site.refuses("0001_a.sql has been applied to this database but is missing from the directory");
    site.write("0001_other.sql", "CREATE TABLE a (id);");
    site.refuses("0001_a.sql has been applied to this database but is missing from the directory");
    std::fs::remove_file(site.file("0001_other.sql")).unwrap();
    site.write("0001_a.sql", "CREATE TABLE a (id);");
    site.open().unwrap();

    site.write("0002_b.sql", "CREATE TABLE b (id);");
    site.refuses("0002_b.sql comes before 0003_c.sql, which has already been applied; give it a higher number");
    std::fs::remove_file(site.file("0002_b.sql")).unwrap();
    site.write("0003_d.sql", "CREATE TABLE d (id);");
    site.refuses("0003_c.sql and 0003_d.sql have the same number");
    std::fs::remove_file(site.file("0003_d.sql")).unwrap();
    site.write("4_e.sql", "CREATE TABLE e (id);");
    site.refuses("4_e.sql is not named like 0001_create_users.sql");
    std::fs::remove_file(site.file("4_e.sql")).unwrap();
    site.open().unwrap();
    std::fs::remove_dir_all(site.directory.path().join("migrations")).unwrap();
    site.refuses("the migrations directory DIR/migrations cannot be read: No such file or directory (os error 2)");
}
