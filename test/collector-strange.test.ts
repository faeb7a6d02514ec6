// The collector where something stands in its way: what is wrong with one inbox, drop or reload stops nothing else.

import { expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync } from "node:fs";
import { Folder, have, inboxLines, runRole, startRole } from "./kit.ts";

/** Two routes, to bob and to eve, and a drop folder. */
function configuration(folder: Folder, more = ""): string {
  mkdirSync(folder.at("drops"), { recursive: true });
  const route = (to: string) => `{ path: /${to}, recipient: ${to}, type: INFO, template: "to ${to}" }`;
  return folder.write(
    "collector.yaml",
    `agent: foreman\ninbox_dir: ${folder.at("inbox")}\nwebhook: { listen: "127.0.0.1:0", dedupe_hours: 0, routes: [${route("bob")}, ${route("eve")}] }\ndrop_folder: { path: ${folder.at("drops")}, settle_ms: 50 }\n${more}`,
  );
}

const payloads = (folder: Folder, recipient: string) =>
  inboxLines(folder.at("inbox"), recipient).map(({ payload }) => payload);

test("a FIFO in an inbox's place is refused, and nothing waits for it", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("inbox"));
  await Bun.$`mkfifo ${folder.at("inbox", "bob.inbox")}`;
  const file = configuration(folder);
  await using daemon = await startRole("collector", ["--config", file]);
  const url = await daemon.url();
  const post = async (path: string) =>
    (await fetch(url + path, { method: "POST", headers: { "idempotency-key": "1" } })).status;
  expect([await post("/bob"), await post("/eve")]).toEqual([500, 202]);
  const { code, stderr } = await runRole("collector", ["read", "bob", "--config", file]);
  expect([code, stderr]).toEqual([1, expect.stringContaining("not a regular file")]);
});

const root = process.getuid?.() === 0;
test.skipIf(root && !have("setpriv", "an inbox that may not be written"))(
  "an inbox that may not be written is no reason not to start",
  async () => {
    using folder = new Folder();
    const NOBODY = 65_534;
    if (root) chownSync(folder.path, NOBODY, NOBODY);
    const wrap = root ? ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"] : [];
    const file = configuration(folder);
    const ping = await runRole("collector", ["ping", "bob", "hello", "--config", file], { wrap });
    expect(ping.code).toBe(0);
    chmodSync(folder.at("inbox", "bob.inbox"), 0o400);
    await using daemon = await startRole("collector", ["--config", file], { wrap });
    const url = await daemon.url();
    const post = async (path: string) => (await fetch(url + path, { method: "POST" })).status;
    expect([await post("/bob"), await post("/eve")]).toEqual([500, 202]);
    chmodSync(folder.at("inbox", "bob.inbox"), 0o600);
    expect(await post("/bob")).toBe(202);
    expect(payloads(folder, "bob")).toEqual(["hello", "to bob"]);
  },
);
