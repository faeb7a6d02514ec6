// What the receiver's pages cost: server time and weight with many hosts, a year's plot, open pages, and a page that is open for a day.
//   PICKET_TEST_TARGET=binary bun test/bench/pages.ts        without it, of the source

import type { Page } from "playwright-core";
import { startBrowser } from "../browser.ts";
import { LOADS, manyHosts, seedHomelab, seedMany, tellOneOfMany, writeYear } from "../receiver/page/seed.ts";
import type { Hub } from "../receiver/kit.ts";
import { type Row, type Section, count, cpuSeconds, median, percentile, residentMiB } from "./kit.ts";

const REQUESTS = 40;
const WATCH_SECONDS = Number(process.env["PICKET_BENCH_WATCH_SECONDS"] ?? 30);
/** A page is sent one a second at most. */
const UPDATES = Number(process.env["PICKET_BENCH_UPDATES"] ?? 86_400);
const OPEN_PAGES = 10;
const HOSTS = Number(process.env["PICKET_BENCH_HOSTS"] ?? 200);

const kib = (bytes: number) => `${(bytes / 1024).toFixed(0)} KiB`;

interface Timed {
  ms: number[];
  /** Milliseconds that the receiver worked for each. */
  cpu: number;
  text: string;
}

async function timed(hub: Hub, path: string): Promise<Timed> {
  const ms: number[] = [];
  let text = "";
  const before = cpuSeconds(hub.daemon.child.pid);
  for (let n = 0; n < REQUESTS; n++) {
    const start = performance.now();
    text = await (await fetch(hub.url + path)).text();
    ms.push(performance.now() - start);
  }
  return { ms, cpu: ((cpuSeconds(hub.daemon.child.pid) - before) / REQUESTS) * 1000, text };
}

async function row(what: string, hub: Hub, path: string, aim: string): Promise<Row> {
  const { ms, cpu, text } = await timed(hub, path);
  const figure = `${median(ms).toFixed(1)} ms (p95 ${percentile(ms, 95).toFixed(1)} ms), ${cpu.toFixed(1)} ms of CPU`;
  const packed = Bun.gzipSync(Buffer.from(text)).length;
  return { what, figure, ratio: `${kib(text.length)} of HTML, ${kib(packed)} packed by a proxy`, aim };
}

/** The script and the style sheet that a page names. */
async function assets(hub: Hub): Promise<Row> {
  const html = await (await fetch(hub.url)).text();
  const paths = [...html.matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)].map(([, path]) => path!);
  const sizes = await Promise.all(
    paths.map(async (path) => (await (await fetch(hub.url + path)).arrayBuffer()).byteLength),
  );
  const all = sizes.reduce((sum, size) => sum + size, 0);
  return { what: "script and style sheet of all pages", figure: kib(all), aim: "150 KiB" };
}

/** Keeps so many pages open; gives what closes them. */
async function openPages(hub: Hub, pages: number): Promise<() => void> {
  const closing = new AbortController();
  for (let n = 0; n < pages; n++) {
    const { body } = await fetch(`${hub.url}/live?of=/`, { signal: closing.signal });
    void drain(body!).catch(() => {});
  }
  return () => closing.abort();
}

async function drain(body: ReadableStream<Uint8Array>): Promise<void> {
  for await (const _ of body);
}

/** Part of a core that the receiver takes meanwhile, in percent. */
async function cpuWhile(hub: Hub, work: () => Promise<unknown>): Promise<number> {
  const { pid } = hub.daemon.child;
  const [before, start] = [cpuSeconds(pid), performance.now()];
  await work();
  return ((cpuSeconds(pid) - before) / ((performance.now() - start) / 1000)) * 100;
}

/** As many reports as so many hosts send in that time, each host once a minute. */
async function reportFor(hub: Hub, hosts: number, seconds: number): Promise<void> {
  const names = manyHosts(hosts);
  const start = performance.now();
  for (let n = 0; n < (hosts * seconds) / 60; n++) {
    await tellOneOfMany(hub, names[n % hosts]!, n % hosts, 30);
    await Bun.sleep(Math.max(0, start + (n * 60_000) / hosts - performance.now()));
  }
}

async function openRows(hub: Hub, hosts: number): Promise<Row[]> {
  const idle = () => Bun.sleep(WATCH_SECONDS * 1000);
  const busy = () => reportFor(hub, hosts, WATCH_SECONDS);
  // The first seconds after the fleet was made go into rollups.
  await idle();
  const [none, noneBusy] = [await cpuWhile(hub, idle), await cpuWhile(hub, busy)];
  const close = await openPages(hub, OPEN_PAGES);
  const [open, openBusy] = [await cpuWhile(hub, idle), await cpuWhile(hub, busy)];
  close();
  const figure = (cpu: number) => `${cpu.toFixed(2)} % of a core`;
  return [
    {
      what: `${OPEN_PAGES} open first pages, nothing happens`,
      figure: figure(open),
      ratio: `${figure(none)} without them`,
      aim: "1 % more",
    },
    {
      what: `${OPEN_PAGES} open first pages, ${hosts} hosts report each minute`,
      figure: figure(openBusy),
      ratio: `${figure(noneBusy)} without them`,
    },
  ];
}

// ---------------------------------------------------------------------------------------------------------------
// A day

/** The updates of a first page while each host reports once. */
async function recorded(hub: Hub, hosts: number): Promise<{ hello: string; updates: string[] }> {
  const closing = new AbortController();
  const { body } = await fetch(`${hub.url}/live?of=/`, { signal: closing.signal });
  let text = "";
  const reading = (async () => {
    for await (const chunk of body!.pipeThrough(new TextDecoderStream())) text += chunk;
  })().catch(() => {});
  await reportFor(hub, hosts, 60);
  await Bun.sleep(3000);
  closing.abort();
  await reading;
  const events = [...text.matchAll(/event: (\w+)\ndata: (.*)/g)];
  const of = (name: string) => events.filter(([, event]) => event === name).map(([, , data]) => data!);
  return { hello: of("hello")[0]!, updates: of("update") };
}

/** Hands on what is asked of the receiver, but for the stream: that sends the recorded updates, again and again, as quickly as the page takes them. */
function replaying(hub: Hub, updates: string[]) {
  const connected = Promise.withResolvers<(text: string) => void>();
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 0,
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      if (pathname !== "/live") return fetch(hub.url + pathname + search);
      const shown = /data-version="(\w+)"/.exec(await (await fetch(hub.url)).text())![1]!;
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(Buffer.from(`event: hello\ndata: ${JSON.stringify({ version: shown })}\n\n`));
          connected.resolve((text) => controller.enqueue(Buffer.from(text)));
        },
      });
      return new Response(body, { headers: { "content-type": "text/event-stream" } });
    },
  });
  return {
    url: String(server.url),
    stop: () => server.stop(true),
    /** Sends so many, and waits until the page has applied them. */
    async push(page: Page, from: number, many: number): Promise<void> {
      const send = await connected.promise;
      for (let n = from; n < from + many; n++) {
        const update = { ...(JSON.parse(updates[n % updates.length]!) as object), version: `replay${n}` };
        send(`event: update\ndata: ${JSON.stringify(update)}\n\n`);
      }
      const applied = page.locator(`#version[data-version=replay${from + many - 1}]`);
      await applied.waitFor({ state: "attached", timeout: 600_000 });
    },
  };
}

/** What a page holds after a collection. */
async function heldBy(page: Page): Promise<{ heapMiB: number; nodes: number; listeners: number }> {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  await session.send("HeapProfiler.collectGarbage");
  const { metrics } = await session.send("Performance.getMetrics");
  const value = (name: string) => metrics.find((one) => one.name === name)!.value;
  await session.detach();
  return { heapMiB: value("JSHeapUsedSize") / 2 ** 20, nodes: value("Nodes"), listeners: value("JSEventListeners") };
}

async function dayInBrowser(hub: Hub, hosts: number): Promise<Row[]> {
  const { updates } = await recorded(hub, hosts);
  if (updates.length === 0) throw new Error("nothing was recorded");
  console.error(`recorded ${updates.length} updates`);
  const replay = replaying(hub, updates);
  await using browser = await startBrowser();
  try {
    const page = await browser.newPage();
    await page.goto(replay.url);
    const [step, warm] = [200, 2000];
    const push = async (from: number, to: number) => {
      for (let n = from; n < to; n += step) await replay.push(page, n, Math.min(step, to - n));
    };
    await push(0, warm);
    const first = await heldBy(page);
    const start = performance.now();
    await push(warm, UPDATES);
    const each = (performance.now() - start) / (UPDATES - warm);
    const last = await heldBy(page);
    const show = ({ heapMiB, nodes, listeners }: typeof first) =>
      `${heapMiB.toFixed(1)} MiB of heap, ${count(nodes)} nodes, ${count(listeners)} listeners`;
    return [
      {
        what: `a page of ${hosts} hosts after ${count(UPDATES)} updates, as many as a day has (${updates.length} recorded ones in turn)`,
        figure: show(last),
        ratio: `${show(first)} after ${count(warm)}; ${each.toFixed(1)} ms each`,
        aim: "flat",
      },
    ];
  } finally {
    await replay.stop();
  }
}

/** Renders that other pages ask for, as often as a page is rendered in an hour. */
async function hourInReceiver(hub: Hub): Promise<Row> {
  const { pid } = hub.daemon.child;
  const ask = async (times: number) => {
    for (let n = 0; n < times; n++) await (await fetch(hub.url)).arrayBuffer();
    return residentMiB(pid);
  };
  const [first, last] = [await ask(600), await ask(3000)];
  return {
    what: "memory of the receiver after 3,600 renderings of that page",
    figure: `${last.toFixed(0)} MiB`,
    ratio: `${first.toFixed(0)} MiB after 600`,
    aim: "flat",
  };
}

export async function pages(): Promise<Section> {
  const rows: Row[] = [];
  {
    await using hub = await seedMany({ hosts: HOSTS, containers: 30 });
    rows.push(await row(`first page, ${HOSTS} hosts with 30 containers each`, hub, "/", "60 ms, 300 kB"));
    rows.push(...(await openRows(hub, HOSTS)), ...(await dayInBrowser(hub, HOSTS)), await hourInReceiver(hub));
  }
  {
    await using hub = await seedMany({ hosts: 5 * HOSTS, containers: 5 });
    rows.splice(1, 0, await row(`first page, ${count(5 * HOSTS)} hosts`, hub, "/", "200 ms"));
  }
  {
    await using hub = await seedHomelab();
    writeYear(hub, "nas", LOADS.nas);
    rows.splice(2, 0, await row("a host with its plots of a year", hub, "/hosts/nas?range=year", "100 ms"));
    rows.splice(3, 0, await assets(hub));
  }
  return {
    title: "The receiver's pages",
    command: "PICKET_TEST_TARGET=binary bun test/bench/pages.ts",
    text: `Median of ${REQUESTS} requests over HTTP, one at a time, with three hours of samples a minute. CPU of the receiver's process over ${WATCH_SECONDS} s. The browser is Debian's Chromium; its heap is measured after a collection.`,
    rows,
  };
}

if (import.meta.main) console.table((await pages()).rows);
