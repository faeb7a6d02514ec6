// Not tested here: what a daemon makes of these errors (exit codes, --check, reload); see the roles' own tests.

import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, symlinkSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import {
  cidr,
  ConfigError,
  httpUrl,
  integer,
  isLoopback,
  listen,
  loadConfig,
  type Loaded,
  nameSegment,
  path,
  printConfig,
  rule,
  seconds,
  Secret,
  secret,
  type ShortForms,
} from "../lib/config.ts";
import { Folder } from "./kit.ts";

const TOKEN = "pk_never-to-be-shown";

const Collector = v.pipe(
  v.strictObject({
    agent: nameSegment(),
    inbox_dir: v.optional(path(), "~/.local/share/picket/inbox"),
    webhook: v.optional(
      v.strictObject({
        listen: v.optional(listen(), "127.0.0.1:18790"),
        routes: v.optional(
          v.array(
            v.strictObject({
              path: v.pipe(v.string(), v.regex(/^\//, 'expected a path that starts with "/"')),
              recipient: v.union([
                nameSegment(),
                v.pipe(v.array(nameSegment()), v.minLength(1, "expected at least one recipient")),
              ]),
              type: v.picklist(["INFO", "NEEDS-RESPONSE", "ACK-REQUEST"]),
              template: v.string(),
              priority: v.optional(v.picklist(["", "normal", "urgent"]), "normal"),
              verify: v.optional(
                v.strictObject({
                  scheme: v.picklist(["github", "forgejo", "bearer"]),
                  ...secret("secret", { required: true }),
                }),
              ),
            }),
          ),
          [],
        ),
      }),
    ),
    drop_folder: v.optional(
      v.strictObject({
        path: path(),
        poll_fallback_seconds: v.optional(seconds(), 30),
        settle_ms: v.optional(integer({ min: 0, max: 60_000, unit: "milliseconds" }), 1000),
      }),
    ),
    auth: v.optional(
      v.strictObject({
        ...secret("token"),
        allowed_ips: v.optional(v.array(cidr()), []),
        strict: v.optional(v.boolean(), false),
      }),
      {},
    ),
    upstream: v.optional(httpUrl()),
  }),
  rule(({ webhook }) =>
    webhook === undefined || isLoopback(webhook.listen.host)
      ? []
      : webhook.routes
          .map((route, index) => ({ route, path: ["webhook", "routes", index, "path"] }))
          .filter(({ route }) => route.verify === undefined)
          .map(({ path }) => ({ path, text: "an open route needs verify" })),
  ),
);

interface Given {
  env?: Record<string, string>;
  files?: Record<string, string>;
}

/** Loads `text` as the collector's file from a folder of its own. */
async function load(
  text: string,
  { env = {}, files = {} }: Given = {},
): Promise<Loaded<v.InferOutput<typeof Collector>>> {
  using folder = new Folder();
  for (const [name, content] of Object.entries(files)) chmodSync(folder.write(name, content), 0o600);
  const file = folder.write("collector.yaml", text);
  try {
    return await loadConfig({ role: "collector", schema: Collector, file, env: { HOME: "/home/bob", ...env } });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new ConfigError(error.problems.map((problem) => problem.replaceAll(`${folder.path}/`, "")));
  }
}

/** What is wrong, without the file's name: `LINE:COL: key: what`. */
async function problems(text: string, given?: Given): Promise<string[]> {
  const error: unknown = await load(text, given).then(
    () => expect.unreachable(`accepted: ${text}`),
    (reason: unknown) => reason,
  );
  if (!(error instanceof ConfigError)) throw error;
  return error.problems.map((problem) => problem.replace(/^collector\.yaml:/, ""));
}

const route = (rest: string): string =>
  `agent: a\nwebhook:\n  routes:\n    - {path: /x, recipient: bob, type: INFO, template: t, ${rest}}\n`;

const refused = async (file: string): Promise<readonly string[]> => {
  const error = await loadConfig({ role: "collector", schema: Collector, file, env: {} }).catch(
    (reason: unknown) => reason,
  );
  return error instanceof ConfigError && error.exitCode === 78 ? error.problems : expect.unreachable(String(error));
};

/** Variables of the collector, named without their prefix. */
const variables = (rest: Record<string, string>): Given => ({
  env: Object.fromEntries(Object.entries(rest).map(([name, value]) => [`PICKET_COLLECTOR_${name}`, value])),
});

const reveal = (secrets: Secret[]): string[] => secrets.map((one) => one.reveal());

const parseListen = (text: string): unknown => v.safeParse(listen(), text).output;

const anchored = (port: number): string =>
  `agent: a\ndrop_folder: &d {path: /in}\nwebhook:\n  routes:\n    - {path: /a, recipient: &who bob, type: INFO, template: t}\n    - {path: /b, recipient: *who, type: INFO, template: t}\n  listen: &at 'localhost:${port}'\nupstream: *at\n`;

describe("a broken file is refused with the place and the reason:", () => {
  const broken: [what: string, text: string, ...problems: string[]][] = [
    // the text itself
    ["an unclosed quote", 'agent: "foreman\n', '1:8: a " that is never closed'],
    [
      "an unclosed list",
      "agent: a\nlabels: {x: [1, 2\n",
      "2:13: a [ that is never closed",
      "2:9: a { that is never closed",
    ],
    ["a quote unclosed further up", "agent: a\nlabels:\n  x: '1\n  y: 2\n", "3:6: a ' that is never closed"],
    ["a tab in the indentation", "webhook:\n\tlisten: x\n", "2:1: a tab in the indentation: use spaces"],
    ["a colon in plain text", "agent: push: done\n", '1:8: a second ": " on one line'],
    ["a reserved character", "agent: @foreman\n", "1:8: text that starts with @, ` or % needs quotes"],
    ["a template without quotes", "agent: {{ .name }}\n", "1:9: text that holds {{ needs quotes"],
    ["a template without quotes before text", "agent: {{ .a }} pushed\n", "1:9: text that holds {{ needs quotes"],
    ["a template without quotes after a sign", "agent: [{{ .a }}] is: up\n", "1:10: text that holds {{ needs quotes"],
    ["a template behind a #", "agent: issue #{{ .n }}\n", '1:8: text ends at " #", which begins a comment: quote it'],
    ["quotes in quotes", 'agent: "say "hi" now"\n', "1:14: text goes on after its end"],
    ["a tab further in", "webhook:\n  routes:\n    - a: 1\n    \tb: 2\n", "4:1: a tab in the indentation: use spaces"],
    ["no space after the colon", "agent:a\nlabels: {}\n", '1:1: a line without ": "'],
    ["a bad escape", 'agent: "\\q"\n', "1:9: an escape that double quotes do not know"],
    ["a key given twice", "agent: a\nwebhook: {}\nagent: b\n", "3:1: a key that is already in this mapping"],
    ["a key given twice further in", "agent: a\nwebhook:\n  routes: []\n  routes: []\n", "4:3: a key that is already"],
    ["a second document", "agent: a\n---\nagent: b\n", '2:1: a second document (one "---" too many)'],
    ["a tag", "agent: !env NAME\n", "1:8: a tag (!…) is not allowed here"],
    ["a binary tag", "agent: !!binary YQ==\n", "1:8: a tag (!…) is not allowed here"],
    ["a key that is a list", "? [a, b]\n: c\n", "1:3: a key that is not text"],
    ["an alias to nowhere", "agent: *name\n", '1:8: alias "*name" without an anchor before it'],
    ["an alias into itself", "labels: &a {x: *a}\n", '1:16: alias "*a" contains itself'],
    ["a list as the whole", "- agent\n", '1:1: expected a mapping ("key: value" lines)'],
    ["text as the whole", "foreman\n", '1:1: expected a mapping ("key: value" lines)'],
    // unknown and missing keys
    ["nothing at all", "", "1:1: agent: missing, expected a name of 1 to 128 letters"],
    ["only comments", "# agent: a\n", "1:1: agent: missing"],
    ["a mistyped key", "agnet: a\n", '1:1: agnet: unknown key, did you mean "agent"?', "1:1: agent: missing"],
    [
      "mistyped keys at every level",
      "agent: a\ninboxdir: x\nwebhook:\n  lisetn: x\n  routes:\n    - path: /x\n      recipint: bob\n      type: INFO\n      template: t\n",
      '2:1: inboxdir: unknown key, did you mean "inbox_dir"?',
      '4:3: webhook.lisetn: unknown key, did you mean "listen"?',
      "6:7: webhook.routes[0].recipient: missing, expected a list or a name of 1",
      '7:7: webhook.routes[0].recipint: unknown key, did you mean "recipient"?',
    ],
    [
      "a key at the wrong level",
      "agent: a\nlisten: x\n",
      '2:1: listen: unknown key here, did you mean "webhook.listen"?',
    ],
    [
      "a key that is near nothing",
      "agent: a\ndrop_folder: {path: /x, colour: red}\n",
      "2:25: drop_folder.colour: unknown key, known here: path, poll_fallback_seconds, settle_ms",
    ],
    [
      "an indentation of no-break spaces",
      "agent: a\nwebhook:\n\u00a0\u00a0listen: x\n",
      "2:1: webhook: expected a mapping, found nothing",
      '3:1: "\u00a0\u00a0listen": unknown key here, did you mean "webhook.listen"?',
    ],
    ["a merge key", "agent: a\nauth: {<<: {strict: true}}\n", '2:8: auth."<<": merge keys'],
    ["a key of no name", 'agent: a\n"two words": 1\n', '2:1: "two words": unknown key'],
    [
      "prototype keys",
      "agent: a\n__proto__: {polluted: 1}\nconstructor: 1\ntoString: 1\n",
      "2:1: __proto__: unknown key",
      "3:1: constructor: unknown key",
      "4:1: toString: unknown key",
    ],
    [
      "a missing key in a list item",
      "agent: a\nwebhook:\n  routes:\n    - path: /x\n",
      "4:7: webhook.routes[0].recipient: missing",
      '4:7: webhook.routes[0].type: missing, expected "INFO", "NEEDS-RESPONSE" or "ACK-REQUEST"',
      "4:7: webhook.routes[0].template: missing, expected text",
    ],
    [
      "a missing key in a flow mapping",
      "agent: a\ndrop_folder: {settle_ms: 1}\n",
      "2:14: drop_folder.path: missing, expected a path",
    ],
    // wrong values
    [
      "a number for a name",
      "agent: 5.5\n",
      '1:8: agent: expected a name of 1 to 128 letters, digits, dots, dashes and underscores, starting with a letter or digit, found "5.5"',
    ],
    ["a path for a name", "agent: ../etc\n", "1:8: agent: expected a name", 'found "../etc"'],
    ["an empty value", "agent:\nauth: {}\n", "1:1: agent: expected a name", "found nothing"],
    [
      "a negative duration",
      "agent: a\ndrop_folder:\n  path: /x\n  poll_fallback_seconds: -5\n",
      '4:26: drop_folder.poll_fallback_seconds: expected a number of seconds of 0 or more, found "-5"',
    ],
    [
      "a duration in words",
      "agent: a\ndrop_folder: {path: /x, poll_fallback_seconds: 5m}\n",
      '2:48: drop_folder.poll_fallback_seconds: expected a number of seconds of 0 or more, found "5m"',
    ],
    [
      "a duration beyond any timer",
      "agent: a\ndrop_folder: {path: /x, poll_fallback_seconds: 1e9}\n",
      "2:48: drop_folder.poll_fallback_seconds: expected a number of seconds of 2147483 or less",
    ],
    [
      "not a number",
      "agent: a\ndrop_folder: {path: /x, poll_fallback_seconds: .nan}\n",
      "2:48: drop_folder.poll_fallback_seconds: expected a number of seconds",
    ],
    [
      "a fraction for a whole number",
      "agent: a\ndrop_folder: {path: /x, settle_ms: 1.5}\n",
      '2:36: drop_folder.settle_ms: expected a whole number of milliseconds from 0 to 60000, found "1.5"',
    ],
    ["an empty path", 'agent: a\ndrop_folder: {path: ""}\n', '2:21: drop_folder.path: expected a path, found ""'],
    [
      "another account's home",
      "agent: a\ninbox_dir: ~ann/inbox\n",
      '2:12: inbox_dir: expected a path ("~" only stands for your own home folder, as in "~/x"), found "~ann/inbox"',
    ],
    [
      "a port out of range",
      "agent: a\nwebhook: {listen: 'localhost:65536'}\n",
      '2:19: webhook.listen: expected host:port, such as "127.0.0.1:8080" or "[::1]:8080", found "localhost:65536"',
    ],
    ["a bare port", "agent: a\nwebhook:\n  listen: 8080\n", "3:11: webhook.listen: expected host:port", 'found "8080"'],
    [
      "an unknown word",
      route("priority: urgnet"),
      '4:69: webhook.routes[0].priority: expected "", "normal" or "urgent", found "urgnet", did you mean "urgent"?',
    ],
    ["yes for true", "agent: a\nauth: {strict: yes}\n", '2:16: auth.strict: expected true or false, found "yes"'],
    [
      "an address range that is none",
      "agent: a\nauth:\n  allowed_ips:\n    - 10.0.0.0/8\n    - 10.0.0.0/40\n",
      "5:7: auth.allowed_ips[1]: expected an address or CIDR",
      'found "10.0.0.0/40"',
    ],
    [
      "a mapping for a list",
      "agent: a\nwebhook:\n  routes:\n    path: /x\n",
      "4:5: webhook.routes: expected a list, found a mapping",
    ],
    ["text for a mapping", "agent: a\nwebhook: http\n", "2:10: webhook: expected a mapping, found text"],
    ["a section left empty", "agent: a\nwebhook:\n", "2:1: webhook: expected a mapping, found nothing"],
    [
      "a wrong item in one of two forms",
      route("priority: '', x: 1").replace("bob", "[bob, /etc]"),
      "4:35: webhook.routes[0].recipient[1]: expected a name",
      "4:81: webhook.routes[0].x: unknown key",
    ],
    [
      "a wrong kind of item in one of two forms",
      route("priority: ''").replace("bob", "[bob, 5]"),
      "4:35: webhook.routes[0].recipient[1]: expected a name of 1 to 128",
      ', found "5"',
    ],
    [
      "an empty list in one of two forms",
      route("priority: ''").replace("bob", "[]"),
      "4:29: webhook.routes[0].recipient: expected at least one recipient, found a list",
    ],
    [
      "neither of two forms",
      route("priority: ''").replace("bob", "{a: b}"),
      "4:29: webhook.routes[0].recipient: expected a list or a name of 1 to 128",
      ", found a mapping",
    ],
    [
      "an unknown scheme",
      route("verify: {scheme: gihub, secret: x}"),
      '4:76: webhook.routes[0].verify.scheme: expected "github", "forgejo" or "bearer", found "gihub", did you mean "github"?',
    ],
    [
      "no scheme",
      route("verify: {secret: x}"),
      '4:67: webhook.routes[0].verify.scheme: missing, expected "github", "forgejo" or "bearer"',
    ],
    [
      "a broken rule across keys",
      `${route("priority: ''")}  listen: 0.0.0.0:1\n`,
      "4:14: webhook.routes[0].path: an open route needs verify",
    ],
    [
      "a URL of another kind",
      "agent: a\nupstream: ftp://hub.example\n",
      "2:11: upstream: expected an http or https URL",
    ],
    [
      "a URL with a query",
      "agent: a\nupstream: https://hub.example/?a=1\n",
      "2:11: upstream: expected a URL without ? and #",
    ],
    // secrets
    [
      "a required secret that is not there",
      route("verify: {scheme: github}"),
      "4:67: webhook.routes[0].verify.secret: missing, give it as secret, as secret_file or as the credential",
    ],
    [
      "a secret given twice",
      "agent: a\nauth:\n  token: x\n  token_file: /x\n",
      "4:15: auth.token_file: given beside token: set one of them, not both",
    ],
    [
      "a secret file that is not there",
      "agent: a\nauth: {token_file: ./absent}\n",
      "2:20: auth.token_file: ",
      ": absent does not exist",
    ],
    [
      "no secret in the list",
      "agent: a\nauth: {token: []}\n",
      "2:15: auth.token: expected text or a list of at least one, found an empty list",
    ],
    [
      "a number for a secret",
      "agent: a\nauth: {token: [x, 123]}\n",
      "2:19: auth.token[1]: expected text, found a number (put it in quotes)",
    ],
    [
      "a folder as secret file",
      "agent: a\nauth: {token_file: /etc}\n",
      "2:20: auth.token_file: /etc is not a regular file",
    ],
  ];

  test.each(broken)("%s", async (_, text, ...expected) => {
    const found = await problems(text);
    const unmatched = expected.filter(
      (part) => !found.some((problem) => (/^\d/.test(part) ? problem.startsWith(part) : problem.includes(part))),
    );
    expect({ unmatched, found }).toEqual({ unmatched: [], found });
    // nothing beyond what is expected: parts that start with a place stand for one problem each
    expect(found).toHaveLength(expected.filter((part) => /^\d/.test(part)).length);
  });
});

test("everything that is wrong is said at once, in the order of the file, then the environment", async () => {
  const text =
    "agent: /\nwebhook:\n  routes:\n    - 5\ndrop_folder: {path: /x, settle_ms: -1}\nauth: {token_file: ./none}\nz: 1\n";
  const found = await problems(text, { env: { PICKET_COLLECTOR_UPSTREAM: "x", PICKET_COLLECTOR_NONSENSE: "1" } });
  expect(found.map((problem) => problem.split(": ").slice(0, 2).join(" "))).toEqual([
    "1:8 agent",
    "4:7 webhook.routes[0]",
    "5:36 drop_folder.settle_ms",
    "6:20 auth.token_file",
    "7:1 z",
    "PICKET_COLLECTOR_UPSTREAM upstream",
    "PICKET_COLLECTOR_NONSENSE unknown variable",
  ]);
});

test("the problems come with the file's name, and the error's message is all of them", async () => {
  using folder = new Folder();
  const file = folder.write("c.yaml", "agent: 1\nx: 1\n");
  const error = await loadConfig({ role: "collector", schema: Collector, file, env: {} }).catch(
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ConfigError);
  if (!(error instanceof ConfigError)) throw error;
  const { problems: all, message, exitCode } = error;
  expect(all[0]).toStartWith(`${file}:1:8: agent: expected a name`);
  expect(all[1]).toStartWith(`${file}:2:1: x: unknown key`);
  expect(message).toBe(all.join("\n"));
  expect(exitCode).toBe(78);
});

describe("files that are no configuration:", () => {
  test.each(["utf-8", "utf-16le", "utf-16be"])(
    "but one that begins with a byte order mark is read: %s",
    async (charset) => {
      using folder = new Folder();
      const bytes = Buffer.from("\uFEFFagent: größe\n", charset === "utf-8" ? "utf8" : "utf16le");
      const file = folder.at("c.yaml");
      await Bun.write(file, charset === "utf-16be" ? bytes.swap16() : bytes);
      const loaded = await loadConfig({ role: "x", schema: v.strictObject({ agent: v.string() }), file, env: {} });
      expect(loaded.config.agent).toBe("größe");
    },
  );

  test("a missing one, a folder, one over 1 MiB, one that is not UTF-8", async () => {
    using folder = new Folder();
    expect(await refused(folder.at("none.yaml"))).toEqual([`${folder.at("none.yaml")}: does not exist`]);
    expect(await refused(folder.path)).toEqual([`${folder.path}: is a folder, expected a YAML file`]);
    const large = folder.write("large.yaml", `agent: a\n#${"x".repeat(1 << 20)}`);
    expect(await refused(large)).toEqual([`${large}: is over 1048576 bytes, which no configuration is`]);
    const latin = folder.write("latin.yaml", Buffer.from("agent: a\nlabels: {x: na\xefve}\n", "latin1"));
    expect(await refused(latin)).toEqual([`${latin}:2:15: not UTF-8 text`]);
  });

  test("an alias bomb is refused before it is let off, and so is what is nested without end", async () => {
    using folder = new Folder();
    const levels = Array.from(
      { length: 12 },
      (_, i) => `  l${i + 1}: &l${i + 1} [${Array.from({ length: 10 }, () => `*l${i}`).join(", ")}]`,
    );
    const bomb = folder.write("bomb.yaml", `labels:\n  l0: &l0 [x]\n${levels.join("\n")}\n`);
    expect((await refused(bomb))[0]).toMatch(/^.+bomb\.yaml:\d+:\d+: more than 100000 values, aliases followed$/);
    const deep = folder.write("deep.yaml", `labels: ${"[".repeat(500_000)}`);
    expect((await refused(deep))[0]).toMatch(/^.+deep\.yaml:\d+:\d+: nested too deeply to be read$/);
    const blocks = folder.write("blocks.yaml", Array.from({ length: 1400 }, (_, i) => `${" ".repeat(i)}x:\n`).join(""));
    expect((await refused(blocks))[0]).toMatch(/^.+blocks\.yaml:\d+:\d+: /);
  });
});

describe("what is in order", () => {
  test("gets the schema's defaults, in nested sections too", async () => {
    const { config, warnings } = await load("agent: foreman\nwebhook: {}\n");
    expect(config).toMatchObject({
      agent: "foreman",
      inbox_dir: "/home/bob/.local/share/picket/inbox",
      webhook: { listen: { host: "127.0.0.1", port: 18790 }, routes: [] },
      auth: { token: [], allowed_ips: [], strict: false },
    });
    expect(config.drop_folder).toBeUndefined();
    expect(warnings).toEqual([]);
  });

  test("may use anchors: each place has its own copy, and errors are placed where the text stands", async () => {
    expect(await problems(anchored(1))).toEqual([
      '8:11: upstream: expected an http or https URL, such as "https://hub.example", found "localhost:1"',
    ]);
    const { config } = await load(anchored(1).replace("upstream: *at\n", ""));
    expect(config.webhook?.routes.map(({ recipient }) => recipient)).toEqual(["bob", "bob"]);
  });

  test("cannot change what objects are", async () => {
    expect(await problems("agent: a\n__proto__: {polluted: yes}\n")).toHaveLength(1);
    expect("polluted" in {}).toBe(false);
  });

  test("has its paths made absolute: ~ is $HOME, the rest starts at the file's folder", async () => {
    using folder = new Folder();
    mkdirSync(folder.at("conf"));
    const file = folder.write("conf/c.yaml", "agent: a\ninbox_dir: data/../inbox\ndrop_folder: {path: ~/in}\n");
    const read = (env: Record<string, string>) => loadConfig({ role: "collector", schema: Collector, file, env });
    const { config } = await read({ HOME: "/home/ann" });
    expect([config.inbox_dir, config.drop_folder?.path]).toEqual([folder.at("conf", "inbox"), "/home/ann/in"]);
    expect((await read({})).config.drop_folder?.path).toBe(join(homedir(), "in"));
    expect((await read({ PICKET_COLLECTOR_DROP_FOLDER__PATH: "~" })).config.drop_folder?.path).toBe(homedir());
    const fromCwd = await read({ PICKET_COLLECTOR_INBOX_DIR: "inbox", HOME: "/h" });
    expect(fromCwd.config.inbox_dir).toBe(join(process.cwd(), "inbox"));
  });
});

describe("the environment", () => {
  const base = "agent: a\nwebhook:\n  routes:\n    - {path: /x, recipient: bob, type: INFO, template: t}\n";

  test("overrides any key, list items and what is in them too, and makes what is not there", async () => {
    const { config } = await load(
      base,
      variables({
        AGENT: "123",
        WEBHOOK__LISTEN: "[::1]:0",
        WEBHOOK__ROUTES__0__RECIPIENT: "ann",
        WEBHOOK__ROUTES__0__TEMPLATE: "{{ .x }}: [true]",
        WEBHOOK__ROUTES__1: "{path: /y, recipient: [bob, ann], type: INFO, template: t}",
        WEBHOOK__ROUTES__1__PRIORITY: "urgent",
        DROP_FOLDER__PATH: "/in",
        DROP_FOLDER__SETTLE_MS: "0x10",
        AUTH__ALLOWED_IPS: "[10.0.0.0/8, '::1']",
        AUTH__STRICT: "true",
      }),
    );
    expect(config).toMatchObject({
      agent: "123",
      webhook: {
        listen: { host: "::1", port: 0 },
        routes: [
          { path: "/x", recipient: "ann", template: "{{ .x }}: [true]" },
          { path: "/y", recipient: ["bob", "ann"], priority: "urgent" },
        ],
      },
      drop_folder: { path: "/in", settle_ms: 16 },
      auth: {
        allowed_ips: [
          { text: "10.0.0.0/8", prefix: 8 },
          { text: "::1", prefix: 128 },
        ],
        strict: true,
      },
    });
  });

  test("replaces a whole list before single items of it, whatever the order of the variables", async () => {
    const { config } = await load(
      base,
      variables({
        WEBHOOK__ROUTES__0__RECIPIENT: "zoe",
        WEBHOOK__ROUTES: "[{path: /only, recipient: bob, type: INFO, template: t}]",
      }),
    );
    expect(config.webhook?.routes).toMatchObject([{ path: "/only", recipient: "zoe" }]);
    const items = Array.from({ length: 11 }, (_, i) => [`AUTH__ALLOWED_IPS__${10 - i}`, `10.0.0.${10 - i}`] as const);
    const listed = await load(base, variables(Object.fromEntries(items)));
    expect(listed.config.auth.allowed_ips.map(({ text }) => text)).toEqual(
      Array.from({ length: 11 }, (_, i) => `10.0.0.${i}`),
    );
  });

  test.each([
    [{ AGNET: "x" }, ': unknown variable, did you mean "PICKET_COLLECTOR_AGENT"?'],
    [{ WEBHOOK_LISTEN: "x" }, ': unknown variable, did you mean "PICKET_COLLECTOR_WEBHOOK__LISTEN"?'],
    [
      { WEBHOOK__ROUTES__7__RECIPINT: "x" },
      ': unknown variable, did you mean "PICKET_COLLECTOR_WEBHOOK__ROUTES__7__RECIPIENT"?',
    ],
    [{ webhook__listen: "x" }, ": unknown variable"],
    [{ WEBHOOK__LISTEN__PORT: "1" }, ": unknown variable"],
    [{ AUTH____PROTO__: "1" }, ": unknown variable"],
    [{ CONSTRUCTOR: "1" }, ": unknown variable"],
    [{ WEBHOOK__LISTEN: "here" }, ": webhook.listen: expected host:port"],
    [{ AGENT: "" }, ": agent: expected a name"],
    [{ DROP_FOLDER__PATH: "/x", DROP_FOLDER__SETTLE_MS: "" }, ": drop_folder.settle_ms: expected a whole number"],
    [{ DROP_FOLDER__SETTLE_MS: "[1" }, ": drop_folder.settle_ms: a [ that is never closed"],
    [
      { DROP_FOLDER__SETTLE_MS: "5" },
      ": drop_folder.path: missing, expected a path: set PICKET_COLLECTOR_DROP_FOLDER__PATH",
    ],
    [{ WEBHOOK__ROUTES__0: "{path: /y}" }, ": webhook.routes[0].recipient: missing"],
    [{ WEBHOOK__ROUTES__0: "{path: /y, tpye: INFO}" }, ': webhook.routes[0].tpye: unknown key, did you mean "type"?'],
    [{ WEBHOOK__ROUTES__2__PATH: "/y" }, ": webhook.routes[2].path: the list has only 1 entry: indexes have no gaps"],
    [{ WEBHOOK__ROUTES__0__TYPE: "WARN" }, ': webhook.routes[0].type: expected "INFO"'],
    [{ AUTH__ALLOWED_IPS__0: "x" }, ": auth.allowed_ips[0]: expected an address or CIDR"],
    [{ AUTH__TOKEN: "" }, ": auth.token: expected text, found an empty one"],
    [{ AUTH__TOKEN: "x", AUTH__TOKEN_FILE: "y" }, ": auth.token_file: given beside token"],
  ] as [Record<string, string>, string][])("%j is refused by the variable's name", async (given, rest) => {
    const found = await problems(base, variables(given));
    const names = Object.keys(given).map((name) => `PICKET_COLLECTOR_${name}`);
    expect(found.filter((problem) => names.some((name) => problem.startsWith(name + rest)))).toHaveLength(1);
    expect(found.filter((problem) => !problem.startsWith("PICKET_COLLECTOR_"))).toEqual([]);
  });

  test("that is no YAML is said once, not again as a missing setting", async () => {
    const schema = v.strictObject({ every: seconds() });
    const error = await loadConfig({ role: "x", schema, env: { HOME: "/none", PICKET_X_EVERY: "[1" } }).catch(String);
    expect(error).toBe(
      "ConfigError: PICKET_X_EVERY: every: a [ that is never closed (or what it holds is not indented, or a # in it begins a comment) (line 1, column 1 of the variable)",
    );
  });

  test("cannot reach into what the file has as something else", async () => {
    expect(await problems("agent: a\nwebhook: text\n", variables({ WEBHOOK__LISTEN: ":1" }))).toEqual([
      "2:10: webhook: expected a mapping, found text",
      "PICKET_COLLECTOR_WEBHOOK__LISTEN: webhook.listen: cannot be set: what should hold it is not a mapping",
    ]);
  });
});

describe("without a file", () => {
  const Agent = v.strictObject({
    receiver: v.strictObject({ url: httpUrl(), ...secret("token", { required: true }) }),
    interval_seconds: v.optional(seconds({ min: 1 }), 60),
    proxmox: v.optional(v.strictObject({ endpoint: httpUrl(), ...secret("token", { required: true }) })),
  });
  const shortForms: ShortForms = {
    PICKET_URL: { path: ["receiver", "url"] },
    PICKET_TOKEN: { path: ["receiver", "token"] },
    PICKET_INTERVAL_SECONDS: { path: ["interval_seconds"], lenient: true },
  };
  const agent = (env: Record<string, string>) => loadConfig({ role: "agent", schema: Agent, shortForms, env });
  const failed = async (env: Record<string, string>): Promise<ConfigError> => {
    const error: unknown = await agent(env).catch((reason: unknown) => reason);
    return error instanceof ConfigError ? error : expect.unreachable(String(error));
  };

  test("the variables are enough", async () => {
    using folder = new Folder();
    const { config, file, warnings } = await agent({
      HOME: folder.path,
      PICKET_URL: "https://hub.example/",
      PICKET_TOKEN: TOKEN,
    });
    expect([file, warnings, config.receiver.url, config.interval_seconds]).toEqual([
      null,
      [],
      "https://hub.example",
      60,
    ]);
    expect(config.receiver.token.map((one) => one.reveal())).toEqual([TOKEN]);
  });

  test("what is missing is named with the variables to set and the files looked for", async () => {
    using folder = new Folder();
    const none = await failed({ HOME: folder.path });
    expect(none.exitCode).toBe(2);
    expect(none.problems).toEqual([
      'receiver.url: missing, expected an http or https URL, such as "https://hub.example": set PICKET_URL',
      'receiver.token: missing, give it as token, as token_file or as the credential "receiver.token": set PICKET_TOKEN',
      `no configuration file (looked for ${folder.at(".config/picket/agent.yaml")} and /etc/picket/agent.yaml)`,
    ]);
    const half = await failed({ HOME: folder.path, PICKET_URL: "https://hub.example" });
    expect([half.exitCode, half.message.includes("PICKET_TOKEN"), half.message.includes("receiver.url")]).toEqual([
      2,
      true,
      false,
    ]);
  });

  test.each([
    [{ PICKET_URL: "", PICKET_TOKEN: "" }, ["receiver.url", "receiver.token"]],
    [{ PICKET_URL: "https://hub.example", PICKET_TOKEN: "" }, ["receiver.token"]],
    [{ PICKET_URL: "", PICKET_TOKEN: TOKEN }, ["receiver.url"]],
  ])("a short form that is set to nothing is missing: %p", async (env, missing) => {
    using folder = new Folder();
    const error = await failed({ HOME: folder.path, ...(env as Record<string, string>) });
    expect(error.exitCode).toBe(2);
    for (const key of missing) expect(error.message).toContain(`${key}: missing`);
  });

  test("a wrong value is a wrong configuration, also when something is missing", async () => {
    using folder = new Folder();
    const error = await failed({ HOME: folder.path, PICKET_URL: "hub" });
    expect(error.exitCode).toBe(78);
    expect(error.message).toContain("PICKET_URL: receiver.url: expected an http or https URL");
  });

  test.each(["abc", "0", "-5", "", "[1"])(
    "a lenient variable that says %p is ignored with a warning",
    async (value) => {
      using folder = new Folder();
      const rest = { HOME: folder.path, PICKET_URL: "https://hub.example", PICKET_TOKEN: TOKEN };
      const { config, warnings } = await agent({ ...rest, PICKET_INTERVAL_SECONDS: value });
      expect(config.interval_seconds).toBe(60);
      expect(warnings).toHaveLength(1);
      expect(warnings[0]).toMatch(/^PICKET_INTERVAL_SECONDS: interval_seconds: .+: ignored$/);
      expect((await failed({ ...rest, PICKET_AGENT_INTERVAL_SECONDS: value })).exitCode).toBe(78);
    },
  );

  test("the home folder's file is found, and one in $XDG_CONFIG_HOME instead of it", async () => {
    using folder = new Folder();
    for (const name of [".config/picket", "xdg/picket"]) {
      mkdirSync(folder.at(name), { recursive: true });
      folder.write(
        `${name}/agent.yaml`,
        `receiver: {url: "https://${name.replace(/\W+/g, "-")}x.example", token: t}\n`,
      );
    }
    expect((await agent({ HOME: folder.path })).file).toBe(folder.at(".config/picket/agent.yaml"));
    const { file, config } = await agent({ HOME: folder.path, XDG_CONFIG_HOME: folder.at("xdg") });
    expect([file, config.receiver.url]).toEqual([folder.at("xdg/picket/agent.yaml"), "https://xdg-picketx.example"]);
    expect((await agent({ HOME: folder.path, XDG_CONFIG_HOME: "xdg" })).file).toBe(
      folder.at(".config/picket/agent.yaml"),
    );
  });

  test("a bare credential name serves one setting only: another service's secret is not taken from it", async () => {
    using folder = new Folder();
    folder.write("token", `${TOKEN}\n`);
    const env = { HOME: folder.path, CREDENTIALS_DIRECTORY: folder.path, PICKET_URL: "https://hub.example" };
    expect((await agent(env)).config.receiver.token.map((one) => one.reveal())).toEqual([TOKEN]);
    const error = await failed({ ...env, PICKET_AGENT_PROXMOX__ENDPOINT: "https://127.0.0.1:8006" });
    expect(error.message).toContain("proxmox.token: missing");
    folder.write("proxmox.token", "root@pam!x=y");
    const { config } = await agent({ ...env, PICKET_AGENT_PROXMOX__ENDPOINT: "https://127.0.0.1:8006" });
    expect(config.proxmox?.token.map((one) => one.reveal())).toEqual(["root@pam!x=y"]);
  });
});

describe("text that another program would replace", () => {
  const from = (value: string): string => `agent: a\nauth:\n  token: ${value}\n`;

  test.each([
    "${TOKEN}",
    "$TOKEN",
    "'$(cat /x)'",
    "'%TOKEN%'",
    "env:TOKEN",
    "'{env.TOKEN}'",
    "'{$TOKEN}'",
    "'!env TOKEN'",
    "'x-${TOKEN:-y}'",
    "'{{ env \"TOKEN\" }}'",
  ])("%s stays as it is, with a warning that names the variable and the file", async (value) => {
    const { config, warnings } = await load(from(value));
    expect(reveal(config.auth.token)).toEqual([value.replace(/^'(.*)'$/, "$1")]);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain(
      ':3:10: auth.token: nothing is replaced in this text: set the variable PICKET_COLLECTOR_AUTH__TOKEN instead, or give it as "token_file"',
    );
  });

  test.each(["a$b", "50%", "'{x}'", "'!important'", "'$5'", "environment: x", "pa$$word"])(
    "%s is plain text",
    async (value) => {
      expect((await load(from(value.includes(": ") ? `'${value}'` : value))).warnings).toEqual([]);
    },
  );

  test("is named beside the error that it causes", async () => {
    const found = await problems("agent: a\nauth:\n  token_file: $HOME/token\n");
    expect(found).toEqual([
      "3:15: auth.token_file: the file named here does not exist",
      "3:15: auth.token_file: nothing is replaced in this text: set the variable PICKET_COLLECTOR_AUTH__TOKEN_FILE instead",
    ]);
  });
});

describe("a secret", () => {
  test("is taken in place, as one or as a list for rotation", async () => {
    const one = await load(`agent: a\nauth: {token: ${TOKEN}}\n`);
    expect(reveal(one.config.auth.token)).toEqual([TOKEN]);
    const two = await load(`agent: a\nauth: {token: [${TOKEN}, "true"]}\n`);
    expect(reveal(two.config.auth.token)).toEqual([TOKEN, "true"]);
    expect(Object.keys(two.config.auth)).not.toContain("token_file");
  });

  test("is read from files, each without the white space and the byte order mark around it", async () => {
    const files = { a: "one\n", b: "\ufefftwo\r\n", c: " three 3 \n\n" };
    const { config, warnings } = await load("agent: a\nauth: {token_file: [./a, b, c]}\n", { files });
    expect(reveal(config.auth.token)).toEqual(["one", "two", "three 3"]);
    expect(warnings).toEqual([]);
  });

  test("in a file that others can read is taken with a warning that says what to do", async () => {
    using folder = new Folder();
    const token = folder.write("token", TOKEN);
    const file = folder.write("c.yaml", "agent: a\nauth:\n  token_file: ./token\n");
    for (const [mode, open] of [
      [0o644, true],
      [0o640, true],
      [0o600, false],
      [0o400, false],
    ] as const) {
      chmodSync(token, mode);
      const { warnings } = await loadConfig({ role: "collector", schema: Collector, file, env: {} });
      const text = `${file}:3:15: auth.token_file: ${token} is open to others than its owner (mode 0${mode.toString(8)}): chmod 600 ${token}`;
      expect(warnings).toEqual(open ? [text] : []);
    }
  });

  test("comes from systemd's credentials: the key's whole path first, then the bare key", async () => {
    using folder = new Folder();
    const credentials = folder.at("credentials");
    mkdirSync(credentials);
    const env = { CREDENTIALS_DIRECTORY: credentials };
    const tokens = async (text = "agent: a\n"): Promise<string[]> =>
      reveal((await load(text, { env })).config.auth.token);
    expect(await tokens()).toEqual([]);
    folder.write("credentials/token", "bare\n");
    expect(await tokens()).toEqual(["bare"]);
    folder.write("credentials/auth.token", "whole\n");
    expect(await tokens()).toEqual(["whole"]);
    expect(await tokens("agent: a\nauth: {token: here}\n")).toEqual(["here"]);
    folder.write("credentials/hook", "named\n");
    expect(await tokens("agent: a\nauth: {token_file: hook}\n")).toEqual(["named"]);
    folder.write("credentials/auth.token", "");
    expect(await problems("agent: a\n", { env })).toEqual(['1:1: auth.token: the credential "auth.token" is empty']);
  });

  test("of a list item has its index in the credential's name", async () => {
    using folder = new Folder();
    folder.write("webhook.routes.0.verify.secret", "s");
    const { config } = await load(route("verify: {scheme: github}"), { env: { CREDENTIALS_DIRECTORY: folder.path } });
    expect(reveal(config.webhook?.routes[0]?.verify?.secret ?? [])).toEqual(["s"]);
  });

  test("given by a variable replaces the file's, whichever form that has", async () => {
    const text = "agent: a\nauth: {token_file: ./none}\n";
    const { config } = await load(text, { env: { PICKET_COLLECTOR_AUTH__TOKEN: "123" } });
    expect(reveal(config.auth.token)).toEqual(["123"]);
    const files = { t: "from file" };
    const other = await load("agent: a\nauth: {token: x}\n", {
      files,
      env: { PICKET_COLLECTOR_AUTH__TOKEN_FILE: "t" },
    });
    expect(reveal(other.config.auth.token)).toEqual(["from file"]);
    const list = await load(text, { env: { PICKET_COLLECTOR_AUTH__TOKEN: "[new, old]" } });
    expect(reveal(list.config.auth.token)).toEqual(["new", "old"]);
    const odd = await load(text, { env: { PICKET_COLLECTOR_AUTH__TOKEN: "[odd" } });
    expect(reveal(odd.config.auth.token)).toEqual(["[odd"]);
  });

  test("file is refused when it is empty, no text, too large or no regular file, and never waited for", async () => {
    using folder = new Folder();
    folder.write("empty", "\n");
    folder.write("binary", Buffer.from([0xff, 0xff]));
    folder.write("large", "x".repeat(70_000));
    Bun.spawnSync(["mkfifo", folder.at("fifo")]);
    symlinkSync(folder.at("gone"), folder.at("dangling"));
    const reasons = {
      empty: "is empty",
      binary: "is not UTF-8 text",
      large: "is over 65536 bytes",
      fifo: "is not a regular file",
      dangling: "does not exist",
    };
    const text = `agent: a\nauth:\n  token_file:\n${Object.keys(reasons)
      .map((name) => `    - ${folder.at(name)}\n`)
      .join("")}`;
    expect(await problems(text)).toEqual(
      Object.entries(reasons).map(
        ([name, reason], i) => `${4 + i}:7: auth.token_file[${i}]: ${folder.at(name)} ${reason}`,
      ),
    );
  });

  test("is in no error, no warning and no print, however it was misplaced", async () => {
    const misplaced = [
      `agent: a\nauth: ${TOKEN}\n`,
      `agent: a\nauth: {token: {x: ${TOKEN}}}\n`,
      `agent: a\nauth: {token: [[${TOKEN}]]}\n`,
      `agent: a\nauth: {token_file: ${TOKEN}}\n`,
      `agent: a\nauth: {tokn: ${TOKEN}}\n`,
      `agent: a\nauth: {token: "${TOKEN}}\n`,
      `agent: a\nauth: {token: "${TOKEN}" ${TOKEN}}\n`,
      `agent: a\nauth:\n  token: |${TOKEN}\n`,
      `agent: a\nauth:\n  token: "\\x${TOKEN}"\n`,
      `agent: a\nauth:\n  token: ${TOKEN}: x\n`,
      `agent: a\nauth: [${TOKEN}]\n`,
      `agent: a\nwebhook: {routes: [{verify: ${TOKEN}}]}\n`,
      `agent: a\nwebhook: {routes: ${TOKEN}}\n`,
      `agent: a\ndrop_folder: ${TOKEN}\n`,
      `agent: a\nupstream: https://bob:${TOKEN}@hub.example\n`,
      `agent: a\nwebhook: {listen: "https://bob:${TOKEN}@hub.example"}\n`,
    ];
    for (const text of misplaced) expect((await problems(text)).join("\n")).not.toContain("never-to-be-shown");
    for (const name of [
      "AUTH",
      "AUTH__TOKN",
      "AUTH__TOKEN_FILE",
      "WEBHOOK",
      "AUTH__ALLOWED_IPS",
      "WEBHOOK__ROUTES__0__VERIFY",
    ]) {
      for (const value of [TOKEN, `{x: ${TOKEN}`, `{token: {x: ${TOKEN}}}`]) {
        const found = await problems("agent: a\n", { env: { [`PICKET_COLLECTOR_${name}`]: value } });
        expect(found.join("\n")).not.toContain("never-to-be-shown");
      }
    }
  });
});

describe("printing a configuration", () => {
  test("gives YAML that loads again, with defaults, without secrets, the same every time", async () => {
    const text = `drop_folder: {path: /in}\nwebhook: {listen: "[::1]:0", routes: []}\nauth: {allowed_ips: [10.1.2.3/8], token: ${TOKEN}}\nagent: a\n`;
    const { config } = await load(text);
    const printed = printConfig(config);
    expect(printed).toBe(
      [
        "agent: a",
        "inbox_dir: /home/bob/.local/share/picket/inbox",
        "webhook:",
        '  listen: "[::1]:0"',
        "  routes: []",
        "drop_folder:",
        "  path: /in",
        "  poll_fallback_seconds: 30",
        "  settle_ms: 1000",
        "auth:",
        "  token:",
        '    - "[redacted]"',
        "  allowed_ips:",
        "    - 10.1.2.3/8",
        "  strict: false",
        "",
      ].join("\n"),
    );
    const again = await load(printed);
    expect(printConfig(again.config)).toBe(printed);
    expect(again.config.webhook?.listen).toEqual({ host: "::1", port: 0 });
  });

  test("prints what has a toJSON by it, hides what only sounds like a secret, and passwords in URLs", () => {
    const shared = ["x"];
    const printed = printConfig({
      compiled: { toJSON: () => "{{ .a }}", program: [1] },
      api_key: "plain text by mistake",
      key_file: "/etc/picket/key",
      token_file: "/etc/picket/token",
      store: "postgres://picket:pa:ss@word@db.example/picket",
      one: shared,
      two: shared,
      long: "word ".repeat(60),
    });
    expect(printed).toBe(
      [
        'compiled: "{{ .a }}"',
        'api_key: "[redacted]"',
        "key_file: /etc/picket/key",
        "token_file: /etc/picket/token",
        "store: postgres://picket:[redacted]@db.example/picket",
        "one:",
        "  - x",
        "two:",
        "  - x",
        `long: "${"word ".repeat(60)}"`,
        "",
      ].join("\n"),
    );
  });
});

describe("a place to listen at", () => {
  test.each([
    ["127.0.0.1:18790", "127.0.0.1", 18790],
    ["[::1]:0", "::1", 0],
    ["[::]:65535", "::", 65535],
    ["localhost:80", "localhost", 80],
    ["hub.example:443", "hub.example", 443],
    [":8080", "0.0.0.0", 8080],
  ])("%s", (text, host, port) => {
    expect(parseListen(text)).toEqual({ host, port });
  });

  test("prints as it is written", () => {
    expect(["[::1]:0", "127.0.0.1:1"].map((text) => String(parseListen(text)))).toEqual(["[::1]:0", "127.0.0.1:1"]);
    expect(JSON.stringify(parseListen("[::1]:0"))).toBe('"[::1]:0"');
  });

  test.each([
    "",
    "8080",
    "host",
    "host:",
    "host:-1",
    "host:99999",
    "host:http",
    "::1:80",
    "[::1]",
    "[]:80",
    "[127.0.0.1]:80",
    "[::1/64]:80",
    "300.0.0.1:80",
    "1.2.3:80",
    "a b:80",
    "-a:80",
    "a..b:80",
    "http://a:80",
    "a:80/",
    "user@a:80",
  ])("is not %p", (text) => {
    expect(v.safeParse(listen(), text).success).toBe(false);
  });
});
