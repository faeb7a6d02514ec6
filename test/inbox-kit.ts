// Where tests have their inboxes: files in a folder, or with PICKET_TEST_INBOX=postgres tables in a database of their own.

import { appendFileSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { inboxDatabase } from "../lib/inbox-database.ts";
import { INBOX_TABLES } from "../lib/inbox-tables.ts";
import { type Inboxes, openInboxes } from "../lib/inboxes.ts";
import { openPostgres } from "../lib/postgres.ts";
import { type Folder, inboxLines, inboxTables } from "./kit.ts";
import { Postgres, postgresPrograms } from "./postgres.ts";

/** One server serves all tests of a process, and ends with it. */
const server = process.env["PICKET_TEST_INBOX"] === "postgres" ? await serverOfAll() : null;

/** Whether inboxes are tables. What concerns files alone is left out then. */
export const IN_TABLES = server !== null;

async function serverOfAll(): Promise<Postgres> {
  const programs = postgresPrograms("inboxes in tables");
  if (programs === null) throw new Error("PICKET_TEST_INBOX=postgres needs Debian's package postgresql");
  const started = await startServer(programs);
  process.on("exit", () => {
    process.kill(started.pid, "SIGQUIT");
    rmSync(started.folder, { recursive: true, force: true });
  });
  return started;
}

/** Starts a server that has a database to copy. */
export async function startServer(programs: string): Promise<Postgres> {
  const started = await Postgres.start(programs, { fsync: "off" });
  const made = await openPostgres(settings(started.database("inboxes")), INBOX_TABLES);
  await made.close();
  return started;
}

function settings(url: string) {
  return { url, password: null, connections: 4, direct: null };
}

/** The inboxes of a test. */
export class TestInboxes implements AsyncDisposable {
  readonly dir: string;
  readonly #server: Postgres | null;
  readonly #url: string | null;
  #close: (() => Promise<void>)[] = [];

  constructor(folder: Folder, name = "inbox", on: Postgres | null = server) {
    this.dir = name === "" ? folder.path : folder.at(name);
    this.#server = on;
    this.#url = on && on.database(undefined, "inboxes");
    if (this.#url !== null)
      inboxTables.set(this.dir, (recipient) =>
        this.sql(`SELECT line FROM inbox WHERE recipient = '${recipient}' ORDER BY seq`),
      );
  }

  /** What a configuration says of them. */
  get settings(): { inbox_dir: string; inbox?: string } {
    return { inbox_dir: this.dir, ...(this.#url === null ? {} : { inbox: this.#url }) };
  }

  /** The same as lines, or between braces. */
  get yaml(): string {
    return this.#entries.join("\n");
  }

  get flow(): string {
    return this.#entries.join(", ");
  }

  get #entries(): string[] {
    return Object.entries(this.settings).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
  }

  /** The same as variables. */
  get env(): Record<string, string> {
    const tables: Record<string, string> = this.#url === null ? {} : { PICKET_COLLECTOR_INBOX: this.#url };
    return { PICKET_COLLECTOR_INBOX_DIR: this.dir, ...tables };
  }

  /** Appends whole lines, as any program may. */
  append(recipient: string, lines: string): void {
    mkdirSync(this.dir, { recursive: true });
    if (this.#url === null) return appendFileSync(join(this.dir, `${recipient}.inbox`), lines);
    const values = lines.split("\n").filter(Boolean);
    if (values.length > 0)
      this.sql(
        `INSERT INTO inbox (recipient, line) VALUES ${values.map((line) => `('${recipient}', '${line.replaceAll("'", "''")}')`).join(", ")}`,
      );
  }

  /** The lines of an inbox, parsed. */
  lines(recipient: string): Record<string, string>[] {
    return inboxLines(this.dir, recipient);
  }

  /** Runs a statement in the database of tables; gives the rows. */
  sql(text: string): string {
    const { exitCode, stdout, stderr } = this.#server!.psql(text, new URL(this.#url!).pathname.slice(1));
    if (exitCode !== 0) throw new Error(stderr.toString());
    return stdout.toString();
  }

  /** Them as a reader has them, until the end of the test. */
  async open(): Promise<Inboxes> {
    const database = this.#url === null ? null : inboxDatabase(settings(this.#url));
    const inboxes = await openInboxes({ dir: this.dir, database }, {});
    this.#close.push(async () => {
      await inboxes[Symbol.asyncDispose]();
      await database?.close();
    });
    return inboxes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#close.map((close) => close()));
  }
}

const known = new WeakMap<Folder, TestInboxes>();

/** Those of a test's folder. */
export const inboxesIn = (folder: Folder): TestInboxes =>
  known.getOrInsertComputed(folder, () => new TestInboxes(folder));
