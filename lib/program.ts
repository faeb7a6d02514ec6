// Asks another program, such as systemctl.

/** How long a program may take by default, in milliseconds. */
const PROGRAM_MS = 5000;

/** A program's stdout, whatever its exit code; null if it isn't installed. It is killed after `timeout` milliseconds. */
export async function outputOf(command: string[], timeout = PROGRAM_MS): Promise<string | null> {
  try {
    const child = Bun.spawn(command, { stdout: "pipe", stderr: "ignore", stdin: "ignore", timeout });
    const text = await new Response(child.stdout).text();
    await child.exited;
    return text;
  } catch {
    return null;
  }
}
