// install.sh, into a root of its own: what it puts where, twice, in place of an older installation, and away again.
// Not tested here: what needs a running systemd (test/e2e/systemd.test.ts), and building, which the CI script does.

import { beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { Folder, ROOT, command, have } from "./kit.ts";

let picket = "";
beforeAll(async () => {
  const [link = ""] = await command("collector", "binary");
  picket = join(dirname(link), "picket");
});

/** A folder with nothing but what is needed: the script, and the program under the names that it may have. */
function bundle(folder: Folder, name: string, programs: string[]): string {
  mkdirSync(folder.at(name));
  copyFileSync(join(ROOT, "install.sh"), folder.at(name, "install.sh"));
  for (const program of programs) linkSync(picket, folder.at(name, program));
  mkdirSync(folder.at("home"), { recursive: true });
  return folder.at(name, "install.sh");
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
    const script = bundle(folder, "bundle", ["picket"]);
    const first = await install(folder, script, [role, flag]);
    expect(first.code).toBe(0);
    const installed = join(at(folder, bin), "picket");
    const link = join(at(folder, bin), `picket-${role}`);
    const unit = join(at(folder, units), `picket-${role}.service`);
    const config = join(at(folder, etc), `${role}.yaml`);
    expect(statSync(installed).mode & 0o777).toBe(0o755);
    expect(readlinkSync(link)).toBe("picket");
    expect(readFileSync(unit, "utf8")).toContain(`ExecStart=${bin.replace("HOME", folder.at("home"))}/picket-${role}`);
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
      expect(again.out).not.toMatch(/^(installed|linked) /m);
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
    expect([installed, link, unit, config].map((path) => existsSync(path))).toEqual([false, false, false, true]);
    expect(gone.out).toContain(config);
  });
});

test("single programs of an older version are replaced one role at a time; picket goes with its last link", async () => {
  using folder = new Folder();
  const single = bundle(folder, "single", []);
  for (const role of ["collector", "receiver", "agent"]) {
    const own = folder.write(`single/picket-${role}`, `#!/bin/sh\nexec ${picket} ${role} "$@"\n`);
    chmodSync(own, 0o755);
  }
  const one = bundle(folder, "one", ["picket"]);
  const programs = folder.at("root/usr/local/bin");
  const state = () =>
    Object.fromEntries(
      readdirSync(programs)
        .filter((name) => !name.endsWith(".old"))
        .map((name) => [name, lstatSync(join(programs, name)).isSymbolicLink() ? "link" : "file"]),
    );
  const call = async (script: string, role: string, ...flags: string[]) => {
    const { code, out } = await install(folder, script, [role, "--system", ...flags]);
    expect([role, code, out]).toEqual([role, 0, expect.any(String)]);
  };
  for (const role of ["collector", "receiver", "agent"]) await call(single, role);
  expect(state()).toEqual({ "picket-collector": "file", "picket-receiver": "file", "picket-agent": "file" });
  const before = statSync(join(programs, "picket-receiver")).ino;

  await call(one, "collector");
  expect(state()).toEqual({
    picket: "file",
    "picket-collector": "link",
    "picket-receiver": "file",
    "picket-agent": "file",
  });
  expect(statSync(join(programs, "picket-receiver")).ino).toBe(before);
  expect(readFileSync(join(programs, "picket-collector.old"), "utf8")).toStartWith("#!/bin/sh\n");
  for (const role of ["collector", "receiver", "agent"]) {
    const version = await Bun.$`${join(programs, `picket-${role}`)} --version`.text();
    expect(version).toStartWith(`picket-${role} `);
  }
  await call(one, "receiver");
  await call(one, "observer");
  await call(one, "collector", "--uninstall");
  await call(one, "agent", "--uninstall");
  expect(state()).toEqual({ picket: "file", "picket-receiver": "link", "picket-observer": "link" });
  // Back to the single program, too.
  await call(single, "receiver");
  expect(state()).toEqual({ picket: "file", "picket-receiver": "file", "picket-observer": "link" });
  await call(one, "observer", "--uninstall");
  expect(state()).toEqual({ "picket-receiver": "file" });
  await call(one, "receiver", "--uninstall");
  expect(readdirSync(programs)).toEqual([]);
});

test("what is missing or wrong is said", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("home"));
  copyFileSync(join(ROOT, "install.sh"), folder.at("install.sh"));
  expect(await install(folder, folder.at("install.sh"), ["collector"])).toMatchObject({
    code: 1,
    out: expect.stringContaining("there is no picket and no picket-collector beside"),
  });
  expect(await install(folder, folder.at("install.sh"), ["colector"])).toMatchObject({
    code: 2,
    out: expect.stringContaining('unknown command "colector"'),
  });
  expect(await install(folder, folder.at("install.sh"), ["collector", "--nostart"])).toMatchObject({
    code: 2,
    out: expect.stringContaining("--nostart"),
  });
  for (const [args, said] of [
    [["agent", "--url", "hub.example"], '--url "hub.example" is no http or https URL'],
    [["agent", "--url", "https://hub.example/a&b"], "is not a URL"],
    [["agent", "--url=https://hub.example"], "the receiver's token is missing"],
    [["agent", "--url"], "needs a value"],
    [["agent", "--token-stdin"], "there is no token on standard input"],
    [["collector", "--token-stdin"], "are the agent's"],
  ] as const) {
    const outcome = await install(folder, folder.at("install.sh"), [...args]);
    expect(outcome).toMatchObject({ code: 2, out: expect.stringContaining(said) });
  }
  folder.write("picket", "\x7fELF");
  expect(await install(folder, folder.at("install.sh"), ["collector"])).toMatchObject({
    code: 1,
    out: expect.stringContaining("does not run on this machine: nothing was changed"),
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
