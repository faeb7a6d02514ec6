// Checks an observer, from its configuration to what it records.

import { accessSync, constants, existsSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  type Check,
  ago,
  certificates,
  daemon,
  doctorCommand,
  green,
  owners,
  ownClock,
  red,
  rights,
  space,
  unit,
  yellow,
} from "../doctor.ts";
import { errorChain } from "../log.ts";
import type { Config } from "./config.ts";
import { LogTail } from "./tail.ts";

const LOG = "journalctl -u picket-observer -p warning -n 50";

export const doctor = doctorCommand<Config>("observer", async (config) => {
  const { persist_path, notify, overseer_corrections: corrections } = config;
  const folder = persist_path === "" ? null : dirname(persist_path);
  const folders = [...(folder === null ? [] : [folder]), ...(notify ? [notify.inbox_dir] : [])];
  const lock = folder === null ? null : join(folder, "observer.lock");
  const { checks, figures } = await daemon("observer", config, lock);
  const waiting = Number(figures["escalations_waiting"] ?? 0);
  const last =
    persist_path !== "" && existsSync(persist_path) ? (await new LogTail(persist_path).newest(1)).at(-1) : null;
  const newest = last ? Date.parse(last.timestamp) : null;
  return [
    ...space(folders),
    ...rights("observer", folders),
    ...(folder === null ? [] : owners(folder)),
    ...certificates("observer", config),
    ...(await ownClock(newest)),
    ...(await unit("observer")),
    ...checks,
    ...(folder === null ? [] : [operations(newest)]),
    ...(waiting > 0 ? [yellow("escalations", `${waiting} wait for the inbox`, LOG)] : []),
    ...(corrections === undefined ? [] : [readable(corrections)]),
    notify
      ? green("notify", `escalations go to ${notify.recipient} in ${notify.inbox_dir}`)
      : yellow("notify", "no inbox gets the escalations", "picket-observer example (notify)"),
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
