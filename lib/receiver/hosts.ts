// Hosts and their tokens. A token is shown once, when it is made. The store has its SHA-256 only, so that the store or a backup
// of it gives no access. A token has 238 random bits: that makes a plain hash safe.

import { randomInt } from "node:crypto";
import { UsageError } from "../command-line.ts";
import { NAME_SEGMENT } from "../config.ts";
import type { Queries } from "../database.ts";

export const STATUSES = ["pending", "online", "stale", "offline", "archived"] as const;
/** `pending`: it has never reported. `archived`: its requests are refused. */
export type Status = (typeof STATUSES)[number];

/** What a report is compared with, of a row of `hosts`. Times in milliseconds since 1970. */
export interface ReportingHost {
  id: number;
  name: string;
  status: Status;
  archived_at: number | null;
  /** Seconds between reports, set for this host alone. */
  set_interval: number | null;
  /** Seconds between reports as the host was last told. */
  told_interval: number | null;
  /** Receipt of the last report that wasn't late. */
  last_seen_at: number | null;
  last_recorded_at: number | null;
  /** The receiver's running time then. */
  heard_ms: number;
  agent_version: string | null;
  /** JSON. */
  facts: string;
  /** JSON: see report-alerts.ts and container-alerts.ts. */
  refused: string | null;
  machines: string | null;
  restarts: string | null;
  /** JSON: see alert-settings.ts. */
  alert_settings: string | null;
  /** JSON: see assess.ts. */
  judged: string | null;
  disk_paces: string | null;
}

/** A row of `hosts`. */
export interface Host extends ReportingHost {
  created_at: number;
  /** JSON. */
  metrics: string;
  health: string | null;
  health_at: number | null;
  last_upload_at: number | null;
  uploads_refused_since: number | null;
  upload_refused_at: number | null;
  paused_until: number | null;
  pause_reason: string | null;
  /** Its silence raises no alert. */
  offline_is_fine: 0 | 1;
  /** JSON: names, sorted. */
  tags: string;
}

/** A row of `tokens`. */
interface TokenRow {
  id: number;
  host: string;
  created_at: number;
  last_used_at: number | null;
  revoked_at: number | null;
  fingerprint: string | null;
}

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/** `pk_` and 40 random letters and digits. */
function newToken(): string {
  return `pk_${Array.from({ length: 40 }, () => ALPHABET[randomInt(ALPHABET.length)]).join("")}`;
}

/** Whether a text has the form of a token. */
export function isToken(text: string): boolean {
  return /^pk_[A-Za-z0-9]{40}$/.test(text);
}

/** In hex: the stored form of a token. */
export function sha256(text: string): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex");
}

/** The names that a host had before. */
export async function formerNames(db: Queries, id: number): Promise<string[]> {
  const rows = await db.all<{ name: string }>("SELECT name FROM host_aliases WHERE host = $1 ORDER BY name", [id]);
  return rows.map(({ name }) => name);
}

/** Makes a host, or brings an archived one back, and gives its token. */
export async function addHost(tx: Queries, name: string, now: number): Promise<string> {
  if (!NAME_SEGMENT.test(name)) {
    throw new UsageError(
      `host "${name}" is not a valid name`,
      "1 to 128 letters, digits, dots, dashes and underscores, starting with a letter or digit",
    );
  }
  await freeName(tx, name, null);
  const found = await hostNamed(tx, name);
  if (found && found.status !== "archived") {
    throw new UsageError(`host "${name}" exists already`, `for a new token: picket-receiver token rotate ${name}`);
  }
  if (found) {
    // Forget how it was before: what is wrong now begins now, and a pause while it was archived is no reason for an alert.
    await tx.run(
      `UPDATE hosts SET status = 'pending', archived_at = NULL, last_upload_at = NULL, uploads_refused_since = NULL,
       refused = NULL, machines = NULL, restarts = NULL WHERE id = $1`,
      [found.id],
    );
    await tx.run("UPDATE containers SET gone_at = $1 WHERE host = $2 AND gone_at IS NULL", [now, found.id]);
  } else {
    await tx.run("INSERT INTO hosts (name, status, created_at) VALUES ($1, 'pending', $2)", [name, now]);
  }
  return giveToken(tx, (await findHost(tx, name)).id, now);
}

/** Revokes all active tokens of a host and gives a new one. */
export async function rotateToken(tx: Queries, name: string, now: number): Promise<string> {
  const host = await findActiveHost(tx, name);
  await revokeTokens(tx, name, now);
  return giveToken(tx, host.id, now);
}

/** Revokes all active tokens of a host; gives their number. */
export async function revokeTokens(tx: Queries, name: string, now: number): Promise<number> {
  const host = await findHost(tx, name);
  return tx.run("UPDATE tokens SET revoked_at = $1 WHERE host = $2 AND revoked_at IS NULL", [now, host.id]);
}

/** Takes a host out of service: its tokens are revoked, its alerts closed, its history stays. */
export async function archiveHost(tx: Queries, name: string, now: number): Promise<void> {
  const host = await findHost(tx, name);
  await revokeTokens(tx, name, now);
  await tx.run("UPDATE hosts SET status = 'archived', archived_at = COALESCE(archived_at, $1) WHERE id = $2", [
    now,
    host.id,
  ]);
  await tx.run("UPDATE alerts SET closed_at = $1 WHERE host = $2 AND closed_at IS NULL", [now, host.id]);
  // Nothing of it is told any more.
  await tx.run("DELETE FROM told WHERE host = $1", [host.id]);
  await tx.run("UPDATE hosts SET judged = NULL, disk_paces = NULL WHERE id = $1", [host.id]);
  await tx.run("DELETE FROM disk_history WHERE host = $1", [host.id]);
}

/** What a host has in the store, by tables with its number. */
const TABLES =
  "tokens host_lists containers guests alerts told events disk_history host_aliases host_samples workload_samples host_rollups workload_rollups rollups_due";

/** Deletes a host with all that the store has of it. Its episodes stay. */
export async function deleteHost(tx: Queries, name: string): Promise<void> {
  const { id } = await findHost(tx, name);
  for (const table of TABLES.split(" ")) await tx.run(`DELETE FROM ${table} WHERE host = $1`, [id]);
  await tx.run("DELETE FROM hosts WHERE id = $1", [id]);
}

/**
 * Makes a name free that is only the former one of a host.
 * @param host the host that may have it back; null for a new one.
 * @throws UsageError where a host has this name, or its episodes are still moved.
 */
export async function freeName(tx: Queries, name: string, host: number | null): Promise<void> {
  const named = await tx.one<Host>("SELECT * FROM hosts WHERE name = $1", [name]);
  if (named && host !== null) throw new UsageError(`there is a host "${name}" already`, "choose another name");
  const moving = await tx.one("SELECT 1 FROM host_aliases WHERE name = $1 AND host <> $2 AND settled_at IS NULL", [
    name,
    host ?? 0,
  ]);
  if (moving) throw new UsageError(`the episodes of the former host "${name}" are still being moved: try again`);
  await tx.run("DELETE FROM host_aliases WHERE name = $1", [name]);
}

/** Lets the next request bind the host's token again: for a machine that was reinstalled or has moved. */
export async function rebindHost(tx: Queries, name: string): Promise<void> {
  const host = await findHost(tx, name);
  await tx.run("UPDATE tokens SET fingerprint = NULL WHERE host = $1", [host.id]);
  await tx.run("UPDATE hosts SET machines = NULL WHERE id = $1", [host.id]);
}

/** Sets the seconds between reports of one host; null: the same as all others. */
export async function setInterval(tx: Queries, name: string, seconds: number | null): Promise<void> {
  const host = await findActiveHost(tx, name);
  await tx.run("UPDATE hosts SET set_interval = $1 WHERE id = $2", [seconds, host.id]);
}

/** Adds tags to a host and takes others away; gives those that it has then. @throws UsageError where one is no name. */
export async function changeTags(
  tx: Queries,
  { id, tags: before }: Pick<Host, "id" | "tags">,
  { add, remove }: { add: readonly string[]; remove: readonly string[] },
): Promise<string[]> {
  const odd = add.find((tag) => !NAME_SEGMENT.test(tag));
  if (odd !== undefined) {
    throw new UsageError(`--tag "${odd}" is not a valid name`, "letters, digits, dots, dashes and underscores");
  }
  const tags = [...new Set([...tagsOf({ tags: before }), ...add])].filter((tag) => !remove.includes(tag)).toSorted();
  await tx.run("UPDATE hosts SET tags = $1 WHERE id = $2", [JSON.stringify(tags), id]);
  return tags;
}

export const tagsOf = ({ tags }: Pick<Host, "tags">): string[] => JSON.parse(tags) as string[];

/** Keeps the doctor's last result, as JSON. */
export async function setHealth(tx: Queries, id: number, health: string): Promise<void> {
  await tx.run("UPDATE hosts SET health = $1, health_at = $2 WHERE id = $3", [health, Date.now(), id]);
}

/** The host that a command names. @throws UsageError when there is none. */
export async function findHost(db: Queries, name: string): Promise<Host> {
  const found = await hostNamed(db, name);
  if (!found) throw new UsageError(`there is no host "${name}"`, "picket-receiver host list shows them");
  return found;
}

/** The same, unless it is archived. */
export async function findActiveHost(db: Queries, name: string): Promise<Host> {
  const host = await findHost(db, name);
  if (host.status !== "archived") return host;
  throw new UsageError(`host "${name}" is archived`, `to bring it back: picket-receiver host add ${name}`);
}

/** The host of that name, or that had it before. */
export function hostNamed(db: Queries, name: string): Promise<Host | undefined> {
  return db.one<Host>("SELECT * FROM hosts WHERE name = $1 OR id = (SELECT host FROM host_aliases WHERE name = $1)", [
    name,
  ]);
}

/** A stored time in RFC 3339. */
export function time<T extends number | null>(at: T): T extends number ? string : string | null;
export function time(at: number | null): string | null {
  return at === null ? null : new Date(at).toISOString();
}

/** All hosts by name. */
export function listHosts(db: Queries): Promise<Host[]> {
  return db.all<Host>("SELECT * FROM hosts ORDER BY name");
}

/** All tokens, or those of one host; never the tokens themselves. */
export function listTokens(db: Queries, name: string | null): Promise<TokenRow[]> {
  return db.all<TokenRow>(
    `SELECT t.id, h.name AS host, t.created_at, t.last_used_at, t.revoked_at, t.fingerprint
     FROM tokens t JOIN hosts h ON h.id = t.host WHERE h.name = $1 OR $1 IS NULL ORDER BY h.name, t.id`,
    [name],
  );
}

async function giveToken(tx: Queries, host: number, now: number): Promise<string> {
  const token = newToken();
  await tx.run("INSERT INTO tokens (host, sha256, created_at) VALUES ($1, $2, $3)", [host, sha256(token), now]);
  return token;
}
