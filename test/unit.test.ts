// The systemd units, by systemd's own tools. That the service works under them is tried on a booted systemd, not here.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { unitText } from "../lib/unit.ts";
import { Folder, ROOT, TARGETS, command, have, runRole } from "./kit.ts";

const ROLES = ["collector", "receiver", "agent", "observer"];
const SCOPES = ["system", "user"] as const;
const withSystemd = test.skipIf(!have("systemd-analyze", "the units"));

withSystemd.each(ROLES)("systemd finds nothing to say about the units of the %s", async (role) => {
  using folder = new Folder();
  const binary = folder.write(`picket-${role}`, "#!/bin/sh\n");
  await Bun.$`chmod +x ${binary}`;
  for (const scope of SCOPES) {
    const path = folder.write(`picket-${role}.service`, unitText(role, scope, [binary]));
    const run = Bun.spawn(["systemd-analyze", "verify", ...(scope === "user" ? ["--user"] : []), path], {
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
  using folder = new Folder();
  const path = folder.write(`picket-${role}.service`, unitText(role, "system", ["/usr/bin/true"]));
  const run = Bun.spawn(["systemd-analyze", "security", "--offline=true", "--no-pager", path], {
    stdout: "pipe",
    stderr: "ignore",
  });
  const exposure = /Overall exposure level[^:]*: ([\d.]+)/.exec(await new Response(run.stdout).text())?.[1];
  expect(Number(exposure)).toBeLessThanOrEqual(most);
});

test("a unit has the lines of its role and of its scope, and no others", () => {
  for (const role of ROLES) {
    const [system, user] = SCOPES.map((scope) => unitText(role, scope, ["/usr/bin/true"]));
    for (const text of [system, user]) {
      expect(text).toStartWith(`# picket-${role} as a `);
      expect(text).toContain(`\nDescription=Picket ${role}: `);
      expect(text).not.toMatch(/^@|ROLE/m);
      expect(text!.match(/^WatchdogSec=/gm)).toHaveLength(1);
      expect(text!.match(/^Environment=/gm)?.length ?? 0).toBe(role === "agent" ? 2 : 0);
    }
    expect(system).toEndWith("\n\n[Install]\nWantedBy=multi-user.target\n");
    expect(user).toEndWith("\n\n[Install]\nWantedBy=default.target\n");
    expect(/^User=(.*)$/m.exec(system!)?.[1]).toBe(role === "agent" ? undefined : "picket");
    expect(user).not.toMatch(/^(User|StateDirectory|ProtectSystem)=/m);
  }
});

test("a path in a unit is quoted as systemd reads it", () => {
  const line = (command: string[]) => /^ExecStart=.*$/m.exec(unitText("agent", "system", command))?.[0];
  expect(line(["/srv/my $ 100% dir/picket-agent"])).toBe('ExecStart="/srv/my $ 100%% dir/picket-agent"');
  expect(line(["/bin/bun", "/a$b/ti ny.ts"])).toBe('ExecStart=/bin/bun "/a$$b/ti ny.ts"');
});

test.each(ROLES.flatMap((role) => TARGETS.map((target) => [role, target] as const)))(
  "the %s's %s prints its units for where it lies, and its example",
  async (role, target) => {
    const words = await command(role, target);
    for (const scope of SCOPES) {
      const { stdout } = await runRole(role, ["unit", ...(scope === "user" ? ["--user"] : [])], { target });
      expect(stdout).toBe(unitText(role, scope, words));
    }
    const { stdout } = await runRole(role, ["example"], { target });
    expect(stdout).toBe(readFileSync(join(ROOT, `etc/${role}.yaml`), "utf8"));
  },
);
