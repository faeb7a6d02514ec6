// The long load's short form: seconds instead of an hour, to see that nothing is refused. `bun run load` is the long one.

import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { until } from "../kit.ts";
import { Fleet, SERVICES, most, steady } from "./load.ts";

test("everything at once: nothing is refused, drops and episodes are all taken, all end well", async () => {
  await using fleet = new Fleet();
  await fleet.start();
  const limit = await most(fleet, 2);
  const half = Object.fromEntries(Object.entries(limit).map(([kind, rate]) => [kind, rate / 2])) as typeof limit;
  const looks = await steady(fleet, half, { seconds: 6, looks: 3 });
  fleet.tidy();
  expect(fleet.failures).toBe(0);
  expect(looks.length).toBeGreaterThan(1);
  await until(
    "all drops are taken",
    () => readdirSync(fleet.folder.at("drops")).filter((name) => name.endsWith(".json")).length === 0,
  );
  await until("all episodes are shipped", () => readdirSync(fleet.folder.at("lab/episodes")).length === 0);
  expect(readdirSync(fleet.folder.at("drops")).filter((name) => name === ".dead-letter")).toEqual([]);
  for (const name of SERVICES) expect([name, await fleet.daemons.get(name)!.kill()]).toEqual([name, 0]);
  console.log(JSON.stringify(fleet.counts));
});
