// @libsql/client as its documentation shows it.
import { strict as assert } from "node:assert";
import { createClient } from "@libsql/client";
import { authToken, refused, url } from "./target.mjs";

const client = createClient({ url, authToken, intMode: "bigint" });
assert.equal(client.protocol, "http");

// Statements, parameters by number and by name, what a write says of itself.
await client.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, size REAL, photo BLOB)");
const inserted = await client.execute({ sql: "INSERT INTO items (name, size) VALUES (?, ?)", args: ["desk", 1.5] });
assert.deepEqual([inserted.rowsAffected, inserted.lastInsertRowid], [1, 1n]);
for (const [sign, name] of [[":", "chair"], ["@", "lamp"], ["$", "shelf"]]) {
  const sql = `INSERT INTO items (name, size) VALUES (${sign}name, ${sign}size) RETURNING id, name`;
  const returned = await client.execute({ sql, args: { name, size: 2 } });
  assert.deepEqual([returned.columns, returned.rows[0].name, returned.rowsAffected], [["id", "name"], name, 1]);
}
const read = await client.execute("SELECT id, name, size, size * 2 AS twice FROM items WHERE name = 'desk'");
assert.deepEqual(read.columns, ["id", "name", "size", "twice"]);
assert.deepEqual(read.columnTypes, ["INTEGER", "TEXT", "REAL", ""]);
assert.deepEqual({ ...read.rows[0] }, { id: 1n, name: "desk", size: 1.5, twice: 3 });
assert.equal(read.rows[0][1], "desk");
const updated = await client.execute({ sql: "UPDATE items SET size = ?2 WHERE id > ?1", args: [1, 9] });
assert.equal(updated.rowsAffected, 3);
assert.equal((await client.execute("DELETE FROM items WHERE name = 'shelf'")).rowsAffected, 1);

// Values as they are.
const photo = new Uint8Array(100_000).map((_, index) => index * 7);
for (const big of [9223372036854775807n, -9223372036854775808n, 9007199254740993n]) {
  const sql = "SELECT ? AS big, ? AS photo, ? AS text, ? AS none, ? AS real, ? AS flag";
  const { rows } = await client.execute({ sql, args: [big, photo, "ä'\"\0☃", null, 0.1, true] });
  const [row] = rows;
  assert.equal(row.big, big);
  assert.deepEqual(new Uint8Array(row.photo), photo);
  assert.deepEqual([row.text, row.none, row.real, row.flag], ["ä'\"\0☃", null, 0.1, 1n]);
}
await client.execute({ sql: "UPDATE items SET photo = ? WHERE id = 1", args: [photo] });
const stored = await client.execute("SELECT photo, length(photo) AS bytes FROM items WHERE id = 1");
assert.deepEqual(new Uint8Array(stored.rows[0].photo), photo);
assert.equal(stored.rows[0].bytes, 100_000n);

// Errors by code, as libSQL's server names them.
const count = async () => (await client.execute("SELECT count(*) AS n FROM items")).rows[0].n;
await refused("SQLITE_CONSTRAINT", () => client.execute("INSERT INTO items (name) VALUES ('desk')"));
await refused("SQLITE_CONSTRAINT", () => client.execute("INSERT INTO items (name) VALUES (NULL)"));
const missing = await refused("SQLITE_UNKNOWN", () => client.execute("SELECT * FROM missing"));
assert.match(missing.message, /no such table: missing/);
await refused("SQL_MANY_STATEMENTS", () => client.execute("SELECT 1; SELECT 2"));
await refused("SQL_NO_STATEMENT", () => client.execute("-- nothing"));
await refused("ARGS_INVALID", () => client.execute({ sql: "SELECT ?, ?", args: [1] }));
await refused("ARGS_INVALID", () => client.execute({ sql: "SELECT :a", args: { b: 1 } }));
await refused("SQLITE_AUTH", () => client.execute("ATTACH DATABASE 'other.db' AS other"));

// Batches: all or nothing, in each of the modes.
for (const mode of ["write", "deferred"]) {
  const results = await client.batch(
    [
      { sql: "INSERT INTO items (name) VALUES (?) RETURNING name", args: [mode] },
      ["INSERT INTO items (name) VALUES (?)", [`${mode} too`]],
      "SELECT count(*) AS n FROM items",
    ],
    mode,
  );
  assert.equal(results[0].rows[0].name, mode);
  assert.equal(results[1].rowsAffected, 1);
  assert.equal(results[2].rows[0].n, await count());
}
const before = await count();
const failed = await refused("SQLITE_CONSTRAINT", () =>
  client.batch(["INSERT INTO items (name) VALUES ('kept?')", "INSERT INTO items (name) VALUES ('desk')", "SELECT 1"], "write"),
);
assert.equal(failed.statementIndex, 1);
assert.equal(await count(), before);
const both = await client.batch(["SELECT count(*) AS n FROM items", "SELECT 2 AS two"], "read");
assert.deepEqual([both[0].rows[0].n, both[1].rows[0].two], [before, 2n]);
const deferred = await client.batch(["SELECT count(*) AS n FROM items", "SELECT 2 AS two"]);
assert.equal(deferred[0].rows[0].n, before);
await refused("SQLITE_READONLY", () => client.batch(["DELETE FROM items"], "read"));
assert.equal(await count(), before);

// Scripts, with a trigger in them.
await client.executeMultiple(`
  CREATE TABLE log (name); -- semicolons; in a comment
  CREATE TRIGGER logged AFTER INSERT ON items BEGIN
    INSERT INTO log VALUES (new.name);
    INSERT INTO log VALUES ('; end');
  END;
  INSERT INTO items (name) VALUES ('a;b');
  BEGIN; INSERT INTO items (name) VALUES ('c'); COMMIT;
`);
assert.equal((await client.execute("SELECT count(*) AS n FROM log")).rows[0].n, 4n);

// An interactive transaction, committed.
const items = await count();
let transaction = await client.transaction("write");
const first = await transaction.execute("INSERT INTO items (name) VALUES ('in transaction') RETURNING id");
const second = await transaction.execute({ sql: "SELECT name FROM items WHERE id = ?", args: [first.rows[0].id] });
assert.equal(second.rows[0].name, "in transaction");
assert.equal(await count(), items, "others do not see what is not committed");
await refused("SQLITE_CONSTRAINT", () => transaction.execute("INSERT INTO items (name) VALUES ('desk')"));
await transaction.batch(["INSERT INTO items (name) VALUES ('x')", "INSERT INTO items (name) VALUES ('y')"]);
await transaction.executeMultiple("INSERT INTO items (name) VALUES ('z'); DELETE FROM items WHERE name = 'x'");
await transaction.commit();
assert.equal(await count(), items + 3n);

// One that is rolled back, one that is left, one that only reads.
transaction = await client.transaction("write");
await transaction.execute("DELETE FROM items");
assert.equal((await transaction.execute("SELECT count(*) AS n FROM items")).rows[0].n, 0n);
await transaction.rollback();
assert.equal(await count(), items + 3n);
await refused("TRANSACTION_CLOSED", () => transaction.execute("SELECT 1"));
transaction = await client.transaction("deferred");
await transaction.execute("DELETE FROM items");
transaction.close();
assert.equal(await count(), items + 3n);
transaction = await client.transaction("read");
const seen = (await transaction.execute("SELECT count(*) AS n FROM items")).rows[0].n;
await client.execute("INSERT INTO items (name) VALUES ('meanwhile')");
assert.equal((await transaction.execute("SELECT count(*) AS n FROM items")).rows[0].n, seen, "one state");
await refused("SQLITE_READONLY", () => transaction.execute("DELETE FROM items"));
await transaction.commit();

// Read your writes, and the tables rebuilt without foreign keys as migrations do.
for (let number = 0; number < 20; number++) {
  await client.execute({ sql: "INSERT INTO items (name) VALUES (?)", args: [`item ${number}`] });
  const mine = await client.execute({ sql: "SELECT count(*) AS n FROM items WHERE name = ?", args: [`item ${number}`] });
  assert.equal(mine.rows[0].n, 1n);
}
await client.executeMultiple(`
  CREATE TABLE parents (id INTEGER PRIMARY KEY);
  CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES parents);
  INSERT INTO parents VALUES (1); INSERT INTO children VALUES (1, 1);
`);
await refused("SQLITE_CONSTRAINT", () => client.execute("DROP TABLE parents"));
await client.migrate([
  "CREATE TABLE new_parents (id INTEGER PRIMARY KEY, name TEXT)",
  "INSERT INTO new_parents (id) SELECT id FROM parents",
  "DROP TABLE parents",
  "ALTER TABLE new_parents RENAME TO parents",
]);
assert.equal((await client.execute("SELECT count(*) AS n FROM children JOIN parents ON parents.id = parent")).rows[0].n, 1n);
await refused("SQLITE_CONSTRAINT", () => client.execute("DELETE FROM parents"));

// Many at once.
await Promise.all(
  Array.from({ length: 50 }, async (_, number) => {
    await client.execute({ sql: "INSERT INTO items (name) VALUES (?)", args: [`parallel ${number}`] });
  }),
);
assert.equal((await client.execute("SELECT count(*) AS n FROM items WHERE name LIKE 'parallel %'")).rows[0].n, 50n);
client.close();
