// A delivery as a notification of ntfy (docs.ntfy.sh/publish).
//
// A message of 4,096 bytes or more would become an attachment, so it is cut. It is plain text: ntfy renders Markdown only when asked to.
// The sequence id makes a repeat replace the first one (from ntfy 2.16 on; older servers ignore it).

import * as v from "valibot";
import { type Problem, rule, secret } from "../../config.ts";
import type { Channel, Message } from "./message.ts";
import { openService, serviceEntries, urlProblems } from "./service.ts";
import { fitted, isUrgent, plainId, textOf, titleOf } from "./text.ts";

const MOST_BYTES = 4000;

const Settings = v.strictObject({
  /** Ends with the topic. */
  ...serviceEntries,
  ...secret("token"),
  username: v.optional(v.pipe(v.string(), v.regex(/^[^:]+$/, 'expected a name without ":"'))),
  ...secret("password"),
});
type NtfySettings = v.InferOutput<typeof Settings>;
export const NtfySettings = v.pipe(Settings, rule(ntfyProblems));

function* ntfyProblems(settings: NtfySettings): Generator<Problem> {
  const { url, token, username, password } = settings;
  const wrong = [...urlProblems(settings)];
  yield* wrong;
  if (url.length === 0) yield { path: [], text: 'ntfy needs "url"' };
  if (wrong.length === 0 && url.some((one) => !/\/[-\w]{1,64}$/.test(new URL(one.reveal()).pathname)))
    yield { path: ["url"], text: 'the URL has to end with a topic, such as "https://ntfy.example/ops"' };
  if (token.length > 0 && username !== undefined)
    yield { path: ["username"], text: "given beside token: set one of them, not both" };
  if ((username === undefined) !== (password.length === 0))
    yield { path: [], text: "username and password go together" };
}

/** Opens it. @throws Error when the certificates can't be read. */
export function openNtfy({
  url: [url],
  ca_file,
  token: [token],
  username,
  password: [password],
}: NtfySettings): Channel {
  const basic = password && Buffer.from(`${username}:${password.reveal()}`).toString("base64");
  const authorization = token ? `Bearer ${token.reveal()}` : basic && `Basic ${basic}`;
  const secrets = [token, password].filter((one) => one !== undefined);
  const service = openService({ name: "ntfy", url: url!, secrets, ca_file });
  return {
    async send(message, signal) {
      const { recipient } = message;
      const fits = (text: string): boolean => Buffer.byteLength(text) <= MOST_BYTES;
      const { status } = await service.tell({
        headers: {
          "content-type": "text/plain; charset=utf-8",
          title: headerText(titleOf(message)),
          priority: String(priorityOf(message)),
          tags: tagsOf(message).join(","),
          "x-sequence-id": plainId(message),
          ...(authorization === undefined ? {} : { authorization }),
        },
        body: fitted(textOf(message), { recipient, most: MOST_BYTES, fits }),
        signal,
      });
      return String(status);
    },
  };
}

const asks = ({ events }: Message): boolean => events.some(({ type }) => type === "NEEDS-RESPONSE");

/** 5 is `max`, 4 `high`, 3 the default. */
function priorityOf(message: Message): 3 | 4 | 5 {
  if (isUrgent(message)) return 5;
  return asks(message) ? 4 : 3;
}

/** Names of emoji, which ntfy shows before the title. */
function tagsOf(message: Message): string[] {
  const isOver = message.events.every(({ source = "" }) => /^receiver:[\w.]+\.recovered$/.test(source));
  return [
    ...(isUrgent(message) ? ["rotating_light"] : []),
    ...(asks(message) ? ["question"] : []),
    ...(isOver ? ["white_check_mark"] : []),
  ];
}

/** ntfy decodes RFC 2047, also where it wasn't meant. */
function headerText(text: string): string {
  return /^[\x20-\x7e]*$/.test(text) && !text.includes("=?")
    ? text
    : `=?UTF-8?B?${Buffer.from(text).toString("base64")}?=`;
}
