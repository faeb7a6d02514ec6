// What the collector promises when things break: kill -9, a power cut, a full disk. Real processes, real file systems.
// Not tested: what a disk loses that says "synced" and isn't; file systems other than ext4 and tmpfs.
// PICKET_FAULT_EVENTS sets how many drops and deliveries come in during the kills (2000; `bun run test:long` 20000).

import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { replay } from "../../lib/replay.ts";
import { type Daemon, Folder, freePort, inboxLines, startRole, until } from "../kit.ts";
import { Disk, canCut, isRoot, smallDisk } from "./disk.ts";

const EVENTS = Number(process.env["PICKET_FAULT_EVENTS"] ?? 2000);
const LEAST_KILLS = 4;

function configure(folder: Folder, data: string, port: number, more = ""): string {
  return folder.write(
    "collector.yaml",
    `agent: foreman
inbox_dir: ${join(data, "inbox")}
webhook:
  listen: 127.0.0.1:${port}
  routes:
    - { path: /hook, recipient: bob, type: INFO, template: "{{ .n }}" }
drop_folder: { path: ${join(data, "drops")}, poll_fallback_seconds: 1 }
${more}`,
  );
}

function drop(data: string, name: string, payload: string, recipient = "bob"): void {
  writeFileSync(join(data, `.${name}.tmp`), JSON.stringify({ recipient, type: "INFO", payload }));
  renameSync(join(data, `.${name}.tmp`), join(data, "drops", `${name}.json`));
}

/** Posts until it is acknowledged, as a sender that retries does. */
async function deliver(url: string, n: string, signal: AbortSignal): Promise<boolean> {
  while (!signal.aborted) {
    try {
      const answer = await fetch(`${url}/hook`, {
        method: "POST",
        body: JSON.stringify({ n }),
        headers: { "x-github-delivery": n },
        signal: AbortSignal.any([signal, AbortSignal.timeout(5000)]),
      });
      await answer.arrayBuffer();
      if (answer.status === 202) return true;
    } catch {
      // The daemon is away: that is what retries are for.
    }
    await Bun.sleep(5);
  }
  return false;
}

test("kill -9 at random moments: every acknowledged event is there exactly once, no line is torn", async () => {
  using folder = new Folder();
  const data = folder.at("data");
  mkdirSync(join(data, "drops"), { recursive: true });
  mkdirSync(join(data, "inbox"));
  const port = freePort();
  const config = configure(folder, data, port);
  const inbox = join(data, "inbox", "bob.inbox");
  const shells = [1, 2, 3].map((who) =>
    Bun.spawn(
      [
        "sh",
        "-c",
        `n=0; while [ ! -e "$1/stop" ]; do n=$((n+1)); printf '{"payload":"sh${who}-%s"}\\n' $n >> "$2"; sleep 0.02; done; echo $n`,
        "sh",
        folder.path,
        inbox,
      ],
      { stdout: "pipe" },
    ),
  );
  const finished = new AbortController();
  let kills = 0;
  let running: Daemon | null = null;
  const killer = (async () => {
    while (!finished.signal.aborted) {
      running = await startRole("collector", ["--config", config], { target: "binary" });
      await running.url();
      // Longer with time: on a busy machine one that lives so short a time may not get beyond looking through its drops.
      await Bun.sleep(50 + Math.random() * (700 + 20 * kills));
      if (finished.signal.aborted) break;
      await running.kill("SIGKILL");
      kills++;
    }
  })();
  let next = 0;
  // A quick machine is through with its events before it is killed often.
  const enough = () => next >= EVENTS && kills >= LEAST_KILLS;
  const sender = async () => {
    while (!enough()) {
      await deliver(`http://127.0.0.1:${port}`, `hook-${next++}`, AbortSignal.timeout(240_000));
      await Bun.sleep(20);
    }
  };
  const dropper = (async () => {
    for (let n = 0; n < EVENTS; n++) {
      drop(data, `d${n}`, `drop-${n}`);
      if (n % 100 === 0) await Bun.sleep(10);
    }
  })();
  await Promise.all([...Array.from({ length: 32 }, sender), dropper]);
  await until("all drops are taken", () => readdirSync(join(data, "drops")).length === 0);
  finished.abort();
  await killer;
  await running!.kill("SIGKILL");
  writeFileSync(folder.at("stop"), "");
  const shellCounts = await Promise.all(shells.map(async (shell) => Number(await new Response(shell.stdout).text())));
  const last = await startRole("collector", ["--config", config], { target: "binary" });
  await last.url();
  await last.kill();

  const seen = new Map<string, number>();
  for (const { payload } of inboxLines(join(data, "inbox"), "bob")) seen.set(payload!, (seen.get(payload!) ?? 0) + 1);
  const expected = [
    ...Array.from({ length: next }, (_, n) => `hook-${n}`),
    ...Array.from({ length: EVENTS }, (_, n) => `drop-${n}`),
    ...shellCounts.flatMap((count, who) => Array.from({ length: count }, (_, n) => `sh${who + 1}-${n + 1}`)),
  ];
  expect(expected.filter((payload) => seen.get(payload) !== 1).slice(0, 5)).toEqual([]);
  expect(seen.size).toBe(expected.length);
  console.log(`${kills} kills, ${next} deliveries, ${EVENTS} drops, ${shellCounts.join(" + ")} lines by >>`);
});

test("a drop that was delivered, but not deleted, by a collector that comes back days later is not delivered again", async () => {
  using folder = new Folder();
  const data = folder.at("data");
  mkdirSync(join(data, "drops"), { recursive: true });
  const config = configure(folder, data, 0);
  const round = async () => {
    drop(data, "d", "once");
    // Name, content and time make the drop.
    utimesSync(join(data, "drops", "d.json"), 1_700_000_000, 1_700_000_000);
    await using daemon = await startRole("collector", ["--config", config]);
    await until("it is taken", () => readdirSync(join(data, "drops")).length === 0);
    expect(await daemon.kill()).toBe(0);
  };
  await round();
  // Three days pass.
  const inbox = join(data, "inbox", "bob.inbox");
  const then = new Date(Date.now() - 72 * 3_600_000).toISOString();
  writeFileSync(inbox, readFileSync(inbox, "utf8").replace(/"ts":"[^"]+"/, `"ts":"${then}"`));
  const state = join(data, "inbox", ".picket");
  for (const name of readdirSync(state)) if (name.startsWith("delivered-")) rmSync(join(state, name));
  await round();
  expect(inboxLines(join(data, "inbox"), "bob").map(({ payload }) => payload)).toEqual(["once"]);
});

describe.skipIf(!canCut)("a power cut", () => {
  /** Runs under load, stops the writer, copies the device as it is, and counts what the copy holds. */
  async function cut(
    durability: string,
  ): Promise<{ acknowledged: string[]; found: Map<string, number>; drops: string[] }> {
    using folder = new Folder();
    await using disk = await Disk.make(folder, 512);
    const mount = disk.path;
    const acknowledged: string[] = [];
    const dropped: string[] = [];
    mkdirSync(join(mount, "drops"));
    await Bun.$`sync -f ${mount}`;
    await using daemon = await startRole(
      "collector",
      ["--config", configure(folder, mount, 0, `durability: ${durability}`)],
      {
        target: "binary",
      },
    );
    const url = await daemon.url();
    const enough = new AbortController();
    let next = 0;
    const sender = async () => {
      while (!enough.signal.aborted) {
        const n = `hook-${next++}`;
        if (await deliver(url, n, enough.signal)) acknowledged.push(n);
      }
    };
    const senders = Array.from({ length: 16 }, sender);
    for (let n = 0; n < 300; n++) {
      drop(mount, `d${n}`, `drop-${n}`, `r${n % 7}`);
      await Bun.sleep(1);
      // Gone means accepted: from then on the event has to survive.
      if (n % 50 === 49) await until("drops are taken", () => readdirSync(join(mount, "drops")).length < 5);
    }
    await until("enough is acknowledged", () => acknowledged.length > 2000);
    daemon.child.kill("SIGSTOP");
    const waiting = new Set(readdirSync(join(mount, "drops")));
    for (let n = 0; n < 300; n++) if (!waiting.has(`d${n}.json`)) dropped.push(`drop-${n}`);
    const before = [...acknowledged];
    await using after = await disk.cut();
    enough.abort();
    await daemon.kill("SIGKILL");
    await Promise.all(senders);
    await after.mount();
    // The next start finishes what the cut left: drops whose deletion it took back are not written twice.
    mkdirSync(join(after.path, "drops"), { recursive: true });
    await using again = await startRole("collector", ["--config", configure(folder, after.path, 0)], {
      target: "binary",
    });
    await again.url();
    await until(
      "drops are taken",
      () => readdirSync(join(after.path, "drops")).filter((name) => name.endsWith(".json")).length === 0,
    );
    await again.kill();
    const found = new Map<string, number>();
    for (const name of readdirSync(join(after.path, "inbox")).filter((one) => one.endsWith(".inbox"))) {
      // What was not acknowledged may have been cut in the middle, and is no event then.
      let malformed = 0;
      await replay({
        path: join(after.path, "inbox", name),
        malformed: () => void malformed++,
        record(value) {
          const { payload } = value as { payload: string };
          found.set(payload, (found.get(payload) ?? 0) + 1);
        },
      });
      expect(malformed).toBeLessThanOrEqual(1);
    }
    return { acknowledged: before, found, drops: dropped };
  }

  test("takes nothing that was acknowledged, folders and file names included", async () => {
    const { acknowledged, found, drops } = await cut("disk");
    expect(acknowledged.length).toBeGreaterThan(2000);
    expect(acknowledged.filter((n) => found.get(n) !== 1)).toEqual([]);
    expect(drops.filter((n) => found.get(n) !== 1)).toEqual([]);
  });

  test("loses operations with `durability: os`, which shows that the test can fail", async () => {
    const { acknowledged, found } = await cut("os");
    expect(acknowledged.filter((n) => found.get(n) !== 1).length).toBeGreaterThan(0);
  });
});

describe.skipIf(!isRoot)("a full disk", () => {
  test("answers 507, tears nothing, keeps drops, and goes on by itself when there is room", async () => {
    using folder = new Folder();
    await using disk = await smallDisk(folder, "256k");
    const mount = disk.path;
    mkdirSync(folder.at("drops"));
    const config = folder.write(
      "collector.yaml",
      `agent: foreman
inbox_dir: ${join(mount, "inbox")}
webhook:
  listen: 127.0.0.1:0
  routes: [{ path: /hook, recipient: bob, type: INFO, template: "{{ .n }}{{ .fill }}" }]
drop_folder: { path: ${folder.at("drops")} }
`,
    );
    await using daemon = await startRole("collector", ["--config", config]);
    const url = await daemon.url();
    const post = async (n: string) => {
      const answer = await fetch(`${url}/hook`, {
        method: "POST",
        body: JSON.stringify({ n, fill: "x".repeat(3000) }),
      });
      return { status: answer.status, body: (await answer.json()) as Record<string, string> };
    };
    const acknowledged: string[] = [];
    const statuses = new Set<number>();
    // Several at once, so that a batch is longer than what is left and the write comes back short.
    for (let round = 0; round < 40; round++) {
      const answers = await Promise.all([1, 2, 3, 4].map((n) => post(`${round}-${n}:`)));
      answers.forEach(({ status }, n) => {
        statuses.add(status);
        if (status === 202) acknowledged.push(`${round}-${n + 1}:`);
      });
    }
    expect([...statuses].toSorted((a, b) => a - b)).toEqual([202, 507]);
    // What is too little for four in one write may be enough for one.
    let answer = await post("more-0:");
    for (let n = 1; answer.status === 202; n++) {
      acknowledged.push(`more-${n - 1}:`);
      answer = await post(`more-${n}:`);
    }
    expect(answer.body).toMatchObject({ code: "disk_full", error: expect.any(String) });
    const inbox = () => inboxLines(join(mount, "inbox"), "bob").map(({ payload }) => payload!.replace(/x+$/, ""));
    // Four come at the same time, on connections of their own: which is first is the system's choice.
    expect(inbox().toSorted()).toEqual(acknowledged.toSorted());
    expect((await fetch(`${url}/health`)).status).toBe(503);

    writeFileSync(
      folder.at("drops", ".x.tmp"),
      JSON.stringify({ recipient: "bob", type: "INFO", payload: `dropped:${"x".repeat(3000)}` }),
    );
    renameSync(folder.at("drops", ".x.tmp"), folder.at("drops", "x.json"));
    await daemon.said("drops stay");
    expect(readdirSync(folder.at("drops"))).toEqual(["x.json"]);

    // Somebody makes room: what is read is taken away.
    rmSync(join(mount, "inbox", "bob.inbox"));
    expect((await post("again:")).status).toBe(202);
    await until("the drop is delivered", () => readdirSync(folder.at("drops")).length === 0);
    expect(inbox().toSorted()).toEqual(["again:", "dropped:"]);
    expect((await fetch(`${url}/health`)).status).toBe(200);
  });
});
