// E-mail, against a real SMTP server (npm's smtp-server) with TLS and AUTH; the mails are read by Python's parser. Debian's postfix and a mail
// program were tried by hand.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type AddressInfo, type Socket, createServer } from "node:net";
import { readFileSync } from "node:fs";
import { SMTPServer, type SMTPServerOptions } from "smtp-server";
import * as v from "valibot";
import { TransportError } from "../../../lib/client.ts";
import { EmailSettings, openEmail } from "../../../lib/collector/deliver/email.ts";
import { Refused, isHeld } from "../../../lib/collector/deliver/message.ts";
import { asBlock } from "../../../lib/frame.ts";
import { derivedId } from "../../../lib/outbox.ts";
import { Folder, certificates, have, until } from "../../kit.ts";
import { FORGED, expectFramed } from "../../forgeries.ts";
import { EVENT, HOSTILE, message } from "./services.ts";

const hasOpenssl = have("openssl", "e-mail over TLS");
const hasPython = have("python3", "mails as a mail program reads them");
const folder = new Folder();
beforeAll(async () => void (hasOpenssl && (await certificates(folder))));
afterAll(() => folder[Symbol.dispose]());

interface Mail {
  raw: Buffer;
  from: string;
  to: string[];
  secure: boolean;
  user: string | undefined;
}

/** An SMTP server that keeps what it took. */
async function smtp(options: SMTPServerOptions = {}) {
  const mails: Mail[] = [];
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ["AUTH", "STARTTLS"],
    onData(stream, session, done) {
      const chunks: Buffer[] = [];
      stream.on("data", (chunk: Buffer) => chunks.push(chunk));
      stream.on("end", () => {
        const { mailFrom, rcptTo } = session.envelope;
        const from = mailFrom === false ? "" : mailFrom.address;
        const to = rcptTo.map(({ address }) => address);
        const user = session.user as string | undefined;
        mails.push({ raw: Buffer.concat(chunks), from, to, secure: session.secure, user });
        done();
      });
    },
    ...options,
  });
  server.on("error", () => {});
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(0, "127.0.0.1", resolve);
  await promise;
  const { port } = server.server.address() as AddressInfo;
  return { port, mails, server, [Symbol.dispose]: () => server.close() };
}

const withTls = (name = "server"): SMTPServerOptions => ({
  disabledCommands: ["AUTH"],
  key: readFileSync(folder.at(`${name}.key`)),
  cert: readFileSync(folder.at(`${name}.pem`)),
});

const base = { from: "picket@example.org", to: ["me@example.org", "bob@example.org"] };
const open = (settings: Record<string, unknown>) => openEmail(v.parse(EmailSettings, { ...base, ...settings }));
const send = (settings: Record<string, unknown>, one = message("x"), signal = new AbortController().signal) =>
  open(settings).send(one, signal);
const failure = (settings: Record<string, unknown>): Promise<Error> =>
  send(settings).then(
    (answer) => new Error(`sent: ${answer}`),
    (error: Error) => error,
  );

const READ = `
import sys, json, email, email.policy
out = []
for raw in json.load(sys.stdin):
    m = email.message_from_bytes(bytes.fromhex(raw), policy=email.policy.default)
    out.append({"headers": [[k, str(v)] for k, v in m.items()], "text": m.get_content(), "type": m.get_content_type(), "charset": m.get_content_charset(), "defects": [str(d) for d in m.defects]})
json.dump(out, sys.stdout)
`;

/** The mails as a mail program reads them. */
async function read(mails: readonly Mail[]) {
  const python = Bun.spawn(["python3", "-c", READ], {
    stdin: Buffer.from(JSON.stringify(mails.map(({ raw }) => raw.toString("hex")))),
    stdout: "pipe",
  });
  const all = JSON.parse(await new Response(python.stdout).text()) as {
    headers: [string, string][];
    text: string;
    type: string;
    charset: string;
    defects: string[];
  }[];
  return all.map(({ headers, ...rest }, n) => {
    const named = Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value]));
    return {
      ...rest,
      text: rest.text.replaceAll("\r\n", "\n"),
      raw: mails[n]!.raw,
      names: headers.map(([name]) => name),
      header: (name: string) => named[name],
    };
  });
}

describe.skipIf(!hasPython)("a mail", () => {
  test("is plain text with a short subject, and says that it is automatic", async () => {
    using server = await smtp();
    const event = {
      ...EVENT,
      id: "e1",
      priority: "urgent",
      payload: "nas: / ist zu 91 % voll – überall 👍🏽\nzweite Zeile",
    };
    expect(await send({ smtp: `smtp://127.0.0.1:${server.port}` }, message("", { id: "e1", events: [event] }))).toBe(
      "250",
    );
    const [mail] = await read(server.mails);
    expect(server.mails[0]).toMatchObject({ from: base.from, to: base.to, secure: false });
    expect(mail).toMatchObject({ type: "text/plain", charset: "utf-8", defects: [] });
    expect(mail!.text).toEndWith(`${asBlock(event)}\n`);
    for (const [name, value] of [
      ["subject", "ops (urgent): nas: / ist zu 91 % voll – überall 👍🏽"],
      ["from", base.from],
      ["to", base.to.join(", ")],
      ["message-id", "<e1@example.org>"],
      ["auto-submitted", "auto-generated"],
      ["importance", "High"],
      ["x-mailer", undefined],
    ] as const)
      expect([name, mail!.header(name)]).toEqual([name, value]);
    expect(new Date(mail!.header("date")!).getTime()).toBeGreaterThan(0);
  });

  test("holds a stranger's text as text: no header, no second part, no long line", async () => {
    using server = await smtp();
    const hostile = [
      ...FORGED,
      "hello\r\nBcc: evil@example.org\r\n\r\n.\r\nQUIT\r\n",
      "\nSubject: forged",
      "Content-Type: text/html\n\n<script>",
      "=?utf-8?B?Zm9yZ2Vk?=",
      ".\n..\nFrom here",
      "x".repeat(100_000),
      "é".repeat(300_000),
    ];
    const to = { smtp: `smtp://127.0.0.1:${server.port}` };
    const ids = hostile.map((_, n) => `m\r\nBcc: evil@example.org ${n}`);
    const messages = hostile.map((payload, n) => message(payload, { id: ids[n]! }));
    await Promise.all(messages.map((one) => send(to, one)));
    const mails = await read(server.mails);
    expect(mails.length).toBe(hostile.length);
    for (const n of hostile.keys()) {
      const mail = mails.find(({ header }) => header("message-id") === `<${derivedId(ids[n]!)}@example.org>`)!;
      const { names, text, type, header, defects, raw } = mail;
      expect([type, defects]).toEqual(["text/plain", []]);
      expect(names.toSorted()).toEqual(mails[0]!.names.toSorted());
      expect(header("subject")).not.toMatch(/[\r\n]/);
      const lines = raw.toString().split("\r\n");
      expect(Math.max(...lines.map((line) => Buffer.byteLength(line)))).toBeLessThanOrEqual(998);
      const isLast = n === hostile.length - 1;
      if (isLast) expect(text).toEndWith("Too long for this message: picket-collector read ops\n");
      else expect(text).toEndWith(`${asBlock(messages[n]!.events[0]!)}\n`);
    }
    expect(mails.find(({ text }) => text.includes("Zm9yZ2Vk"))!.header("subject")).toBe(
      "ops: =\u200b?utf-8?B?Zm9yZ2Vk?=",
    );
    expect(server.mails.every(({ to: all }) => all.length === 2)).toBeTrue();
  });

  test("holds an event whose every field a stranger wrote", async () => {
    using server = await smtp();
    const events = HOSTILE.flatMap((one) => one.events);
    await send({ smtp: `smtp://127.0.0.1:${server.port}` }, message("", { events }));
    const [mail] = await read(server.mails);
    expect(mail!.text).toBe(`${events.map(asBlock).join("\n\n")}\n`);
    expectFramed(mail!.text);
    expect(mail!.defects).toEqual([]);
  });

  test("is in one thread with what tells of the same thing", async () => {
    using server = await smtp();
    const threads = [
      [
        ["receiver:host.offline", "nas is offline (no report for 4m 02s)"],
        ["receiver:host.offline", "still, for 1d 00h: nas is offline (no report for 1d 00h)"],
        ["receiver:host.recovered", "nas is back after 2d 03h"],
      ],
      [["receiver:host.offline", "web-1 is offline (no report for 4m 02s)"]],
      [
        ["receiver:unit.failed", "nas: unit caddy failed (exit 1) 2 min ago; systemctl status caddy"],
        ["receiver:unit.recovered", "nas: unit caddy is active"],
      ],
      [
        ["receiver:disk.high", "nas: /backup is 91 % full; du -xh /backup | sort -h | tail"],
        ["receiver:disk.recovered", "nas: /backup has room again: it is 70 % full"],
      ],
      [["receiver:disk.high", "nas: / is 91 % full; du -xh / | sort -h | tail"]],
      [
        ["observer:f1", "review keeps failing: 5 failures"],
        ["observer:f1", "review keeps failing: 20 failures"],
      ],
    ] as const;
    const alone = [
      ["receiver:host.offline", "5 hosts are offline: nas, pi, web-1, web-2, db (no report for 4m 00s)"],
      ["webhook:/note", "nas is offline"],
      ["", "nas is offline"],
    ] as const;
    const to = { smtp: `smtp://127.0.0.1:${server.port}` };
    const all = [...threads.flat(), ...alone];
    await Promise.all(
      all.map(([source, payload], n) =>
        send(to, message("", { id: `${n}`.padStart(3, "0"), events: [{ ...EVENT, source, payload }] })),
      ),
    );
    const mails = (await read(server.mails)).toSorted((a, b) =>
      a.header("message-id")!.localeCompare(b.header("message-id")!),
    );
    const roots = mails.map(({ header }) => {
      expect(header("in-reply-to")).toBe(header("references"));
      return header("references");
    });
    let at = 0;
    for (const thread of threads) {
      const own = new Set(roots.slice(at, (at += thread.length)));
      expect([thread[0][1], own.size]).toEqual([thread[0][1], 1]);
    }
    expect(new Set(roots.slice(0, at)).size).toBe(threads.length);
    expect(roots.slice(at)).toEqual(alone.map(() => undefined));
    // A reminder refers to the first message.
    await send(to, message("are you there?", { id: "again1", reminder: true }));
    const [reminder] = await read(server.mails.slice(-1));
    expect(reminder!.header("references")).toBe("<e1@example.org>");
    expect(reminder!.header("message-id")).toBe("<again1@example.org>");
  });
});

describe.skipIf(!hasOpenssl)("TLS and credentials", () => {
  test("STARTTLS is required unless the server is on loopback, and certificates are checked", async () => {
    const ca_file = folder.at("ca.pem");
    using plain = await smtp();
    using upgrading = await smtp(withTls());
    using implicit = await smtp({ ...withTls(), secure: true });
    using foreign = await smtp(withTls("foreign"));
    using expired = await smtp({ ...withTls("expired"), secure: true });
    const LACKS = { starttls: true };
    for (const [server, settings, outcome] of [
      [plain, {}, "250"],
      [plain, LACKS, /STARTTLS/],
      [upgrading, {}, "250"],
      [upgrading, { starttls: true, ca_file }, "250"],
      [upgrading, { starttls: true }, /certificate.*: set "ca_file"/],
      [implicit, { ca_file, secure: true }, "250"],
      [implicit, { secure: true }, /certificate.*: set "ca_file"/],
      [foreign, { starttls: true, ca_file }, /certificate/],
      [expired, { ca_file, secure: true }, /expired/],
      [plain, { ca_file, secure: true }, /no answer from/],
    ] as const) {
      const { secure = false, ...more } = settings as { secure?: boolean };
      const given = { smtp: `${secure ? "smtps" : "smtp"}://127.0.0.1:${server.port}`, ...more };
      const before = server.mails.length;
      if (typeof outcome === "string") {
        expect([given, await send(given)]).toEqual([given, outcome]);
        expect(server.mails.at(-1)!.secure).toBe("ca_file" in settings);
      } else {
        const error = await failure(given);
        expect([given, error.message]).toEqual([given, expect.stringMatching(outcome)]);
        expect(isHeld(error)).toBe(settings === LACKS);
        expect(server.mails.length).toBe(before);
      }
    }
  });

  test("credentials are sent over TLS; wrong ones hold the delivery, and are in no error", async () => {
    using server = await smtp({
      ...withTls(),
      disabledCommands: [],
      authOptional: false,
      onAuth: ({ username, password }, _session, done) =>
        username === "bob" && password === "secret-password"
          ? done(null, { user: username })
          : done(new Error(`Invalid login ${username} ${password}`)),
    });
    const given = {
      smtp: `smtp://127.0.0.1:${server.port}`,
      starttls: true,
      ca_file: folder.at("ca.pem"),
      username: "bob",
    };
    expect(await send({ ...given, password: "secret-password" })).toBe("250");
    expect(server.mails[0]).toMatchObject({ user: "bob", secure: true });
    const error = await failure({ ...given, password: "wrong-password" });
    expect(error).toMatchObject({ name: "Refused", status: 535 });
    expect(isHeld(error)).toBeTrue();
    expect(error.message).toStartWith("email: answered 535");
    expect(error.message).not.toContain("wrong-password");
  });
});

const coded = (responseCode: number, text: string) => Object.assign(new Error(text), { responseCode });

test("4yz is tried again, 5yz holds the delivery, and nothing is half sent", async () => {
  for (const [options, status, held] of [
    [{ onConnect: (_s: unknown, done: (e: Error) => void) => done(coded(421, "too busy")) }, 421, false],
    [{ onMailFrom: (_a: unknown, _s: unknown, done: (e: Error) => void) => done(coded(451, "grey")) }, 451, false],
    [{ onRcptTo: (_a: unknown, _s: unknown, done: (e: Error) => void) => done(coded(450, "later")) }, 450, false],
    [{ onRcptTo: (_a: unknown, _s: unknown, done: (e: Error) => void) => done(coded(550, "no such user")) }, 550, true],
    [{ onMailFrom: (_a: unknown, _s: unknown, done: (e: Error) => void) => done(coded(553, "not yours")) }, 553, true],
  ] as const) {
    using server = await smtp(options);
    const error = await failure({ smtp: `smtp://127.0.0.1:${server.port}` });
    expect(error).toBeInstanceOf(Refused);
    expect(error).toMatchObject({ status });
    expect([status, isHeld(error)]).toEqual([status, held]);
    expect(server.mails).toEqual([]);
  }
});

test("addresses that took it don't get it again while the others are tried", async () => {
  const codes: Record<string, number> = { "me@example.org": 250, "bob@example.org": 450, "old@example.org": 550 };
  using server = await smtp({
    onRcptTo: ({ address }, _session, done) => done(codes[address] === 250 ? null : coded(codes[address]!, "no")),
  });
  const channel = open({
    smtp: `smtp://127.0.0.1:${server.port}`,
    to: ["me@Example.ORG", "bob@example.org", "old@example.org"],
  });
  const { signal } = new AbortController();
  const error = await channel.send(message("x"), signal).catch((e: unknown) => e);
  expect(String(error)).toBe("Refused: email: answered 250, but 450 for bob@example.org, but 550 for old@example.org");
  expect(isHeld(error)).toBeFalse();
  codes["bob@example.org"] = 250;
  expect(await channel.send(message("x"), signal)).toBe("250");
  // Another message with an id that was there.
  expect(await channel.send(message("x"), signal)).toBe("250, but 550 for old@example.org");
  codes["bob@example.org"] = 450;
  expect(isHeld(await channel.send(message("y", { id: "m2" }), signal).catch((e: unknown) => e))).toBeFalse();
  codes["bob@example.org"] = 550;
  expect(await channel.send(message("y", { id: "m2" }), signal)).toBe("email: answered 550 no");
  const me = "me@example.org";
  expect(server.mails.map(({ to }) => to)).toEqual([[me], ["bob@example.org"], [me, "bob@example.org"], [me]]);
});

test("a server that hangs, resets or is gone is tried again; a stop ends at once, and no connection stays", async () => {
  const sockets = new Set<Socket>();
  const raw = createServer((socket) => {
    sockets.add(socket.on("close", () => sockets.delete(socket)).on("error", () => {}));
  }).listen(0, "127.0.0.1");
  const { port } = raw.address() as AddressInfo;
  const stop = new AbortController();
  const sending = send({ smtp: `smtp://127.0.0.1:${port}` }, message("x"), stop.signal).catch(
    (error: unknown) => error,
  );
  await until("it is connected", () => sockets.size === 1);
  stop.abort(new Error("stopped"));
  expect(await sending).toEqual(new Error("stopped"));
  await until("the connection is closed", () => sockets.size === 0);
  raw.on("connection", (socket: Socket) => socket.resetAndDestroy());
  expect(await failure({ smtp: `smtp://127.0.0.1:${port}` })).toBeInstanceOf(TransportError);
  raw.close();
  const gone = await failure({ smtp: `smtp://127.0.0.1:${port}` });
  expect(gone).toBeInstanceOf(TransportError);
  expect(gone.message).toStartWith(`email: no answer from 127.0.0.1:${port}: `);
  using server = await smtp();
  await send({ smtp: `smtp://127.0.0.1:${server.port}` });
  await until("the connection is closed", () => server.server.connections.size === 0);
});

test("settings that don't fit are told, without a password", () => {
  const smtps = "smtps://mail.example";
  for (const [given, at, text] of [
    [{}, "smtp", "Invalid key"],
    [{ smtp: "mail.example:25" }, "smtp", "smtps://HOST"],
    [{ smtp: "smtps://bob:secret@mail.example" }, "smtp", "password_file"],
    [{ smtp: smtps, from: "Bob <bob@example.org>" }, "from", "an address"],
    [{ smtp: smtps, to: ["a@b\r\nBcc: c@d"] }, "to.0", "an address"],
    [{ smtp: smtps, to: ["a@b%c"] }, "to.0", "an address"],
    [{ smtp: smtps, to: [] }, "to", "at least one"],
    [{ smtp: smtps, username: "bob" }, "", "go together"],
    [{ smtp: smtps, starttls: true }, "starttls", "from the first byte"],
    [{ smtp: "smtp://mail.example", starttls: false, username: "bob", password: "secret" }, "starttls", "in the clear"],
  ] as const) {
    const [issue] = v.safeParse(EmailSettings, { ...base, ...given }).issues ?? [];
    const path = issue?.path?.map(({ key }) => key).join(".") ?? "";
    expect([given, path, issue?.message]).toEqual([given, at, expect.stringContaining(text)]);
    expect(issue?.message).not.toContain("secret");
  }
  expect(v.parse(EmailSettings, { ...base, smtp: "smtp://[::1]" }).smtp).toMatchObject({ host: "::1", port: 587 });
  expect(v.parse(EmailSettings, { ...base, smtp: smtps }).smtp).toMatchObject({ port: 465, secure: true });
});
