// The systemd units, by systemd's own tools. That the service works under them is tried on a booted systemd, not here.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, ROOT, TARGETS, command, have, runRole } from "./kit.ts";

const UNITS = ["picket-collector.service", "picket-collector.user.service"];
const withSystemd = test.skipIf(!have("systemd-analyze", "the units"));

withSystemd("systemd finds nothing to say about the units", async () => {
  using folder = new Folder();
  const binary = folder.write("picket-collector", "#!/bin/sh\n");
  await Bun.$`chmod +x ${binary}`;
  for (const unit of UNITS) {
    const text = readFileSync(join(ROOT, "etc", unit), "utf8").replace(/^ExecStart=\S+/m, `ExecStart=${binary}`);
    const path = folder.write("picket-collector.service", text);
    const run = Bun.spawn(["systemd-analyze", "verify", ...(unit.includes("user") ? ["--user"] : []), path], {
      stdout: "pipe",
      stderr: "pipe",
      env: { ...process.env, XDG_RUNTIME_DIR: folder.path },
    });
    expect((await new Response(run.stdout).text()) + (await new Response(run.stderr).text())).toBe("");
  }
});

withSystemd("the system unit's exposure is 1.5 or below", async () => {
  const run = Bun.spawn(["systemd-analyze", "security", "--offline=true", "--no-pager", join(ROOT, "etc", UNITS[0]!)], {
    stdout: "pipe",
    stderr: "ignore",
  });
  const exposure = /Overall exposure level[^:]*: ([\d.]+)/.exec(await new Response(run.stdout).text())?.[1];
  expect(Number(exposure)).toBeLessThanOrEqual(1.5);
});

test.each(TARGETS)("%s prints its units for where it lies", async (target) => {
  const words = await command("collector", target);
  for (const [flags, name] of [
    [[], UNITS[0]],
    [["--user"], UNITS[1]],
  ] as const) {
    const { stdout } = await runRole("collector", ["unit", ...flags], { target });
    expect(stdout).toContain(`\nExecStart=${words.join(" ")} --json-log\n`);
    const original = readFileSync(join(ROOT, "etc", name!), "utf8");
    expect(stdout.replace(/^ExecStart=.*$/m, "")).toBe(original.replace(/^ExecStart=.*$/m, ""));
  }
  const { stdout } = await runRole("collector", ["example"], { target });
  expect(stdout).toBe(readFileSync(join(ROOT, "etc/collector.yaml"), "utf8"));
});
