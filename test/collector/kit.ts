// What the collector's tests share: a configuration with two routes and a drop folder, drops, and what inboxes hold.

import { mkdirSync, renameSync, utimesSync } from "node:fs";
import { inboxesIn } from "../inbox-kit.ts";
import { type Folder, inboxLines } from "../kit.ts";

/** Two routes, to bob and to eve, and a drop folder. */
export function configuration(folder: Folder, more = ""): string {
  mkdirSync(folder.at("drops"), { recursive: true });
  const route = (to: string) => `{ path: /${to}, recipient: ${to}, type: INFO, template: "to ${to}" }`;
  return folder.write(
    "collector.yaml",
    `agent: foreman\n${inboxesIn(folder).yaml}\nwebhook: { listen: "127.0.0.1:0", dedupe_hours: 0, routes: [${route("bob")}, ${route("eve")}] }\ndrop_folder: { path: ${folder.at("drops")}, settle_ms: 50 }\n${more}`,
  );
}

/** Puts a drop into the folder whole, as its producers do. */
export function drop(folder: Folder, name: string, recipient: string, at?: number): void {
  const path = folder.write(`drops/.${name}`, JSON.stringify({ recipient, type: "INFO", payload: name }));
  if (at !== undefined) utimesSync(path, at, at);
  renameSync(path, folder.at("drops", name));
}

export const payloads = (folder: Folder, recipient: string) =>
  inboxLines(folder.at("inbox"), recipient).map(({ payload }) => payload);

export const isRoot = process.getuid?.() === 0;
/** The account without rights that every system has. */
export const NOBODY = 65_534;
export const AS_NOBODY = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
