// src/index.js → dist/handler.wasm: a wasi:http component with a JavaScript engine in it.

import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { componentize } from "@bytecodealliance/componentize-js";

// The interfaces come with jco; the engine takes exactly this version of them.
const ENGINE = "0.2.10";
const BUILTIN = "node_modules/@bytecodealliance/jco/lib/wit/builtin/0.2.12";

await rm("wit", { recursive: true, force: true });
await mkdir("wit/deps", { recursive: true });
await cp(BUILTIN, "wit/deps", { recursive: true });
for (const entry of await readdir("wit/deps", { recursive: true, withFileTypes: true })) {
  if (!entry.name.endsWith(".wit")) continue;
  const file = join(entry.parentPath ?? entry.path, entry.name);
  await writeFile(file, (await readFile(file, "utf8")).replaceAll("0.2.12", ENGINE));
}
await writeFile(
  "wit/world.wit",
  `package local:handler;

world handler {
  export wasi:http/incoming-handler@${ENGINE};
}
`,
);

const { component } = await componentize({
  sourcePath: "src/index.js",
  witPath: "wit",
  worldName: "handler",
});
await mkdir("dist", { recursive: true });
await writeFile("dist/handler.wasm", component);
