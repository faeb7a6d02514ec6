// Past one machine, each fault once under load, at random from a seed that is printed (test/faults/scale.ts is the long form).
// PICKET_FAULT_SEED repeats a run.

import { expect, test } from "bun:test";
import { chooseSeed } from "../faults/chance.ts";
import { FAULTS, type Kind, type Rounds, runScale } from "../faults/scale.ts";
import { have } from "../kit.ts";
import { postgresPrograms } from "../postgres.ts";

const programs = postgresPrograms("faults past one machine");
const isPossible = programs !== null && have("caddy", "faults past one machine");

test.skipIf(!isPossible)(
  "receivers and collectors share a database and a bucket, and nothing that dies loses or doubles anything",
  async () => {
    const seed = chooseSeed();
    console.log(`PICKET_FAULT_SEED=${seed}`);
    const kinds = (Object.keys(FAULTS) as Kind[]).filter((kind) => kind !== "replacedReceiver");
    const rounds: Rounds = (chance) => [chance.shuffled(kinds)];
    console.log(await runScale({ programs: programs!, seed, rounds }));
    expect(programs).not.toBeNull();
  },
);
