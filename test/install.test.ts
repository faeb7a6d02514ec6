// install.sh, into a root of its own: what it puts where, twice, and away again.
// Not tested here: what needs a running systemd (start, restart, linger), and `try`, which the CI script drives.

import { beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, ROOT, command, have } from "./kit.ts";

let binaries: Record<string, string>;
beforeAll(async () => {
  const [collector = ""] = await command("collector", "binary");
  const [receiver = ""] = await command("receiver", "binary");
  const [agent = ""] = await command("agent", "binary");
  const [observer = ""] = await command("observer", "binary");
  binaries = { collector, receiver, agent, observer };
}, 180_000);

/** A folder with nothing but what is needed: script and binary. */
function bundle(folder: Folder, role: string): string {
  mkdirSync(folder.at("bundle"));
  copyFileSync(join(ROOT, "install.sh"), folder.at("bundle", "install.sh"));
  copyFileSync(binaries[role]!, folder.at("bundle", `picket-${role}`));
  mkdirSync(folder.at("home"));
  return folder.at("bundle", "install.sh");
}

async function install(folder: Folder, script: string, args: string[]): Promise<{ code: number; out: string }> {
  const run = Bun.spawn(["sh", script, ...args], {
    env: { PATH: process.env["PATH"]!, HOME: folder.at("home"), DESTDIR: folder.at("root") },
    stdout: "pipe",
    stderr: "pipe",
  });
  const out = (await new Response(run.stdout).text()) + (await new Response(run.stderr).text());
  return { code: await run.exited, out };
}

const SYSTEM = ["--system", "/usr/local/bin", "/etc/systemd/system", "/etc/picket"] as const;
const USER = ["--user", "HOME/.local/bin", "HOME/.config/systemd/user", "HOME/.config/picket"] as const;

describe.each([
  ["collector", ...SYSTEM],
  ["collector", ...USER],
  ["receiver", ...SYSTEM],
  ["receiver", ...USER],
  ["agent", ...SYSTEM],
  ["agent", ...USER],
  ["observer", ...SYSTEM],
  ["observer", ...USER],
] as const)("install.sh %s %s", (role, flag, bin, units, etc) => {
  const at = (folder: Folder, place: string) => folder.at("root", place.replace("HOME", folder.at("home")));

  test("puts everything in its place, changes nothing the second time, and leaves configuration and data when it goes", async () => {
    using folder = new Folder();
    const script = bundle(folder, role);
    const first = await install(folder, script, [role, flag]);
    expect(first.code).toBe(0);
    const installed = join(at(folder, bin), `picket-${role}`);
    const unit = join(at(folder, units), `picket-${role}.service`);
    const config = join(at(folder, etc), `${role}.yaml`);
    expect(statSync(installed).mode & 0o777).toBe(0o755);
    expect(readFileSync(unit, "utf8")).toContain(
      `ExecStart=${bin.replace("HOME", folder.at("home"))}/picket-${role} --json-log`,
    );
    expect(readFileSync(config, "utf8")).toBe(readFileSync(join(ROOT, `etc/${role}.yaml`), "utf8"));

    const own =
      role === "collector" ? `agent: mine\ndrop_folder: { path: ${folder.at("synced", "drops")} }\n` : "# mine\n";
    writeFileSync(config, own);
    mkdirSync(folder.at("synced", ".stfolder"), { recursive: true });
    writeFileSync(folder.at("synced", ".stignore"), "*.tmp\n");
    const inode = statSync(installed).ino;
    for (let n = 0; n < 2; n++) {
      const again = await install(folder, script, [role, flag, "--no-start"]);
      expect(again.code).toBe(0);
      expect(again.out).not.toContain("installed ");
    }
    expect(statSync(installed).ino).toBe(inode);
    expect(readFileSync(config, "utf8")).toBe(own);
    const ignored = role === "collector" ? "*.tmp\n.dead-letter/\n" : "*.tmp\n";
    expect(readFileSync(folder.at("synced", ".stignore"), "utf8")).toBe(ignored);

    // From the installed tree itself: source and destination are one.
    copyFileSync(script, join(at(folder, bin), "install.sh"));
    const within = await install(folder, join(at(folder, bin), "install.sh"), [role, flag]);
    expect(within.code).toBe(0);
    expect(within.out).toContain(`in place     ${installed}`);

    const gone = await install(folder, script, [role, flag, "--uninstall"]);
    expect(gone.code).toBe(0);
    expect([installed, unit, config].map((path) => existsSync(path))).toEqual([false, false, true]);
    expect(gone.out).toContain(config);
  }, 60_000);
});

test("what is missing or wrong is said", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("home"));
  copyFileSync(join(ROOT, "install.sh"), folder.at("install.sh"));
  expect(await install(folder, folder.at("install.sh"), ["collector"])).toMatchObject({
    code: 1,
    out: expect.stringContaining("there is no picket-collector beside"),
  });
  expect(await install(folder, folder.at("install.sh"), ["colector"])).toMatchObject({
    code: 2,
    out: expect.stringContaining('unknown command "colector"'),
  });
  expect(await install(folder, folder.at("install.sh"), ["collector", "--nostart"])).toMatchObject({
    code: 2,
    out: expect.stringContaining("--nostart"),
  });
  expect(await install(folder, folder.at("install.sh"), ["--help"])).toMatchObject({
    code: 0,
    out: expect.stringContaining("usage:"),
  });
});

test.skipIf(!have("shellcheck", "install.sh and .ci/run"))("shellcheck finds nothing", async () => {
  const run = Bun.spawn(["shellcheck", join(ROOT, "install.sh"), join(ROOT, ".ci/run")], { stdout: "pipe" });
  expect(await new Response(run.stdout).text()).toBe("");
});
