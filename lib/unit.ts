// The systemd units. `picket-ROLE unit` prints one for the path that the program is called by. One template,
// etc/picket.service, holds the lines of all roles and of both scopes, and says which role and scope each is for.

import { realpathSync } from "node:fs";
import { resolve } from "node:path";
import template from "../etc/picket.service" with { type: "text" };

/** The unit of a role, started by the words of `command`. */
export function unitText(role: string, scope: "system" | "user", command: string[]): string {
  const isFor = (words: string): boolean => words.split(",").some((word) => word === role || word === scope);
  const lines: string[] = [];
  let wanted = true;
  for (const line of template.split("\n")) {
    if (line.startsWith("@#")) continue;
    if (line.startsWith("@")) wanted = line.slice(1).split(" ").filter(Boolean).every(isFor);
    else if (wanted) lines.push(line.replaceAll("ROLE", role));
  }
  const quoted = command.map((word, index) => quoteForUnit(word, index === 0)).join(" ");
  return `${lines.join("\n").trimEnd()}\n`.replaceAll(`/usr/local/bin/picket-${role}`, () => quoted);
}

/** One word of a command line in a unit, systemd.service(5). systemd expands no `$` in the first word. */
export function quoteForUnit(word: string, first: boolean): string {
  let text = word.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("%", "%%");
  if (!first) text = text.replaceAll("$", () => "$$");
  return /[\s"'\\;]/.test(word) ? `"${text}"` : text;
}

/** The words that start this program: its binary, or Bun and the script. */
export function ownCommand(): string[] {
  const compiled = Bun.main.startsWith("/$bunfs/");
  return compiled ? [process.execPath] : [process.execPath, Bun.main];
}

/** The link that this binary was called by (`process.execPath` is what it points to); null when argv[0] leads to another file. */
export function ownLink(): string | null {
  const name = process.argv0;
  const path = name.includes("/") ? resolve(name) : Bun.which(name);
  try {
    return path !== null && realpathSync(path) === process.execPath ? path : null;
  } catch {
    return null;
  }
}
