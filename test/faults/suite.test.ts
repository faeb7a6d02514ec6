// Every fault once to every role, under load, at random from a seed that is printed (test/faults/run.ts is the long form).
// PICKET_FAULT_SEED repeats a run. Not tested: what a disk loses that says "synced" and isn't; file systems other than ext4.

import { beforeAll, expect, test } from "bun:test";
import { chooseSeed } from "./chance.ts";
import { again, eachOnce, run, told } from "./rounds.ts";
import { ROLES, compile } from "./world.ts";

const seed = chooseSeed();
beforeAll(async () => {
  console.log(`PICKET_FAULT_SEED=${seed}`);
  await compile();
}, 120_000);

for (const role of ROLES) {
  test(`${role}: what was acknowledged outlives every fault, once and whole, and nothing is leaked`, async () => {
    try {
      const summary = await run({ role, seed, plan: eachOnce });
      console.log(told(summary));
      expect(summary.acknowledgements).toBeGreaterThan(10);
    } catch (error) {
      console.log(`again: ${again(seed, role, 0)}`);
      throw error;
    }
  }, 180_000);
}
