// A delivery as an HTTP request: to a service (presets.ts), or to a program of your own, which gets the message as JSON or in the form of a template.
//
// With `secret` it is signed by Standard Webhooks (github.com/standard-webhooks/standard-webhooks, spec): webhook-id is the message's,
// webhook-timestamp that of this try, webhook-signature has one signature for each secret.

import { createHmac } from "node:crypto";
import * as v from "valibot";
import { type Problem, Secret, parsed, rule, secret } from "../../config.ts";
import { standardKey } from "../signature.ts";
import { cut, printable } from "../../text.ts";
import { MAX_OUTPUT_BYTES, compileTemplate } from "../template.ts";
import { type Channel, type Message, Refused } from "./message.ts";
import { type Account, PRESET_NAMES, type Preset, presetOf } from "./presets.ts";
import { type Answer, openService, reasonOf, serviceEntries, urlProblems } from "./service.ts";
import { fitted, headOf, isUrgent, plainId, textOf, titleOf } from "./text.ts";

// These messages don't begin with "expected": the value, which may be a secret, would be added to them.
const HeaderName = v.pipe(v.string(), v.regex(/^[\w!#$%&'*+.^`|~-]+$/, "not the name of a header"));
const HeaderValue = v.pipe(
  v.string("a header's value is text: put it in quotes"),
  v.regex(/^[\t\x20-\x7e]*$/, "a header's value is one line of ASCII characters"),
  v.transform((value) => new Secret(value)),
);

const Settings = v.strictObject({
  ...serviceEntries,
  /** A service whose form it takes; without it the message itself is sent. */
  preset: v.optional(v.picklist(PRESET_NAMES)),
  ...secret("token"),
  ...secret("user_key"),
  chat_id: v.optional(v.union([v.string(), v.number()])),
  room_id: v.optional(v.pipe(v.string(), v.startsWith("!", 'expected the id of a room, such as "!abc:example.org"'))),
  /** Go's text/template: the body. */
  template: v.optional(parsed("expected a template (text)", compileTemplate)),
  headers: v.optional(v.record(HeaderName, HeaderValue), {}),
  /** Signs each request; several during a rotation. */
  ...secret("secret"),
});
type WebhookSettings = v.InferOutput<typeof Settings>;
export const WebhookSettings = v.pipe(Settings, rule(webhookProblems));

const ACCOUNT = ["token", "user_key", "chat_id", "room_id"] as const;
const isSet = (value: unknown): boolean => value !== undefined && !(Array.isArray(value) && value.length === 0);

function* webhookProblems(settings: WebhookSettings): Generator<Problem> {
  yield* urlProblems(settings);
  const { preset: name, template, secret: secrets } = settings;
  const preset = name && presetOf(name);
  const needs = preset?.needs ?? ["url"];
  for (const key of needs.filter((one) => !isSet(settings[one])))
    yield { path: [], text: `${name ?? "a webhook"} needs "${key}"` };
  for (const key of ACCOUNT.filter((one) => isSet(settings[one]) && !needs.includes(one)))
    yield {
      path: [key],
      text: name ? `${name} has no "${key}"` : `"${key}" is a setting of some presets: set "preset"`,
    };
  if (preset && template)
    yield { path: ["template"], text: `${name} has its own form: set "preset" or "template", not both` };
  if (preset && secrets.length > 0) yield { path: ["secret"], text: `${name} checks no signature` };
  for (const one of secrets) {
    try {
      standardKey(one);
    } catch (error) {
      yield { path: ["secret"], text: (error as Error).message };
    }
  }
  if (template) yield* templateProblems(template);
}

type Template = NonNullable<WebhookSettings["template"]>;

/** Text from outside must not be able to break JSON that a template writes. */
function* templateProblems(template: Template): Generator<Problem> {
  const event = { ts: "", id: "", from: "", to: "", type: "INFO", priority: "normal", payload: 'a "quoted" text' };
  try {
    const body = render(template, { id: "", recipient: "ops", events: [event], omitted: 0, reminder: false });
    if (/^\s*\{.*\}\s*$/s.test(body) && !isJson(body))
      yield {
        path: ["template"],
        text: "this is no JSON once a text has quotes or line breaks: write {{ json .text }}, without quotes around it",
      };
  } catch (error) {
    yield { path: ["template"], text: (error as Error).message };
  }
}

/** Opens it. @throws Error when the certificates can't be read. */
export function openWebhook(settings: WebhookSettings): Channel {
  const { preset: name, url, token, user_key, secret: secrets, headers: given, ca_file } = settings;
  const preset = name && presetOf(name);
  const own = Object.entries(given).map(([key, value]): [string, string] => [key.toLowerCase(), value.reveal()]);
  const service = openService({
    name: name ?? "webhook",
    url: url[0] ?? new Secret(preset?.url ?? ""),
    secrets: [...token, ...user_key, ...Object.values(given)],
    ca_file,
  });
  return {
    async send(message, signal) {
      const id = plainId(message);
      const { type, body } = preset
        ? { type: JSON_TYPE, body: bodyFor(preset, settings, message) }
        : bodyOf(settings, message);
      const answer = await service.tell({
        method: preset?.method ?? "POST",
        path: preset?.path?.(settings, id),
        query: preset?.query,
        headers: {
          "content-type": type,
          "idempotency-key": id,
          ...(secrets.length > 0 ? signature(secrets, { id, body, at: Date.now() }) : {}),
          ...preset?.headers?.(settings),
          ...Object.fromEntries(own),
        },
        body,
        signal,
      });
      if (preset?.took(answer) === false) throw notTaken(name!, answer);
      return String(answer.status);
    },
  };
}

const JSON_TYPE = "application/json";

/** A message in the form of a service, as much of it as that takes. */
function bodyFor(preset: Preset, account: Account, message: Message): string {
  const { form = (text: string) => text, most } = preset;
  const told = { title: titleOf(message), urgent: isUrgent(message) };
  const bodyWith = (text: string): string => JSON.stringify(preset.body({ ...told, text: form(text) }, account));
  const fits = (text: string): boolean =>
    "bytes" in most ? Buffer.byteLength(bodyWith(text)) <= most.bytes : form(text).length <= most.characters;
  const { recipient } = message;
  const text = `${headOf(message)}\n\n${textOf(message)}`;
  return bodyWith(fitted(text, { recipient, most: "bytes" in most ? most.bytes : most.characters, fits }));
}

/** A message for a program of your own. */
function bodyOf({ template }: WebhookSettings, message: Message): { type: string; body: string } {
  if (!template) return { type: JSON_TYPE, body: JSON.stringify(plain(message)) };
  try {
    const body = render(template, message);
    return { type: isJson(body) ? JSON_TYPE : "text/plain; charset=utf-8", body };
  } catch (error) {
    throw new Refused(`webhook: the template fails: ${(error as Error).message}`, {
      status: 0,
      later: false,
      retryAfter: null,
    });
  }
}

/** What a template's data is, and the body without one. */
function plain(message: Message) {
  const { id, recipient, events, omitted, reminder } = message;
  return { id, recipient, title: titleOf(message), text: textOf(message), events, omitted, reminder };
}

/** Renders as much of the message as a template's output can hold. */
function render(template: Template, message: Message): string {
  const nothing = (): null => null;
  const out = template.render(plain(message), { missing: "zero", header: nothing, query: nothing, body: () => "" });
  const { events, omitted } = message;
  const [first] = events;
  if (Buffer.byteLength(out) < MAX_OUTPUT_BYTES - 16 || !first?.payload) return out;
  const half = Math.ceil(events.length / 2);
  const shown =
    events.length > 1 ? events.slice(0, half) : [{ ...first, payload: cut(first.payload, first.payload.length >> 1) }];
  return render(template, { ...message, events: shown, omitted: omitted + events.length - shown.length });
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

interface Signed {
  id: string;
  body: string;
  /** Milliseconds since 1970. */
  at: number;
}

function signature(secrets: readonly Secret[], { id, body, at }: Signed): Record<string, string> {
  const timestamp = String(Math.floor(at / 1000));
  const digests = secrets.map((one) =>
    createHmac("sha256", standardKey(one)).update(`${id}.${timestamp}.${body}`).digest("base64"),
  );
  return {
    "webhook-id": id,
    "webhook-timestamp": timestamp,
    "webhook-signature": digests.map((digest) => `v1,${digest}`).join(" "),
  };
}

/** A 2xx that doesn't say that the message was taken: the service's own refusal, or another program's page. */
function notTaken(name: string, { status, text, json, body }: Answer): Refused {
  const code = typeof body["error_code"] === "number" ? body["error_code"] : 500;
  const reason = reasonOf(json ?? text) || cut(printable(text), 100) || "nothing";
  const later = code === 429 || code >= 500;
  return new Refused(`${name}: answered ${status}, but did not take the message: ${reason}`, {
    status,
    later,
    retryAfter: null,
  });
}
