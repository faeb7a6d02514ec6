// The observer under load: operations with ids, one by one and in arrays, tried again or given up.

import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CuttingProxy } from "../cutting-proxy.ts";
import type { Chance } from "./chance.ts";
import { linesOf, litterIn } from "./collector.ts";
import { MOST_PAUSE_MS, send } from "./load.ts";
import { type Found, Ledger, digestOf } from "./oracle.ts";
import type { Handover, Subject, World } from "./world.ts";

const DIGITS = 8;

interface Op {
  id: string;
  endpoint: string;
  success: boolean;
  input_summary: string;
  error?: string;
}

/** What the load hands to an observer, and what its log has to hold. */
export function observerSubject(world: World): Subject {
  const ledger = new Ledger();
  const data = join(world.data, "observer");
  let number = 0;
  let runs = 0;

  function operation(chance: Chance, fill: string): Op {
    const id = String(number++).padStart(DIGITS, "0");
    const success = chance.next() < 0.7;
    const error = success ? {} : { error: "no route to host" };
    return { id, endpoint: `step ${chance.between(1, 5)}`, success, input_summary: fill, ...error };
  }

  function handover(ops: Op[]): Handover {
    const body = JSON.stringify(ops.length === 1 ? ops[0] : ops);
    return {
      request: { method: "POST", path: "/observer/event", body },
      attempt: () => ops.forEach((op) => ledger.attempt(op.id, digest(op))),
      answered: (status) => status === 200 && ops.forEach(({ id }) => ledger.acknowledge(id)),
    };
  }

  const segments = () => readdirSync(data).filter((name) => /^ops(\.\d+)?\.jsonl$/.test(name));

  function logged(): { ops: Op[]; torn: number } {
    const ops: Op[] = [];
    let torn = 0;
    const names = segments();
    for (const name of names) {
      const file = linesOf(join(data, name));
      ops.push(...(file.lines as Op[]));
      torn += file.torn;
    }
    // Rotated meanwhile: what was read under its old name, or not at all, is in a segment that was not there.
    return segments().length === names.length ? { ops, torn } : logged();
  }

  return {
    ledger,
    clockOffset: 0,
    // Of constant length: it succeeds always.
    handover: () =>
      handover([{ id: String(number++).padStart(DIGITS, "0"), endpoint: "cut", success: true, input_summary: "x" }]),
    async prepare() {
      writeFileSync(
        world.config,
        `listen: 127.0.0.1:${world.port}
persist_path: ${join(data, "ops.jsonl")}
rotate_mb: 1
cycle_seconds: 0.3
notify: { recipient: ops, inbox_dir: ${join(world.data, "inbox")} }
`,
      );
      world.proxy = await CuttingProxy.to(world.port);
    },
    async load(stop) {
      const chance = world.chance.fork(`load ${runs++}`);
      const recorder = async (own: Chance, most: number) => {
        while (!stop.aborted) {
          const some = Array.from({ length: own.between(1, most) }, () =>
            operation(own, own.text(own.between(0, 400))),
          );
          await send(world, handover(some), { stop, tries: own.pick([1, 3, 1000]) });
          await Bun.sleep(own.between(1, MOST_PAUSE_MS));
        }
      };
      const single = Array.from({ length: chance.between(5, 12) }, (_, n) => recorder(chance.fork(`single ${n}`), 1));
      const arrays = Array.from({ length: 3 }, (_, n) => recorder(chance.fork(`array ${n}`), 20));
      await Promise.all([...single, ...arrays]);
    },
    async probe() {
      const healthy = await fetch(`http://127.0.0.1:${world.port}/observer/health`, { keepalive: false }).catch(
        () => null,
      );
      if (healthy?.status !== 200) return false;
      return send(world, handover([operation(world.chance.fork("probe"), "probe")]), { tries: 1 });
    },
    waiting: () => [],
    settle: async () => {},
    async judge() {
      const { ops, torn } = logged();
      const complaints = ledger.judge(ops.map((op): Found => [op.id, digest(op)]));
      if (torn > world.mayHaveTorn) complaints.push(`${torn} lines of the log are torn`);
      const answer = await fetch(`http://127.0.0.1:${world.port}/observer/stats`, { keepalive: false });
      const { total, failures } = (await answer.json()) as { total: number; failures: number };
      const failed = ops.filter(({ success }) => !success).length;
      if (total !== ops.length || failures !== failed) {
        complaints.push(`counted: ${total}, ${failures} failed; in the log: ${ops.length}, ${failed} failed`);
      }
      return complaints;
    },
    litter: () => litterIn(world.data),
    end: async () => {},
  };
}

function digest({ endpoint, success, input_summary, error }: Op): string {
  return digestOf(endpoint, String(success), input_summary, error ?? "");
}
