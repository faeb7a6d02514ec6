// Paths in a configuration: "~/" is the home folder, a relative path starts at the configuration file's folder. A daemon's
// working directory depends on how it was started.

import { constants, existsSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, isAbsolute, join, relative, resolve } from "node:path";
import * as v from "valibot";
import { type Judge, NO_JUDGE, denial, unreadable, unwritable } from "./access.ts";
import { marked } from "./shape.ts";

const SYSTEM_DATA = "/var/lib/picket";

/** What paths and secrets are looked up against. */
export interface Surroundings {
  /** What `~` stands for. */
  home: string;
  /** Where relative paths start. */
  base: string;
  /** systemd's `$CREDENTIALS_DIRECTORY`; null without one. */
  credentials: string | null;
  judge: Judge;
}

/** The surroundings that an environment gives, with relative paths starting at `base`. `~` is `$HOME`, else the account's home folder. */
export function surroundingsOf(
  env: Record<string, string | undefined>,
  { base, judge = NO_JUDGE }: { base: string; judge?: Judge | undefined },
): Surroundings {
  return { home: env["HOME"] || homedir(), base, credentials: env["CREDENTIALS_DIRECTORY"] || null, judge };
}

/** An absolute path from what a configuration says. */
export function resolvePath(text: string, { home, base }: Surroundings): string {
  if (text === "~" || text.startsWith("~/")) return join(home, text.slice(1));
  return isAbsolute(text) ? resolve(text) : resolve(base, text);
}

/**
 * A path, absolute once read: `~` and `~/` are the home folder, a relative path starts at the configuration file's
 * folder (in an environment variable, and without a file: at the working directory). Empty is refused, and so is `~user`.
 */
export function path(): v.GenericSchema<string, string> {
  return v.pipe(
    v.string("expected a path"),
    marked({ kind: "path" }),
    v.check((text) => text !== "" && !text.includes("\0"), "expected a path"),
    v.check((text) => !/^~[^/]/.test(text), 'expected a path ("~" only stands for your own home folder, as in "~/x")'),
    v.rawTransform(({ dataset, config }) => resolvePath(dataset.value, surroundingsIn(config))),
  );
}

/** The path of a file that can be read. With `later` it need not be there yet, and only `--check` looks. */
export function readableFile({ later = false } = {}): v.GenericSchema<string, string> {
  return v.pipe(
    path(),
    v.rawCheck(({ dataset, config, addIssue }) => {
      const code = dataset.typed ? denial(dataset.value, constants.R_OK) : null;
      if (code === null) return;
      const { judge } = surroundingsIn(config);
      const message = unreadable(dataset.value as string, code, judge);
      if (!later || (judge.folders && message !== "does not exist")) addIssue({ message });
    }),
  );
}

/** The path of a folder that the role writes to. `of`: a file in it, or a folder that has others beside it. */
export function writableFolder(of: "folder" | "file" | "siblings" = "folder"): v.GenericSchema<string, string> {
  return v.pipe(path(), writable(of));
}

/** Whether the role may write there, as `--check` sees it. A relative path is below another setting's. */
export function writable(of: "folder" | "file" | "siblings" = "folder"): v.RawCheckAction<string> {
  return v.rawCheck(({ dataset, config, addIssue }) => {
    const { judge } = surroundingsIn(config);
    if (!dataset.typed || !judge.folders || !isAbsolute(dataset.value)) return;
    const message = unwritable(of === "folder" ? dataset.value : dirname(dataset.value), judge);
    if (message !== null) addIssue({ message });
  });
}

/** loadConfig passes its surroundings in valibot's configuration, so that defaults are resolved too. */
function surroundingsIn(config: object): Surroundings {
  const { surroundings } = config as { surroundings?: Surroundings };
  return surroundings ?? surroundingsOf(process.env, { base: process.cwd() });
}

/**
 * The default folder for a role's data: systemd's state folder, else root's or the user's. `own`: the role runs under its own account, and systemd
 * gives a state folder, with all that is in it, to the account of its unit.
 */
export function dataFolder(name: string, { own = false } = {}): string {
  const state = process.env["STATE_DIRECTORY"]?.split(":")[0];
  if (state) return own ? state : join(state, name);
  if (process.getuid?.() !== 0) return join(homedir(), ".local/share/picket", name);
  return own ? `${SYSTEM_DATA}-${name}` : join(SYSTEM_DATA, name);
}

/**
 * Where a file of the system services lies, when a command uses the user's own instead, though nobody named it; null when it doesn't.
 * @param used - the file that the command uses, below `dataFolder(name)`.
 */
export function besideService(name: string, used: string): string | null {
  const inFolder = relative(dataFolder(name), used);
  const theirs = join(SYSTEM_DATA, name, inFolder);
  if (inFolder.startsWith("..") || theirs === used || !existsSync(dirname(theirs))) return null;
  return existsSync(used) && !existsSync(theirs) ? null : theirs;
}
