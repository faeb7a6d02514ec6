// All four services under a really booted systemd (in namespaces of its own): as 0.1.0 installed them, a program for each
// role, then brought up to date role by role, and from there on the one program.
// Not tested here: a reboot, user services, other versions of systemd than this machine's.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { until } from "../kit.ts";
import { Booted, ROLES, type Role, whyNot } from "./booted.ts";

/** Sends webhooks and drops files until it is told to stop; sends again what was not acknowledged, as senders do. */
const SENDER = `
import { existsSync, renameSync, writeFileSync } from "node:fs";
const figures = { sent: 0, refused: 0 };
for (; !existsSync("/root/enough"); figures.sent++) {
  const text = "event " + figures.sent;
  const headers = { "content-type": "application/json", "x-github-delivery": text };
  const send = () => fetch("http://127.0.0.1:18790/note", { method: "POST", headers, body: JSON.stringify({ text }) });
  while (!(await send().catch(() => null))?.ok) {
    figures.refused++;
    await Bun.sleep(20);
  }
  const drop = "/var/lib/picket/incoming/" + figures.sent;
  writeFileSync(drop + ".tmp", JSON.stringify({ recipient: "ops", type: "INFO", payload: "drop " + figures.sent }));
  renameSync(drop + ".tmp", drop + ".json");
  await Bun.sleep(2);
}
console.log(JSON.stringify(figures));`;

const reason = whyNot();
if (reason) console.log(`skipped: the services under a booted systemd: ${reason}`);

describe.skipIf(reason !== null)("a booted systemd", () => {
  const machine = new Booted();
  beforeAll(async () => {
    await machine.prepare();
    writeFileSync(machine.seed("opt/sender.ts"), SENDER);
    await machine.boot();
  });
  afterAll(() => machine.end());

  test("install.sh puts all four in place, and they serve", async () => {
    for (const role of ["collector", "receiver", "observer"] as const) {
      const said = await machine.do(`sh /opt/former/install.sh ${role}`);
      expect(said).toContain(`started      picket-${role}.service`);
    }
    await machine.do("echo 'cycle_seconds: 1' >> /etc/picket/observer.yaml && systemctl reload picket-observer");
    const added = await machine.do("picket-receiver host add web-1");
    const exports = added.match(/^export .*$/gm)!.join("; ");
    const said = await machine.do(`${exports}; sh /opt/former/install.sh agent`);
    expect(said).toContain("started      picket-agent.service");
    for (const role of ROLES) {
      expect([role, await machine.show(role, "ActiveState"), await machine.show(role, "NRestarts")]).toEqual([
        role,
        "active",
        "0",
      ]);
      expect(await machine.do(`systemctl is-enabled picket-${role}`)).toBe("enabled\n");
    }
    await until("the host is seen", async () => /^web-1 +online/m.test(await machine.do("picket-receiver host list")));
    expect(await machine.do("ls -l /etc/picket/token")).toStartWith("-rw-------");
  });

  test("each role in turn becomes a link to the one program; both kinds run side by side, and no event is lost or doubled", async () => {
    const pids = async () =>
      Object.fromEntries(await Promise.all(ROLES.map(async (role) => [role, await machine.show(role, "MainPID")])));
    await post(machine, "http://127.0.0.1:3219/observer/event", '{"endpoint":"before"}');
    const sending = machine.do("BUN_BE_BUN=1 /opt/picket/picket /opt/sender.ts");
    await until("events arrive", async () => (await inbox(machine)).includes('"drop 20"'));
    let before = await pids();
    for (const role of ROLES) {
      expect(await machine.do(`sh /opt/picket/install.sh ${role}`)).toContain(`restarted    picket-${role}.service`);
      const now = await pids();
      for (const other of ROLES) expect([other, now[other] === before[other]]).toEqual([other, other !== role]);
      before = now;
      expect(await machine.do(`readlink /usr/local/bin/picket-${role}`)).toBe("picket\n");
      expect(await machine.do(`readlink /proc/${now[role]}/exe`)).toBe("/usr/local/bin/picket\n");
      expect(await machine.do(`picket-${role} --version && picket ${role} --version`)).toMatch(/^(picket-\w+ .*\n)\1$/);
      const sent = inboxEvents(await inbox(machine)).length;
      await until("events go on arriving", async () => inboxEvents(await inbox(machine)).length > sent + 20);
    }
    for (const role of ROLES) {
      expect(await machine.do(`sh /opt/picket/install.sh ${role}`)).toContain(
        `running      picket-${role}.service, unchanged`,
      );
      expect([role, await machine.show(role, "ActiveState"), await machine.show(role, "NRestarts")]).toEqual([
        role,
        "active",
        "0",
      ]);
    }
    await machine.do("touch /root/enough");
    const { sent, refused } = JSON.parse(await sending) as { sent: number; refused: number };
    expect(refused).toBeGreaterThan(0);
    const wanted = Array.from({ length: sent }, (_, n) => [`event ${n}`, `drop ${n}`])
      .flat()
      .toSorted();
    await until("the last drop arrives", async () => (await inbox(machine)).includes(`"drop ${sent - 1}"`));
    expect(inboxEvents(await inbox(machine)).toSorted()).toEqual(wanted);
    expect(await machine.do("picket-observer stats")).toMatch(/^operations +1$/m);
    expect(await machine.do("picket-receiver host list")).toMatch(/^web-1 +online/m);
  });

  test("a service that still runs a replaced file is restarted when its role is installed, no other one", async () => {
    await machine.do(
      "cp /usr/local/bin/picket /usr/local/bin/picket.new && mv /usr/local/bin/picket.new /usr/local/bin/picket",
    );
    const [pid, other] = [await machine.show("observer", "MainPID"), await machine.show("receiver", "MainPID")];
    expect(await machine.do("sh /opt/picket/install.sh observer")).toContain("restarted    picket-observer.service");
    expect(await machine.show("observer", "MainPID")).not.toBe(pid);
    expect(await machine.show("receiver", "MainPID")).toBe(other);
  });

  test("systemctl status shows a line of figures; the journal has readable lines with their priorities", async () => {
    for (const [role, line] of [
      ["collector", /Status: ".*0 /],
      ["receiver", /Status: "1 online; [1-9]/],
      ["agent", /Status: "connected; \d+ reports sent/],
      ["observer", /Status: "\d+ operations/],
    ] as const) {
      // Told again when it has changed, every five seconds.
      const status = () => machine.do(`systemctl status --no-pager picket-${role}`);
      await until(`the status line of ${role}`, async () => line.test(await status()));
      // What the unit's processes said, without what systemd says of them.
      const query = `journalctl -q _SYSTEMD_UNIT=picket-${role}.service -o json --no-pager`;
      const entries = (await machine.do(query)).trim().split("\n");
      const messages = entries.map((entry) => JSON.parse(entry) as Record<"MESSAGE" | "PRIORITY", string>);
      for (const { MESSAGE, PRIORITY } of messages) {
        expect(MESSAGE).not.toMatch(/^[<{]/);
        expect(["4", "6"]).toContain(PRIORITY);
      }
      expect(messages).toContainEqual(
        expect.objectContaining({ MESSAGE: expect.stringMatching(/^ready \w+=/), SYSLOG_IDENTIFIER: `picket-${role}` }),
      );
    }
  });

  test("a reload takes over a good file; a bad one fails and the former stays, as the status line says until the file is fixed", async () => {
    for (const role of ROLES) {
      const file = `/etc/picket/${role}.yaml`;
      const pid = await machine.show(role, "MainPID");
      await machine.do(`cp ${file} /root/${role}.yaml && systemctl reload picket-${role}`);
      await until(`${role} has reloaded`, async () =>
        (await journal(machine, role)).includes("configuration reloaded"),
      );
      await machine.do(`printf 'nonsense: 1\nmore: 2\n' >> ${file}`);
      const { code } = await machine.sh(`systemctl reload picket-${role}`);
      expect([role, code]).toEqual([role, 1]);
      const status = () => machine.show(role, "StatusText");
      await until(`${role} says so`, async () => (await status()).startsWith("old configuration: 2 errors; "));
      const warnings = await machine.do(`journalctl -q -u picket-${role} -p warning -o cat --no-pager`);
      expect(warnings).toContain("the former one stays");
      expect(warnings).toContain(`${role}.yaml:`);
      expect([role, await machine.show(role, "ActiveState"), await machine.show(role, "MainPID")]).toEqual([
        role,
        "active",
        pid,
      ]);
      // A signal by hand tells the same, in both directions.
      await machine.do(`cp /root/${role}.yaml ${file} && systemctl reload picket-${role}`);
      await until(`${role} takes it over`, async () => !(await status()).includes("configuration"));
      await machine.do(`echo 'nonsense: 1' >> ${file} && kill -HUP ${pid}`);
      await until(`${role} refuses`, async () => (await status()).startsWith("old configuration: 1 error; "));
      await machine.do(`cp /root/${role}.yaml ${file} && kill -HUP ${pid}`);
      await until(`${role} is content`, async () => !(await status()).includes("configuration"));
    }
  });

  test("the agent in its sandbox sees the units that failed, and those of others", async () => {
    const unit = "[Service]\\nType=oneshot\\nExecStart=/bin/sh -c 'exit 3'\\n";
    await machine.do(`printf "${unit}" > /etc/systemd/system/backup.service && systemctl daemon-reload`);
    await machine.sh("systemctl start backup");
    await machine.do("cp /etc/picket/agent.yaml /root/look.yaml && echo 'services: [picket-coll*]' >> /root/look.yaml");
    const look = "[Service]\\nType=exec\\nRestart=no\\nExecStart=\\nStandardOutput=truncate:/run/seen\\n";
    const command = "ExecStart=/usr/local/bin/picket-agent selftest host --json --config /root/look.yaml\\n";
    await machine.with("agent", look + command, async () => {
      await machine.sh("systemctl restart picket-agent");
      await machine.becomes("agent", "ActiveState", "inactive");
    });
    const { units, processes, interfaces } = JSON.parse(await machine.do("cat /run/seen")) as Record<string, object[]>;
    expect(units).toEqual([
      { name: "backup.service", state: "failed", sub: "failed", since: expect.any(String), detail: "exit 3" },
      expect.objectContaining({ name: "picket-collector.service", state: "active", sub: "running", detail: null }),
    ]);
    expect(processes).toContainEqual(expect.objectContaining({ name: "picket-collecto" }));
    expect(interfaces).toBeArray();
  });

  test("SIGSTOP of each: the watchdog brings it back", async () => {
    await Promise.all(
      ROLES.map((role) =>
        machine.with(role, "[Service]\\nWatchdogSec=5\\n", async () => {
          await machine.do(`systemctl restart picket-${role}`);
          const pid = await machine.show(role, "MainPID");
          await machine.do(`kill -STOP ${pid}`);
          await machine.becomes(role, "NRestarts", "1");
          await machine.becomes(role, "ActiveState", "active");
          expect(await machine.show(role, "MainPID")).not.toBe(pid);
        }),
      ),
    );
  });

  test("a crash loop ends at the start limit", async () => {
    // One after the other: a daemon-reload forgets how often units were started.
    for (const role of ROLES) {
      await machine.with(
        role,
        '[Service]\\nRestartSec=0\\nExecStartPost=/bin/sh -c "kill -9 $MAINPID"\\n',
        async () => {
          await machine.sh(`systemctl restart picket-${role}`);
          await machine.becomes(role, "ActiveState", "failed", 60);
          expect(Number(await machine.show(role, "NRestarts"))).toBeLessThan(11);
          const said = await machine.do(`journalctl -q -u picket-${role} --no-pager -o cat`);
          expect([role, said]).toEqual([role, expect.stringContaining("Start request repeated too quickly")]);
        },
      );
    }
  });

  test("the failed unit is a line in the inbox, and so is its end", async () => {
    const told = (what: string) => until(what, async () => (await inbox(machine)).includes(what));
    await told("web-1: unit backup failed (exit 3)");
    await machine.do("rm /etc/systemd/system/backup.service; systemctl daemon-reload; systemctl reset-failed backup");
    await machine.do("systemctl restart picket-agent");
    await told("web-1: unit backup is no longer failed");
  });

  test("exit codes 2, 3 and 78 are not followed by another start", async () => {
    const failing = async (role: Role, status: string): Promise<void> => {
      await machine.do(`systemctl reset-failed picket-${role} || true`);
      await machine.sh(`systemctl restart picket-${role}`);
      await machine.becomes(role, "ActiveState", "failed");
      expect([role, await machine.show(role, "ExecMainStatus"), await machine.show(role, "NRestarts")]).toEqual([
        role,
        status,
        "0",
      ]);
    };
    for (const role of ROLES) {
      const file = `/etc/picket/${role}.yaml`;
      await machine.do(`echo 'nonsense: 1' >> ${file}`);
      await failing(role, "78");
      await machine.do(
        `cp /root/${role}.yaml ${file}; systemctl reset-failed picket-${role}; systemctl restart picket-${role}`,
      );
    }
    // Each role has wrong usage; to the agent and the collector a setting can be missing; credentials are refused to the agent alone.
    for (const role of ROLES) {
      const wrong = `[Service]\\nExecStart=\\nExecStart=/usr/local/bin/picket-${role} --nonsense\\n`;
      await machine.with(role, wrong, () => failing(role, "2"));
    }
    for (const role of ["agent", "collector"] as const) {
      await machine.do(`mv /etc/picket/${role}.yaml /root/away.yaml`);
      await failing(role, "2");
      await machine.do(`mv /root/away.yaml /etc/picket/${role}.yaml`);
    }
    await machine.do(`cp /etc/picket/token /root/token && echo pk_${"x".repeat(40)} > /etc/picket/token`);
    await failing("agent", "3");
    await machine.do(`cp /root/token /etc/picket/token`);
    for (const role of ROLES) {
      await machine.do(`systemctl reset-failed picket-${role}; systemctl restart picket-${role}`);
      expect([role, await machine.show(role, "ActiveState")]).toEqual([role, "active"]);
    }
  });

  test("what they observer while all that happens meets in one inbox; uninstall leaves data and configuration", async () => {
    for (let n = 0; n < 3; n++) {
      const body = `{"endpoint":"deploy","success":false,"error":"no route to host ${n}"}`;
      expect(await post(machine, "http://127.0.0.1:3219/observer/event", body)).toContain('"accepted":true');
    }
    await machine.do("picket-collector ping ops hello --config /etc/picket/collector.yaml");
    await until("the escalation is told", async () => (await inbox(machine)).includes("deploy keeps failing"));
    expect(await inbox(machine)).toContain("hello");
    for (const role of ROLES) {
      await machine.do(`sh /opt/picket/install.sh ${role} --uninstall`);
      expect((await machine.sh(`systemctl is-active picket-${role}`)).out).not.toBe("active\n");
      expect(
        (
          await machine.sh(
            `test -e /usr/local/bin/picket-${role} || test -e /etc/systemd/system/picket-${role}.service`,
          )
        ).code,
      ).toBe(1);
      await machine.do(`test -f /etc/picket/${role}.yaml`);
    }
    await machine.do("test -s /var/lib/picket/receiver/receiver.db && test -s /var/lib/picket/observer/ops.jsonl");
    expect(await inbox(machine)).toContain("hello");
  });
});

function journal(machine: Booted, role: Role): Promise<string> {
  return machine.do(`journalctl -q -u picket-${role} -o cat --no-pager`);
}

/** The payloads of what the sender sent. */
function inboxEvents(inbox: string): string[] {
  const lines = inbox.split("\n").filter((line) => line !== "");
  const payloads = lines.map((line) => (JSON.parse(line) as { payload: string }).payload);
  return payloads.filter((payload) => /^(event|drop) \d+$/.test(payload));
}

function inbox(machine: Booted): Promise<string> {
  return machine.do("cat /var/lib/picket/inbox/ops.inbox 2>/dev/null || true");
}

/** By Bun's own runtime, because a new machine has no curl. */
function post(machine: Booted, url: string, body: string): Promise<string> {
  const script = `const answer = await fetch("${url}", { method: "POST", body: process.argv[1] }); console.log(await answer.text());`;
  return machine.do(`BUN_BE_BUN=1 /usr/local/bin/picket-observer -e '${script}' '${body}'`);
}
