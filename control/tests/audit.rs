//! The audit log shows what was done to it behind control's back.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Site, client, digest};
use selvedge_control::CONTROL;
use selvedge_replication::Statement;
use serde_json::{Value, json};

/// Whoever has the cluster's token can do this at the primary.
async fn behind_its_back(site: &Site, sql: &str) {
    let statements = vec![Statement::new(sql, Vec::new())];
    let operation = digest(sql);
    let (rows, _) = client(site).execute(CONTROL, operation, statements).await.unwrap();
    assert_eq!(rows[0].changes, 1, "{sql}");
}

async fn verified(site: &Site) -> Value {
    site.get("/v1/audit/verify").await.expect(200)
}

/// A log of six entries: the first key, and five apps.
async fn logged() -> (Site, Value) {
    let site = Site::start().await;
    for app in ["a", "b", "c", "d", "e"] {
        site.post("/v1/apps", json!({ "name": app })).await.expect(201);
    }
    let whole = verified(&site).await;
    assert_eq!((&whole["entries"], &whole["broken_at"]), (&json!(6), &Value::Null));
    (site, whole)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_entry_is_named() {
    let (site, whole) = logged().await;
    for (change, undo) in [
        (
            "actor = 'somebody'",
            "actor = (SELECT actor FROM audit WHERE number = 3)",
        ),
        ("subject = 'x'", "subject = 'c'"),
        ("detail = '{\"x\":1}'", "detail = '{}'"),
        ("at_ms = at_ms + 1", "at_ms = at_ms - 1"),
        ("hash = replace(hash, substr(hash, 1, 1), 'z')", ""),
    ] {
        behind_its_back(&site, &format!("UPDATE audit SET {change} WHERE number = 4")).await;
        let found = verified(&site).await;
        assert_eq!(
            (&found["entries"], &found["broken_at"]),
            (&json!(3), &json!(4)),
            "{change}"
        );
        if !undo.is_empty() {
            behind_its_back(&site, &format!("UPDATE audit SET {undo} WHERE number = 4")).await;
            assert_eq!(verified(&site).await, whole, "{undo}");
        }
    }
    // What is done afterwards neither hides it nor is it lost.
    site.post("/v1/apps", json!({ "name": "f" })).await.expect(201);
    assert_eq!(verified(&site).await["broken_at"], 4);
    assert_eq!(site.get("/v1/audit").await.expect(200)["items"][0]["subject"], "f");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_taken_out_is_missed() {
    let (mut site, whole) = logged().await;
    // The newest is missed by whoever has kept its hash elsewhere.
    behind_its_back(&site, "DELETE FROM audit WHERE number = 6").await;
    let cut = verified(&site).await;
    assert_eq!((&cut["entries"], &cut["broken_at"]), (&json!(5), &Value::Null));
    assert_ne!(cut["hash"], whole["hash"]);
    behind_its_back(&site, "DELETE FROM audit WHERE number = 3").await;
    let found = verified(&site).await;
    assert_eq!((&found["entries"], &found["broken_at"]), (&json!(2), &json!(3)));
    // Closing the gap does not help, nor does a restart.
    for number in [4, 5] {
        let sql = format!("UPDATE audit SET number = {} WHERE number = {number}", number - 1);
        behind_its_back(&site, &sql).await;
    }
    site.restart_control().await;
    assert_eq!(verified(&site).await["broken_at"], 3);
    site.stop().await;
}
