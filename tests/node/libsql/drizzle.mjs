// Drizzle: its migrator, queries, relations, batches, nested transactions.
import { strict as assert } from "node:assert";
import { createClient } from "@libsql/client";
import { and, count, eq, gt, relations, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/libsql";
import { migrate } from "drizzle-orm/libsql/migrator";
import { blob, integer, real, sqliteTable, text } from "drizzle-orm/sqlite-core";
import { authToken, url } from "./target.mjs";

const users = sqliteTable("users", {
  id: integer().primaryKey({ autoIncrement: true }),
  email: text().notNull().unique(),
  settings: text({ mode: "json" }),
  born: integer({ mode: "timestamp" }),
  balance: blob({ mode: "bigint" }),
});
const posts = sqliteTable("posts", {
  id: integer().primaryKey(),
  title: text().notNull(),
  score: real(),
  author: integer().notNull().references(() => users.id),
});
const usersRelations = relations(users, ({ many }) => ({ posts: many(posts) }));
const postsRelations = relations(posts, ({ one }) => ({ user: one(users, { fields: [posts.author], references: [users.id] }) }));

const client = createClient({ url, authToken });
const db = drizzle(client, { schema: { users, posts, usersRelations, postsRelations } });
for (let time = 0; time < 2; time++) {
  await migrate(db, { migrationsFolder: new URL("migrations", import.meta.url).pathname });
}
const applied = await db.values(sql`SELECT count(*) FROM __drizzle_migrations`);
assert.deepEqual(applied.map((row) => Object.values(row)), [[2]], "each once");

const born = new Date("2001-02-03T04:05:06Z");
const [ada] = await db.insert(users).values({ email: "ada@example.com", settings: { dark: true }, born, balance: 12345678901234567890n }).returning();
assert.deepEqual(ada, { id: 1, email: "ada@example.com", settings: { dark: true }, born, balance: 12345678901234567890n });
await db.insert(users).values([{ email: "bob@example.com" }, { email: "cyd@example.com" }]);
await db.insert(posts).values([1, 2, 3].map((number) => ({ title: `post ${number}`, score: number / 2, author: 1 })));
const found = await db.query.users.findFirst({ with: { posts: { where: gt(posts.score, 0.5) } }, where: eq(users.id, 1) });
assert.deepEqual(found.posts.map(({ title }) => title), ["post 2", "post 3"]);
const joined = await db.select({ email: users.email, posts: count(posts.id) }).from(users).leftJoin(posts, eq(posts.author, users.id)).groupBy(users.id).orderBy(users.id);
assert.deepEqual(joined, [{ email: "ada@example.com", posts: 3 }, { email: "bob@example.com", posts: 0 }, { email: "cyd@example.com", posts: 0 }]);
const updated = await db.update(users).set({ email: "bea@example.com" }).where(and(eq(users.id, 2), eq(users.email, "bob@example.com")));
assert.equal(updated.rowsAffected, 1);
await db.insert(users).values({ id: 3, email: "x" }).onConflictDoUpdate({ target: users.id, set: { email: "cya@example.com" } });

const [inserted, selected] = await db.batch([
  db.insert(users).values({ email: "dan@example.com" }).returning({ id: users.id }),
  db.select({ email: users.email }).from(users).where(eq(users.email, "dan@example.com")),
]);
assert.deepEqual([inserted, selected], [[{ id: 4 }], [{ email: "dan@example.com" }]]);

// A transaction in a transaction is a savepoint.
await db.transaction(async (outer) => {
  await outer.insert(users).values({ email: "outer@example.com" });
  await assert.rejects(
    outer.transaction(async (inner) => {
      await inner.insert(users).values({ email: "inner@example.com" });
      inner.rollback();
    }),
  );
  await outer.transaction(async (inner) => {
    await inner.insert(users).values({ email: "kept@example.com" });
  });
});
await assert.rejects(
  db.transaction(async (transaction) => {
    await transaction.delete(posts);
    throw new Error("no");
  }),
  /no/,
);
const emails = (await db.select({ email: users.email }).from(users).orderBy(users.id)).map(({ email }) => email.split("@")[0]);
assert.deepEqual(emails, ["ada", "bea", "cya", "dan", "outer", "kept"]);
const failure = await db.insert(users).values({ email: "ada@example.com" }).then(() => undefined, (error) => error);
assert.equal((failure.cause ?? failure).code, "SQLITE_CONSTRAINT");
client.close();
