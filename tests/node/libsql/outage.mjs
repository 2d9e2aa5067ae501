// The primary is away: reads go on, writes are refused.
import { strict as assert } from "node:assert";
import { createClient } from "@libsql/client";
import { authToken, refused, url } from "./target.mjs";

const client = createClient({ url, authToken });
assert.equal((await client.execute("SELECT count(*) AS n FROM kept")).rows[0].n, 1);
const both = await client.batch(["SELECT 1", "SELECT count(*) AS n FROM kept"], "read");
assert.equal(both[1].rows[0].n, 1);
const insert = "INSERT INTO kept VALUES (2)";
await refused("PRIMARY_UNREACHABLE", () => client.execute(insert));
await refused("PRIMARY_UNREACHABLE", () => client.batch([insert], "write"));
await refused("primary_unreachable", async () => (await client.transaction("write")).execute(insert));
