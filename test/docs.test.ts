// What README.md, INSTALL.md and the example configuration show is true.

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Folder, ROOT, command, have, runRole, startRole } from "./kit.ts";
import { Hub, archive } from "./receiver/kit.ts";

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

/** The part of the README about a role. */
function partOf(role: string): string {
  const start = README.indexOf(`\n## ${role[0]!.toUpperCase()}${role.slice(1)}\n`);
  return README.slice(start, README.indexOf("\n## ", start + 1));
}

const example = (role: string) => readFileSync(join(ROOT, `etc/${role}.yaml`), "utf8");

describe.each(["collector", "receiver", "agent", "observer"] as const)("%s", (role) => {
  test("configurations shown pass --check, and so does the example", async () => {
    using folder = new Folder();
    const shown = [...blocks(partOf(role), "yaml"), example(role)];
    expect(shown.length).toBeGreaterThan(1);
    for (const text of shown) {
      const shown = text.replace("token_file: /etc/picket/token", "token: t");
      const outcome = await runRole(role, ["--check", "--config", folder.write("shown.yaml", shown)]);
      expect(outcome).toEqual({ code: 0, stdout: "ok\n", stderr: "" });
    }
  });

  test("what is commented out in the example passes, too", async () => {
    using folder = new Folder();
    // Also the key, which stays commented out where the rest is taken.
    const uncommented = example(role)
      .replace(/^#( +)# (?=api_[a-z_]+: )/gm, "#$1")
      .replace(/^( *)# (?=( {2})*(- )?[a-z_]+:( |$)(?!.*\. ))/gm, "$1");
    const secret = folder.write("secret", "s");
    const text = uncommented
      .split("\n")
      .filter((line) => !/^(Check it|Take over|Try it|A host|bind_fingerprint):/.test(line))
      .join("\n")
      .replaceAll(
        /(secret|token|cert|api_key|key|client_ca|ca|client_cert|client_key)_file: [^ ,}\n]+/g,
        `$1_file: ${secret}`,
      );
    const outcome = await runRole(role, ["--check", "--config", folder.write("all.yaml", text)]);
    expect(outcome.stderr.replaceAll(/.*chmod 600.*\n/g, "")).toBe("");
    expect(outcome.stdout).toBe("ok\n");
    const last = role === "agent" ? "\nship:\n" : "\ntrusted_proxies: [";
    expect(text).toContain(last);
  });

  test("the keys of the configuration table exist", async () => {
    using folder = new Folder();
    const table = partOf(role).split("| key | default | what |")[1]!.split("\n\n")[0]!;
    const keys = [...table.matchAll(/^\| (`[^|]+`) \|/gm)].flatMap(([, cell]) =>
      [...cell!.matchAll(/`([^`]+)`/g)].map(([, key]) => key!),
    );
    expect(keys.length).toBeGreaterThan(15);
    for (const key of keys) {
      const name = `PICKET_${role.toUpperCase()}_${key.replace("[]", ".0").replaceAll(".", "__").toUpperCase()}`;
      const config = folder.write("c.yaml", example(role).replace("token_file: /etc/picket/token", "token: t"));
      const { stderr } = await runRole(role, ["--check", "--config", config], {
        env: { [name]: "[[[" },
      });
      expect(`${key}: ${stderr}`).not.toContain("unknown");
      expect(`${key}: ${stderr}`).not.toContain("not a setting");
    }
  }, 60_000);

  // The agent listens nowhere.
  test.skipIf(role === "agent")("the metrics named are served", async () => {
    using folder = new Folder();
    const lines = {
      collector: `agent: a\ninbox_dir: ${folder.path}/inbox\nwebhook: { listen: 127.0.0.1:0 }\ndrop_folder: { path: ${folder.path}/d }\n`,
      receiver: `listen: 127.0.0.1:0\ndata_dir: ${folder.path}/data\n`,
      agent: "",
      observer: `listen: 127.0.0.1:0\npersist_path: ${folder.path}/ops.jsonl\n`,
    };
    await using daemon = await startRole(role, ["--config", folder.write("c.yaml", lines[role])]);
    const url = await daemon.url();
    await fetch(`${url}/health`);
    if (role === "receiver") {
      await fetch(`${url}/v1/ping`, { method: "POST" });
    }
    const served = await (await fetch(`${url}/metrics`)).text();
    const named = [...partOf(role).matchAll(/`(picket_[a-z_]+)`/g)].map(([, name]) => name!);
    expect(named.length).toBeGreaterThan(8);
    expect(named.filter((name) => !new RegExp(`^# TYPE ${name} `, "m").test(served))).toEqual([]);
  });
});

/** Runs what a session types, with our roles on the PATH, and gives what it prints. */
async function typed(session: string): Promise<string> {
  using folder = new Folder();
  const lines = session
    .split("\n")
    .filter((line) => line.startsWith("$ "))
    .map((line) => line.slice(2));
  let path = process.env["PATH"];
  for (const role of ["collector", "receiver"]) {
    const [bun = "", script = ""] = await command(role, "source");
    folder.write(`picket-${role}`, `#!/bin/sh\nexec "${bun}" "${script}" "$@"\n`);
    await Bun.$`chmod +x ${folder.at(`picket-${role}`)}`;
    path = `${folder.path}:${dirname(bun)}:${process.env["PATH"]}`;
  }
  const run = Bun.spawn(["sh", "-c", lines.join("\n")], {
    cwd: folder.path,
    env: { ...process.env, PATH: path, HOME: folder.path, STATE_DIRECTORY: folder.at("state") },
    stdout: "pipe",
  });
  return await new Response(run.stdout).text();
}

test.each(blocks(README, "console").map((session) => [session.split("\n")[0]!, session] as const))(
  "the session that begins with %s gives what it shows",
  async (_, session) => {
    const normal = (text: string) =>
      text
        .replaceAll(/\b[0-9a-f]{32}\b/g, "ID")
        .replaceAll(/pk_\w{40}/g, "TOKEN")
        .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME")
        .trim();
    const shown = session
      .split("\n")
      .filter((line) => !line.startsWith("$ "))
      .join("\n");
    expect(shown).not.toBe("");
    expect(normal(await typed(session))).toBe(normal(shown));
  },
);

test.skipIf(!have("curl", "the README's curl commands"))("the README's curl commands report and ship", async () => {
  await using hub = await Hub.start();
  const [script = ""] = blocks(partOf("receiver"), "sh");
  await Bun.write(hub.folder.at("ep-1.tar.zst"), await archive("by curl"));
  const run = Bun.spawn(["sh", "-ec", script], {
    cwd: hub.folder.path,
    env: { ...process.env, PICKET_URL: hub.url, PICKET_TOKEN: hub.tokens.get("web-1") },
    stdout: "pipe",
  });
  const said = await new Response(run.stdout).text();
  expect(said).toStartWith('{"poll_interval_seconds":60,');
  expect(said).toContain('{"sha256":"');
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online", metrics: { cpu_percent: 12.5 } });
});

test.skipIf(!have("curl", "the README's curl commands"))(
  "the README's curl commands tell the observer, and show what it makes of it",
  async () => {
    using folder = new Folder();
    const config = `listen: 127.0.0.1:0\npersist_path: ${folder.at("observer", "ops.jsonl")}\n`;
    await using daemon = await startRole("observer", ["--config", folder.write("observer.yaml", config)]);
    const [script = ""] = blocks(partOf("observer"), "sh");
    const here = script.replaceAll("127.0.0.1:3219", (await daemon.url()).replace("http://", ""));
    // An answer a line.
    const run = Bun.spawn(["sh", "-ec", here.replaceAll("curl -sS", String.raw`curl -sS -w '\n'`)], { stdout: "pipe" });
    const answers = (await new Response(run.stdout).text()).trim().split("\n");
    expect(answers.map((line) => JSON.parse(line) as unknown)).toMatchObject([
      { accepted: true, ring_size: 1 },
      [{ accepted: true }, { accepted: true }],
      { total: 3, successes: 1, failures: 2, by_source: { mcp: 3 }, recent_scenario_ops: [] },
      { clusters: [{ endpoint: "backup", count: 2 }] },
    ]);
  },
);
