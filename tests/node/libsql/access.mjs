// Tokens: wrong ones, one that only reads, one for each of two databases, and the agents' own.
import { strict as assert } from "node:assert";
import { createClient } from "@libsql/client";
import { refused, url } from "./target.mjs";

const { WRITE_TOKEN, READ_TOKEN, BLOG_TOKEN, CLUSTER_TOKEN } = process.env;
const open = (authToken, path = "") => createClient({ url: `${url}${path}`, authToken });
const writer = open(WRITE_TOKEN);
await writer.execute("CREATE TABLE secrets (a)");
await writer.execute("INSERT INTO secrets VALUES (1)");
for (const token of [undefined, "", "wrong", `${WRITE_TOKEN}x`, WRITE_TOKEN.slice(1)]) {
  await refused("token", () => open(token).execute("SELECT 1"));
}

// The token chooses the database.
const blog = open(BLOG_TOKEN);
await refused("SQLITE_UNKNOWN", () => blog.execute("SELECT * FROM secrets"));
await blog.execute("CREATE TABLE posts (a)");
await refused("SQLITE_UNKNOWN", () => writer.execute("SELECT * FROM posts"));
assert.equal((await open(WRITE_TOKEN, "/db/shop/").execute("SELECT a FROM secrets")).rows[0].a, 1);
// Another one's, and none: the same answer.
const other = await refused("token", () => open(BLOG_TOKEN, "/db/shop/").execute("SELECT 1"));
const none = await refused("token", () => open(BLOG_TOKEN, "/db/nothing/").execute("SELECT 1"));
assert.equal(other.message, none.message);
assert.equal((await open(CLUSTER_TOKEN, "/db/shop/").execute("SELECT a FROM secrets")).rows[0].a, 1);
await open(CLUSTER_TOKEN, "/db/blog/").execute("INSERT INTO posts VALUES (1)");
await refused("malformed", () => open(CLUSTER_TOKEN).execute("SELECT 1"));
await refused("no_database", () => open(CLUSTER_TOKEN, "/db/nothing/").execute("SELECT 1"));

// What only reads, reads, also in transactions, and does nothing else.
const reader = open(READ_TOKEN);
assert.equal((await reader.execute("SELECT a FROM secrets")).rows[0].a, 1);
assert.equal((await reader.batch(["SELECT a FROM secrets"]))[0].rows[0].a, 1);
for (const sql of ["INSERT INTO secrets VALUES (2)", "DROP TABLE secrets", "WITH x AS (SELECT 2 AS a) INSERT INTO secrets SELECT a FROM x"]) {
  await refused("BLOCKED", () => reader.execute(sql));
  await refused("BLOCKED", () => reader.batch([sql], "write"));
  await refused("BLOCKED", () => reader.batch([sql]));
  await refused("BLOCKED", () => reader.executeMultiple(sql));
  await refused("BLOCKED", () => reader.migrate([sql]));
}
await refused("BLOCKED", async () => (await reader.transaction("write")).execute("SELECT 1"));
const transaction = await reader.transaction("deferred");
assert.equal((await transaction.execute("SELECT count(*) AS n FROM secrets")).rows[0].n, 1);
await refused("BLOCKED", () => transaction.execute("DELETE FROM secrets"));
await transaction.commit();
assert.equal((await writer.execute("SELECT count(*) AS n FROM secrets")).rows[0].n, 1);
