// The doctor of collector, receiver and observer: what it finds, in which colour, and its exit code. The agent's: test/agent/doctor.test.ts.

import { expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { canMount, mountOddDisk } from "./agent/odd-disk.ts";
import { Folder, certificates, freePort, have, runRole, startRole, until } from "./kit.ts";
import { Hub, bytesOf } from "./receiver/kit.ts";

interface Check {
  name: string;
  state: string;
  detail: string;
  fix?: string;
}

async function examine(role: string, config: string, env: Record<string, string> = {}) {
  const { code, stdout } = await runRole(role, ["doctor", "--json", "--config", config], { env });
  const { state, checks } = JSON.parse(stdout) as { state: string; checks: Check[] };
  expect(code).toBe(["green", "yellow", "red"].indexOf(state));
  for (const { name, state: color, fix } of checks)
    expect([name, fix !== undefined]).toEqual([name, color !== "green"]);
  return {
    state,
    checks,
    /** The colour and detail of a check. */
    of: (name: string) => {
      const found = checks.find((one) => one.name === name);
      return found ? `${found.state}: ${found.detail}` : undefined;
    },
  };
}

/** A PATH on which `systemctl` and `timedatectl` say this. */
function saying(
  folder: Folder,
  system: string,
  { user = "", clock = "yes", linger = "yes" } = {},
): Record<string, string> {
  mkdirSync(folder.at("bin"), { recursive: true });
  const script = (name: string, text: string) => {
    folder.write(`bin/${name}`, `#!/bin/sh\n${text}\n`);
    chmodSync(folder.at("bin", name), 0o755);
  };
  script("systemctl", `case "$1" in --user) printf '${user}';; *) printf '${system}';; esac`);
  script("timedatectl", `echo ${clock}`);
  script("loginctl", `echo ${linger}`);
  return { PATH: `${folder.at("bin")}:${process.env["PATH"]}` };
}

function unitSays(more: Record<string, string | number> = {}): string {
  const all = { LoadState: "loaded", ActiveState: "active", UnitFileState: "enabled", ExecMainStatus: 0, ...more };
  return Object.entries(all)
    .map(([key, value]) => `${key}=${value}\\n`)
    .join("");
}

function collectorConfig(folder: Folder, port: number, more = ""): string {
  return folder.write(
    "collector.yaml",
    `agent: ops
inbox_dir: ${folder.at("inbox")}
webhook:
  listen: 127.0.0.1:${port}
  routes: [{ path: /deploy, recipient: bob, type: INFO, template: "{{ .text }}" }]
drop_folder: { path: ${folder.at("drops")} }
${more}`,
  );
}

test("a collector that works is green, and each trouble has its row", async () => {
  using folder = new Folder();
  const port = freePort();
  const config = collectorConfig(folder, port);
  const active = saying(folder, unitSays({ StatusText: "3 events" }));
  expect((await examine("collector", config, active)).of("daemon")).toBe(`red: nothing listens on 127.0.0.1:${port}`);
  await using daemon = await startRole("collector", ["--config", config]);
  const url = await daemon.url();
  const fresh = await examine("collector", config, active);
  expect([fresh.state, fresh.of("deliveries")]).toEqual(["yellow", "yellow: none has arrived yet"]);
  const post = (body: string) =>
    fetch(`${url}/deploy`, { method: "POST", body, headers: { "content-type": "application/json" } });
  expect((await post('{"text":"hi"}')).status).toBe(202);
  const list = folder.at("inbox/.picket/deliveries.jsonl");
  await until("it is listed", () => existsSync(list) && statSync(list).size > 0);
  const well = await examine("collector", config, active);
  expect([well.state, well.of("unit")]).toEqual(["green", "green: active, starts at boot: 3 events"]);
  expect(well.checks.map(({ name }) => name)).toEqual([
    "configuration",
    `space ${folder.at("inbox")}`,
    "rights",
    "clock",
    "unit",
    "daemon",
    "deliveries",
    "dead letters",
    "inboxes",
  ]);

  expect((await post("{")).status).toBe(400);
  mkdirSync(folder.at("drops/.dead-letter"), { recursive: true });
  folder.write("drops/.dead-letter/x.json", "?");
  folder.write("drops/.dead-letter/x.json.reason", "what: not JSON");
  await runRole("collector", ["read", "bob", "--new", "--config", config]);
  expect((await post('{"text":"not seen"}')).status).toBe(202);
  Bun.spawnSync(["touch", "-d", "3 days ago", folder.at("inbox/.picket/person@bob.mark")]);
  await until("it is listed, too", () => readFileSync(list, "utf8").includes("400"));
  const ill = await examine("collector", config, saying(folder, unitSays(), { clock: "no" }));
  expect(ill.state).toBe("yellow");
  expect(ill.of("deliveries")).toContain("1 refused within an hour, such as /deploy: 400");
  expect(ill.of("dead letters")).toBe("yellow: 1");
  expect(ill.of("inbox bob")).toMatch(/^yellow: its reader came last 3d 00h ago, and has not seen \d+ bytes$/);
  expect(ill.of("clock")).toBe("yellow: is not synchronised");
  // The daemon goes on with the old configuration; the doctor sees the file.
  collectorConfig(folder, port, "agents: 1\n");
  const broken = await examine(
    "collector",
    config,
    saying(folder, unitSays({ StatusText: "old configuration: 1 error" })),
  );
  expect([broken.state, broken.of("configuration")]).toEqual(["red", expect.stringContaining("agents: unknown key")]);
  expect(broken.of("unit")).toBe("yellow: active: old configuration: 1 error");
});

test("a check that can't be made hides no other one", async () => {
  using folder = new Folder();
  const config = collectorConfig(folder, freePort());
  mkdirSync(folder.at("inbox"));
  symlinkSync("/nonexistent/inbox", folder.at("inbox/eve.inbox"));
  expect((await examine("collector", config)).of("inboxes")).toContain("yellow: no event has come");
  folder.write("drops", "not a folder");
  const { of, checks } = await examine("collector", config);
  expect([of("configuration"), of(`rights ${folder.at("drops")}`)]).toEqual([
    "green: valid",
    "red: cannot be written to: EACCES",
  ]);
  expect(checks.at(-1)).toMatchObject({
    detail: expect.stringContaining("ENOTDIR"),
    fix: `ls -ld ${folder.at("drops")}`,
  });
});

test("the state of a unit has the command that changes it, for the system's and the user's", async () => {
  using folder = new Folder();
  const config = folder.write("observer.yaml", "listen: 127.0.0.1:0\npersist_path: ''\n");
  const cases: [system: string, user: string, name: string, found: string, fix: string][] = [
    [
      unitSays({ ActiveState: "failed", ExecMainStatus: 78 }),
      "",
      "unit",
      "red: is failed (exit code 78)",
      "systemctl restart picket-observer",
    ],
    [unitSays({ ActiveState: "inactive" }), "", "unit", "red: is inactive", "systemctl restart picket-observer"],
    [
      unitSays({ UnitFileState: "disabled" }),
      "",
      "unit",
      "yellow: active, but disabled",
      "systemctl enable picket-observer",
    ],
    [unitSays({ NeedDaemonReload: "yes" }), "", "unit", "yellow: its unit file has changed", "systemctl daemon-reload"],
    [
      "LoadState=not-found\\n",
      unitSays({ ActiveState: "failed", ExecMainStatus: 1 }),
      "user unit",
      "red: is failed (exit code 1)",
      "systemctl --user restart picket-observer",
    ],
    [
      unitSays(),
      unitSays(),
      "units",
      "yellow: a system service and a user service run",
      "systemctl --user disable --now picket-observer",
    ],
    ["LoadState=not-found\\n", "", "unit", "green: not installed as a systemd service", ""],
  ];
  for (const [system, user, name, found, fix] of cases) {
    const { of, checks } = await examine("observer", config, saying(folder, system, { user }));
    expect([of(name), checks.find((one) => one.name === name)?.fix ?? ""]).toEqual([found, fix]);
  }
  const linger = saying(folder, "LoadState=not-found\\n", { user: unitSays(), linger: "no" });
  expect((await examine("observer", config, linger)).of("user unit")).toStartWith("yellow: active, but it starts when");
});

test("certificates are looked at before they expire", async () => {
  if (!have("openssl", "certificates")) return;
  using folder = new Folder();
  const made = (days: number): void => {
    const out = `-keyout ${folder.at("key.pem")} -out ${folder.at("cert.pem")} -days ${days} -subj /CN=localhost`;
    const words = `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes ${out}`.split(" ");
    Bun.spawnSync(["openssl", ...words]);
  };
  const port = freePort();
  const tls = `tls: { cert_file: ${folder.at("cert.pem")}, key_file: ${folder.at("key.pem")} }`;
  made(300);
  const config = folder.write(
    "observer.yaml",
    `listen: 127.0.0.1:${port}\npersist_path: ''\nauth: { token: secret-token }\n${tls}\n`,
  );
  await using daemon = await startRole("observer", ["--config", config]);
  await daemon.url();
  const name = `certificate ${folder.at("cert.pem")}`;
  const well = await examine("observer", config);
  expect([well.of(name), well.of("daemon")]).toEqual([
    expect.stringMatching(/^green: expires in 299d/),
    `green: https://127.0.0.1:${port} works`,
  ]);
  made(10);
  expect((await examine("observer", config)).of(name)).toMatch(/^yellow: expires in 9d 23h/);
  // The daemon still serves the former one.
  expect((await examine("observer", config)).of("daemon")).toContain("not the configured one");
  await certificates(folder);
  copyFileSync(folder.at("expired.pem"), folder.at("cert.pem"));
  copyFileSync(folder.at("expired.key"), folder.at("key.pem"));
  expect((await examine("observer", config)).of(name)).toMatch(/^red: expired 1d 00h ago/);
});

test("a receiver: its store, episodes and hosts; files of another account; data from the future", async () => {
  const port = freePort();
  await using hub = await Hub.start({ port, hosts: ["web-1", "pi"] });
  using folder = new Folder();
  const env = saying(folder, unitSays());
  expect((await examine("receiver", hub.config, env)).of("hosts")).toBe("yellow: none has reported yet");
  for (const host of ["web-1", "pi"]) await hub.report(undefined, { host });
  await hub.ship("ep", bytesOf(1000));
  await hub.get("/v1/episodes");
  const well = await examine("receiver", hub.config, env);
  expect([well.state, well.of("store"), well.of("episodes")]).toEqual([
    "green",
    "green: sound",
    "green: 1, as in the index",
  ]);
  expect(well.of("hosts")).toMatch(/^green: 2 report, the last report \ds ago$/);
  rmSync(`${hub.data}/episodes/web-1/ep.tar.zst`);
  expect((await examine("receiver", hub.config, env)).of("episodes")).toBe("yellow: 0 files, 1 in the index");
  await hub.daemon.kill();
  hub.change((db) => {
    db.run("UPDATE hosts SET status = 'offline' WHERE name = 'pi'");
    db.run("UPDATE hosts SET last_seen_at = last_seen_at + 86400000 WHERE name = 'web-1'");
  });
  const ill = await examine("receiver", hub.config, env);
  expect(ill.of("hosts")).toContain("yellow: 1 of 2 are silent");
  expect(ill.of("clock")).toMatch(/^red: the newest data is (1d 00h|23h 59m) ahead of it/);
  expect(ill.of("daemon")).toBe(`red: nothing listens on 127.0.0.1:${port}`);
  if (process.getuid?.() === 0) {
    chownSync(`${hub.data}/receiver.db`, 12_345, 12_345);
    const { of, checks } = await examine("receiver", hub.config, env);
    expect(of(`owner ${hub.data}`)).toContain("red: files of another account than the folder's: receiver.db");
    expect(checks.find(({ name }) => name.startsWith("owner"))?.fix).toBe(
      `chown -R --reference=${hub.data} ${hub.data}`,
    );
  }
  const store = readFileSync(`${hub.data}/receiver.db`);
  writeFileSync(`${hub.data}/receiver.db`, store.fill(0x55, 4096));
  expect((await examine("receiver", hub.config, env)).of("store")).toMatch(/^red: /);
});

test("no free inodes are seen where there is room", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("full"));
  const mount = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=4G,nr_inodes=20", "tmpfs", folder.at("full")]);
  if (mount.exitCode !== 0) return console.log("skipped: inodes: nothing can be mounted here");
  try {
    for (let n = 0; n < 30; n++) Bun.spawnSync(["touch", folder.at("full", String(n))]);
    const config = folder.write("observer.yaml", `listen: 127.0.0.1:0\npersist_path: ${folder.at("full/ops.jsonl")}\n`);
    const { of, checks } = await examine("observer", config);
    const name = `space ${folder.at("full")}`;
    expect(of(name)).toBe("red: 4.0 GiB and 0 % of the inodes free");
    expect(checks.find((one) => one.name === name)?.fix).toBe(`df -i ${folder.at("full")}`);
  } finally {
    Bun.spawnSync(["umount", folder.at("full")]);
  }
});

test.skipIf(!canMount)("a file system that doesn't answer is named by every role, and none waits for it", async () => {
  using folder = new Folder();
  await using disk = await mountOddDisk(folder, "dead");
  await disk.tell("hang");
  const drops = { agent: "ops", inbox_dir: folder.at("inbox"), drop_folder: { path: disk.path } };
  const receiver = { url: "http://127.0.0.1:1", token: "x" };
  const cases = { collector: drops, receiver: { data_dir: disk.path }, agent: { receiver, data_dir: disk.path } };
  const roles = Object.entries({ ...cases, observer: { persist_path: `${disk.path}/ops.jsonl` } });
  const found = roles.map(([role, config]) => examine(role, folder.write(`${role}.yaml`, JSON.stringify(config))));
  for (const { checks } of await Promise.all(found))
    expect(checks).toEqual([
      {
        name: `space ${disk.path}`,
        state: "red",
        detail: "its file system has not answered for 5 s: a server that is gone?",
        fix: `umount -l ${disk.path}, and mount it again`,
      },
    ]);
});
