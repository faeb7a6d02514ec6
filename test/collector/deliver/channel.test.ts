// Every kind of channel through the front door: a collector with its configuration, secrets in files, real servers at the other end.

import { expect, test } from "bun:test";
import { chmodSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { SMTPServer } from "smtp-server";
import { Folder, runRole, until } from "../../kit.ts";
import { append, configure, run, start } from "./kit.ts";
import { service } from "./services.ts";

test("a phone, a chat, a program and a mailbox get the same event, and no secret is shown", async () => {
  using folder = new Folder();
  using http = service(({ path }) => (path.startsWith("/hooks") ? new Response("ok") : Response.json({})));
  const mails: string[] = [];
  const smtp = new SMTPServer({
    authOptional: true,
    disabledCommands: ["STARTTLS"],
    allowInsecureAuth: true,
    onAuth: ({ password }, _session, done) =>
      password === "secret-in-a-file" ? done(null, { user: "bob" }) : done(new Error("Invalid login")),
    onData(stream, _session, done) {
      stream.on("data", (chunk: Buffer) => mails.push(chunk.toString()));
      stream.on("end", () => done());
    },
  });
  await new Promise<void>((listening) => smtp.listen(0, "127.0.0.1", listening));
  const { port } = smtp.server.address() as AddressInfo;
  const secret = (name: string, text: string): string => {
    const path = folder.write(name, text);
    chmodSync(path, 0o600);
    return path;
  };
  const token = secret("token", "secret-in-a-file");
  const url = secret("url", `${http.url}/hooks/secret-in-a-file\n`);
  configure(folder, [
    `{ name: phone, recipients: [ops], ntfy: { url: "${http.url}/ops", token_file: ${token} } }`,
    `{ name: chat, recipients: [ops], webhook: { preset: slack, url_file: ${url} } }`,
    `{ name: hub, recipients: [ops], webhook: { url: "${http.url}/in", template: "{{ json . }}", headers: { X-Token: secret-in-a-file } } }`,
    `{ name: mail, recipients: [ops], email: { smtp: "smtp://127.0.0.1:${port}", from: picket@example.org, to: [me@example.org], username: bob, password_file: ${token} } }`,
  ]);
  for (const [name, answer] of [
    ["phone", /^ntfy: 200 in/],
    ["chat", /^webhook: 200 in/],
    ["hub", /^webhook: 200 in/],
    ["mail", /^email: 250 in/],
  ] as const) {
    const { stdout, stderr } = await run(folder, "deliver", "test", name);
    expect([name, stdout, stderr]).toEqual([name, expect.stringMatching(answer), ""]);
  }
  const mail = `email: { smtp: "smtp://127.0.0.1:${port}", from: picket@example.org, to: [me@example.org], username: bob, password: x }`;
  using other = new Folder();
  configure(other, [`{ name: locked, recipients: [ops], ${mail} }`]);
  expect(await run(other, "deliver", "test", "locked")).toMatchObject({ code: 3 });
  const printed = await run(folder, "--check", "--print");
  expect([printed.code, printed.stdout]).toEqual([0, expect.stringContaining("[redacted]")]);
  await using daemon = await start(folder);
  append(folder, "ops", ["the build is green"]);
  await until("the event came everywhere", () => {
    const got = http.all.filter(({ text }) => text.includes("the build is green"));
    return got.length === 3 && mails.some((mail) => mail.includes("the build is green"));
  });
  for (const text of [printed.stdout, daemon.log.join("\n")]) expect(text).not.toContain("secret-in-a-file");
  await new Promise<void>((closed) => smtp.close(closed));
});

test("a credential called token is the collector's own, and goes to no other server", async () => {
  using folder = new Folder();
  using http = service(() => Response.json({}));
  folder.write("token", "the-collectors-own");
  configure(folder, [`{ name: phone, recipients: [ops], ntfy: { url: "${http.url}/ops" } }`]);
  const env = { CREDENTIALS_DIRECTORY: folder.path };
  await runRole("collector", ["deliver", "test", "phone", "--config", folder.at("c.yaml")], { env });
  expect(http.all.map(({ headers }) => headers.get("authorization"))).toEqual([null]);
});
