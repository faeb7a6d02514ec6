// What alerts and jobs promise when things break: whatever was acknowledged as wrong, or as well again, is told; nothing twice.
// A kill, a power cut, a full disk, a clock that jumps. A restored backup tells again what it has forgotten.
// PICKET_FAULT_SECONDS sets how long it is killed again and again (5; `bun run test:long` 60).

import { describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, freePort, inboxLines, until } from "../kit.ts";
import { Clock, Hub, faketime, report } from "../receiver/kit.ts";
import { Disk, canCut, isRoot, smallDisk } from "./disk.ts";

const SECONDS = Number(process.env["PICKET_FAULT_SECONDS"] ?? 5);
const HOSTS = ["nas", "pi", "web-1"];
const MORE = "poll_interval_seconds: 1\nrate_limit_per_minute: 100000";

/** The names of units and jobs, as their beginning or end was acknowledged. */
interface Acknowledged {
  begun: string[];
  ended: string[];
  /** Answers that the disk is full. */
  full: number;
}

async function start(options: ConstructorParameters<typeof Hub>[0] = {}): Promise<Hub> {
  const hub = new Hub({ port: freePort(), more: MORE, target: "binary", ...options });
  for (const host of HOSTS) await hub.addHost(host);
  await hub.up();
  return hub;
}

/** How often the inbox tells that it began, and that it ended. */
function told(inbox: string, name: string): [number, number] {
  const about = inboxLines(inbox, "ops").filter(({ payload }) => new RegExp(`\\b${name}\\b`).test(payload!));
  const ends = about.filter(({ source }) => source!.endsWith(".recovered")).length;
  return [about.length - ends, ends];
}

/** Lets one unit of each host, and a job, fail again and again, each time another one: each is well again once it was told. */
async function troubles(hub: Hub, stop: AbortSignal, inbox = hub.inbox) {
  const acknowledged: Acknowledged = { begun: [], ended: [], full: 0 };
  /** Until it is acknowledged; false where it is over before. */
  const sent = async (send: (signal: AbortSignal) => Promise<Response>): Promise<boolean> => {
    while (!stop.aborted) {
      const answer = await send(AbortSignal.any([stop, AbortSignal.timeout(5000)])).catch(() => null);
      if (answer?.ok) return true;
      if (answer?.status === 507) acknowledged.full++;
      if (answer && ![503, 507].includes(answer.status)) throw new Error(`${answer.status}: ${await answer.text()}`);
      await Bun.sleep(20);
    }
    return false;
  };
  /** Says how things are until the inbox does. */
  const round = async (name: string, say: (wrong: boolean) => (signal: AbortSignal) => Promise<Response>) => {
    for (const [index, list] of [acknowledged.begun, acknowledged.ended].entries()) {
      const send = say(index === 0);
      if (!(await sent(send))) return;
      list.push(name);
      while (!stop.aborted && told(inbox, name)[index] === 0) {
        await Bun.sleep(100);
        // Jobs ping once. Hosts report again and again, or they were silent.
        if (name.startsWith("unit")) await sent(send);
      }
    }
  };
  const work = async (
    worker: string,
    say: (name: string, wrong: boolean) => (signal: AbortSignal) => Promise<Response>,
  ) => {
    for (let n = 0; !stop.aborted; n++) await round(`${worker}-${n}`, (wrong) => say(`${worker}-${n}`, wrong));
  };
  const unit = (host: string) => (name: string, wrong: boolean) => (signal: AbortSignal) =>
    fetch(`${hub.address}/v1/host-report`, {
      method: "POST",
      headers: hub.bearer(host),
      signal,
      body: JSON.stringify(
        report({ host: { metrics: {}, units: wrong ? [{ name: `${name}.service`, state: "failed" }] : [] } }),
      ),
    });
  const { stdout } = await hub.run("job", "key");
  const key = stdout.trim().split("/").at(-1);
  const ping = (name: string, wrong: boolean) => (signal: AbortSignal) =>
    fetch(`${hub.address}/ping/${key}/${name}${wrong ? "/fail" : ""}?create=1`, { method: "POST", signal });
  return {
    acknowledged,
    done: Promise.all([...HOSTS.map((host, n) => work(`unit${n}`, unit(host))), work("job", ping)]),
  };
}

/** Waits until all that was acknowledged is told; then nothing may be told twice, nor anything that never was. */
async function judge(inbox: string, { begun, ended }: Acknowledged): Promise<void> {
  await until("all that began is told", () => begun.every((name) => told(inbox, name)[0] > 0));
  await until("all that ended is told", () => ended.every((name) => told(inbox, name)[1] > 0));
  const often = begun.map((name) => [name, ...told(inbox, name)] as const);
  expect(often.filter(([, begins, ends]) => begins > 1 || ends > 1)).toEqual([]);
  const types = new Set(inboxLines(inbox, "ops").map(({ source }) => source!));
  expect(
    types.difference(
      new Set(["unit.failed", "unit.recovered", "job.failed", "job.recovered"].map((type) => `receiver:${type}`)),
    ),
  ).toEqual(new Set());
}

/** Kills the receiver again and again, and has `between` happen while it is down. */
async function kill(hub: Hub, ledger: Acknowledged, between: (kills: number) => unknown = () => {}): Promise<number> {
  let kills = 0;
  const enough = () => kills > 5 && ledger.ended.length > 12;
  for (const end = performance.now() + SECONDS * 1000; performance.now() < end || !enough(); kills++) {
    await Bun.sleep(100 + Math.random() * 900);
    await hub.daemon.kill("SIGKILL");
    await between(kills);
    await hub.up();
  }
  return kills;
}

test("kill -9 at random moments", async () => {
  await using hub = await start();
  const stop = new AbortController();
  const { acknowledged, done } = await troubles(hub, stop.signal);
  const kills = await kill(hub, acknowledged);
  stop.abort();
  await done;
  await judge(hub.inbox, acknowledged);
  console.log(`${kills} kills, ${acknowledged.begun.length} began, ${acknowledged.ended.length} ended`);
});

const library = faketime("alerts while the clock jumps");
test.skipIf(library === null)("a clock that jumps by days at each of its starts", async () => {
  using folder = new Folder();
  const clock = new Clock(folder, library!);
  await using hub = await start({ env: clock.env });
  const stop = new AbortController();
  const { acknowledged, done } = await troubles(hub, stop.signal);
  await kill(hub, acknowledged, (kills) => clock.offset([259_200, -259_200, 0][kills % 3]!));
  stop.abort();
  await done;
  await judge(hub.inbox, acknowledged);
});

describe.skipIf(!isRoot)("a full disk", () => {
  test("again and again, with kills", async () => {
    using folder = new Folder();
    await using small = await smallDisk(folder, "24m");
    await using hub = await start({ data: join(small.path, "data") });
    const filler = join(small.path, "filler");
    const stop = new AbortController();
    const { acknowledged, done } = await troubles(hub, stop.signal);
    await kill(hub, acknowledged, async (kills) => {
      if (kills % 3 !== 0) return;
      await hub.up();
      await Bun.$`head -c 24M /dev/zero > ${filler}`.quiet().nothrow();
      const before = acknowledged.full;
      await until("a report finds no room", () => acknowledged.full > before);
      await hub.daemon.kill("SIGKILL");
      rmSync(filler);
    });
    stop.abort();
    await done;
    await judge(hub.inbox, acknowledged);
    expect(acknowledged.full).toBeGreaterThan(0);
  });
});

describe.skipIf(!canCut)("a power cut", () => {
  test("tells once what was acknowledged before it", async () => {
    await using hub = new Hub({ port: freePort(), target: "binary" });
    await using disk = await Disk.make(hub.folder, 512);
    const on = (path: string) =>
      `listen: 127.0.0.1:${new URL(hub.address).port}\ndata_dir: ${path}/data\nnotify: { recipient: ops, inbox_dir: ${path}/inbox }\n${MORE}\n`;
    writeFileSync(hub.config, on(disk.path));
    for (const host of HOSTS) await hub.addHost(host);
    await hub.up();
    await Bun.$`sync -f ${disk.path}`;
    const stop = new AbortController();
    const { acknowledged, done } = await troubles(hub, stop.signal, join(disk.path, "inbox"));
    await until("enough is acknowledged", () => acknowledged.ended.length > 8);
    hub.daemon.child.kill("SIGSTOP");
    const ledger = structuredClone(acknowledged);
    await using after = await disk.cut();
    stop.abort();
    await hub.daemon.kill("SIGKILL");
    await done;
    await after.mount();
    writeFileSync(hub.config, on(after.path));
    await hub.up();
    await judge(join(after.path, "inbox"), ledger);
  });
});

test("a restored backup tells again what began after it, and once more the end of all", async () => {
  await using hub = await start();
  const failed = async (...names: string[]) => {
    const units = names.map((name) => ({ name: `${name}.service`, state: "failed" }));
    expect((await hub.report(report({ host: { metrics: {}, units } }))).status).toBe(200);
  };
  const counts = () => ["first", "second"].map((name) => told(hub.inbox, name));
  const tells = (...expected: [number, number][]) =>
    until(`${expected.join(" and ")} are told`, () => Bun.deepEquals(counts(), expected));
  await failed("first");
  await tells([1, 0], [0, 0]);
  const backup = hub.folder.at("backup.db");
  expect((await hub.run("backup", backup)).code).toBe(0);
  await failed("first", "second");
  await tells([1, 0], [1, 0]);
  await hub.daemon.kill();
  expect((await hub.run("restore", backup)).code).toBe(0);
  await hub.up();
  await failed("first", "second");
  await tells([1, 0], [2, 0]);
  await failed();
  await tells([1, 1], [2, 1]);
});
