// build.ts: one role's script compiled by itself, and what the build says of itself. The one program is compiled and tried by
// test/picket.test.ts, all five are by the CI script.

import { expect, test } from "bun:test";
import { cpSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { Folder, ROOT, have } from "./kit.ts";

async function build(script: string, ...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const child = Bun.spawn([process.execPath, script, ...args], { stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { code: await child.exited, out, err };
}

test.skipIf(!have("git", "build.ts"))(
  "a role's script compiles by itself; a copy without a repository has no commit",
  async () => {
    using folder = new Folder();
    // Within another repository, whose commit would be the wrong one.
    await Bun.$`git init -q ${folder.path} && git -C ${folder.path} -c user.name=t -c user.email=t commit -q --allow-empty -m t`;
    const source = folder.at("source");
    mkdirSync(source);
    for (const name of ["build.ts", "observer.ts", "lib", "etc", "package.json", "tsconfig.json"]) {
      cpSync(join(ROOT, name), join(source, name), { recursive: true });
    }
    symlinkSync(join(ROOT, "node_modules"), join(source, "node_modules"));
    const dist = folder.at("dist");
    const { code, err } = await build(join(source, "build.ts"), "--only", "picket-observer", "--outdir", dist);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(await Bun.$`cd ${dist} && sha256sum --check SHA256SUMS`.text()).toBe("picket-observer: OK\n");
    const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
    const program = join(dist, "picket-observer");
    expect(await Bun.$`${program} --version`.text()).toStartWith(`picket-observer ${version} (commit unknown, bun `);
    expect(await Bun.$`${program} unit`.text()).toContain(`\nExecStart=${program}\n`);
  },
  120_000,
);

test.each([
  [["linux-x46"], 'unknown target "linux-x46"\nhint: did you mean "linux-x64"?'],
  [["--only", "picket-colector"], 'unknown program "picket-colector"\nhint: did you mean "picket-collector"?'],
])("%j is wrong usage, with the nearest name", async (args, said) => {
  expect(await build(join(ROOT, "build.ts"), ...args)).toEqual({ code: 2, out: "", err: `build: error: ${said}\n` });
});

test.each([
  ['"abc1234"', "+abc1234"],
  ['"abc1234-dirty"', "+abc1234-dirty"],
  ['"unknown"', ""],
  [undefined, ""],
])("with the commit %s the build is the version%s", async (commit, suffix) => {
  const define = commit === undefined ? [] : ["--define", `PICKET_COMMIT=${commit}`];
  const script = `import { build, version } from "${ROOT}/lib/version.ts"; console.log(build.slice(version.length));`;
  expect(await Bun.$`${process.execPath} ${define} -e ${script}`.text()).toBe(`${suffix}\n`);
});
