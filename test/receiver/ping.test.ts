// The door of jobs' pings, and Healthchecks' clients at it: borgmatic, curl, wget and Python.
// Not tested here: runitor, whose module isn't in Debian.

import { describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { readPingPath } from "../../lib/receiver/ping.ts";
import { Folder, have, until } from "../kit.ts";
import { Hub } from "./kit.ts";
import { moveAway, onFile } from "./store-kit.ts";

interface Shown {
  url: string;
  status: string;
  pings: number;
  last_duration_seconds: number | null;
  last_pings: { kind: string; exit_status: number | null; body: string | null; rid: string | null; agent: string }[];
}

const show = async (hub: Hub, job: string): Promise<Shown> =>
  JSON.parse((await hub.run("job", "show", job, "--json")).stdout) as Shown;

/** Whether /metrics has a line; the request for it is in flight, too. */
const metric = async (hub: Hub, line: string) =>
  (await (await fetch(`${hub.url}/metrics`)).text()).includes(`${line}\n`);

/** A running receiver with the job "backup"; its URL as that one is reached. */
async function withJob(more = ""): Promise<{ hub: Hub; url: string; key: string }> {
  const hub = new Hub({ more });
  const added = await hub.run("job", "add", "backup", "--every", "24h", "--grace", "2h");
  const key = await hub.run("job", "key");
  await hub.up();
  const here = (text: string) => hub.url + new URL(text.trim()).pathname;
  return { hub, url: here(added.stdout), key: here(key.stdout) };
}

test("paths are read as Healthchecks reads them", () => {
  const uuid = "0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9";
  const ping = (kind: string, exit_status: number | null = null) => ({ kind, exit_status });
  const cases: [string, object | null][] = [
    [uuid, { job: { uuid }, ...ping("success") }],
    [`${uuid}/`, { job: { uuid }, ...ping("success") }],
    [`${uuid.toUpperCase()}/start`, { job: { uuid }, ...ping("start") }],
    [`${uuid}/0`, { job: { uuid }, ...ping("success", 0) }],
    [`${uuid}/137`, { job: { uuid }, ...ping("fail", 137) }],
    [`${uuid}/nas`, { job: { key: uuid, name: "nas" }, ...ping("success") }],
    ["key/nas", { job: { key: "key", name: "nas" }, ...ping("success") }],
    ["key/start", { job: { key: "key", name: "start" }, ...ping("success") }],
    ["key/nas/fail", { job: { key: "key", name: "nas" }, ...ping("fail") }],
    ["key/nas/log", { job: { key: "key", name: "nas" }, ...ping("log") }],
    ["key/nas/", null],
    ["key/nas/stop", null],
    ["key/nas/-1", null],
    ["key/nas/fail/x", null],
    [`${uuid}/fail/x/y`, null],
    ["key/.nas", null],
    ["key", null],
  ];
  for (const [path, expected] of cases)
    expect([path, readPingPath(`/ping/${path}`)]).toEqual([path, expected as never]);
});

test("each signal does what Healthchecks documents", async () => {
  const { hub, url, key } = await withJob();
  await using _ = hub;
  const rid = (n: number) => `?rid=00000000-0000-4000-8000-00000000000${n}`;
  const steps: [method: string, path: string, status: number, text: string, state: string][] = [
    ["GET", `${url}/start`, 200, "OK", "started"],
    ["GET", url, 200, "OK", "up"],
    ["HEAD", url, 200, "", "up"],
    ["POST", `${url}/log`, 200, "OK", "up"],
    ["POST", `${url}/fail`, 200, "OK", "down"],
    ["POST", `${url}/log`, 200, "OK", "down"],
    ["POST", `${url}/0`, 200, "OK", "up"],
    ["GET", `${url}/3`, 200, "OK", "down"],
    ["GET", `${key}/backup`, 200, "OK", "up"],
    // Of runs that overlap the last one counts.
    ["GET", `${url}/start${rid(1)}`, 200, "OK", "started"],
    ["GET", `${url}/start${rid(2)}`, 200, "OK", "started"],
    ["GET", `${url}${rid(1)}`, 200, "OK", "started"],
    ["GET", `${url}${rid(2)}`, 200, "OK", "up"],
    ["GET", `${url}/256`, 400, "invalid url format", "up"],
    ["GET", `${url}?rid=1`, 400, "invalid uuid format", "up"],
    ["GET", `${url.slice(0, -1)}x`, 404, "not found", "up"],
    ["GET", `${key}/restore`, 404, "not found", "up"],
    ["GET", `${key}x/restore?create=1`, 404, "not found", "up"],
    ["GET", `${hub.url}/ping/`, 404, "not found", "up"],
  ];
  for (const [method, path, status, text, state] of steps) {
    const answer = await fetch(path, { method });
    const now = (await hub.get<{ jobs: Shown[] }>("/v1/jobs")).jobs[0]!;
    expect([method, path, answer.status, await answer.text(), now.status]).toEqual([method, path, status, text, state]);
    expect(answer.headers.get("ping-body-limit")).toBe("100000");
  }
  const put = await fetch(url, { method: "PUT" });
  expect([put.status, put.headers.get("allow")]).toEqual([405, "GET, POST"]);
  expect((await show(hub, "backup")).pings).toBe(13);
  const alerts = hub.rows<{ text: string; recovery: string }>("SELECT text, recovery FROM alerts ORDER BY id");
  expect(alerts.flatMap(({ text, recovery }) => [text, recovery])).toEqual([
    "backup failed; picket-receiver job show backup",
    expect.stringMatching(/^backup has succeeded again, after \d+s$/),
    "backup failed with exit status 3; picket-receiver job show backup",
    expect.stringMatching(/^backup has succeeded again, after \d+s$/),
  ]);
  // The path is the credential.
  const log = hub.daemon.log.join("\n");
  expect(log).toContain("reason=unknown_job");
  for (const secret of [url, key]) expect(log).not.toContain(secret.split("/").at(-1)!);
});

test("create=1 makes a job once, also when many pings come at once; one failure is told once", async () => {
  const { hub, key } = await withJob();
  await using _ = hub;
  const answers = await Promise.all(Array.from({ length: 20 }, () => fetch(`${key}/restore/fail?create=1`)));
  const texts = await Promise.all(answers.map(async (answer) => `${answer.status} ${await answer.text()}`));
  expect(texts.toSorted()).toEqual([...Array.from({ length: 19 }, () => "200 OK"), "201 Created"]);
  expect((await show(hub, "restore")).pings).toBe(20);
  expect(hub.rows("SELECT name FROM jobs")).toHaveLength(2);
  expect(hub.rows("SELECT type FROM alerts")).toEqual([{ type: "job.failed" }]);
});

describe("bodies", () => {
  test("the first 100,000 bytes of the last ten are kept, and shown without what steers a terminal", async () => {
    const { hub, url } = await withJob("rate_limit_per_minute: 1000");
    await using _ = hub;
    for (let n = 0; n < 12; n++) await fetch(url, { method: "POST", body: `run ${n}` });
    for (let n = 0; n < 100; n++) await fetch(`${url}/start`);
    expect((await show(hub, "backup")).last_pings).toHaveLength(100);
    for (const body of ["\u001b[2Jred\u0000\n2026 success", "x".repeat(10_000_000), new Uint8Array([0xff, 0x41])]) {
      expect((await fetch(url, { method: "POST", body })).status).toBe(200);
    }
    const bodies = (await show(hub, "backup")).last_pings.flatMap(({ body }) => body ?? []);
    // PostgreSQL keeps no U+0000.
    const [nul, shown] = onFile ? ["\0", "\\u0000"] : ["\ufffd", "\ufffd"];
    const kept = ["\ufffdA", "x".repeat(100_000), `\u001b[2Jred${nul}\n2026 success`];
    expect(bodies).toEqual(kept);
    const { stdout } = await hub.run("job", "show", "backup");
    expect(stdout).toContain(`\n  | \\u001b[2Jred${shown}\n  | 2026 success\n`);
    expect(stdout).not.toContain("\u001b");
    for (let n = 0; n < 9; n++) await fetch(url, { method: "POST", body: `run ${n}` });
    const later = (await show(hub, "backup")).last_pings.flatMap(({ body }) => body ?? []);
    expect(later).toEqual([...Array.from({ length: 9 }, (_, n) => `run ${8 - n}`), "\ufffdA"]);
  });

  test("a ping whose body breaks off is none", async () => {
    const { hub, url } = await withJob();
    await using _ = hub;
    const { hostname, port, pathname } = new URL(url);
    const socket = await Bun.connect({ hostname, port: Number(port), socket: { data() {} } });
    socket.write(`POST ${pathname} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf`);
    socket.flush();
    await until("it is under way", () => metric(hub, "picket_http_requests_in_flight 2"));
    socket.end();
    await until("it is over", () => metric(hub, "picket_http_requests_in_flight 1"));
    expect((await fetch(`${url}/log`)).status).toBe(200);
    expect((await show(hub, "backup")).last_pings.map(({ kind }) => kind)).toEqual(["log"]);
  });
});

test("neither guessed ids nor one job's pings get past their allowance; a ping that can't be stored is no 200", async () => {
  const { hub, url, key } = await withJob("rate_limit_per_minute: 3");
  await using _ = hub;
  const statuses = async (count: number, path: string) => {
    const all: number[] = [];
    for (let n = 0; n < count; n++) all.push((await fetch(path)).status);
    return all;
  };
  expect(await statuses(4, url)).toEqual([200, 200, 200, 429]);
  moveAway(hub.data, true);
  expect(await statuses(1, `${key}/other?create=1`)).toEqual([503]);
  moveAway(hub.data, false);
  const guess = `${hub.url}/ping/00000000-0000-4000-8000-000000000000`;
  expect(new Set(await statuses(60, guess))).toEqual(new Set([404]));
  const refused = await fetch(guess);
  expect([refused.status, Number(refused.headers.get("retry-after")) > 0]).toEqual([429, true]);
});

test("a ping needs no bearer token, and comes from allowed addresses only", async () => {
  const { hub, url } = await withJob("auth: { token: operator }\ntrusted_proxies: [127.0.0.1]");
  await using _ = hub;
  expect((await fetch(url)).status).toBe(200);
  expect((await fetch(`${hub.url}/v1/jobs`)).status).toBe(401);
  hub.configure("auth: { token: operator, allowed_ips: [10.0.0.0/8] }\ntrusted_proxies: [127.0.0.1]");
  hub.daemon.child.kill("SIGHUP");
  await hub.daemon.said("reloaded");
  const from = async (address: string) => (await fetch(url, { headers: { "x-forwarded-for": address } })).status;
  expect([await from("10.0.0.5"), await from("192.0.2.1")]).toEqual([200, 403]);
});

// ---------------------------------------------------------------------------------------------------------------
// Clients

test.skipIf(!have("borgmatic", "borgmatic's pings"))("borgmatic's hook", async () => {
  const { hub, url } = await withJob();
  await using _ = hub;
  using folder = new Folder();
  mkdirSync(folder.at("data"));
  folder.write("data/file", "x");
  const repository = folder.at("repository");
  const borg = (location: string) =>
    Bun.spawnSync(["borgmatic", "create", "--config", location, "--no-color", "--syslog-verbosity", "-1"], {
      env: { ...process.env, HOME: folder.path, BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: "yes" },
    });
  const configuration = (repo: string) =>
    folder.write(
      "borgmatic.yaml",
      `location:\n  source_directories: [${folder.at("data")}]\n  repositories: [${repo}]\nhooks:\n  healthchecks:\n    ping_url: ${url}\n`,
    );
  Bun.spawnSync(["borg", "init", "-e", "none", repository], { env: { ...process.env, HOME: folder.path } });
  expect(borg(configuration(repository)).exitCode).toBe(0);
  const done = await show(hub, "backup");
  expect(done.last_pings.map(({ kind }) => kind)).toEqual(["success", "start"]);
  expect(done.last_duration_seconds).toBeGreaterThanOrEqual(0);
  expect(borg(configuration(folder.at("missing"))).exitCode).not.toBe(0);
  const failed = await show(hub, "backup");
  expect(failed).toMatchObject({ status: "down", last_pings: [{ kind: "fail" }, { kind: "start" }, {}, {}] });
  expect(failed.last_pings[0]!.body).toContain("missing");
});

test("the documented calls of curl, wget and Python", async () => {
  const { hub, url } = await withJob();
  await using _ = hub;
  const python = `import urllib.request as r; r.urlopen(r.Request("${url}/fail", data=b"x" * 60_000_000), timeout=20).read()`;
  const calls = [
    ["curl", "-fsS", "-m", "10", "--retry", "5", "-o", "/dev/null", `${url}/start`],
    ["curl", "-fsS", "-m", "10", "--retry", "5", "--data-raw", "three files", `${url}/0`],
    ["wget", "-q", "-O", "/dev/null", "-T", "10", url],
    ["wget", "-q", "-O", "/dev/null", "--spider", url],
    ["python3", "-c", python],
  ].filter(([program]) => have(program!, "its pings"));
  for (const call of calls) expect([call[0], Bun.spawnSync(call).exitCode]).toEqual([call[0], 0]);
  const { last_pings } = await show(hub, "backup");
  expect(last_pings).toHaveLength(calls.length);
  for (const { kind, agent } of last_pings) expect(kind === "fail").toBe(agent.startsWith("Python"));
});
