// Prisma's client through its libSQL adapter.
import { strict as assert } from "node:assert";
import { PrismaLibSql } from "@prisma/adapter-libsql";
import prismaClient from "./prisma-client/index.js";
import { authToken, url } from "./target.mjs";

const { PrismaClient } = prismaClient;
const adapter = new PrismaLibSql({ url, authToken });
const prisma = new PrismaClient({ adapter });
for (const sql of [
  `CREATE TABLE "Author" ("id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "email" TEXT NOT NULL, "name" TEXT, "big" BIGINT, "photo" BLOB)`,
  `CREATE UNIQUE INDEX "Author_email_key" ON "Author"("email")`,
  `CREATE TABLE "Book" ("id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "title" TEXT NOT NULL, "price" REAL NOT NULL, "sold" BOOLEAN NOT NULL DEFAULT false, "printed" DATETIME NOT NULL, "authorId" INTEGER NOT NULL, CONSTRAINT "Book_authorId_fkey" FOREIGN KEY ("authorId") REFERENCES "Author" ("id") ON DELETE RESTRICT ON UPDATE CASCADE)`,
]) {
  await prisma.$executeRawUnsafe(sql);
}

const printed = new Date("2001-02-03T04:05:06.789Z");
const photo = new Uint8Array([0, 1, 254, 255]);
const ada = await prisma.author.create({
  data: { email: "ada@example.com", big: 1234567890123n, photo, books: { create: [{ title: "Notes", price: 9.5, printed }, { title: "More", price: 1, printed }] } },
  include: { books: true },
});
assert.deepEqual([ada.id, ada.big, ada.books.length], [1, 1234567890123n, 2]);
assert.deepEqual(ada.photo, photo);
assert.deepEqual(ada.books[0], { id: 1, title: "Notes", price: 9.5, sold: false, printed, authorId: 1 });
await prisma.author.createMany({ data: [{ email: "bob@example.com" }, { email: "cyd@example.com", name: "Cyd" }] });
assert.equal((await prisma.author.findUnique({ where: { email: "cyd@example.com" } })).name, "Cyd");
assert.equal((await prisma.book.update({ where: { id: 2 }, data: { sold: true } })).sold, true);
assert.deepEqual(await prisma.book.aggregate({ _sum: { price: true }, _count: true }), { _sum: { price: 10.5 }, _count: 2 });
assert.equal((await prisma.author.upsert({ where: { email: "bob@example.com" }, update: { name: "Bob" }, create: { email: "" } })).name, "Bob");
const [{ n }] = await prisma.$queryRaw`SELECT count(*) AS n FROM Author WHERE id < ${3}`;
assert.equal(Number(n), 2);
await assert.rejects(prisma.author.create({ data: { email: "ada@example.com" } }), /UNIQUE constraint failed/);

// Transactions: a list, interactive, undone.
const [removed, left] = await prisma.$transaction([prisma.author.delete({ where: { email: "cyd@example.com" } }), prisma.author.count()]);
assert.deepEqual([removed.name, left], ["Cyd", 2]);
const name = await prisma.$transaction(async (transaction) => {
  await transaction.author.update({ where: { id: 1 }, data: { name: "Ada" } });
  return (await transaction.author.findUnique({ where: { id: 1 } })).name;
});
assert.equal(name, "Ada");
await assert.rejects(
  prisma.$transaction(async (transaction) => {
    await transaction.book.deleteMany();
    throw new Error("no");
  }),
  /no/,
);
assert.equal(await prisma.book.count(), 2);
await prisma.$disconnect();
