// The collector through its front door, as the script and as the compiled binary.
// Reloads. Not tested here: what has a file of its own in test/collector, crashes, power cuts and full disks (test/e2e), TLS and who may connect (test/http.test.ts, test/guard.test.ts).

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHmac } from "node:crypto";
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import examples from "@octokit/webhooks-examples/api.github.com/index.json";
import { AS_NOBODY, NOBODY, configuration as twoRoutes, drop as put, isRoot, payloads } from "./collector/kit.ts";
import { IN_TABLES, inboxesIn } from "./inbox-kit.ts";
import {
  type Daemon,
  Folder,
  TARGETS,
  certificates,
  have,
  inboxLines,
  inboxTables,
  runRole,
  startRole,
  until,
} from "./kit.ts";

const SECRET = "It's a Secret to Everybody";

const GITHUB_PUSH = JSON.stringify(examples.find(({ name }) => name === "push")!.examples[0]);

function github(body: string): Record<string, string> {
  const digest = createHmac("sha256", SECRET).update(body).digest("hex");
  return { "content-type": "application/json", "x-hub-signature-256": `sha256=${digest}` };
}

function config(folder: Folder, more = ""): string {
  mkdirSync(folder.at("drops"), { recursive: true });
  return folder.write(
    "collector.yaml",
    `agent: foreman
${inboxesIn(folder).yaml}
webhook:
  listen: 127.0.0.1:0
  routes:
    - { path: /push, recipient: bob, type: INFO, template: "push to {{ .repository.full_name }} by {{ .pusher.name }}: {{ len .commits }} commit(s)", verify: { scheme: github, secret: "${SECRET}" } }
    - { path: /any, recipient: bob, type: INFO, template: "any {{ json . }}" }
    - { path: /fixed, recipient: bob, type: ACK-REQUEST, template: "the text", priority: urgent }
    - { path: /both, recipient: [bob, alice], type: NEEDS-RESPONSE, template: "{{ .n }}", sentinel: ${folder.at("go")} }
    - { path: /strict, recipient: bob, type: INFO, template: "{{ .n.m }}", missing: error }
    - { path: /lax, recipient: bob, type: INFO, template: "{{ .n.m }}" }
    - { path: /when, recipient: bob, type: INFO, template: "{{ .n }}", when: '{{ eq .action "opened" }}' }
    - { path: /head, recipient: bob, type: INFO, template: '{{ header "X-GitHub-Event" }} {{ query "env" }}' }
drop_folder:
  path: ${folder.at("drops")}
  settle_ms: 150
${more}`,
  );
}

describe.each(TARGETS)("the collector as %s", (target) => {
  let folder: Folder;
  let daemon: Daemon;
  let url: string;
  beforeAll(async () => {
    folder = new Folder();
    daemon = await startRole("collector", ["--config", config(folder)], { target });
    url = await daemon.url();
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  });

  const post = (path: string, body = "", headers: Record<string, string> = {}) =>
    fetch(`${url}${path}`, { method: "POST", body, headers });
  const newest = (recipient = "bob") => inboxLines(folder.at("inbox"), recipient).at(-1)!;
  const drop = (name: string, content: string | Uint8Array) => {
    writeFileSync(folder.at("drops", `.${name}.tmp`), content);
    renameSync(folder.at("drops", `.${name}.tmp`), folder.at("drops", name));
  };
  const dead = (name: string) =>
    until(`${name} is a dead letter`, () => {
      const path = folder.at("drops", ".dead-letter", name);
      return lstatSync(path, { throwIfNoEntry: false }) && readFileSync(`${path}.reason`, "utf8");
    });

  test("a signed GitHub push is one line, keys in their order, and its id is the answer", async () => {
    const answer = await post("/push", GITHUB_PUSH, github(GITHUB_PUSH));
    expect(answer.status).toBe(202);
    const { id } = (await answer.json()) as { id: string };
    const event = newest();
    expect(Object.keys(event)).toEqual(["ts", "id", "from", "to", "type", "priority", "payload", "source"]);
    expect(event).toMatchObject({
      id,
      from: "foreman",
      to: "bob",
      type: "INFO",
      priority: "normal",
      payload: "push to Codertocat/Hello-World by Codertocat: 0 commit(s)",
      source: "webhook:/push",
    });
    expect(event["ts"]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    if (IN_TABLES) return;
    const line = readFileSync(folder.at("inbox", "bob.inbox"), "utf8").trimEnd().split("\n").at(-1)!;
    expect(line).toBe(JSON.stringify(event));
  });

  test("signature wrong or missing: 401, nothing written", async () => {
    const before = inboxLines(folder.at("inbox"), "bob").length;
    expect((await post("/push", GITHUB_PUSH)).status).toBe(401);
    expect((await post("/push", `${GITHUB_PUSH} `, github(GITHUB_PUSH))).status).toBe(401);
    expect(inboxLines(folder.at("inbox"), "bob").length).toBe(before);
  });

  test("unknown path 404, wrong method 405 with Allow, not JSON 400, too large 413: each as JSON", async () => {
    const answers = await Promise.all([
      post("/nowhere", "{}"),
      fetch(`${url}/any`),
      fetch(`${url}/any`, { method: "DELETE" }),
      post("/any", "{"),
      post("/any", `"${"x".repeat(1 << 20)}"`),
      fetch(`${url}/any`, { method: "POST", body: new Blob(["[".repeat(2 << 20)]).stream() }),
    ]);
    expect(answers.map(({ status }) => status)).toEqual([404, 405, 405, 400, 413, 413]);
    expect(answers[1].headers.get("allow")).toBe("POST");
    for (const answer of answers) {
      expect(answer.headers.get("content-type")).toContain("application/json");
      expect(answer.headers.get("set-cookie")).toBeNull();
      expect(await answer.json()).toMatchObject({
        error: expect.any(String),
        code: expect.stringMatching(/^[a-z_]+$/),
      });
    }
  });

  test("an empty body is an empty object", async () => {
    expect((await post("/fixed")).status).toBe(202);
    expect(newest()).toMatchObject({ payload: "the text", type: "ACK-REQUEST", priority: "urgent" });
    expect((await post("/any")).status).toBe(202);
    expect(newest()["payload"]).toBe("any {}");
  });

  test("forms: fields become keys, a field payload that holds JSON becomes the data", async () => {
    const form = { "content-type": "application/x-www-form-urlencoded; charset=utf-8" };
    await post("/any", "text=hello+w%C3%B6rld&n=1&n=2", form);
    expect(newest()["payload"]).toBe(`any {"text":"hello wörld","n":["1","2"]}`);
    await post("/any", `payload=${encodeURIComponent('{"a":1.50}')}`, form);
    expect(newest()["payload"]).toBe(`any {"a":1.50}`);
    const multipart = new FormData();
    multipart.set("field", "value");
    expect((await fetch(`${url}/any`, { method: "POST", body: multipart })).status).toBe(202);
    expect(newest()["payload"]).toBe(`any {"field":"value"}`);
    const body = `payload=${encodeURIComponent(GITHUB_PUSH)}`;
    expect((await post("/push", body, { ...github(body), ...form })).status).toBe(202);
    expect(newest()["payload"]).toStartWith("push to Codertocat/Hello-World");
  });

  test("JSON that calls itself a form, as curl -d sends it, is JSON", async () => {
    const form = { "content-type": "application/x-www-form-urlencoded" };
    await post("/any", `{"text":"hello & more=1"}`, form);
    expect(newest()["payload"]).toBe(`any {"text":"hello & more=1"}`);
  });

  test("each of several recipients gets the event in its own inbox, with the same id", async () => {
    const answer = (await (await post("/both", `{"n":7}`)).json()) as { id: string };
    expect(newest("bob")).toMatchObject({ id: answer.id, to: "bob", payload: "7", sentinel: folder.at("go") });
    expect(newest("alice")).toMatchObject({ id: answer.id, to: "alice", payload: "7" });
  });

  test("missing keys: <no value>, or 500 where the route says error", async () => {
    expect((await post("/lax", "{}")).status).toBe(202);
    expect(newest()["payload"]).toBe("<no value>");
    expect((await post("/strict", "{}")).status).toBe(500);
    expect((await post("/strict", `{"n":{"m":1}}`)).status).toBe(202);
  });

  test("a text over 64 KiB is cut, with a mark", async () => {
    expect((await post("/any", JSON.stringify({ a: "ü".repeat(70_000) }))).status).toBe(202);
    const payload = newest()["payload"]!;
    expect(payload).toStartWith('any {"a":"üüü');
    expect(payload).toEndWith("ü … [cut at 64 KiB]");
    expect(Buffer.byteLength(payload)).toBeWithin(65_530, 65_537);
  });

  test("what `when` doesn't let through is answered 200 and not written", async () => {
    const before = inboxLines(folder.at("inbox"), "bob").length;
    const answer = await post("/when", `{"action":"closed"}`);
    expect([answer.status, await answer.json()]).toEqual([200, { skipped: true }]);
    expect(inboxLines(folder.at("inbox"), "bob").length).toBe(before);
    expect((await post("/when", `{"action":"opened","n":1}`)).status).toBe(202);
    expect(newest()["payload"]).toBe("1");
  });

  test("templates read headers and the query, and no prototype keys", async () => {
    await post("/head?env=prod", "{}", { "x-github-event": "push" });
    expect(newest()["payload"]).toBe("push prod");
    await post("/any", `{"__proto__":{"polluted":1}}`);
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });

  test("the same delivery twice, and twice at once: one line, one id", async () => {
    for (const header of [
      "X-GitHub-Delivery",
      "X-Forgejo-Delivery",
      "X-Gitea-Delivery",
      "webhook-id",
      "Idempotency-Key",
    ]) {
      const headers = { [header]: `delivery-of-${header}` };
      const before = inboxLines(folder.at("inbox"), "bob").length;
      const answers = await Promise.all([post("/any", `{"n":1}`, headers), post("/any", `{"n":1}`, headers)]);
      answers.push(await post("/any", `{"n":1}`, headers));
      expect(answers.map(({ status }) => status)).toEqual([202, 202, 202]);
      const ids = await Promise.all(answers.map(async (answer) => ((await answer.json()) as { id: string }).id));
      expect(new Set(ids).size).toBe(1);
      expect(newest()["id"]).toBe(ids[0]);
      expect(inboxLines(folder.at("inbox"), "bob").length).toBe(before + 1);
      // Another route is another event.
      await post("/fixed", "", headers);
      expect(inboxLines(folder.at("inbox"), "bob").length).toBe(before + 2);
    }
  });

  test("health counts, and metrics are served", async () => {
    const health = (await (await fetch(`${url}/health`)).json()) as Record<string, number>;
    expect(Object.keys(health).slice(0, 4)).toEqual(["received", "emitted", "errors", "uptime_sec"]);
    await post("/any", "{");
    await post("/fixed");
    await fetch(`${url}/any`);
    const after = (await (await fetch(`${url}/health`)).json()) as Record<string, number>;
    expect(after["received"]! - health["received"]!).toBe(2);
    expect(after["emitted"]! - health["emitted"]!).toBe(1);
    expect(after["errors"]! - health["errors"]!).toBe(2);
    expect(await (await fetch(`${url}/metrics`)).text()).toContain("picket_events_total");
  });

  test("half a surrogate pair becomes U+FFFD in every line, wherever it came from", async () => {
    await post("/any", `{"a":"x\\ud83dy","\\udc00":"\\ud83d\\ude00"}`);
    expect(newest()["payload"]).toBe(`any {"a":"x\ufffdy","\ufffd":"\u{1f600}"}`);
    drop("half.json", `{"recipient":"gina","type":"INFO","payload":"\\ud83d","sentinel":"/nowhere/\\udead"}`);
    await until("the drop is delivered", () => inboxLines(folder.at("inbox"), "gina").length === 1);
    expect(newest("gina")).toMatchObject({ payload: "\ufffd", sentinel: "/nowhere/\ufffd" });
    for (const recipient of ["bob", "gina"])
      expect(
        inboxTables.get(folder.at("inbox"))?.(recipient) ??
          readFileSync(folder.at("inbox", `${recipient}.inbox`), "utf8"),
      ).not.toMatch(/\\ud[89a-f]/i);
  });

  test("a drop becomes an event in the inbox, and its file is deleted", async () => {
    drop("a.json", `{"recipient":"carol","type":"INFO","payload":"hello\\nworld","priority":"","sentinel":""}`);
    await until(
      "it is delivered",
      () => inboxLines(folder.at("inbox"), "carol").length === 1 && !existsSync(folder.at("drops", "a.json")),
    );
    const { ts: _ts, id, ...rest } = newest("carol");
    expect(rest).toEqual({
      from: "foreman",
      to: "carol",
      type: "INFO",
      priority: "normal",
      payload: "hello\nworld",
      source: "drop-folder:a.json",
    });
    expect(id).toMatch(/^[0-9a-f]{32}$/);
  });

  test("an invalid drop moves to .dead-letter with its reason; if its name is taken there it gets a number", async () => {
    const cases: [string, string | Uint8Array, string][] = [
      ["syntax.json", "{", "not JSON"],
      ["unknown.json", `{"recipient":"bob","type":"INFO","payload":"x","extra":1}`, "extra"],
      ["missing.json", `{"recipient":"bob","type":"INFO"}`, "payload"],
      ["type.json", `{"recipient":"bob","type":"info","payload":"x"}`, "type"],
      ["number.json", `{"recipient":"bob","type":"INFO","payload":5}`, "payload"],
      ["name.json", `{"recipient":"../etc/passwd","type":"INFO","payload":"x"}`, "recipient"],
      ["list.json", `[]`, "drop"],
      ["null.json", `null`, "drop"],
      ["latin1.json", Buffer.from([0x22, 0xe9, 0x22]), "not UTF-8"],
      ["large.json", `"${"x".repeat(1 << 20)}"`, "over the limit"],
      ["nested.json", "[".repeat(2 << 20), "over the limit"],
      ["deep.json", "[".repeat(1 << 19), "not JSON"],
      ["empty.json", "", "not JSON"],
    ];
    for (const [name, content] of cases) drop(name, content);
    for (const [name, content, reason] of cases) {
      const text = await dead(name);
      expect(text).toContain(reason);
      expect(text).toContain(folder.at("drops", name));
      expect(text).toMatch(/\d{4}-\d\d-\d\dT/);
      expect(Buffer.from(content).equals(readFileSync(folder.at("drops", ".dead-letter", name)))).toBe(true);
    }
    drop("syntax.json", "[");
    await dead("syntax.json.1");
    expect(readFileSync(folder.at("drops", ".dead-letter", "syntax.json"), "utf8")).toBe("{");
  });

  test("links, folders and FIFOs are moved as they are, never opened or followed", async () => {
    symlinkSync("/etc/passwd", folder.at("drops", "link.json"));
    // Whole, by rename: as soon as it is there it may be moved.
    mkdirSync(folder.at("staged.folder"));
    writeFileSync(folder.at("staged.folder", "inside"), "x");
    renameSync(folder.at("staged.folder"), folder.at("drops", "folder.json"));
    await Bun.$`mkfifo ${folder.at("drops", "fifo.json")}`;
    expect(await dead("link.json")).toContain("a link");
    expect(await dead("folder.json")).toContain("a folder");
    expect(await dead("fifo.json")).toContain("a FIFO");
    expect(lstatSync(folder.at("drops", ".dead-letter", "link.json")).isSymbolicLink()).toBe(true);
    expect(readFileSync(folder.at("drops", ".dead-letter", "folder.json", "inside"), "utf8")).toBe("x");
    expect(readFileSync("/etc/passwd", "utf8")).not.toBe("");
  });

  test("hidden files, .tmp files and files that don't end in .json stay", async () => {
    for (const name of [".syncthing.x.json.tmp", ".hidden.json", "x.json.tmp", "readme.txt"])
      writeFileSync(folder.at("drops", name), "{");
    drop("mine.json", `{"recipient":"dave","type":"INFO","payload":"x"}`);
    await until("the drop beside them is delivered", () => inboxLines(folder.at("inbox"), "dave").length === 1);
    expect(
      readdirSync(folder.at("drops")).filter(
        (name) => name.includes("hidden") || name.includes("tmp") || name.includes("txt"),
      ).length,
    ).toBe(4);
  });

  test("a drop whose name isn't UTF-8 is delivered", async () => {
    const path = Buffer.concat([Buffer.from(folder.at("drops", "x")), Buffer.from([0xff]), Buffer.from(".json")]);
    // By rename, as all drops: seen empty for as long as it may settle, it would be a dead letter.
    writeFileSync(folder.at("drops", ".x.tmp"), `{"recipient":"frank","type":"INFO","payload":"x"}`);
    renameSync(folder.at("drops", ".x.tmp"), path);
    await until("it is delivered", () => inboxLines(folder.at("inbox"), "frank").length === 1 && !existsSync(path));
  });

  test("a drop folder that is removed and created again is watched again; drops are delivered oldest first", async () => {
    rmSync(folder.at("drops"), { recursive: true });
    await daemon.said("drop folder is missing");
    mkdirSync(folder.at("drops.new"));
    for (const n of [3, 1, 2]) {
      const path = folder.at("drops.new", `${9 - n}.json`);
      writeFileSync(path, `{"recipient":"grace","type":"INFO","payload":"${n}"}`);
      utimesSync(path, n, n);
    }
    renameSync(folder.at("drops.new"), folder.at("drops"));
    await until("they are delivered", () => inboxLines(folder.at("inbox"), "grace").length === 3);
    expect(inboxLines(folder.at("inbox"), "grace").map((event) => event["payload"])).toEqual(["1", "2", "3"]);
    drop("later.json", `{"recipient":"grace","type":"INFO","payload":"later"}`);
    await until("a later one is delivered", () => inboxLines(folder.at("inbox"), "grace").length === 4);
  });

  // So many for the compiled program alone: it takes seconds.
  const many = target === "binary" ? 10_000 : 1000;
  test(`${many} files at once are delivered, each once`, async () => {
    mkdirSync(folder.at("staged"));
    const before = inboxLines(folder.at("inbox"), "many").length;
    for (let n = 0; n < many; n++)
      writeFileSync(folder.at("staged", `${n}.json`), `{"recipient":"many","type":"INFO","payload":"${n}"}`);
    for (let n = 0; n < many; n++) renameSync(folder.at("staged", `${n}.json`), folder.at("drops", `many-${n}.json`));
    await until(
      "all are taken",
      () => readdirSync(folder.at("drops")).filter((name) => name.endsWith(".json")).length === 0,
    );
    const payloads = inboxLines(folder.at("inbox"), "many").map(({ payload }) => Number(payload));
    expect(payloads.length).toBe(before + many);
    expect(new Set(payloads).size).toBe(many);
  });
});

test("a reload that fails changes nothing: the old routes and the old drop folder go on", async () => {
  using folder = new Folder();
  const file = twoRoutes(folder);
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
  put(folder, "a.json", "bob");
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
    const file = twoRoutes(folder, tls);
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
      `agent: b\n${inboxesIn(folder).yaml}\ndrop_folder: { path: ${folder.at("other")} }\n`,
    );
    await using other = await startRole("collector", ["--config", second]);
    await other.said(" ready ");
  },
);

test.skipIf(IN_TABLES)("a FIFO in an inbox's place is refused, and nothing waits for it", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("inbox"));
  await Bun.$`mkfifo ${folder.at("inbox", "bob.inbox")}`;
  const file = twoRoutes(folder);
  await using daemon = await startRole("collector", ["--config", file]);
  const url = await daemon.url();
  const post = async (path: string) =>
    (await fetch(url + path, { method: "POST", headers: { "idempotency-key": "1" } })).status;
  expect([await post("/bob"), await post("/eve")]).toEqual([500, 202]);
  const { code, stderr } = await runRole("collector", ["read", "bob", "--config", file]);
  expect([code, stderr]).toEqual([1, expect.stringContaining("not a regular file")]);
});

test.skipIf(IN_TABLES || (isRoot && !have("setpriv", "an inbox that may not be written")))(
  "an inbox that may not be written is no reason not to start",
  async () => {
    using folder = new Folder();
    if (isRoot) chownSync(folder.path, NOBODY, NOBODY);
    const wrap = isRoot ? AS_NOBODY : [];
    const file = twoRoutes(folder);
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

test("more recipients than descriptors: each gets its events, and webhooks are taken", async () => {
  using folder = new Folder();
  const file = twoRoutes(folder);
  const recipients = Array.from({ length: 300 }, (_, n) => `r${n}`);
  const wrap = ["sh", "-c", 'ulimit -n 200 && exec "$@"', "sh"];
  await using daemon = await startRole("collector", ["--config", file], { wrap });
  const url = await daemon.url();
  for (const name of recipients) put(folder, `${name}.json`, name);
  // How many come through at a time depends on how many of them a pass finds; for the others pauses grow: 1, 2, 4, 8, 16 s.
  await until("all are delivered", () => recipients.every((name) => payloads(folder, name).length === 1));
  expect((await fetch(`${url}/bob`, { method: "POST" })).status).toBe(202);
  expect(existsSync(folder.at("drops", ".dead-letter"))).toBe(false);
});
