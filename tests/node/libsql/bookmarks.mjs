// What was written through one agent is read at another at once, when the bookmark is carried along.
import { strict as assert } from "node:assert";
import { createClient } from "@libsql/client";
import { authToken, url } from "./target.mjs";

let bookmark;
const carrying = async (request) => {
  if (bookmark) request.headers.set("x-selvedge-bookmark", bookmark);
  const response = await fetch(request);
  bookmark = response.headers.get("x-selvedge-bookmark") ?? bookmark;
  return response;
};
const agents = [url, process.env.OTHER_URL].map((url) => createClient({ url, authToken, fetch: carrying }));
await agents[0].execute("CREATE TABLE counted (n INTEGER)");
for (let number = 1; number <= 40; number++) {
  await agents[number % 2].execute({ sql: "INSERT INTO counted VALUES (?)", args: [number] });
  const other = agents[(number + 1) % 2];
  const { rows } = await other.execute("SELECT count(*) AS n FROM counted");
  assert.equal(rows[0].n, number);
  const [batch] = await other.batch(["SELECT count(*) AS n FROM counted"], "read");
  assert.equal(batch.rows[0].n, number);
}
const before = bookmark;
bookmark = undefined;
await agents[1].execute("SELECT 1");
assert.match(bookmark, /^shop=/);
// A bookmark nobody signed makes nobody wait.
bookmark = before.replace(/-[0-9a-f]{16}-/, "-00000000ffffffff-");
assert.equal((await agents[1].execute("SELECT 1 AS one")).rows[0].one, 1);
