// An operator's day under a really booted systemd: files that the service may not read, a broken reload, a broken upgrade, a full disk.
// After each the service goes on or says why not, and `systemctl`, the status line and `--check` agree. No event is lost.
// Not tested here: user services.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Booted, whyNot } from "./booted.ts";

const reason = whyNot();
if (reason) console.log(`skipped: an operator's day under a booted systemd: ${reason}`);

describe.skipIf(reason !== null)("an operator's day", () => {
  const machine = new Booted();
  beforeAll(async () => {
    await machine.prepare();
    await machine.boot();
    for (const role of ["collector", "receiver", "observer"]) await machine.do(`sh /opt/picket/install.sh ${role}`);
  });
  afterAll(() => machine.end());

  const write = (path: string, text: string) => machine.do(`cat > ${path} <<'END'\n${text}\nEND`);
  const dropIn = (role: string, lines: string) =>
    machine.do(
      `mkdir -p /etc/systemd/system/picket-${role}.service.d && printf '[Service]\\n${lines}' > /etc/systemd/system/picket-${role}.service.d/own.conf && systemctl daemon-reload`,
    );

  test("--check as root sees what the service's account and sandbox allow, and what it names as a fix works", async () => {
    await machine.do(
      "cp -a /etc/picket /root/picket && umask 077 && mkdir -p /home/bob/in /var/keys && touch /tmp/key && echo secret | tee /etc/picket/hook > /var/keys/cert",
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

    await machine.do("rm -r /etc/systemd/system/picket-*.service.d && systemctl daemon-reload");
    await machine.do("rm -r /etc/picket && cp -a /root/picket /etc && systemctl restart picket-receiver");
    for (const role of ["collector", "receiver", "observer"])
      expect(await machine.do(`picket-${role} --check`)).toStartWith("ok\n");
    expect(await machine.do("ls /run/systemd/system /run | grep picket || true")).toBe("");
  });
});
