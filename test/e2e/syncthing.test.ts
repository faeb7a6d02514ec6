// A drop folder that Syncthing fills: two private Syncthings on loopback share a folder, a real collector takes what arrives.
// Nothing leaves the machine: announcing, relays, NAT, reports and upgrades are off, and there is no other device.
// Not tested: folders that are encrypted, receive-only or on another kind of file system.
// PICKET_SYNC_DROPS sets how many drops are written (1000).

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { type Daemon, Folder, ROOT, command, freePort, have, inboxLines, startRole, until } from "../kit.ts";

const DROPS = Number(process.env["PICKET_SYNC_DROPS"] ?? 1000);
/** Syncthing pauses for a minute, and longer the next time, where a file vanished under its hands. */
const PATIENCE = 200;

/** One Syncthing with a home, a key and ports of its own, and one folder that it shares. */
class Peer implements AsyncDisposable {
  readonly shared: string;
  readonly port = freePort();
  readonly id: string;
  #api = freePort();
  #home: string;
  #child: Subprocess | null = null;

  constructor(folder: Folder, name: string) {
    this.#home = folder.at(`${name}-home`);
    this.shared = folder.at(name);
    mkdirSync(this.shared);
    this.#syncthing("generate", "--no-default-folder", "--skip-port-probing");
    this.id = this.#syncthing("--device-id").trim();
  }

  /** Shares the folder with another; one of the two calls, for calls that cross cost each of them 20 s. */
  meet(other: Peer, { calls }: { calls: boolean }): void {
    const device = (id: string, address: string) =>
      `<device id="${id}" compression="never"><address>${address}</address></device>`;
    const off = ["globalAnnounce", "localAnnounce", "relays", "nat", "crashReporting"].map(
      (what) => `<${what}Enabled>false</${what}Enabled>`,
    );
    writeFileSync(
      join(this.#home, "config.xml"),
      `<configuration version="36">
  <folder id="drops" path="${this.shared}" type="sendreceive" rescanIntervalS="1" fsWatcherEnabled="true" fsWatcherDelayS="1">
    <device id="${this.id}"/><device id="${other.id}"/><maxConflicts>10</maxConflicts>
  </folder>
  ${device(this.id, "dynamic")}${device(other.id, calls ? `tcp://127.0.0.1:${other.port}` : "dynamic")}
  <gui enabled="true" tls="false"><address>127.0.0.1:${this.#api}</address><apikey>loopback</apikey></gui>
  <options>
    <listenAddress>tcp://127.0.0.1:${this.port}</listenAddress><reconnectionIntervalS>1</reconnectionIntervalS>${off.join("")}
    <startBrowser>false</startBrowser><urAccepted>-1</urAccepted><autoUpgradeIntervalH>0</autoUpgradeIntervalH>
    <stunKeepaliveStartS>0</stunKeepaliveStartS><setLowPriority>false</setLowPriority>
  </options>
</configuration>`,
    );
  }

  /** Starts it. One process: by default it runs under a monitor, which would outlive a kill of its child. */
  up(): void {
    this.#child = Bun.spawn(["syncthing", "serve", "--home", this.#home, "--no-browser"], {
      env: { ...process.env, HOME: this.#home, STNOUPGRADE: "1", STMONITORED: "1" },
      stdout: Bun.file(`${this.#home}.log`),
      stderr: "ignore",
    });
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    this.#child?.kill(signal);
    await this.#child?.exited;
  }

  /** What its REST API answers, null while it doesn't. */
  async ask<T>(path: string): Promise<T | null> {
    const answer = await fetch(`http://127.0.0.1:${this.#api}/rest/${path}`, {
      headers: { "x-api-key": "loopback" },
    }).catch(() => null);
    return answer?.ok ? ((await answer.json()) as T) : null;
  }

  async connected(): Promise<boolean> {
    const found = await this.ask<{ connections: Record<string, { connected: boolean }> }>("system/connections");
    return Object.values(found?.connections ?? {}).some(({ connected }) => connected);
  }

  /** What lies in its folder, but what Syncthing keeps for itself. */
  files(...under: string[]): string[] {
    const folder = join(this.shared, ...under);
    if (!existsSync(folder)) return [];
    return readdirSync(folder).filter((name) => name !== ".stfolder" && name !== ".stignore");
  }

  #syncthing(...args: string[]): string {
    const run = Bun.spawnSync(["syncthing", ...args, "--home", this.#home]);
    if (run.exitCode !== 0) throw new Error(`syncthing ${args[0]}: ${run.stderr.toString()}${run.stdout.toString()}`);
    return run.stdout.toString();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill("SIGKILL");
  }
}

/** Two of them that share a folder, and a collector that watches the second one's. */
class Pair implements AsyncDisposable {
  readonly folder = new Folder();
  readonly far = new Peer(this.folder, "far");
  readonly near = new Peer(this.folder, "near");
  readonly config: string;
  collector!: Daemon;

  constructor() {
    this.far.meet(this.near, { calls: false });
    this.near.meet(this.far, { calls: true });
    // Syncthing shares only a folder that bears its mark.
    for (const { shared } of [this.far, this.near]) mkdirSync(join(shared, ".stfolder"));
    this.config = this.folder.write(
      "collector.yaml",
      `agent: foreman\ninbox_dir: ${this.folder.at("inbox")}\ndrop_folder: { path: ${this.near.shared}, poll_fallback_seconds: 1, settle_ms: 100 }\n`,
    );
  }

  async up(): Promise<void> {
    await this.#tellSyncthing();
    this.far.up();
    this.near.up();
    await this.collect();
    await until(
      "the two are connected",
      async () => (await this.far.connected()) && (await this.near.connected()),
      PATIENCE,
    );
  }

  async collect(): Promise<void> {
    this.collector = await startRole("collector", ["--config", this.config], { target: "binary" });
    await this.collector.said(" ready ");
  }

  /** Drops at the far end, by rename as every producer should. */
  drop(name: string, payload: string, recipient = "bob"): void {
    this.put(name, JSON.stringify({ recipient, type: "INFO", payload }));
  }

  put(name: string, text: string): void {
    writeFileSync(join(this.far.shared, `.${name}.tmp`), text);
    renameSync(join(this.far.shared, `.${name}.tmp`), join(this.far.shared, name));
  }

  /** How many lines the inbox has, also while the last one is being written. */
  count(): number {
    const inbox = this.folder.at("inbox", "bob.inbox");
    return existsSync(inbox) ? readFileSync(inbox, "utf8").split("\n").length - 1 : 0;
  }

  events(recipient = "bob"): string[] {
    return inboxLines(this.folder.at("inbox"), recipient).map(({ payload }) => payload ?? "");
  }

  /** The installer, into a root of its own: what it writes into .stignore is what is tried here. */
  async #tellSyncthing(): Promise<void> {
    const [binary = ""] = await command("collector", "binary");
    mkdirSync(this.folder.at("bundle"));
    copyFileSync(join(ROOT, "install.sh"), this.folder.at("bundle", "install.sh"));
    copyFileSync(binary, this.folder.at("bundle", "picket-collector"));
    mkdirSync(this.folder.at("root", "etc", "picket"), { recursive: true });
    copyFileSync(this.config, this.folder.at("root", "etc", "picket", "collector.yaml"));
    const run = Bun.spawnSync(["sh", this.folder.at("bundle", "install.sh"), "collector", "--system"], {
      env: { PATH: process.env["PATH"]!, HOME: this.folder.path, DESTDIR: this.folder.at("root") },
    });
    if (run.exitCode !== 0) throw new Error(`install.sh: ${run.stdout.toString()}${run.stderr.toString()}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.collector?.[Symbol.asyncDispose]();
    await this.far[Symbol.asyncDispose]();
    await this.near[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

describe.skipIf(!have("syncthing", "a drop folder that Syncthing fills"))("a drop folder that Syncthing fills", () => {
  let pair: Pair;
  beforeAll(async () => {
    pair = new Pair();
    await pair.up();
  });
  afterAll(() => pair[Symbol.asyncDispose]());

  test(`${DROPS} drops come over, each event once, and their deletion goes back, whoever is killed meanwhile`, async () => {
    const started = performance.now();
    for (let n = 0; n < DROPS; n++) pair.drop(`d${n}.json`, `drop-${n}`);
    const some = (share: number) =>
      until(`${share} of the events are there`, () => pair.count() >= DROPS * share, PATIENCE);
    await some(0.01);
    await pair.collector.kill("SIGKILL");
    await pair.collect();
    // Killed before it noted what it has, Syncthing brings files again that the collector took already.
    await some(0.1);
    await pair.near.kill("SIGKILL");
    pair.near.up();
    await some(0.5);
    await pair.collector.kill("SIGTERM");
    await pair.far.kill("SIGTERM");
    pair.far.up();
    await pair.collect();
    await some(1);
    const came = performance.now();
    await until(
      "nothing is left at either end",
      () => pair.far.files().length + pair.near.files().length === 0,
      PATIENCE,
    );
    const expected = Array.from({ length: DROPS }, (_, n) => `drop-${n}`);
    expect(pair.events().toSorted()).toEqual(expected.toSorted());
    const seconds = (from: number, to: number) => `${((to - from) / 1000).toFixed(1)} s`;
    console.log(
      `${DROPS} drops through Syncthing in ${seconds(started, came)}, gone at both ends ${seconds(came, performance.now())} later`,
    );
  }, 500_000);

  test("what is refused stays on this host, with its reason, and goes from the other", async () => {
    pair.put("broken.json", "{ this is no drop");
    await until("it is a dead letter", () => pair.near.files(".dead-letter").includes("broken.json.reason"), PATIENCE);
    await until("it is gone at the far end", () => !pair.far.files().includes("broken.json"), PATIENCE);
    writeFileSync(join(pair.near.shared, "half.json.tmp"), "half");
    writeFileSync(join(pair.far.shared, "half.json.tmp"), "another half");
    // What was dropped after all of them has come: so would they have.
    pair.drop("after.json", "after", "carol");
    await until("a later drop has come", () => pair.events("carol").length === 1, PATIENCE);
    await until("and went", () => !pair.far.files().includes("after.json"), PATIENCE);
    expect(pair.far.files(".dead-letter")).toEqual([]);
    expect(pair.near.files(".dead-letter").toSorted()).toEqual(["broken.json", "broken.json.reason"]);
    expect(readFileSync(join(pair.near.shared, "half.json.tmp"), "utf8")).toBe("half");
    expect(readFileSync(join(pair.far.shared, "half.json.tmp"), "utf8")).toBe("another half");
    expect(pair.collector.log.join("\n")).not.toContain("half");
  }, 500_000);

  test("the same name written at both ends while apart: two texts, two events", async () => {
    await pair.collector.kill();
    await pair.near.kill("SIGTERM");
    const at = (peer: Peer, name: string, payload: string) =>
      writeFileSync(join(peer.shared, name), JSON.stringify({ recipient: "dave", type: "INFO", payload }));
    at(pair.far, "both.json", "from afar");
    at(pair.near, "both.json", "from near");
    pair.near.up();
    const copies = () => pair.near.files().filter((name) => name.startsWith("both."));
    await until("Syncthing keeps both", () => copies().length === 2, PATIENCE);
    expect(copies().toSorted()[1]).toMatch(/^both\.sync-conflict-.*\.json$/);
    await pair.collect();
    await until("both are events", () => pair.events("dave").length === 2);
    await until(
      "and both went",
      () => [...pair.far.files(), ...copies()].every((name) => !name.startsWith("both.")),
      PATIENCE,
    );
    expect(pair.events("dave").toSorted()).toEqual(["from afar", "from near"]);
  }, 500_000);
});
