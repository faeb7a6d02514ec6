// The one program: its role by its first word, or by its name. That every role works in it is tried by the roles' own tests.

import { beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, symlinkSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { Folder, ROOT, command } from "./kit.ts";

const ROLES = ["collector", "agent", "receiver", "observer"];

interface Outcome {
  code: number;
  out: string;
  err: string;
}

async function outcome(
  words: string[],
  options: { cwd?: string; PATH?: string; argv0?: string } = {},
): Promise<Outcome> {
  const { cwd = ROOT, PATH = process.env["PATH"]!, argv0 } = options;
  const child = Bun.spawn(words, {
    env: { PATH, HOME: "/nonexistent" },
    cwd,
    ...(argv0 === undefined ? {} : { argv0 }),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { code: await child.exited, out, err };
}

let binary = "";
beforeAll(async () => {
  const [link = ""] = await command("collector", "binary");
  binary = join(dirname(link), "picket");
});

describe.each(["source", "binary"])("picket from %s", (target) => {
  const picket = () => (target === "source" ? [process.execPath, join(ROOT, "picket.ts")] : [binary]);

  test("the first word is the role, and what follows is the role's own", async () => {
    for (const role of ROLES) {
      const version = await outcome([...picket(), role, "--version"]);
      expect(version).toMatchObject({
        code: 0,
        out: expect.stringMatching(new RegExp(`^picket-${role} \\d+\\.\\d+\\.\\d+ \\(commit `)),
      });
      const help = await outcome([...picket(), role, "--help"]);
      expect(help).toMatchObject({ code: 0, out: expect.stringContaining(`picket-${role}: `) });
      const wrong = await outcome([...picket(), role, "--chekc"]);
      expect(wrong).toMatchObject({
        code: 2,
        err: expect.stringContaining(`picket-${role}: error: unknown flag "--chekc"`),
      });
    }
  });

  test("the unit of a role that was the first word says the role", async () => {
    const { out } = await outcome([...picket(), "agent", "unit"]);
    expect(out).toContain(`\nExecStart=${picket().join(" ")} agent\n`);
  });

  test("--help lists the roles, --version says which build it is", async () => {
    const { code, out } = await outcome([...picket(), "--help"]);
    expect(code).toBe(0);
    for (const role of ROLES) expect(out).toMatch(new RegExp(`^  ${role} +\\w`, "m"));
    expect(await outcome([...picket(), "-h"])).toMatchObject({ code, out });
    expect((await outcome([...picket(), "--version"])).out).toMatch(
      /^picket \d+\.\d+\.\d+ \(commit \w+(-dirty)?, bun /,
    );
  });

  test("without a role, and with an unknown one, it is wrong usage", async () => {
    expect(await outcome(picket())).toMatchObject({
      code: 2,
      out: "",
      err: expect.stringContaining("usage: picket ROLE"),
    });
    expect(await outcome([...picket(), "colector", "--check"])).toEqual({
      code: 2,
      out: "",
      err: 'picket: error: unknown role "colector"\nhint: did you mean "collector"?\n',
    });
    expect(await outcome([...picket(), "--check"])).toMatchObject({
      code: 2,
      err: expect.stringContaining('"--check"'),
    });
  });
});

describe("a link to the binary", () => {
  test("is the role that it is named after, by whichever path it is called, and says so in the unit", async () => {
    using folder = new Folder();
    const link = folder.at("picket-receiver");
    symlinkSync(binary, link);
    const calls: [words: string[], options: { cwd?: string; PATH?: string }][] = [
      [[link], {}],
      [["./picket-receiver"], { cwd: folder.path }],
      [["sh", "-c", 'picket-receiver "$@"', "sh"], { PATH: `${folder.path}:${process.env["PATH"]}` }],
    ];
    for (const [words, options] of calls) {
      expect((await outcome([...words, "unit", "--user"], options)).out).toContain(`\nExecStart=${link}\n`);
      expect((await outcome([...words, "--version"], options)).out).toStartWith("picket-receiver ");
    }
    // A name that leads nowhere: the unit says the binary and the role.
    const { out } = await outcome([binary, "unit"], { argv0: "picket-receiver", PATH: "/nonexistent" });
    expect(out).toContain(`\nExecStart=${binary} receiver\n`);
  });

  test("of another name takes the role as its first word; a copy with a role's name is that role", async () => {
    using folder = new Folder();
    symlinkSync(binary, folder.at("picket-0.2.0"));
    expect((await outcome([folder.at("picket-0.2.0"), "observer", "--version"])).out).toStartWith("picket-observer ");
    copyFileSync(binary, folder.at("picket-observer"));
    const { out } = await outcome([folder.at("picket-observer"), "unit"]);
    expect(basename(/^ExecStart=(\S+)$/m.exec(out)?.[1] ?? "")).toBe("picket-observer");
  });
});
