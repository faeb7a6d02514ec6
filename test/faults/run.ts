#!/usr/bin/env bun
// The long form of the faults: bun run faults
//
//   PICKET_FAULT_SEED     the seed of all chance (default: a new one, printed)
//   PICKET_FAULT_ROUNDS   rounds a role, each of one to four faults (20); 0: each kind once, as in the tests
//   PICKET_FAULT_ROLES    collector,receiver,observer,agent (all of them)
//   PICKET_FAULT_KINDS    only these faults, such as powerCut,killNine (all of them)

import { chooseSeed } from "./chance.ts";
import { again, atRandom, eachOnce, only, run, told } from "./rounds.ts";
import { ROLES, type Role, compile } from "./world.ts";

const seed = chooseSeed();
const rounds = Number(process.env["PICKET_FAULT_ROUNDS"] ?? 20);
const wanted = (process.env["PICKET_FAULT_ROLES"] ?? ROLES.join(",")).split(",");
const kinds = process.env["PICKET_FAULT_KINDS"]?.split(",") ?? null;
const unknown = wanted.filter((role) => !(ROLES as readonly string[]).includes(role));
if (unknown.length > 0) {
  console.error(`PICKET_FAULT_ROLES: no role "${unknown.join('", "')}": expected some of ${ROLES.join(",")}`);
  process.exit(2);
}
console.log(`PICKET_FAULT_SEED=${seed}`);
await compile();
let failed = 0;
for (const role of wanted as Role[]) {
  try {
    const plan = only(kinds, rounds === 0 ? eachOnce : atRandom(rounds));
    console.log(told(await run({ role, seed, plan }, (line) => console.log(line))));
  } catch (error) {
    failed++;
    console.error(`${(error as Error).message}\nagain: ${again(seed, role, rounds)}`);
  }
}
process.exit(failed === 0 ? 0 : 1);
