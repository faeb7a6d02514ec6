// An operator's day under a really booted systemd: files that the service may not read, a broken reload, a broken upgrade, a full disk.
// After each the service goes on or says why not, and `systemctl`, the status line and `--check` agree. No event is lost.
// Not tested here: user services.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { have, until } from "../kit.ts";
import { Booted, type Role, whyNot } from "./booted.ts";

const reason = whyNot();
if (reason) console.log(`skipped: an operator's day under a booted systemd: ${reason}`);

describe.skipIf(reason !== null || !have("openssl", "an operator's day"))("an operator's day", () => {
  const machine = new Booted();
  beforeAll(async () => {
    await machine.prepare();
    await machine.boot();
    await machine.do("mkdir -p /var/lib/picket && mount -t tmpfs -o size=64m,nr_inodes=2000 tmpfs /var/lib/picket");
    for (const role of ["collector", "receiver", "observer"]) await machine.do(`sh /opt/picket/install.sh ${role}`);
    await machine.do("echo 'cycle_seconds: 1' >> /etc/picket/observer.yaml && systemctl reload picket-observer");
  });
  afterAll(() => machine.end());

  const write = (path: string, text: string) => machine.do(`cat > ${path} <<'END'\n${text}\nEND`);
  const inbox = () => machine.do("cat /var/lib/picket/inbox/ops.inbox 2>/dev/null || true");
  const dropIn = (role: string, lines: string) =>
    machine.do(
      `mkdir -p /etc/systemd/system/picket-${role}.service.d && printf '[Service]\\n${lines}' > /etc/systemd/system/picket-${role}.service.d/own.conf && systemctl daemon-reload`,
    );

  test("--check as root sees what the service's account and sandbox allow, and what it names as a fix works", async () => {
    await machine.do(
      "cp -a /etc/picket /root/picket && umask 077 && mkdir -p /home/bob/in /var/keys && echo secret > /etc/picket/hook && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /tmp/key -out /var/keys/cert -subj /CN=hub 2>&1",
    );
    await write(
      "/etc/picket/collector.yaml",
      `agent: me
inbox_dir: /srv/inbox
drop_folder: { path: /home/bob/in }
webhook:
  listen: 127.0.0.1:18790
  routes:
    - { path: /a, recipient: ops, type: INFO, template: x, verify: { scheme: forgejo, secret_file: hook } }
    - { path: /b, recipient: ops, type: INFO, template: x, verify: { scheme: forgejo, secret_file: ~/hook } }
tls: { cert_file: /var/keys/cert, key_file: /tmp/key }`,
    );
    const check = () => machine.sh("picket-collector --check");
    const edit = (...lines: string[]) =>
      `systemctl edit picket-collector, with the lines ${["[Service]", ...lines].map((line) => `"${line}"`).join(", ")}`;
    const first = await check();
    expect(first.code).toBe(78);
    for (const line of [
      `inbox_dir: cannot be written to: EACCES: install -d -o picket /srv/inbox; then ${edit("ReadWritePaths=/srv/inbox")}`,
      `drop_folder.path: is hidden from the service: ${edit("ProtectHome=tmpfs", "BindPaths=/home/bob/in")}`,
      "secret_file: /etc/picket/hook cannot be read: EACCES: chown picket /etc/picket/hook",
      "secret_file: /var/lib/picket/hook does not exist",
      "tls.cert_file: cannot be read: EACCES: chmod o+x /var/keys",
      `tls.key_file: is hidden from the service: ${edit("BindReadOnlyPaths=/tmp/key")}`,
    ])
      expect(first.out).toContain(line);
    expect(await machine.do("picket-collector --check --config /root/picket/collector.yaml")).toBe("ok\n");

    await machine.do(
      "chown picket /etc/picket/hook && cp -p /etc/picket/hook /var/lib/picket/hook && install -d -o picket /srv/inbox && chmod o+x /var/keys",
    );
    await dropIn(
      "collector",
      "ReadWritePaths=/srv/inbox\\nProtectHome=tmpfs\\nBindPaths=/home/bob/in\\nBindReadOnlyPaths=/tmp/key\\n",
    );
    const second = await check();
    expect(second.out).toContain("cannot be written to: EACCES: chown picket /home/bob/in");
    expect(second.out).toContain("cannot be read: EACCES: chown picket /var/keys/cert");
    await machine.do("chown picket /home/bob/in /var/keys/cert /tmp/key");
    expect(await check()).toMatchObject({ code: 0, out: expect.stringContaining("ok\n") });

    await dropIn("collector", "ReadWritePaths=/srv/nothing\\n");
    expect(await check()).toMatchObject({ code: 78, out: expect.stringContaining("/srv/nothing: No such file") });
    // An account that lasts as long as the service: nothing can belong to it, and the check leaves the state folder as it is.
    await dropIn("receiver", "User=\\nGroup=\\nDynamicUser=yes\\nStateDirectory=\\nStateDirectory=elsewhere\\n");
    await machine.do("systemctl restart picket-receiver");
    const owner = () => machine.do("stat -c %u /var/lib/private/elsewhere /var/lib/private/elsewhere/receiver");
    const before = await owner();
    expect(await machine.sh("picket-receiver --check")).toMatchObject({
      code: 0,
      out: expect.stringContaining("checked as picket-receiver, in the sandbox of picket-receiver.service"),
    });
    expect(await owner()).toBe(before);
    await write("/etc/picket/receiver.yaml", "auth: { token_file: hook }");
    await machine.do("chown root /etc/picket/hook");
    const dynamic = await machine.sh("picket-receiver --check --config /etc/picket/receiver.yaml");
    expect(dynamic.out).toContain('"LoadCredential=NAME:/etc/picket/hook"');

    await write("/etc/picket/observer.yaml", "overseer_corrections: /home/bob/corrections.jsonl");
    const corrections = 'observer, with the lines "[Service]", "ProtectHome=tmpfs", "BindReadOnlyPaths=/home/bob/';
    expect((await machine.sh("picket-observer --check")).out).toContain(corrections);
    await machine.do("rm -r /etc/systemd/system/picket-*.service.d && systemctl daemon-reload");
    await machine.do("rm -r /etc/picket && cp -a /root/picket /etc && systemctl restart picket-receiver");
    for (const role of ["collector", "receiver", "observer"])
      expect(await machine.do(`picket-${role} --check`)).toStartWith("ok\n");
    expect(await machine.do("ls /run/systemd/system /run | grep picket || true")).toBe("");
  });

  test("an upgrade replaces nothing while a configuration is broken, and puts the former program back when the new one doesn't get ready", async () => {
    await machine.do("mkdir -p /opt/next && cp /opt/picket/install.sh /opt/next && cp -a /etc/picket /root/good");
    const upgrade = (role: string) => machine.sh(`sh /opt/next/install.sh ${role}`);
    // Another program with the same configuration; one that doesn't start is this one, too, until it is asked to serve.
    const program = (atStart: string) =>
      write(
        "/opt/next/picket",
        `#!/bin/sh
case $0 in */picket-*) set -- "\${0##*/picket-}" "$@" ;; esac
case "$*" in
*unit*) /opt/picket/picket "$@" | sed "s,/opt/picket/picket $1,/usr/local/bin/picket-$1,"; exit ;;
*--check* | *example* | *--version*) ;;
*) ${atStart} ;;
esac
exec /opt/picket/picket "$@"`,
      ).then(() => machine.do("sed -i 's/\\\\\\$/$/' /opt/next/picket && chmod 755 /opt/next/picket"));
    const state = async () => ({
      files: await machine.do("stat -c '%n %i' /usr/local/bin/picket* /etc/systemd/system/picket-*.service"),
      pids: (await machine.do("systemctl show -P MainPID picket-collector picket-receiver picket-observer")).split(
        "\n\n",
      ),
    });
    await program(":");
    const before = await state();
    // The receiver would start the shared program, too.
    await machine.do("echo 'nonsense: 1' >> /etc/picket/receiver.yaml");
    for (const role of ["receiver", "collector"]) {
      const { code, out } = await upgrade(role);
      expect([role, code]).toEqual([role, 78]);
      expect(out).toContain("this program refuses the configuration of picket-receiver: nothing was changed");
      expect(out).toContain("/etc/picket/receiver.yaml:");
    }
    await machine.do("chmod 600 /root/good/collector.yaml && cp -p /root/good/*.yaml /etc/picket");
    expect(await upgrade("collector")).toMatchObject({
      code: 78,
      out: expect.stringContaining("chown picket /etc/picket/collector.yaml"),
    });
    await machine.do("chmod 644 /etc/picket/collector.yaml");
    expect(await state()).toEqual(before);

    await program("echo no >&2; exit 1");
    const failed = await upgrade("collector");
    expect(failed.code).toBe(1);
    expect(failed.out).toContain("put back     /usr/local/bin/picket\n");
    expect(failed.out).toContain("the new picket-collector does not get ready: the former one runs again");
    const after = await state();
    const shared = /^\S+bin\/picket \d+$/m;
    expect(shared.exec(after.files)?.[0]).toBe(shared.exec(before.files)?.[0]);
    expect(after.pids.slice(1)).toEqual(before.pids.slice(1));
    expect(await machine.do("systemctl is-active picket-collector")).toBe("active\n");
    expect(await machine.do("picket-collector --version")).toMatch(/^picket-collector \d/);

    await program(":");
    expect(await upgrade("collector")).toMatchObject({ code: 0, out: expect.stringContaining("restarted    picket-") });
    expect(await machine.do("head -c 9 /usr/local/bin/picket && ls /usr/local/bin")).toContain("#!/bin/sh");
    for (const role of ["collector", "receiver", "observer"]) await machine.do(`sh /opt/picket/install.sh ${role}`);
    expect(await machine.do("ls /usr/local/bin | grep picket")).toBe(
      "picket\npicket-collector\npicket-observer\npicket-receiver\npicket.old\n",
    );
  });

  test("the lines that host add and token rotate print work when pasted, as root and through sudo", async () => {
    const config = "/etc/picket/agent.yaml";
    const line = (said: string) => /^export .*\nexport .*\necho .*$/m.exec(said)![0];
    const paste = (text: string) => machine.sh(`cd /opt/picket && ${text}`);
    if (have("sudo", "an installation through sudo")) {
      const dropped = await paste(
        "export PICKET_URL=http://127.0.0.1:18791 PICKET_TOKEN=pk_x; sudo ./install.sh agent",
      );
      expect(dropped.code).toBe(2);
      expect(dropped.out).toContain("sudo dropped the exported PICKET_");
      expect(dropped.out).toContain("the agent needs --url and --token-stdin");
    }
    const wrong = line(await machine.do("picket-receiver host add web-1 --url http://127.0.0.1:18790"));
    const first = await paste(wrong);
    expect(first.code).not.toBe(0);
    expect(first.out).toContain("picket-agent is installed, but does not reach its receiver");
    const right = wrong.replace("18790", "18791");
    expect(await paste(Bun.which("sudo") ? right.replace("./", "sudo ./") : right)).toMatchObject({
      code: 0,
      out: expect.stringContaining('knows this host as "web-1"'),
    });
    expect(await machine.do("stat -c '%a %U' /etc/picket/token")).toBe("600 root\n");
    expect(await machine.do(`systemctl is-active picket-agent && grep url: ${config}`)).toContain("127.0.0.1:18791");

    // A configuration that works stays, one that doesn't is replaced.
    for (const again of [right, right.replace("18791", "18791/")])
      expect(await paste(again)).toMatchObject({ code: 0, out: expect.stringContaining(`${config}: it works`) });
    const other = await paste(wrong.replace("18790", "1"));
    expect(other).toMatchObject({
      code: 1,
      out: expect.stringContaining("reports already, with another url or token"),
    });
    expect(await machine.do(`cat ${config}`)).toContain("18791");
    await machine.do(`printf 'host_id: web-1\nreceiver:\n  url: x\n' > ${config}`);
    expect(await paste(right)).toMatchObject({ code: 0, out: expect.stringContaining(`${config}.old`) });
    // One that is valid, but does not work, keeps its other settings: the receiver has moved.
    await machine.do(`sed -i 's/18791/1/; s/^# interval_seconds: 60/interval_seconds: 99/' ${config}`);
    expect((await paste(right)).code).toBe(0);
    expect(await machine.do(`grep -E '^(  url|interval)' ${config}`)).toBe(
      "  url: http://127.0.0.1:18791\ninterval_seconds: 99\n",
    );

    const rotated = await machine.do("picket-receiver token rotate web-1 --url http://127.0.0.1:18791");
    expect((await paste("picket-agent ping")).code).toBe(3);
    const command = line(rotated);
    await machine.do(Bun.which("sudo") ? command.replace("| sh", "| sudo sh") : command);
    expect(await machine.do("picket-agent ping && systemctl is-active picket-agent")).toContain("web-1");
    const pi = line(await machine.do("picket-receiver host add pi"));
    expect(pi).toContain("PICKET_URL=http://127.0.0.1:18791\n");
    expect((await paste(pi)).code).toBe(1);
    expect(await machine.do("picket-agent ping")).toContain("web-1");
  });

  test("without space or inodes each role says so until there is room, and goes on without a restart", async () => {
    const roles = ["collector", "receiver", "observer"] as const;
    const urls = { collector: "18790", receiver: "18791", observer: "3219" };
    const status = (role: Role) => machine.show(role, "StatusText");
    const ask = async (role: (typeof roles)[number], path: string, body?: string) => {
      const init = body === undefined ? "" : `, { method: "POST", body: process.argv[1] }`;
      const script = `const answer = await fetch("http://127.0.0.1:${urls[role]}${path}"${init}); console.log(answer.status, await answer.text());`;
      return machine.do(`BUN_BE_BUN=1 /opt/picket/picket -e '${script}' '${body ?? ""}'`);
    };
    const pids = () => Promise.all(roles.map((role) => machine.show(role, "MainPID")));
    const before = await pids();
    const drop = (name: string) =>
      machine.do(
        `echo '{"recipient":"ops","type":"INFO","payload":"${name}"}' > /root/drop.json && cp /root/drop.json /var/lib/picket/incoming/${name}.json`,
      );
    await drop("before");
    await until("the first drop is delivered", async () => (await inbox()).includes('"before"'));
    const all = (what: string, holds: (text: string) => boolean) =>
      Promise.all(roles.map((role) => until(`${role} ${what}`, async () => holds(await status(role)))));
    await machine.do("cd /var/lib/picket && dd if=/dev/zero of=fill bs=64k 2>/dev/null; true");
    const noSpace = ask("collector", "/note", JSON.stringify({ text: "x".repeat(30_000) }));
    expect(await noSpace).toStartWith("507 ");
    for (const [what, after] of [
      ["space", "rm fill; mkdir fill && cd fill && seq 3000 | xargs touch 2>/dev/null; true"],
      ["inodes", "rm -r fill"],
    ]) {
      await all(`says that there are no ${what}`, (text) =>
        text.startsWith(`DISK FULL: no ${what} left in "/var/lib/picket`),
      );
      for (const role of roles) {
        expect(await ask(role, "/health")).toStartWith("503 ");
        const doctor = await machine.sh(`picket-${role} doctor`);
        expect([role, doctor.code, doctor.out]).toEqual([role, 2, expect.stringMatching(new RegExp(`red .*${what}`))]);
      }
      await machine.do(`cd /var/lib/picket && ${after}`);
    }
    await all("is content", (text) => !text.includes("DISK FULL"));
    await drop("again");
    await until("the next drop is delivered", async () => (await inbox()).includes('"again"'));
    expect(await ask("collector", "/note", '{"text":"again"}')).toStartWith("202 ");
    expect(await ask("observer", "/observer/event", '{"endpoint":"deploy"}')).toStartWith("200 ");
    expect(await pids()).toEqual(before);
  });

  test("a wrong owner, a renamed host, a restored backup, a cloned host and a moved hub: nothing is lost, and all tell the same", async () => {
    const status = (role: Role) => machine.show(role, "StatusText");
    const becomes = (role: Role, start: string) =>
      until(`the status of the ${role} starts with ${start}`, async () => (await status(role)).startsWith(start));
    const hosts = () => machine.do("picket-receiver host list");
    /** The agent's first report comes at its start. */
    const report = () => machine.do("systemctl restart picket-agent");
    const line = async (command: string) =>
      /^export .*\nexport .*\necho .*$/m.exec(await machine.do(`picket-receiver ${command}`))![0];
    await machine.do("rm -f /etc/picket/agent.yaml");
    await machine.do(`cd /opt/picket && ${await line("host add nas --url http://127.0.0.1:18791")}`);

    // The service may not read a secret: reload, status line, log, --check, a restart and the doctor say so.
    await machine.do(
      "cp /etc/picket/receiver.yaml /root/receiver.yaml && (umask 077 && echo secret > /etc/picket/own)",
    );
    await machine.do("echo 'auth: { token_file: own }' >> /etc/picket/receiver.yaml");
    const fix = "cannot be read: EACCES: chown picket /etc/picket/own";
    expect((await machine.sh("systemctl reload picket-receiver")).code).toBe(1);
    await becomes("receiver", "old configuration: 1 error; ");
    const warnings = "journalctl -q -u picket-receiver -p warning -o cat --no-pager";
    for (const command of [warnings, "picket-receiver --check"]) expect((await machine.sh(command)).out).toContain(fix);
    expect((await machine.sh("systemctl restart picket-receiver")).code).toBe(1);
    expect(await machine.show("receiver", "ExecMainStatus")).toBe("78");
    const doctor = await machine.sh("picket-receiver doctor");
    for (const found of [
      `red +configuration +.*${fix}`,
      "red +unit +is failed \\(exit code 78\\)",
      "red +daemon +nothing",
    ])
      expect([doctor.code, doctor.out]).toEqual([2, expect.stringMatching(new RegExp(`^${found}`, "m"))]);
    await machine.do("chown picket /etc/picket/own && picket-receiver --check && systemctl restart picket-receiver");
    await machine.do("cp /root/receiver.yaml /etc/picket && systemctl restart picket-receiver");

    // Renamed, then back to what a backup knows.
    await machine.do("picket-receiver backup /root/backup.db && picket-receiver host rename nas store");
    await report();
    expect(await hosts()).toMatch(/^store +online/m);
    expect(await machine.do("picket-agent ping")).toContain('as "store"');
    await machine.do("systemctl stop picket-receiver && picket-receiver restore /root/backup.db");
    await machine.do("systemctl start picket-receiver");
    await report();
    expect(await hosts()).toMatch(/^nas +online/m);
    expect(await machine.do("picket-agent ping")).toContain('as "nas"');

    // A clone takes turns with it: its event is told although the store is an older one.
    const clone = `const token = (await Bun.file("/etc/picket/token").text()).trim();
      const facts = { boot_at: "2026-01-02T03:04:05Z" };
      const body = JSON.stringify({ recorded_at: new Date().toISOString(), agent_version: "0.2.0", host: { metrics: {}, facts } });
      const headers = { authorization: "Bearer " + token, "content-type": "application/json" };
      const answer = await fetch("http://127.0.0.1:18791/v1/host-report", { method: "POST", headers, body });
      console.log(answer.status, await answer.text());`;
    await write("/root/clone.ts", clone);
    expect(await machine.do("BUN_BE_BUN=1 /opt/picket/picket /root/clone.ts")).toStartWith("200 ");
    await report();
    // A report that breaks the contract, then one that doesn't.
    await machine.do("sed -i 's/metrics: {}/metrics: 1/' /root/clone.ts");
    expect(await machine.do("BUN_BE_BUN=1 /opt/picket/picket /root/clone.ts")).toStartWith("422 ");
    await until("the status names it", async () => /reports of \d+ hosts? refused/.test(await status("receiver")));
    await report();
    await until("the clone is told", async () => (await inbox()).includes("nas: two machines report with its token"));
    expect((await inbox()).match(/two machines report/g)).toHaveLength(1);

    // The hub moves: the agent says so, and its new line brings it there.
    await machine.do("sed -i 's/^listen: .*/listen: 127.0.0.1:18795/' /etc/picket/receiver.yaml");
    await machine.do("systemctl reload picket-receiver");
    await becomes("receiver", "restart needed: listen; ");
    await machine.do("systemctl restart picket-receiver");
    await report();
    await becomes("agent", "receiver unreachable: ");
    expect(await status("agent")).toContain("1 queued");
    expect((await machine.sh("picket-agent doctor")).code).toBe(2);
    await machine.do(`cd /opt/picket && ${await line("token rotate nas")}`);
    const moved = `echo $(cat /etc/picket/token) | ./install.sh agent --url http://127.0.0.1:18795 --token-stdin`;
    expect(await machine.do(`cd /opt/picket && ${moved}`)).toContain('knows this host as "nas"');
    await becomes("agent", "connected; ");
    await until(
      "the queue is empty",
      async () => (await machine.do("ls /var/lib/picket-agent/queue | wc -l")) === "0\n",
    );
    expect(await hosts()).toMatch(/^nas +online/m);
    // At the end of the day all of it works; the doctor finds nothing wrong but the small disk.
    for (const role of ["collector", "receiver", "observer", "agent"] as const) {
      const { out } = await machine.sh(`systemctl is-active picket-${role} && picket-${role} doctor`);
      expect([role, out]).toEqual([role, expect.stringMatching(/^active\ngreen +configuration/)]);
      expect([role, out]).toEqual([role, expect.not.stringMatching(/^red\s+(?!\s|space )/m)]);
    }
    expect(await machine.do("picket-receiver index verify")).toContain("all as the index says");
    // A drop; a drop and a note.
    expect((await inbox()).match(/"(before|again)"/g)).toEqual(['"before"', '"again"', '"again"']);
  });
});
