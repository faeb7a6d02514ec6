// What a host lists: its disks, devices, processes and so on. It is only shown, and has a row of its own: it is most of a report, and
// counters change it each time.

import type { Report } from "../report.ts";
import type { Queries } from "../database.ts";

/**
 * A row of `host_lists`. `lists`: JSON, what the last report had; `names`: its keys; `rest`: JSON, what reports had before and the
 * last one has not. So nothing is read or merged while reports have the same lists.
 */
export interface ListsRow {
  names: string;
  rest: string;
  lists: string;
}

/** Keeps a report's lists. What it lacks stays as it was known. */
export async function keepLists(tx: Queries, host: number, report: Report): Promise<void> {
  const { metrics: _metrics, facts: _facts, ...lists } = report.host;
  const { cloudflared, services, storage_targets, backups, restore_tests, pbs_snapshots, audit_tail } = report;
  const told = { ...lists, cloudflared, services, storage_targets, backups, restore_tests, pbs_snapshots, audit_tail };
  const given: Record<string, unknown> = {};
  for (const [name, list] of Object.entries(told)) if (list !== null) given[name] = list;
  const names = Object.keys(given).join(" ");
  const text = JSON.stringify(given);
  const same = "UPDATE host_lists SET lists = $1 WHERE host = $2 AND names = $3";
  if ((await tx.run(same, [text, host, names])) > 0) return;
  const before = await tx.one<ListsRow>("SELECT names, rest, lists FROM host_lists WHERE host = $1", [host]);
  const rest = Object.entries(before ? listsOf(before) : {}).filter(([name]) => !(name in given));
  await tx.run(
    `INSERT INTO host_lists (host, names, rest, lists) VALUES ($1, $2, $3, $4)
     ON CONFLICT (host) DO UPDATE SET names = $2, rest = $3, lists = $4`,
    [host, names, JSON.stringify(Object.fromEntries(rest)), text],
  );
}

/** All lists that are known of a host. */
export function listsOf({ rest, lists }: Pick<ListsRow, "rest" | "lists">): Record<string, unknown> {
  return { ...(JSON.parse(rest) as object), ...(JSON.parse(lists) as object) };
}
