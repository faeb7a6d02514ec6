// picket try: runs a demonstration in a temporary folder, each role as a process, and shows each step.
// Runs until Ctrl-C, or with --once to the end of the story. Only SIGKILL makes it leave processes and files behind.

import { tellFourRoles } from "./lib/demo/four-roles.ts";
import { openStage } from "./lib/demo/stage.ts";

const HELP = `usage: picket try [--once]

Runs all four roles in a temporary folder and shows what they do: a webhook and a dropped file become events, a host reports and
ships an episode; a full disk, a failed unit (both only as root), a late job, a silent host and a repeated failure become events, too.
A phone gets what is urgent (from a small server in place of ntfy), and a coding agent waits for it. A page shows the fleet.
Runs until Ctrl-C, then removes everything.

  --once   end when all is shown`;

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };

/** @returns the exit code. */
export async function start(argv: string[]): Promise<number> {
  const [flag = "", ...more] = argv;
  if (flag === "--help" || flag === "-h") {
    console.log(HELP);
    return 0;
  }
  if (more.length > 0 || (flag !== "" && flag !== "--once")) {
    console.error(
      `picket: error: unexpected argument "${more[0] ?? flag}"\nhint: picket try --help shows how it is called`,
    );
    return 2;
  }
  const stopped = Promise.withResolvers<number>();
  for (const [signal, code] of Object.entries(SIGNALS)) process.on(signal, () => stopped.resolve(code));
  const stage = openStage();
  try {
    return await Promise.race([stopped.promise, tellFourRoles(stage, flag === "--once")]);
  } catch (error) {
    console.error(`picket: error: ${(error as Error).message}`);
    return 1;
  } finally {
    await stage.end();
  }
}
