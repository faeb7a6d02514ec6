// Rounds of faults: load, faults one after the other, an answer within seconds after each; then calm, the oracle, and what is left.

import { agentSubject } from "./agent.ts";
import { Chance } from "./chance.ts";
import { collectorSubject } from "./collector.ts";
import { FAULTS, type Kind, kindsFor } from "./faults.ts";
import { observerSubject } from "./observer.ts";
import { receiverSubject } from "./receiver.ts";
import { type Role, type Subject, World } from "./world.ts";

const SUBJECTS: Record<Role, (world: World) => Subject> = {
  collector: collectorSubject,
  receiver: receiverSubject,
  observer: observerSubject,
  agent: agentSubject,
};
const MEBIBYTES = 256;
const MOST_FAULTS = 4;
/** How long a role is watched at work before it is said what it holds when it is calm. */
const WARM_UP_MS = 1000;

/** What a run of one role came to. */
export interface Summary {
  role: Role;
  rounds: number;
  /** How often each kind was done. */
  faults: Map<Kind, number>;
  attempts: number;
  acknowledgements: number;
  /** Positions at which a request was cut, of how many there are. */
  cuts: [number, number];
  /** Slowest return to service, in milliseconds. */
  slowest: number;
  /** What it held before and after. */
  held: string;
}

/** How the rounds of a run are made up: each is a row of faults. */
export type Plan = (chance: Chance, kinds: readonly Kind[]) => Kind[][];

/** Every kind once, in some order. */
export const eachOnce: Plan = (chance, kinds) => inRows(chance.shuffled(kinds));

/** So many rounds of one to four faults at random; kinds that have not come yet come first. */
export function atRandom(rounds: number): Plan {
  return (chance, kinds) => {
    let bag: Kind[] = [];
    return Array.from({ length: rounds }, () =>
      Array.from({ length: chance.between(1, MOST_FAULTS) }, () => {
        if (bag.length === 0) bag = chance.shuffled(kinds);
        return bag.pop()!;
      }),
    );
  };
}

/** A plan of some kinds alone; null is of all. */
export function only(wanted: readonly string[] | null, plan: Plan): Plan {
  return (chance, kinds) => plan(chance, wanted === null ? kinds : kinds.filter((kind) => wanted.includes(kind)));
}

function inRows(kinds: Kind[]): Kind[][] {
  const rows: Kind[][] = [];
  for (let at = 0; at < kinds.length; at += MOST_FAULTS) rows.push(kinds.slice(at, at + MOST_FAULTS));
  return rows;
}

/** Runs a role through its rounds. @throws Error that says what went wrong in which round, and how to see it again. */
export async function run(
  { role, seed, plan }: { role: Role; seed: number; plan: Plan },
  say: (line: string) => void = () => {},
): Promise<Summary> {
  const chance = new Chance(seed).fork(role);
  await using world = await World.make(role, chance, SUBJECTS[role], MEBIBYTES);
  const rows = plan(chance.fork("plan"), kindsFor(world));
  const faults = new Map<Kind, number>();
  await under(world, () => Bun.sleep(WARM_UP_MS));
  await world.arrived();
  await world.subject.settle();
  await world.rememberCalm();
  for (const [round, row] of rows.entries()) {
    const done: string[] = [];
    try {
      await under(world, async () => {
        for (const [place, kind] of row.entries()) {
          done.push(kind);
          await FAULTS[kind](world, chance.fork(`${round}.${place} ${kind}`));
          await world.answers();
          faults.set(kind, (faults.get(kind) ?? 0) + 1);
        }
      });
      await calmAndWhole(world);
      say(`${role} ${round + 1}/${rows.length}: ${done.join(", ")}`);
    } catch (error) {
      throw new Error(`seed ${seed}, ${role}, round ${round + 1} (${done.join(", ")}): ${(error as Error).message}`, {
        cause: error,
      });
    }
  }
  const { held } = world;
  await world.stop();
  const { attempts, acknowledgements } = world.subject.ledger;
  const cuts: [number, number] = [world.cutPositions.size, world.requestLength];
  return {
    role,
    rounds: rows.length,
    faults,
    attempts,
    acknowledgements,
    cuts,
    slowest: Math.round(world.slowest),
    held,
  };
}

/** Does `work` under load. */
async function under({ subject }: World, work: () => Promise<void>): Promise<void> {
  const stop = new AbortController();
  const load = subject.load(stop.signal);
  try {
    await work();
  } finally {
    stop.abort();
    await load;
  }
}

async function calmAndWhole(world: World): Promise<void> {
  await world.arrived();
  await world.subject.settle();
  const complaints = [...(await world.subject.judge()), ...(await world.leaks())];
  if (complaints.length === 0) return;
  const more = complaints.length > 8 ? `\n… and ${complaints.length - 8} more` : "";
  throw new Error(`${complaints.slice(0, 8).join("\n")}${more}\n${world.lastWords()}`);
}

/** The command that does the same again. */
export function again(seed: number, role: Role, rounds: number): string {
  return `PICKET_FAULT_SEED=${seed} PICKET_FAULT_ROLES=${role} PICKET_FAULT_ROUNDS=${rounds} bun run faults`;
}

/** A line of figures. */
export function told({ role, rounds, faults, attempts, acknowledgements, cuts, slowest, held }: Summary): string {
  const all = [...faults].map(([kind, count]) => `${kind} ${count}`).toSorted();
  return `${role}: ${rounds} rounds, ${acknowledgements} of ${attempts} acknowledged, back after ${slowest} ms at most, cut at ${cuts[0]} of ${cuts[1]} bytes; ${held}; ${all.join(", ")}`;
}
