// Writing and reading inboxes by the collector's commands: ping, read, hook.

import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  writeFileSync,
  chownSync,
  mkdirSync,
  readdirSync,
} from "node:fs";
import { join } from "node:path";
import { AS_NOBODY, NOBODY, isRoot } from "./collector/kit.ts";
import { Folder, ROOT, have, type Outcome, inboxLines, runRole, until } from "./kit.ts";
import { FORGED_EVENTS, FROM_OUTSIDE, OUTSIDE, expectFramed, expectNoTag } from "./forgeries.ts";

class Box {
  readonly folder: Folder;
  readonly env: Record<string, string>;
  constructor(folder: Folder) {
    this.folder = folder;
    this.env = {
      HOME: folder.path,
      XDG_CONFIG_HOME: folder.at("none"),
      PICKET_COLLECTOR_AGENT: "foreman",
      PICKET_COLLECTOR_INBOX_DIR: folder.at("inbox"),
      PICKET_COLLECTOR_DROP_FOLDER__PATH: folder.at("drops"),
    };
  }
  run(args: string[], more: Record<string, string> = {}, stdin?: string | Uint8Array): Promise<Outcome> {
    return runRole("collector", args, { env: { ...this.env, ...more }, ...(stdin === undefined ? {} : { stdin }) });
  }
  async ping(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(["ping", ...args]);
    if (code !== 0) throw new Error(stderr);
    return stdout.trim();
  }
  /** Payloads that `read … --json` shows. */
  async read(...args: string[]): Promise<string[]> {
    const { stdout } = await this.run(["read", "bob", "--json", ...args]);
    return stdout
      .split("\n")
      .filter(Boolean)
      .map((line) => (JSON.parse(line) as { payload: string }).payload);
  }
}

describe("ping", () => {
  test("appends one event with all it was told, and prints its id", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    const id = await box.ping(
      "bob",
      "look\nhere",
      "--type",
      "ACK-REQUEST",
      "--priority",
      "urgent",
      "--from",
      "me",
      "--sentinel",
      "/tmp/x",
    );
    expect(inboxLines(folder.at("inbox"), "bob")).toEqual([
      {
        ts: expect.any(String),
        id,
        from: "me",
        to: "bob",
        type: "ACK-REQUEST",
        priority: "urgent",
        payload: "look\nhere",
        sentinel: "/tmp/x",
      },
    ]);
    expect(statSync(folder.at("inbox", "bob.inbox")).mode & 0o777).toBe(0o600);
    expect(statSync(folder.at("inbox")).mode & 0o777).toBe(0o755);
  });

  const isRoot = process.getuid?.() === 0;
  if (!isRoot) console.log("skipped: what root leaves in a service's folder: needs root");
  test.skipIf(!isRoot)("root leaves nothing in a service's folder that the service can't write to", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    mkdirSync(folder.at("inbox"));
    chownSync(folder.at("inbox"), 12_345, 12_345);
    await box.ping("bob", "hello");
    await box.read("--new");
    const made = readdirSync(folder.at("inbox"), { recursive: true }).map((name) =>
      statSync(folder.at("inbox", String(name))),
    );
    expect(made.length).toBeGreaterThan(3);
    expect(made.map(({ uid }) => uid).filter((uid) => uid !== 12_345)).toEqual([]);
  });

  test("takes the text from stdin, in UTF-8, UTF-16 with a byte order mark, or Windows-1252", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    const given = [
      ["from\nstdin\n", "from\nstdin"],
      [Buffer.from("\ufeffgröße\r\n", "utf16le"), "größe"],
      [Buffer.from("größe", "latin1"), "größe"],
    ] as const;
    for (const [stdin] of given) expect((await box.run(["ping", "bob", "-"], {}, stdin)).code).toBe(0);
    const payloads = inboxLines(folder.at("inbox"), "bob").map(({ payload }) => payload);
    expect(payloads).toEqual(given.map(([, payload]) => payload));
  });

  test("refuses bad names, types and priorities with exit code 2, and writes nothing", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    for (const args of [
      ["../x", "t"],
      ["bob"],
      ["bob", "t", "--type", "info"],
      ["bob", "t", "--priority", "high"],
      [".bob", "t"],
    ]) {
      const { code, stderr } = await box.run(["ping", ...args]);
      expect(`${args.join(" ")}: ${code}`).toBe(`${args.join(" ")}: 2`);
      expect(stderr).toStartWith("picket-collector: error: ");
    }
    expect(inboxLines(folder.at("inbox"), "bob")).toEqual([]);
  });
});

describe("read", () => {
  test("needs no collector's configuration, as where only a receiver runs; ping needs a sender", async () => {
    using folder = new Folder();
    const env = {
      HOME: folder.path,
      XDG_CONFIG_HOME: folder.at("none"),
      PICKET_COLLECTOR_INBOX_DIR: folder.at("inbox"),
    };
    const run = (...args: string[]) => runRole("collector", args, { env });
    expect((await run("ping", "bob", "hello")).stderr).toContain("agent: missing");
    expect(await run("ping", "bob", "hello", "--from", "cron")).toMatchObject({ code: 0 });
    expect(await run("read", "bob")).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/cron INFO [0-9a-f]{32}: hello/),
    });
  });

  test("--new shows each event once, urgent first, and moves the mark", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    for (const [text, priority] of [
      ["one", "normal"],
      ["two", "urgent"],
      ["three", "normal"],
      ["four", "urgent"],
    ]) {
      await box.ping("bob", text!, "--priority", priority!);
    }
    expect(await box.read("--new", "--limit", "3")).toEqual(["two", "four", "one"]);
    expect(await box.read("--new")).toEqual(["three"]);
    expect(await box.read("--new")).toEqual([]);
    expect(await box.read()).toEqual(["one", "two", "three", "four"]);
    expect(await box.read("--limit", "2")).toEqual(["three", "four"]);
    await box.ping("bob", "five");
    expect(await box.read("--new")).toEqual(["five"]);
  });

  test("the mark survives renames and truncation of the inbox", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    await box.ping("bob", "one");
    await box.ping("bob", "two");
    expect(await box.read("--new")).toEqual(["one", "two"]);
    renameSync(folder.at("inbox", "bob.inbox"), folder.at("inbox", "bob.taken"));
    await box.ping("bob", "three");
    expect(await box.read("--new")).toEqual(["three"]);
    truncateSync(folder.at("inbox", "bob.inbox"), 0);
    expect(await box.read("--new")).toEqual([]);
    await box.ping("bob", "four");
    await box.ping("bob", "five, longer than what was there before");
    expect(await box.read("--new")).toEqual(["four", "five, longer than what was there before"]);
    // A copy put in its place is the same inbox.
    writeFileSync(folder.at("inbox", "copy"), readFileSync(folder.at("inbox", "bob.inbox")));
    renameSync(folder.at("inbox", "copy"), folder.at("inbox", "bob.inbox"));
    expect(await box.read("--new")).toEqual([]);
  });

  test("an event waits for its sentinel, others pass it, and the third pass warns once", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    await box.ping("bob", "held", "--sentinel", folder.at("go"));
    await box.ping("bob", "free");
    expect(await box.read("--new")).toEqual(["free"]);
    await box.ping("bob", "later");
    expect(await box.read("--new")).toEqual(["later"]);
    const third = await box.run(["read", "bob", "--new"]);
    expect(third.stdout).toBe("");
    expect(third.stderr).toContain("held back 3 times");
    expect((await box.run(["read", "bob", "--new"])).stderr).toBe("");
    folder.write("go", "");
    expect(await box.read("--new")).toEqual(["held"]);
    expect(await box.read("--new")).toEqual([]);
  });

  test("malformed lines are skipped with one warning each, a torn one waits", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    await box.ping("bob", "one");
    appendFileSync(folder.at("inbox", "bob.inbox"), `rubbish\n[]\n{"payload":"by hand"}\n{"payload":"to`);
    const first = await box.run(["read", "bob", "--new", "--json"]);
    expect(first.stderr.trim().split("\n").length).toBe(2);
    expect(first.stdout.trim().split("\n").length).toBe(2);
    expect((await box.run(["read", "bob", "--new"])).stderr).toBe("");
    appendFileSync(folder.at("inbox", "bob.inbox"), `rn"}\n`);
    expect(await box.read("--new")).toEqual(["torn"]);
  });

  test("--follow shows what comes, until it is stopped", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    await box.ping("bob", "before");
    const child = Bun.spawn([process.execPath, "collector.ts", "read", "bob", "--follow"], {
      env: { ...process.env, ...box.env },
      stdout: "pipe",
      stderr: "inherit",
    });
    let out = "";
    const reading = (async () => {
      for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) out += chunk;
    })();
    await until("the old event is shown", () => out.includes("before"));
    await box.ping("bob", "meanwhile");
    await until("the new event is shown", () => out.includes("meanwhile"));
    child.kill("SIGINT");
    expect(await child.exited).toBe(0);
    await reading;
    expect(out.match(/before/g)?.length).toBe(1);
  });

  test("--follow begins anew with an inbox that took the place of the former one, also with a longer one", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    await box.ping("bob", "one");
    await using reader = Bun.spawn([process.execPath, join(ROOT, "collector.ts"), "read", "bob", "--follow"], {
      env: { ...process.env, ...box.env },
      stdout: "pipe",
      stderr: "ignore",
    });
    let shown = "";
    void (async () => {
      for await (const chunk of reader.stdout.pipeThrough(new TextDecoderStream())) shown += chunk;
    })();
    await until("the first is shown", () => shown.includes("one"));
    folder.write("inbox/next", `{"payload":"two ${"x".repeat(400)}"}\n{"payload":"three"}\n`);
    renameSync(folder.at("inbox", "next"), folder.at("inbox", "bob.inbox"));
    await until("the last is shown", () => shown.includes("three"));
    expect(shown).toContain("two x");
  });

  test("an inbox that is renamed while `--new` still prints, a longer one in its place: no event is skipped", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    mkdirSync(folder.at("inbox"));
    const inbox = folder.at("inbox", "bob.inbox");
    const lines = (name: string, count: number) =>
      Array.from(
        { length: count },
        (_line, n) => `${JSON.stringify({ payload: `${name}${n} ${"x".repeat(1000)}` })}\n`,
      );
    writeFileSync(inbox, lines("old", 500).join(""));
    const child = Bun.spawn([process.execPath, join(ROOT, "collector.ts"), "read", "bob", "--new", "--json"], {
      env: { ...process.env, ...box.env },
      stdout: "pipe",
      stderr: "inherit",
    });
    // It has begun to print, and the pipe holds less than all of it. On a busy machine it may have ended before this look.
    await until("the first event is noted", () => {
      const mark = folder.at("inbox", ".picket", "person@bob.mark");
      return child.exitCode !== null || (existsSync(mark) && readFileSync(mark, "utf8").split("\n").length > 3);
    });
    appendFileSync(inbox, lines("rest", 2).join(""));
    renameSync(inbox, folder.at("inbox", "bob.taken"));
    writeFileSync(inbox, lines("new", 600).join(""));
    expect((await new Response(child.stdout).text()).split("\n")).toHaveLength(501);
    const fresh = await box.read("--new");
    expect(fresh.map((payload) => payload.split(" ")[0])).toEqual([
      "rest0",
      "rest1",
      ...Array.from({ length: 600 }, (_event, n) => `new${n}`),
    ]);
    expect(await box.read("--new")).toEqual([]);
  });

  test("`--new` is killed at any moment while it prints: no event is skipped, each kill repeats one at most", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    mkdirSync(folder.at("inbox"));
    const inbox = folder.at("inbox", "bob.inbox");
    const count = 5000;
    const line = (n: number) => JSON.stringify({ payload: `${n}`, priority: n % 7 === 0 ? "urgent" : "normal" });
    writeFileSync(inbox, Array.from({ length: count }, (_line, n) => `${line(n)}\n`).join(""));
    const shown: number[] = [];
    let kills = 0;
    for (let round = 0; shown.length - kills < count || round === 0; round++) {
      const child = Bun.spawn([process.execPath, join(ROOT, "collector.ts"), "read", "bob", "--new", "--json"], {
        env: { ...process.env, ...box.env },
        stdout: "pipe",
        stderr: "inherit",
      });
      // It is killed once it has printed so much.
      let left = 20_000 + Math.random() * 60_000;
      let text = "";
      for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
        text += chunk;
        left -= chunk.length;
        if (left < 0 && child.exitCode === null) child.kill("SIGKILL");
      }
      if ((await child.exited) !== 0) kills++;
      const events = text.split("\n").slice(0, -1);
      shown.push(...events.map((event) => Number((JSON.parse(event) as { payload: string }).payload)));
      if (events.length === 0) break;
      if (round === 2) {
        renameSync(inbox, folder.at("inbox", "bob.inbox.1"));
        writeFileSync(inbox, "");
      }
    }
    expect(new Set(shown).size).toBe(count);
    expect(shown.length - count).toBeLessThanOrEqual(kills);
    expect(kills).toBeGreaterThan(2);
  });

  test("a mark of 0.1.0 is gone on from, also when the inbox was renamed since", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    mkdirSync(folder.at("inbox"));
    const lines = ["a", "b", "c", "d"].map((payload) => `${JSON.stringify({ payload })}\n`);
    const offset = lines[0]!.length;
    const print = Bun.hash(lines[0]!).toString(16);
    // The third was urgent, and shown before the second.
    const mark = JSON.stringify({ offset, print, shown: [2 * offset], held: {} });
    folder.write("inbox/bob.inbox", lines.join(""));
    folder.write("inbox/bob.mark", mark);
    // It is the agent's and a person's, whichever of them comes first.
    expect(await box.read("--new", "--peek")).toEqual(["b", "d"]);
    expect((await box.run(["hook", "--as", "bob"])).stdout).toMatch(/^2 new [^]*> b\n[^]*> d\n$/);
    expect(await box.read("--new")).toEqual(["b", "d"]);
    expect(await box.read("--new")).toEqual([]);
    folder.write("inbox/.picket/person@bob.mark", mark);
    renameSync(folder.at("inbox", "bob.inbox"), folder.at("inbox", "bob.inbox.1"));
    await box.ping("bob", "e");
    expect(await box.read("--new")).toEqual(["b", "d", "e"]);
    // It says nothing of a file that it wasn't made for.
    folder.write("inbox/ann.mark", mark);
    folder.write("inbox/ann.inbox", `{"payload":"other"}\n{"payload":"one"}\n`);
    expect((await box.run(["read", "ann", "--new"])).stdout.trim().split("\n")).toHaveLength(2);
  });

  test("an event that waits for its sentinel is shown when the inbox was renamed meanwhile", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    await box.ping("bob", "held", "--sentinel", folder.at("go"));
    await box.ping("bob", "free");
    expect(await box.read("--new")).toEqual(["free"]);
    renameSync(folder.at("inbox", "bob.inbox"), folder.at("inbox", "bob.old"));
    await box.ping("bob", "next");
    expect(await box.read("--new")).toEqual(["next"]);
    folder.write("go", "");
    expect(await box.read("--new")).toEqual(["held"]);
    expect(await box.read("--new")).toEqual([]);
  });

  test("lines of other programs are read whatever their encoding", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    const wide = (text: string) => Buffer.from(text, "utf16le");
    const line = (payload: string, more = "") => `{"payload":"${payload}"${more}}\r\n`;
    const inboxes: [Buffer[], string[]][] = [
      // PowerShell appends UTF-16 without a byte order mark to a file that has lines.
      [
        [Buffer.from(line("one")), wide(line("zwei ä 😀") + line("drei")), Buffer.from(line("four"))],
        ["one", "zwei ä 😀", "drei", "four"],
      ],
      [[wide(`\ufeff${line("größe")}${line("two")}`)], ["größe", "two"]],
      [[wide(`\ufeff${line("größe")}`).swap16()], ["größe"]],
      [[Buffer.from(`\ufeff${line("mark")}\ufeff${line("again")}`)], ["mark", "again"]],
      [
        [
          Buffer.from(
            line("half \\ud83d", ',"other":"\\ud83d"') + line("x", ',"ts":5,"type":null,"sentinel":{},"source":1'),
          ),
        ],
        ["half \ufffd", "x"],
      ],
    ];
    mkdirSync(folder.at("inbox"));
    for (const [bytes, payloads] of inboxes) {
      folder.write("inbox/bob.inbox", Buffer.concat(bytes));
      const { stdout, stderr } = await box.run(["read", "bob", "--json"]);
      expect(stderr).toBe("");
      expect(stdout).not.toMatch(/\\ud[89a-f]/);
      const read = stdout
        .trim()
        .split("\n")
        .map((one) => (JSON.parse(one) as { payload: string }).payload);
      expect(read).toEqual(payloads);
      await box.ping("bob", "last");
      expect((await box.read()).at(-1)).toBe("last");
    }
  });
});

const isRootWithTools = isRoot && have("setpriv", "a user's commands") && have("unshare", "a user's commands");

test.skipIf(!isRootWithTools)(
  "a user's commands need no secret of the service's, and say which inbox or log they use",
  async () => {
    using folder = new Folder();
    for (const name of ["system/picket/inbox", "system/picket/observer", "home"])
      mkdirSync(folder.at(name), { recursive: true });
    chmodSync(folder.path, 0o755);
    chownSync(folder.at("home"), NOBODY, NOBODY);
    const secret = folder.write("secret", "abc");
    chmodSync(secret, 0o600);
    const route = `{ path: /a, recipient: bob, type: INFO, template: x, verify: { scheme: github, secret_file: ${secret} } }`;
    const collector = folder.write(
      "c.yaml",
      `agent: me\nauth: { token_file: ${secret} }\nwebhook: { routes: [${route}] }\n`,
    );
    const observer = folder.write(
      "o.yaml",
      `auth: { token_file: ${secret} }\nllm: { url: "https://example.org", model: m, api_key_file: ${secret} }\n`,
    );
    chmodSync(folder.write("system/picket/inbox/bob.inbox", '{"payload":"theirs"}\n'), 0o600);
    const mounted = [
      "unshare",
      "--mount",
      "sh",
      "-c",
      `mount --bind ${folder.at("system")} /var/lib && exec "$@"`,
      "sh",
    ];
    const run = (role: string, file: string, ...args: string[]) =>
      runRole(role, [...args, "--config", file], {
        env: { HOME: folder.at("home") },
        wrap: [...mounted, ...AS_NOBODY],
      });
    const theirs = "system=/var/lib/picket/inbox/bob.inbox";
    const own = `inbox=${folder.at("home", ".local/share/picket/inbox/bob.inbox")}`;
    for (const args of [
      ["read", "bob"],
      ["hook", "--as", "bob"],
      ["ping", "bob", "mine"],
      ["read", "bob"],
    ]) {
      const { code, stdout, stderr } = await run("collector", collector, ...args);
      expect({ args, code, stderr }).toEqual({
        args,
        code: 0,
        stderr: expect.stringMatching(RegExp(`sudo.*${own}.*${theirs}`)),
      });
      expect(stdout).not.toContain("theirs");
    }
    // Nothing is said where the service has no inbox of that name, and the user has.
    await run("collector", collector, "ping", "eve", "mine");
    expect(await run("collector", collector, "read", "eve")).toMatchObject({ code: 0, stderr: "" });
    expect(await run("observer", observer, "stats")).toMatchObject({
      code: 0,
      stderr: expect.stringContaining("system=/var/lib/picket/observer/ops.jsonl"),
    });
    const named = folder.write("named.yaml", "agent: me\ninbox_dir: /var/lib/picket/inbox\nwebhook: {}\n");
    for (const args of [
      ["read", "bob"],
      ["read", "bob", "--new"],
      ["ping", "bob", "x"],
    ]) {
      const { code, stderr } = await run("collector", named, ...args);
      expect({ args, code, stderr }).toEqual({
        args,
        code: 1,
        stderr: expect.stringMatching(/EACCES[^]*hint: run it as root/),
      });
    }
  },
);

test("nothing in an event can look like another event, hide, or steer the terminal", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  mkdirSync(folder.at("inbox"));
  folder.write("inbox/bob.inbox", FORGED_EVENTS.map((event) => `${JSON.stringify(event)}\n`).join(""));
  const { stdout: lines } = await box.run(["read", "bob"]);
  const blocks: string[] = [];
  for (let text = "more"; text !== ""; blocks.push(text)) {
    const how = blocks.length % 2 === 0 ? ["hook"] : ["wait", "--timeout", "0s"];
    text = (await box.run([...how, "--as", "bob"])).stdout;
  }
  for (const text of [lines, ...blocks]) expectFramed(text);
  for (const text of blocks) expectNoTag(text);
  const count = (text: string, part: RegExp) => [...text.matchAll(part)].length;
  expect(count(lines, /^\S.*$/gm)).toBe(FORGED_EVENTS.length);
  expect(count(blocks.join(""), /^\[/gm)).toBe(FORGED_EVENTS.length);
  // What came from outside says so.
  for (const text of [lines, blocks.join("")]) expect(count(text, OUTSIDE)).toBe(FROM_OUTSIDE);
});

test("emoji stay as they are", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  await box.ping("bob", "❤️ 👩‍🚀 👩🏽‍🚀");
  expect((await box.run(["read", "bob"])).stdout).toMatch(/INFO [0-9a-f]{32}: ❤️ 👩‍🚀 👩🏽‍🚀\n$/u);
});

describe("hook", () => {
  const hook = (box: Box, env: Record<string, string> = { PICKET_IDENTITY: "bob" }) => box.run(["hook"], env);

  test("gives the new events as plain text, urgent first, once", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    await box.ping("bob", `{"a":1}`);
    await box.ping("bob", "quick", "--priority", "urgent");
    const { code, stdout } = await hook(box);
    expect(code).toBe(0);
    expect(stdout.indexOf("quick")).toBeLessThan(stdout.indexOf(`{"a":1}`));
    expect(stdout.trimStart()).not.toStartWith("{");
    expect(await hook(box)).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("at most 10,000 characters a turn; what doesn't fit waits for the next", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    for (let n = 0; n < 5; n++) await box.ping("bob", `${n}:${"x".repeat(3000)}`);
    await box.ping("bob", `last:${"y".repeat(20_000)}`);
    const turns: string[] = [];
    for (let n = 0; n < 5; n++) {
      const { stdout } = await hook(box);
      expect(stdout.length).toBeLessThanOrEqual(10_000);
      turns.push([...stdout.matchAll(/^> (\d|last):/gm)].map(([, which]) => which).join(""));
    }
    expect(turns).toEqual(["012", "34", "last", "", ""]);
  });

  test("at most 10,000 characters, however long the recipient's name is", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    const name = "b".repeat(128);
    await box.ping(name, "y".repeat(20_000));
    await box.ping(name, "z");
    const { stdout } = await hook(box, { PICKET_IDENTITY: name });
    expect(stdout).toContain("1 more next time");
    expect(stdout.length).toBeLessThanOrEqual(10_000);
    expect(stdout.length).toBeGreaterThan(9_900);
    expect((await hook(box, { PICKET_IDENTITY: name })).stdout).toEndWith("\n> z\n");
  });

  test("--as stands in for the identity, and nothing ever makes it fail", async () => {
    using folder = new Folder();
    const box = new Box(folder);
    await box.ping("bob", "hello");
    expect((await box.run(["hook", "--as", "bob"])).stdout).toContain("hello");
    for (const env of [
      {},
      { PICKET_IDENTITY: "../x" },
      { PICKET_IDENTITY: "nobody" },
      { PICKET_IDENTITY: "bob", PICKET_COLLECTOR_INBOX_DIR: "/proc/nope" },
      { PICKET_COLLECTOR_NONSENSE: "1" },
    ]) {
      const { code, stdout } = await hook(box, env);
      expect({ env, code, stdout }).toEqual({ env, code: 0, stdout: "" });
    }
  });
});
