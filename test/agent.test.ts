// The agent against a real receiver: the host is seen, refused tokens, a receiver that is away, what is said and what is never said.
// Not tested here: what has a file of its own in test/agent.

import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { configure, start, waiting } from "./agent/kit.ts";
import { Folder, TARGETS, freePort, runRole, startRole, until } from "./kit.ts";
import { Clock, Hub, faketime } from "./receiver/kit.ts";

type Row = Record<string, unknown>;

/** The root file system in GiB, as df has it. */
function disk(): { size: number; used: number } {
  const df = Bun.spawnSync(["df", "-BG", "--output=size,used", "/"]).stdout.toString();
  const [, size, used] = /(\d+)G +(\d+)G/.exec(df)!;
  return { size: Number(size), used: Number(used) };
}

describe.each(TARGETS)("%s", (target) => {
  test("copied alone, with two variables, the host is seen with its real figures", async () => {
    await using hub = await Hub.start();
    using folder = new Folder();
    const before = disk();
    await using agent = await startRole("agent", [], {
      target,
      cwd: folder.path,
      env: {
        PICKET_URL: hub.url,
        PICKET_TOKEN: hub.tokens.get("web-1"),
        PICKET_INTERVAL_SECONDS: "-5",
        HOME: folder.path,
        XDG_CONFIG_HOME: folder.path,
        STATE_DIRECTORY: folder.at("state"),
      },
    });
    await agent.said(" ready ");
    expect(agent.log.join("\n")).toContain("PICKET_INTERVAL_SECONDS");
    type Seen = { status: string; agent_version: string; facts: Row; metrics: Row };
    const { status, agent_version, facts, metrics } = await hub.get<Seen>("/v1/hosts/web-1");
    expect(status).toBe("online");
    // `picket-agent 0.2.0 (commit abc1234, …)` reports as 0.2.0+abc1234, and from source, without a commit, as 0.2.0.
    const { stdout: line } = await runRole("agent", ["--version"], { target });
    const [, version, commit] = /^\S+ (\S+) \(commit ([^,]+),/.exec(line)!;
    expect(agent_version).toBe(/^[0-9a-f]{10}/.test(commit!) ? `${version}+${commit}` : version!);
    const free = Bun.spawnSync(["free", "-m"]).stdout.toString();
    expect(metrics["memory_total_mb"]).toBe(Number(/^Mem: +(\d+)/m.exec(free)![1]));
    const after = disk();
    expect(metrics["disk_total_gb"]).toBe(after.size);
    // Others write to this disk meanwhile; df rounds up.
    expect(metrics["disk_used_gb"] as number).toBeWithin(
      Math.min(before.used, after.used) - 1,
      Math.max(before.used, after.used) + 2,
    );
    expect(facts["cpu_count"]).toBe(Number(Bun.spawnSync(["nproc", "--all"]).stdout.toString()));
    const uptime = Number(readFileSync("/proc/uptime", "utf8").split(".")[0]);
    expect(Math.abs((metrics["uptime_seconds"] as number) - uptime)).toBeLessThan(30);
    // Those with a device behind them, else all but loopback: as the kernel counted since boot.
    const rows = readFileSync("/proc/net/dev", "utf8").matchAll(/^ *([^:\s]+): *(\d+)/gm);
    const seen = [...rows].map(([, name, bytes]) => ({ name: name!, bytes: Number(bytes) }));
    const devices = seen.filter(({ name }) => existsSync(`/sys/class/net/${name}/device`));
    const outer = devices.length > 0 ? devices : seen.filter(({ name }) => !/^(lo|docker|veth|br-|vh)/.test(name));
    const received = outer.reduce((sum, { bytes }) => sum + bytes, 0);
    expect(metrics["network_rx_bytes"] as number).toBeLessThanOrEqual(received);
    expect(metrics["network_rx_bytes"] as number).toBeGreaterThanOrEqual(received * 0.9 - 1e6);
    expect(await agent.kill()).toBe(0);
  });
});

test("without URL or token it ends with 2 and names both variables", async () => {
  using folder = new Folder();
  const env = { HOME: folder.path, XDG_CONFIG_HOME: folder.path, PICKET_URL: undefined, PICKET_TOKEN: undefined };
  const { code, stderr } = await runRole("agent", [], { env });
  expect(code).toBe(2);
  expect(stderr).toContain("PICKET_URL");
  expect(stderr).toContain("PICKET_TOKEN");
});

test("http is refused but to this machine", async () => {
  using folder = new Folder();
  const { code, stderr } = await runRole("agent", [
    "--check",
    "--config",
    configure(folder, "http://hub.example", "x"),
  ]);
  expect([code, stderr]).toEqual([78, expect.stringContaining("only https")]);
});

test("fractions of seconds and of mebibytes are taken, as a trial wants them", async () => {
  using folder = new Folder();
  const more = `queue_max_mb: 0.1\nship: { episodes_dir: ${folder.at("episodes")}, scan_seconds: 0.2 }\n`;
  const config = configure(folder, "http://127.0.0.1:9", "t", more);
  writeFileSync(config, readFileSync(config, "utf8").replace("token: t", "token: t, timeout_seconds: 0.5"));
  const { code, stdout, stderr } = await runRole("agent", ["--check", "--config", config]);
  expect([code, stdout, stderr]).toEqual([0, "ok\n", ""]);
});

test("a wrong token ends it with 3 on the very first report; a token that is revoked later holds everything", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  using folder = new Folder();
  const wrong = await runRole("agent", ["--config", configure(folder, hub.url, `pk_${"x".repeat(40)}`)]);
  expect([wrong.code, wrong.stderr]).toEqual([3, expect.stringContaining("token rotate")]);
  const token = hub.tokens.get("web-1")!;
  const config = configure(folder, hub.url, token, "protocol: telemetry\n");
  await using agent = await start(config);
  await agent.said(" ready ");
  await hub.run("token", "revoke", "web-1");
  await until("samples wait", () => waiting(folder).length > 3);
  await agent.said("reports are queued");
  expect(agent.log.filter((line) => line.includes("reports are queued")).length).toBe(1);
  expect(agent.child.exitCode).toBeNull();
  const before = waiting(folder).length;
  // Bound again to a new token, nothing was lost.
  const next = /pk_\w+/.exec((await hub.run("token", "rotate", "web-1")).stdout)![0];
  await agent.kill();
  await using again = await start(configure(folder, hub.url, next, "protocol: telemetry\n"));
  await until("all of it has arrived", () => waiting(folder).length === 0);
  const samples = hub.rows<{ n: number }>("SELECT COUNT(*) AS n FROM host_samples")[0]!.n;
  expect(samples).toBeGreaterThan(before);
  for (const log of [agent.log, again.log]) expect(log.join("\n")).not.toContain("pk_");
});

test("the receiver away: samples wait, then arrive in order while the live report goes first", async () => {
  const port = freePort();
  await using hub = new Hub({ port, more: "rate_limit_per_minute: 100000" });
  await hub.addHost("web-1");
  using folder = new Folder();
  await using agent = await start(
    configure(folder, `http://127.0.0.1:${port}`, hub.tokens.get("web-1")!, "protocol: telemetry\n"),
  );
  await agent.said(" ready ");
  await agent.said("no answer");
  await until("samples wait", () => waiting(folder).length >= 5);
  expect(agent.log.filter((line) => line.includes("report: no answer")).length).toBe(1);
  await hub.up();
  await agent.said("answers again");
  await until("all of it has arrived", () => waiting(folder).length === 0);
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online" });
  await agent.kill();
  const samples = hub.rows<{ at: number }>("SELECT at FROM host_samples ORDER BY at");
  expect(samples.length).toBeGreaterThan(5);
});

const library = faketime("an hour's absence of the receiver, a host's wrong clock");

test.skipIf(library === null)(
  "an hour without a receiver: every sample arrives, oldest first, and the host is online throughout",
  async () => {
    const port = freePort();
    using folder = new Folder();
    const clock = new Clock(folder, library!);
    await using hub = new Hub({ port, more: "rate_limit_per_minute: 100000", env: clock.env });
    await hub.addHost("web-1");
    const config = configure(folder, `http://127.0.0.1:${port}`, hub.tokens.get("web-1")!, "protocol: telemetry\n");
    await hub.up();
    await hub.run("host", "set", "web-1", "--interval", "60");
    await using agent = await startRole("agent", ["--config", config], { env: clock.env });
    await agent.said(" ready ");
    const status = async () => (await hub.get<{ status: string }>("/v1/hosts/web-1")).status;
    expect(await status()).toBe("online");
    await hub.daemon.kill();
    // Three minutes from one sample to the next.
    for (let step = 1; step <= 20; step++) {
      const before = waiting(folder).length;
      clock.offset(step * 180);
      await until("one more sample waits", () => waiting(folder).length > before);
    }
    await hub.up();
    await agent.said("answers again");
    const times = () =>
      waiting(folder)
        .map((name) => Number.parseInt(name, 10))
        .toSorted((a, b) => a - b);
    const all = times();
    expect(all.at(-1)! - all[0]!).toBeGreaterThan(50 * 60_000);
    await until(
      "all of it has arrived",
      async () => {
        const left = times();
        expect(left).toEqual(all.slice(all.length - left.length));
        expect(await status()).toBe("online");
        return left.length === 0;
      },
      200,
    );
    await agent.kill();
    const stored = new Set(hub.rows<{ at: number }>("SELECT at FROM host_samples").map(({ at }) => at));
    expect(all.filter((at) => !stored.has(at))).toEqual([]);
    // The receiver was away, not the host.
    expect(hub.rows("SELECT * FROM events")).toEqual([]);
  },
);

test.skipIf(library === null)("a clock that is ten minutes wrong is said by the log and by the doctor", async () => {
  await using hub = await Hub.start();
  using folder = new Folder();
  const clock = new Clock(folder, library!);
  const config = configure(folder, hub.url, hub.tokens.get("web-1")!);
  for (const [seconds, words] of [
    [600, "ahead of"],
    // Taken by the receiver, as all that is less than an hour behind.
    [-600, "behind"],
    [-4200, "behind"],
  ] as const) {
    clock.offset(seconds);
    await using agent = await startRole("agent", ["--config", config], { env: clock.env });
    const said = await agent.said("this host's clock is");
    expect(said).toContain(`${words} the receiver's`);
    const { code, stdout } = await runRole("agent", ["doctor", "--config", config], { env: clock.env });
    expect([code, stdout]).toEqual([
      2,
      expect.stringMatching(new RegExp(`^red +clock .*\\dm.* ${words} the receiver's`, "m")),
    ]);
    expect(stdout).toContain("timedatectl set-ntp true");
    await agent.kill();
  }
});

test("no token anywhere: debug log, refusals that repeat it, errors, doctor, selftest, the process's own arguments", async () => {
  using folder = new Folder();
  const token = `pk_${"s".repeat(40)}`;
  let status = 500;
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    // Says back what it was sent, as a proxy's error page may.
    fetch: (request) => Response.json({ error: `refused ${request.headers.get("authorization")}` }, { status }),
  });
  const places = `ship: { episodes_dir: ${folder.at("episodes")} }\n`;
  const config = configure(folder, `http://127.0.0.1:${server.port}`, token, `protocol: telemetry\n${places}`);
  mkdirSync(folder.at("episodes/ep-1"), { recursive: true });
  writeFileSync(folder.at("episodes/ep-1/done.marker"), "");
  const texts: string[] = [];
  await using agent = await start(config);
  await agent.said("ask for this host's name");
  texts.push(readFileSync(`/proc/${agent.child.pid}/cmdline`, "utf8"));
  for (status of [500, 422, 401, 302]) {
    for (const args of [
      ["doctor", "--json"],
      ["selftest"],
      ["ping"],
      ["--once"],
      ["quarantine", "list"],
      ["--check", "--print"],
    ]) {
      const { stdout, stderr } = await runRole("agent", [...args, "--config", config, "--log-level", "debug"]);
      texts.push(stdout, stderr);
    }
  }
  const wrong = await runRole("agent", [
    "--config",
    folder.write("bad.yaml", `receiver: { url: 7, token: ${token} }\nx: 1\n`),
  ]);
  expect(wrong.code).toBe(78);
  texts.push(wrong.stderr);
  await agent.kill();
  texts.push(agent.log.join("\n"));
  await server.stop(true);
  for (const text of texts) expect(text).not.toContain("s".repeat(40));
});

test("a reload takes over what can change, and says what can't", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  await using other = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  using folder = new Folder();
  const more = "protocol: telemetry\n";
  const config = configure(folder, hub.url, hub.tokens.get("web-1")!, more);
  await using agent = await start(config);
  await agent.said(" ready ");
  configure(folder, other.url, other.tokens.get("web-1")!, `${more}services: [cloudflared, ssh]\n`);
  agent.child.kill("SIGHUP");
  await agent.said("configuration reloaded");
  const seen = () => other.get<{ status: string }>("/v1/hosts/web-1");
  await until("the other receiver is told", async () => (await seen()).status === "online");
  const status = expect.any(String);
  const services = ["cloudflared", "ssh"].map((name) => ({ name, status }));
  expect(await seen()).toMatchObject({ cloudflared: { status }, services });
  writeFileSync(config, "receiver: { url: nonsense }\n");
  agent.child.kill("SIGHUP");
  await agent.said("the former one stays");
  configure(folder, hub.url, hub.tokens.get("web-1")!, more);
  writeFileSync(config, readFileSync(config, "utf8").replace(/data_dir: .*/, `data_dir: ${folder.at("elsewhere")}`));
  agent.child.kill("SIGHUP");
  await agent.said("data_dir: a change takes effect at the next start");
  await agent.kill();
  expect(existsSync(folder.at("elsewhere"))).toBe(false);
});

test.each([
  ["", "green"],
  ['{"level":"warn","msg":"ship a: answered 503: busy"}', "yellow"],
  [
    '{"level":"warn","msg":"episode \\"a\\" not shipped: no answer"}\n{"level":"error","msg":"episode put into quarantine","status":400}',
    "red",
  ],
  ["episode put into quarantine status=422", "red"],
  ['{"level":"error","msg":"x","status":400}\n{"level":"error","msg":"x","status":412}', "red"],
  ["x status=400\nx status=412", "red"],
])("a journal of %s is %s", async (text, state) => {
  const { judgeJournal } = await import("../lib/agent/doctor.ts");
  const check = judgeJournal(text);
  expect(check.state).toBe(state as "green");
  if (text.includes("412")) expect(check.detail).toContain("412");
});
