// Whose inbox an agent at work reads: the first of these that is set.
//
//   --as NAME · $PICKET_IDENTITY · $PING_AGENT_IDENTITY · the file $CLAUDE_HOME/ping-agent · the file ~/.ping-agent

import { homedir } from "node:os";
import { join } from "node:path";
import { NAME_SEGMENT } from "./config.ts";
import { textOf } from "./files.ts";
import { type Environment, UsageError } from "./service.ts";

/** @throws UsageError where nothing is set, or what is set is no name; it says where that stands. */
export function identityOf(as: string | undefined, env: Environment): string {
  const { CLAUDE_HOME: claude, HOME } = env;
  const inFile = (path: string) => [path, () => textOf(path)?.trim()] as const;
  const sources = [
    ["--as", () => as],
    ...["PICKET_IDENTITY", "PING_AGENT_IDENTITY"].map((name) => [`$${name}`, () => env[name]] as const),
    ...(claude ? [inFile(join(claude, "ping-agent"))] : []),
    inFile(join(HOME || homedir(), ".ping-agent")),
  ] as const;
  for (const [where, find] of sources) {
    const name = find();
    if (!name) continue;
    if (NAME_SEGMENT.test(name)) return name;
    const hint = "1 to 128 letters, digits, dots, dashes and underscores, starting with a letter or digit";
    throw new UsageError(`${where}: "${name}" is not the name of a recipient`, hint);
  }
  throw new UsageError("no recipient: nothing says whose inbox to read", "give --as NAME, or set PICKET_IDENTITY");
}
