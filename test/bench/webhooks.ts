// Requests a second of durable webhooks, against a bare Bun.serve and Debian's webhook.
//   bun test/bench/webhooks.ts

import { createHmac } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import examples from "@octokit/webhooks-examples/api.github.com/index.json";
import { ROOT, type Section, count, freePort, inFolder, median, withProgram, wrk } from "./kit.ts";

const SECONDS = Number(process.env["PICKET_BENCH_SECONDS"] ?? 4);
const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 5);
const SECRET = "It's a Secret to Everybody";
const BODY = JSON.stringify(examples.find(({ name }) => name === "push")!.examples[0]);
const TEMPLATE = "push to {{ .repository.full_name }} by {{ .pusher.name }}: {{ len .commits }} commit(s)";

const BARE = `Bun.serve({ port: Number(process.argv[2]), hostname: "127.0.0.1", async fetch(request) {
  if (request.method === "GET") return new Response("ok");
  await request.arrayBuffer();
  return new Response('{"id":"0123456789abcdef0123456789abcdef"}', { status: 202, headers: { "content-type": "application/json" } });
} });`;

interface Contestant {
  name: string;
  cmd: (folder: string, port: number) => string[];
  path: string;
  health: string;
  unique?: string;
}

const COLLECTOR = join(ROOT, "dist/picket-collector");
const collector = (name: string, path: string, more = "", unique?: string): Contestant => ({
  name,
  path,
  health: "/health",
  ...(unique ? { unique } : {}),
  cmd(folder, port) {
    const template = JSON.stringify(TEMPLATE);
    writeFileSync(
      join(folder, "collector.yaml"),
      `agent: bench
inbox_dir: ${join(folder, "inbox")}
${more}
webhook:
  listen: 127.0.0.1:${port}
  routes:
    - { path: /signed, recipient: bob, type: INFO, template: ${template}, verify: { scheme: github, secret: "${SECRET}" } }
    - { path: /open, recipient: bob, type: INFO, template: ${template} }
`,
    );
    return [COLLECTOR, "--config", join(folder, "collector.yaml"), "--log-level", "warn"];
  },
});

const CONTESTANTS: Contestant[] = [
  {
    name: "bare Bun.serve: reads the body, answers 202",
    path: "/",
    health: "/",
    cmd(folder, port) {
      writeFileSync(join(folder, "bare.ts"), BARE);
      return [process.execPath, join(folder, "bare.ts"), String(port)];
    },
  },
  collector("collector, signature checked, delivery id remembered, fdatasync", "/signed", "", "X-GitHub-Delivery"),
  collector("collector, signature checked, fdatasync", "/signed"),
  collector("collector, no signature, fdatasync", "/open"),
  collector("collector, no signature, `durability: os`", "/open", "durability: os"),
];

if (Bun.which("webhook")) {
  CONTESTANTS.push({
    name: "Debian's webhook starting /bin/true",
    path: "/hooks/bench",
    health: "/",
    cmd(folder, port) {
      writeFileSync(join(folder, "hooks.json"), JSON.stringify([{ id: "bench", "execute-command": "/bin/true" }]));
      return ["webhook", "-hooks", join(folder, "hooks.json"), "-ip", "127.0.0.1", "-port", String(port)];
    },
  });
} else console.log("skipped: Debian's webhook is not installed");

/** Rounds in turn, so that a slow minute of the machine hits all of them. */
export async function webhooks(): Promise<Section> {
  const rates = new Map<string, number[]>();
  const digest = createHmac("sha256", SECRET).update(BODY).digest("hex");
  for (let round = 0; round < ROUNDS; round++) {
    for (const { name, cmd, path, health, unique } of CONTESTANTS) {
      const rate = await inFolder(async (folder) => {
        const port = freePort();
        return withProgram(
          cmd(folder, port),
          () => fetch(`http://127.0.0.1:${port}${health}`),
          () =>
            wrk({
              url: `http://127.0.0.1:${port}${path}`,
              body: BODY,
              headers: {
                "content-type": "application/json",
                "x-github-event": "push",
                "x-hub-signature-256": `sha256=${digest}`,
              },
              seconds: SECONDS,
              folder,
              ...(unique ? { unique } : {}),
            }),
        );
      });
      rates.set(name, [...(rates.get(name) ?? []), rate]);
      console.error(`round ${round + 1}: ${name}: ${count(rate)}/s`);
    }
  }
  const of = (name: string) => median(rates.get(name)!);
  const bare = of(CONTESTANTS[0]!.name);
  const rows = CONTESTANTS.map(({ name }) => ({
    what: name,
    figure: `${count(of(name))}/s`,
    ratio: `${(of(name) / bare).toFixed(2)} of bare`,
    aim: name.includes("signature checked") ? "0.5 of bare" : name.includes("no signature, fd") ? "0.6 of bare" : "",
  }));
  const peer = CONTESTANTS.find(({ name }) => name.startsWith("Debian"));
  if (peer) {
    const times = of(CONTESTANTS[1]!.name) / of(peer.name);
    rows.push({
      what: "collector, everything on, against Debian's webhook",
      figure: "",
      ratio: `${times.toFixed(1)} times`,
      aim: "20 times",
    });
  }
  return {
    title: "Durable webhooks per second",
    command: "bun test/bench/webhooks.ts",
    text: `GitHub's push payload (${count(BODY.length)} bytes), 64 connections, template with three fields, wrk on the same machine; median of ${ROUNDS} rounds of ${SECONDS} s in turn. Every 202 is on disk (requests that wait at the same time share one fdatasync).`,
    rows,
  };
}

if (import.meta.main) console.table((await webhooks()).rows);
