// The collector under load: deliveries with ids to one and to two recipients, tried again or given up; drops, synced before
// they count as handed over.

import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { CuttingProxy } from "../cutting-proxy.ts";
import type { Chance } from "./chance.ts";
import { type Found, Ledger, digestOf } from "./oracle.ts";
import { MOST_PAUSE_MS, send } from "./load.ts";
import type { Handover, Subject, World } from "./world.ts";

const ROUTES = { "/hook": ["bob"], "/both": ["carol", "dave"] } as const;
const DROPS_FOR = "erin";
const RECIPIENTS = [...Object.values(ROUTES).flat(), DROPS_FOR];
/** Long enough for all numbers, so that requests are of one length. */
const DIGITS = 8;

/** What the load hands to a collector, and where it has to be. */
export function collectorSubject(world: World): Subject {
  const ledger = new Ledger();
  const inbox = join(world.data, "inbox");
  // Elsewhere they keep coming while the inbox's disk is full; beside it a power cut takes deletions back.
  const drops = join(world.chance.fork("drops").next() < 0.5 ? world.data : world.folder.path, "drops");
  let number = 0;
  let runs = 0;

  function handover(chance: Chance, fill = ""): Handover {
    const id = String(number++).padStart(DIGITS, "0");
    const path = chance.pick(["/hook", "/both"] as const);
    const keys = ROUTES[path].map((recipient) => `${recipient} ${id}`);
    return {
      request: {
        method: "POST",
        path,
        headers: { "x-github-delivery": `delivery-${id}` },
        body: JSON.stringify({ id, fill }),
      },
      attempt: () => keys.forEach((key) => ledger.attempt(key, digestOf(`${id} ${fill}`))),
      answered: (status) => status === 202 && keys.forEach((key) => ledger.acknowledge(key)),
    };
  }

  /** Drops a file, durably. */
  function drop(chance: Chance): void {
    const id = String(number++).padStart(DIGITS, "0");
    const payload = `${id} ${chance.text(chance.between(0, 500))}`;
    const hidden = join(drops, `.${id}.tmp`);
    const key = `${DROPS_FOR} ${id}`;
    ledger.attempt(key, digestOf(payload));
    try {
      writeFileSync(hidden, JSON.stringify({ recipient: DROPS_FOR, type: "INFO", payload }), { flush: true });
      renameSync(hidden, join(drops, `${id}.json`));
      syncFolder(drops);
      ledger.acknowledge(key);
    } catch {
      // No room, or a disk that can't be written: it was not handed over.
      tryTo(() => rmSync(hidden, { force: true }));
    }
  }

  return {
    ledger,
    clockOffset: 0,
    handover: (chance) => handover(chance),
    async prepare() {
      mkdirSync(drops);
      writeFileSync(
        world.config,
        `agent: foreman
inbox_dir: ${inbox}
webhook:
  listen: 127.0.0.1:${world.port}
  routes:
    - { path: /hook, recipient: bob, type: INFO, template: "{{ .id }} {{ .fill }}" }
    - { path: /both, recipient: [carol, dave], type: INFO, template: "{{ .id }} {{ .fill }}" }
drop_folder: { path: ${drops}, poll_fallback_seconds: 1 }
`,
      );
      world.proxy = await CuttingProxy.to(world.port);
    },
    async load(stop) {
      const deliverer = async (chance: Chance) => {
        while (!stop.aborted) {
          const fill = chance.text(chance.between(0, 1500));
          await send(world, handover(chance, fill), { stop, tries: chance.pick([1, 3, 1000]) });
          await Bun.sleep(chance.between(1, MOST_PAUSE_MS));
        }
      };
      const dropper = async (chance: Chance) => {
        while (!stop.aborted) {
          await world.mayWrite();
          drop(chance);
          await Bun.sleep(chance.between(1, 15));
        }
      };
      const chance = world.chance.fork(`load ${runs++}`);
      const workers = Array.from({ length: chance.between(6, 16) }, (_, n) => deliverer(chance.fork(`deliverer ${n}`)));
      await Promise.all([...workers, dropper(chance.fork("dropper"))]);
    },
    async probe() {
      const healthy = await fetch(`http://127.0.0.1:${world.port}/health`, { keepalive: false }).catch(() => null);
      if (healthy?.status !== 200) return false;
      return send(world, handover(world.chance.fork("probe")), { tries: 1 });
    },
    waiting: () => readdirSync(drops).filter((name) => name.endsWith(".json")),
    settle: async () => {},
    async judge() {
      const found: Found[] = [];
      const complaints: string[] = [];
      for (const recipient of RECIPIENTS) {
        const { lines, torn } = linesOf(join(inbox, `${recipient}.inbox`));
        if (torn > world.mayHaveTorn) complaints.push(`${torn} lines of ${recipient}.inbox are torn`);
        for (const line of lines) {
          const { payload, to } = line as { payload: string; to: string };
          found.push([`${to} ${payload.slice(0, DIGITS)}`, digestOf(payload)]);
        }
      }
      const dead = tryTo(() => readdirSync(join(drops, ".dead-letter"))) ?? [];
      return [...complaints, ...dead.map((name) => `a good drop is a dead letter: ${name}`), ...ledger.judge(found)];
    },
    litter: () => litterIn(world.data),
    end: async () => {},
  };
}

/** The lines of a file of JSON, and how many of them are none. */
export function linesOf(path: string): { lines: unknown[]; torn: number } {
  const text = tryTo(() => readFileSync(path, "utf8")) ?? "";
  const lines: unknown[] = [];
  let torn = text === "" || text.endsWith("\n") ? 0 : 1;
  for (const line of text.split("\n").slice(0, -1)) {
    // Blanks are what retracted lines leave, zeros what a power cut does.
    const bare = line.replace(/^\0+/, "").trim();
    if (bare === "") continue;
    try {
      lines.push(JSON.parse(bare));
    } catch {
      torn++;
    }
  }
  return { lines, torn };
}

/** Temporary files anywhere below a folder. */
export function litterIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true })
    .map(String)
    .filter((name) => /\.(tmp|partial|new)$/.test(name));
}

/** What `work` gives, or undefined where it throws. */
export function tryTo<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}

/** fsync(2) on a folder. */
export function syncFolder(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
