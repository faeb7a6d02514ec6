// What README.md, INSTALL.md and the example configuration show is true.

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Folder, ROOT, command, runRole, startRole } from "./kit.ts";

const README = readFileSync(join(ROOT, "README.md"), "utf8");
const INSTALL = readFileSync(join(ROOT, "INSTALL.md"), "utf8");

function blocks(text: string, language: string): string[] {
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\`$`, "gm"))].map(([, block]) => block!);
}

test("every link to a file leads somewhere", () => {
  for (const text of [README, INSTALL]) {
    const links = [...text.matchAll(/\]\(([^)#:]+)\)/g)].map(([, link]) => link!);
    expect(links.filter((link) => !existsSync(join(ROOT, link)))).toEqual([]);
  }
});

test("configurations shown pass --check, and so does the example", async () => {
  using folder = new Folder();
  const shown = [...blocks(README, "yaml"), readFileSync(join(ROOT, "etc/collector.yaml"), "utf8")];
  expect(shown.length).toBeGreaterThan(1);
  for (const text of shown) {
    const outcome = await runRole("collector", ["--check", "--config", folder.write("shown.yaml", text)]);
    expect(outcome).toEqual({ code: 0, stdout: "ok\n", stderr: "" });
  }
});

test("what is commented out in the example passes, too", async () => {
  using folder = new Folder();
  const example = readFileSync(join(ROOT, "etc/collector.yaml"), "utf8");
  const keys =
    "inbox_dir|durability|dedupe_hours|priority|sentinel|when|missing|- path|recipient|type|template|verify|poll_fallback_seconds|settle_ms|auth|tls|trusted_proxies";
  const uncommented = example.replace(new RegExp(`^( *)# (?=(?:  )?(?:${keys}): )`, "gm"), "$1");
  const secret = folder.write("secret", "s");
  const text = uncommented.replaceAll(/(secret|token)_file: [^ ,}]+/g, `$1_file: ${secret}`);
  const outcome = await runRole("collector", ["--check", "--config", folder.write("all.yaml", text)]);
  expect(outcome.stderr.replaceAll(/.*chmod 600.*\n/g, "")).toBe("");
  expect(outcome.stdout).toBe("ok\n");
  expect(text).toContain("\nauth: {");
});

test("the keys of the configuration table exist", async () => {
  const keys = [
    ...README.matchAll(/^\| `((?:webhook|drop_folder|auth|tls|trusted_proxies|agent|inbox_dir|durability)[^`]*)`/gm),
  ].map(([, key]) => key!);
  expect(keys.length).toBeGreaterThan(15);
  for (const key of keys) {
    const name = `PICKET_COLLECTOR_${key.replace("[]", ".0").replaceAll(".", "__").toUpperCase()}`;
    const { stderr } = await runRole("collector", ["--check", "--config", join(ROOT, "etc/collector.yaml")], {
      env: { [name]: "[[[" },
    });
    expect(`${key}: ${stderr}`).not.toContain("unknown");
    expect(`${key}: ${stderr}`).not.toContain("not a setting");
  }
});

test("the metrics named are served", async () => {
  using folder = new Folder();
  const config = folder.write(
    "c.yaml",
    `agent: a\ninbox_dir: ${folder.path}/inbox\nwebhook: { listen: 127.0.0.1:0 }\ndrop_folder: { path: ${folder.path}/d }\n`,
  );
  await using daemon = await startRole("collector", ["--config", config]);
  const url = await daemon.url();
  await fetch(`${url}/health`);
  const served = await (await fetch(`${url}/metrics`)).text();
  const named = [...README.matchAll(/`(picket_[a-z_]+)`/g)].map(([, name]) => name!);
  expect(named.length).toBeGreaterThan(8);
  expect(named.filter((name) => !new RegExp(`^${name}(_bucket)?[{ ]`, "m").test(served))).toEqual([]);
});

describe("the session in the README", () => {
  test("gives what it shows", async () => {
    using folder = new Folder();
    const session = blocks(README, "console")[0]!;
    const lines = session
      .split("\n")
      .filter((line) => line.startsWith("$ "))
      .map((line) => line.slice(2));
    const [bun = "", script = ""] = await command("collector", "source");
    folder.write("picket-collector", `#!/bin/sh\nexec "${bun}" "${script}" "$@"\n`);
    await Bun.$`chmod +x ${folder.at("picket-collector")}`;
    const run = Bun.spawn(["sh", "-c", lines.join("\n")], {
      cwd: folder.path,
      env: { ...process.env, PATH: `${folder.path}:${dirname(bun)}:${process.env["PATH"]}` },
      stdout: "pipe",
    });
    const normal = (text: string) =>
      text
        .replaceAll(/\b[0-9a-f]{32}\b/g, "ID")
        .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME")
        .trim();
    const shown = session
      .split("\n")
      .filter((line) => !line.startsWith("$ "))
      .join("\n");
    expect(normal(await new Response(run.stdout).text())).toBe(normal(shown));
  });
});
