// The collector where something stands in its way: what is wrong with one inbox, drop or reload stops nothing else.

import { expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  utimesSync,
} from "node:fs";
import { Folder, certificates, have, inboxLines, runRole, startRole, until } from "../kit.ts";

/** Two routes, to bob and to eve, and a drop folder. */
function configuration(folder: Folder, more = ""): string {
  mkdirSync(folder.at("drops"), { recursive: true });
  const route = (to: string) => `{ path: /${to}, recipient: ${to}, type: INFO, template: "to ${to}" }`;
  return folder.write(
    "collector.yaml",
    `agent: foreman\ninbox_dir: ${folder.at("inbox")}\nwebhook: { listen: "127.0.0.1:0", dedupe_hours: 0, routes: [${route("bob")}, ${route("eve")}] }\ndrop_folder: { path: ${folder.at("drops")}, settle_ms: 50 }\n${more}`,
  );
}

/** Puts a drop into the folder whole, as its producers do. */
function drop(folder: Folder, name: string, recipient: string, at?: number): void {
  const path = folder.write(`drops/.${name}`, JSON.stringify({ recipient, type: "INFO", payload: name }));
  if (at !== undefined) utimesSync(path, at, at);
  renameSync(path, folder.at("drops", name));
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

const NOBODY = 65_534;
const AS_NOBODY = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
const root = process.getuid?.() === 0;
test.skipIf(root && !have("setpriv", "an inbox that may not be written"))(
  "an inbox that may not be written is no reason not to start",
  async () => {
    using folder = new Folder();
    if (root) chownSync(folder.path, NOBODY, NOBODY);
    const wrap = root ? AS_NOBODY : [];
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

test("a drop that a killed collector delivered isn't delivered again, however short deliveries are remembered", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  const isTaken = () => readdirSync(folder.at("drops")).every((name) => name.startsWith("."));
  {
    await using daemon = await startRole("collector", ["--config", file]);
    await daemon.url();
    drop(folder, "a.json", "bob", 1_700_000_000);
    await until("it is delivered", () => payloads(folder, "bob").length === 1 && isTaken());
    await daemon.kill("SIGKILL");
  }
  // As if it had been killed before deleting it.
  drop(folder, "a.json", "bob", 1_700_000_000);
  drop(folder, "b.json", "bob", 1_700_000_001);
  await using daemon = await startRole("collector", ["--config", file]);
  await daemon.url();
  await until("both are taken", isTaken);
  expect(payloads(folder, "bob")).toEqual(["a.json", "b.json"]);
  expect(existsSync(folder.at("drops", ".dead-letter"))).toBe(false);
});

test("a reload that fails changes nothing: the old routes and the old drop folder go on", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  const drops = `drop_folder: { path: ${folder.at("drops")}`;
  await using daemon = await startRole("collector", ["--config", file]);
  const url = await daemon.url();
  const post = async (path: string) => (await fetch(url + path, { method: "POST" })).status;
  const rewrite = (from: string, to: string) =>
    folder.write("collector.yaml", readFileSync(file, "utf8").replace(from, to));
  // Nobody can make a folder below a file.
  rewrite(drops, `drop_folder: { path: ${folder.at("collector.yaml", "in")}`);
  rewrite("path: /eve", "path: /new");
  daemon.child.kill("SIGHUP");
  await daemon.said("the former one stays");
  expect([await post("/eve"), await post("/new")]).toEqual([202, 404]);
  drop(folder, "a.json", "bob");
  await until("the old folder is emptied", () => payloads(folder, "bob").length === 1);
  rewrite(`drop_folder: { path: ${folder.at("collector.yaml", "in")}`, `drop_folder: { path: ${folder.at("other")}`);
  daemon.child.kill("SIGHUP");
  await daemon.said("configuration reloaded");
  expect([await post("/eve"), await post("/new")]).toEqual([404, 202]);
  const other = folder.write("other/.b.json", JSON.stringify({ recipient: "bob", type: "INFO", payload: "other" }));
  renameSync(other, folder.at("other", "b.json"));
  await until("the new folder is emptied", () => payloads(folder, "bob").length === 2);
});

test.skipIf(!have("openssl", "a certificate that is none"))(
  "nor does a reload whose certificate is none change who may connect",
  async () => {
    using folder = new Folder();
    await certificates(folder);
    const tls = `tls: { cert_file: ${folder.at("server.pem")}, key_file: ${folder.at("server.key")} }\n`;
    const file = configuration(folder, tls);
    await using daemon = await startRole("collector", ["--config", file]);
    const url = (await daemon.url()).replace("http:", "https:");
    const ca = readFileSync(folder.at("ca.pem"), "utf8");
    const post = async (path: string) =>
      (await fetch(url + path, { method: "POST", tls: { ca }, keepalive: false } as RequestInit)).status;
    folder.write("server.pem", "no certificate\n");
    const wanted = readFileSync(file, "utf8")
      .replace("path: /eve", "path: /new")
      .replace(`path: ${folder.at("drops")}`, `path: ${folder.at("other")}`);
    folder.write("collector.yaml", `${wanted}auth: { token: "0123456789abcdef" }\n`);
    daemon.child.kill("SIGHUP");
    await daemon.said("the former one stays");
    expect([await post("/eve"), await post("/new")]).toEqual([202, 404]);
    // Nor does it keep the folder from others that it didn't take over.
    const second = folder.write(
      "second.yaml",
      `agent: b\ninbox_dir: ${folder.at("inbox")}\ndrop_folder: { path: ${folder.at("other")} }\n`,
    );
    await using other = await startRole("collector", ["--config", second]);
    await other.said(" ready ");
  },
);

test("drops for others don't wait for an inbox that can't be written, nor for a file that can't be moved", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("inbox", "bob.inbox"), { recursive: true });
  const file = configuration(folder, "");
  folder.write("drops/.dead-letter", "not a folder");
  await using daemon = await startRole("collector", ["--config", file]);
  await daemon.url();
  drop(folder, "1.json", "bob");
  folder.write("drops/bad.json", "not JSON");
  await daemon.said("drops stay: the inbox can't be written recipient=bob");
  await daemon.said("moved to .dead-letter file=bad.json");
  // The pauses grow: whoever had to wait for bob's, too, would come after his next failure.
  const failures = () => daemon.log.filter((line) => line.includes("recipient=bob")).length;
  await until("the third failure", () => failures() >= 3);
  const before = failures();
  drop(folder, "2.json", "eve");
  await until("eve's is delivered", () => payloads(folder, "eve").length === 1);
  expect(failures()).toBe(before);
  rmSync(folder.at("inbox", "bob.inbox"), { recursive: true });
  await daemon.said(/drops go on: the inbox can be written again recipient=bob/);
  rmSync(folder.at("drops", ".dead-letter"));
  await until("the bad one is moved", () => existsSync(folder.at("drops", ".dead-letter", "bad.json")));
  expect(payloads(folder, "bob")).toEqual(["1.json"]);
});

test("nothing in a dead letter's name or content steers a terminal from its reason, or makes a line of it", async () => {
  using folder = new Folder();
  await using daemon = await startRole("collector", ["--config", configuration(folder)]);
  await daemon.url();
  const name = "a\u001b[31m\nwhen:  never.json";
  folder.write(`drops/${name}`, JSON.stringify({ type: "\u001b]0;title\u0007", "\u001b[2J": 1 }));
  const reason = folder.at("drops", ".dead-letter", `${name}.reason`);
  await until("it is a dead letter", () => existsSync(folder.at("drops", ".dead-letter", name)));
  const lines = readFileSync(reason, "utf8").split("\n");
  expect(lines.map((line) => line.slice(0, 7))).toEqual(["what:  ", "where: ", "when:  ", ""]);
  expect(lines.join("")).not.toMatch(/\p{Cc}/u);
  expect(lines[1]).toContain("a\\u001b[31m\\u000awhen:  never.json");
});

const isRootWithSetpriv = root && have("setpriv", "a file that can't be moved");
if (!root) console.log("skipped: a file that can't be moved: needs root, for somebody else's file");
test.skipIf(!isRootWithSetpriv)("a file that can't be moved leaves no reasons behind", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  chownSync(folder.path, NOBODY, NOBODY);
  // As in /tmp: everybody may put something there, and nobody may move what is another's.
  chmodSync(folder.at("drops"), 0o1777);
  folder.write("drops/bad.json", "not JSON");
  await using daemon = await startRole("collector", ["--config", file], { wrap: AS_NOBODY });
  await daemon.url();
  await until("two failures", () => daemon.log.filter((line) => line.includes("file=bad.json")).length >= 2);
  expect(readdirSync(folder.at("drops", ".dead-letter"))).toEqual([]);
  chownSync(folder.at("drops", "bad.json"), NOBODY, NOBODY);
  await until("it is moved", () => readdirSync(folder.at("drops", ".dead-letter")).length === 2);
});

test("more recipients than descriptors: each gets its events, and webhooks are taken", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  const recipients = Array.from({ length: 300 }, (_, n) => `r${n}`);
  const wrap = ["sh", "-c", 'ulimit -n 200 && exec "$@"', "sh"];
  await using daemon = await startRole("collector", ["--config", file], { wrap });
  const url = await daemon.url();
  for (const name of recipients) drop(folder, `${name}.json`, name);
  // How many come through at a time depends on how many of them a pass finds; for the others pauses grow: 1, 2, 4, 8, 16 s.
  await until("all are delivered", () => recipients.every((name) => payloads(folder, name).length === 1), 90);
  expect((await fetch(`${url}/bob`, { method: "POST" })).status).toBe(202);
  expect(existsSync(folder.at("drops", ".dead-letter"))).toBe(false);
}, 120_000);

test("a second collector for the same drop folder doesn't start, and one after a killed one does", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  await using first = await startRole("collector", ["--config", file]);
  await first.url();
  const { code, stderr } = await runRole("collector", ["--config", file]);
  expect([code, stderr]).toEqual([
    1,
    expect.stringMatching(/another picket-collector.*\nhint: is the service running\?/),
  ]);
  await first.kill("SIGKILL");
  await using next = await startRole("collector", ["--config", file]);
  await next.url();
});
