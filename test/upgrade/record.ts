#!/usr/bin/env bun
// Leaves behind what the four roles of a former version leave: inboxes with marks, delivery ids, a drop between its delivery and its
// removal, a store with open alerts and an event that is not told yet, an index, a queue, an episode in the outbox, the observer's log
// with a segment, a snapshot, corrections and an escalation that is not told yet.
//
//   bun test/upgrade/record.ts BINARIES ARCHIVE.tar.zst     BINARIES holds picket-collector and the others of that version
//
// It kills each role with SIGKILL. 0.1.0.tar.zst was made by it with the binaries of 0.1.0.

import {
  appendFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Database } from "bun:sqlite";
import { Daemon, Folder, inboxLines, until } from "../kit.ts";
import { archive, container, report, uploadHeaders } from "../receiver/kit.ts";

/** What the recording says of itself: what a later version is held to. Times are milliseconds since 1970. */
export interface Manifest {
  recorded_at: string;
  /** Delivery ids of the collector, and the events' ids that they were answered with. */
  deliveries: { path: string; delivery: string; id: string }[];
  /** Ids of bob's events that `read bob --new` has shown. */
  shown: string[];
  /** Modification times of the drops. */
  drops: Record<string, number>;
  token: string;
  /** Ids of the lines of ops.inbox and obs.inbox. */
  told: { ops: string[]; obs: string[] };
  /** Texts of the events that wait. */
  untold: { ops: string; obs: string };
  operations: { total: number; failures: number };
  corrections: string[];
  /** Inodes of the files that a note names by it. */
  inodes: Record<string, number>;
}

/** Files that a snapshot, a place or a state knows by their inode. */
const KNOWN_BY_INODE = ["corrections.txt", "observer/ops.000001.jsonl", "observer/ops.jsonl", "receiver/index.jsonl"];

/** The configurations, for any version. `settings` are more lines. */
export function configure(dir: string, role: string, settings = ""): string {
  const lines: Record<string, string> = {
    collector: `agent: foreman
inbox_dir: ${dir}/inbox
webhook:
  listen: 127.0.0.1:0
  dedupe_hours: 1000000
  routes:
    - { path: /normal, recipient: bob, type: INFO, template: "{{ .n }}" }
    - { path: /urgent, recipient: bob, type: INFO, priority: urgent, template: "{{ .n }}" }
drop_folder: { path: ${dir}/drops, settle_ms: 100 }`,
    receiver: `listen: 127.0.0.1:0\ndata_dir: ${dir}/receiver\nnotify: { recipient: ops, inbox_dir: ${dir}/inbox }`,
    observer: `listen: 127.0.0.1:0\npersist_path: ${dir}/observer/ops.jsonl\nrotate_mb: 0.01\ncycle_seconds: 0.2
overseer_corrections: ${dir}/corrections.txt\nnotify: { recipient: obs, inbox_dir: ${dir}/inbox }`,
    agent: `data_dir: ${dir}/agent\nship: { episodes_dir: ${dir}/lab/episodes, scan_seconds: 0.2 }\ndocker: { enabled: false }`,
  };
  const file = join(dir, `${role}.yaml`);
  writeFileSync(file, `${lines[role]}\n${settings}\n`);
  return file;
}

/** Records into `dir`, which must be empty. */
export async function record(binaries: string, dir: string): Promise<Manifest> {
  const start = (role: string, config: string): Daemon =>
    new Daemon(
      Bun.spawn([join(binaries, `picket-${role}`), "--config", config], {
        stdin: "ignore",
        stdout: "ignore",
        stderr: "pipe",
      }),
    );
  const run = async (role: string, ...args: string[]): Promise<string> =>
    Bun.$`${[join(binaries, `picket-${role}`), ...args, "--config", join(dir, `${role}.yaml`)]}`.text();
  const manifest = { recorded_at: new Date().toISOString(), drops: {}, told: {}, untold: {} } as Manifest;

  await collector();
  await receiver();
  await agent();
  await observer();
  for (const to of ["ops", "obs"] as const) manifest.told[to] = inboxLines(join(dir, "inbox"), to).map(({ id }) => id!);
  manifest.inodes = Object.fromEntries(KNOWN_BY_INODE.map((name) => [name, statSync(join(dir, name)).ino]));
  writeFileSync(join(dir, "manifest.json"), JSON.stringify(manifest, null, 2));
  return manifest;

  async function collector(): Promise<void> {
    const config = configure(dir, "collector");
    await using daemon = start("collector", config);
    const url = await daemon.url();
    manifest.deliveries = [];
    for (const n of [1, 2, 3, 4, 5, 6]) {
      const path = n === 4 ? "/urgent" : "/normal";
      const delivery = `delivery-${n}`;
      const answer = await fetch(url + path, {
        method: "POST",
        body: `{"n":"event ${n}"}`,
        headers: { "x-github-delivery": delivery, "content-type": "application/json" },
      });
      manifest.deliveries.push({ path, delivery, id: ((await answer.json()) as { id: string }).id });
    }
    const shown = await run("collector", "read", "bob", "--new", "--json", "--limit", "3");
    manifest.shown = shown
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { id: string }).id);
    const drop = join(dir, "drops/delivered.json");
    writeFileSync(`${drop}.new`, '{"recipient":"bob","type":"INFO","payload":"delivered, not yet removed"}');
    manifest.drops["delivered.json"] = Math.floor(statSync(`${drop}.new`).mtimeMs / 1000) * 1000 - 60_000;
    utimesSync(`${drop}.new`, 0, manifest.drops["delivered.json"] / 1000);
    cpSync(`${drop}.new`, join(dir, "kept"));
    renameSync(`${drop}.new`, drop);
    await until(
      "the drop is delivered",
      () =>
        inboxLines(join(dir, "inbox"), "bob").length === 7 &&
        !readdirSync(join(dir, "drops")).includes("delivered.json"),
    );
    await daemon.kill("SIGKILL");
    // As a kill between delivery and removal leaves it.
    renameSync(join(dir, "kept"), drop);
    writeFileSync(join(dir, "drops/new.json"), '{"recipient":"bob","type":"INFO","payload":"not yet seen"}');
    manifest.drops["new.json"] = manifest.drops["delivered.json"] + 1000;
  }

  async function receiver(): Promise<void> {
    const config = configure(dir, "receiver");
    manifest.token = /pk_[A-Za-z0-9]{40}/.exec(await run("receiver", "host", "add", "web-1"))![0];
    await using daemon = start("receiver", config);
    const url = await daemon.url();
    const headers = { authorization: `Bearer ${manifest.token}` };
    const send = async (...containers: Record<string, unknown>[]): Promise<void> => {
      const body = JSON.stringify({ ...report(), containers });
      const { status } = await fetch(`${url}/v1/host-report`, { method: "POST", body, headers });
      if (status !== 200) throw new Error(`report: ${status}`);
    };
    await send(container("shop"), container("db"));
    await send(container("shop", { state: "exited", status: "Exited (1)" }), container("db"));
    await until("the first event is told", () => inboxLines(join(dir, "inbox"), "ops").length === 1);
    for (const n of [1, 2]) {
      const bytes = await archive(`episode ${n}`);
      const target = `${url}/v1/episodes/web-1/ep-${n}.tar.zst`;
      const { status } = await fetch(target, {
        method: "PUT",
        body: bytes,
        headers: { ...headers, ...uploadHeaders(bytes) },
      });
      if (status !== 201) throw new Error(`upload: ${status}`);
    }
    await whileUnwritable("ops", async () => {
      await send(
        container("shop", { state: "exited", status: "Exited (1)" }),
        container("db", { health_status: "unhealthy" }),
      );
      const untold = () => {
        const db = new Database(join(dir, "receiver/receiver.db"), { readonly: true });
        const row = db.query("SELECT text FROM events WHERE told_at IS NULL").get() as { text: string } | null;
        db.close();
        return row?.text;
      };
      manifest.untold.ops = await until("an event waits", untold);
      await until("telling it fails", () => daemon.log.find((line) => line.includes("pass failed")));
      await daemon.kill("SIGKILL");
    });
    // A store whose log was not written back yet is one file more; the next start of any version reads both.
  }

  async function agent(): Promise<void> {
    for (const made of ["lab/episodes/ep-3", "lab/outbox", "agent/queue"])
      mkdirSync(join(dir, made), { recursive: true });
    writeFileSync(join(dir, "lab/episodes/ep-3/data.txt"), "an episode that nobody takes yet");
    writeFileSync(join(dir, "lab/episodes/ep-3/done.marker"), "");
    const config = configure(
      dir,
      "agent",
      `receiver: { url: "http://127.0.0.1:1", token: ${manifest.token} }\nhost_id: web-1`,
    );
    for (const count of [1, 2, 3]) {
      await using daemon = start("agent", config);
      await until(
        "a report waits",
        () => readdirSync(join(dir, "agent/queue")).filter((name) => /^\d+\.json$/.test(name)).length === count,
      );
      if (count === 3)
        await until("the episode is packed", () =>
          readdirSync(join(dir, "lab/outbox")).some((name) => name.endsWith(".tar.zst")),
        );
      await daemon.kill("SIGKILL");
    }
  }

  async function observer(): Promise<void> {
    const corrections = join(dir, "corrections.txt");
    writeFileSync(corrections, "");
    const config = configure(dir, "observer");
    await using daemon = start("observer", config);
    const url = await daemon.url();
    const tell = async (operations: unknown): Promise<void> => {
      const { status } = await fetch(`${url}/observer/event`, { method: "POST", body: JSON.stringify(operations) });
      if (status !== 200) throw new Error(`operations: ${status}`);
    };
    const stats = async () => (await (await fetch(`${url}/observer/stats`)).json()) as Manifest["operations"];
    const failing = (endpoint: string) =>
      [1, 2, 3].map((n) => ({ endpoint, success: false, error: `job ${n} of ${endpoint}: no answer` }));
    await tell(Array.from({ length: 100 }, (_, n) => ({ id: `op-${n}`, endpoint: "deploy", duration_ms: n })));
    await until("the log is rotated", () => readdirSync(join(dir, "observer")).includes("ops.000001.jsonl"));
    manifest.corrections = ["never restart the database at noon", "use the small machine", "use the small machine"];
    appendFileSync(corrections, manifest.corrections.map((line) => `${line}\n`).join(""));
    await until("the corrections are recorded", async () => (await stats()).total === 103);
    await tell(failing("backup"));
    await until("the first escalation is told", () => inboxLines(join(dir, "inbox"), "obs").length === 1);
    await whileUnwritable("obs", async () => {
      await tell(failing("sync"));
      await until("telling it fails", () => daemon.log.find((line) => line.includes("pass failed")));
      manifest.untold.obs = "sync keeps failing: 3 failures";
      const { total, failures } = await stats();
      manifest.operations = { total, failures };
      await daemon.kill("SIGKILL");
    });
  }

  /** Puts a folder in the place of an inbox. */
  async function whileUnwritable(recipient: string, work: () => Promise<void>): Promise<void> {
    const inbox = join(dir, "inbox", `${recipient}.inbox`);
    renameSync(inbox, `${inbox}.kept`);
    mkdirSync(inbox);
    await work();
    rmSync(inbox, { recursive: true });
    renameSync(`${inbox}.kept`, inbox);
  }
}

if (import.meta.main) {
  const [binaries, archive] = process.argv.slice(2);
  if (binaries === undefined || archive === undefined) {
    console.error("usage: bun test/upgrade/record.ts BINARIES ARCHIVE.tar.zst");
    process.exit(2);
  }
  using scratch = new Folder();
  await record(binaries, scratch.path);
  const tar = Bun.spawnSync(["tar", "-C", scratch.path, "--owner=0", "--group=0", "-cf", "-", "."]).stdout;
  writeFileSync(archive, Bun.zstdCompressSync(tar, { level: 19 }));
}
