// Asks another program, such as systemctl.

/** How long a program may take, in milliseconds. */
const PROGRAM_MS = 5000;

/** A program's stdout, whatever its exit code; null if it isn't installed. It is killed after five seconds. */
export async function outputOf(command: string[]): Promise<string | null> {
  try {
    const child = Bun.spawn(command, { stdout: "pipe", stderr: "ignore", stdin: "ignore", timeout: PROGRAM_MS });
    const text = await new Response(child.stdout).text();
    await child.exited;
    return text;
  } catch {
    return null;
  }
}
