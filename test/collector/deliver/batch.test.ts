import { expect, test } from "bun:test";
import {
  type Reminder,
  type Rules,
  type Waiting,
  countSent,
  nextMessage,
} from "../../../lib/collector/deliver/batch.ts";
import { readQuiet } from "../../../lib/collector/deliver/quiet.ts";

const NOW = Date.parse("2026-11-28T23:00:20Z");
const MINUTE = 60_000;
const QUIET = readQuiet("22:00-07:00 UTC");

const pile = (count: number, agoSeconds = 0) => ({ count, since: NOW - agoSeconds * 1000 });
const waits = (recipient: string, normal: [number, number?], urgent: [number, number?] = [0]): Waiting => ({
  recipient,
  normal: pile(...normal),
  urgent: pile(...urgent),
});
const reminder = (recipient: string, inSeconds: number, priority = "urgent"): Reminder => ({
  recipient,
  at: NOW + inSeconds * 1000,
  event: {
    ts: "",
    id: `${recipient}${inSeconds}`,
    from: "",
    to: recipient,
    type: "NEEDS-RESPONSE",
    priority,
    payload: "",
  },
});

function next(waiting: Waiting[], rules: Partial<Rules> = {}, sent = {}, reminders: Reminder[] = []): string {
  const found = nextMessage({
    waiting,
    reminders,
    sent,
    rules: { group_seconds: 0, max_per_hour: 60, ...rules },
    now: NOW,
  });
  if (found.kind === "wait") return `wait ${(found.until - NOW) / 1000} ${found.why}`.trim();
  if (found.kind === "reminder") return `remind ${found.recipient} ${found.events.map(({ id }) => id).join(" ")}`;
  return `send ${found.recipient}${found.urgentOnly ? " urgent" : ""}${found.all ? " all" : ""}`;
}

test("what is sent next", () => {
  const sent = (count: number, minutesAgo = 10) => ({ [Math.floor(NOW / MINUTE) - minutesAgo]: count });
  const cases: [expected: string, ...Parameters<typeof next>][] = [
    ["wait Infinity", []],
    ["wait Infinity", [waits("ops", [0])]],
    ["send ops", [waits("ops", [1])]],
    // The inbox that waits longest first.
    ["send bob", [waits("ops", [5, 1]), waits("bob", [1, 9])]],
    ["send ops", [waits("ops", [5, 1], [1, 12]), waits("bob", [1, 9])]],
    // Grouped from the first on, urgent or not.
    ["wait 45 group_seconds: 60", [waits("ops", [5, 15])], { group_seconds: 60 }],
    ["wait 20 group_seconds: 60", [waits("ops", [5, 15], [1, 40])], { group_seconds: 60 }],
    ["send ops", [waits("ops", [5, 60])], { group_seconds: 60 }],
    ["send ops", [waits("ops", [1, -3600])], { group_seconds: 60 }],
    ["wait Infinity quiet: 22:00-07:00 UTC", [waits("ops", [5, 3600])], { quiet: QUIET }],
    ["send ops urgent", [waits("ops", [5, 3600], [1])], { quiet: QUIET }],
    ["wait 20 group_seconds: 30", [waits("ops", [5, 3600], [1, 10])], { quiet: QUIET, group_seconds: 30 }],
    ["send ops", [waits("ops", [5])], { quiet: readQuiet("07:00-22:00 UTC") }],
    // The last message of the hour takes all.
    ["send ops", [waits("ops", [5])], { max_per_hour: 5 }, sent(3)],
    ["send ops all", [waits("ops", [5])], { max_per_hour: 5 }, sent(4)],
    ["wait 1180 max_per_hour: 5", [waits("ops", [5])], { max_per_hour: 5 }, { ...sent(1, 40), ...sent(4) }],
    ["send ops", [waits("ops", [5])], { max_per_hour: 5 }, sent(5, 60)],
    // Of a clock that was set back by more than an hour.
    ["send ops", [waits("ops", [5])], { max_per_hour: 5 }, sent(5, -60)],
    // Reminders: what is new comes first.
    ["send ops", [waits("ops", [1])], {}, {}, [reminder("ops", -1)]],
    [
      "remind ops ops-1 ops-2",
      [],
      {},
      {},
      [reminder("ops", -1), reminder("ops", -2), reminder("ops", 5), reminder("bob", -1)],
    ],
    ["wait 5", [], {}, {}, [reminder("ops", 5)]],
    ["wait 5 group_seconds: 60", [waits("ops", [1])], { group_seconds: 60 }, {}, [reminder("ops", 5)]],
    ["remind ops ops-1", [], { quiet: QUIET }, {}, [reminder("bob", -1, "normal"), reminder("ops", -1)]],
    ["wait Infinity quiet: 22:00-07:00 UTC", [], { quiet: QUIET }, {}, [reminder("bob", -1, "normal")]],
    ["wait 2980 max_per_hour: 5", [], { max_per_hour: 5 }, sent(5), [reminder("ops", -1)]],
  ];
  for (const [expected, ...given] of cases) expect(next(...given)).toBe(expected);
});

test("messages are counted by the minute for an hour", () => {
  let sent = {};
  for (let minutes = 0; minutes < 180; minutes++)
    for (let n = 0; n < 3; n++) sent = countSent(sent, NOW + minutes * MINUTE);
  expect(Object.keys(sent)).toHaveLength(60);
  const late = { waiting: [waits("ops", [1])], reminders: [], sent, now: NOW + 180 * MINUTE };
  expect(nextMessage({ ...late, rules: { group_seconds: 0, max_per_hour: 177 } }).kind).toBe("wait");
  expect(nextMessage({ ...late, rules: { group_seconds: 0, max_per_hour: 179 } })).toMatchObject({
    kind: "events",
    all: false,
  });
});
