// A role's life, in child processes of test/fixtures/service/tiny.ts: command line, exit codes, reload, loops, stop.
// What systemd is told stands in systemd.test.ts. Not tested: EAGAIN on stdout, a full disk under stderr.

import { afterEach, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { endAll, place, start, until } from "./fixtures/service/start.ts";

afterEach(endAll);

async function outcome(...args: string[]) {
  return start(args).ends();
}

test("--help shows the role's own text, its commands and the common flags on one screen", async () => {
  const { code, out, err } = await outcome("--help");
  expect(code).toBe(0);
  expect(err).toBe("");
  for (const part of [
    "example: picket-tiny --config",
    "ping RECIPIENT [TEXT]",
    "host add HOST",
    "unit",
    "--json-log",
  ]) {
    expect(out).toContain(part);
  }
  expect(out.split("\n").length).toBeLessThanOrEqual(40);
  expect((await outcome("-h")).out).toBe(out);
});

test("COMMAND --help shows the command's own help, and that of a group its members", async () => {
  const ping = await outcome("ping", "--help");
  expect(ping).toMatchObject({ code: 0, err: "" });
  expect(ping.out).toContain("[--type TYPE]");
  const host = await outcome("--help", "host");
  expect(host.out).toContain("host add HOST");
  expect(host.out).not.toContain("ping");
});

test("--version names the program, its version and commit, Bun and the platform", async () => {
  const { code, out } = await outcome("--version");
  expect(code).toBe(0);
  expect(out).toMatch(/^picket-tiny \d+\.\d+\.\d+ \(commit source, bun \d+\.\d+\.\d+, \w+-\w+\)\n$/);
});

const wrongUsage: [args: string[], error: string, hint: string][] = [
  [["--chekc"], 'unknown flag "--chekc"', 'did you mean "--check"?'],
  [["ping", "bob", "--tpye", "ACK"], 'unknown flag "--tpye"', 'did you mean "--type"?'],
  [["-x"], 'unknown flag "-x"', "--help lists the flags; a word that starts with - comes after --"],
  [["pign"], 'unknown sub-command "pign"', 'did you mean "ping"?'],
  [["host", "ad", "web-1"], 'unknown sub-command "host ad"', 'did you mean "host add"?'],
  [["host"], 'sub-command "host" is incomplete', "host is followed by one of: add, list"],
  [["host", "xyzzyx"], 'unknown sub-command "host xyzzyx"', "host is followed by one of: add, list"],
  [["help"], 'unknown sub-command "help"', 'did you mean "--help"?'],
  [["ping", "bob", "--check"], 'flag "--check" has no meaning with "ping"', "it stands without a sub-command"],
  [["--follow"], 'flag "--follow" has no meaning without a sub-command', "it belongs to: ping"],
  [["--config"], 'flag "--config" needs a value', ""],
  [["--config", "--check"], 'flag "--config" needs a value', "a value that starts with - is written --config=--check"],
  [["--check=yes"], 'flag "--check" takes no value', ""],
  [["--print"], 'flag "--print" needs "--check"', ""],
  [["--log-level", "wran"], 'unknown log level "wran"', 'did you mean "warn"?'],
  [["ping"], "missing RECIPIENT", "ping --help shows how it is called"],
  [["ping", "bob", "hello", "again"], 'unexpected argument "again"', "ping --help shows how it is called"],
  [["odd"], "nothing to do", ""],
];

test.each(wrongUsage)("%j is wrong usage: exit code 2, and what was probably meant", async (args, error, hint) => {
  const { code, out, err } = await outcome(...args);
  expect(code).toBe(2);
  expect(out).toBe("");
  expect(err).toBe(`picket-tiny: error: ${error}\n${hint && `hint: ${hint}\n`}`);
});

const pings: [args: string[], printed: object][] = [
  [["ping", "bob", "hi", "--type", "ACK"], { to: "bob", text: "hi", type: "ACK", follow: false }],
  [["--type", "ACK", "--follow", "ping", "bob"], { to: "bob", type: "ACK", follow: true }],
  [["--log-level", "debug", "ping", "bob", "-"], { to: "bob", text: "-", type: "INFO", follow: false }],
  [["ping", "bob", "--", "--type"], { to: "bob", text: "--type", type: "INFO", follow: false }],
];

test.each(pings)("flags before and after the sub-command are understood: %j", async (args, printed) => {
  const { code, out, err } = await outcome(...args);
  expect({ code, err }).toEqual({ code: 0, err: "" });
  expect(JSON.parse(out)).toEqual(printed);
});

test("a sub-command of two words runs, and a flag can be one", async () => {
  expect(await outcome("host", "add", "web-1")).toEqual({ code: 0, out: "added web-1\n", err: "" });
  expect(await outcome("--once")).toEqual({ code: 5, out: "", err: "" });
});

test("example prints the example, unit the unit for where the program lies", async () => {
  expect((await outcome("example")).out).toBe("name: tiny # required\n");
  const { out } = await outcome("unit", "--user");
  const script = join(import.meta.dir, "fixtures/service/tiny.ts");
  expect(out).toContain(`\nExecStart=${process.execPath} ${script}\n`);
});

test("errors become one line with their causes, a hint, and an exit code that says what they are", async () => {
  expect(await outcome("broken")).toEqual({
    code: 1,
    out: "",
    err: "picket-tiny: error: read the index: no such file\n",
  });
  const refused = await outcome("refused");
  expect(refused.code).toBe(3);
  expect(refused.err).toBe("picket-tiny: error: reach https://hub.example: 401\nhint: set another token\n");
});

test("a stack is shown with --log-level debug only", async () => {
  expect((await outcome("broken", "--log-level", "debug")).err).toContain("    at ");
  expect((await outcome("broken", "--log-level", "info")).err).not.toContain("    at ");
});

test("with --json-log errors are JSON lines too", async () => {
  const { code, err } = await outcome("refused", "--json-log");
  expect(code).toBe(3);
  expect(JSON.parse(err)).toMatchObject({
    level: "error",
    role: "tiny",
    msg: "reach https://hub.example: 401",
    hint: "set another token",
  });
});

test("no configuration at all is exit code 2, and says what is required", async () => {
  const { code, err } = await outcome("--check");
  expect(code).toBe(2);
  expect(err).toContain("picket-tiny: error: a required setting is missing\n");
  expect(err).toContain("PICKET_TINY_NAME");
});

test("an invalid configuration is exit code 78, each problem on a line of its own", async () => {
  const { file } = place();
  writeFileSync(file, "name: tiny\nmode: sleepy\nevrey: 3\n");
  for (const args of [["--check"], [], ["show"]]) {
    const { code, out, err } = await outcome("--config", file, ...args);
    expect({ code, out }).toEqual({ code: 78, out: "" });
    const lines = err.trimEnd().split("\n");
    expect(lines[0]).toBe("picket-tiny: error: the configuration is invalid");
    expect(lines.filter((line) => line.startsWith(`${file}:`)).length).toBe(2);
  }
  const json = await outcome("--config", file, "--json-log");
  expect(json.code).toBe(78);
  expect(
    json.err
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line).level),
  ).toEqual(["error", "error"]);
});

test("--check prints ok, with --print the effective configuration", async () => {
  const { file } = place();
  expect(await outcome("--check", "--config", file)).toEqual({ code: 0, out: "ok\n", err: "" });
  const { out } = await outcome("--check", "--print", "--config", file);
  expect(out).toStartWith("ok\n");
  expect(out).toContain("mode: plain");
});

test("a sub-command reads the configuration when it asks for it", async () => {
  const { file } = place({ name: "web-1" });
  expect(await outcome("show", "--config", file)).toEqual({ code: 0, out: "web-1\n", err: "" });
});

test("a sub-command reads stdin", async () => {
  expect((await start(["echo"], { stdin: "zwei\nZeilen äöü\n" }).ends()).out).toBe("zwei\nZeilen äöü\n");
});

test("nobody reading stdout any more ends a sub-command quietly", async () => {
  const script = join(import.meta.dir, "fixtures/service/tiny.ts");
  const { exitCode, stdout, stderr } = Bun.spawnSync(
    ["bash", "-c", 'set -o pipefail; "$0" "$1" endless | head -n 2', process.execPath, script],
    { stderr: "pipe" },
  );
  expect(stdout.toString()).toBe("line 0\nline 1\n");
  expect(stderr.toString()).toBe("");
  expect(exitCode).toBe(0);
});

test("a sub-command is told about a signal and ends by itself; one that doesn't is ended by the second", async () => {
  const willing = start(["wait"]);
  await until(() => willing.out() === "waiting\n", willing.out);
  willing.signal("SIGINT");
  expect(await willing.ends()).toEqual({ code: 0, out: "waiting\ntold to stop\n", err: "" });
  const stubborn = start(["wait", "--stubborn"]);
  await until(() => stubborn.out() === "waiting\n", stubborn.out);
  stubborn.signal("SIGTERM");
  await until(() => stubborn.out().endsWith("not yet\n"), stubborn.out);
  stubborn.signal("SIGTERM");
  expect((await stubborn.ends()).code).toBe(143);
});

test("SIGTERM and SIGINT end the daemon with 0, after its pass and its stop", async () => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    const { file } = place();
    const daemon = start(["--config", file, "--log-level", "debug"]);
    await daemon.says("tick passes=3");
    daemon.signal(signal);
    const { code, out, err } = await daemon.ends();
    expect({ code, out }).toEqual({ code: 0, out: "" });
    expect(err.trimEnd().split("\n").at(-1)).toMatch(/^\d\d:\d\d:\d\d info  tiny stopped passes=\d+$/);
  }
});

test("a pass that never ends is cut off in time, and stop is called all the same", async () => {
  const { file } = place({ mode: "stubborn" });
  const daemon = start(["--config", file]);
  await daemon.says("never ends");
  daemon.signal("SIGTERM");
  const { code, err } = await daemon.ends();
  expect(code).toBe(0);
  expect(err).toContain("stopped passes=1");
  expect(err).not.toContain("before everything had ended");
});

test("a stop that never ends is cut off in time, with a warning", async () => {
  const { file } = place({ mode: "stuck-stop" });
  const daemon = start(["--config", file]);
  await daemon.says("serving");
  daemon.signal("SIGTERM");
  const { code, err } = await daemon.ends();
  expect(code).toBe(0);
  // Within the 3 s that are promised; by its own clock, for nobody knows how long a busy machine keeps this process waiting.
  expect(err).toContain("warn  tiny stopped before everything had ended after_seconds=2.5");
});

test("a second signal ends the daemon at once", async () => {
  const { file } = place({ mode: "stubborn" });
  const daemon = start(["--config", file]);
  await daemon.says("never ends");
  daemon.signal("SIGINT");
  await daemon.says("stopping signal=SIGINT");
  daemon.signal("SIGTERM");
  const { code, err } = await daemon.ends();
  expect(code).toBe(143);
  expect(err).not.toContain("stopped passes");
});

test("a signal during the start ends it with 0", async () => {
  const { file } = place({ mode: "endless-start" });
  const daemon = start(["--config", file]);
  await daemon.says("starting for ever");
  daemon.signal("SIGTERM");
  expect((await daemon.ends()).code).toBe(0);
});

test("a main that throws: 1, refused credentials: 3", async () => {
  const broken = place({ mode: "broken" });
  expect(await outcome("--config", broken.file)).toEqual({
    code: 1,
    out: "",
    err: "picket-tiny: error: open the store: disk on fire\n",
  });
  const refused = place({ mode: "refused" });
  expect((await outcome("--config", refused.file)).code).toBe(3);
});

test("a promise that nobody awaits ends the daemon with 1 and one line", async () => {
  const { file } = place({ mode: "stray" });
  const { code, err } = await outcome("--config", file);
  expect(code).toBe(1);
  expect(err).toContain('error tiny unexpected error, giving up error="nobody caught this"');
  expect(err.match(/nobody caught this/g)?.length).toBe(1);
});

test("SIGHUP takes over a valid configuration, but for what waits for a restart, and says so each time", async () => {
  const { file, write } = place();
  const daemon = start(["--config", file]);
  await daemon.says("serving name=tiny");
  write({ name: "renamed", gate: "elsewhere" });
  daemon.signal("SIGHUP");
  await daemon.says("configuration reloaded");
  expect(daemon.err()).toContain("reloaded name=renamed");
  expect(daemon.err()).not.toContain("gate=elsewhere");
  const waits = "warn  tiny gate: a change takes effect at the next start";
  expect(daemon.err().split(waits).length).toBe(2);
  daemon.signal("SIGHUP");
  await until(() => daemon.err().split(waits).length === 3, daemon.err);
});

test("SIGHUP refuses an invalid configuration with each of its problems; the former stays", async () => {
  const { file, write } = place();
  const daemon = start(["--config", file]);
  await daemon.says("serving name=tiny");
  write({ name: 7, mode: "sleepy" });
  daemon.signal("SIGHUP");
  await daemon.says("configuration refused: the former one stays");
  expect(
    daemon
      .err()
      .split("\n")
      .filter((line) => line.includes(`error tiny ${file}:`)).length,
  ).toBe(2);
  expect(daemon.err()).not.toContain("reloaded");
  write({ name: "mended" });
  daemon.signal("SIGHUP");
  await daemon.says("reloaded name=mended");
});

test("SIGHUPs during a reload make one more afterwards, which sees the last change", async () => {
  const { file, write, open } = place({ mode: "slow-reload" });
  const daemon = start(["--config", file, "--log-level", "debug"]);
  await daemon.says("serving");
  write({ name: "first" });
  daemon.signal("SIGHUP");
  await daemon.says("reloading slowly");
  write({ name: "last" });
  for (const count of [2, 3]) {
    daemon.signal("SIGHUP");
    await until(() => daemon.err().match(/SIGHUP/g)?.length === count, daemon.err);
  }
  open();
  await daemon.says("reloaded name=last");
  expect(daemon.err().match(/reloading slowly/g)?.length).toBe(2);
});

test("a SIGHUP before the start is over is served after it", async () => {
  const { file, write, open } = place({ mode: "slow-start" });
  const daemon = start(["--config", file, "--log-level", "debug"]);
  await daemon.says("starting slowly");
  write({ name: "changed" });
  daemon.signal("SIGHUP");
  await daemon.says("SIGHUP");
  expect(daemon.err()).not.toContain("reloaded");
  open();
  await daemon.says("reloaded name=changed");
  expect(daemon.err().indexOf("serving name=tiny")).toBeLessThan(daemon.err().indexOf("reloaded"));
});

test("a changed interval counts at once, not only after the old one is over", async () => {
  const { file, write } = place({ every: 3600 });
  const daemon = start(["--config", file, "--log-level", "debug"]);
  await daemon.says("tick passes=1");
  write({ every: 0.01 });
  daemon.signal("SIGHUP");
  await daemon.says("tick passes=3");
});

test("a pass that throws is counted each time, logged now and then, and the loop goes on", async () => {
  const { file, open } = place({ mode: "failing", every: 0.001 });
  const daemon = start(["--config", file]);
  await daemon.says("times=100 ");
  open();
  await daemon.says("pass succeeds again");
  await daemon.says("figures");
  const failed = daemon
    .err()
    .split("\n")
    .filter((line) => line.includes("pass failed"));
  expect(failed.length).toBeLessThanOrEqual(4);
  expect(failed[0]).toContain('loop=tick error="disk on fire" times=1 failures=1');
  const stats = JSON.parse(JSON.parse(/figures stats=(".*")$/m.exec(daemon.err())?.[1] ?? "null"));
  expect(stats.failures).toBeGreaterThanOrEqual(100);
  expect(stats.last_error).toBe("disk on fire");
  expect(stats.passes).toBeGreaterThanOrEqual(stats.failures);
  expect(stats.last_pass_at).toMatch(/^\d{4}-\d\d-\d\dT.*Z$/);
});

test("a daemon whose stderr is gone goes on", async () => {
  const { file } = place();
  const script = 'exec "$0" "$@" 2> >(head -n 1 >&2)';
  const daemon = start(["--config", file, "--log-level", "debug"], { through: ["bash", "-c", script] });
  await daemon.stderrEnds();
  daemon.signal("SIGTERM");
  expect(await daemon.ends()).toMatchObject({ code: 0, err: expect.stringMatching(/^.* serving name=tiny\n$/) });
});
