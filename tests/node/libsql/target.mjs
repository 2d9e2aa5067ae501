// Where a script finds the agent it talks to, and how it fails.
import { strict as assert } from "node:assert";

export const url = process.env.LIBSQL_URL;
export const authToken = process.env.LIBSQL_TOKEN;
assert.ok(url, "LIBSQL_URL says where the agent is");

/** The operation must fail with this code. */
export async function refused(code, operation) {
  let done;
  try {
    done = await operation();
  } catch (error) {
    assert.equal(error.code, code, `${error.code}: ${error.message}`);
    return error;
  }
  assert.fail(`expected ${code}, but it was done: ${JSON.stringify(done)}`);
}
