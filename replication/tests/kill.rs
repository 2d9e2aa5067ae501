//! `kill -9` in the middle of writes loses no acknowledged row and leaves no half batch.
//!
//! The parent starts this executable again as the writer, reads the acknowledgements from its standard output, kills
//! it after a different number of them each round, and looks at what the database holds.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use selvedge_replication::{Database, DatabaseSettings, Statement, Value};

const CHILD: &str = "SELVEDGE_TEST_WRITER";
const ROUNDS: usize = 8;
const WRITERS: i64 = 8;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime starts");
    match std::env::var_os(CHILD) {
        Some(path) => runtime.block_on(write_forever(Path::new(&path))),
        None => {
            let directory = tempfile::tempdir().expect("a temporary directory");
            for round in 0..ROUNDS {
                runtime.block_on(kill_and_check(&directory.path().join("kill.db"), round));
            }
            println!("{ROUNDS} writers killed, no acknowledged row lost");
        }
    }
}

fn open(path: &Path) -> std::sync::Arc<Database> {
    Database::open(DatabaseSettings::new("kill", path)).expect("the database opens")
}

/// Several tasks, so that commits are shared. A line on standard output is an acknowledgement.
async fn write_forever(path: &Path) {
    let database = open(path);
    let schema = "CREATE TABLE IF NOT EXISTS entry (writer INTEGER, number INTEGER, half INTEGER, filler BLOB)";
    database.query(schema, vec![]).await.expect("the table is made");
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let database = std::sync::Arc::clone(&database);
            tokio::spawn(async move {
                let sql = "SELECT coalesce(max(number), -1) + 1 FROM entry WHERE writer = ?1";
                let rows = database
                    .query(sql, vec![writer.into()])
                    .await
                    .expect("the last number is read");
                let Value::Integer(first) = rows.rows[0][0] else {
                    panic!("a number: {rows:?}")
                };
                for number in first.. {
                    let half = |half: i64| {
                        let params = vec![writer.into(), number.into(), half.into()];
                        Statement::new("INSERT INTO entry VALUES (?1, ?2, ?3, randomblob(2000))", params)
                    };
                    database
                        .batch(vec![half(0), half(1)])
                        .await
                        .expect("the batch is written");
                    let mut out = std::io::stdout().lock();
                    // The parent may be done with us.
                    if writeln!(out, "{writer} {number}").and_then(|()| out.flush()).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer ends only with the process");
    }
}

async fn kill_and_check(path: &Path, round: usize) {
    let mut child = Command::new(std::env::current_exe().expect("this executable has a path"))
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the writer starts");
    let mut acknowledgements = BufReader::new(child.stdout.take().expect("standard output is a pipe")).lines();
    let mut acknowledged = Vec::new();
    let mut note = |line: String| {
        let (writer, number) = line.split_once(' ').expect("an acknowledgement");
        acknowledged.push((
            writer.parse::<i64>().expect("a writer"),
            number.parse::<i64>().expect("a number"),
        ));
    };
    for line in acknowledgements.by_ref().take(20 + 37 * round) {
        note(line.expect("the writer's output is read"));
    }
    child.kill().expect("the writer is killed");
    // What it said before it died counts, except a line it did not finish.
    acknowledgements
        .map_while(Result::ok)
        .filter(|line| line.split(' ').count() == 2)
        .for_each(&mut note);
    child.wait().expect("the writer has ended");
    assert!(!acknowledged.is_empty());

    let database = open(path);
    for (writer, number) in acknowledged {
        let sql = "SELECT count(*) FROM entry WHERE writer = ?1 AND number = ?2";
        let rows = database
            .query(sql, vec![writer.into(), number.into()])
            .await
            .expect("the row is looked for");
        assert_eq!(
            rows.rows,
            [[Value::Integer(2)]],
            "round {round}: writer {writer}, number {number}"
        );
    }
    let sql = "SELECT count(*) FROM (SELECT 1 FROM entry GROUP BY writer, number HAVING count(*) <> 2)";
    let halves = database.query(sql, vec![]).await.expect("half batches are looked for");
    assert_eq!(halves.rows, [[Value::Integer(0)]], "round {round}: half batches");
    let check = database
        .query("PRAGMA integrity_check", vec![])
        .await
        .expect("the file is checked");
    assert_eq!(check.rows, [[Value::Text("ok".to_owned())]], "round {round}");
}
