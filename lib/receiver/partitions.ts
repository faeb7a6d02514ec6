// Samples in PostgreSQL: each day in a partition of its own, which is dropped when its samples are too old.
//
// A day's partition is made before the day. What has none goes into the rest (`…_rest`): reports of a queue on the first day, and those that
// came under a wrong clock. When a day in the rest gets its partition, its rows move there.

import type { Queries } from "../database.ts";

export const DAY_MS = 86_400_000;
const TABLES = ["host_samples", "workload_samples"] as const;
/** Days that have a partition, from today on: yesterday for what comes late, and two that lie ahead, in case that no pass comes for long. */
const DAYS = [-1, 0, 1, 2];

const nameOf = (table: string, day: number): string =>
  `${table}_${new Date(day * DAY_MS).toISOString().slice(0, 10).replaceAll("-", "")}`;

/**
 * Makes the partitions of the days around `now` and of other days (since 1970), drops those whose samples are all from before `before`, and
 * deletes such from the rest.
 */
export async function partitionPass(
  tx: Queries,
  { now, before, others = [] }: { now: number; before: number; others?: readonly number[] },
): Promise<void> {
  const days = new Set([...DAYS.map((ahead) => Math.floor(now / DAY_MS) + ahead), ...others]);
  for (const table of TABLES) {
    const partitions = await tx.all<{ name: string }>(
      "SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = CAST($1 AS regclass)",
      [table],
    );
    const names = new Set(partitions.map(({ name }) => name));
    for (const day of days) if (!names.has(nameOf(table, day))) await addDay(tx, table, day);
    const oldest = nameOf(table, Math.floor(before / DAY_MS));
    for (const name of names) if (/_\d{8}$/.test(name) && name < oldest) await tx.run(`DROP TABLE ${name}`);
    await tx.run(`DELETE FROM ${table}_rest WHERE at < $1`, [before]);
  }
}

async function addDay(tx: Queries, table: string, day: number): Promise<void> {
  const name = nameOf(table, day);
  const [from, to] = [day * DAY_MS, (day + 1) * DAY_MS];
  await tx.run(`CREATE TABLE ${name} (LIKE ${table} INCLUDING ALL)`);
  await tx.run(
    `WITH moved AS (DELETE FROM ${table}_rest WHERE at >= $1 AND at < $2 RETURNING *) INSERT INTO ${name} SELECT * FROM moved`,
    [from, to],
  );
  await tx.run(`ALTER TABLE ${table} ATTACH PARTITION ${name} FOR VALUES FROM (${from}) TO (${to})`);
}
