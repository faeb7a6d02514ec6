// picket try: runs a demonstration in a temporary folder, each role as a process, and shows each step.
// Runs until Ctrl-C, or with --once to the end of the story. Only SIGKILL makes it leave processes and files behind.

import { tellFourRoles } from "./lib/demo/four-roles.ts";
import { openStage } from "./lib/demo/stage.ts";

const HELP = `usage: picket try [--scale] [--once]

Runs all four roles in a temporary folder and shows what they do: a webhook and a dropped file become events, a host reports and
ships an episode; a full disk, a failed unit (both only as root), a late job, a silent host and a repeated failure become events, too.
A phone gets what is urgent (from a small server in place of ntfy), and a coding agent waits for it. A page shows the fleet.
Runs until Ctrl-C, then removes everything.

  --scale  instead: three receivers and two collectors on one PostgreSQL and one S3 server; each kind is killed under load,
           then it is counted whether all is there, once. It needs Debian's postgresql, and npm's s3rver on PATH
  --once   end when all is shown`;

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };

/** @returns the exit code. */
export async function start(argv: string[]): Promise<number> {
  const flags = new Set(argv);
  if (flags.has("--help") || flags.has("-h")) {
    console.log(HELP);
    return 0;
  }
  const stray = argv.find((word) => word !== "--once" && word !== "--scale");
  if (stray !== undefined) {
    console.error(`picket: error: unexpected argument "${stray}"\nhint: picket try --help shows how it is called`);
    return 2;
  }
  const tell = flags.has("--scale") ? (await import("./lib/demo/scale.ts")).tellScale : tellFourRoles;
  const stopped = Promise.withResolvers<number>();
  for (const [signal, code] of Object.entries(SIGNALS)) process.on(signal, () => stopped.resolve(code));
  const stage = openStage();
  try {
    return await Promise.race([stopped.promise, tell(stage, flags.has("--once"))]);
  } catch (error) {
    console.error(`picket: error: ${(error as Error).message}`);
    return 1;
  } finally {
    await stage.end();
  }
}
