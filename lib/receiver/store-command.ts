// What the receiver's commands share: each opens the store itself, also while the daemon runs.

import { existsSync } from "node:fs";
import { isPostgres } from "../config.ts";
import { type CommandContext, UsageError } from "../service.ts";
import { columns } from "../text.ts";
import type { Config } from "./config.ts";
import type { Queries } from "../database.ts";
import { storeFile } from "./sqlite.ts";
import { Store } from "./store.ts";

/** The settings that these commands use. */
export type Context<A = object> = CommandContext<Config, A>;

/** Opens the store for one command. Only `host add` makes one, so that a wrong configuration doesn't look like an empty fleet. */
export async function withStore<T>(
  context: Context,
  work: (store: Store, config: Config) => Promise<T>,
  { make = false } = {},
): Promise<T> {
  const config = await context.loadConfig();
  if (!make && !isPostgres(config.store) && !existsSync(storeFile(config.data_dir))) {
    throw new UsageError(
      `there is no store in "${config.data_dir}" yet`,
      "picket-receiver host add NAME makes it; is this the right --config?",
    );
  }
  const store = await Store.open(config);
  try {
    return await work(store, config);
  } finally {
    // Open pages look anew.
    store.hint("change");
    await store.close();
  }
}

/** Changes a host, and prints the text that `work` gives. */
export function change(context: Context, work: (tx: Queries, name: string) => Promise<string>): Promise<void> {
  return withStore(context, async (store) => {
    context.print(await store.write((tx) => work(tx, context.positionals[0] ?? "")));
  });
}

export function many(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

/** Rows in columns, below their titles. */
export const table = (head: string[], rows: string[][]): string => columns([head, ...rows]);
