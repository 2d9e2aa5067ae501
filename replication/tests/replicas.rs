//! Primary and replica in one process: what is written at one is what the other has, whatever is written.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::sync::Arc;

use selvedge_replication::folder::Folder;
use selvedge_replication::log::{Known, Log, SegmentLog};
use selvedge_replication::position::{Epoch, Txid};
use selvedge_replication::replica::{Replica, ReplicaError, install_snapshot};
use selvedge_replication::{
    Database, DatabaseSettings, OpenError, Publication, PublishError, SqlError, Statement, Value, snapshot,
};
use selvedge_tests::disk;

struct Primary {
    root: tempfile::TempDir,
    log: Arc<SegmentLog>,
    database: Option<Arc<Database>>,
    epoch: u32,
}

impl Primary {
    fn new() -> Primary {
        let root = tempfile::tempdir().unwrap();
        let log = Arc::new(SegmentLog::open(&root.path().join("log"), 1 << 30).unwrap());
        let mut primary = Primary {
            root,
            log,
            database: None,
            epoch: 0,
        };
        primary.reopen();
        primary
    }

    fn path(&self) -> std::path::PathBuf {
        self.root.path().join("test.db")
    }

    fn reopen(&mut self) {
        self.try_reopen().unwrap();
    }

    fn try_reopen(&mut self) -> Result<(), OpenError> {
        self.close();
        self.log = Arc::new(SegmentLog::open(&self.root.path().join("log"), 1 << 30).unwrap());
        self.epoch += 1;
        let publication = Publication {
            log: self.log.clone(),
            epoch: Epoch(self.epoch),
        };
        let settings = DatabaseSettings::new("test", self.path());
        self.database = Some(Database::open_primary(settings, publication)?);
        Ok(())
    }

    fn close(&mut self) {
        if let Some(database) = self.database.take() {
            let durable = database.durable().unwrap();
            drop(database);
            // The writer's end of the channel goes with its thread.
            while durable.has_changed().is_ok() {
                std::thread::yield_now();
            }
        }
    }

    fn database(&self) -> &Database {
        self.database.as_ref().unwrap()
    }

    async fn execute(&self, sql: &str) {
        self.database().query(sql, vec![]).await.unwrap();
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        snapshot::write(&self.path(), "test", &*self.log, &mut bytes).unwrap();
        bytes
    }

    /// A new replica from a snapshot.
    fn replica(&self, name: &str) -> Replica {
        let path = self.root.path().join(name);
        install_snapshot(&self.snapshot()[..], &path).unwrap();
        Replica::open(&path).unwrap()
    }

    fn follow(&self, replica: &mut Replica) {
        assert_eq!(self.log.find("test", &replica.head()), Known::Here);
        let files = self
            .log
            .read_after("test", replica.head().position.txid, usize::MAX)
            .unwrap();
        replica.apply(files.iter().map(|file| &file[..])).unwrap();
        assert!(replica.head().is_same(&self.log.head("test").unwrap()));
        replica.scrub().unwrap();
    }
}

fn dump(path: &Path) -> Vec<(String, i64)> {
    let database = rusqlite::Connection::open(path).unwrap();
    let check: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    let mut statement = database
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
        .unwrap();
    let names: Vec<String> = statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let count = |name: String| {
        let count = database
            .query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get(0))
            .unwrap();
        (name, count)
    };
    names.into_iter().map(count).collect()
}

/// Schema changes, full text, large values, mass deletes, with open readers on the replica.
#[tokio::test]
async fn whatever_is_written_arrives() {
    let primary = Primary::new();
    primary.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)").await;
    let mut replica = primary.replica("replica.db");
    let reader =
        rusqlite::Connection::open_with_flags(replica.path(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..120 {
        for _ in 0..random.usize(1..6) {
            let sql = match random.u8(..9) {
                0 => format!("CREATE TABLE IF NOT EXISTS t{} (a UNIQUE, b) ", random.u8(..4)),
                1 => format!("DROP TABLE IF EXISTS t{}", random.u8(..4)),
                2 => "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text)".to_owned(),
                3 => "DELETE FROM t WHERE a % 3 = 0".to_owned(),
                4 => format!("INSERT INTO t (b) VALUES (randomblob({}))", random.u32(1..100_000)),
                5 => "CREATE INDEX IF NOT EXISTS i ON t (b)".to_owned(),
                6 => "DROP INDEX IF EXISTS i".to_owned(),
                _ => "INSERT INTO t (b) VALUES (random()), (datetime('now'))".to_owned(),
            };
            primary.execute(&sql).await;
        }
        if random.bool() {
            primary.follow(&mut replica);
            let read: i64 = reader
                .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
                .unwrap();
            let rows = primary
                .database()
                .query("SELECT count(*) FROM t", vec![])
                .await
                .unwrap();
            assert_eq!(rows.rows, [[Value::Integer(read)]], "round {round}");
        }
    }
    primary.follow(&mut replica);
    drop(replica);
    assert_eq!(dump(&primary.root.path().join("replica.db")), dump(&primary.path()));
}

#[tokio::test]
async fn an_operation_is_done_once() {
    let mut primary = Primary::new();
    primary.execute("CREATE TABLE t (a UNIQUE)").await;
    let insert = |value: &str| {
        vec![Statement::new(
            "INSERT INTO t VALUES (?1) RETURNING a",
            vec![value.into()],
        )]
    };
    let first = primary
        .database()
        .execute(insert("x"), "op-1".to_owned())
        .await
        .unwrap();
    assert_eq!(first.rows[0].rows, [[Value::from("x")]]);
    let failed = primary
        .database()
        .execute(insert("x"), "op-2".to_owned())
        .await
        .unwrap_err();
    primary.execute("DELETE FROM t").await;
    for _ in 0..2 {
        // Repeated, they end as they ended, though now they would end otherwise.
        assert_eq!(
            primary
                .database()
                .execute(insert("x"), "op-1".to_owned())
                .await
                .unwrap(),
            first
        );
        let again = primary
            .database()
            .execute(insert("x"), "op-2".to_owned())
            .await
            .unwrap_err();
        assert_eq!((again.code(), again.to_string()), (failed.code(), failed.to_string()));
        primary.reopen();
    }
    let rows = primary.database().query("SELECT * FROM t", vec![]).await.unwrap();
    assert!(rows.rows.is_empty());
    // What ended the whole transaction is remembered as well.
    primary
        .execute(
            "CREATE TRIGGER stop BEFORE INSERT ON t WHEN new.a = 'stop' BEGIN SELECT raise(ROLLBACK, 'stopped'); END",
        )
        .await;
    for _ in 0..2 {
        let error = primary
            .database()
            .execute(insert("stop"), "op-3".to_owned())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
        let _ = primary.database().query("DROP TRIGGER IF EXISTS stop", vec![]).await;
    }
}

#[tokio::test]
async fn interactive_transactions() {
    let primary = Primary::new();
    primary.execute("CREATE TABLE t (a)").await;
    let count = async || {
        primary
            .database()
            .query("SELECT count(*) FROM t", vec![])
            .await
            .unwrap()
            .rows[0][0]
            .clone()
    };
    let insert = || Statement::new("INSERT INTO t VALUES (1)", vec![]);
    let transaction = primary.database().begin().await.unwrap();
    transaction.run(insert()).await.unwrap();
    assert_eq!(
        transaction
            .run(Statement::new("nonsense", vec![]))
            .await
            .unwrap_err()
            .code(),
        "sql"
    );
    transaction.run(insert()).await.unwrap();
    assert_eq!(count().await, Value::Integer(0));
    let before = primary.log.head("test").unwrap().position.txid;
    assert_eq!(
        transaction.commit().await.unwrap().position.unwrap().txid,
        before.next()
    );
    assert_eq!(count().await, Value::Integer(2));
    let dropped = primary.database().begin().await.unwrap();
    dropped.run(insert()).await.unwrap();
    drop(dropped);
    primary.execute("INSERT INTO t VALUES (3)").await;
    assert_eq!(count().await, Value::Integer(3));
}

/// The file is older than the log (a power cut, synchronous=normal), or the log lacks the last commit (a kill).
#[tokio::test]
async fn file_and_log_agree_after_any_end() {
    let mut primary = Primary::new();
    primary.execute("CREATE TABLE t (a)").await;
    let mut replica = primary.replica("replica.db");
    primary.execute("INSERT INTO t VALUES (1)").await;
    primary.close();
    let older: Vec<_> = ["test.db", "test.db-wal"]
        .map(|name| (name, std::fs::read(primary.root.path().join(name)).unwrap_or_default()))
        .into();
    primary.reopen();
    primary.execute("INSERT INTO t VALUES (2)").await;
    primary.execute("CREATE INDEX i ON t (a)").await;
    let acknowledged = primary.log.head("test").unwrap();
    primary.close();
    for (name, bytes) in &older {
        std::fs::write(primary.root.path().join(name), bytes).unwrap();
    }
    let _ = std::fs::remove_file(primary.root.path().join("test.db-shm"));
    primary.reopen();
    assert!(primary.log.head("test").unwrap().is_same(&acknowledged));
    assert_eq!(
        primary
            .database()
            .query("SELECT sum(a) FROM t", vec![])
            .await
            .unwrap()
            .rows,
        [[Value::Integer(3)]]
    );
    primary.follow(&mut replica);

    // The newest record of the log is lost: its commit is found in the file and logged again.
    let length = std::fs::metadata(primary.root.path().join("log/00000000000000000001.log"))
        .unwrap()
        .len();
    primary.execute("INSERT INTO t VALUES (3)").await;
    primary.close();
    std::fs::OpenOptions::new()
        .write(true)
        .open(primary.root.path().join("log/00000000000000000001.log"))
        .unwrap()
        .set_len(length)
        .unwrap();
    primary.reopen();
    primary.follow(&mut replica);
    assert_eq!(
        primary
            .database()
            .query("SELECT sum(a) FROM t", vec![])
            .await
            .unwrap()
            .rows,
        [[Value::Integer(6)]]
    );
}

#[tokio::test]
async fn damage_and_other_histories_are_found() {
    let primary = Primary::new();
    primary.execute("CREATE TABLE t (a)").await;
    let mut replica = primary.replica("replica.db");
    primary.execute("INSERT INTO t VALUES (1)").await;
    let files = primary
        .log
        .read_after("test", replica.head().position.txid, usize::MAX)
        .unwrap();
    let mut damaged = files[0].to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(replica.apply([&damaged[..]]), Err(ReplicaError::File(_))));
    primary.follow(&mut replica);
    primary.execute("INSERT INTO t VALUES (2)").await;
    primary.execute("INSERT INTO t VALUES (3)").await;
    let files = primary
        .log
        .read_after("test", replica.head().position.txid, usize::MAX)
        .unwrap();
    assert!(matches!(replica.apply([&files[1][..]]), Err(ReplicaError::Gap { .. })));
    primary.follow(&mut replica);

    // A write past replication.
    let other = rusqlite::Connection::open(replica.path()).unwrap();
    other.execute_batch("INSERT INTO t VALUES (9)").unwrap();
    let error = replica.scrub().unwrap_err();
    assert!(
        matches!(error, ReplicaError::Damaged { .. }) && error.needs_rebuild(),
        "{error}"
    );
    drop(other);
    let path = replica.path().to_owned();
    drop(replica);
    assert!(matches!(Replica::open(&path), Err(ReplicaError::Diverged { .. })));

    let other = Primary::new();
    other.execute("CREATE TABLE t (a)").await;
    assert_eq!(
        primary.log.find("test", &other.replica("replica.db").head()),
        Known::Never
    );

    let mut snapshot = primary.snapshot();
    let folder = Folder::of(primary.root.path(), "copy");
    let at = snapshot.len() / 2;
    snapshot[at] ^= 4;
    let next = folder.next().unwrap();
    assert!(install_snapshot(&snapshot[..], &next).is_err() && !next.exists());
}

#[tokio::test]
async fn many_writers_share_a_file_of_the_log() {
    let primary = Primary::new();
    primary.execute("CREATE TABLE t (a)").await;
    let before = primary.log.head("test").unwrap().position.txid;
    let writes = (0..200).map(|number| {
        let statements = vec![Statement::new(
            "INSERT INTO t VALUES (?1)",
            vec![Value::Integer(number)],
        )];
        primary.database().execute(statements, format!("op-{number}"))
    });
    for done in futures::future::join_all(writes).await {
        done.unwrap();
    }
    let Txid(after) = primary.log.head("test").unwrap().position.txid;
    assert!(after - before.0 < 100, "{after}");
    let result: Result<_, SqlError> = primary.database().query("SELECT count(*) FROM t", vec![]).await;
    assert_eq!(result.unwrap().rows, [[Value::Integer(200)]]);
}

#[tokio::test]
async fn a_page_that_the_primarys_disk_has_changed_is_not_passed_on() {
    let mut primary = Primary::new();
    primary.execute("CREATE TABLE t (a)").await;
    primary.execute("INSERT INTO t VALUES ('precious')").await;
    // Everything is in the file.
    primary.database().close().await;
    primary.reopen();
    primary.execute("CREATE TABLE later (a)").await;
    disk::flip_bit(&primary.path(), b"precious");
    let mut bytes = Vec::new();
    let copied = snapshot::write(&primary.path(), "test", &*primary.log, &mut bytes);
    assert!(matches!(copied, Err(snapshot::SnapshotError::Damaged(_))), "{copied:?}");
    assert!(install_snapshot(&bytes[..], &primary.root.path().join("copy.db")).is_err());

    // After a crash the file is read.
    let opened = primary.try_reopen();
    let page = match opened {
        Err(OpenError::Publish {
            source: PublishError::DamagedPage { page },
            ..
        }) => page,
        other => panic!("{other:?}"),
    };
    assert!(page > 1, "{page}");
    disk::flip_bit(&primary.path(), b"qrecious");
    primary.reopen();
    let rows = primary.database().query("SELECT a FROM t", vec![]).await.unwrap();
    assert_eq!(rows.rows, [[Value::from("precious")]]);
}
