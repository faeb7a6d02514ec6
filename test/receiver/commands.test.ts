// The receiver's commands on the store, while the daemon runs.

import { describe, expect, test } from "bun:test";
import { Hub, report } from "./kit.ts";

describe("commands on the store, while the daemon runs", () => {
  test("add, rotate, revoke, archive, and back", async () => {
    await using hub = await Hub.start();
    const ping = async (token: string) =>
      (await fetch(`${hub.url}/v1/ping`, { method: "POST", headers: { authorization: `Bearer ${token}` } })).status;
    const first = hub.tokens.get("web-1")!;
    expect(await ping(first)).toBe(200);
    const rotated = await hub.run("token", "rotate", "web-1", "--url", "https://hub.example");
    expect(rotated.stdout).toMatch(
      /^export PICKET_URL=https:\/\/hub\.example\nexport PICKET_TOKEN=pk_[A-Za-z0-9]{40}\necho "\$PICKET_TOKEN" \| sh -c 'cat > \/etc\/picket\/token && systemctl restart picket-agent'$/m,
    );
    expect(rotated.stdout.match(/pk_/g)).toHaveLength(1);
    const second = /pk_\w+/.exec(rotated.stdout)![0];
    expect([await ping(first), await ping(second)]).toEqual([401, 200]);
    expect((await hub.run("token", "revoke", "web-1")).stdout).toBe("web-1: 1 token revoked\n");
    expect(await ping(second)).toBe(401);
    // The URL is remembered.
    const again = (await hub.run("token", "rotate", "web-1")).stdout;
    expect(again).toContain("\nexport PICKET_URL=https://hub.example\n");
    expect((await hub.run("host", "add", "nas")).stdout).toMatch(
      /^export PICKET_TOKEN=pk_\w{40}\necho "\$PICKET_TOKEN" \| \.\/install\.sh agent --url "\$PICKET_URL" --token-stdin$/m,
    );
    expect((await hub.run("host", "archive", "nas")).code).toBe(0);
    const third = /pk_\w+/.exec(again)![0];
    expect(await ping(third)).toBe(200);
    expect((await hub.run("host", "archive", "web-1")).code).toBe(0);
    expect(await ping(third)).toBe(401);
    expect((await hub.run("token", "rotate", "web-1")).stderr).toContain("host add web-1");
    expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "archived" });
    expect(await ping(await hub.addHost("web-1"))).toBe(200);
    const listed = JSON.parse((await hub.run("token", "list", "web-1", "--json")).stdout) as {
      revoked_at: string | null;
    }[];
    expect(listed.map(({ revoked_at }) => revoked_at === null)).toEqual([false, false, false, true]);
    expect((await hub.run("host", "list")).stdout).toMatch(/^web-1 +pending/m);
  });

  test("wrong usage is an error with a hint, and exit code 2", async () => {
    await using hub = new Hub();
    const say = async (...args: string[]) => {
      const { code, stderr } = await hub.run(...args);
      return [code, stderr];
    };
    expect(await say("host", "add", "../x")).toEqual([2, expect.stringContaining("not a valid name")]);
    expect(await say("host", "archive", "nobody")).toEqual([2, expect.stringContaining("host list shows them")]);
    await hub.addHost("web-1");
    expect(await say("host", "add", "web-1")).toEqual([2, expect.stringContaining("token rotate web-1")]);
    expect(await say("host", "set", "web-1")).toEqual([2, expect.stringContaining("--interval")]);
    expect(await say("host", "set", "web-1", "--interval", "0")).toEqual([2, expect.stringContaining("1 to 86400")]);
    expect(await say("host", "ad", "web-1")).toEqual([2, expect.stringContaining('"host add"')]);
  });

  test("host list shows the whole version of each agent, with its commit", async () => {
    await using hub = await Hub.start({ hosts: ["web-1", "a-host-with-a-long-name"] });
    const versions = ["0.2.0", `0.2.0+${"abcdef0123".repeat(4)}`];
    for (const [index, host] of ["web-1", "a-host-with-a-long-name"].entries()) {
      expect((await hub.report({ ...report(), agent_version: versions[index] }, { host })).status).toBe(200);
    }
    const { stdout } = await hub.run("host", "list");
    const rows = stdout.trimEnd().split("\n");
    expect(rows.map((row) => row.split(/ {2,}/).at(-1))).toEqual(["AGENT", versions[1]!, versions[0]!]);
    const listed = JSON.parse((await hub.run("host", "list", "--json")).stdout) as { agent_version: string }[];
    expect(listed.map(({ agent_version }) => agent_version)).toEqual(versions.toReversed());
  });

  test("host list says which agent is older than the receiver", async () => {
    await using hub = await Hub.start();
    for (const [version, shown] of [
      ["0.1.0", "0.1.0, older than the receiver"],
      ["99.0.0", "99.0.0"],
    ]) {
      expect((await hub.report({ ...report(), agent_version: version })).status).toBe(200);
      expect((await hub.run("host", "list")).stdout).toContain(`  ${shown}\n`);
    }
  });

  test("a host's own interval is in the answer to its next report", async () => {
    await using hub = await Hub.start();
    const told = async () =>
      ((await (await hub.report()).json()) as { poll_interval_seconds: number }).poll_interval_seconds;
    expect(await told()).toBe(60);
    expect((await hub.run("host", "set", "web-1", "--interval", "300")).code).toBe(0);
    expect(await told()).toBe(300);
    expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ interval_seconds: 300 });
    await hub.run("host", "set", "web-1", "--interval", "default");
    expect(await told()).toBe(60);
  });
});
