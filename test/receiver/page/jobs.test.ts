// The pages of jobs: their order, their runs as bars, what they sent. Looked at without a browser.

import { expect, test } from "bun:test";
import { until } from "../../kit.ts";
import { Hub, TELLS_SOON } from "../kit.ts";

const DAY = 86_400_000;
const HOUR = 3_600_000;

async function page(hub: Hub, path: string): Promise<string> {
  const answer = await fetch(hub.url + path);
  expect([path, answer.status]).toEqual([path, 200]);
  return answer.text();
}

/** The classes of a page's bars, and what they say together. */
const barsOf = (html: string) => ({
  bars: [...html.matchAll(/<path class="([a-z]+)" d/g)].map(([, how]) => how).join(" "),
  text: /<svg[^>]*aria-label="([^"]*)"/.exec(html)?.[1],
});

test("runs that are missing, did not end or still run are bars between those that ended", async () => {
  const hub = new Hub();
  await using _ = hub;
  const cases: {
    name: string;
    schedule: string[];
    /** Days ago. */
    ends: number[];
    /** From and to; null where the silence lasts. */
    silences: [number, number | null][];
    endless?: number;
    bars: string;
    text: string;
  }[] = [
    {
      name: "daily",
      schedule: ["--every", "1d", "--grace", "1h"],
      ends: [9, 8, 4, 3],
      // Expected 7, 6 and 5 days ago, an hour each too late.
      silences: [[7 - 1 / 24, 4]],
      bars: "success success missing missing missing success success",
      text: "4 succeeded, 3 missing",
    },
    {
      name: "lasting",
      schedule: ["--schedule", "0 */6 * * *", "--tz", "UTC", "--grace", "1h"],
      ends: [2],
      silences: [[0.5, null]],
      bars: "success missing missing",
      text: "1 succeeded, 2 missing",
    },
    {
      name: "endless",
      schedule: ["--every", "1d", "--grace", "1h"],
      ends: [3],
      silences: [],
      endless: 1,
      bars: "success endless",
      text: "1 succeeded, 1 did not end",
    },
    {
      name: "often",
      schedule: ["--every", "1m", "--grace", "1m"],
      ends: [5],
      silences: [[4, 1]],
      bars: "missing ".repeat(60).trim(),
      text: "60 missing",
    },
    { name: "new", schedule: ["--every", "1d"], ends: [], silences: [], bars: "", text: "" },
  ];
  for (const { name, schedule } of cases) await hub.run("job", "add", name, ...schedule);
  const now = Date.now();
  hub.change((db) => {
    const down = db.query(
      `INSERT INTO alerts (job, type, severity, text, figures, opened_at, closed_at, opened_ran, closed_ran, changed_ran)
       SELECT id, 'job.down', 'critical', name || ' is down', ?2, ?3, ?4, 0, 0, 0 FROM jobs WHERE name = ?1`,
    );
    for (const { name, ends, silences, endless } of cases) {
      for (const days of ends)
        db.query(
          "INSERT INTO job_pings (job, at, kind, ip) SELECT id, ?2, 'success', '127.0.0.1' FROM jobs WHERE name = ?1",
        ).run(name, now - days * DAY);
      for (const [from, to] of silences) down.run(name, null, now - from * DAY, to === null ? null : now - to * DAY);
      if (endless !== undefined) down.run(name, '{"started_at":"x"}', now - endless * DAY, now - endless * DAY + HOUR);
    }
  });
  await hub.up();
  for (const { name, bars, text } of cases) {
    const found = barsOf(await page(hub, `/jobs/${name}`));
    // Six-hourly runs come at the hours of the clock: within twelve hours one more or less.
    if (name === "lasting") expect(found.bars).toMatch(/^success missing missing( missing)?$/);
    else expect([name, found]).toEqual([name, text === "" ? { bars: "", text: undefined } : { bars, text }]);
  }
  const list = await page(hub, "/jobs");
  for (const text of ["4 succeeded, 3 missing", "1 succeeded, 1 did not end", "20 missing"]) {
    expect(list).toContain(`aria-label="${text}"`);
  }
});

test("a job's page shows its state, its downtimes, and what each run sent", async () => {
  const hub = new Hub({ more: TELLS_SOON });
  await using _ = hub;
  const url = async (name: string) =>
    new URL((await hub.run("job", "add", name, "--every", "1d")).stdout.trim()).pathname;
  const [nas, certs] = [await url("nas"), await url("certs")];
  await hub.up();
  const ping = async (path: string, body?: string) =>
    expect((await fetch(hub.url + path, { method: "POST", ...(body && { body }) })).status).toBe(200);
  await ping(certs);
  await ping(`${nas}/start`);
  expect(barsOf(await page(hub, "/jobs/nas"))).toEqual({ bars: "started", text: "1 running" });
  await ping(`${nas}/0`, "12 files\n<script>alert(1)</script> \u202e\n");
  await ping(`${nas}/3`, "x".repeat(50_000));
  const html = await page(hub, "/jobs/nas");
  expect(barsOf(html)).toEqual({ bars: "success fail", text: "1 succeeded, 1 failed" });
  expect(html).toContain("&lt;script&gt;alert(1)&lt;/script&gt; \\u202e");
  expect(html).toMatch(/nas<\/a>[^]* failed with exit status 3/);
  expect(html).toContain("once, ");
  await until("its event", async () => /id="event-\d+"/.test(await page(hub, "/jobs/nas")));
  // The path is the credential of its pings.
  expect(html).not.toContain(nas.split("/").at(-1)!);
  const [numbers] = [[...html.matchAll(/#(\d+)</g)].map(([, number]) => number)];
  expect(numbers).toEqual(["3", "2", "1"]);
  expect(html).not.toContain("x".repeat(1000));
  const body = /href="(\/jobs\/nas\?body=\d+)"/.exec(html)![1]!;
  expect(await page(hub, body)).toContain("x".repeat(50_000));
  const list = await page(hub, "/jobs");
  expect(list).toContain("1 down of 2 jobs");
  expect([...list.matchAll(/href="\/jobs\/([a-z]+)"/g)].map(([, name]) => name)).toEqual(["nas", "certs"]);
  // The form on a job's page comes back to it, and to no other site.
  const action = /action="(\/alerts\/\d+\/acknowledge)\?back=%2Fjobs%2Fnas"/.exec(html)![1]!;
  const post = async (query: string) => {
    const init = {
      method: "POST",
      body: new URLSearchParams(),
      redirect: "manual",
      headers: { origin: hub.url },
    } as const;
    return (await fetch(`${hub.url}${action}?${query}`, init)).headers.get("location");
  };
  expect(await post("back=/jobs/nas")).toBe("/jobs/nas");
  for (const back of ["//example.org", "https://example.org/", "/\\example.org"])
    expect(await post(`back=${encodeURIComponent(back)}`)).toBe("/alerts");
  expect((await fetch(`${hub.url}/jobs/none`)).status).toBe(404);
});
