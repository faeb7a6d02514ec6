// Every fault once to every role, under load, at random from a seed that is printed (test/faults/run.ts is the long form). Each
// role has a process of its own for its load, so that none waits for another's.
// PICKET_FAULT_SEED repeats a run. Not tested: what a disk loses that says "synced" and isn't; file systems other than ext4.

import { beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { binaries } from "../binaries.ts";
import { chooseSeed } from "./chance.ts";
import { ROLES } from "./world.ts";

const seed = chooseSeed();
beforeAll(async () => {
  console.log(`PICKET_FAULT_SEED=${seed}`);
  await binaries();
});

for (const role of ROLES) {
  test.concurrent(`${role}: what was acknowledged outlives every fault, once and whole, and nothing is leaked`, async () => {
    const running = Bun.spawn([process.execPath, join(import.meta.dir, "run.ts")], {
      env: {
        ...process.env,
        PICKET_FAULT_SEED: String(seed),
        PICKET_FAULT_ROUNDS: "0",
        PICKET_FAULT_ROLES: role,
      },
      stdout: "pipe",
      stderr: "pipe",
    });
    const said = await Promise.all([new Response(running.stdout).text(), new Response(running.stderr).text()]);
    console.log(said.join("").trim());
    expect(await running.exited).toBe(0);
  });
}
