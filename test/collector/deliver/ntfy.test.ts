// ntfy, against a server that records what arrives and judges it by its documentation. ntfy's own server is not asked.

import { expect, test } from "bun:test";
import * as v from "valibot";
import { Refused, isHeld } from "../../../lib/collector/deliver/message.ts";
import { NtfySettings, openNtfy } from "../../../lib/collector/deliver/ntfy.ts";
import { EVENT, type Got, HOSTILE, expectShown, message, service } from "./services.ts";

const open = (settings: Record<string, unknown>) => openNtfy(v.parse(NtfySettings, settings));
const send = (settings: Record<string, unknown>, one = message("x")) =>
  open(settings).send(one, new AbortController().signal);

/** Header values as ntfy reads them: RFC 2047 is decoded. */
function decoded(value: string): string {
  return value.replaceAll(/=\?utf-8\?B\?([^?]*)\?=/gi, (_, base64: string) => Buffer.from(base64, "base64").toString());
}

/** What a subscriber gets. */
function shown({ method, path, headers, text }: Got) {
  expect([method, path]).toEqual(["POST", "/ops"]);
  expect(Buffer.byteLength(text)).toBeLessThan(4096);
  for (const name of ["markdown", "x-markdown", "actions", "attach", "click"]) expect(headers.has(name)).toBeFalse();
  const tags = headers.get("tags")?.split(",").filter(Boolean);
  return { title: decoded(headers.get("title") ?? ""), text, priority: headers.get("priority"), tags };
}

test("title, text, priority and tags say what came", async () => {
  using server = service(() => Response.json({ id: "x", event: "message" }));
  const to = { url: `${server.url}/ops` };
  const event = { ...EVENT, payload: "nas is offline (no report for 4m 02s)\nsecond line" };
  for (const [more, want] of [
    [{}, { title: "ops: nas is offline (no report for 4m 02s)", priority: "3", tags: [] }],
    [
      { priority: "urgent" },
      { title: "ops (urgent): nas is offline (no report for 4m 02s)", priority: "5", tags: ["rotating_light"] },
    ],
    [
      { type: "NEEDS-RESPONSE", payload: "überall 👍🏽?" },
      { title: "ops: überall 👍🏽?", priority: "4", tags: ["question"] },
    ],
    [{ source: "receiver:host.recovered" }, { tags: ["white_check_mark"] }],
    [{ payload: "=?utf-8?B?Zm9yZ2Vk?=" }, { title: "ops: =?utf-8?B?Zm9yZ2Vk?=" }],
    [{ payload: "a\u0007b\u202ec" }, { title: "ops: a\\u0007b\\u202ec" }],
  ] as const) {
    expect(await send(to, message("", { events: [{ ...event, ...more }] }))).toBe("200");
    expect(shown(server.all.at(-1)!)).toMatchObject(want);
  }
  await send(to, message("", { events: [event, event], omitted: 3 }));
  expect(shown(server.all.at(-1)!).title).toBe("ops: 5 events");
});

test("a stranger's text stays text, and a long one stays a message", async () => {
  using server = service(() => Response.json({}));
  for (const one of HOSTILE) {
    await send({ url: `${server.url}/ops` }, one);
    const { title, text } = shown(server.all.at(-1)!);
    expect(title).toMatch(/^ops: [^\p{C}\n]+$/u);
    expectShown(text, one);
  }
  await send({ url: `${server.url}/ops` }, message("😀é\n".repeat(5000)));
  expect(shown(server.all.at(-1)!).text).toEndWith("…\n\nToo long for this message: picket-collector read ops");
});

test("repeats have one sequence id, whatever wrote the event's id", async () => {
  using server = service(() => Response.json({}));
  const ids = ["m1", "m1", "an id: from elsewhere", "an id: from elsewhere"];
  for (const id of ids) await send({ url: `${server.url}/ops` }, message("x", { id }));
  const sent = server.all.map(({ headers }) => headers.get("x-sequence-id")!);
  expect(sent.every((id) => /^[-\w]{1,64}$/.test(id))).toBeTrue();
  expect([sent[0], sent[1], sent[2]]).toEqual(["m1", "m1", sent[3]!]);
});

test("credentials are sent, and are in no error", async () => {
  using server = service(({ headers }) =>
    ["Bearer tk_secret_token", `Basic ${btoa("bob:secret-password")}`].includes(headers.get("authorization") ?? "")
      ? Response.json({})
      : Response.json({ code: 40301, http: 403, error: "forbidden secret-password" }, { status: 403 }),
  );
  const url = `${server.url}/ops`;
  expect(await send({ url, token: "tk_secret_token" })).toBe("200");
  expect(await send({ url, username: "bob", password: "secret-password" })).toBe("200");
  const error: unknown = await send({ url, username: "ops", password: "secret-password" }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(Refused);
  expect(String(error)).toBe("Refused: ntfy: answered 403: forbidden [redacted]");
  expect(isHeld(error)).toBeTrue();
});

test("settings that don't fit are told", () => {
  const url = "https://ntfy.example/ops";
  for (const [given, text] of [
    [{}, 'ntfy needs "url"'],
    [{ url: "https://ntfy.example/" }, "a topic"],
    [{ url: "https://ntfy.example/a b" }, "a topic"],
    [{ url, username: "bob" }, "go together"],
    [{ url, password: "x" }, "go together"],
    [{ url, token: "x", username: "bob", password: "x" }, "not both"],
  ] as const) {
    const said = v.safeParse(NtfySettings, given).issues?.map((issue) => issue.message);
    expect([given, said]).toEqual([given, [expect.stringContaining(text)]]);
  }
});
