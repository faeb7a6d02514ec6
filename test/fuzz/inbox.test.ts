// Inbox files, marks, ledgers and intents as other programs, crashes and editors leave them: no good line is lost, nothing that is
// shown steers a terminal, and nothing stops a start.

import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import * as fc from "fast-check";
import { fileInboxes } from "../../lib/file-inboxes.ts";
import { readEvents, readLast, readNew } from "../../lib/reader.ts";
import { InboxWriter, completeEvent } from "../../lib/inbox.ts";
import { Journal, findTornLine, healFolder } from "../../lib/journal.ts";
import { replay } from "../../lib/replay.ts";
import { Folder, runRole } from "../kit.ts";
import { TIMEOUT_MS, damaged, few, json, mutated, prototypesUntouched, runs, strangeJson, text } from "./kit.ts";

const EVENT = {
  ts: "2026-01-31T12:00:00.000Z",
  id: "0".repeat(32),
  from: "a",
  to: "bob",
  type: "INFO",
  priority: "normal",
  payload: "p",
};

/** A line that is certainly none of ours, without a line break in it. */
const garbage = fc
  .oneof(
    fc.uint8Array({ maxLength: 80 }),
    mutated(fc.constant(JSON.stringify(EVENT))),
    strangeJson().map((line) => Buffer.from(line)),
    damaged(EVENT).map((event) => Buffer.from(JSON.stringify(event) ?? "")),
    fc.constant(Buffer.alloc(5000)),
    fc.constant(Buffer.from("\ufeff")),
  )
  .map((bytes) => Buffer.from(bytes.filter((byte) => byte !== 0x0a)));

/** An inbox of good lines (their number is their payload's beginning) and garbage, in any order. */
const inbox = fc.array(fc.oneof(garbage, fc.tuple(text(), text(), fc.boolean())), { maxLength: 12 }).map((parts) => {
  const good: string[] = [];
  const lines = parts.map((part, index) => {
    if (Buffer.isBuffer(part)) return part;
    const [from, payload, urgent] = part;
    const event = { ...EVENT, from, payload: `n${index} ${payload}`, priority: urgent ? "urgent" : "normal" };
    good.push(event.payload);
    return Buffer.from(JSON.stringify(event));
  });
  return { bytes: Buffer.concat(lines.flatMap((line) => [line, Buffer.from("\n")])), good };
});
const mark = fc.oneof(
  mutated(fc.constant('{"offset":100,"print":"abc","shown":[120],"held":{"130":2}}')),
  damaged({ offset: 10, print: "x", shown: [1], held: { "1": 2 } }).map((value) => JSON.stringify(value) ?? ""),
);

const numbered = (payload: string): boolean => /^n\d+ /.test(payload);

test(
  "whatever stands between them, every good line is shown, in its order, and shown once as new",
  async () => {
    using folder = new Folder();
    await fc.assert(
      fc.asyncProperty(inbox, fc.option(mark), async ({ bytes, good }, marked) => {
        folder.write("bob.inbox", bytes);
        folder.write("bob.mark", marked ?? "");
        const warnings: string[] = [];
        const source = {
          inboxes: fileInboxes(folder.path),
          recipient: "bob",
          reader: "agent",
          warn: (message: string) => warnings.push(message),
        };
        const all: string[] = [];
        await readEvents(source.inboxes.cursor("bob"), source, ({ payload }) => all.push(payload));
        expect(all.filter(numbered)).toEqual(good);
        const last: string[] = [];
        await readLast(source.inboxes.cursor("bob"), { ...source, limit: 3, only: () => true }, ({ payload }) =>
          last.push(payload),
        );
        expect(last).toEqual(all.slice(-3));
        const fresh = await readNew(source);
        expect(
          fresh.events
            .map(({ payload }) => payload)
            .filter(numbered)
            .toSorted(),
        ).toEqual(good.toSorted());
        await fresh.done(fresh.events.length);
        const again = await readNew(source);
        await again.done();
        expect(again.events).toEqual([]);
      }),
      runs(0.5),
    );
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

/** What a terminal acts on: all control characters but line breaks and tabs. */
const STEERS = /(?![\n\t])\p{Cc}/u;

test(
  "`read` and `hook` show all of it as text, and leave with 0",
  async () => {
    using folder = new Folder();
    const config = folder.write("collector.yaml", `agent: a\ninbox_dir: ${folder.path}\nwebhook: {}\n`);
    for (const { bytes, good } of few(inbox, 6)) {
      const steering = JSON.stringify({
        ...EVENT,
        from: "x\u009b\u0007\nforged",
        ts: "\u001b[2J",
        payload: "\u001b]0;t\u0007\u009b31m\u007f\r",
      });
      folder.write("bob.inbox", Buffer.concat([bytes, Buffer.from(`${steering}\n`)]));
      for (const args of [
        ["read", "bob"],
        ["read", "bob", "--json"],
        ["read", "bob", "--new"],
        ["hook", "--as", "bob"],
        ["wait", "--as", "bob"],
      ]) {
        folder.write("bob.mark", "{");
        const { code, stdout, stderr } = await runRole("collector", [...args, "--config", config]);
        expect({ args, code }).toEqual({ args, code: 0 });
        expect(stdout).not.toMatch(STEERS);
        expect(stderr).not.toMatch(STEERS);
        expect(stdout).not.toMatch(/^forged/m);
        if (args[1] === "bob" && args.length === 2)
          for (const payload of good) expect(stdout).toContain(payload.split(" ")[0]!);
      }
    }
  },
  TIMEOUT_MS,
);

test(
  "a journal of any bytes is read to its end, and what is appended afterwards is whole",
  async () => {
    using folder = new Folder();
    const content = fc
      .tuple(fc.array(garbage, { maxLength: 6 }), garbage)
      .map(([lines, rest]) => Buffer.concat([...lines.flatMap((line) => [line, Buffer.from("\n")]), rest]));
    let n = 0;
    await fc.assert(
      fc.asyncProperty(content, async (bytes) => {
        const path = folder.write("j.jsonl", bytes);
        const journal = new Journal({ path, durability: "os", intents: null });
        const line = JSON.stringify({ n: ++n });
        await journal.append(line);
        await journal.close();
        const values: unknown[] = [];
        await replay({ path, record: (value) => values.push(value), malformed: () => {} });
        expect(values.at(-1)).toEqual({ n });
      }),
      runs(0.5),
    );
  },
  TIMEOUT_MS,
);

test(
  "what is found torn lies within what was written, and no whole line of others is in it",
  () => {
    const lines = fc.array(fc.record({ a: fc.nat(3), b: fc.string({ maxLength: 6 }) }), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(lines, lines, fc.nat(200), fc.boolean(), (ours, theirs, cut, after) => {
        const batch = Buffer.from(ours.map((one) => `${JSON.stringify(one)}\n`).join(""));
        const others = theirs.map((one) => `${JSON.stringify({ other: one })}\n`);
        const torn = batch.subarray(0, cut % (batch.length + 1));
        const region = Buffer.concat([torn, Buffer.from(after ? others.join("") : "")]);
        const found = findTornLine(region, batch);
        if (found === null) return;
        expect(found.start).toBeGreaterThanOrEqual(0);
        expect(found.end).toBeLessThanOrEqual(region.length);
        expect(found.start).toBeLessThan(found.end);
        const left = Buffer.concat([
          region.subarray(0, found.start),
          Buffer.from("\n"),
          region.subarray(found.end),
        ]).toString();
        if (after) for (const line of others) expect(left).toContain(line);
      }),
      runs(),
    );
  },
  TIMEOUT_MS,
);

test(
  "intents and ledgers of any bytes neither stop a start nor change an inbox's good lines",
  async () => {
    using folder = new Folder();
    mkdirSync(folder.at(".picket"));
    mkdirSync(folder.at(".picket", "folder.inbox.0.intent"));
    Bun.spawnSync(["mkfifo", folder.at(".picket", "fifo.inbox.0.intent")]);
    const header = damaged({ dev: 0, ino: 0, before: 3, length: 5, hash: "x" });
    const intent = fc.oneof(
      fc
        .tuple(header, fc.uint8Array({ maxLength: 50 }), fc.boolean())
        .map(([value, bytes, right]) => ({ value, bytes, right })),
    );
    const ledger = fc.array(
      fc.oneof(
        garbage.map((line) => line.toString("latin1")),
        json.map((value) => JSON.stringify(value)),
        damaged({ at: Date.now(), key: `bob/${"1".repeat(32)}` }).map((value) => JSON.stringify(value) ?? ""),
        fc.constantFrom(
          "null",
          "[]",
          "1",
          '{"at":"9","key":"bob/x"}',
          '{"at":1e999,"key":"bob/x"}',
          '{"at":99999999999999,"key":null}',
        ),
      ),
      { maxLength: 6 },
    );
    const good = `${JSON.stringify(EVENT)}\n`;
    await fc.assert(
      fc.asyncProperty(intent, ledger, async ({ value, bytes, right }, lines) => {
        const inboxFile = folder.write("bob.inbox", good);
        const { dev, ino } = await Bun.file(inboxFile).stat();
        const hash = Bun.hash(bytes).toString(16);
        const truth =
          right && typeof value === "object" && value !== null
            ? { ...value, dev, ino, hash, length: bytes.length }
            : value;
        writeFileSync(
          folder.at(".picket", "bob.inbox.0.intent"),
          Buffer.concat([Buffer.from(`${JSON.stringify(truth)}\n`), bytes]),
        );
        // What the former ones delivered would be read again by each.
        for (const name of readdirSync(folder.at(".picket"))) {
          if (name.startsWith("delivered-")) rmSync(folder.at(".picket", name));
        }
        writeFileSync(folder.at(".picket", "delivered-20260101T000000Z.jsonl"), lines.join("\n"));
        healFolder(folder.at(".picket"), folder.path);
        const writer = new InboxWriter({ dir: folder.path, durability: "os", dedupeHours: 24 });
        await writer.open();
        const event = completeEvent({
          from: "a",
          to: "bob",
          type: "INFO",
          priority: "normal",
          payload: "after",
          source: "s",
        });
        expect(await writer.deliverOnce(event)).toBe("written");
        await writer.close();
        const text = readFileSync(inboxFile, "utf8");
        if (!right) expect(text.startsWith(good)).toBe(true);
        expect(text.endsWith('"payload":"after","source":"s"}\n')).toBe(true);
      }),
      runs(0.25),
    );
    prototypesUntouched();
  },
  TIMEOUT_MS,
);
