//! `selvedge db` as an operator types it, against a primary and a replica that are processes of their own.

use std::path::Path;
use std::process::Stdio;

use selvedge_tests::executable::executable;
use selvedge_tests::wait::{wait_for, within};
use selvedge_tests::{Agent, certificate, client};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

const TOKEN: &str = "a cluster's secret";

/// How a command ended.
#[derive(Debug)]
struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.stdout
    }

    #[track_caller]
    fn json(self) -> Value {
        let text = self.done();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// It failed with this status, and says this.
    #[track_caller]
    fn refused(self, status: i32, text: &str) {
        assert!(self.status == status && self.stderr.contains(text), "{text}: {self:?}");
    }
}

/// Runs `selvedge db` with `input`, against an agent's socket.
async fn db_with(agent: &Agent, arguments: &[&str], input: &str) -> Ran {
    let socket = agent.socket().display().to_string();
    let mut all = vec!["db", "--agent", &socket];
    all.extend(arguments);
    run(&all, input).await
}

async fn run(arguments: &[&str], input: &str) -> Ran {
    let mut child = tokio::process::Command::new(executable())
        .args(arguments)
        .env_remove("SELVEDGE_AGENT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the executable starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    // Refused when the command does not read.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = within("the command to end", child.wait_with_output())
        .await
        .expect("it ends");
    Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

async fn db(agent: &Agent, arguments: &[&str]) -> Ran {
    db_with(agent, arguments, "").await
}

async fn sql(agent: &Agent, database: &str, sql: &str) -> Value {
    db(agent, &["--json", "shell", database, "--sql", sql]).await.json()
}

/// What a reader of this agent's copy counts.
async fn count(agent: &Agent, database: &str, table: &str) -> i64 {
    let answer = sql(agent, database, &format!("SELECT count(*) AS count FROM {table}")).await;
    answer["rows"][0]["count"].as_i64().expect("a count")
}

async fn primary(keys: &str) -> Agent {
    Agent::start(&format!(
        "agent: {{ name: primary, listen: 127.0.0.1:{}, token: {TOKEN}{keys} }}\n",
        free_port()
    ))
    .await
}

async fn replica_of(primary: &Agent) -> Agent {
    let url = primary.url("");
    Agent::start(&format!("agent: {{ name: pop, primary: \"{url}\", token: {TOKEN} }}\n")).await
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Writes a file of the test's own and gives its path.
fn file(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    path.display().to_string()
}

/// Names of the databases of one agent's list.
fn names(list: &Value) -> Vec<&str> {
    let databases = list["databases"].as_array().expect("a list");
    databases
        .iter()
        .filter_map(|status| status["database"].as_str())
        .collect()
}

async fn list(agent: &Agent) -> Value {
    db(agent, &["--json", "list"]).await.json()
}

/// Files in a database's folder at an agent.
fn files(agent: &Agent, database: &str) -> Vec<String> {
    let folder = agent.directory().join("data/agent/databases").join(database);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_database_is_made_used_deleted_and_had_back() {
    let primary = primary("").await;
    let pop = replica_of(&primary).await;
    assert_eq!(db(&pop, &["create", "shop"]).await.done(), "shop was made\n");
    db(&primary, &["create", "shop"]).await.refused(1, "exists already");
    db(&pop, &["create", "no/name"])
        .await
        .refused(1, "cannot be a database's name");
    assert_eq!(names(&list(&primary).await), ["shop"]);
    assert_eq!(names(&list(&pop).await), ["shop"]);

    // At a PoP: what was written a moment ago is read, over as many lines as it takes.
    let input = "CREATE TABLE items (\n  id INTEGER PRIMARY KEY,\n  name TEXT);\n\
                 INSERT INTO items (name) VALUES ('a;b'), (NULL); SELECT * FROM items;\n\
                 .mode csv\nSELECT * FROM items;\n.mode json\nSELECT * FROM items WHERE id = 1;\n\
                 .tables\n.schema items\n.quit\nnot reached";
    let shown = db_with(&pop, &["shell", "shop"], input).await.done();
    let expected = "done\ndone, 2 rows changed\nid  name\n--  ----\n1   a;b\n2   NULL\nid,name\n1,a;b\n2,\n\
                    {\"columns\":[\"id\",\"name\"],\"rows\":[{\"id\":1,\"name\":\"a;b\"}]}\nitems\n\
                    CREATE TABLE items (\n  id INTEGER PRIMARY KEY,\n  name TEXT);\n";
    assert_eq!(shown, expected);
    assert_eq!(count(&primary, "shop", "items").await, 2);
    assert_eq!(sql(&pop, "shop", "UPDATE items SET name = 'c'").await["changes"], 2);
    let strong = db(
        &pop,
        &["--json", "shell", "shop", "--strong", "--sql", "SELECT name FROM items"],
    )
    .await;
    assert_eq!(strong.json()["rows"][1]["name"], "c");

    db_with(&pop, &["shell", "shop"], "SELECT 1;\nSELECT missing;\nSELECT 2;\n")
        .await
        .refused(1, "error: no such column: missing");
    db_with(&pop, &["shell", "shop"], ".unknown\n")
        .await
        .refused(2, ".help");
    db(&pop, &["shell", "none"])
        .await
        .refused(1, "there is no database none");
    let broken = db(
        &pop,
        &["--json", "shell", "shop", "--sql", "INSERT INTO items (id) VALUES (1)"],
    )
    .await;
    let error: Value = serde_json::from_str(&broken.stderr).expect("JSON");
    assert_eq!(
        (broken.status, &error["error"]["code"]),
        (1, &Value::from("constraint"))
    );
    run(&["db", "list"], "").await.refused(2, "which agent?");
    run(&["db", "--agent", "/nowhere.sock", "list"], "")
        .await
        .refused(1, "selvedge agent FILE");
    run(&["db", "--agent", &primary.url(""), "list"], "")
        .await
        .refused(1, "SELVEDGE_TOKEN");
    run(&["db", "--agent", &primary.url(""), "--token", TOKEN, "list"], "")
        .await
        .done();
    let configuration = pop.directory().join("agent.yaml").display().to_string();
    run(&["db", "list", "--config", &configuration], "").await.done();

    let deleted = db(&pop, &["delete", "shop", "--grace", "1h"]).await.done();
    assert!(deleted.contains("selvedge db undelete shop"), "{deleted}");
    db(&primary, &["shell", "shop", "--sql", "SELECT 1"])
        .await
        .refused(1, "was deleted");
    db(&primary, &["create", "shop"]).await.refused(1, "was deleted");
    wait_for("the replica to drop it", async || {
        files(&pop, "shop").is_empty().then_some(())
    })
    .await;
    let after = list(&pop).await;
    assert_eq!(
        (names(&after).len(), &after["deleted"][0]["database"]),
        (0, &Value::from("shop"))
    );
    db(&pop, &["undelete", "shop"]).await.done();
    assert_eq!(
        (
            count(&pop, "shop", "items").await,
            count(&primary, "shop", "items").await
        ),
        (2, 2)
    );
    db(&pop, &["undelete", "shop"]).await.refused(1, "nothing to undelete");

    db(&pop, &["delete", "shop", "--grace", "0s"]).await.done();
    wait_for("its files to go", async || {
        let waiting = primary.directory().join("data/agent/deleted/shop");
        (!waiting.exists()).then_some(())
    })
    .await;
    db(&pop, &["undelete", "shop"])
        .await
        .refused(1, "there is no database shop");
    db(&pop, &["create", "shop"]).await.done();
    let fresh = sql(
        &pop,
        "shop",
        "SELECT count(*) AS count FROM sqlite_schema WHERE name = 'items'",
    )
    .await;
    assert_eq!(fresh["rows"][0]["count"], 0);
}

const SCRIPT: &str = "PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent (id), data);
INSERT INTO child VALUES (1, 7, X'00FF'), (2, 7, NULL), (3, 7, 'it''s; fine');
CREATE TABLE parent (id INTEGER PRIMARY KEY, price REAL);
INSERT INTO parent VALUES (7, 1.5);
CREATE VIRTUAL TABLE notes USING fts5(body);
INSERT INTO notes VALUES ('words to find');
CREATE TRIGGER kept BEFORE DELETE ON parent BEGIN SELECT RAISE(ABORT, 'kept'); END;
COMMIT;
";

#[tokio::test]
async fn what_is_exported_and_imported_is_the_same() {
    let primary = primary("").await;
    let pop = replica_of(&primary).await;
    let folder = tempfile::tempdir().expect("a folder");
    let script = file(folder.path(), "shop.sql", SCRIPT);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (whole, text, again, csv) = (path("shop.db"), path("out.sql"), path("again.sql"), path("child.csv"));

    // A script makes a database; so does a SQLite file; both say the same of themselves.
    db(&pop, &["import", "shop", &script]).await.done();
    db(&pop, &["export", "shop", &whole]).await.done();
    db(&primary, &["import", "copy", &whole]).await.done();
    db(&primary, &["export", "shop", &text]).await.done();
    db(&pop, &["export", "copy", &again]).await.done();
    let read = |path: &str| std::fs::read_to_string(path).expect("an export");
    assert_eq!(read(&text), read(&again));
    assert!(read(&text).contains("INSERT INTO \"notes\"(rowid,\"body\") VALUES(1,'words to find');"));
    let found = sql(&pop, "shop", "SELECT body FROM notes WHERE notes MATCH 'find'").await;
    assert_eq!(found["rows"][0]["body"], "words to find");

    // One table as CSV and back.
    db(&pop, &["export", "shop", &csv, "--table", "child"]).await.done();
    assert_eq!(read(&csv), "id,parent,data\r\n1,7,0x00FF\r\n2,7,\r\n3,7,it's; fine\r\n");
    let rows = db(&pop, &["--json", "import", "shop", &csv, "--table", "new"])
        .await
        .json();
    assert_eq!(rows["rows"], 3);
    let output = db(&primary, &["export", "shop", "-", "--table", "new"]).await.done();
    assert_eq!(output, read(&csv));

    // Into what is there: as statements, in order. One that fails says where.
    let more = file(
        folder.path(),
        "more.sql",
        "INSERT INTO parent VALUES (8, 2);\n\nINSERT INTO parent VALUES (7, 3);\n",
    );
    let failed = db(&pop, &["import", "shop", &more]).await;
    assert!(failed.stderr.contains("more.sql line 3: UNIQUE"), "{failed:?}");
    assert_eq!(count(&primary, "shop", "parent").await, 1);

    // A SQLite file replaces everything, when that is said.
    db(&pop, &["import", "shop", &whole]).await.refused(1, "--replace");
    sql(&pop, "shop", "DELETE FROM child").await;
    let replaced = db(&pop, &["--json", "import", "shop", &whole, "--replace"])
        .await
        .json();
    assert_eq!(replaced["database"], "shop");
    for agent in [&primary, &pop] {
        assert_eq!(count(agent, "shop", "child").await, 3);
        db(agent, &["verify", "shop"]).await.done();
    }
    // One file, what belongs to it, and the name of it.
    wait_for("the old files to go", async || {
        let databases = |agent| files(agent, "shop").iter().filter(|name| name.ends_with(".db")).count();
        (databases(&primary) == 1 && databases(&pop) == 1).then_some(())
    })
    .await;
    sql(&pop, "shop", "INSERT INTO child (id) VALUES (4)").await;
    assert_eq!(count(&pop, "shop", "child").await, 4);

    // What is no database leaves everything as it is.
    let mut cut = std::fs::read(&whole).expect("an export");
    cut.truncate(cut.len() / 2);
    let cut = file(folder.path(), "cut.db", cut);
    let nonsense = file(folder.path(), "nonsense.db", "not a database");
    let open = file(folder.path(), "open.csv", "id,data\n1,\"open\n");
    let short = file(folder.path(), "short.csv", "id,data\n1\n");
    let broken = file(
        folder.path(),
        "broken.sql",
        "CREATE TABLE a (b);\nCREATE TABLE a (b);\n",
    );
    for (arguments, status, says) in [
        (
            &["import", "shop", &cut, "--replace"][..],
            1,
            "damaged or was cut short",
        ),
        (&["import", "shop", &nonsense, "--replace"], 1, "not a SQLite database"),
        (
            &["import", "shop", &nonsense, "--replace", "--format", "sqlite"],
            1,
            "not a SQLite database",
        ),
        (&["import", "shop", "/nowhere.db"], 1, "/nowhere.db"),
        (
            &["import", "shop", &open, "--table", "child"],
            1,
            "line 2: a quote is not closed",
        ),
        (&["import", "shop", &short, "--table", "child"], 1, "line 2: 1 fields"),
        (&["import", "shop", &short], 2, "--table"),
        (&["import", "fresh", &broken], 1, "line 2: table a already exists"),
        (&["export", "none", &path("none.db")], 1, "there is no database none"),
        (&["export", "shop", &whole], 1, "--force"),
        (&["export", "shop", &path("x.csv")], 2, "--table"),
        (
            &["export", "shop", &path("x.csv"), "--table", "none"],
            1,
            "there is no table none",
        ),
    ] {
        db(&pop, arguments).await.refused(status, says);
    }
    assert!(!folder.path().join("none.db").exists() && !folder.path().join("x.csv").exists());
    assert_eq!(names(&list(&primary).await), ["copy", "shop"]);
    assert_eq!(count(&primary, "shop", "child").await, 4);
    db(&pop, &["export", "shop", &whole, "--force"]).await.done();
}

#[tokio::test]
async fn migrations_are_applied_once_and_never_changed() {
    let primary = primary("").await;
    let pop = replica_of(&primary).await;
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().display().to_string();
    file(
        folder.path(),
        "0001_items.sql",
        "CREATE TABLE items (id INTEGER PRIMARY KEY);",
    );
    let second = "ALTER TABLE items ADD COLUMN name TEXT; INSERT INTO items (name) VALUES ('first');";
    file(folder.path(), "0002_names.sql", second);
    db(&pop, &["create", "shop"]).await.done();
    let rehearsed = db(&pop, &["migrate", "shop", &directory, "--dry-run"]).await.done();
    assert_eq!(
        rehearsed,
        "would be applied: 0001_items.sql\nwould be applied: 0002_names.sql\n"
    );
    let tables = db_with(&primary, &["shell", "shop"], ".tables\n").await.done();
    assert_eq!(tables, "");
    let applied = db(&pop, &["--json", "migrate", "shop", &directory]).await.json();
    assert_eq!(
        applied["applied"],
        serde_json::json!(["0001_items.sql", "0002_names.sql"])
    );
    assert_eq!(count(&pop, "shop", "items").await, 1);
    let again = db(&pop, &["migrate", "shop", &directory]).await.done();
    assert!(again.contains("has every migration"), "{again}");

    file(
        folder.path(),
        "0003_wrong.sql",
        "CREATE TABLE more (a); INSERT INTO none VALUES (1);",
    );
    for dry_run in [true, false] {
        let mut arguments = vec!["migrate", "shop", &directory];
        arguments.extend(dry_run.then_some("--dry-run"));
        db(&pop, &arguments)
            .await
            .refused(1, "0003_wrong.sql was undone: no such table: none");
    }
    let tables = db_with(&primary, &["shell", "shop"], ".tables\n").await.done();
    assert_eq!(tables, "items\n");
    std::fs::remove_file(folder.path().join("0003_wrong.sql")).expect("it was there");
    file(
        folder.path(),
        "0002_names.sql",
        "ALTER TABLE items ADD COLUMN other TEXT;",
    );
    db(&pop, &["migrate", "shop", &directory])
        .await
        .refused(1, "0002_names.sql was changed");

    // What was applied goes with the content.
    file(folder.path(), "0002_names.sql", second);
    let whole = folder.path().join("shop.db").display().to_string();
    db(&pop, &["export", "shop", &whole]).await.done();
    db(&pop, &["import", "other", &whole]).await.done();
    let again = db(&pop, &["migrate", "other", &directory]).await.done();
    assert!(again.contains("has every migration"), "{again}");
}

#[tokio::test]
async fn a_branch_is_a_copy_and_damage_is_found() {
    let primary = primary("").await;
    let pop = replica_of(&primary).await;
    db(&pop, &["create", "shop"]).await.done();
    sql(&pop, "shop", "CREATE TABLE items (name)").await;
    sql(&pop, "shop", "INSERT INTO items VALUES ('a marker to be found')").await;
    db(&pop, &["branch", "shop", "trial"]).await.done();
    db(&pop, &["branch", "shop", "trial"])
        .await
        .refused(1, "the database trial exists");
    db(&pop, &["branch", "none", "other"])
        .await
        .refused(1, "there is no database none");
    sql(&pop, "trial", "DELETE FROM items").await;
    sql(&pop, "trial", "INSERT INTO items VALUES (1), (2)").await;
    assert_eq!(
        (count(&pop, "shop", "items").await, count(&pop, "trial", "items").await),
        (1, 2)
    );

    let lag = wait_for("both copies to be level", async || {
        let lag = db(&primary, &["--json", "lag", "shop"]).await.json();
        let copies = lag["copies"].as_array().expect("a list");
        let level = copies.len() == 2 && copies.iter().all(|copy| copy["behind_transactions"] == 0);
        level.then_some(lag)
    })
    .await;
    assert_eq!(
        (&lag["copies"][0]["agent"], &lag["copies"][1]["agent"]),
        (&Value::from("pop"), &Value::from("primary"))
    );
    db(&pop, &["lag", "none"]).await.refused(1, "there is no database none");

    // The replica copies a file anew; a byte of it is turned.
    db(&pop, &["branch", "shop", "damaged"]).await.done();
    let verified = db(&primary, &["--json", "verify", "damaged"]).await.json();
    assert_eq!(
        (&verified["same"], &verified["integrity"]),
        (&Value::from(true), &Value::from("ok"))
    );
    let status = pop.status().await;
    let databases = status["databases"].as_array().expect("a list");
    let damaged = databases
        .iter()
        .find(|status| status["database"] == "damaged")
        .expect("it is there");
    let path = damaged["path"].as_str().expect("it can be read");
    let mut bytes = std::fs::read(path).expect("a file");
    let at = bytes
        .windows(8)
        .position(|bytes| bytes == b"a marker")
        .expect("it is in the file");
    bytes[at] = b'X';
    std::fs::write(path, bytes).expect("a file");
    db(&pop, &["verify", "damaged"])
        .await
        .refused(1, "NOT what the log has");
    db(&primary, &["verify", "damaged"]).await.done();
    db(&pop, &["verify", "none"])
        .await
        .refused(1, "there is no database none");
}

#[tokio::test]
async fn a_primary_killed_in_the_middle_of_an_import_has_what_it_had() {
    let mut primary = primary("").await;
    let pop = replica_of(&primary).await;
    db(&pop, &["create", "shop"]).await.done();
    sql(&pop, "shop", "CREATE TABLE items (a)").await;
    sql(&pop, "shop", "INSERT INTO items VALUES (1)").await;
    let before = files(&primary, "shop").len();
    for database in ["shop", "fresh"] {
        // A body that has begun and does not go on.
        let begin = bytes::Bytes::from_static(b"SQLite format 3\0 and half of the rest");
        let (body, pieces) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
        body.send(begin).await.expect("there is room");
        let request = send_slowly(&primary, database, pieces);
        wait_for("the import to begin", async || {
            let folder = primary.directory().join("data/agent/databases").join(database);
            std::fs::read_dir(folder)
                .ok()?
                .filter_map(Result::ok)
                .find_map(|entry| {
                    let begun = entry.metadata().ok()?.len() == 37;
                    begun.then_some(())
                })
        })
        .await;
        primary.kill();
        assert!(within("the import to fail", request).await.expect("no panic").is_err());
        primary.resume().await;
        assert_eq!(names(&list(&primary).await), ["shop"]);
        assert!(files(&primary, "fresh").is_empty());
    }
    assert!(files(&primary, "shop").len() <= before);
    assert_eq!(count(&primary, "shop", "items").await, 1);
    // One that only breaks off leaves as little.
    let (body, pieces) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
    let request = send_slowly(&primary, "fresh", pieces);
    body.send(bytes::Bytes::from_static(b"SQLite format 3\0"))
        .await
        .expect("there is room");
    wait_for("the import to begin", async || {
        (!files(&primary, "fresh").is_empty()).then_some(())
    })
    .await;
    request.abort();
    wait_for("nothing to be left", async || {
        let folder = primary.directory().join("data/agent/databases/fresh");
        (!folder.exists()).then_some(())
    })
    .await;
    // And the name is free.
    wait_for("the primary to be heard", async || {
        (db(&pop, &["create", "fresh"]).await.status == 0).then_some(())
    })
    .await;
    sql(&pop, "shop", "INSERT INTO items VALUES (2)").await;
    assert_eq!(count(&pop, "shop", "items").await, 2);
}

/// Imports a file that comes in pieces.
fn send_slowly(
    primary: &Agent,
    database: &str,
    pieces: tokio::sync::mpsc::Receiver<bytes::Bytes>,
) -> tokio::task::JoinHandle<Result<reqwest::Response, reqwest::Error>> {
    let stream = futures::stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), pieces))
    });
    let request = client::client()
        .put(primary.url(&format!("/v1/databases/{database}/content")))
        .bearer_auth(TOKEN)
        .body(reqwest::Body::wrap_stream(stream));
    tokio::spawn(request.send())
}

#[tokio::test]
async fn an_earlier_state_is_brought_back_or_branched() {
    let primary = primary(", store: { url: ./store, sync_interval: 50ms }").await;
    let pop = replica_of(&primary).await;
    db(&pop, &["create", "shop"]).await.done();
    sql(&pop, "shop", "CREATE TABLE items (a)").await;
    sql(&pop, "shop", "INSERT INTO items VALUES (1), (2)").await;
    let position = async |agent: &Agent| {
        let list = list(agent).await;
        list["databases"][0]["head"]["position"]["txid"]
            .as_u64()
            .expect("a number")
    };
    let good = position(&primary).await.to_string();
    // Uploads hold what there is when they begin; this one is to end at that state.
    wait_for("the upload", async || {
        let status = primary.status().await;
        let uploaded = &status["site"]["store"][0]["uploaded_txid"];
        (uploaded.as_u64()? == good.parse::<u64>().ok()?).then_some(())
    })
    .await;
    sql(&pop, "shop", "DELETE FROM items").await;
    assert_eq!(count(&pop, "shop", "items").await, 0);
    db(&pop, &["branch", "shop", "before", "--at", &good]).await.done();
    assert_eq!(
        (count(&pop, "before", "items").await, count(&pop, "shop", "items").await),
        (2, 0)
    );
    db(&pop, &["restore", "shop", "--at", &good]).await.done();
    assert_eq!(
        (
            count(&pop, "shop", "items").await,
            count(&primary, "shop", "items").await
        ),
        (2, 2)
    );
    sql(&pop, "shop", "INSERT INTO items VALUES (3)").await;
    assert_eq!(count(&pop, "shop", "items").await, 3);
    db(&pop, &["verify", "shop"]).await.done();
    db(&pop, &["restore", "shop", "--at", "2001-01-01T00:00:00Z"])
        .await
        .refused(1, "before the first snapshot");
    db(&pop, &["restore", "shop", "--at", &good, "--as", "before"])
        .await
        .refused(1, "exists");
    db(&pop, &["restore", "none", "--at", "1m"])
        .await
        .refused(1, "no database");
    db(&pop, &["restore", "shop", "--at", "yesterday"])
        .await
        .refused(2, "is not a time");
    assert_eq!(count(&primary, "shop", "items").await, 3);
}

#[tokio::test]
async fn few_of_many_databases_are_open() {
    let mut primary = primary(", open_databases: 3").await;
    let names: Vec<String> = (0..12).map(|number| format!("db{number}")).collect();
    for name in &names {
        db(&primary, &["create", name]).await.done();
        sql(&primary, name, "CREATE TABLE t (a)").await;
        sql(&primary, name, "INSERT INTO t VALUES (1)").await;
    }
    let open = async |agent: &Agent| list(agent).await["open"].as_u64().expect("a number");
    assert!(open(&primary).await <= 3);
    primary.terminate().await;
    primary.resume().await;
    // Everything is known, and nothing was opened for it.
    assert_eq!(
        (
            list(&primary).await["databases"].as_array().map(Vec::len),
            open(&primary).await
        ),
        (Some(12), 0)
    );
    let pop = replica_of(&primary).await;
    for round in 1..=2 {
        for name in &names {
            sql(&primary, name, "INSERT INTO t VALUES (2)").await;
            assert_eq!(count(&primary, name, "t").await, 1 + round);
        }
        assert!(open(&primary).await <= 3);
        primary.kill();
        primary.resume().await;
    }
    for name in &names {
        wait_for("the replica to have it", async || {
            let lag = db(&pop, &["--json", "lag", name]).await;
            (lag.status == 0 && lag.json()["copies"][0]["behind_transactions"] == 0).then_some(())
        })
        .await;
        wait_for("it to be the same", async || {
            (db(&pop, &["verify", name]).await.status == 0).then_some(())
        })
        .await;
        db(&primary, &["verify", name]).await.done();
    }
}

#[tokio::test]
async fn an_import_that_does_not_fit_on_the_disk_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("small");
    std::fs::create_dir(&at).expect("a folder");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
        .arg(&at)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!(
            "SKIPPED an_import_that_does_not_fit_on_the_disk_changes_nothing: this user may not mount a file system"
        );
        return;
    }
    let _unmount = Unmount(&at);
    let yaml = format!(
        "agent: {{ name: primary, data_dir: {}, socket: {} }}\n",
        at.join("agent").display(),
        folder.path().join("agent.sock").display()
    );
    let primary = Agent::start(&yaml).await;
    let small = file(
        folder.path(),
        "small.sql",
        "CREATE TABLE t (a); INSERT INTO t VALUES (1);",
    );
    let large = file(
        folder.path(),
        "large.sql",
        "CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(9000000));",
    );
    db(&primary, &["import", "shop", &small]).await.done();
    db(&primary, &["import", "shop", &large, "--replace"])
        .await
        .refused(1, "the disk is full");
    db(&primary, &["import", "other", &large]).await.refused(1, "make room");
    assert_eq!(names(&list(&primary).await), ["shop"]);
    assert_eq!(count(&primary, "shop", "t").await, 1);
    sql(&primary, "shop", "INSERT INTO t VALUES (2)").await;
    db(&primary, &["import", "shop", &small, "--replace"]).await.done();
    assert_eq!(count(&primary, "shop", "t").await, 1);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn an_agent_with_a_certificate_of_an_authority_of_ones_own() {
    let folder = tempfile::tempdir().expect("a folder");
    if !certificate::make(folder.path(), "agent", "localhost") {
        return;
    }
    let file_of = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (file_of("agent.pem"), file_of("agent.key"));
    let agent = Agent::start(&format!(
        "agent: {{ listen: \"127.0.0.1:0\", token: {TOKEN}, tls: {{ cert: {cert}, key: {key} }} }}\n"
    ))
    .await;
    let url = format!("https://localhost:{}", agent.address().port());
    let list = ["db", "--agent", &url, "--token", TOKEN, "list"];
    run(&list, "").await.refused(1, "--ca");
    run(&[&list[..], &["--ca", &cert]].concat(), "").await.done();
    run(&[&list[..], &["--ca", &file_of("none.pem")]].concat(), "")
        .await
        .refused(1, "none.pem: ");
    let no_certificate = file(folder.path(), "empty.pem", "");
    run(&[&list[..], &["--ca", &no_certificate]].concat(), "")
        .await
        .refused(1, "empty.pem holds no certificate");
}

#[tokio::test]
async fn a_vacuumed_database_is_smaller_and_has_what_it_had_everywhere() {
    let primary = primary("").await;
    let pop = replica_of(&primary).await;
    db(&primary, &["create", "shop"]).await.done();
    sql(&primary, "shop", "CREATE TABLE t (a)").await;
    let fill = "INSERT INTO t SELECT zeroblob(4000) FROM (WITH RECURSIVE n (i) AS \
                (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT i FROM n)";
    sql(&primary, "shop", fill).await;
    sql(&primary, "shop", "DELETE FROM t WHERE rowid > 10").await;
    let done = db(&pop, &["--json", "vacuum", "shop"]).await.json();
    let (before, after) = (done["bytes_before"].as_u64(), done["bytes"].as_u64());
    assert!(before > Some(1_000_000) && after < Some(200_000), "{done}");
    assert_eq!(count(&pop, "shop", "t").await, 10);
    sql(&pop, "shop", "INSERT INTO t VALUES (1)").await;
    assert_eq!(count(&primary, "shop", "t").await, 11);
    db(&pop, &["verify", "shop"]).await.done();
    db(&pop, &["vacuum", "nothing"]).await.refused(1, "nothing");
}
