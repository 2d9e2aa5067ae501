// Hrana 3 in protobuf, which the client library speaks when it is asked to, and Hrana 3 in JSON, by hand.
import { strict as assert } from "node:assert";
import * as hrana from "@libsql/hrana-client";
import { authToken, refused, url } from "./target.mjs";

const client = hrana.openHttp(url, authToken, undefined, undefined, 3);
client.intMode = "bigint";
assert.equal(await client.getVersion(), 3, "protobuf is offered");
const stream = client.openStream();
await stream.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB, c REAL)");

const statement = new hrana.Stmt("INSERT INTO t VALUES (:a, ?2, :c)");
statement.bindIndexes([9223372036854775807n, new Uint8Array([0, 255])]).bindName("c", 0.25);
const inserted = await stream.run(statement);
assert.deepEqual([inserted.affectedRowCount, inserted.lastInsertRowid], [1, 9223372036854775807n]);
const row = await stream.queryRow("SELECT a, b, c, NULL AS d, 'ä' AS e FROM t");
assert.equal(row.row.a, 9223372036854775807n);
assert.deepEqual(new Uint8Array(row.row.b), new Uint8Array([0, 255]));
assert.deepEqual([row.row.c, row.row.d, row.row.e], [0.25, null, "ä"]);
assert.deepEqual(row.columnDecltypes, ["INTEGER", "BLOB", "REAL", undefined, undefined]);
assert.equal(await stream.queryValue("SELECT 9e999").then(({ value }) => value), Infinity);
await refused("SQLITE_CONSTRAINT", () => stream.run("INSERT INTO t (a) VALUES (9223372036854775807)"));

const described = await stream.describe("SELECT a, b AS x, a + ? FROM t WHERE c = :c");
assert.deepEqual(described.paramNames, [undefined, ":c"]);
assert.deepEqual(described.columns.map(({ name, decltype }) => [name, decltype]), [["a", "INTEGER"], ["x", "BLOB"], ["a + ?", undefined]]);
assert.deepEqual([described.isExplain, described.isReadonly], [false, true]);
assert.equal((await stream.describe("DELETE FROM t")).isReadonly, false);
await stream.sequence("INSERT INTO t (a) VALUES (1); INSERT INTO t (a) VALUES (2);");

// Stored texts, a transaction, savepoints.
const stored = stream.storeSql("INSERT INTO t (a) VALUES (?)");
assert.equal(await stream.getAutocommit(), true);
await stream.run("BEGIN");
assert.equal(await stream.getAutocommit(), false);
await stream.run(new hrana.Stmt(stored).bindIndexes([3n]));
await stream.run("SAVEPOINT here");
await stream.run(new hrana.Stmt(stored).bindIndexes([4n]));
await stream.run("ROLLBACK TO here");
await stream.run("RELEASE here");
assert.equal((await stream.describe("SELECT * FROM t")).columns.length, 3);
await stream.run("COMMIT");
assert.equal(await stream.getAutocommit(), true);
stored.close();
assert.deepEqual((await stream.query("SELECT a FROM t ORDER BY a LIMIT 4")).rows.map(({ a }) => a), [1n, 2n, 3n, 9223372036854775807n]);

// Conditions, by pipeline and by cursor.
for (const cursor of [false, true]) {
  const batch = stream.batch(cursor);
  const good = batch.step();
  const goodRows = good.query("SELECT 1 AS one");
  const bad = batch.step();
  const badRows = bad.query("SELECT * FROM missing").then(() => "done", (error) => error.code);
  const step = async (condition, sql) => {
    const next = batch.step().condition(condition);
    return (await next.query(sql))?.rows[0][0];
  };
  const { BatchCond } = hrana;
  const rest = [
    step(BatchCond.ok(good), "SELECT 2"),
    step(BatchCond.error(good), "SELECT 3"),
    step(BatchCond.error(bad), "SELECT 4"),
    step(BatchCond.not(BatchCond.ok(bad)), "SELECT 5"),
    step(BatchCond.and(batch, [BatchCond.ok(good), BatchCond.ok(bad)]), "SELECT 6"),
    step(BatchCond.or(batch, [BatchCond.ok(good), BatchCond.ok(bad)]), "SELECT 7"),
    step(BatchCond.isAutocommit(batch), "SELECT 8"),
  ];
  await batch.execute();
  assert.equal((await goodRows).rows[0].one, 1n);
  assert.equal(await badRows, "SQLITE_UNKNOWN");
  assert.deepEqual(await Promise.all(rest), [2n, undefined, 4n, 5n, undefined, 7n, 8n], `cursor: ${cursor}`);
}
stream.close();
client.close();

// JSON, version 3.
const post = async (path, body, headers = {}) => {
  const response = await fetch(new URL(path, url), {
    method: "POST",
    headers: { authorization: `Bearer ${authToken}`, ...headers },
    body: JSON.stringify(body),
  });
  return { status: response.status, bookmark: response.headers.get("x-selvedge-bookmark"), text: await response.text() };
};
const execute = (sql) => ({ type: "execute", stmt: { sql } });
let answer = await post("v3/pipeline", { requests: [execute("SELECT 1"), { type: "get_autocommit" }, { type: "close" }] });
assert.equal(answer.status, 200);
let body = JSON.parse(answer.text);
assert.equal(body.baton, null);
assert.deepEqual(body.results[1], { type: "ok", response: { type: "get_autocommit", is_autocommit: true } });
assert.match(answer.bookmark, /^[a-z]+=[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]{16}$/);
assert.ok(BigInt(body.results[0].response.result.replication_index) > 0n);
answer = await post("v3/cursor", { batch: { steps: [{ stmt: { sql: "SELECT a, 0.5 FROM t WHERE a < 3" } }] } });
const lines = answer.text.trim().split("\n").map((line) => JSON.parse(line));
assert.deepEqual(lines.map(({ type }) => type), [undefined, "step_begin", "row", "row", "step_end"]);
assert.deepEqual(lines[2].row, [{ type: "integer", value: "1" }, { type: "float", value: 0.5 }]);

// A baton is good for one request, and for its database only.
answer = await post("v2/pipeline", { requests: [execute("BEGIN IMMEDIATE")] });
const { baton } = JSON.parse(answer.text);
assert.ok(baton.length >= 32);
answer = await post("v2/pipeline", { baton, requests: [execute("ROLLBACK")] });
assert.equal(JSON.parse(answer.text).results[0].type, "ok");
for (const used of [baton, "guessed"]) {
  answer = await post("v2/pipeline", { baton: used, requests: [] });
  assert.deepEqual([answer.status, JSON.parse(answer.text).code], [400, "STREAM_EXPIRED"]);
}
for (const malformed of [{ requests: [{ type: "fly" }] }, { requests: [{ type: "execute", stmt: { sql_id: 7 } }] }, []]) {
  answer = await post("v3/pipeline", malformed);
  assert.deepEqual([answer.status, JSON.parse(answer.text).code], [400, "malformed"], JSON.stringify(malformed));
}
