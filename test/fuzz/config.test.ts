// Configurations at random, for every role: in order, or refused with places; and never with a secret in what is said.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import type * as v from "valibot";
import { stringify } from "yaml";
import { Config as Agent } from "../../lib/agent/config.ts";
import { Config as Collector } from "../../lib/collector/config.ts";
import { ConfigError, loadConfig, printConfig } from "../../lib/config.ts";
import { Config as Observer } from "../../lib/observer/config.ts";
import { Config as Receiver } from "../../lib/receiver/config.ts";
import { Folder, ROOT, runRole } from "../kit.ts";
import { TIMEOUT_MS, cpuMs, damaged, few, json, mutated, prototypesUntouched, runs, text } from "./kit.ts";

const SECRET = "pk-this-is-never-to-be-shown";
const ROLES: Record<string, v.GenericSchema> = {
  agent: Agent,
  collector: Collector,
  observer: Observer,
  receiver: Receiver,
};

/** Configurations that are in order, as data, each with a secret in it. */
const RIGHT: Record<string, unknown> = {
  agent: {
    receiver: { url: "https://hub.example", token: SECRET },
    interval_seconds: 60,
    docker: { socket: "auto" },
    proxmox: { endpoint: "https://127.0.0.1:8006", node: "pve1", token: SECRET },
    services: ["cloudflared"],
    ship: { episodes_dir: "/srv/lab/episodes" },
  },
  collector: {
    agent: "foreman",
    inbox_dir: "/tmp/inbox",
    auth: { token: [SECRET, `${SECRET}-2`], allowed_ips: ["10.0.0.0/8", "fd00::/8"] },
    webhook: {
      listen: "127.0.0.1:18790",
      dedupe_hours: 24,
      routes: [
        {
          path: "/x",
          recipient: ["bob", "eve"],
          type: "INFO",
          template: "{{ .a | json }}",
          when: "{{ eq .a 1 }}",
          verify: { scheme: "standard", secret: [SECRET] },
        },
      ],
    },
    drop_folder: { path: "/tmp/drops", poll_fallback_seconds: 3, settle_ms: 10 },
  },
  observer: {
    listen: "127.0.0.1:3219",
    persist_path: "/tmp/ops.jsonl",
    rotate_mb: 2,
    review: { accept_from: 50, reject_below: 20, reject_from_attempt: 3 },
    llm: { url: "http://127.0.0.1:11434", model: "m", api_key: SECRET, timeout_seconds: 20 },
    notify: { inbox_dir: "/tmp/inbox", recipient: "ops" },
    auth: { token: SECRET },
  },
  receiver: {
    listen: "127.0.0.1:0",
    data_dir: "/tmp/data",
    auth: { token: SECRET, bind_fingerprint: true },
    version_gate: {
      enabled: true,
      repo_path: "/opt/lab",
      forgejo: { url: "https://f.example", repo: "a/b", token: SECRET },
    },
    notify: { recipient: "ops" },
  },
};

const roles = fc.constantFrom(...Object.keys(ROLES));

/** Loads; gives what was said. Throws for anything but a configuration or a ConfigError whose problems name places. */
async function load(folder: Folder, role: string, bytes: string | Uint8Array, env = {}): Promise<string> {
  const file = folder.write(`${role}.yaml`, bytes);
  try {
    const { config, warnings } = await loadConfig({
      role,
      schema: ROLES[role]!,
      file,
      env: { HOME: folder.path, ...env },
    });
    return [...warnings, printConfig(config)].join("\n");
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const from = /^(?:.*\.yaml(?::\d+:\d+)?|PICKET_[A-Z0-9_]+): \S/s;
    const placeless = error.problems.filter((problem) => !from.test(problem));
    if (error.problems.length === 0 || placeless.length > 0)
      throw new Error(`no place: ${JSON.stringify(placeless)}`, { cause: error });
    return error.message;
  }
}

test(
  "a right configuration with some values replaced is taken or refused with places, and no secret is said",
  async () => {
    using folder = new Folder();
    const given = roles.chain((role) => fc.tuple(fc.constant(role), damaged(RIGHT[role]), fc.boolean()));
    await fc.assert(
      fc.asyncProperty(given, async ([role, data, flow]) => {
        const said = await load(folder, role, flow ? (JSON.stringify(data) ?? "") : asYaml(data));
        // What was given in place of a secret is no secret; the secrets themselves were only moved or left.
        if (said.includes(SECRET)) throw new Error(`told: ${said}`);
      }),
      runs(),
    );
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

function asYaml(data: unknown): string {
  try {
    return stringify(data, { aliasDuplicateObjects: false });
  } catch {
    return JSON.stringify(data) ?? "";
  }
}

test(
  "the examples with bytes turned, and any bytes at all, are no different",
  async () => {
    using folder = new Folder();
    const examples = Object.keys(ROLES).map((role) =>
      readFileSync(join(ROOT, "etc", `${role}.yaml`), "utf8").replaceAll(/^( *)# ?/gm, "$1"),
    );
    const right = Object.values(RIGHT).map((data) => stringify(data));
    const pieces = fc.array(
      fc.oneof(
        text(),
        fc.constantFrom(
          "- ",
          ": ",
          "\n",
          "  ",
          "&a ",
          "*a",
          "!!binary ",
          "? ",
          "|\n",
          "{",
          "}",
          "[",
          "]",
          "<<: ",
          "---\n",
          "%YAML 1.1\n",
          "#",
          "'",
          '"',
          "\t",
          "agent:",
          "webhook:",
          "auth:",
          "token: ",
        ),
      ),
      { maxLength: 30 },
    );
    const given = mutated(
      fc.oneof(
        fc.constantFrom(...examples, ...right),
        pieces.map((all) => all.join("")),
        fc.uint8Array({ maxLength: 300 }),
      ),
    );
    await fc.assert(
      fc.asyncProperty(roles, given, async (role, bytes) => {
        const said = await load(folder, role, bytes);
        if (said.includes(SECRET)) throw new Error(`told: ${said}`);
      }),
      runs(),
    );
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

test(
  "variables of any name and value are taken or refused with their names, and no secret is said",
  async () => {
    using folder = new Folder();
    const name = fc.oneof(
      fc.constantFrom(
        "LISTEN",
        "AUTH__TOKEN",
        "AUTH__TOKEN__0",
        "AUTH__ALLOWED_IPS",
        "AUTH",
        "WEBHOOK__ROUTES",
        "WEBHOOK__ROUTES__0__PATH",
        "WEBHOOK__ROUTES__999999999__PATH",
        "__PROTO__",
        "AUTH____PROTO____X",
        "CONSTRUCTOR",
        "DROP_FOLDER__PATH",
        "RECEIVER__TOKEN",
        "LLM__API_KEY",
      ),
      fc.string({ maxLength: 12 }).map((given) => given.toUpperCase().replace(/[^A-Z_0-9]/g, "_")),
    );
    const value = fc.oneof(
      text(),
      json.map((given) => JSON.stringify(given) ?? ""),
      fc.constantFrom(SECRET, `[${SECRET}]`, `{a: ${SECRET}`),
    );
    await fc.assert(
      fc.asyncProperty(roles, fc.array(fc.tuple(name, value), { maxLength: 4 }), async (role, pairs) => {
        const env = Object.fromEntries(
          pairs.map(([key, given]) => [`PICKET_${role.toUpperCase()}_${key}`, given.replaceAll("\0", "")]),
        );
        const tokens = pairs.filter(([key, given]) => /TOKEN|API_KEY/.test(key) && given.includes(SECRET));
        const said = await load(folder, role, stringify(RIGHT[role]), env);
        if (tokens.length === pairs.length && said.includes(SECRET)) throw new Error(`told: ${said}`);
      }),
      runs(),
    );
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

test.each([
  ["lists in lists", "[".repeat(500_000)],
  ["closed lists in lists", `a: ${"[".repeat(100_000)}${"]".repeat(100_000)}`],
  ["mappings in mappings", Array.from({ length: 1000 }, (_, n) => `${" ".repeat(n)}a:`).join("\n")],
  [
    "aliases of aliases",
    `a0: &a0 [x, x]\n${Array.from({ length: 60 }, (_, n) => `a${n + 1}: &a${n + 1} [*a${n}, *a${n}]`).join("\n")}`,
  ],
  ["a number without end", `agent: ${"9".repeat(1_000_000)}`],
  ["a key without end", `${"k".repeat(1_000_000)}: 1`],
  ["thousands of unknown keys", Array.from({ length: 5000 }, (_, n) => `unknown_key_${n}: 1`).join("\n")],
  ["broken lines without end", "a: b: c\n".repeat(100_000)],
  ["allowed addresses without end", `agent: a\nauth: {allowed_ips: [${"x, ".repeat(90_000)}]}`],
  [
    "a template of brackets",
    `agent: a\nwebhook: {routes: [{path: /x, recipient: a, type: INFO, template: "{{${"(".repeat(500_000)}"}]}`,
  ],
])(
  "in bounded time: %s",
  async (_what, yaml) => {
    using folder = new Folder();
    const before = cpuMs();
    expect((await load(folder, "collector", yaml)).length).toBeGreaterThan(0);
    expect(cpuMs() - before).toBeLessThan(20_000);
  },
  TIMEOUT_MS,
);

test(
  "the programs themselves say ok or end with 78 and places",
  async () => {
    using folder = new Folder();
    const given = roles.chain((role) => fc.tuple(fc.constant(role), damaged(RIGHT[role])));
    for (const [role, data] of few(given, 12)) {
      const file = folder.write("role.yaml", asYaml(data));
      const { code, stdout, stderr } = await runRole(role, ["--check", "--config", file], {
        env: { HOME: folder.path },
      });
      expect([code, stdout.trim()]).toEqual(code === 0 ? [0, "ok"] : [78, ""]);
      if (code === 78) expect(stderr).toMatch(/role\.yaml:\d+:\d+: /);
      expect(stdout + stderr).not.toContain(SECRET);
    }
  },
  TIMEOUT_MS,
);
