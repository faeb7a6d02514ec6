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
  const days = [...new Set([...DAYS.map((ahead) => Math.floor(now / DAY_MS) + ahead), ...others])];
  const partitions = await tx.all<{ name: string }>(
    "SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent IN (CAST($1 AS regclass), CAST($2 AS regclass))",
    [...TABLES],
  );
  const names = partitions.map(({ name }) => name);
  const changes = TABLES.map((table) => {
    const oldest = nameOf(table, Math.floor(before / DAY_MS));
    const own = names.filter((name) => name.startsWith(`${table}_`));
    return {
      table,
      fresh: days.filter((day) => !own.includes(nameOf(table, day))),
      old: own.filter((name) => /_\d{8}$/.test(name) && name < oldest),
    };
  });
  // A reader locks the table, then its partitions. In another order the two could wait for each other.
  if (changes.some(({ fresh, old }) => fresh.length + old.length > 0))
    await tx.run(`LOCK TABLE ${TABLES.join(", ")} IN ACCESS EXCLUSIVE MODE`);
  for (const { table, fresh, old } of changes) {
    for (const day of fresh) await addDay(tx, table, day);
    for (const name of old) await tx.run(`DROP TABLE ${name}`);
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
