// Checks a collector, from its configuration to its readers.

import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { type Check, ago, doctorCommand, examineListener, green, red, yellow } from "../doctor.ts";
import { textArray } from "../database.ts";
import type { InboxDatabase } from "../inbox-database.ts";
import { type InboxPlace, inboxFolders, inboxPlace } from "../inbox-place.ts";
import { statePath } from "../inbox.ts";
import { type Inboxes, openInboxes } from "../inboxes.ts";
import { markPath } from "../file-mark.ts";
import { parseMark } from "../mark.ts";
import { size } from "../text.ts";
import type { Config } from "./config.ts";
import { parseState } from "./deliver/state.ts";
import { deliveryList } from "./deliveries.ts";
import { DROP_NAME, PASSED_OVER } from "./drop-folder.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** A larger inbox takes long to read. */
const LARGE_BYTES = 256 << 20;

const folders = (config: Config) =>
  config.drop_folder ? [config.inbox_dir, config.drop_folder.path] : inboxFolders(config);

export const doctor = doctorCommand<Config>("collector", folders, async (config) => {
  const { webhook, drop_folder } = config;
  const place = inboxPlace(config);
  await using inboxes = await openInboxes(place, { patienceMs: 0 });
  const problem = (await place.database?.problem()) ?? null;
  const isThere = problem === null;
  const found = isThere ? await (place.database ? inTables(place.database, inboxes) : inFolder(place.dir)) : null;
  const about = {
    ...config,
    listen: webhook?.listen,
    folders: folders(config),
    owned: inboxFolders(config),
    newest: found?.newest ?? null,
    lock: null,
  };
  const checks = [
    ...(await examineListener("collector", about)).checks,
    ...(isThere && webhook && webhook.routes.length > 0 ? [await deliveries(place)] : []),
    ...(drop_folder ? drops(drop_folder.path) : []),
    ...(isThere ? await Promise.all(config.deliver.map(({ name }) => sent(inboxes, name))) : []),
    ...(found?.checks ?? [red("inboxes", problem ?? "", "look into the database's log, and at `inbox`")]),
  ];
  await place.database?.close();
  return checks;
});

/** What inboxes there are: when the newest event came, in milliseconds since 1970, and what is wrong with some. */
interface Found {
  newest: number;
  checks: Check[];
}

function foundIn(where: string, { ages, checks }: { ages: number[]; checks: Check[] }): Found {
  const newest = Math.max(0, ...ages);
  const last =
    ages.length === 0
      ? yellow("inboxes", `no event has come to ${where} yet`, 'picket-collector ping RECIPIENT "it works"')
      : green("inboxes", `${ages.length}, the last event ${ago(newest)}`);
  return { newest, checks: [...checks, last] };
}

async function inFolder(dir: string): Promise<Found> {
  const names = listed(dir).filter((name) => name.endsWith(".inbox") && existsSync(join(dir, name)));
  const ages = names.map((name) => statSync(join(dir, name)).mtimeMs);
  return foundIn(dir, { ages, checks: names.flatMap((name) => unread(dir, name)) });
}

const NEWEST = `SELECT (SELECT at FROM inbox WHERE recipient = name ORDER BY seq DESC LIMIT 1) AS at
  FROM unnest($1::text[]) AS name`;
// Of each recipient the reader that came last; deliveries have checks of their own.
const READERS = `SELECT DISTINCT ON (recipient) recipient, reader, at FROM inbox_marks
  WHERE reader NOT LIKE 'deliver:%' ORDER BY recipient, at DESC`;
const BEHIND = "SELECT COUNT(*) AS events FROM inbox WHERE recipient = $1 AND seq >= $2";

async function inTables(database: InboxDatabase, inboxes: Inboxes): Promise<Found> {
  const { read } = await database.open();
  const rows = await read.all<{ at: number }>(NEWEST, [textArray(await inboxes.recipients())]);
  const readers = await read.all<{ recipient: string; reader: string; at: number }>(READERS);
  const checks: Check[] = [];
  for (const { recipient, reader, at } of readers.filter((one) => Date.now() - one.at > DAY_MS)) {
    const seen = parseMark(await inboxes.mark({ recipient, reader }).read()).at(-1)?.offset ?? 0;
    const { events } = (await read.one<{ events: number }>(BEHIND, [recipient, seen]))!;
    if (events > 0) checks.push(behind(recipient, { since: at, unseen: `${events} events` }));
  }
  return foundIn(database.url, { ages: rows.map(({ at }) => at), checks });
}

function behind(recipient: string, { since, unseen }: { since: number; unseen: string }): Check {
  const detail = `its reader came last ${ago(since)}, and has not seen ${unseen}`;
  return yellow(`inbox ${recipient}`, detail, `picket-collector read ${recipient} --new`);
}

function listed(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).toSorted() : [];
}

/** Whether deliveries arrive, and are taken. */
async function deliveries(place: InboxPlace): Promise<Check> {
  const name = "deliveries";
  const records = await deliveryList(place).read();
  const last = records.at(-1);
  if (!last) return yellow(name, "none has arrived yet", "look into the sender's list of deliveries, and at the proxy");
  const since = Date.now() - HOUR_MS;
  const refused = records.filter(({ status, ts }) => status >= 400 && Date.parse(ts) > since);
  const arrived = `the last one ${ago(Date.parse(last.ts))}`;
  if (refused.length === 0) return green(name, arrived);
  const { route, status, reason = "" } = refused.at(-1)!;
  const detail = `${arrived}; ${refused.length} refused within an hour, such as ${route}: ${status} ${reason}`;
  return yellow(name, detail, "picket-collector deliveries --failed");
}

/** Whether the other side of a delivery takes its messages. */
async function sent(inboxes: Inboxes, delivery: string): Promise<Check> {
  const name = `delivery ${delivery}`;
  const { failing } = parseState(await inboxes.delivery(delivery).read());
  if (!failing) return green(name, "nothing fails");
  const detail = `${failing.held ? "is held" : "fails"}: ${failing.error}; it began ${ago(failing.since)}`;
  return (failing.held ? red : yellow)(name, detail, `picket-collector deliver test ${delivery}`);
}

/** What waits in the drop folder, and what can't be a drop. */
function drops(folder: string): Check[] {
  const dead = listed(join(folder, ".dead-letter")).filter((name) => !name.endsWith(".reason"));
  const old = listed(folder).filter((name) => {
    const stats = statSync(join(folder, name), { throwIfNoEntry: false });
    return DROP_NAME.test(name) && !PASSED_OVER.test(name) && stats && Date.now() - stats.mtimeMs > HOUR_MS;
  });
  const fix = `cat ${join(folder, ".dead-letter")}/*.reason; fix a file, and move it back`;
  return [
    dead.length === 0 ? green("dead letters", "none") : yellow("dead letters", `${dead.length}`, fix),
    ...(old.length === 0
      ? []
      : [yellow("drops", `${old.length} wait for over an hour`, "journalctl -u picket-collector -n 50")]),
  ];
}

/** An inbox that is large, or that its reader has left. */
function unread(folder: string, file: string): Check[] {
  const path = join(folder, file);
  const recipient = file.slice(0, -".inbox".length);
  const bytes = statSync(path).size;
  const checks: Check[] = [];
  if (bytes > LARGE_BYTES) {
    checks.push(yellow(`inbox ${recipient}`, `has ${size(bytes)}`, `mv ${path} ${path}.1`));
  }
  const mark = newestMark(folder, recipient);
  if (mark === undefined) return checks;
  const left = bytes - (parseMark(readFileSync(mark, "utf8")).at(-1)?.offset ?? Infinity);
  const since = statSync(mark).mtimeMs;
  if (left > 0 && Date.now() - since > DAY_MS) checks.push(behind(recipient, { since, unseen: size(left) }));
  return checks;
}

/** Of the reader that came last; deliveries have checks of their own. */
function newestMark(folder: string, recipient: string): string | undefined {
  const beside = listed(statePath(folder)).filter(
    (name) => name.endsWith(`@${recipient}.mark`) && !name.startsWith("deliver:"),
  );
  const marks = [
    markPath({ dir: folder, recipient, reader: "agent" }),
    ...beside.map((name) => join(statePath(folder), name)),
  ];
  const age = (path: string): number => statSync(path).mtimeMs;
  return marks.filter((path) => existsSync(path)).toSorted((a, b) => age(b) - age(a))[0];
}
