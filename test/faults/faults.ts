// The faults: each does its harm to a world under load, and undoes it. Then the role has to answer again by itself, unless what
// was done ends a process anyway.

import type { Socket } from "node:net";
import type { Chance } from "./chance.ts";
import { bytesOf, dial, exchange, statusOf } from "./wire.ts";
import { type World, canBreakDisks, canFailDisks } from "./world.ts";

const HOUR = 3600;
const DAY = 24 * HOUR;
/** How many connections stay idle. */
const IDLE_CONNECTIONS = 5000;
/** What a role may open when descriptors are scarce. */
const FEW_DESCRIPTORS = 64;
/** So many positions at which a request is cut at a time, and this part of all of them: a long run comes to each. */
const CUTS_AT_ONCE = 150;
const SHARE_AT_ONCE = 0.4;
const SLOW_CLIENTS = 30;
/** How often a request arrives whole, and its answer doesn't. */
const ANSWERS_LOST = 0.2;
/** How long a sender waits at most before it sends again. */
const MOST_PATIENT_MS = 20;

/** A fault: does and undoes. */
export type Fault = (world: World, chance: Chance) => Promise<void>;

/** kill -9, and another start. */
const killNine: Fault = async (world, chance) => {
  await Bun.sleep(chance.between(20, 400));
  await world.kill();
  await world.start();
};

/** The power goes: what was not written back is gone, and the machine comes up again. */
const powerCut: Fault = async (world, chance) => {
  await Bun.sleep(chance.between(50, 500));
  await world.standing(() => world.volume!.cutPower(() => world.kill()));
  world.mayHaveTorn++;
  await world.start();
};

/** A debugger, a snapshot of the machine, a laptop's lid. */
const stopAndContinue: Fault = async (world, chance) => {
  world.daemon.child.kill("SIGSTOP");
  await Bun.sleep(chance.between(100, 2000));
  world.daemon.child.kill("SIGCONT");
};

const fullDisk: Fault = async (world, chance) => {
  await world.volume!.fill();
  await Bun.sleep(chance.between(300, 1500));
  world.volume!.free();
};

/**
 * The device fails, and the kernel lets nobody write any more; an operator checks it, mounts it again and starts the role.
 * No sync is under way at that moment: ext4 (seen with 6.18) now and then lets an fdatasync(2) succeed that was under way when
 * it gave up its journal, and its data is gone. No program can know of that.
 */
const readOnlyDisk: Fault = async (world, chance) => {
  await world.standing(() => world.volume!.fail());
  await Bun.sleep(chance.between(300, 1200));
  await world.frozen(async () => {
    await world.kill();
    await world.volume!.mend();
  });
  world.mayHaveTorn++;
  await world.start();
};

/**
 * The clock is set, runs on for a while, and is set right. Something else goes wrong meanwhile, so that whoever notes when to
 * try again notes it by the wrong clock. What was sent before is sent again, as by a sender that had no answer.
 */
const clockJump: Fault = async (world, chance) => {
  await restarted(world, { env: { ...world.clock!.env, NO_FAKE_STAT: "1" } }, async () => {
    await world.answers();
    const former = world.subject.handover?.(chance);
    const sendAgain = async () => {
      former?.attempt();
      if (former) former.answered(await exchange(world.port, bytesOf(former.request)));
    };
    await sendAgain();
    for (const offset of chance.shuffled([HOUR, -HOUR, DAY, -DAY]).slice(0, 2)) {
      world.clock!.offset(offset);
      world.subject.clockOffset = offset;
      await sendAgain();
      await trouble(world);
      const waiting = world.subject.waiting();
      await Bun.sleep(chance.between(100, 500));
      await world.answers();
      world.clock!.offset(0);
      world.subject.clockOffset = 0;
      await world.answers();
      await sendAgain();
      await world.arrived(waiting);
    }
  });
};

/** Trouble that ends soon: no way to the receiver for an agent, no room for others. */
async function trouble({ subject, proxy, volume }: World): Promise<void> {
  if (subject.handover) {
    await volume?.fill();
    await Bun.sleep(600);
    return volume?.free();
  }
  proxy.cutAfter = 0;
  proxy.cutAll();
  await Bun.sleep(1500);
  proxy.cutAfter = Number.POSITIVE_INFINITY;
}

/** A request is cut at one byte after another, and now and then only its answer; half of them are sent again. */
const cutConnections: Fault = async (world, chance) => {
  const { handover } = world.subject;
  if (!handover) return cutUploads(world, chance);
  const { length } = bytesOf(handover(chance).request);
  world.requestLength = length + 1;
  // The permutation is the world's, so that a run comes to every position.
  const positions = world.chance.fork("positions").shuffled(Array.from({ length: length + 1 }, (_, at) => at));
  const left = positions.filter((at) => !world.cutPositions.has(at));
  const some = Math.max(CUTS_AT_ONCE, Math.ceil(positions.length * SHARE_AT_ONCE));
  for (const next of (left.length > 0 ? left : positions).slice(0, some)) {
    const at = chance.next() < ANSWERS_LOST ? length : next;
    world.cutPositions.add(at);
    world.proxy.cutAfter = at;
    const { request, attempt, answered } = handover(chance);
    attempt();
    answered(await exchange(world.proxy.port, bytesOf(request)));
    if (chance.next() < 0.5) continue;
    // At once it meets the first one under way; later it finds what that left.
    await Bun.sleep(chance.between(0, MOST_PATIENT_MS));
    answered(await exchange(world.port, bytesOf(request)));
  }
  world.proxy.cutAfter = Number.POSITIVE_INFINITY;
};

/** An agent's connections are cut while it ships. */
const cutUploads: Fault = async (world, chance) => {
  world.requestLength = 700;
  const all = world.chance.fork("positions").shuffled(Array.from({ length: world.requestLength }, (_, at) => at));
  world.proxy.nextCut = () => {
    const at = all.find((one) => !world.cutPositions.has(one)) ?? chance.pick(all);
    world.cutPositions.add(at);
    return at;
  };
  world.proxy.cutAll();
  await Bun.sleep(2000);
  world.proxy.nextCut = null;
};

/** Clients that send one request after another and read no answer. */
const slowReaders: Fault = async (world, chance) => {
  const { handover } = world.subject;
  if (!handover) return trickling(world, chance.between(20, 200));
  const metrics = bytesOf({ method: "GET", path: "/metrics" });
  const sockets = await dialMany(world.port, SLOW_CLIENTS);
  for (const socket of sockets) {
    socket.pause();
    for (let n = 0; n < 60; n++) socket.write(metrics);
  }
  await world.answers();
  await Bun.sleep(chance.between(200, 1000));
  hangUp(sockets);
};

/** Clients that write a byte at a time. All of them have to get their answer. */
const slowWriters: Fault = async (world, chance) => {
  const { handover } = world.subject;
  if (!handover) return trickling(world, 1);
  const sockets = await dialMany(world.port, SLOW_CLIENTS);
  const statuses = await Promise.all(
    sockets.map(async (socket) => {
      const { request, attempt, answered } = handover(chance);
      attempt();
      const status = statusOf(socket, 60);
      for (const byte of bytesOf(request)) {
        socket.write(Uint8Array.of(byte));
        await Bun.sleep(3);
      }
      answered(await status);
      return status;
    }),
  );
  hangUp(sockets);
  if (statuses.some((status) => status < 200 || status > 299))
    throw new Error(`slow writers are answered ${statuses.join(", ")}`);
};

/** The agent's network lets few bytes through at a time. */
async function trickling(world: World, bytes: number): Promise<void> {
  world.proxy.trickle = bytes;
  await Bun.sleep(2500);
  world.proxy.trickle = 0;
}

/** Connections on which nothing comes; others are served meanwhile. */
const idleConnections: Fault = async (world, chance) => {
  const sockets = await dialMany(world.port, IDLE_CONNECTIONS);
  if (sockets.length < IDLE_CONNECTIONS)
    console.log(`only ${sockets.length} idle connections: no more descriptors here`);
  await world.answers();
  await Bun.sleep(chance.between(100, 500));
  hangUp(sockets);
};

/** There are too few descriptors for everybody who comes. */
const exhaustDescriptors: Fault = async (world, chance) => {
  const wrap = ["sh", "-c", `ulimit -n ${FEW_DESCRIPTORS}; exec "$@"`, "sh"];
  await restarted(world, { wrap }, async () => {
    const sockets = await dialMany(world.port, 2 * FEW_DESCRIPTORS);
    await Bun.sleep(chance.between(300, 1500));
    hangUp(sockets);
    await world.answers();
  });
};

/** Runs the role in another way for a while; it ends well before and after. */
async function restarted(
  world: World,
  how: { wrap?: string[]; env?: Record<string, string> },
  work: () => Promise<void>,
): Promise<void> {
  await world.stop();
  await world.start(how);
  await work();
  await world.stop();
  await world.start();
}

/** As many connections as can be had, up to `count`. */
async function dialMany(port: number, count: number): Promise<Socket[]> {
  const sockets: Socket[] = [];
  while (sockets.length < count) {
    const some = await Promise.all(Array.from({ length: Math.min(250, count - sockets.length) }, () => dial(port)));
    const open = some.filter((one) => one !== null);
    sockets.push(...open);
    if (open.length < some.length) break;
  }
  return sockets;
}

function hangUp(sockets: Socket[]): void {
  for (const socket of sockets) socket.destroy();
}

const ALL = {
  killNine,
  powerCut,
  stopAndContinue,
  fullDisk,
  readOnlyDisk,
  clockJump,
  cutConnections,
  slowReaders,
  slowWriters,
  idleConnections,
  exhaustDescriptors,
};

export type Kind = keyof typeof ALL;
export const FAULTS: Readonly<Record<Kind, Fault>> = ALL;

const NEEDS_A_DISK = new Set<Kind>(["powerCut", "fullDisk", "readOnlyDisk"]);

/** The kinds that can be done to a role on this machine, in a fixed order. */
export function kindsFor({ clock, subject }: World): Kind[] {
  return (Object.keys(ALL) as Kind[]).filter((kind) => {
    if (NEEDS_A_DISK.has(kind)) return kind === "readOnlyDisk" ? canFailDisks : canBreakDisks;
    if (kind === "clockJump") return clock !== null;
    // An agent listens nowhere.
    return kind !== "idleConnections" || subject.handover !== null;
  });
}
