// Deliveries from forges while the collector is killed, stopped, behind a Caddy that answers 502, and out of disk: each one
// line in the end, however often it was sent. The senders are shaped after the real ones:
//
//   GitHub   gives up after 10 s, sends nothing again by itself; a script of the owner's finds failed deliveries and asks
//            for them again, and a redelivery has the same X-GitHub-Delivery
//            (docs.github.com, "Handling failed webhook deliveries", "Best practices for using webhooks")
//   Forgejo  gives up after DELIVER_TIMEOUT, 5 s; what it had not tried when it was stopped it sends at its next start, under
//            the same id. A replay by hand is a copy with an id of its own (ReplayHookTask in models/webhook), so another event.
//            Beside its own headers it sends those of Gitea, Gogs and GitHub (services/webhook, addDefaultHeaders)
//
// Time limits and pauses are shorter here. Not tested: the forges themselves.

import { expect, test } from "bun:test";
import { createHmac, randomUUID } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import examples from "@octokit/webhooks-examples/api.github.com/index.json";
import { type Caddy, startCaddy } from "../front-kit.ts";
import { type Daemon, Folder, ROOT, certificates, freePort, have, inboxLines, startRole, until } from "../kit.ts";
import { isRoot, smallDisk } from "./disk.ts";

const SECRET = "a secret of ours";
const LIMIT_MS = 300;
const hmac = (hash: "sha256" | "sha1", body: string) => createHmac(hash, SECRET).update(body).digest("hex");

/** One delivery, as it is sent each time. */
interface Delivery {
  id: string;
  url: string;
  body: string;
  headers: Record<string, string>;
}

/** What an attempt came to: a status, or "no answer" (time limit, reset, nobody there). */
type Attempt = number | "no answer";

async function attempt({ url, body, headers }: Delivery): Promise<Attempt> {
  try {
    const answer = await fetch(url, { method: "POST", body, headers, signal: AbortSignal.timeout(LIMIT_MS) });
    await answer.arrayBuffer();
    return answer.status;
  } catch {
    return "no answer";
  }
}

/** Sends again with growing pauses until it is taken, and tells `heard` what each attempt came to; gives every attempt. */
async function insist(delivery: Delivery, heard: (came: Attempt) => void = () => {}): Promise<Attempt[]> {
  const attempts: Attempt[] = [];
  for (let pause = 20; ; pause = Math.min(pause * 2, 500)) {
    const came = await attempt(delivery);
    attempts.push(came);
    heard(came);
    if (came === 202) return attempts;
    if (attempts.length > 400) throw new Error(`${delivery.id} was never taken: ${attempts.slice(-5).join(", ")}`);
    await Bun.sleep(pause);
  }
}

function github(url: string): Delivery[] {
  return examples.flatMap(({ name, examples: payloads }) =>
    payloads.map((payload: unknown) => {
      const [id, body] = [randomUUID(), JSON.stringify(payload)];
      const headers = {
        "content-type": "application/json",
        "user-agent": "GitHub-Hookshot/044aadd",
        "x-github-delivery": id,
        "x-github-event": name,
        "x-hub-signature": `sha1=${hmac("sha1", body)}`,
        "x-hub-signature-256": `sha256=${hmac("sha256", body)}`,
      };
      return { id, url, body, headers };
    }),
  );
}

function forgejo(url: string, count: number): Delivery[] {
  const push = readFileSync(join(ROOT, "test/collector/fixtures/payloads/forgejo-push.json"), "utf8");
  return Array.from({ length: count }, () => {
    const id = randomUUID();
    const own = ["forgejo", "gitea", "gogs"].flatMap((forge) => [
      [`x-${forge}-delivery`, id],
      [`x-${forge}-event`, "push"],
      [`x-${forge}-signature`, hmac("sha256", push)],
    ]);
    const headers = {
      "content-type": "application/json",
      "x-github-delivery": id,
      "x-github-event": "push",
      "x-hub-signature": `sha1=${hmac("sha1", push)}`,
      "x-hub-signature-256": `sha256=${hmac("sha256", push)}`,
      ...Object.fromEntries(own),
    };
    return { id, url, body: push, headers };
  });
}

/** A collector that comes back at the same address, with its inbox on a disk that can be full. */
class Hooks implements AsyncDisposable {
  readonly folder: Folder;
  readonly url: string;
  readonly inbox: string;
  readonly #config: string;
  readonly #disk: string;
  daemon!: Daemon;

  constructor(folder: Folder, disk: string) {
    this.folder = folder;
    this.#disk = disk;
    this.inbox = join(disk, "inbox");
    const port = freePort();
    this.url = `http://127.0.0.1:${port}`;
    const route = (path: string, scheme: string) =>
      `    - { path: ${path}, recipient: ${scheme}, type: INFO, template: '{{ header "X-GitHub-Delivery" }}', verify: { scheme: ${scheme}, secret: ${SECRET} } }`;
    this.#config = folder.write(
      "collector.yaml",
      `agent: foreman\ninbox_dir: ${this.inbox}\nwebhook:\n  listen: 127.0.0.1:${port}\n  routes:\n${route("/github", "github")}\n${route("/forgejo/push", "forgejo")}\n`,
    );
  }

  async up(): Promise<void> {
    this.daemon = await startRole("collector", ["--config", this.#config], { target: "binary" });
    await this.daemon.url();
  }

  /** How many lines an inbox has, also while the last one is being written. */
  count(recipient: string): number {
    const path = join(this.inbox, `${recipient}.inbox`);
    return existsSync(path) ? readFileSync(path, "utf8").split("\n").length - 1 : 0;
  }

  /** The deliveries of an inbox, without those that only tried whether the disk is full. */
  lines(recipient: string): string[] {
    return inboxLines(this.inbox, recipient).flatMap(({ payload = "" }) =>
      payload.startsWith("full-") ? [] : [payload],
    );
  }

  /** Fills the disk to the last byte; what it gives makes room again. */
  fill(): () => void {
    const filler = join(this.#disk, "filler");
    for (let tries = 0; statfsSync(this.#disk).bavail > 0 && tries < 100; tries++) {
      try {
        writeFileSync(filler, Buffer.alloc(1 << 20), { flag: "a" });
      } catch {
        // Full, as meant.
      }
    }
    return () => rmSync(filler);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon?.[Symbol.asyncDispose]();
  }
}

const proxied = have("caddy", "deliveries through Caddy") && have("openssl", "deliveries through Caddy");

/** The way that Forgejo's deliveries take: through Caddy where there is one. */
async function way(folder: Folder, collector: string): Promise<{ url: string; caddy: Caddy | null }> {
  if (!proxied) return { url: collector, caddy: null };
  await certificates(folder);
  const caddy = startCaddy(folder, { collector });
  await until("Caddy is there", () =>
    fetch(`${caddy.hooks}/nothing`).then(
      ({ status }) => status === 404,
      () => false,
    ),
  );
  return { url: caddy.hooks, caddy };
}

test("each delivery is one line, though the collector is killed, stopped, away and out of disk", async () => {
  using folder = new Folder();
  await using disk = isRoot ? await smallDisk(folder, "8m") : null;
  await using hooks = new Hooks(folder, disk?.path ?? folder.path);
  mkdirSync(hooks.inbox);
  const { url, caddy } = await way(folder, hooks.url);
  await using _ = caddy;
  const deliveries = { github: github(`${hooks.url}/github`), forgejo: forgejo(`${url}/forgejo/push`, 200) };
  const waiting = [...deliveries.github, ...deliveries.forgejo].toSorted((a, b) => (a.id < b.id ? -1 : 1));

  // Nobody is there when the first ones come.
  const sent: Promise<Attempt[]>[] = [];
  const seen = new Set<Attempt>();
  let acknowledged = 0;
  const hear = (came: Attempt) => {
    seen.add(came);
    if (came === 202) acknowledged++;
  };
  const come = (count: number) => void sent.push(...waiting.splice(0, count).map((delivery) => insist(delivery, hear)));
  const taken = () => hooks.count("github") + hooks.count("forgejo");
  const atLeast = (count: number) => until(`${count} deliveries are taken`, () => taken() >= count);
  let had = 0;
  come(60);
  await until("they find nobody", () => seen.has("no answer") && (caddy === null || seen.has(502)));
  await hooks.up();
  await atLeast(20);

  for (let kills = 0; kills < 3; kills++) {
    had = taken();
    come(40);
    await atLeast(had + 5);
    await hooks.daemon.kill("SIGKILL");
    come(5);
    await hooks.up();
  }

  // Stopped: the kernel takes the requests, nobody answers, the senders give up; when it goes on it finds both the old and the new.
  hooks.daemon.child.kill("SIGSTOP");
  had = taken();
  come(60);
  await Bun.sleep(3 * LIMIT_MS);
  hooks.daemon.child.kill("SIGCONT");
  await atLeast(had + 20);

  if (disk) {
    const makeRoom = hooks.fill();
    // More than fit, one by one, into what is left of the last page of each inbox: twenty at least find no room.
    come(60);
    // Each under a name of its own: one that still fits in is known from then on, and answered well.
    let tries = 0;
    const another = () => ({
      ...deliveries.github[0]!,
      headers: { ...deliveries.github[0]!.headers, "x-github-delivery": `full-${tries++}` },
    });
    await until("it says 507, also to one of them", async () => (await attempt(another())) === 507 && seen.has(507));
    // By their answers: while it is full the inbox has lines for moments that are taken back.
    had = acknowledged;
    makeRoom();
    await until("20 more are acknowledged", () => acknowledged >= had + 20);
  }

  // Ended in an orderly way, with deliveries on their way.
  come(60);
  await hooks.daemon.kill("SIGTERM");
  await hooks.up();
  come(waiting.length);
  const attempts = await Promise.all(sent);

  for (const forge of ["github", "forgejo"] as const)
    expect(hooks.lines(forge).toSorted()).toEqual(deliveries[forge].map(({ id }) => id).toSorted());
  const all = attempts.flat().length;
  console.log(`${sent.length} deliveries in ${all} attempts, answered ${[...seen].map(String).toSorted().join(", ")}`);

  // All of them asked for again by hand: GitHub's are known, Forgejo's are copies, and events of their own.
  const before = hooks.lines("forgejo").length;
  const again = [...deliveries.github, ...forgejo(`${url}/forgejo/push`, 10)];
  expect(new Set((await Promise.all(again.map((delivery) => insist(delivery)))).map((one) => one.at(-1)))).toEqual(
    new Set([202]),
  );
  expect(hooks.lines("github").length).toBe(deliveries.github.length);
  expect(hooks.lines("forgejo").length).toBe(before + 10);
});
