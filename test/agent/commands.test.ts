// The agent's commands at a terminal: ping, selftest, quarantine.

import { expect, test } from "bun:test";
import { FakeHub, Lab, configure } from "./kit.ts";
import { Folder, runRole } from "../kit.ts";
import { Hub } from "../receiver/kit.ts";

test("ping and the doctor detect a server that answers everything with 200 but isn't a receiver", async () => {
  const hub = new FakeHub({ "/v1/ping": () => new Response("<h1>Welcome</h1>") });
  using place = new Lab(hub);
  const ping = await place.run(["ping"]);
  expect([ping.code, ping.stdout, ping.stderr]).toEqual([
    1,
    "",
    expect.stringContaining("the answer is not a receiver's"),
  ]);
  const doctor = await place.run(["doctor", "--json"]);
  const { checks } = JSON.parse(doctor.stdout) as { checks: { name: string; state: string }[] };
  expect([doctor.code, checks.find(({ name }) => name === "token")?.state]).toEqual([2, "red"]);
});

test("a receiver's texts can't send control characters to the terminal", async () => {
  const answer = {
    code: "old_commit",
    error: "old\u001b[2J\nep-2  200  shipped",
    remediation: "cd /opt/lab\ngit pull\u001b[31m",
  };
  const hub = new FakeHub({
    ".tar.zst": () => Response.json(answer, { status: 412 }),
    "/v1/ping": () => Response.json({ host: "web-1\u001b[1m" }),
  });
  using place = new Lab(hub, { more: "host_id: web-1\n" });
  place.episode("ep-1");
  await place.once();
  const list = await place.run(["quarantine", "list"]);
  expect(list.stdout.trimEnd()).toMatch(/^ep-1  412  \S+  old\\u001b\[2J\\u000aep-2  200  shipped$/);
  const [doctor, ping] = [await place.run(["doctor"]), await place.run(["ping"])];
  expect(doctor.stdout).toContain("cd /opt/lab\ngit pull\\u001b[31m\n");
  expect(doctor.stdout + ping.stdout).not.toContain("\u001b");
});

test("ping and selftest show their results, and never the token", async () => {
  await using hub = await Hub.start();
  using folder = new Folder();
  const token = hub.tokens.get("web-1")!;
  const config = configure(folder, hub.url, token);
  const ping = await runRole("agent", ["ping", "--config", config]);
  const [, ms, skew] = /knows this host as "web-1" \((\d+) ms, clocks differ by (\d+) s\)/.exec(ping.stdout) ?? [];
  expect(ping.code).toBe(0);
  // Both use one clock: the difference is at most the time of the request.
  expect(Number(skew)).toBeLessThanOrEqual(Math.round(Number(ms) / 1000));
  expect(hub.rows("SELECT * FROM host_samples")).toEqual([]);
  const test = await runRole("agent", ["selftest", "--config", config, "--log-level", "debug"]);
  expect(test.stdout).toContain('"memory_total_mb"');
  expect(test.stdout).toContain(`${hub.url}/v1/host-report: 200 {"poll_interval_seconds":60`);
  const host = await runRole("agent", ["selftest", "host", "--json", "--config", config]);
  expect(JSON.parse(host.stdout)).toMatchObject({ metrics: { uptime_seconds: expect.any(Number) } });
  const less = configure(folder, hub.url, token, "omit: [processes, disks]\n");
  const words = await runRole("agent", ["selftest", "host", "--config", less]);
  expect(words.stdout).toMatch(/^memory +\S+ [MG]B of \S+ [MG]B used/m);
  expect(words.stdout).toMatch(/^disks +not known here\n[^]*^processes +not known here$/m);
  const wrong = await runRole("agent", ["selftest", "everything", "--config", config]);
  expect(wrong.code).toBe(2);
  const shown = await runRole("agent", ["--check", "--print", "--config", config]);
  for (const one of [ping, test, host, wrong, shown]) expect(one.stdout + one.stderr).not.toContain(token);
  const refused = await runRole("agent", ["ping", "--config", configure(folder, hub.url, `pk_${"x".repeat(40)}`)]);
  expect(refused.code).toBe(3);
});
