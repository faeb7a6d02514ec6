// `--check` as root without a running systemd: as the account of the installed unit. Under a systemd: test/e2e/operations.test.ts.

import { expect, test } from "bun:test";
import { chmodSync } from "node:fs";
import { isRoot } from "./e2e/disk.ts";
import { Folder, command } from "./kit.ts";

if (!isRoot) console.log("skipped: --check as the account of a unit: it needs root");

test.skipIf(!isRoot)("--check as root looks with the eyes of the unit's account, at the unit's file only", async () => {
  using folder = new Folder();
  chmodSync(folder.path, 0o755);
  const secret = folder.write("secret", "s3cret\n");
  chmodSync(secret, 0o600);
  const config = folder.write(
    "collector.yaml",
    `agent: me
inbox_dir: ${folder.at("inbox")}
webhook:
  listen: 127.0.0.1:0
  routes: [{ path: /a, recipient: ops, type: INFO, template: x, verify: { scheme: forgejo, secret_file: ${secret} } }]`,
  );
  const other = folder.write("other.yaml", await Bun.file(config).text());
  const words = await command("collector", "binary");
  // A machine on which no systemd runs, with the unit in its place.
  const check = async (file: string) => {
    const script = `mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /etc/systemd && mkdir /etc/systemd/system &&
      "$0" unit | sed "s|^User=.*|User=daemon|; s|^\\(ExecStart=.*\\)|\\1 --config ${config}|" > /etc/systemd/system/picket-collector.service &&
      exec "$0" --check --config ${file}`;
    const run = Bun.spawn(["unshare", "--mount", "sh", "-c", script, ...words], { stdout: "pipe", stderr: "pipe" });
    const [out, err] = [await new Response(run.stdout).text(), await new Response(run.stderr).text()];
    return { code: await run.exited, out, err };
  };
  const denied = await check(config);
  expect(denied).toMatchObject({ code: 78, out: "" });
  expect(denied.err).toContain(`${secret} cannot be read: EACCES: chown daemon ${secret}`);
  expect(denied.err).toContain(`inbox_dir: cannot be written to: EACCES: install -d -o daemon ${folder.at("inbox")}`);
  expect(await check(other)).toEqual({ code: 0, out: "ok\n", err: "" });
  await Bun.$`chown daemon ${secret} && install -d -o daemon ${folder.at("inbox")}`;
  expect(await check(config)).toEqual({ code: 0, out: "ok\n", err: "checked as daemon\n" });
});
