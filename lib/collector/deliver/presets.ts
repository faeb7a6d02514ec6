// The services that `preset` knows, as one table: where a message goes, its body, the longest one, and the answer that means that it was taken.
//
// Text from outside is text there: each service shows it as it is. Where a service has a form without markup, that one is used; where
// it hasn't, the text is a block of code (`fenced`), in which markup, mentions and links mean nothing.
//
//   slack        docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, …/messaging/formatting-message-text (&, <, > are
//                entities), …/reference/block-kit/composition-objects/text-object (plain_text, 3,000 characters),
//                …/messaging/unfurling-links-in-messages. Answers "ok"
//   discord      docs.discord.com/developers/resources/webhook#execute-webhook (2,000 characters; without wait a message that is not
//                saved is no error), …/resources/message (allowed_mentions, flag SUPPRESS_EMBEDS 1 << 2)
//   telegram     core.telegram.org/bots/api#sendmessage (4,096 characters), #messageentity (`pre`, in UTF-16 units), #linkpreviewoptions,
//                #making-requests ("ok" is always there)
//   gotify       gotify.net/api-docs#/message/createMessage, gotify.net/docs/msgextras (text/plain); from priority 8 on it vibrates
//                (github.com/gotify/android); no limit is documented
//   pushover     pushover.net/api (1,024 characters, title 250, no HTML unless html=1, "status" is 1)
//   teams        support.microsoft.com "Create incoming webhooks with Workflows", learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors
//                (28 KB; errors within a 200), learn.microsoft.com/adaptive-cards/create/textfeatures (RichTextBlock has no Markdown)
//   mattermost   developers.mattermost.com/integrate/webhooks/incoming (16,383 characters; Slack's <!channel> is translated, @channel is a
//                mention). Answers "ok"
//   matrix       spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid (a repeated txnId is no second
//                message), #user-and-room-mentions (m.mentions), #size-limits (65,536 bytes)
//   rocketchat   docs.rocket.chat/docs/integrations (parseUrls; {"success": true}); mentions are sought in code, too; 5,000 characters
//                unless the setting "Maximum Allowed Characters Per Message" is another

import type { Secret } from "../../config.ts";
import type { Answer } from "./service.ts";

/** What a body is made of. */
interface Told {
  title: string;
  /** The text in its `form`. */
  text: string;
  urgent: boolean;
}

/** The settings that some services need. */
export interface Account {
  token: readonly Secret[];
  user_key: readonly Secret[];
  chat_id?: string | number | undefined;
  room_id?: string | undefined;
}

export interface Preset {
  needs: readonly (keyof Account | "url")[];
  /** Where it is, unless the settings say it. */
  url?: string;
  method?: "PUT";
  /** Appended to the URL's path. `id` is the message's. */
  path?: (account: Account, id: string) => string;
  /** Parameters of the URL's query. */
  query?: Record<string, string>;
  headers?: (account: Account) => Record<string, string>;
  /** How text is written so that it shows as it is; as it is unless given. */
  form?: (text: string) => string;
  body: (told: Told, account: Account) => Record<string, unknown>;
  /** The most characters of the text in its form; or bytes of the whole body. */
  most: { characters: number } | { bytes: number };
  /** Whether an answer with a status from 200 to 299 means that the message was taken. */
  took: (answer: Answer) => boolean;
}

const PRESETS = {
  slack: {
    needs: ["url"],
    form: entities,
    body: ({ title, text }) => ({
      text: entities(title),
      mrkdwn: false,
      blocks: [{ type: "section", text: { type: "plain_text", text, emoji: false } }],
      unfurl_links: false,
      unfurl_media: false,
    }),
    most: { characters: 3000 },
    took: ({ text }) => text === "ok",
  },
  discord: {
    needs: ["url"],
    query: { wait: "true" },
    form: fenced,
    body: ({ text }) => ({ content: text, allowed_mentions: { parse: [] }, flags: 1 << 2 }),
    most: { characters: 2000 },
    took: ({ body }) => typeof body["id"] === "string",
  },
  telegram: {
    needs: ["token", "chat_id"],
    url: "https://api.telegram.org",
    path: ({ token }) => `/bot${reveal(token)}/sendMessage`,
    body: ({ text }, { chat_id }) => ({
      chat_id,
      text,
      entities: [{ type: "pre", offset: 0, length: text.length }],
      link_preview_options: { is_disabled: true },
    }),
    most: { characters: 4096 },
    took: ({ body }) => body["ok"] === true,
  },
  gotify: {
    needs: ["url", "token"],
    path: () => "/message",
    headers: ({ token }) => ({ "x-gotify-key": reveal(token) }),
    body: ({ title, text, urgent }) => ({
      title,
      message: text,
      priority: urgent ? 8 : 5,
      extras: { "client::display": { contentType: "text/plain" } },
    }),
    most: { characters: 10_000 },
    took: ({ body }) => typeof body["id"] === "number",
  },
  pushover: {
    needs: ["token", "user_key"],
    url: "https://api.pushover.net",
    path: () => "/1/messages.json",
    body: ({ title, text, urgent }, { token, user_key }) => ({
      token: reveal(token),
      user: reveal(user_key),
      title,
      message: text,
      priority: urgent ? 1 : 0,
    }),
    most: { characters: 1024 },
    took: ({ body }) => body["status"] === 1,
  },
  teams: {
    needs: ["url"],
    body: ({ text }) => ({
      type: "message",
      attachments: [
        {
          contentType: "application/vnd.microsoft.card.adaptive",
          content: {
            $schema: "http://adaptivecards.io/schemas/adaptive-card.json",
            type: "AdaptiveCard",
            version: "1.2",
            // A line break in a run of text is not promised to show.
            body: text.split("\n").map((line) => ({
              type: "RichTextBlock",
              spacing: "None",
              inlines: [{ type: "TextRun", text: line || " " }],
            })),
          },
        },
      ],
    }),
    most: { bytes: 20_000 },
    took: ({ text }) => !/ error/i.test(text),
  },
  mattermost: {
    needs: ["url"],
    form: fenced,
    body: ({ text }) => ({ text }),
    most: { characters: 16_383 },
    took: ({ text }) => text === "ok",
  },
  matrix: {
    needs: ["url", "token", "room_id"],
    method: "PUT",
    path: ({ room_id }, id) =>
      `/_matrix/client/v3/rooms/${encodeURIComponent(room_id ?? "")}/send/m.room.message/${id}`,
    headers: ({ token }) => ({ authorization: `Bearer ${reveal(token)}` }),
    body: ({ text }) => ({
      msgtype: "m.text",
      body: text,
      // In code a client makes no links, and looks none up.
      format: "org.matrix.custom.html",
      formatted_body: `<pre><code>${entities(text)}</code></pre>`,
      "m.mentions": {},
    }),
    most: { bytes: 48_000 },
    took: ({ body }) => typeof body["event_id"] === "string",
  },
  rocketchat: {
    needs: ["url"],
    form: fenced,
    body: ({ text }) => ({ text, parseUrls: false }),
    most: { characters: 5000 },
    took: ({ body }) => body["success"] === true,
  },
} satisfies Record<string, Preset>;

export type PresetName = keyof typeof PRESETS;
export const PRESET_NAMES = Object.keys(PRESETS) as PresetName[];
export const presetOf = (name: PresetName): Preset => PRESETS[name];

function reveal([secret]: readonly Secret[]): string {
  return secret?.reveal() ?? "";
}

function entities(text: string): string {
  return text.replace(/[&<>]/g, (one) => ({ "&": "&amp;", "<": "&lt;" })[one] ?? "&gt;");
}

/** A block of code. A character without width behind what begins a mention, a link or the end of the block leaves it without its meaning. */
function fenced(text: string): string {
  return `\`\`\`\n${text.replace(/[@#<`](?=\S)/g, "$&\u200b")}\n\`\`\``;
}
