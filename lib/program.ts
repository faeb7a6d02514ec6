// Asks another program, such as systemctl.

/** How long a program may take by default, in milliseconds. */
const PROGRAM_MS = 5000;

/**
 * A program's exit code and stdout. It is killed after `ms` milliseconds.
 * @throws Error when it isn't installed, or is killed.
 */
export async function answerOf(
  command: string[],
  { ms = PROGRAM_MS, env = {} }: { ms?: number; env?: Record<string, string> } = {},
): Promise<{ code: number; text: string }> {
  const child = Bun.spawn(command, {
    stdout: "pipe",
    stderr: "ignore",
    stdin: "ignore",
    env: { ...process.env, ...env },
    timeout: ms,
    killSignal: "SIGKILL",
  });
  const text = new Response(child.stdout).text();
  const code = await child.exited;
  // What it started may still hold its stdout.
  if (child.signalCode !== null)
    throw new Error(`${command[0]} was ended by ${child.signalCode}, after at most ${ms / 1000} s`);
  return { code, text: await text };
}

/** A program's stdout, whatever its exit code; null if it isn't installed or takes too long. */
export async function outputOf(command: string[], ms = PROGRAM_MS): Promise<string | null> {
  try {
    return (await answerOf(command, { ms })).text;
  } catch {
    return null;
  }
}
