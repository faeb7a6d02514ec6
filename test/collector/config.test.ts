// Broken configurations: each is refused with its line and a sentence that helps; all errors at once; reload.

import { describe, expect, test } from "bun:test";
import { readFileSync, renameSync } from "node:fs";
import { Folder, TARGETS, inboxLines, runRole, startRole, until } from "../kit.ts";

const HEAD = "agent: foreman\ninbox_dir: /tmp/inbox\nwebhook:\n  routes:\n";
const route = (fields: string) => `${HEAD}    - { path: /a, recipient: bob, type: INFO, template: "x"${fields} }\n`;
const HUB = ', webhook: { url: "https://hub.example/in" }';
const delivery = (fields: string) =>
  `agent: foreman\ninbox_dir: /tmp/inbox\ndeliver:\n  - { name: hub, recipients: [ops]${HUB}${fields} }\n`;

const BROKEN: [name: string, text: string, place: string, says: string][] = [
  ["an unknown key at the top", "agnt: x\nagent: y\ndrop_folder: { path: /d }\n", "1:1", 'did you mean "agent"?'],
  ["an unknown key in a route", route(", recipint: x"), "5:62", 'did you mean "recipient"?'],
  ["a missing agent", "drop_folder: { path: /d }\n", "1:1", "agent"],
  ["nothing to do", "agent: x\n", "1:1", '"webhook", "drop_folder" or "deliver"'],
  ["a delivery without a channel", delivery("").replace(HUB, ""), "4:5", "no channel: set one of"],
  ["hours that are never quiet", delivery(', quiet: "07:00-07:00"'), "4:88", "begins when it ends"],
  ["a zone that is none", delivery(', quiet: "07:00-08:00 Berlin"'), "4:88", '"Berlin" is not a time zone'],
  ["an end without reminders", delivery(", until: handled"), "4:88", 'set "remind_minutes"'],
  ["a delivery to nobody", delivery("").replace("[ops]", "[]"), "4:30", "at least one recipient"],
  [
    "two deliveries of one name",
    delivery("") + delivery("").split("\n").slice(3).join("\n"),
    "5:13",
    '"hub" is taken already',
  ],
  ["a negative poll", "agent: x\ndrop_folder:\n  path: /d\n  poll_fallback_seconds: -1\n", "4:26", "0 or more"],
  [
    "a poll that is a word",
    "agent: x\ndrop_folder: { path: /d, poll_fallback_seconds: often }\n",
    "2:49",
    "number of seconds",
  ],
  ["a bad listen", "agent: x\nwebhook: { listen: here }\n", "2:20", "expected host:port"],
  ["a port out of range", "agent: x\nwebhook: { listen: 127.0.0.1:99999 }\n", "2:20", "expected host:port"],
  [
    "a route without a slash",
    HEAD + '    - { path: a, recipient: bob, type: INFO, template: "x" }\n',
    "5:15",
    'starts with "/"',
  ],
  ["a type in lower case", HEAD + '    - { path: /a, recipient: bob, type: info, template: "x" }\n', "5:41", "INFO"],
  [
    "a recipient that is a path",
    HEAD + '    - { path: /a, recipient: ../bob, type: INFO, template: "x" }\n',
    "5:30",
    "letters, digits",
  ],
  ["no recipient at all", HEAD + '    - { path: /a, recipient: [], type: INFO, template: "x" }\n', "5:30", "recipient"],
  [
    "a template that doesn't parse",
    HEAD + '    - { path: /a, recipient: bob, type: INFO, template: "{{ .a" }\n',
    "5:57",
    "unclosed action",
  ],
  [
    "a template that isn't there",
    HEAD + `    - { path: /a, recipient: bob, type: INFO, template: '{{ template "slack.default.title" . }}' }\n`,
    "5:57",
    'template "slack.default.title" is not defined (line 1, column 1',
  ],
  ["a function that isn't there", route(", when: '{{ lowr .a }}'"), "5:68", 'did you mean "lower"?'],
  ["an unknown priority", route(", priority: high"), "5:72", "urgent"],
  ["missing: maybe", route(", missing: maybe"), "5:71", "zero"],
  ["an unknown scheme", route(", verify: { scheme: gitub, secret: s }"), "5:80", 'did you mean "github"?'],
  ["a scheme without its secret", route(", verify: { scheme: github }"), "5:80", "secret_file"],
  [
    "a secret file that isn't there",
    route(", verify: { scheme: github, secret_file: /nonexistent/s }"),
    "5:101",
    "/nonexistent/s does not exist",
  ],
  ["a whsec_ that isn't base64", route(", verify: { scheme: standard, secret: whsec_!!! }"), "5:98", "base64"],
  ["a public key of v1a", route(", verify: { scheme: svix, secret: whpk_abcd }"), "5:94", "whpk_, whsk_"],
  ["hmac without its header", route(", verify: { scheme: hmac, secret: s }"), "5:80", 'hmac needs "header"'],
  ["basic without a user", route(", verify: { scheme: basic, secret: s }"), "5:80", 'basic needs "username"'],
  ["a user with a colon", route(", verify: { scheme: basic, secret: s, username: 'a:b' }"), "5:108", 'without ":"'],
  ["query without a name", route(", verify: { scheme: query, secret: s }"), "5:80", 'query needs "name"'],
  ["none with a secret", route(", verify: { scheme: none, secret: s }"), "5:94", 'none has no "secret"'],
  ["a key of another scheme", route(", verify: { scheme: github, secret: s, header: X-A }"), "5:107", "github has no"],
  ["no header's name", route(", verify: { scheme: token, secret: s, header: 'X A' }"), "5:106", "name of a header"],
  [
    "an unknown algorithm",
    route(", verify: { scheme: hmac, secret: s, header: X-A, algorithm: md5 }"),
    "5:121",
    "sha256",
  ],
  [
    "a payload without body",
    route(", verify: { scheme: hmac, secret: s, header: X-A, payload: x }"),
    "5:119",
    "{body}",
  ],
  [
    "an unknown placeholder",
    route(", verify: { scheme: hmac, secret: s, header: X-A, payload: '{boddy}{body}' }"),
    "5:119",
    '"{boddy}"',
  ],
  [
    "a time from nowhere",
    route(", verify: { scheme: hmac, secret: s, header: X-A, payload: '{timestamp}.{body}' }"),
    "5:119",
    "timestamp_header",
  ],
  [
    "a time that is not signed",
    route(", verify: { scheme: hmac, secret: s, header: X-A, timestamp_header: X-T }"),
    "5:128",
    "{timestamp}",
  ],
  ["verify as a word", route(", verify: github"), "5:70", "a mapping"],
  ["a secret that is a number", route(", verify: { scheme: github, secret: 12345678 }"), "5:96", "quotes"],
  [
    "two routes with one path",
    `${route("")}    - { path: /a, recipient: bob, type: INFO, template: "y" }\n`,
    "6:15",
    "taken",
  ],
  [
    "two ways to write one path",
    `${route("").replace("/a,", '"/%67r%c3%b6%c3%9fe",')}    - { path: //größe, recipient: bob, type: INFO, template: "y" }\n`,
    "6:15",
    "taken",
  ],
  ["a path with a query", route("").replace("/a,", "/a?b,"), "5:15", 'without spaces, "?" and "#"'],
  ["a name that is no segment", route(", name: a b"), "5:68", "letters, digits"],
  [
    "a path that is the daemon's own",
    HEAD + '    - { path: /health, recipient: bob, type: INFO, template: "x" }\n',
    "5:15",
    "taken",
  ],
  [
    "an open route on every address",
    HEAD.replace("  routes", "  listen: 0.0.0.0:80\n  routes") +
      '    - { path: /a, recipient: bob, type: INFO, template: "x" }\n',
    "6:7",
    "verify",
  ],
  ["a bad address", "agent: x\nwebhook: {}\nauth: { allowed_ips: [10.0.0.0/40] }\n", "3:23", "CIDR"],
  ["the same key twice", "agent: x\nagent: y\nwebhook: {}\n", "2:1", "already in this mapping"],
  ["YAML that isn't", "agent: [x\nwebhook: {}\n", "", ""],
  ["a list", "- agent\n", "1:1", "mapping"],
];

test.each(BROKEN)("%s is refused with its place and a sentence that helps", async (_name, text, place, says) => {
  using folder = new Folder();
  const file = folder.write("c.yaml", text);
  const { code, stdout, stderr } = await runRole("collector", ["--check", "--config", file]);
  expect(code).toBe(78);
  expect(stdout).toBe("");
  expect(stderr).toContain(place === "" ? `${file}:` : `${file}:${place}: `);
  expect(stderr).toContain(says);
});

describe.each(TARGETS)("as %s", (target) => {
  test("all errors come at once", async () => {
    using folder = new Folder();
    const file = folder.write(
      "c.yaml",
      "agent: ''\nwebhook: { listen: x, rotes: [] }\ndrop_folder: { settle_ms: -1 }\n",
    );
    const { stderr } = await runRole("collector", ["--check", "--config", file], { target });
    expect(stderr.split("\n").filter((line) => line.startsWith(file)).length).toBeGreaterThanOrEqual(5);
  });

  test("no configuration at all: exit code 2, with the files looked for and what to set", async () => {
    using folder = new Folder();
    const { code, stderr } = await runRole("collector", [], {
      target,
      env: { HOME: folder.path, XDG_CONFIG_HOME: folder.path },
    });
    expect(code).toBe(2);
    expect(stderr).toContain("PICKET_COLLECTOR_AGENT");
    expect(stderr).toContain(`${folder.path}/picket/collector.yaml`);
  });

  test("--check --print shows no secret", async () => {
    using folder = new Folder();
    const file = folder.write(
      "c.yaml",
      route(", verify: { scheme: github, secret: [hunter2-a, hunter2-b] }").replace(
        "agent:",
        "auth: { token: hunter2-c }\nagent:",
      ),
    );
    const { code, stdout, stderr } = await runRole("collector", ["--check", "--print", "--config", file], { target });
    expect(code).toBe(0);
    expect(stdout).toContain("[redacted]");
    expect(stdout + stderr).not.toContain("hunter2");
  });

  test("SIGHUP takes a good file over without a restart and refuses a bad one", async () => {
    using folder = new Folder();
    const write = (template: string, more = "") =>
      folder.write(
        "c.yaml",
        `agent: a\ninbox_dir: ${folder.at("inbox")}\nwebhook:\n  listen: 127.0.0.1:0\n  routes:\n    - { path: /a, recipient: bob, type: INFO, template: "${template}" }\n${more}`,
      );
    await using daemon = await startRole("collector", ["--config", write("one")], { target });
    const url = await daemon.url();
    const post = async () => (await fetch(`${url}/a`, { method: "POST" })).status;
    expect(await post()).toBe(202);
    write("two", `drop_folder: { path: ${folder.at("drops")} }\n`);
    daemon.child.kill("SIGHUP");
    await daemon.said("configuration reloaded");
    expect(await post()).toBe(202);
    const dropped = folder.write("drops/.x.json", `{"recipient":"bob","type":"INFO","payload":"dropped"}`);
    renameSync(dropped, folder.at("drops", "x.json"));
    await until(
      "a drop folder that came with the reload is watched",
      () => inboxLines(folder.at("inbox"), "bob").length === 3,
    );
    write("{{ nope }}");
    daemon.child.kill("SIGHUP");
    await daemon.said("the former one stays");
    await daemon.said('function "nope" is not defined');
    expect(await post()).toBe(202);
    expect(inboxLines(folder.at("inbox"), "bob").map(({ payload }) => payload)).toEqual([
      "one",
      "two",
      "dropped",
      "two",
    ]);
    expect(await daemon.kill()).toBe(0);
    expect(readFileSync(folder.at("inbox", "bob.inbox"), "utf8")).toEndWith("\n");
  });
});
