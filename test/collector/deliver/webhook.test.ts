// Webhooks of deliveries, against servers that record what arrives and judge it as each service documents (lib/collector/deliver/presets.ts
// has the pages). The services themselves are not asked.

import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { Webhook } from "standardwebhooks";
import { TransportError } from "../../../lib/client.ts";
import { Refused, isHeld } from "../../../lib/collector/deliver/message.ts";
import { PRESET_NAMES, type PresetName } from "../../../lib/collector/deliver/presets.ts";
import { WebhookSettings, openWebhook } from "../../../lib/collector/deliver/webhook.ts";
import { compileVerifier } from "../../../lib/collector/signature.ts";
import { Secret } from "../../../lib/secret.ts";
import type { Message } from "../../../lib/collector/deliver/message.ts";
import { EVENT, HOSTILE, expectShown, message, service } from "./services.ts";

const open = (settings: Record<string, unknown>) => openWebhook(v.parse(WebhookSettings, settings));
const send = (settings: Record<string, unknown>, one: Message) =>
  open(settings).send(one, new AbortController().signal);

interface Body {
  text: string;
  content: string;
  message: string;
  title: string;
  body: string;
  formatted_body: string;
  entities: unknown;
  parseUrls: boolean;
  type: string;
  blocks: { text: { text: string } }[];
  attachments: {
    contentType: string;
    content: { type: string; body: { type: string; inlines: { text: string }[] }[] };
  }[];
}

/** What a service shows of a body, by its documentation; a problem where something in it isn't text. */
interface Service {
  settings: Record<string, unknown>;
  path: string;
  /** The text that a reader sees, and what is limited. */
  shown: (body: Body) => string;
  most: (body: Body) => boolean;
  yes: () => Response;
  no: Response;
}

const bytes = (body: unknown): number => Buffer.byteLength(JSON.stringify(body));
const plain = (text: string): string => text.replaceAll("\u200b", "");

/** A block of code is literal up to the next fence, and nothing in it may be sought as a mention. */
function code(text: string): string {
  const [, inner] = /^```\n([^]*)\n```$/.exec(text) ?? [];
  expect(inner).toBeString();
  expect(inner).not.toContain("```");
  expect(inner).not.toMatch(/[@#](all|here|channel|everyone|bob|\d)|<[!@#:a]/);
  return plain(inner!);
}

function entities(text: string): string {
  expect(text).not.toMatch(/[<>]|&(?!(amp|lt|gt);)/);
  return text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
}

const SERVICES: Record<PresetName, Service> = {
  slack: {
    settings: {},
    path: "/in",
    shown(body) {
      expect(body).toMatchObject({ unfurl_links: false, unfurl_media: false, mrkdwn: false });
      entities(body.text);
      const [section] = body.blocks;
      expect(section!.text).toMatchObject({ type: "plain_text", emoji: false });
      return entities(section!.text.text);
    },
    most: (body) => body.blocks[0]!.text.text.length <= 3000,
    yes: () => new Response("ok"),
    no: new Response("channel_is_archived", { status: 410 }),
  },
  discord: {
    settings: {},
    path: "/in?wait=true",
    shown(body) {
      expect(body).toMatchObject({ allowed_mentions: { parse: [] }, flags: 4 });
      return code(body.content);
    },
    most: (body) => body.content.length <= 2000,
    yes: () => Response.json({ id: "1", content: "" }),
    no: Response.json({ message: "Unknown Webhook", code: 10015 }, { status: 404 }),
  },
  telegram: {
    settings: { token: "123:secret-token", chat_id: -100 },
    path: "/in/bot123:secret-token/sendMessage",
    shown(body) {
      expect(body).toMatchObject({ chat_id: -100, link_preview_options: { is_disabled: true } });
      expect(body.entities).toEqual([{ type: "pre", offset: 0, length: body.text.length }]);
      expect(body).not.toHaveProperty("parse_mode");
      return body.text;
    },
    most: (body) => body.text.length <= 4096,
    yes: () => Response.json({ ok: true, result: {} }),
    no: Response.json({ ok: false, error_code: 400, description: "Bad Request: chat not found" }),
  },
  gotify: {
    settings: { token: "secret-token" },
    path: "/in/message",
    shown(body) {
      expect(body).toMatchObject({ priority: 5, extras: { "client::display": { contentType: "text/plain" } } });
      return body.message;
    },
    most: (body) => bytes(body) < 64_000,
    yes: () => Response.json({ id: 25, appid: 5 }),
    no: Response.json({ error: "Unauthorized", errorCode: 401, errorDescription: "you need a token" }, { status: 401 }),
  },
  pushover: {
    settings: { token: "secret-token", user_key: "secret-user" },
    path: "/in/1/messages.json",
    shown(body) {
      expect(body).toMatchObject({ token: "secret-token", user: "secret-user", priority: 0 });
      expect(body).not.toHaveProperty("html");
      expect(body.title.length).toBeLessThanOrEqual(250);
      return body.message;
    },
    most: (body) => body.message.length <= 1024,
    yes: () => Response.json({ status: 1, request: "r" }),
    no: Response.json({ status: 0, errors: ["user key is invalid"], request: "r" }, { status: 400 }),
  },
  teams: {
    settings: {},
    path: "/in?sig=a%2Fb~c",
    shown(body) {
      const { contentType, content } = body.attachments[0]!;
      expect([body.type, contentType, content.type]).toEqual([
        "message",
        "application/vnd.microsoft.card.adaptive",
        "AdaptiveCard",
      ]);
      expect(content.body.every((one) => one.type === "RichTextBlock" && one.inlines.length === 1)).toBeTrue();
      expect(content).not.toHaveProperty("msteams");
      return content.body.map((one) => one.inlines[0]!.text.replace(/^ $/, "")).join("\n");
    },
    most: (body) => bytes(body) <= 28 * 1024,
    yes: () => new Response(null, { status: 202 }),
    no: new Response("Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 413"),
  },
  mattermost: {
    settings: {},
    path: "/in",
    shown: (body) => code(body.text),
    most: (body) => body.text.length <= 16_383,
    yes: () => new Response("ok"),
    no: Response.json({ id: "web.incoming_webhook.invalid.app_error", message: "Invalid webhook" }, { status: 400 }),
  },
  matrix: {
    settings: { token: "secret-token", room_id: "!abc:example.org" },
    path: "/in/_matrix/client/v3/rooms/!abc%3Aexample.org/send/m.room.message/m1",
    shown(body) {
      expect(body).toMatchObject({ msgtype: "m.text", format: "org.matrix.custom.html", "m.mentions": {} });
      const [, inner] = /^<pre><code>([^]*)<\/code><\/pre>$/.exec(body.formatted_body)!;
      expect(entities(inner!)).toBe(body.body);
      return body.body;
    },
    most: (body) => bytes(body) < 65_536,
    yes: () => Response.json({ event_id: "$1" }),
    no: Response.json({ errcode: "M_FORBIDDEN", error: "You are not invited to this room." }, { status: 403 }),
  },
  rocketchat: {
    settings: {},
    path: "/in",
    shown(body) {
      expect(body.parseUrls).toBeFalse();
      return code(body.text);
    },
    most: (body) => body.text.length <= 5000,
    yes: () => Response.json({ success: true }),
    no: Response.json({ success: false, error: "Invalid integration id or token" }, { status: 400 }),
  },
};

describe.each(PRESET_NAMES)("%s", (name) => {
  const { settings, path, shown, most, yes, no } = SERVICES[name];
  const query = path.includes("?sig") ? "?sig=a%2Fb~c" : "";

  test("shows a stranger's text as it is, and fits", async () => {
    using server = service(yes);
    const to = { preset: name, url: `${server.url}/in${query}`, ...settings };
    const long = "<@&\n`é€😀".repeat(20_000);
    for (const one of [...HOSTILE, message(long)]) {
      expect(await send(to, one)).toMatch(/^20[02]$/);
      const got = server.all.at(-1)!;
      const body = JSON.parse(got.text) as Body;
      expect(got.path).toBe(path);
      expect(got.headers.get("content-type")).toBe("application/json");
      const text = shown(body);
      expect(most(body)).toBeTrue();
      if (one.events[0]!.payload === long)
        expect(text).toEndWith("…\n\nToo long for this message: picket-collector read ops");
      else expectShown(text, one);
    }
  });

  test("a message of many events begins with their count", async () => {
    using server = service(yes);
    const events = [
      { ...EVENT, priority: "urgent", payload: "one" },
      { ...EVENT, payload: "two" },
    ];
    await send(
      { preset: name, url: `${server.url}/in`, ...settings },
      message("", { events, omitted: 3, reminder: true }),
    );
    const text = server.all[0]!.text;
    expect(text).toContain("ops (reminder): 5 events, 1 urgent");
    expect(text).toContain("3 more: picket-collector read ops");
  });

  test("what refuses is no success, and says why without the secrets", async () => {
    using server = service(() => no.clone() as Response);
    const error = await send({ preset: name, url: `${server.url}/in`, ...settings }, message("x")).catch((e) => e);
    expect(error).toBeInstanceOf(Refused);
    const said = (await no.clone().text()).match(
      /archived|Unknown Webhook|chat not found|need a token|key is invalid|413|Invalid|not invited/,
    )![0];
    expect(error.message).toStartWith(`${name}: answered `);
    expect(error.message).toContain(said);
    expect(error.message).not.toContain("secret-");
    expect(isHeld(error)).toBe(name !== "teams");
    using portal = service(() => new Response("<html><title>Sign in</title> error</html>"));
    const page = await send({ preset: name, url: portal.url, ...settings }, message("x")).catch((e) => e);
    expect(page).toBeInstanceOf(Refused);
    expect(isHeld(page)).toBeFalse();
  });
});

test("too many requests: the wait is taken from the header or the body", async () => {
  for (const [answer, wait] of [
    [() => new Response("slow", { status: 429, headers: { "retry-after": "65" } }), 65],
    [() => Response.json({ retry_after: 64.5 }, { status: 429 }), 64.5],
    [() => Response.json({ ok: false, parameters: { retry_after: 7 } }, { status: 429 }), 7],
    [() => Response.json({ errcode: "M_LIMIT_EXCEEDED", retry_after_ms: 2000 }, { status: 429 }), 2],
    [() => new Response("", { status: 503 }), null],
  ] as const) {
    using server = service(answer);
    const error = await send({ url: server.url }, message("x")).catch((e) => e);
    expect(error).toBeInstanceOf(Refused);
    expect([isHeld(error), error.retryAfter]).toEqual([false, wait]);
  }
});

test("the status decides, however long the answer's text is", async () => {
  using server = service(({ path }) => new Response("x".repeat(3 << 20), { status: Number(path.slice(1)) }));
  expect(await send({ url: `${server.url}/200` }, message("x"))).toBe("200");
  expect(isHeld(await send({ url: `${server.url}/410` }, message("x")).catch((e) => e))).toBeTrue();
});

test("no answer and a reset are tried again", async () => {
  using server = service(() => new Response(""));
  const { url } = server;
  server[Symbol.dispose]();
  const error = await send({ url: `${url}/secret-path` }, message("x")).catch((e) => e);
  expect(error).toBeInstanceOf(TransportError);
  expect(isHeld(error)).toBeFalse();
  expect(error.message).not.toContain("secret-path");
});

describe("a program of one's own", () => {
  test("gets the message as JSON, or what the template gives", async () => {
    using server = service(() => new Response("thanks"));
    const one = message('say "hi"\n');
    for (const [settings, type, body] of [
      [
        {},
        "application/json",
        /^\{"id":"m1","recipient":"ops","title":"ops: say \\"hi\\"".*"omitted":0,"reminder":false\}$/s,
      ],
      [{ template: "{{ json . }}" }, "application/json", /"events":\[\{/],
      [{ template: '{"text":{{ json .text }}}' }, "application/json", /^\{"text":"\[INFO/],
      [{ template: "{{ range .events }}{{ .payload }}{{ end }}" }, "text/plain; charset=utf-8", /^say "hi"\n$/],
      [{ headers: { "Content-Type": "text/x", "X-Token": "abc" } }, "text/x", /^\{/],
    ] as const) {
      expect(await send({ url: `${server.url}/in`, ...settings }, one)).toBe("200");
      const got = server.all.at(-1)!;
      expect([got.headers.get("content-type"), got.headers.get("idempotency-key")]).toEqual([type, "m1"]);
      expect(got.text).toMatch(body);
    }
    expect(server.all.at(-1)!.headers.get("x-token")).toBe("abc");
  });

  test("a template's JSON stays whole where the message is longer than its output", async () => {
    using server = service(() => new Response("thanks"));
    const events = Array.from({ length: 50 }, (_, n) => ({ ...EVENT, id: `e${n}`, payload: "x".repeat(4000) }));
    const to = { url: server.url, template: "{{ json . }}" };
    await send(to, message("", { events }));
    const sent = JSON.parse(server.all[0]!.text);
    expect(sent.events.length + sent.omitted).toBe(50);
    await send(to, message("y".repeat(200_000)));
    expect(JSON.parse(server.all[1]!.text).events[0].payload).toEndWith("y…");
  });

  test("is signed by Standard Webhooks, with each secret", async () => {
    using server = service(() => new Response("thanks"));
    const [old, fresh] = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
    await send({ url: server.url, secret: [old, fresh] }, message("x", { id: "an id: from elsewhere" }));
    const { headers, text } = server.all[0]!;
    const given = Object.fromEntries(headers);
    for (const key of [old, fresh]) expect(new Webhook(key).verify(text, given)).toMatchObject({ recipient: "ops" });
    const verifier = compileVerifier({ scheme: "standard", secret: [new Secret(fresh)] });
    verifier({ header: (name) => headers.get(name), query: () => null }, Date.now())(Buffer.from(text));
    expect(headers.get("webhook-id")).toBe(headers.get("idempotency-key"));
  });
});

test("settings that don't fit are told", () => {
  const problems = (given: Record<string, unknown>) =>
    v
      .safeParse(WebhookSettings, given)
      .issues?.map(({ message: text, path }) => [path?.map(({ key }) => key).join("."), text]) ?? [];
  expect(problems({})).toEqual([[undefined, 'a webhook needs "url"']]);
  expect(problems({ preset: "telegram", url: "https://t.example" })).toEqual([
    [undefined, 'telegram needs "token"'],
    [undefined, 'telegram needs "chat_id"'],
  ] as never);
  for (const [given, key, text] of [
    [{ url: "ftp://x" }, "url", "http"],
    [{ url: "https://bob:pw@x.example/" }, "url", "password"],
    [{ url: ["https://a.example", "https://b.example"] }, "url", "one URL"],
    [{ url: "https://a.example", chat_id: 1 }, "chat_id", "preset"],
    [{ preset: "slack", url: "https://a.example", token: "t" }, "token", 'slack has no "token"'],
    [{ preset: "slack", url: "https://a.example", template: "x" }, "template", "not both"],
    [{ preset: "slack", url: "https://a.example", secret: "x" }, "secret", "no signature"],
    [{ url: "https://a.example", secret: "whsec_!" }, "secret", "base64"],
    [{ url: "https://a.example", template: '{"text": "{{ .text }}"}' }, "template", "{{ json .text }}"],
    [{ url: "https://a.example", template: "{{ .text" }, "template", "unclosed"],
    [{ url: "https://a.example", headers: { "a b": "x" } }, "headers.a b", "name of a header"],
    [{ url: "https://a.example", headers: { a: "x\r\ny: z" } }, "headers.a", "one line"],
    [{ url: "https://a.example", headers: { a: "5 €" } }, "headers.a", "ASCII"],
    [
      { preset: "matrix", url: "https://a.example", token: "t", room_id: "#ops:example.org" },
      "room_id",
      "id of a room",
    ],
  ] as const) {
    const [[at, said] = []] = problems(given);
    expect([given, at, said]).toEqual([given, key, expect.stringContaining(text)]);
  }
});
