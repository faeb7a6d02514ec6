// Checks an observer, from its configuration to what it records.

import { accessSync, constants, existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Check, ago, doctorCommand, examineListener, green, notifies, red, yellow } from "../doctor.ts";
import { inboxFolders } from "../inbox-place.ts";
import { errorChain } from "../log.ts";
import type { Config } from "./config.ts";
import { LogTail } from "./tail.ts";

const LOG = "journalctl -u picket-observer -p warning -n 50";

const folders = ({ persist_path, notify }: Config) => [
  ...(persist_path === "" ? [] : [dirname(persist_path)]),
  ...(notify ? inboxFolders(notify) : []),
];

export const doctor = doctorCommand<Config>("observer", folders, async (config) => {
  const { persist_path, notify, overseer_corrections: corrections } = config;
  const folder = persist_path === "" ? null : dirname(persist_path);
  const last =
    persist_path !== "" && existsSync(persist_path) ? (await new LogTail(persist_path).newest(1)).at(-1) : null;
  const newest = last ? Date.parse(last.timestamp) : null;
  const lock = folder === null ? null : join(folder, "observer.lock");
  const about = { ...config, folders: folders(config), owned: folder === null ? [] : [folder], newest, lock };
  const { checks, figures } = await examineListener("observer", about);
  const waiting = Number(figures["escalations_waiting"] ?? 0);
  return [
    ...checks,
    ...(folder === null ? [] : [operations(newest)]),
    ...(waiting > 0 ? [yellow("escalations", `${waiting} wait for the inbox`, LOG)] : []),
    ...(corrections === undefined ? [] : [readable(corrections)]),
    await notifies("observer", "escalations", notify),
  ];
});

function operations(newest: number | null): Check {
  if (newest !== null) return green("operations", `the last one ${ago(newest)}`);
  return yellow("operations", "none is recorded yet", "picket-observer example, and docs/observer.md");
}

/** Whether the corrections' file, which another program writes, can be read. */
function readable(path: string): Check {
  if (!existsSync(path)) return yellow("corrections", `${path} does not exist yet`, "is overseer_corrections right?");
  try {
    accessSync(path, constants.R_OK);
    return green("corrections", path);
  } catch (error) {
    return red("corrections", errorChain(error), `ls -l ${path}`);
  }
}
