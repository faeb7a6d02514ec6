// `hook --install` and `--uninstall` on settings as people have them.
// Not tested here: that the clients run what was written (tried by hand; see docs/readers.md).

import { expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { parse } from "jsonc-parser";
import { Folder, runRole } from "../kit.ts";

const FILES = {
  "claude-code": ".claude/settings.json",
  codex: ".codex/hooks.json",
  "gemini-cli": ".gemini/settings.json",
};
type Client = keyof typeof FILES;

class Home {
  readonly folder: Folder;
  constructor(folder: Folder) {
    this.folder = folder;
  }
  write(client: Client, text: string): string {
    const path = this.folder.at(FILES[client]);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return path;
  }
  run(...args: string[]) {
    const env = { HOME: this.folder.path, CLAUDE_CONFIG_DIR: "", CODEX_HOME: "", GEMINI_CLI_HOME: "" };
    return runRole("collector", ["hook", ...args], { env, cwd: this.folder.path });
  }
}

type Hooks = Record<string, { hooks: { command: string }[] }[]>;
/** The commands of a settings text, by event. */
function commandsOf(text: string): Record<string, string[]> {
  const { hooks = {} } = parse(text) as { hooks?: Hooks };
  return Object.fromEntries(
    Object.entries(hooks).map(([event, groups]) => [event, groups.flatMap((one) => one.hooks.map((h) => h.command))]),
  );
}

const OURS = expect.stringMatching(/^\/\S+ .*hook --as bob/);
const CLAUDE = ["SessionStart", "UserPromptSubmit", "PostToolUse", "Stop"];
const DEFAULTS: Record<Client, string[]> = {
  "claude-code": CLAUDE,
  codex: CLAUDE,
  "gemini-cli": ["SessionStart", "BeforeAgent", "AfterTool", "AfterAgent"],
};

const SETTINGS: [string, Client, string][] = [
  ["none", "claude-code", ""],
  ["an empty object", "codex", "{}\n"],
  ["a model", "claude-code", '{\n  "model": "opus",\n  "env": {\n    "A": "1"\n  }\n}\n'],
  [
    "other hooks, with tabs",
    "claude-code",
    '{\n\t"hooks": {\n\t\t"PostToolUse": [\n\t\t\t{\n\t\t\t\t"matcher": "Edit|Write",\n\t\t\t\t"hooks": [{ "type": "command", "command": "fmt" }]\n\t\t\t}\n\t\t],\n\t\t"Notification": []\n\t},\n\t"z": 1.0,\n\t"a": 12345678901234567890\n}\n',
  ],
  ["CRLF", "codex", '{\r\n    "description": "mine"\r\n}\r\n'],
  [
    "comments",
    "gemini-cli",
    '{\n  // theme\n  "ui": { "theme": "x" }, /* why */\n  "hooks": {\n    // before\n    "AfterTool": [\n      {\n        "matcher": "write_file",\n        "hooks": [\n          {\n            "type": "command",\n            "command": "fmt"\n          }\n        ]\n      } // after\n    ]\n  } // end\n}\n',
  ],
];

test.concurrent.each(SETTINGS)("%s: install twice, uninstall", async (_what, client, before) => {
  using folder = new Folder();
  const home = new Home(folder);
  const path = before === "" ? folder.at(FILES[client]) : home.write(client, before);
  const { code, stderr } = await home.run("--install", client, "--as", "bob");
  expect([code, stderr]).toEqual([0, expect.not.stringContaining("no identity")]);
  const text = readFileSync(path, "utf8");
  const others = commandsOf(before || "{}");
  const both = Object.fromEntries(
    [...new Set([...Object.keys(others), ...DEFAULTS[client]])].map((event) => [
      event,
      [...(others[event] ?? []), ...(DEFAULTS[client].includes(event) ? [OURS] : [])],
    ]),
  );
  expect(commandsOf(text)).toEqual(both);
  expect(text.includes("--format json")).toBe(client === "gemini-cli");
  if (client === "codex") JSON.parse(text);
  const comments = (all: string) => all.match(/\/\/.*|\/\*.*\*\//g) ?? [];
  expect(comments(text)).toEqual(comments(before));
  if (before !== "") expect(readFileSync(`${path}.before-picket`, "utf8")).toBe(before);
  expect((await home.run("--install", client, "--as", "bob")).stdout).toContain("nothing to change");
  expect(readFileSync(path, "utf8")).toBe(text);
  expect((await home.run("--uninstall", client)).code).toBe(0);
  const after = readFileSync(path, "utf8");
  expect(parse(after)).toEqual(parse(before || "{}"));
  expect(comments(after)).toEqual(comments(before));
  if (before.includes('"model"')) expect(after).toBe(before);
  expect((await home.run("--uninstall", client)).stdout).toContain("nothing to change");
});

test.concurrent("a file that the client could not read is named and stays as it is", async () => {
  const refused: [Client, string, string][] = [
    ["claude-code", '{\n  "model": "opus",\n}\n', "3:1: not JSON: property name expected"],
    ["claude-code", '{\n  // mine\n  "model": "opus"\n}\n', "2:3: not JSON: invalid comment token"],
    ["codex", '{"hooks": {"Stop": {}}}', '"hooks.Stop" is not a list'],
    ["codex", '{"hooks": []}', '"hooks" is not an object'],
    ["gemini-cli", "[1]", "the top level is not an object"],
    ["gemini-cli", '{"hooks": {}, "hooks": {}}', "stands twice"],
  ];
  for (const [client, text, why] of refused) {
    using folder = new Folder();
    const path = new Home(folder).write(client, text);
    const { code, stdout, stderr } = await new Home(folder).run("--install", client, "--as", "bob");
    expect([text, code, stdout, stderr.includes(path) && stderr.includes(why) ? why : stderr]).toEqual([
      text,
      1,
      "",
      why,
    ]);
    expect([readFileSync(path, "utf8"), readdirSync(dirname(path)).length]).toEqual([text, 1]);
  }
});

test.concurrent("a link stays a link, the mode is kept, and a former command is replaced", async () => {
  using folder = new Folder();
  const home = new Home(folder);
  const path = folder.at(FILES["claude-code"]);
  mkdirSync(dirname(path));
  mkdirSync(folder.at("dotfiles"));
  const former = {
    hooks: { Stop: [{ hooks: [{ type: "command", command: "PICKET_IDENTITY=eve picket-collector hook" }] }] },
  };
  const target = folder.write("dotfiles/settings.json", JSON.stringify(former, null, 4));
  chmodSync(target, 0o664);
  symlinkSync("../dotfiles/settings.json", path);
  expect((await home.run("--install", "claude-code", "--as", "bob", "--event", "Stop")).code).toBe(0);
  expect(lstatSync(path).isSymbolicLink()).toBe(true);
  expect(statSync(target).mode & 0o777).toBe(0o664);
  expect(commandsOf(readFileSync(target, "utf8"))).toEqual({ Stop: [OURS] });
  expect(readdirSync(folder.at("dotfiles"))).toEqual(["settings.json"]);
});

test.concurrent("--project, --dry-run, --event, --config, and wrong usage", async () => {
  using folder = new Folder();
  const home = new Home(folder);
  const dry = await home.run("--install", "codex", "--dry-run", "--event", "SubagentStop", "--event", "Stop");
  expect(Object.keys(commandsOf(dry.stdout))).toEqual(["SubagentStop", "Stop"]);
  expect(dry.stderr).toContain("no identity is set here");
  expect(existsSync(folder.at(".codex"))).toBe(false);
  expect((await home.run("--install", "claude-code", "--project", "--as", "bob", "--config", "my c.yaml")).code).toBe(
    0,
  );
  const text = readFileSync(folder.at(".claude/settings.local.json"), "utf8");
  expect(commandsOf(text)["Stop"]).toEqual([expect.stringMatching(/ hook --as bob --config '\/.*\/my c.yaml'$/)]);
  for (const args of [
    ["--install", "emacs"],
    ["--install", "codex", "--event", "Notification"],
    ["--install", "codex", "--as", "a b"],
    ["--install", "codex", "--uninstall", "codex"],
    ["--install"],
  ]) {
    expect([args, (await home.run(...args)).code]).toEqual([args, 2]);
  }
});
