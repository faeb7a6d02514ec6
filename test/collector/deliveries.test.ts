// The list of deliveries, its command, and what the log says of refused ones.

import { expect, test } from "bun:test";
import { createHmac } from "node:crypto";
import { chmodSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { IN_TABLES, inboxesIn } from "../inbox-kit.ts";
import { Folder, TARGETS, inboxLines, runRole, startRole, until } from "../kit.ts";
import { listen } from "../fixtures/service/manager.ts";
import { AS_NOBODY, isRoot } from "./kit.ts";

const SECRET = "hunter2-hunter2";

function configuration(folder: Folder): string {
  const event = { recipient: "bob", type: "INFO" };
  const route = (path: string, template: string, more: object = {}) => ({ path, template, ...event, ...more });
  const routes = [
    route("/any", "{{ json . }}"),
    route("/strict", "{{ .n }}", { missing: "error" }),
    route("/when", "x", { when: "{{ eq .a 1 }}" }),
    route("/signed/topsecret", "x", { name: "signed", verify: { scheme: "github", secret: SECRET } }),
    route("/open/topsecret", "x", { name: "open" }),
    route("/query", "x", { verify: { scheme: "query", name: "token", secret: SECRET } }),
  ];
  const webhook = { listen: "127.0.0.1:0", routes };
  return folder.write("c.yaml", JSON.stringify({ agent: "a", ...inboxesIn(folder).settings, webhook }));
}

test.each(TARGETS)(
  "every delivery is listed with its reason, as %s; bodies, secrets and paths with a name aren't",
  async (target) => {
    using folder = new Folder();
    const file = configuration(folder);
    const list = async (...args: string[]) => {
      const { code, stdout, stderr } = await runRole("collector", ["deliveries", "--config", file, ...args], {
        target,
      });
      expect([code, args.includes("--limit") ? "" : stderr.replace(/.*no (failed )?deliveries.*\n/, "")]).toEqual([
        0,
        "",
      ]);
      return stdout.split("\n").filter(Boolean);
    };
    expect(await list()).toEqual([]);
    await using daemon = await startRole("collector", ["--config", file], { target });
    const url = await daemon.url();
    const body = '{"card":"4111-1111"}';
    const post = async (path: string, text = body, headers: Record<string, string> = {}) => {
      const all = { "content-type": "application/json", ...headers };
      return (await fetch(url + path, { method: "POST", body: text, headers: all })).status;
    };
    const digest = createHmac("sha256", SECRET).update(body).digest("hex");
    const expected = [
      [await post("/any", body, { "idempotency-key": "1" }), "/any", undefined],
      [await post("/any", body, { "idempotency-key": "1" }), "/any", "delivered before"],
      [await post("/any", "{4111-1111}"), "/any", "the body is not JSON"],
      [await post("/any", "x".repeat((1 << 20) + 1)), "/any", "over 1048576 bytes"],
      [await post("/any", body, { "content-encoding": "br" }), "/any", 'content-encoding "br"'],
      [await post("/any", body, { "content-type": "application/json; charset=x-own" }), "/any", 'charset "x-own"'],
      [await post("/strict"), "/strict", "the template fails: missing key: .n (line 1, column 4"],
      [await post("/when"), "/when", "`when` is not true"],
      [await post("/signed/topsecret"), "signed", "X-Hub-Signature-256 and X-Hub-Signature are missing"],
      [await post("/signed/topsecret", body, { "x-hub-signature-256": `sha256=${digest}` }), "signed", undefined],
      [await post("/query?token=wrong-one"), "/query", 'the parameter "token" does not match'],
      [await post(`/query?token=${SECRET}`), "/query", undefined],
      [(await fetch(`${url}/any`)).status, "/any", "GET is not possible here"],
    ] as const;
    expect(expected.map(([status]) => status)).toEqual([
      202, 202, 400, 413, 415, 415, 500, 200, 401, 202, 401, 202, 405,
    ]);
    const json = await until("all are listed", async () => {
      const lines = await list("--json");
      return lines.length === expected.length && lines;
    });
    const records = json.map((line) => JSON.parse(line) as Record<string, string>);
    const ids = new Set(inboxLines(folder.at("inbox"), "bob").map(({ id }) => id));
    for (const [at, [status, route, reason]] of expected.entries()) {
      const record = records[at]!;
      expect(record).toMatchObject({ status, route });
      expect(record["reason"] ?? "none").toContain(reason ?? "none");
      expect(record["id"] !== undefined && ids.has(record["id"])).toBe(status === 202);
      expect(record["ts"]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    }
    expect(records.map(({ size }) => size)).toEqual([
      ...[20, 20, 11, (1 << 20) + 1, 20, 20, 20, 20, 20, 20, 20, 20].map((size) => size as unknown as string),
      undefined as unknown as string,
    ]);
    const failed = await list("--failed");
    expect(failed.length).toBe(8);
    expect(failed[0]).toMatch(/^\S+Z 400 \/any 11 bytes the body is not JSON: /);
    expect(await list("--failed", "--limit", "2")).toEqual(failed.slice(-2));
    // One line a route and reason, however often it comes: both of 415 are one reason each.
    for (let n = 0; n < 20; n++) await post("/any", "{");
    const lines = daemon.log.filter((line) => line.includes("delivery refused"));
    expect(lines.map((line) => Number(/status=(\d+)/.exec(line)![1]))).toEqual(
      expected.map(([status]) => status).filter((status) => status >= 400),
    );
    expect(lines[0]).toMatch(
      / warn .* delivery refused route=\/any status=400 size=11 reason="the body is not JSON: .* ip=127\.0\.0\.1/,
    );
    expect(lines.find((line) => line.includes("status=500"))).toContain(" error ");
    // Nothing but lines of the log, such as a warning of the runtime.
    expect(daemon.log.filter((line) => !/^\d\d:\d\d:\d\d \w+ +collector /.test(line))).toEqual([]);
    expect(await post("/open/topsecret", body, { "x-forwarded-for": "203.0.113.5" })).toBe(403);
    await daemon.said("reason=forwarded ip=127.0.0.1 path=open");
    const said = [...daemon.log, ...json, ...failed].join("\n");
    for (const hidden of ["4111", "hunter2", "topsecret", "wrong-one", digest]) expect(said).not.toContain(hidden);
    if (!IN_TABLES) expect(statSync(folder.at("inbox/.picket/deliveries.jsonl")).mode & 0o077).toBe(0);
  },
);

test("deliveries that the access control refuses are listed, and counted in the status line", async () => {
  using folder = new Folder();
  const file = configuration(folder).replace("c.yaml", "guarded.yaml");
  const webhook = JSON.parse(readFileSync(folder.at("c.yaml"), "utf8")) as object;
  writeFileSync(file, JSON.stringify({ ...webhook, auth: { token: SECRET } }));
  const manager = listen(folder.at("notify"));
  await using daemon = await startRole("collector", ["--config", file], {
    env: { NOTIFY_SOCKET: folder.at("notify") },
  });
  const url = await daemon.url();
  const post = async (path: string, token?: string) => {
    const headers = { authorization: token ?? "" };
    return (await fetch(url + path, { method: "POST", body: "{}", headers })).status;
  };
  expect([await post("/any"), await post("/any", "Bearer no"), await post("/nowhere")]).toEqual([401, 401, 401]);
  expect(await post("/any", `Bearer ${SECRET}`)).toBe(202);
  const lines = await until("all are listed", async () => {
    const { stdout } = await runRole("collector", ["deliveries", "--config", file]);
    return stdout.includes(" 202 ") && stdout.split("\n");
  });
  expect(lines.map((line) => line.slice(25))).toEqual([
    "401 /any a bearer token is required",
    "401 /any the token is wrong",
    expect.stringMatching(/^202 \/any 2 bytes [0-9a-f]{32}$/),
    "",
  ]);
  // After a reload systemd is told at once.
  daemon.child.kill("SIGHUP");
  await until("the status line counts them", () =>
    manager.messages().some((message) => message.includes("2 deliveries refused in 10 min")),
  );
  manager.close();
});

test.skipIf(IN_TABLES)("the last thousand are shown, from a list that stays small", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  await using daemon = await startRole("collector", ["--config", file]);
  const url = await daemon.url();
  const post = (n: number) =>
    fetch(`${url}/any`, { method: "POST", body: "{}", headers: { "idempotency-key": `${n}` } });
  const path = folder.at("inbox/.picket/deliveries.jsonl");
  await post(0);
  await until("it is written", () => statSync(path, { throwIfNoEntry: false })?.size);
  // As if many had come before: a full file is put aside by the next line.
  const line = (n: number) =>
    JSON.stringify({ ts: "2026-01-01T00:00:00.000Z", status: 400, size: n, route: "x".repeat(1000) });
  writeFileSync(path, `${Array.from({ length: 1100 }, (_, n) => line(n)).join("\n")}\n{"ts":"2026-01-01T0`);
  await post(1);
  const older = folder.at("inbox/.picket/deliveries.1.jsonl");
  await until("the full file is put aside", () => statSync(older, { throwIfNoEntry: false }));
  const { size } = await until("the next one is begun", () => statSync(path, { throwIfNoEntry: false }));
  expect(size).toBeLessThan(1000);
  const list = async (...args: string[]) =>
    (await runRole("collector", ["deliveries", "--json", "--config", file, ...args])).stdout
      .split("\n")
      .filter(Boolean);
  const shown = await until("the new one is written", async () => {
    const lines = await list();
    return lines.at(-1)?.includes('"status":202') && lines;
  });
  expect(shown.length).toBe(1000);
  expect(JSON.parse(shown[0]!)).toMatchObject({ size: 1100 - 999 });
  expect((await list("--failed", "--limit", "3")).map((one) => (JSON.parse(one) as { size: number }).size)).toEqual([
    1097, 1098, 1099,
  ]);
  expect((await runRole("collector", ["deliveries", "--limit", "0", "--config", file])).code).toBe(2);
  if (!isRoot) return;
  // Who may not read the folder is told what to do.
  for (const one of [folder.path, file]) chmodSync(one, 0o755);
  const refused = await runRole("collector", ["deliveries", "--config", file], { wrap: AS_NOBODY });
  expect([refused.code, refused.stderr]).toEqual([
    1,
    expect.stringMatching(/read ".*deliveries.*": EACCES[^]*hint: run it as root/),
  ]);
});
