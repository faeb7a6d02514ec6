import { expect, test } from "bun:test";
import { renameSync, rmSync, writeFileSync } from "node:fs";
import * as fc from "fast-check";
import { type Lane, openLane } from "../../../lib/collector/deliver/lane.ts";
import { IN_TABLES, inboxesIn } from "../../inbox-kit.ts";
import { Folder } from "../../kit.ts";
import { append, numbered } from "./kit.ts";

/** What can happen to an inbox and its lane. */
const Step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("append" as const),
      count: fc.integer({ min: 1, max: 5 }),
      urgent: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("append held" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("release" as const) }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("send" as const),
      urgentOnly: fc.boolean(),
      all: fc.boolean(),
      fails: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("restart" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("rename" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("tear" as const) }) },
);

test("whatever happens, each event is taken once, in the order of its urgency, and a message that fails is made again with its id", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(Step, { minLength: 5, maxLength: 60 }), async (steps) => {
      using folder = new Folder();
      await using of = inboxesIn(folder);
      const inboxes = await of.open();
      append(folder, "ops", ["old"]);
      const open = (): Lane => openLane({ inboxes, delivery: "hub", recipient: "ops", min: "normal", warn: () => {} });
      let lane = open();
      await lane.begin("now");
      const given = { urgent: [] as string[], normal: [] as string[] };
      const taken = { urgent: [] as string[], normal: [] as string[], held: [] as string[] };
      const sentinel = folder.at("ready");
      let [written, renamed, held] = [0, 0, 0];
      let hand: { id: string; count: number; urgentOnly: boolean } | null = null;

      const put = (count: number, kind: "urgent" | "normal") => {
        const payloads = numbered(count, written + 1);
        written += count;
        given[kind].push(...payloads);
        append(folder, "ops", payloads, { priority: kind });
      };
      const send = async (urgentOnly: boolean, all: boolean, fails: boolean): Promise<void> => {
        await lane.look(1);
        const count = hand?.urgentOnly === urgentOnly ? hand.count : null;
        const batch = await lane.gather({ urgentOnly, all, count, now: 1 });
        if (!batch) return;
        if (count !== null && hand !== null && !released) expect(batch.id).toBe(hand.id);
        if (fails) {
          hand = { id: batch.id, count: batch.count, urgentOnly };
          return;
        }
        hand = null;
        expect(await batch.accept()).toBe(true);
        for (const { payload, priority } of batch.events)
          taken[payload.startsWith("held") ? "held" : priority === "urgent" ? "urgent" : "normal"].push(payload);
      };
      // What was held comes before the events behind it, in another message than the first time.
      let released = false;
      for (const step of steps) {
        if (step.do === "append") put(step.count, step.urgent ? "urgent" : "normal");
        if (step.do === "append held") append(folder, "ops", [`held ${++held}`], { sentinel });
        if (step.do === "release") writeFileSync(sentinel, "");
        if (step.do === "release") released = true;
        if (step.do === "tear") of.append("ops", "{torn\n");
        if (step.do === "rename" && !IN_TABLES)
          renameSync(folder.at("inbox/ops.inbox"), folder.at(`inbox/ops.inbox-2026${++renamed + 1000}`));
        if (step.do === "rename") append(folder, "ops", [], {});
        if (step.do === "send") await send(step.urgentOnly, step.all, step.fails);
        if (step.do !== "restart") continue;
        lane.close();
        lane = open();
      }
      writeFileSync(sentinel, "");
      released = true;
      for (let more = true; more; await lane.look(1)) {
        await send(false, true, false);
        const { urgent, normal } = lane.waiting();
        more = urgent.count + normal.count > 0;
      }
      lane.close();
      rmSync(sentinel);
      expect(taken.urgent).toEqual(given.urgent);
      expect(taken.normal).toEqual(given.normal);
      expect(taken.held.toSorted()).toEqual(Array.from({ length: held }, (_, n) => `held ${n + 1}`).toSorted());
    }),
    { numRuns: Number(process.env["PICKET_FUZZ_INPUTS"] ?? 60), seed: 20261128 },
  );
});
