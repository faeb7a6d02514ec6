// Checks a collector, from its configuration to its readers.

import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { type Check, ago, doctorCommand, examineListener, green, red, yellow } from "../doctor.ts";
import { inboxPlace } from "../inbox-place.ts";
import { statePath } from "../inbox.ts";
import { openInboxes } from "../inboxes.ts";
import { markPath } from "../file-mark.ts";
import { parseMark } from "../mark.ts";
import { duration, size } from "../text.ts";
import type { Config } from "./config.ts";
import { parseState } from "./deliver/state.ts";
import { deliveryList } from "./deliveries.ts";
import { DROP_NAME, PASSED_OVER } from "./drop-folder.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** A larger inbox takes long to read. */
const LARGE_BYTES = 256 << 20;

const folders = ({ inbox_dir, drop_folder }: Config) => [inbox_dir, ...(drop_folder ? [drop_folder.path] : [])];

export const doctor = doctorCommand<Config>("collector", folders, async (config) => {
  const { inbox_dir, webhook, drop_folder } = config;
  const inboxes = listed(inbox_dir).filter((name) => name.endsWith(".inbox") && existsSync(join(inbox_dir, name)));
  const newest = Math.max(0, ...inboxes.map((name) => statSync(join(inbox_dir, name)).mtimeMs));
  const about = {
    ...config,
    listen: webhook?.listen,
    folders: folders(config),
    owned: [inbox_dir],
    newest,
    lock: null,
  };
  return [
    ...(await examineListener("collector", about)).checks,
    ...(webhook && webhook.routes.length > 0 ? [await deliveries(inbox_dir)] : []),
    ...(drop_folder ? drops(drop_folder.path) : []),
    ...(await Promise.all(config.deliver.map(({ name }) => sent(config, name)))),
    ...inboxes.flatMap((name) => unread(inbox_dir, name)),
    inboxes.length === 0
      ? yellow("inboxes", `no event has come to ${inbox_dir} yet`, 'picket-collector ping RECIPIENT "it works"')
      : green("inboxes", `${inboxes.length}, the last event ${ago(newest)}`),
  ];
});

function listed(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).toSorted() : [];
}

/** Whether deliveries arrive, and are taken. */
async function deliveries(inboxDir: string): Promise<Check> {
  const name = "deliveries";
  const records = await deliveryList({ dir: inboxDir, database: null }).read();
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
async function sent(config: Config, delivery: string): Promise<Check> {
  const name = `delivery ${delivery}`;
  await using inboxes = await openInboxes(inboxPlace(config), {});
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
  const behind = bytes - (parseMark(readFileSync(mark, "utf8")).at(-1)?.offset ?? Infinity);
  const since = Date.now() - statSync(mark).mtimeMs;
  if (behind > 0 && since > DAY_MS) {
    const detail = `its reader came last ${duration(since)} ago, and has not seen ${size(behind)}`;
    checks.push(yellow(`inbox ${recipient}`, detail, `picket-collector read ${recipient} --new`));
  }
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
