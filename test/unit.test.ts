// The systemd units, by systemd's own tools. That the service works under them is tried on a booted systemd, not here.

import { beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, ROOT, TARGETS, command, have, runRole } from "./kit.ts";

const ROLES = ["collector", "receiver", "agent", "observer"];
const unitsOf = (role: string) => [`picket-${role}.service`, `picket-${role}.user.service`] as const;
const withSystemd = test.skipIf(!have("systemd-analyze", "the units"));

withSystemd.each(ROLES)("systemd finds nothing to say about the units of the %s", async (role) => {
  using folder = new Folder();
  const binary = folder.write(`picket-${role}`, "#!/bin/sh\n");
  await Bun.$`chmod +x ${binary}`;
  for (const unit of unitsOf(role)) {
    const text = readFileSync(join(ROOT, "etc", unit), "utf8").replace(/^ExecStart=\S+/m, `ExecStart=${binary}`);
    const path = folder.write(`picket-${role}.service`, text);
    const run = Bun.spawn(["systemd-analyze", "verify", ...(unit.includes("user") ? ["--user"] : []), path], {
      stdout: "pipe",
      stderr: "pipe",
      env: { ...process.env, XDG_RUNTIME_DIR: folder.path },
    });
    expect((await new Response(run.stdout).text()) + (await new Response(run.stderr).text())).toBe("");
  }
});

// The agent has to read what belongs to others: the Docker socket, episodes, /proc of all.
withSystemd.each([
  ["collector", 1.5],
  ["receiver", 1.5],
  ["agent", 2.1],
  ["observer", 1.5],
] as const)("the exposure of the %s's system unit is %d or below", async (role, most) => {
  const run = Bun.spawn(
    ["systemd-analyze", "security", "--offline=true", "--no-pager", join(ROOT, "etc", unitsOf(role)[0])],
    {
      stdout: "pipe",
      stderr: "ignore",
    },
  );
  const exposure = /Overall exposure level[^:]*: ([\d.]+)/.exec(await new Response(run.stdout).text())?.[1];
  expect(Number(exposure)).toBeLessThanOrEqual(most);
});

// Compiling takes longer than a test may, where this file is the first to ask for it.
beforeAll(() => command("observer", "binary"), 180_000);

test.each(ROLES.flatMap((role) => TARGETS.map((target) => [role, target] as const)))(
  "the %s's %s prints its units for where it lies, and its example",
  async (role, target) => {
    const words = await command(role, target);
    const [system, user] = unitsOf(role);
    for (const [flags, name] of [
      [[], system],
      [["--user"], user],
    ] as const) {
      const { stdout } = await runRole(role, ["unit", ...flags], { target });
      expect(stdout).toContain(`\nExecStart=${words.join(" ")} --json-log\n`);
      const original = readFileSync(join(ROOT, "etc", name), "utf8");
      expect(stdout.replace(/^ExecStart=.*$/m, "")).toBe(original.replace(/^ExecStart=.*$/m, ""));
    }
    const { stdout } = await runRole(role, ["example"], { target });
    expect(stdout).toBe(readFileSync(join(ROOT, `etc/${role}.yaml`), "utf8"));
  },
);
