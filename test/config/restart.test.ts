// What waits for a restart: the schemas say it, a reload keeps it.

import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { Config as Agent } from "../../lib/agent/config.ts";
import { Config as Collector } from "../../lib/collector/config.ts";
import { listen, path, restart, restartToSwitch, rule, secret, untilRestart } from "../../lib/config.ts";
import { Config as Observer } from "../../lib/observer/config.ts";
import { Config as Receiver } from "../../lib/receiver/config.ts";
import { restartKeys } from "../kit.ts";

const Schema = v.pipe(
  v.strictObject({
    listen: restart(v.optional(listen(), "127.0.0.1:80")),
    folder: restart(v.optional(path())),
    web: restartToSwitch(v.optional(v.strictObject({ port: restart(v.number()), name: v.optional(v.string(), "") }))),
    auth: v.optional(v.strictObject({ ...secret("token") }), {}),
  }),
  rule(({ listen, auth }) =>
    listen.host === "127.0.0.1" || auth.token.length > 0 ? [] : [{ path: ["listen"], text: "is open to all" }],
  ),
);

const parse = (given: v.InferInput<typeof Schema>) => v.parse(Schema, given);

describe("a reload", () => {
  const rows: [
    string,
    v.InferInput<typeof Schema>,
    v.InferInput<typeof Schema>,
    v.InferInput<typeof Schema>,
    string[],
  ][] = [
    ["without a change says nothing", { folder: "/a" }, { folder: "/a" }, { folder: "/a" }, []],
    [
      "keeps a value, and takes over its neighbours",
      { folder: "/a", web: { port: 1, name: "old" } },
      { folder: "/b", web: { port: 2, name: "new" } },
      { folder: "/a", web: { port: 1, name: "new" } },
      ["folder: a change takes effect at the next start", "web.port: a change takes effect at the next start"],
    ],
    ["keeps an absent value absent", {}, { folder: "/b" }, {}, ["folder: a change takes effect at the next start"]],
    [
      "keeps a value that goes",
      { listen: "127.0.0.1:81" },
      {},
      { listen: "127.0.0.1:81" },
      ["listen: a change takes effect at the next start"],
    ],
    [
      "keeps a section that is switched off, with all that it holds",
      { web: { port: 1, name: "old" } },
      {},
      { web: { port: 1, name: "old" } },
      ["web: switching it off takes effect at the next start"],
    ],
    [
      "leaves out a section that is switched on",
      {},
      { web: { port: 1 } },
      {},
      ["web: switching it on takes effect at the next start"],
    ],
  ];
  test.each(rows)("%s", (_, former, next, config, messages) => {
    const kept = untilRestart(Schema, { former: parse(former), next: parse(next) });
    expect(kept).toEqual({ config: parse(config), messages, problems: [] });
  });

  test("that would break a rule together with a former value tells so", () => {
    const [former, next] = [parse({ listen: "0.0.0.0:80", auth: { token: "x" } }), parse({ listen: "127.0.0.1:80" })];
    expect(untilRestart(Schema, { former, next }).problems).toEqual(["listen: is open to all"]);
  });

  test("takes secrets over", () => {
    const [former, next] = [parse({ auth: { token: "one" } }), parse({ auth: { token: "two" } })];
    const { config } = untilRestart(Schema, { former, next });
    expect(config.auth.token.map((token) => token.reveal())).toEqual(["two"]);
  });
});

test("each role names the settings that wait for a restart", () => {
  const named = (schema: v.GenericSchema) =>
    restartKeys(schema).map(({ key, of }) => (of === "value" ? key : `${key} (on or off)`));
  const roles = {
    agent: named(Agent),
    collector: named(Collector),
    observer: named(Observer),
    receiver: named(Receiver),
  };
  expect(roles).toEqual({
    agent: ["data_dir", "ship (on or off)", "ship.episodes_dir"],
    collector: ["inbox_dir", "inbox", "durability", "webhook (on or off)", "webhook.listen", "tls (on or off)"],
    observer: ["listen", "persist_path", "durability", "overseer_corrections", "tls (on or off)"],
    receiver: [
      "listen",
      "data_dir",
      "store",
      "store_direct",
      "store_connections",
      "episodes",
      "s3",
      "notify",
      "tls (on or off)",
    ],
  });
});
