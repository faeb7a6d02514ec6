// systemd's units as the agent reports them: when systemctl runs, with what, and what is made of its answer. A systemd that has really
// booted: e2e/systemd.test.ts.

import { expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, utimesSync } from "node:fs";
import { createUnits } from "../../lib/agent/units.ts";
import { Folder } from "../kit.ts";

const FAILED = `Result=exit-code
ExecMainStatus=3
Id=backup.service
LoadState=loaded
ActiveState=failed
SubState=failed
StateChangeTimestamp=Sat 2026-11-28 08:25:57 UTC

Result=timeout
Id=srv.mount
LoadState=loaded
ActiveState=failed
SubState=failed
StateChangeTimestamp=

Result=success
ExecMainStatus=0
Id=cloudflared.service
LoadState=loaded
ActiveState=refreshing
SubState=running
StateChangeTimestamp=Sat 2026-11-28 08:00:00 UTC

Id=nothing.service
LoadState=not-found
ActiveState=inactive
SubState=dead
StateChangeTimestamp=
`;
const MATCHING = `Result=signal
ExecMainStatus=9
Id=web@a.service
LoadState=loaded
ActiveState=failed
SubState=failed
StateChangeTimestamp=Sat 2026-11-28 08:25:57 UTC
`;

/** A host with a systemd whose systemctl is a script. */
function host(folder: Folder, script: string) {
  mkdirSync(folder.at("run/systemd/system"), { recursive: true });
  mkdirSync(folder.at("run/systemd/units"));
  folder.write("failed", FAILED);
  folder.write("matching", MATCHING);
  folder.write("systemctl", `#!/bin/sh\ncd ${folder.path}\necho "$TZ $*" >> calls\n${script}\n`);
  chmodSync(folder.at("systemctl"), 0o755);
  const before = process.env["PATH"];
  process.env["PATH"] = `${folder.path}:${before}`;
  return {
    calls: () => (existsSync(folder.at("calls")) ? readFileSync(folder.at("calls"), "utf8").trim().split("\n") : []),
    [Symbol.dispose]: () => void (process.env["PATH"] = before),
  };
}

const ANSWER = 'case "$*" in *--state=failed*) cat failed;; *) cat matching;; esac';
const SHOW = /^UTC show --property=Id,\S+ (.*)$/;

test("failed units, and those that the configuration names, with a reason and a time", async () => {
  using folder = new Folder();
  using systemd = host(folder, ANSWER);
  const names = ["cloudflared", "nothing.service", "-.mount", "web@*"];
  const units = await createUnits({ root: folder.path, names, clock: () => 0 })();
  expect(units.list).toEqual([
    { name: "backup.service", state: "failed", sub: "failed", since: "2026-11-28T08:25:57Z", detail: "exit 3" },
    { name: "srv.mount", state: "failed", sub: "failed", since: null, detail: "timeout" },
    { name: "cloudflared.service", state: "refreshing", sub: "running", since: "2026-11-28T08:00:00Z", detail: null },
    { name: "nothing.service", state: "inactive", sub: "dead", since: null, detail: "not found" },
    { name: "web@a.service", state: "failed", sub: "failed", since: "2026-11-28T08:25:57Z", detail: "signal 9" },
  ]);
  expect(units.services).toEqual([
    { name: "cloudflared", status: "active" },
    { name: "nothing.service", status: "inactive" },
    { name: "-.mount", status: "unknown" },
    { name: "web@a.service", status: "failed" },
  ]);
  const asked = systemd.calls().map((call) => SHOW.exec(call)![1]!);
  expect(new Set(asked)).toEqual(new Set(["--state=failed -- * cloudflared nothing.service -.mount", "-- web@*"]));
});

test("systemctl runs again when a unit has started or ended, and after ten minutes", async () => {
  using folder = new Folder();
  using systemd = host(folder, ANSWER);
  let now = 0;
  const read = createUnits({ root: folder.path, names: [], clock: () => now });
  const callsAfter = async () => {
    await read();
    return systemd.calls().length;
  };
  expect([await callsAfter(), await callsAfter()]).toEqual([1, 1]);
  utimesSync(folder.at("run/systemd/units"), 1000, 1000);
  expect([await callsAfter(), await callsAfter()]).toEqual([2, 2]);
  now = 10 * 60_000;
  expect([await callsAfter(), await callsAfter()]).toEqual([3, 3]);
});

test("without systemd nothing is asked; a systemctl that fails or isn't there is an error, not a host without failed units", async () => {
  using folder = new Folder();
  const read = () => createUnits({ root: folder.path, names: ["ssh", "web@*"], clock: () => 0 })();
  expect(await read()).toEqual({ list: null, services: [{ name: "ssh", status: "unknown" }] });
  using _ = host(folder, 'echo "Failed to connect to bus" >&2; exit 1');
  expect(await read().catch(String)).toContain('"systemctl show" ended with 1');
});
