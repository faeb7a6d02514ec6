// What README.md, INSTALL.md, docs/ and the example configurations show is true: configurations pass --check, settings, metrics and
// commands exist, sessions give what they show, links lead somewhere, and the messages that "When something fails" names are in the source.
// Not tested here: shell blocks that change a host (install, systemctl, openssl); test/install.test.ts and test/e2e run their like.

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { parse } from "yaml";
import { Config as Agent } from "../lib/agent/config.ts";
import { Config as Collector } from "../lib/collector/config.ts";
import { Config as Observer } from "../lib/observer/config.ts";
import { Config as Receiver } from "../lib/receiver/config.ts";
import { Folder, ROOT, command, have, restartKeys, runRole, startRole } from "./kit.ts";
import { Hub, archive } from "./receiver/kit.ts";

const ROLES = ["collector", "receiver", "agent", "observer"] as const;
type Role = (typeof ROLES)[number];
const SCHEMAS = { collector: Collector, receiver: Receiver, agent: Agent, observer: Observer };

const read = (path: string): string => readFileSync(join(ROOT, path), "utf8");
const found = (pattern: string): string[] => [...new Bun.Glob(pattern).scanSync(ROOT)].toSorted();

/** What users read, by its path. */
const PAGES = new Map(["README.md", "INSTALL.md", ...found("docs/*.md")].map((path) => [path, read(path)]));
const pageOf = (role: Role): string => PAGES.get(`docs/${role}.md`)!;
/** A section of docs/operations.md with its subsections. */
function section(heading: string): string {
  const text = PAGES.get("docs/operations.md")!;
  const [line, level = ""] = new RegExp(`^(#+) ${heading}$`, "m").exec(text)!;
  const rest = text.slice(text.indexOf(line) + line.length);
  const end = rest.search(new RegExp(`^#{1,${level.length}} `, "m"));
  return end === -1 ? rest : rest.slice(0, end);
}

function blocks(text: string, language: string): string[] {
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\`$`, "gm"))].map(([, block]) => block!);
}

/** The lines of shell blocks and sessions, and all that stands between backticks. */
const CODE = [...PAGES.values()].flatMap((page) => [
  ...[...blocks(page, "sh"), ...blocks(page, "console")].flatMap((block) => block.split("\n")),
  ...[...page.matchAll(/`([^`\n]+)`/g)].map(([, span]) => span!),
]);

const example = (role: Role): string => read(`etc/${role}.yaml`);
/** The same with a token in place, for its file isn't here. */
const withToken = (text: string): string =>
  text
    .replace(/token_file: \/etc\/picket\/(operator\.)?token/, "token: t")
    .replaceAll(/(store|inbox)_password_file: \S+/g, "$1_password: p")
    .replace(/credentials_file: [^ ,}]+/, 'credentials: "aws_access_key_id=k\\naws_secret_access_key=s"')
    .replaceAll(/client_(cert|key)_file: \S+/g, (line) => line.replace(/: .*/, `: ${join(ROOT, "package.json")}`));

// ---------------------------------------------------------------------------------------------------------------
// Links

/** The anchors of a page: its headings as GitHub and Forgejo name them, and those written out. */
function anchorsOf(text: string): Set<string> {
  const prose = text.replaceAll(/^```[^]*?^```$/gm, "");
  const headings = [...prose.matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );
  return new Set([...headings, ...[...prose.matchAll(/<a id="([^"]+)">/g)].map(([, id]) => id!)]);
}

test("every link leads to a file and a heading that are there", () => {
  const broken: string[] = [];
  for (const path of [...PAGES.keys(), "CHANGELOG.md", ...found("test/**/*.md")]) {
    for (const [, link] of read(path).matchAll(/\]\(([^)]+)\)/g)) {
      const [file = "", anchor] = link!.split("#");
      if (/^https?:/.test(file)) continue;
      const target = file === "" ? path : relative(ROOT, join(ROOT, dirname(path), file));
      const leads = existsSync(join(ROOT, target)) && (anchor === undefined || anchorsOf(read(target)).has(anchor));
      if (!leads) broken.push(`${path}: ${link}`);
    }
  }
  expect(broken).toEqual([]);
});

test("the files, folders and scripts that the pages and notes name are there", () => {
  const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
  const texts = [...PAGES.values(), read("CHANGELOG.md"), ...found("test/**/*.md").map(read)].join("\n");
  const paths = [...texts.matchAll(/(?<![\w/])(?:test|etc|lib|docs)\/[\w./-]*\w/g)].map(([path]) => path);
  expect(paths.length).toBeGreaterThan(20);
  expect([...new Set(paths)].filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  const run = [...texts.matchAll(/bun run (\w+)/g)].map(([, name]) => name!);
  expect(run.filter((name) => !(name in scripts))).toEqual([]);
});

test("links to the sections of the first README.md and INSTALL.md still lead somewhere", () => {
  const former = {
    "README.md":
      "try-it install configuration collector agent receiver observer the-inbox when-something-fails what-it-is-not",
    "INSTALL.md":
      "on-one-host whose-data survive-logout drop-folders-under-the-system-service the-receiver the-agent the-observer secrets caddy-in-front syncthing verify upgrade uninstall troubleshooting",
  };
  for (const [path, anchors] of Object.entries(former)) {
    const there = anchorsOf(read(path));
    expect(anchors.split(" ").filter((anchor) => !there.has(anchor))).toEqual([]);
  }
});

// ---------------------------------------------------------------------------------------------------------------
// Configurations

/** The configurations that the pages show: on a role's page that role's, elsewhere of the role that the first line's path names. */
function shownConfigurations(): [role: Role, name: string, text: string][] {
  return [...PAGES].flatMap(([path, page]) =>
    blocks(page, "yaml").map((text, index): [Role, string, string] => {
      const role = ROLES.find((one) => path === `docs/${one}.md` || text.split("\n")[0]!.endsWith(`/${one}.yaml`));
      if (!role)
        throw new Error(`${path}: whose configuration is this? Its first line should be # /etc/picket/<role>.yaml`);
      return [role, `${path}, ${index + 1}`, text];
    }),
  );
}

const SHOWN = [
  ...ROLES.map((role): [Role, string, string] => [role, `etc/${role}.yaml`, example(role)]),
  ...shownConfigurations(),
];

test.each(SHOWN)("a configuration of the %s passes --check: %s", async (role, _, text) => {
  using folder = new Folder();
  const outcome = await runRole(role, ["--check", "--config", folder.write("shown.yaml", withToken(text))]);
  expect(outcome).toEqual({ code: 0, stdout: "ok\n", stderr: "" });
});

/** A setting as the tables write it, as the name of its variable. */
function variable(role: Role, key: string): string {
  return `PICKET_${role.toUpperCase()}_${key.replace("[]", ".0").replaceAll(".", "__").toUpperCase()}`;
}

interface Row {
  keys: string[];
  fallback: string;
}

/** The rows of the table of settings. */
function settings(role: Role): Row[] {
  const table = pageOf(role).split("| key | default | what |")[1]!.split("\n\n")[0]!;
  return [...table.matchAll(/^\| (`[^|]+`) \| ([^|]*) \|/gm)].map(([, keys, fallback]) => ({
    keys: [...keys!.matchAll(/`([^`]+)`/g)].map(([, key]) => key!),
    fallback: fallback!,
  }));
}

/** Every value of a tree by its path, such as `webhook.routes[].path`. */
function leaves(tree: unknown, path = ""): Map<string, unknown> {
  if (Array.isArray(tree)) {
    const parts = tree.filter((item) => typeof item === "object").flatMap((item) => [...leaves(item, `${path}[]`)]);
    return new Map(parts.length > 0 ? parts : [[path, tree]]);
  }
  if (typeof tree !== "object" || tree === null) return new Map([[path, tree]]);
  return new Map(
    Object.entries(tree).flatMap(([key, value]) => [...leaves(value, path === "" ? key : `${path}.${key}`)]),
  );
}

/** What `--check --print` says of a configuration. */
async function effective(role: Role, text: string): Promise<Map<string, unknown>> {
  using folder = new Folder();
  const config = folder.write("c.yaml", text);
  const { stdout, stderr } = await runRole(role, ["--check", "--print", "--config", config]);
  expect(stderr.replaceAll(/.*chmod 600.*\n/g, "")).toBe("");
  expect(stdout).toStartWith("ok\n");
  return leaves(parse(stdout.slice(3)));
}

/** The example with everything in it that is commented out. */
function uncommented(role: Role, secret: string): string {
  return (
    example(role)
      // Also the key, which stays commented out where the rest is taken.
      .replace(/^#( +)# (?=api_[a-z_]+: )/gm, "#$1")
      .replace(/^( *)# (?=( {2})*(- )?[a-z_\d]+:( |$)(?!.*\. ))/gm, "$1")
      .replaceAll(
        /(secret|token|password|credentials|cert|api_key|key|client_ca|ca|client_cert|client_key)_file: [^ ,}\n]+/g,
        `$1_file: ${secret}`,
      )
  );
}

describe.each(ROLES)("%s", (role) => {
  test("what is commented out in the example passes, and its settings are in the table", async () => {
    using folder = new Folder();
    // A secret, a certificate and its key: one file for all that the example names.
    const secret = folder.write("secret", "s");
    if (have("openssl", "the certificates of the examples")) {
      const key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout";
      await Bun.$`sh -c ${`openssl req -x509 ${key} ${secret}.key -out ${secret} -subj /CN=hub && cat ${secret}.key >> ${secret}`}`.quiet();
    }
    const printed = await effective(role, uncommented(role, secret));
    const known = settings(role).flatMap(({ keys }) => keys);
    const isKnown = (path: string): boolean => known.some((key) => path === key || path.startsWith(`${key}.`));
    const missing = [...printed.keys()].filter(
      (path) => !isKnown(path.replace(/^(webhook\.routes\[\]\.verify)\[\].*/, "$1")),
    );
    expect(missing).toEqual([]);
    expect(printed.size).toBeGreaterThan(role === "agent" ? 20 : 18);
  });

  test("the settings of the table exist", async () => {
    using folder = new Folder();
    const keys = settings(role).flatMap((row) => row.keys);
    expect(keys.length).toBeGreaterThan(15);
    const config = folder.write("c.yaml", withToken(example(role)));
    const named = [...[...PAGES.values(), example(role)].join("\n").matchAll(/\bPICKET_[A-Z]+_[A-Z_]+\b/g)]
      .map(([name]) => name)
      .filter((name) => name.startsWith(variable(role, "")));
    const variables = [...keys.map((key) => variable(role, key)), ...named];
    const env = Object.fromEntries([...variables, variable(role, "no_such_key")].map((name) => [name, "[[["]));
    const { stderr } = await runRole(role, ["--check", "--config", config], { env });
    const complaints = (name: string): string[] =>
      stderr.split("\n").filter((line) => line.includes(name) && /unknown|not a setting/.test(line));
    expect(complaints(variable(role, "no_such_key"))).toHaveLength(1);
    expect(variables.filter((name) => complaints(`${name}:`).length > 0)).toEqual([]);
  });

  test("the defaults of the table are those in effect", async () => {
    const printed = await effective(role, withToken(example(role)));
    const rows = settings(role).filter(({ keys, fallback }) => keys.length === 1 && /^`[^…]*`$/.test(fallback));
    const said = rows.map(({ keys, fallback }) => [keys[0]!, parse(fallback.slice(1, -1)) as unknown] as const);
    const wrong = said.filter(([key, value]) => printed.has(key) && !Bun.deepEquals(printed.get(key), value));
    expect(wrong.filter(([key]) => key !== "drop_folder.path")).toEqual([]);
    expect(said.filter(([key]) => printed.has(key)).length).toBeGreaterThan(5);
  });

  test("the settings that wait for a restart are those of the schema", () => {
    const row = new RegExp(`^\\| ${role} \\| ([^|]*) \\| ([^|]*) \\|$`, "m");
    const [, changed = "", switched = ""] = row.exec(section("Reload"))!;
    const listed = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map(([, key]) => key!).toSorted();
    const waiting = restartKeys(SCHEMAS[role]);
    const declared = (of: string): string[] => waiting.flatMap((one) => (one.of === of ? one.key : [])).toSorted();
    expect(listed(changed)).toEqual(declared("value"));
    expect(listed(switched)).toEqual(declared("presence"));
  });

  // The agent listens nowhere.
  test.skipIf(role === "agent")("the metrics named are served", async () => {
    using folder = new Folder();
    const lines = {
      collector: `agent: a\ninbox_dir: ${folder.path}/inbox\nwebhook: { listen: 127.0.0.1:0 }\ndrop_folder: { path: ${folder.path}/d }\n`,
      receiver: `listen: 127.0.0.1:0\ndata_dir: ${folder.path}/data\n`,
      agent: "",
      observer: `listen: 127.0.0.1:0\npersist_path: ${folder.path}/ops.jsonl\n`,
    };
    await using daemon = await startRole(role, ["--config", folder.write("c.yaml", lines[role])]);
    const url = await daemon.url();
    await fetch(`${url}/health`);
    if (role === "receiver") {
      await fetch(`${url}/v1/ping`, { method: "POST" });
    }
    const served = await (await fetch(`${url}/metrics`)).text();
    const named = [...pageOf(role).matchAll(/`(picket_[a-z_]+)`/g)].map(([, name]) => name!);
    expect(named.length).toBeGreaterThan(8);
    expect(named.filter((name) => !new RegExp(`^# TYPE ${name} `, "m").test(served))).toEqual([]);
  });

  test("the commands and flags that the pages show are those that there are", async () => {
    const help = async (name: string): Promise<string> =>
      (await runRole(role, [...name.split(" ").filter(Boolean), "--help"])).stdout;
    const own = await help("");
    const list = own.slice(own.indexOf("\ncommands:\n"), own.indexOf("\nflags:\n"));
    const commands = [...list.matchAll(/^ {2}([a-z][a-z -]*?)(?: [A-Z[].*?)? {2}/gm)].map(([, name]) => name!);
    const usages = new Map(await Promise.all(commands.map(async (name) => [name, await help(name)] as const)));

    const calling = new RegExp(`(?:^|[$&] |sudo )picket[- ](?:${role}|<role>) ([a-z-][^#;&>]*)`);
    const shown = CODE.flatMap((line) => calling.exec(line)?.[1]?.trim() ?? []);
    const nameOf = (call: string): string => {
      const [first = "", second = ""] = call.split(/[ |[]/);
      return commands.find((one) => one === `${first} ${second}`) ?? first;
    };
    const strange = shown.filter((call) => {
      const name = call.startsWith("-") ? "" : nameOf(call);
      const flags = [...call.matchAll(/--[a-z-]+/g)].map(([flag]) => flag);
      const known = name === "" ? own : own + (usages.get(name) ?? "");
      return !(name === "" || usages.has(name)) || flags.some((flag) => !new RegExp(`${flag}\\b`).test(known));
    });
    expect(strange).toEqual([]);

    expect(commands.filter((name) => !shown.some((call) => nameOf(call) === name))).toEqual([]);
    const flags = [own, ...usages.values()].flatMap((text) => [...text.matchAll(/--[a-z-]+/g)].map(([flag]) => flag));
    const said = CODE.join("\n");
    expect([...new Set(flags)].filter((flag) => !new RegExp(`${flag}\\b`).test(said))).toEqual([]);
  });
});

// ---------------------------------------------------------------------------------------------------------------
// Sessions

/** Runs what a session types, with our roles on the PATH, and gives what it prints. */
async function typed(session: string): Promise<string> {
  using folder = new Folder();
  const lines = session
    .split("\n")
    .filter((line) => line.startsWith("$ "))
    .map((line) => line.slice(2));
  let path = process.env["PATH"];
  for (const role of ["collector", "receiver"]) {
    const [bun = "", script = ""] = await command(role, "source");
    folder.write(`picket-${role}`, `#!/bin/sh\nexec "${bun}" "${script}" "$@"\n`);
    await Bun.$`chmod +x ${folder.at(`picket-${role}`)}`;
    path = `${folder.path}:${dirname(bun)}:${process.env["PATH"]}`;
  }
  const run = Bun.spawn(["sh", "-c", lines.join("\n")], {
    cwd: folder.path,
    env: { ...process.env, PATH: path, HOME: folder.path, STATE_DIRECTORY: folder.at("state") },
    stdout: "pipe",
  });
  return await new Response(run.stdout).text();
}

const SESSIONS = [...PAGES].flatMap(([path, page]) =>
  blocks(page, "console").map((session) => [path, session] as const),
);

test.each(SESSIONS)("the session in %s gives what it shows", async (_, session) => {
  const normal = (text: string) =>
    text
      .replaceAll(/\b[0-9a-f]{32}\b/g, "ID")
      .replaceAll(/pk_\w{40}/g, "TOKEN")
      .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME")
      .trim();
  const shown = session
    .split("\n")
    .filter((line) => !line.startsWith("$ "))
    .join("\n");
  expect(shown).not.toBe("");
  expect(normal(await typed(session))).toBe(normal(shown));
});

test("what is shown as JSON is JSON", () => {
  const shown = [...PAGES.values()].flatMap((page) => blocks(page, "json"));
  expect(shown.length).toBeGreaterThan(2);
  for (const text of shown) expect(() => JSON.parse(text) as unknown).not.toThrow();
});

test("the settings for MCP clients are valid, and what they start is there", async () => {
  const json = blocks(PAGES.get("docs/readers.md")!, "json").map(
    (text) => JSON.parse(text) as { mcpServers?: Servers },
  );
  const toml = blocks(PAGES.get("docs/readers.md")!, "toml").map(
    (text) => Bun.TOML.parse(text) as { mcp_servers?: Servers },
  );
  type Servers = { picket: { command: string; args: string[] } };
  const servers = [...json.map(({ mcpServers }) => mcpServers), ...toml.map(({ mcp_servers }) => mcp_servers)];
  const started = servers.flatMap((one) => one?.picket ?? []);
  expect(started.map(({ command: name }) => name)).toEqual(["picket-collector", "picket-collector"]);
  for (const { args } of started) expect((await runRole("collector", [...args, "--help"])).code).toBe(0);
});

const commandsOf = (role: Role): string => blocks(pageOf(role), "sh").find((block) => block.startsWith("curl"))!;

test.skipIf(!have("curl", "the receiver page's curl commands"))(
  "the receiver page's curl commands report and ship",
  async () => {
    await using hub = await Hub.start();
    await Bun.write(hub.folder.at("ep-1.tar.zst"), await archive("by curl"));
    const run = Bun.spawn(["sh", "-ec", commandsOf("receiver")], {
      cwd: hub.folder.path,
      env: { ...process.env, PICKET_URL: hub.url, PICKET_TOKEN: hub.tokens.get("web-1") },
      stdout: "pipe",
    });
    const said = await new Response(run.stdout).text();
    expect(said).toStartWith('{"poll_interval_seconds":60,');
    expect(said).toContain('{"sha256":"');
    expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online", metrics: { cpu_percent: 12.5 } });
  },
);

test.skipIf(!have("curl", "the observer page's curl commands"))(
  "the observer page's curl commands report operations, and show what it makes of them",
  async () => {
    using folder = new Folder();
    const config = `listen: 127.0.0.1:0\npersist_path: ${folder.at("observer", "ops.jsonl")}\n`;
    await using daemon = await startRole("observer", ["--config", folder.write("observer.yaml", config)]);
    const here = commandsOf("observer").replaceAll("127.0.0.1:3219", (await daemon.url()).replace("http://", ""));
    // An answer a line.
    const run = Bun.spawn(["sh", "-ec", here.replaceAll("curl -sS", String.raw`curl -sS -w '\n'`)], { stdout: "pipe" });
    const answers = (await new Response(run.stdout).text()).trim().split("\n");
    expect(answers.map((line) => JSON.parse(line) as unknown)).toMatchObject([
      { accepted: true, ring_size: 1 },
      [{ accepted: true }, { accepted: true }],
      { total: 3, successes: 1, failures: 2, by_source: { mcp: 3 }, recent_scenario_ops: [] },
      { clusters: [{ endpoint: "backup", count: 2 }] },
    ]);
  },
);

test.skipIf(!have("openssl", "the certificates of docs/operations.md"))(
  "the commands for an authority make a certificate that it vouches for",
  async () => {
    using folder = new Folder();
    const [script = ""] = blocks(section("Caddy in front"), "sh");
    const outcome = await Bun.$`sh -ec ${`${script}\nopenssl verify -CAfile ca.pem web-1.pem`}`
      .cwd(folder.path)
      .quiet();
    expect(outcome.stdout.toString()).toEndWith("web-1.pem: OK\n");
  },
);

// ---------------------------------------------------------------------------------------------------------------
// Messages

test('the messages that "When something fails" names are in the source', () => {
  const source = [...found("lib/**/*.ts"), ...ROLES.map((role) => `${role}.ts`), "install.sh"].map(read).join("\n");
  const rows = [...section("When something fails").matchAll(/^\| ([^|]*) \|/gm)].map(([, seen]) => seen!);
  const named = rows.flatMap((seen) => [...seen.matchAll(/`([^`]+)`/g)].map(([, text]) => text!));
  // systemd's own words, and those with a part that varies.
  const others = new Set(["Start request repeated too quickly", "Watchdog timeout"]);
  const messages = named.filter((text) => / /.test(text) && !others.has(text));
  expect(messages.length).toBeGreaterThan(10);
  const parts = messages
    .flatMap((text) => text.replace(/: .*/, "").split(/NAME|picket-[a-z]+/))
    .map((text) => text.trim());
  expect(parts.filter((part) => !source.includes(part))).toEqual([]);
});
