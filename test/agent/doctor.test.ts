// The doctor's checks, from the configuration to the receiver.

import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { ENVELOPE, FakeHub, Lab, configure, refusal, start } from "./kit.ts";
import { Folder, runRole, until } from "../kit.ts";
import { Hub } from "../receiver/kit.ts";

test("the doctor shows an invalid or missing configuration as a red check", async () => {
  using place = new Lab("http://127.0.0.1:9", { more: "nonsense: 1\ninterval_seconds: often\n" });
  const table = await place.run(["doctor"]);
  expect([table.code, table.stdout]).toEqual([
    2,
    expect.stringMatching(/^red +configuration +.*nonsense: unknown key/m),
  ]);
  expect(table.stdout).toContain("interval_seconds");
  expect(table.stdout).toContain("fix: ");
  const env = {
    HOME: place.folder.path,
    XDG_CONFIG_HOME: place.folder.path,
    PICKET_URL: undefined,
    PICKET_TOKEN: undefined,
  };
  const bare = await runRole("agent", ["doctor", "--json"], { env });
  const { state, checks } = JSON.parse(bare.stdout) as { state: string; checks: { detail: string }[] };
  expect([bare.code, state]).toEqual([2, "red"]);
  expect(checks.map(({ detail }) => detail).join("\n")).toContain("PICKET_TOKEN");
});

test("the doctor finds problems, and the receiver gets the result", async () => {
  await using hub = await Hub.start();
  using folder = new Folder();
  const token = hub.tokens.get("web-1")!;
  const config = configure(folder, hub.url, token, `ship: { episodes_dir: ${folder.at("episodes")} }\n`);
  mkdirSync(folder.at("episodes"));
  type Result = { state: string; checks: { name: string; state: string; detail: string; fix?: string }[] };
  const look = async (path = config): Promise<{ code: number; result: Result }> => {
    const { code, stdout } = await runRole("agent", ["doctor", "--json", "--config", path]);
    expect(stdout).not.toContain("pk_");
    return { code, result: JSON.parse(stdout) as Result };
  };
  const well = await look();
  expect([well.code, well.result.state]).toEqual([0, "green"]);
  expect(well.result.checks.map(({ name }) => name)).toContain("clock");
  mkdirSync(folder.at("quarantine/old"), { recursive: true });
  const reason = { status: 412, body: { remediation: "cd /opt/lab && git pull" }, time: new Date().toISOString() };
  writeFileSync(folder.at("quarantine/old/quarantine_reason.json"), JSON.stringify(reason));
  const refused = await look();
  expect(refused.code).toBe(2);
  expect(refused.result.checks.find(({ name }) => name === "version gate")).toMatchObject({
    state: "red",
    fix: "cd /opt/lab && git pull",
  });
  const table = await runRole("agent", ["doctor", "--config", config]);
  expect(table.stdout).toMatch(/^red +version gate .*\n +fix: cd \/opt\/lab/m);
  const foreign = await look(configure(folder, hub.url, `pk_${"x".repeat(40)}`));
  expect([foreign.code, foreign.result.checks.find(({ name }) => name === "token")?.state]).toEqual([2, "red"]);
  const away = await look(configure(folder, "http://127.0.0.1:9", token));
  expect([away.code, away.result.checks.find(({ name }) => name === "tls")?.state]).toEqual([2, "red"]);
  configure(folder, hub.url, token);
  await using again = await start(config);
  await until("the result is there", async () => (await fetch(`${hub.url}/v1/host-health/web-1`)).status === 200);
  expect(await hub.get("/v1/host-health/web-1")).toMatchObject({ health: { state: "green" } });
  await again.kill();
});

test("a receiver that rejects the reports is seen by the doctor until one is taken, and by the status line", async () => {
  let status = 422;
  const hub = new FakeHub({
    "/v1/host-report": () =>
      status === 200 ? Response.json(ENVELOPE) : refusal(status, { error: "metrics.x: expected a number" }),
  });
  using place = new Lab(hub, { more: "interval_seconds: 0.2\n" });
  await using agent = await place.start();
  await agent.said("this report is dropped");
  const { code, stdout } = await place.run(["doctor"]);
  expect([code, stdout]).toEqual([2, expect.stringMatching(/^red +reports .*422: metrics.x: expected a number/m)]);
  status = 200;
  await agent.said("answers again");
  expect((await place.run(["doctor"])).stdout).not.toContain("red ");
});
