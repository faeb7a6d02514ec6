// Paths in a configuration: "~/" is the home folder, and what is relative starts at the configuration's own folder.
//
// A daemon's working directory is wherever it was started from; the file's folder is where its author stood.

import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import * as v from "valibot";
import { isMapping } from "./data.ts";
import { marked } from "./shape.ts";

/** What paths and secrets are looked up against. */
export interface Surroundings {
  /** What `~` stands for. */
  home: string;
  /** Where relative paths start. */
  base: string;
  /** systemd's `$CREDENTIALS_DIRECTORY`; null without one. */
  credentials: string | null;
}

/** The surroundings that an environment gives, with relative paths starting at `base`. `~` is `$HOME`, else the account's home folder. */
export function surroundingsOf(env: Record<string, string | undefined>, base: string): Surroundings {
  return { home: env["HOME"] || homedir(), base, credentials: env["CREDENTIALS_DIRECTORY"] || null };
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
    v.check((text) => !/^~[^/]/.test(text), 'expected a path ("~" only stands for the own home folder, as in "~/x")'),
    v.rawTransform(({ dataset, config }) => {
      // loadConfig hands its surroundings down in valibot's own configuration, so that defaults are resolved like all else
      const handed: unknown = "surroundings" in config ? config.surroundings : null;
      const surroundings = isSurroundings(handed) ? handed : surroundingsOf(process.env, process.cwd());
      return resolvePath(dataset.value, surroundings);
    }),
  );
}

function isSurroundings(value: unknown): value is Surroundings {
  return isMapping(value) && typeof value["home"] === "string" && typeof value["base"] === "string";
}

/** Where a role keeps `name` unless told otherwise: where systemd says, else where root or a user keeps such data. */
export function dataFolder(name: string): string {
  const state = process.env["STATE_DIRECTORY"]?.split(":")[0];
  if (state) return join(state, name);
  return join(process.getuid?.() === 0 ? "/var/lib/picket" : join(homedir(), ".local/share/picket"), name);
}

/**
 * Like `dataFolder`, for a role whose service runs as another account than the others': systemd gives a state folder, with all
 * that is in it, to the account of the unit that names it.
 */
export function ownDataFolder(name: string): string {
  const state = process.env["STATE_DIRECTORY"]?.split(":")[0];
  if (state) return state;
  return process.getuid?.() === 0 ? `/var/lib/picket-${name}` : join(homedir(), ".local/share/picket", name);
}
