// How a host's uploads go: refused for long, suddenly quiet, without their commit.

import { expect, test } from "bun:test";
import { addHost, archiveHost } from "../../lib/receiver/hosts.ts";
import { Store } from "../../lib/receiver/store.ts";
import { quietPass } from "../../lib/receiver/upload-alerts.ts";
import { Folder, until } from "../kit.ts";
import { onFile, placeOf } from "./store-kit.ts";
import { Hub, archive, faketime, reportAt, startAt } from "./kit.ts";

type Row = Record<string, unknown>;

test("a host that was archived and is back is not told for what it didn't ship meanwhile", async () => {
  using folder = new Folder();
  const store = await Store.open(placeOf(folder.path));
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
        await tx.run("UPDATE hosts SET last_upload_at = $1 WHERE name = $2 AND COALESCE(last_upload_at, 0) < $1", [
          at,
          host,
        ]);
        const episode = [host, `${n}`, new Date(at).toISOString()];
        await tx.run(
          `INSERT INTO episodes (host, episode, received_at, sha256, size, ${onFile ? "" : "object,"} line)
           VALUES ($1, $2, $3, '', 0, ${onFile ? "" : "'',"} '')`,
          episode,
        );
      }
    }
    await archiveHost(tx, "web-1", now - 3_600_000);
    await addHost(tx, "web-1", now);
  });
  expect([await quiet("web-1"), await quiet("web-2")]).toEqual([0, 1]);
  await store.close();
});

test("unstamped uploads are told, but not of a host that never reported; a stamped one closes the alert", async () => {
  using folder = new Folder();
  await using hub = await Hub.start({
    more: `rate_limit_per_minute: 100000\nversion_gate: { enabled: true, repo_path: ${folder.at("repo")} }`,
  });
  const bytes = await archive("x");
  const alerts = async () => (await hub.get<{ alerts: Row[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what);
  expect((await hub.ship("a", bytes)).status).toBe(400);
  expect(await alerts()).toEqual([]);
  await hub.report();
  expect((await hub.ship("a", bytes)).status).toBe(400);
  expect(await alerts()).toEqual(["host.unstamped"]);
  const git = `git init -q ${folder.at("repo")} && cd ${folder.at("repo")} && git -c user.name=t -c user.email=t@example.org commit -q --allow-empty -m x && git rev-parse HEAD`;
  const commit = Bun.spawnSync(["sh", "-c", git]).stdout.toString().trim();
  await until(
    "it is let in",
    async () => (await hub.ship("a", bytes, { headers: { "x-code-commit": commit } })).status === 201,
  );
  expect(await alerts()).toEqual([]);
});

const library = faketime("uploads that are refused for long");

// A bucket refuses what another clock has signed.
test.skipIf(!library || !onFile)(
  "uploads that are refused for half an hour are told, those a day apart are not; so are unusual pauses, but not the receiver's own",
  async () => {
    using folder = new Folder();
    const { hub, clock } = await startAt(folder, library!, ["web-1"], "poll_interval_seconds: 86400");
    await using _ = hub;
    const bytes = await archive("x");
    const alerts = async () => (await hub.get<{ alerts: Row[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what);
    const refuse = async () =>
      expect((await hub.ship("bad", bytes, { headers: { "x-schema-version": "9" } })).status).toBe(400);
    await reportAt(hub, 0);
    await refuse();
    clock.offset(2 * 86_400);
    await refuse();
    expect(await alerts()).toEqual([]);
    clock.offset(2 * 86_400 + 1900);
    await refuse();
    expect(await alerts()).toEqual(["host.uploads_failing"]);
    let at = 2 * 86_400 + 2000;
    for (let n = 0; n < 6; n++, at += 600) {
      clock.offset(at);
      expect((await hub.ship(`good-${n}`, bytes)).status).toBe(201);
    }
    expect(await alerts()).toEqual([]);
    // Away for five hours: what was quiet meanwhile says nothing.
    await hub.daemon.kill("SIGKILL");
    at += 5 * 3600;
    clock.offset(at);
    await hub.up();
    await until("it was looked", async () => (await hub.get<{ uptime_sec: number }>("/health")).uptime_sec >= 1);
    expect(await alerts()).toEqual([]);
  },
);
