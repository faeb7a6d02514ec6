// What nobody sends or leaves behind on purpose: each of it once stopped the receiver, or made it say what wasn't true.

import { expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { addHost, archiveHost } from "../../lib/receiver/hosts.ts";
import { Store } from "../../lib/receiver/store.ts";
import { quietPass } from "../../lib/receiver/uploads.ts";
import { BehindProxy, Folder, certificates, have, until } from "../kit.ts";
import { Hub, archive, report } from "./kit.ts";

setDefaultTimeout(90_000);

/** What doesn't belong into an episodes folder, and what a full one is made of. */
function litter(episodes: string, elsewhere: string, bytes: Uint8Array): void {
  for (const folder of ["lost+found", "web-1/.copy.partial", "web-1/folder.tar.zst"]) {
    mkdirSync(join(episodes, folder), { recursive: true });
  }
  mkdirSync(Buffer.concat([Buffer.from(join(episodes, "w")), Buffer.from([0xff])]));
  symlinkSync("round.tar.zst", join(episodes, "web-1", "round.tar.zst"));
  symlinkSync("round", join(episodes, "round"));
  writeFileSync(join(episodes, "web-1", "two words.tar.zst"), bytes);
  writeFileSync(join(episodes, "web-1", ".left.tar.zst.0123456789ab.partial"), "");
  // A host whose episodes lie on another disk.
  mkdirSync(elsewhere);
  symlinkSync(elsewhere, join(episodes, "web-2"));
  writeFileSync(join(elsewhere, "there.tar.zst"), bytes);
  writeFileSync(join(elsewhere, ".left.tar.zst.0123456789ab.partial"), "");
}

test("what else lies in the episodes folder keeps nobody from starting, sweeping, rebuilding and verifying", async () => {
  await using hub = new Hub();
  await hub.addHost("web-1");
  const bytes = await archive("whole");
  litter(join(hub.data, "episodes"), hub.folder.at("elsewhere"), bytes);
  await hub.up();
  await hub.daemon.said("swept unfinished uploads files=2");
  expect((await hub.ship("new", bytes)).status).toBe(201);
  expect(await hub.run("index", "rebuild")).toMatchObject({
    code: 0,
    stdout: "web-2/there: line made\n1 missing line made\n",
  });
  expect(await hub.run("index", "verify")).toMatchObject({ code: 0, stdout: "2 episodes, all as the index says\n" });
});

test("a git that never answers holds up neither the start nor uploads, and leaves nothing running", async () => {
  using bin = new Folder();
  // What it has started holds its pipes open, whatever becomes of itself.
  chmodSync(bin.write("git", `#!/bin/sh\nsh -c 'echo $$ >> ${bin.at("pids")}; exec sleep 600'\n`), 0o755);
  await using hub = await Hub.start({
    env: { PATH: `${bin.path}:${process.env["PATH"]}` },
    more: `version_gate: { enabled: true, repo_path: ${bin.path} }`,
  });
  expect((await hub.report(report())).status).toBe(200);
  const commit = "a".repeat(40);
  const refused = await hub.ship("ep-1", await archive("x"), { headers: { "x-code-commit": commit } });
  expect([refused.status, await hub.daemon.said("version gate")]).toEqual([
    503,
    expect.stringContaining("git gives no answer within 4 s"),
  ]);
  const pids = readFileSync(bin.at("pids"), "utf8").trim().split("\n");
  await until("its child has ended", () => !pids.some((pid) => existsSync(`/proc/${pid}/fd/0`)));
});

test.skipIf(!have("openssl", "a refused reload"))(
  "a reload that is refused for its certificate takes over nothing",
  async () => {
    using folder = new Folder();
    await certificates(folder);
    const use = (what: string, as: string) => copyFileSync(folder.at(what), folder.at(as));
    use("server.pem", "now.pem");
    use("server.key", "now.key");
    const tls = `tls: { cert_file: ${folder.at("now.pem")}, key_file: ${folder.at("now.key")} }`;
    await using hub = await Hub.start({ more: `${tls}\nauth: { token: before }` });
    const url = hub.url.replace("http:", "https:");
    const hosts = async (token: string) => {
      const headers = { authorization: `Bearer ${token}` };
      const ca = readFileSync(folder.at("ca.pem"), "utf8");
      return (await fetch(`${url}/v1/hosts`, { headers, tls: { ca } })).status;
    };
    expect(await hosts("before")).toBe(200);
    // The renewal has written the certificate, and not the key yet.
    use("renewed.pem", "now.pem");
    hub.configure(`${tls}\nauth: { token: after }\nrate_limit_per_minute: 1`);
    hub.daemon.child.kill("SIGHUP");
    await hub.daemon.said("configuration refused: the former one stays");
    expect([await hosts("before"), await hosts("after")]).toEqual([200, 401]);
    const ping = () =>
      fetch(`${url}/v1/ping`, { method: "POST", headers: hub.bearer(), tls: { rejectUnauthorized: false } });
    expect([(await ping()).status, (await ping()).status]).toEqual([200, 200]);
    use("renewed.key", "now.key");
    hub.daemon.child.kill("SIGHUP");
    await hub.daemon.said("configuration reloaded");
    expect([await hosts("before"), await hosts("after")]).toEqual([401, 200]);
  },
);

test.skipIf(!have("git", "a gate after a reload"))(
  "a gate that a reload opens or leads elsewhere says where its list is from before anybody ships",
  async () => {
    using folder = new Folder();
    const git = (...args: string[]) =>
      Bun.$`git -c user.name=a -c user.email=a@example.org -C ${folder.path} ${args}`.quiet();
    await git("init");
    await git("commit", "--allow-empty", "-m", "first");
    await using hub = await Hub.start();
    hub.configure(`version_gate: { enabled: true, repo_path: ${folder.path} }`);
    hub.daemon.child.kill("SIGHUP");
    await hub.daemon.said("configuration reloaded");
    expect(await hub.get("/health")).toMatchObject({ version_gate: "git" });
  },
);

test("a store that fails for another reason than want of room is 503 at /health, too", async () => {
  // So large a file may become, in KiB: beyond it SQLite says "disk I/O error".
  const wrap = ["sh", "-c", `trap "" XFSZ; ulimit -f 300; exec "$@"`, "sh"];
  await using hub = await Hub.start({ wrap, more: "rate_limit_per_minute: 100000" });
  // Small ones to the end, so that not even the alive mark finds room.
  let answer = 200;
  await until("nothing can be stored", async () => {
    answer = (await hub.report()).status;
    return (
      answer !== 200 && (await fetch(`${hub.url}/v1/ping`, { method: "POST", headers: hub.bearer() })).status === 500
    );
  });
  const health = await fetch(`${hub.url}/health`);
  expect([answer, health.status, await health.json()]).toEqual([
    500,
    503,
    expect.objectContaining({ problem: expect.stringContaining("the store fails: disk I/O error") }),
  ]);
});

test("one broken row keeps nobody else's figures from being rolled up", async () => {
  await using hub = new Hub();
  for (const host of ["web-1", "web-2"]) await hub.addHost(host);
  const at = Math.floor(Date.now() / 600_000 - 2) * 600_000;
  hub.change((db) => {
    for (const [host, figures] of [
      [1, '{"1":[1,2'],
      [2, '{"1":[1,2,3]}'],
    ] as const) {
      db.run("INSERT INTO host_samples (host, at, cpu_percent) VALUES (?, ?, 5)", [host, at]);
      db.run("INSERT INTO workload_samples (host, at, containers, guests) VALUES (?, ?, ?, '{}')", [host, at, figures]);
      db.run("INSERT INTO rollups_due (step, at, host) VALUES (600, ?, ?)", [at, host]);
    }
  });
  await hub.up();
  await hub.daemon.said(/loop=rollups error="roll up 600 s of host 1 /);
  expect(hub.rows("SELECT host FROM host_rollups WHERE step = 600")).toEqual([{ host: 2 }]);
});

test.skipIf(!have("strace", "a fleet that falls silent at once"))(
  "a fleet that falls silent at once is no absence of the receiver's, however slow its disk",
  async () => {
    await using hub = new Hub();
    await hub.addHost("web-0");
    hub.change((db) => {
      const insert = db.query(
        "INSERT INTO hosts (name, status, created_at, last_seen_at, told_interval) VALUES (?, 'online', 0, ?, 2)",
      );
      for (let n = 1; n <= 150; n++) insert.run(`web-${n}`, Date.now());
    });
    await hub.up();
    // Each sync takes as long as on a disk that turns.
    const slow = ["trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_exit=30000"];
    const strace = Bun.spawn([
      "strace",
      "-f",
      "-qq",
      "-o",
      "/dev/null",
      "-e",
      ...slow,
      "-p",
      String(hub.daemon.child.pid),
    ]);
    try {
      const silent = () => hub.rows<{ hosts: number }>("SELECT COUNT(*) AS hosts FROM hosts WHERE status = 'offline'");
      await until("all are offline", () => silent()[0]?.hosts === 150, 60);
      expect(hub.daemon.log.filter((line) => line.includes("was away"))).toEqual([]);
    } finally {
      strace.kill();
      await strace.exited;
    }
  },
);

test("a line of the index whose time is none is no line: it would make every pause an unusual one", async () => {
  await using hub = await Hub.start();
  const bytes = await archive("x");
  expect((await hub.ship("ep-1", bytes)).status).toBe(201);
  const path = join(hub.data, "index.jsonl");
  writeFileSync(path, readFileSync(path, "utf8").replace(/"received_at":"[^"]*"/, '"received_at":"yesterday"'));
  // As an editor saves it, or the table that follows the file would see nothing new.
  renameSync(path, `${path}.new`);
  copyFileSync(`${path}.new`, path);
  await until(
    "it is gone",
    async () => (await hub.get<{ episodes: unknown[] }>("/v1/episodes")).episodes.length === 0,
    10,
  );
  expect((await hub.run("index", "rebuild")).stdout).toBe("web-1/ep-1: line made\n1 missing line made\n");
});

test("a proxy in the environment never sees what goes to a Forgejo on this machine", async () => {
  await using forgejo = new BehindProxy([{ sha: "a".repeat(40) }]);
  const at = `{ url: "${forgejo.url}", repo: lab/code, token: forge-secret }`;
  await using hub = await Hub.start({ env: forgejo.env, more: `version_gate: { enabled: true, forgejo: ${at} }` });
  expect(hub.daemon.log.join("\n")).toContain("source=forgejo");
  expect([...new Set(forgejo.seen)]).toEqual(["server"]);
});

test("a host that was archived and is back is not told for what it didn't ship meanwhile", async () => {
  using folder = new Folder();
  const store = await Store.open(folder.path);
  const now = Date.now();
  const quiet = async (what: string) => {
    await store.write((tx) => tx.run("UPDATE hosts SET status = 'online' WHERE name = $1", [what]));
    return quietPass(store, { now, since: 0 });
  };
  await store.write(async (tx) => {
    for (const host of ["web-1", "web-2"]) {
      await addHost(tx, host, now);
      for (let n = 18; n < 25; n++) {
        const at = now - n * 600_000;
        await tx.run("UPDATE hosts SET last_upload_at = MAX(COALESCE(last_upload_at, 0), $1) WHERE name = $2", [
          at,
          host,
        ]);
        await tx.run("INSERT INTO episodes VALUES ($1, $2, $3, '', 0, '')", [host, `${n}`, new Date(at).toISOString()]);
      }
    }
    await archiveHost(tx, "web-1", now - 3_600_000);
    await addHost(tx, "web-1", now);
  });
  expect([await quiet("web-1"), await quiet("web-2")]).toEqual([0, 1]);
  await store.close();
});
