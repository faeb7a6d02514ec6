// A delivery as an e-mail: plain text, from a mailbox of yours to others.
//
//   once        Message-ID is made of the message's id: many mail programs and servers show a repeat once
//   threads     what tells of one thing refers to an id that is made of that thing's name (RFC 5322, section 3.6.4): the beginning of
//               an alert and its end, a reminder, each report of one failure
//   automatic   Auto-Submitted: auto-generated (RFC 3834), so that nothing answers: neither vacation notes nor mailing lists
//   TLS         from the first byte (smtps), or by STARTTLS, without which nothing is sent; on loopback it isn't needed
//
// Each message has a connection of its own. nodemailer, which does the SMTP and MIME, is loaded with the first message.

import * as v from "valibot";
import { TransportError, deadline } from "../../client.ts";
import { type Problem, isLoopback, parsed, readableFile, rule, secret } from "../../config.ts";
import { errorChain } from "../../log.ts";
import { derivedId } from "../../outbox.ts";
import { readPem } from "../../pem.ts";
import type { ReadEvent } from "../../reader.ts";
import { without } from "../../secret.ts";
import { cut, printable } from "../../text.ts";
import { type Channel, type Message, Refused, isHeld } from "./message.ts";
import { fitted, isUrgent, plainId, textOf, titleOf } from "./text.ts";

/** For a connection, for the greeting, and while nothing comes. */
const TIMEOUT_MS = 30_000;
const LONGEST_SEND_MS = 120_000;
const MOST_CHARACTERS = 200_000;
const LONGEST_REASON = 300;

const SMTP = 'expected "smtps://HOST" (TLS from the first byte, port 465) or "smtp://HOST" (STARTTLS, port 587)';

function smtpServer(text: string) {
  const url = /^smtps?:\/\/[^/?#]+\/?$/.test(text) ? URL.parse(text) : null;
  if (!url?.hostname) throw new Error(SMTP);
  if (url.username !== "" || url.password !== "")
    throw new Error('a URL with a user name or password in it: set "username" and "password_file"');
  const secure = url.protocol === "smtps:";
  const host = url.hostname.replace(/^\[|\]$/g, "");
  return { host, port: Number(url.port || (secure ? 465 : 587)), secure, toJSON: () => text };
}

const ADDRESS = 'expected an address, such as "ops@example.org"';

/** Its domain in small letters of ASCII, as nodemailer has it in its answers. */
function mailAddress(text: string): string {
  const [, local, domain] = /^([^\s@<>()[\],:;\\"]+)@([^\s@<>()[\],:;\\"/?#]+)$/.exec(text) ?? [];
  const host = domain === undefined ? null : URL.parse(`http://${domain}`);
  if (!host) throw new Error(ADDRESS);
  return `${local}@${host.hostname}`;
}

const address = () => parsed(ADDRESS, mailAddress);

const Settings = v.strictObject({
  smtp: parsed(SMTP, smtpServer),
  from: address(),
  to: v.pipe(v.array(address()), v.minLength(1, "expected at least one address")),
  username: v.optional(v.string()),
  ...secret("password"),
  /** Certificates to trust, instead of the system's authorities. */
  ca_file: v.optional(readableFile()),
  /** For `smtp:`. False sends in the clear. */
  starttls: v.optional(v.boolean()),
});
type EmailSettings = v.InferOutput<typeof Settings>;
export const EmailSettings = v.pipe(Settings, rule(emailProblems));

function* emailProblems({ smtp, username, password, starttls }: EmailSettings): Generator<Problem> {
  if ((username === undefined) !== (password.length === 0))
    yield { path: [], text: "username and password go together" };
  if (smtp.secure && starttls !== undefined)
    yield { path: ["starttls"], text: "smtps:// has TLS from the first byte: remove it, or set smtp://" };
  if (starttls === false && username !== undefined && !isLoopback(smtp.host))
    yield { path: ["starttls"], text: "the password would be sent in the clear" };
}

/** Opens it. @throws Error when the certificates can't be read. */
export function openEmail(settings: EmailSettings): Channel {
  const { from, to } = settings;
  const server = serverOf(settings);
  /** The message in hand, and the addresses that are done with it: a retry for the others doubles nothing for them. */
  let hand = { id: "", done: new Set<string>() };
  /** What became of the message; throws unless all addresses are done with it. */
  async function sendTo(message: Message, rest: readonly string[], signal: AbortSignal): Promise<string> {
    const { createTransport } = await import("nodemailer");
    const mail = { ...mailOf(message, { from, to }), envelope: { from, to: [...rest] }, signal };
    const { response, accepted, rejectedErrors = [] } = await createTransport(server).sendMail(mail);
    const refused = rejectedErrors.map((error) => ({ to: String(error.recipient), code: error.responseCode ?? 0 }));
    const gone = refused.filter(({ code }) => code >= 500).map((one) => one.to);
    for (const one of [...accepted.map(String), ...gone]) hand.done.add(one);
    const status = Number(response.slice(0, 3));
    const text = `${status}${refused.map((one) => `, but ${one.code} for ${one.to}`).join("")}`;
    if (refused.length === gone.length) return text;
    throw new Refused(`email: answered ${text}`, { status, later: true, retryAfter: null });
  }
  return {
    async send(message, signal) {
      using late = deadline(LONGEST_SEND_MS);
      if (hand.id !== message.id) hand = { id: message.id, done: new Set() };
      const rest = to.filter((one) => !hand.done.has(one));
      let answer: string;
      try {
        answer = await sendTo(message, rest, AbortSignal.any([signal, late.signal]));
      } catch (error) {
        signal.throwIfAborted();
        const failure = late.signal.aborted ? late.signal.reason : error;
        const refusal = failure instanceof Refused ? failure : failureOf(failure, settings);
        // An address that is refused for good holds up no other: those took it at a former try.
        const isLeft = hand.done.size > 0 && isHeld(refusal) && (error as Partial<SMTPError>).command === "RCPT TO";
        if (!isLeft) throw refusal;
        answer = refusal.message;
      }
      hand = { id: "", done: new Set() };
      return answer;
    },
  };
}

function serverOf({ smtp: { host, port, secure }, username, password, ca_file, starttls }: EmailSettings) {
  const upgrades = !secure && (starttls ?? !isLoopback(host));
  const { ca } = ca_file === undefined ? {} : readPem({ ca: ca_file });
  return {
    host,
    port,
    secure,
    requireTLS: upgrades,
    ignoreTLS: !upgrades,
    ...(username === undefined ? {} : { auth: { user: username, pass: password[0]!.reveal() } }),
    tls: ca === undefined ? {} : { ca },
    connectionTimeout: TIMEOUT_MS,
    greetingTimeout: TIMEOUT_MS,
    socketTimeout: TIMEOUT_MS,
    dnsTimeout: TIMEOUT_MS,
  };
}

/** The message as nodemailer takes it. */
function mailOf(message: Message, { from, to }: Pick<EmailSettings, "from" | "to">) {
  const { recipient } = message;
  const domain = from.slice(from.indexOf("@") + 1);
  const thread = threadOf(message);
  const references = thread === null ? {} : { inReplyTo: `<${thread}@${domain}>`, references: `<${thread}@${domain}>` };
  const most = MOST_CHARACTERS;
  return {
    from,
    to,
    // A mail program would decode a stranger's "=?utf-8?…?=".
    subject: titleOf(message).replaceAll("=?", "=\u200b?"),
    text: `${fitted(textOf(message), { recipient, most, fits: ({ length }) => length <= most })}\n`,
    messageId: `<${plainId(message)}@${domain}>`,
    ...references,
    ...(isUrgent(message) ? { priority: "high" as const } : {}),
    headers: { "Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All" },
    xMailer: false as const,
  };
}

/** The id of a thread: what the message is about; null where its events are about several things, or it can't be told. */
export function threadOf({ recipient, events, omitted, reminder }: Message): string | null {
  const keys = new Set(events.map(aboutOf));
  const [key] = keys;
  if (keys.size !== 1 || omitted > 0) return null;
  if (key) return `thread.${derivedId(`${recipient} ${key}`)}`;
  // The first message had the event's id.
  return reminder && events.length === 1 ? plainId(events[0]!) : null;
}

/**
 * What an event is about. The receiver's texts name it first (`nas is offline`, `nas: unit caddy failed`), in the beginning of an alert, its end
 * (`host.offline`, `host.recovered`) and its reminders; a text that begins with a number is about many. The observer's source
 * names the failure.
 */
function aboutOf({ source = "", payload }: ReadEvent): string | null {
  if (source.startsWith("observer:")) return source;
  const [, kind] = /^receiver:(\w+)\./.exec(source) ?? [];
  const [, name, subject = ""] =
    /^(?:still, for [^:]+: )?([^\s:]+)(?:: (?:unit |pool |disk |container )?(\S+))?/.exec(payload) ?? [];
  return kind === undefined || name === undefined || /^\d+ /.test(payload) ? null : `${kind} ${name} ${subject}`;
}

interface SMTPError extends Error {
  responseCode: number;
  response: string;
  code: string;
  command: string;
}

/** An error of nodemailer, by the server's code where there is one (RFC 5321, section 4.2.1): 4yz is for now, 5yz for good. */
function failureOf(error: unknown, { smtp: { host, port }, password }: EmailSettings): Error {
  const { responseCode: status, response, code, command } = error as Partial<SMTPError>;
  const words = (text: string): string => cut(printable(without(password, text)), LONGEST_REASON);
  if (status !== undefined) {
    const hint =
      command === "STARTTLS" ? ': it has no STARTTLS: set smtps://, or "starttls: false" in a network of your own' : "";
    const text = `email: answered ${words(response ?? String(status))}${hint}`;
    return new Refused(text, { status, later: status < 500 || status === 503, retryAfter: null });
  }
  const text = words(errorChain(error));
  const hint = /certificate|altname/i.test(text) ? ': set "ca_file" to the certificate of its authority' : "";
  const message = `email: no answer from ${host}:${port}: ${text}${hint}`;
  if (code === "EAUTH" || code === "ENOAUTH")
    return new Refused(message, { status: 0, later: false, retryAfter: null });
  return new TransportError(message);
}
