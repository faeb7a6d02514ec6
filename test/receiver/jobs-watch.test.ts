// The dead-man's switch of jobs, with the clock of a real receiver set by libfaketime where that counts.

import { describe, expect, test } from "bun:test";
import { Folder, inboxLines, until } from "../kit.ts";
import { Clock, Hub, TELLS_SOON, faketime } from "./kit.ts";

const library = faketime("jobs' clock");

interface Job {
  name: string;
  status: string;
  due_at: number;
}

/** A running receiver with jobs, and how each is pinged. */
async function withJobs(jobs: Record<string, string>, options: { env?: Record<string, string> } = {}) {
  const hub = new Hub({ more: TELLS_SOON, ...options });
  const paths = new Map<string, string>();
  for (const [name, flags] of Object.entries(jobs)) {
    const { stdout, stderr } = await hub.run(
      "job",
      "add",
      name,
      ...flags.split(" ").map((word) => word.replaceAll("_", " ")),
    );
    if (!stdout.startsWith("http")) throw new Error(stderr);
    paths.set(name, new URL(stdout.trim()).pathname);
  }
  await hub.up();
  return {
    hub,
    ping: async (name: string, action = "") => (await fetch(`${hub.url}${paths.get(name)}${action}`)).text(),
  };
}

const jobs = (hub: Hub) => Object.fromEntries(hub.rows<Job>("SELECT * FROM jobs").map((job) => [job.name, job]));
const texts = (hub: Hub) => inboxLines(hub.inbox, "ops").map(({ payload = "" }) => payload);

test("a job that falls silent is late, then down, and told once; so is a run without an end; a success ends both", async () => {
  const { hub, ping } = await withJobs({
    nas: "--every 1s --grace 1s",
    db: "--every 24h --grace 1s",
    idle: "--every 1s --grace 1s",
  });
  await using _ = hub;
  await ping("nas");
  await ping("db", "/start");
  await until("the first is late", () => jobs(hub)["nas"]!.status === "late");
  const told = (what: string, ...names: string[]) =>
    until(what, () => names.every((name) => texts(hub).some((text) => text.includes(name) && text.includes(what))));
  await told("down", "nas", "db");
  const { jobs: shown } = await hub.get<{ jobs: Job[] }>("/v1/jobs");
  expect(shown.map(({ name, status }) => [name, status])).toEqual([
    ["db", "down"],
    ["idle", "new"],
    ["nas", "down"],
  ]);
  const bars = async (name: string) =>
    / aria-label="([^"]*)"[^>]* class="bars"| class="bars"[^>]* aria-label="([^"]*)"/
      .exec(await (await fetch(`${hub.url}/jobs/${name}`)).text())
      ?.slice(1)
      .join("");
  expect(await bars("db")).toBe("1 did not end");
  expect(await bars("nas")).toMatch(/^1 succeeded, [1-9]\d* missing$/);
  await ping("nas", "/log");
  await ping("nas");
  await ping("db");
  await told("succeeded again", "nas", "db");
  const alerts = hub.rows<{ text: string; recovery: string }>("SELECT text, recovery FROM alerts");
  expect(alerts.flatMap(({ text, recovery }) => [text, recovery]).toSorted()).toEqual([
    expect.stringMatching(/^db has succeeded again, after \d+s; the run took [1-9]\d*s$/),
    expect.stringMatching(
      /^db is down: it started [1-9]\d*s ago and has not ended \(grace 1s\); picket-receiver job show db$/,
    ),
    expect.stringMatching(/^nas has succeeded again, after \d+s$/),
    expect.stringMatching(/^nas is down: no ping for [2-9]s \(every 1s, grace 1s\); picket-receiver job show nas$/),
  ]);
  const urgent = inboxLines(hub.inbox, "ops").filter(({ priority }) => priority === "urgent");
  expect(urgent.every(({ payload }) => payload?.includes("down"))).toBe(true);
});

test("a pause tells what is still wrong at its end, and nothing that was over by then", async () => {
  const { hub, ping } = await withJobs({
    nas: "--every 1s --grace 1s",
    db: "--every 24h --grace 1s",
    pi: "--every 1s --grace 1s",
  });
  await using _ = hub;
  for (const job of ["nas", "db"]) {
    expect(await hub.run("job", "pause", job, "1h", "--reason", "new disk")).toMatchObject({ code: 0 });
    await ping(job);
  }
  await ping("db", "/fail");
  await ping("db");
  await ping("db", "/fail");
  expect((await hub.run("job", "list")).stdout).toContain("paused until 20");
  await ping("pi");
  await until("one that isn't paused is told", () => texts(hub).length === 1);
  expect(jobs(hub)["nas"]!.status).toBe("up");
  for (const job of ["nas", "db"]) expect(await hub.run("job", "resume", job)).toMatchObject({ code: 0 });
  await until("both are told", () => texts(hub).length === 3);
  expect(texts(hub)).toEqual([
    expect.stringMatching(/^pi is down: /),
    "db failed; picket-receiver job show db",
    expect.stringMatching(/^nas is down: no ping for /),
  ]);
});

test("a failure is told even where the next run succeeds before the look, each time and then as flapping", async () => {
  const { hub, ping } = await withJobs({ nas: "--every 24h" });
  await using _ = hub;
  const failed = "nas failed with exit status 3; picket-receiver job show nas";
  const again = expect.stringMatching(/^nas has succeeded again, after \d+s$/);
  await ping("nas", "/3");
  await ping("nas");
  await until("failure and end are told", () => texts(hub).length === 2);
  expect(texts(hub)).toEqual([failed, again]);
  await ping("nas", "/3");
  await ping("nas");
  await until("the second failure is told", () => texts(hub).length === 3);
  await ping("nas", "/3");
  await ping("nas");
  await until("it is flapping", () => texts(hub).length === 4);
  expect(texts(hub).slice(2)).toEqual([
    failed,
    expect.stringMatching(/^nas \(job.failed\) is flapping: changed 6 times/),
  ]);
});

describe.skipIf(!library)("with a clock that is set", () => {
  test("a cron expression is kept in its zone, on the night on which summer time begins", async () => {
    using folder = new Folder();
    const clock = new Clock(folder, library!);
    const at = (iso: string) => clock.offset(Math.round((Date.parse(iso) - Date.now()) / 1000));
    at("2027-03-27T03:00:00+01:00");
    const { hub, ping } = await withJobs(
      { nas: "--schedule 0_3_*_*_* --tz Europe/Berlin --grace 1s" },
      { env: clock.env },
    );
    await using _ = hub;
    await ping("nas");
    expect(jobs(hub)["nas"]!.due_at).toBe(Date.parse("2027-03-28T03:00:00+02:00"));
    await hub.daemon.kill();
    at("2027-03-28T02:59:58+02:00");
    await hub.up();
    await until("it is told", () => texts(hub).length === 1);
    expect(texts(hub)[0]).toMatch(
      /^nas is down: no ping for 2[23]h \d\dm \(at "0 3 \* \* \*" \(Europe\/Berlin\), grace 1s\)/,
    );
  });

  test.each<[what: string, offset: number, status: string, due: number]>([
    ["ends before it is expected", 1800, "up", 3600],
    ["ends within the grace", 5400, "late", 3600],
    ["is longer than both", 100_000, "up", 103_600],
  ])("an absence that %s turns no job down", async (_what, offset, status, due) => {
    using folder = new Folder();
    const clock = new Clock(folder, library!);
    const { hub, ping } = await withJobs({ nas: "--every 1h --grace 1h" }, { env: clock.env });
    await using _ = hub;
    const began = Date.now();
    await ping("nas");
    await hub.daemon.kill("SIGKILL");
    clock.offset(offset);
    await hub.up();
    await until("it was looked at", () => jobs(hub)["nas"]!.status === status);
    expect(Math.abs(jobs(hub)["nas"]!.due_at - began - due * 1000)).toBeLessThan(60_000);
    expect(hub.rows("SELECT * FROM events")).toEqual([]);
    expect(await ping("nas")).toBe("OK");
  });

  test.each([740 * 86_400, -740 * 86_400])(
    "a clock that jumps by %d s and back raises no alarm, and the switch goes on",
    async (jump) => {
      using folder = new Folder();
      const clock = new Clock(folder, library!);
      const { hub, ping } = await withJobs(
        { nas: "--every 2s --grace 2s", db: "--schedule 0_3_*_*_* --grace 1h" },
        { env: clock.env },
      );
      await using _ = hub;
      await ping("db");
      const moves = () => hub.daemon.log.filter((line) => /seconds=-?\d{3}/.test(line)).length;
      for (const [seen, offset] of [jump, 0].entries()) {
        clock.offset(offset);
        await until("it is noticed", () => moves() > seen);
        if (offset !== 0) await ping("db");
        await ping("nas");
      }
      await until("the silent one is told", () => hub.rows("SELECT * FROM events").length > 0);
      expect(texts(hub).every((text) => text.startsWith("nas is down: no ping for "))).toBe(true);
      expect(jobs(hub)["db"]!.status).toBe("up");
      expect(jobs(hub)["db"]!.due_at - Date.now()).toBeLessThan(26 * 3_600_000);
    },
  );
});
