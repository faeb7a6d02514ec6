// Folders that a role needs and may not make: it says where, and what to do. (An agent reports all the same: agent/backlog.test.ts.)

import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { Folder, runRole } from "./kit.ts";

/** Nobody makes a folder there, root included. */
const FORBIDDEN = "/sys/picket";

const CONFIGURATIONS = [
  ["collector", `agent: a\ninbox_dir: ${FORBIDDEN}\nwebhook: { listen: "127.0.0.1:0" }\n`],
  ["receiver", `listen: "127.0.0.1:0"\ndata_dir: ${FORBIDDEN}\n`],
  ["observer", `listen: "127.0.0.1:0"\npersist_path: ${FORBIDDEN}/ops.jsonl\n`],
] as const;

const hasSys = existsSync("/sys/kernel");

if (!hasSys) console.log("skipped: data where nobody may write: there is no /sys here");

test.skipIf(!hasSys).each(CONFIGURATIONS)("%s", async (role, configuration) => {
  using folder = new Folder();
  const { code, stderr } = await runRole(role, ["--config", folder.write("config.yaml", configuration)]);
  expect([code, stderr]).toEqual([
    1,
    expect.stringMatching(
      new RegExp(
        `^picket-${role}: error: make the folder "${FORBIDDEN}": E(PERM|ACCES|ROFS): .*\nhint: run it as root or as the account`,
      ),
    ),
  ]);
});
