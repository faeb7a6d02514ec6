// The commands of jobs, and what becomes of jobs in a backup.

import { expect, test } from "bun:test";
import { Hub } from "./kit.ts";
import { testOnFile } from "./store-kit.ts";

const URL_LINE = /^https:\/\/hub\.example\/ping\/[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}\n$/;

test("a job is added, shown, changed, renamed and deleted; its URL stays until then", async () => {
  await using hub = new Hub();
  const added = await hub.run("job", "add", "nas", "--every", "24h", "--grace", "2h", "--url", "https://hub.example/");
  expect([added.code, URL_LINE.test(added.stdout)]).toEqual([0, true]);
  // The URL is remembered.
  const cron = await hub.run("job", "add", "db", "--schedule", "0 3 * * MON-FRI", "--tz", "Europe/Berlin");
  expect(cron.stdout).toMatch(URL_LINE);
  await hub.up();
  const url = hub.url + new URL(added.stdout.trim()).pathname;
  expect((await fetch(url)).status).toBe(200);
  const { stdout: list } = await hub.run("job", "list");
  expect(list).toMatch(/^db +new +never +- +- +at "0 3 \* \* MON-FRI" \(Europe\/Berlin\), grace 1h$/m);
  expect(list).toMatch(/^nas +up +20\S+Z +- +20\S+Z +every 1d, grace 2h$/m);
  const listed = JSON.parse((await hub.run("job", "list", "--json")).stdout) as Record<string, unknown>[];
  expect(listed).toEqual((await hub.get<{ jobs: Record<string, unknown>[] }>("/v1/jobs")).jobs);
  expect(listed[1]).toMatchObject({ name: "nas", status: "up", every_seconds: 86_400, grace_seconds: 7200, pings: 1 });
  // The URL is a credential: only a command shows it.
  expect(JSON.stringify([listed, await hub.get("/v1/jobs/nas")])).not.toContain(url.slice(-12));
  expect((await fetch(`${url}/0`)).status).toBe(200);
  const { stdout: oneJob } = await hub.run("job", "show", "nas");
  expect(oneJob).toContain(added.stdout.trim());
  expect(oneJob).toMatch(/Z  success {18}from .*\n\S+Z  success \(exit status 0\)  from /);
  expect((await fetch(`${hub.url}/v1/jobs/nasty`)).status).toBe(404);

  const set = await hub.run("job", "set", "nas", "--every", "1h", "--grace", "5m", "--name", "attic");
  expect(set).toMatchObject({ code: 0, stdout: "attic: expected every 1h, grace 5m\n" });
  const shown = await hub.get<{ last_ping_at: string; expected_at: string }>("/v1/jobs/attic");
  expect(Date.parse(shown.expected_at) - Date.parse(shown.last_ping_at)).toBe(3_600_000);
  expect((await fetch(`${url}/fail`)).status).toBe(200);
  await hub.get("/health");
  const metrics = await (await fetch(`${hub.url}/metrics`)).text();
  expect(metrics).toContain('picket_job_up{job="attic"} 0\npicket_job_up{job="db"} 1\n');
  expect((await hub.get<{ alerts: object[] }>("/v1/alerts")).alerts).toMatchObject([{ job: "attic", host: null }]);
  expect(await hub.run("job", "rm", "attic")).toMatchObject({ code: 0 });
  expect((await fetch(url)).status).toBe(404);
  expect(
    hub.rows(
      "SELECT (SELECT COUNT(*) FROM job_pings) + (SELECT COUNT(*) FROM events) + (SELECT COUNT(*) FROM alerts) AS n",
    ),
  ).toEqual([{ n: 0 }]);
});

test("what can't be a job is refused, with what would be one", async () => {
  await using hub = new Hub();
  await hub.run("job", "add", "nas", "--every", "24h");
  const cases: [args: string[], said: RegExp][] = [
    [["add", "x"], /say when the job is expected\n.*--every 24h/],
    [["add", "nas", "--every", "1h"], /job "nas" exists already\n.*job show nas/],
    [["add", "a/b", "--every", "1h"], /job "a\/b" is not a valid name/],
    [["add", "x", "--every", "yearly"], /--every "yearly" is not a duration from 1s to 366d\n.*24h/],
    [["add", "x", "--every", "0s"], /not a duration from 1s/],
    [["add", "x", "--every", "1h", "--grace", "400d"], /--grace "400d" is not a duration/],
    [["add", "x", "--every", "1h", "--schedule", "0 3 * * *"], /give --every or --schedule, not both/],
    [["add", "x", "--every", "1h", "--tz", "UTC"], /--tz is for --schedule/],
    [["add", "x", "--every", "1h", "--url", "hub"], /--url "hub" is no http or https URL/],
    [
      ["add", "x", "--schedule", "0 3 * *"],
      /--schedule "0 3 \* \*" is not a cron expression of five fields\n.*weekday/,
    ],
    [["add", "x", "--schedule", "0 25 * * *"], /is not a cron expression: .*hour: 25/],
    [["add", "x", "--schedule", "0 3 31 2 *"], /never comes/],
    [
      ["add", "x", "--schedule", "0 3 * * *", "--tz", "Europe/Berlinn"],
      /--tz "Europe\/Berlinn" is not a time zone\n.*Europe\/Berlin/,
    ],
    [["set", "nas"], /nothing to set/],
    [["set", "pi", "--grace", "1h"], /there is no job "pi"\n.*job list/],
    [["pause", "nas", "soon"], /"soon" is not a duration/],
    [["rm", "pi"], /there is no job "pi"/],
  ];
  const outcomes = await Promise.all(cases.map(([args]) => hub.run("job", ...args)));
  for (const [n, [args, said]] of cases.entries()) {
    expect([args, outcomes[n]!.code, outcomes[n]!.stderr]).toEqual([args, 2, expect.stringMatching(said)]);
  }
  expect(hub.rows("SELECT name FROM jobs")).toEqual([{ name: "nas" }]);
});

testOnFile("a backup holds the jobs: restored, their URLs work, and none is down for what it missed", async () => {
  await using hub = new Hub();
  const { stdout } = await hub.run("job", "add", "nas", "--every", "1s", "--grace", "1s");
  const key = await hub.run("job", "key");
  expect((await hub.run("job", "key")).stdout).toBe(key.stdout);
  await hub.up();
  const at = (text: string) => hub.url + new URL(text.trim()).pathname;
  expect((await fetch(at(stdout))).status).toBe(200);
  const file = hub.folder.at("backup.db");
  expect(await hub.run("backup", file)).toMatchObject({ code: 0 });
  await hub.run("job", "rm", "nas");
  expect((await fetch(at(stdout))).status).toBe(404);
  const anew = await hub.run("job", "key", "--new");
  await hub.daemon.kill();
  expect(await hub.run("restore", file)).toMatchObject({ code: 0 });
  await hub.up();
  expect(
    await Promise.all(
      [stdout, `${key.stdout.trim()}/nas`, `${anew.stdout.trim()}/nas`].map(
        async (url) => (await fetch(at(url))).status,
      ),
    ),
  ).toEqual([200, 200, 404]);
  expect(hub.rows("SELECT type FROM events")).toEqual([]);
});
