// Escalations while their inbox is changed by a reload.

import { expect, test } from "bun:test";
import { Clusters } from "../../lib/observer/clusters.ts";
import { Escalations } from "../../lib/observer/escalations.ts";
import { readOperation } from "../../lib/observer/operation.ts";
import { createLog } from "../../lib/log.ts";
import { Folder, inboxLines, until } from "../kit.ts";

test("an inbox that is changed while escalations are told loses none of them", async () => {
  using folder = new Folder();
  const rules = { threshold: 1, windowMs: 60_000, cooldownMs: 60_000 };
  const clusters = new Clusters(rules);
  const names = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma".split(
    " ",
  );
  for (const endpoint of names) {
    const read = readOperation({ endpoint, success: false, error: "no" }, Date.now());
    if ("operation" in read) clusters.add(read.operation);
  }
  await clusters.analyze();
  const inbox = (name: string) => ({ inbox_dir: folder.at(name), recipient: "ops" });
  const escalations = await Escalations.open({
    folder: folder.path,
    durability: "disk",
    clusters,
    cooldownMs: rules.cooldownMs,
    notify: inbox("old"),
    model: null,
    log: createLog({ role: "test", json: false, level: "error", write: () => {} }),
  });
  const signal = new AbortController().signal;
  const pass = escalations.pass({ signal }).catch(() => {});
  await until("the first is told", () => inboxLines(folder.at("old"), "ops").length > 0);
  escalations.configure({ cooldownMs: rules.cooldownMs, notify: inbox("new"), model: null });
  await pass;
  await escalations.pass({ signal });
  const told = [...inboxLines(folder.at("old"), "ops"), ...inboxLines(folder.at("new"), "ops")];
  const ids = new Set(told.map(({ source }) => source));
  expect(ids.size).toBe(names.length);
  await escalations.close();
});
