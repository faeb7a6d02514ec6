// The pages of events and alerts: filters, paging, acknowledging. Looked at without a browser.

import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Hub, TELLS_SOON, archive } from "../kit.ts";
import { onFile } from "../store-kit.ts";
import { follow } from "./stream.ts";

/** A page's text as a reader sees it, tag by tag. */
const linesOf = (html: string): string[] =>
  html
    .replace(/<head>.*<\/head>/s, "")
    .split(/<[^>]*>/)
    .map((text) => text.trim())
    .filter(Boolean);

const idsOf = (html: string, kind: string): number[] =>
  [...html.matchAll(new RegExp(`id="${kind}-(\\d+)"`, "g"))].map(([, id]) => Number(id));

async function page(hub: Hub, path: string): Promise<string> {
  const answer = await fetch(hub.url + path);
  expect([path, answer.status]).toEqual([path, 200]);
  return answer.text();
}

/** Two hosts and a job with events and alerts: of every ten one is of pi, one of the job; each tenth alert is open. */
async function seeded(count: number): Promise<Hub> {
  const hub = new Hub();
  const now = Date.now() - 3_600_000;
  for (const name of ["nas", "pi"]) await hub.addHost(name);
  await hub.run("job", "add", "certs", "--every", "1d");
  hub.change((db) => {
    const of = (n: number) => (n % 10 === 1 ? [2, null] : n % 10 === 2 ? [null, 1] : [1, null]);
    const event = db.query(
      `INSERT INTO events (id, at, type, severity, host, job, text, told_at) VALUES (?1, ${now} + ?1, ?2, ?3, ?4, ?5, ?6, 1)`,
    );
    const alert = db.query(
      `INSERT INTO alerts (id, type, severity, host, job, subject, text, opened_at, closed_at, opened_ran, changed_ran)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ${now}, ?8, 0, 0)`,
    );
    for (let n = 1; n <= count; n++) {
      const [host, job] = of(n) as [number | null, number | null];
      const [type, severity] = job === null ? ["unit.failed", "warning"] : ["job.down", "critical"];
      event.run(n, type, severity, host, job, `about ${n}`);
      alert.run(
        n,
        type,
        severity,
        host,
        job,
        `unit-${n}`,
        `about ${n}; systemctl status`,
        n % 10 === 0 ? null : now + 61_000,
      );
    }
  });
  await hub.up();
  return hub;
}

test("events and alerts are paged and narrowed, open alerts first", async () => {
  await using hub = await seeded(250);
  const descending = (ids: number[]) => ids.toSorted((a, b) => b - a);
  const numbers = (from: number, fits: (n: number) => boolean) =>
    descending(Array.from({ length: from }, (_, n) => n + 1).filter(fits));
  const older = (html: string) => /href="([^"]*)" rel="next"/.exec(html)?.[1]!.replaceAll("&amp;", "&");

  const first = await page(hub, "/events");
  expect(idsOf(first, "event")).toEqual(numbers(250, (n) => n > 150));
  expect(older(first)).toBe("/events?before=151");
  const last = await page(hub, "/events?before=51");
  expect([idsOf(last, "event").length, older(last)]).toEqual([50, undefined]);
  const cases: [string, (n: number) => boolean][] = [
    ["host=pi", (n) => n % 10 === 1],
    ["job=certs", (n) => n % 10 === 2],
    ["kind=job.down&priority=", (n) => n % 10 === 2],
    ["priority=critical&before=100", (n) => n % 10 === 2 && n < 100],
    ["host=pi&priority=critical", () => false],
    ["host=none", () => false],
  ];
  for (const [query, fits] of cases) {
    const html = await page(hub, `/events?${query}`);
    expect([query, idsOf(html, "event")]).toEqual([query, numbers(250, fits)]);
    expect([query, html.includes("There are no such events")]).toEqual([query, !numbers(250, fits).length]);
    const before = Number(/before=(\d+)/.exec(query)?.[1] ?? Infinity);
    expect([query, idsOf(await page(hub, `/alerts?${query}`), "over")]).toEqual([
      query,
      numbers(250, (n) => fits(n) && n % 10 !== 0 && n < before),
    ]);
  }
  const until = async (day: string) => idsOf(await page(hub, `/events?until=${day}`), "event").length;
  expect([await until("2020-01-01"), await until("2999-01-01"), await until("yesterday")]).toEqual([0, 100, 100]);
  const narrowed = await page(hub, "/events?host=nas&kind=&priority=warning");
  expect(older(narrowed)).toStartWith("/events?host=nas&priority=warning&before=");
  expect(narrowed).toContain('<option value="nas" selected="">');

  const alerts = await page(hub, "/alerts");
  expect(idsOf(alerts, "open")).toEqual(numbers(250, (n) => n % 10 === 0));
  expect(idsOf(alerts, "over").slice(0, 2)).toEqual([249, 248]);
  expect(linesOf(alerts)).toContain("25 open alerts");
  expect(idsOf(await page(hub, older(alerts)!), "open")).toEqual([]);
});

test("an open alert is acknowledged by a form, which comes back to the same list", async () => {
  await using hub = await seeded(20);
  const html = await page(hub, "/alerts?host=nas");
  const action = /action="(\/alerts\/20\/acknowledge[^"]*)"/.exec(html)![1]!;
  const post = (path: string) =>
    fetch(hub.url + path, {
      method: "POST",
      redirect: "manual",
      headers: { origin: hub.url, "content-type": "application/x-www-form-urlencoded" },
    });
  const done = await post(action);
  expect([done.status, done.headers.get("location")]).toEqual([303, "/alerts?host=nas"]);
  const after = await page(hub, "/alerts?host=nas");
  expect(linesOf(after)).toContain("1 open alert, 1 acknowledged");
  expect(after).not.toContain("/alerts/20/acknowledge");
  // One that is over, or never was.
  for (const id of ["19", "999", "x"]) expect((await post(`/alerts/${id}/acknowledge`)).status).toBe(404);
});

test("texts from outside are text, and long ones can be opened", async () => {
  await using hub = await seeded(1);
  await hub.daemon[Symbol.asyncDispose]();
  const text = `pi: <script>alert(1)</script> \u202eevil "${"A".repeat(10_000)}"; systemctl status '<b>'`;
  hub.change((db) => {
    db.query("UPDATE events SET text = ?").run(text);
    db.query("UPDATE alerts SET text = ?, closed_at = NULL").run(text);
  });
  await hub.up();
  for (const path of ["/events", "/alerts"]) {
    const html = await page(hub, path);
    expect(html).toContain("&lt;script&gt;alert(1)&lt;/script&gt; \\u202eevil");
    expect(html).toContain("<code>systemctl status &#39;&lt;b&gt;&#39;</code>");
    expect(html).toContain('<a href="/hosts/pi">pi</a>');
    expect(/<summary><span[^>]*>&lt;script[^<]{300,500}<\/span>/.test(html)).toBe(true);
  }
});

test("episodes are paged by time, of all hosts or one, from a day on, and can be downloaded", async () => {
  const hub = new Hub();
  await using _ = hub;
  for (const name of ["nas", "pi"]) await hub.addHost(name);
  const start = Date.parse("2026-03-01T00:00:00Z");
  const lines = Array.from({ length: 230 }, (_, n) => ({
    // Three at a time.
    received_at: new Date(start + Math.floor(n / 3) * 3_600_000).toISOString(),
    host: n % 10 === 0 ? "pi" : "nas",
    episode: `ep-${String(n).padStart(3, "0")}`,
    sha256: "0".repeat(64),
    size: 1024 * (n + 1),
    schema: 1,
    ...(n % 2 ? { commit: "a1b2c3d4".repeat(5) } : {}),
  }));
  if (onFile) writeFileSync(join(hub.data, "index.jsonl"), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  else
    hub.change((db) => {
      const add = db.query(
        "INSERT INTO episodes (host, episode, received_at, sha256, size, object, line) VALUES (?, ?, ?, ?, ?, '', ?)",
      );
      for (const line of lines)
        add.run(line.host, line.episode, line.received_at, line.sha256, line.size, JSON.stringify(line));
    });
  await hub.up();
  /** The names on a page and those after it. */
  async function all(path: string | undefined): Promise<string[][]> {
    if (path === undefined) return [];
    const html = await page(hub, path);
    const names = [...html.matchAll(/<b>(ep-\d+)<\/b>/g)].map(([, name]) => name!);
    return [names, ...(await all(/href="([^"]*)" rel="next"/.exec(html)?.[1]!.replaceAll("&amp;", "&")))];
  }
  const key = ({ received_at, host, episode }: (typeof lines)[0]) => `${received_at} ${host} ${episode}`;
  const newest = lines.toSorted((a, b) => (key(a) < key(b) ? 1 : -1));
  const pages = await all("/episodes");
  expect(pages.map((names) => names.length)).toEqual([100, 100, 30]);
  expect(pages.flat()).toEqual(newest.map(({ episode }) => episode));
  expect((await all("/episodes?host=pi")).flat()).toEqual(
    newest.filter(({ host }) => host === "pi").map(({ episode }) => episode),
  );
  expect((await all("/episodes?until=2026-03-02&host=")).flat()).toEqual(
    newest.filter(({ received_at }) => received_at < "2026-03-03").map(({ episode }) => episode),
  );
  expect((await all("/episodes?before=x")).flat().length).toBe(230);
  expect((await all("/episodes?host=none")).flat()).toEqual([]);

  await hub.ship("ep-new", await archive("x"), { host: "pi" });
  const html = await page(hub, "/episodes");
  expect(linesOf(html)).toContain("231 episodes");
  const [path] = /\/v1\/episodes\/pi\/ep-new.tar.zst/.exec(html)!;
  expect((await fetch(hub.url + path)).status).toBe(200);
});

test("an open page of alerts follows: one that begins is on top, one that ends goes below", async () => {
  const hub = new Hub({ more: TELLS_SOON });
  await using _ = hub;
  const { stdout } = await hub.run("job", "add", "certs", "--every", "1d");
  await hub.up();
  const ping = (action: string) => fetch(hub.url + new URL(stdout.trim()).pathname + action);
  const streams = ["/alerts", "/events", "/jobs/certs"].map((path) => follow(hub.url, path));
  for (const stream of streams) expect((await stream.next()).value!.event).toBe("hello");
  const [alerts, events, job] = streams as [(typeof streams)[0], (typeof streams)[0], (typeof streams)[0]];
  /** The first update that has a region which fits. */
  async function update(stream: (typeof streams)[0], region: RegExp) {
    for await (const { data } of { [Symbol.asyncIterator]: () => ({ next: () => stream.next() }) }) {
      if (Object.keys(data.regions ?? {}).some((id) => region.test(id))) return data;
    }
    throw new Error(`no ${region}`);
  }
  await ping("/fail");
  const opened = await update(alerts, /^open-\d+$/);
  expect(opened).toMatchObject({ title: "1 open alert", lists: { open: [expect.stringMatching(/^open-/)] } });
  expect(Object.keys((await update(job, /^ping-\d+$/)).regions)).toContain("state");
  await ping("");
  const closed = await update(alerts, /^over-\d+$/);
  expect(closed).toMatchObject({
    title: "No open alerts",
    lists: { open: [], over: [expect.stringMatching(/^over-/)] },
  });
  expect((await update(events, /^event-\d+$/)).lists["events"]!.at(-1)).toMatch(/^event-/);
  for (const stream of streams) await stream.return();
});
