// Whether systemd's units run: `systemctl is-active`, the only program that a report ever starts, and only where asked for.

/** As the report has it. */
export type ServiceStatus = "active" | "inactive" | "failed" | "unknown";

const ANSWER_MS = 5000;

/** The status of each unit, in their order. Without systemd all are unknown. */
export async function readServices(units: readonly string[]): Promise<{ name: string; status: ServiceStatus }[]> {
  if (units.length === 0) return [];
  // One answer a line, in order; the exit code only says whether all are active.
  // `-.mount` is a unit, too, and looks like an option.
  const dashed = units.some((unit) => unit.startsWith("-")) ? ["--"] : [];
  const said = (await ask(["is-active", ...dashed, ...units]))?.split("\n") ?? [];
  return units.map((name, index) => ({ name, status: asStatus(said[index]?.trim() ?? "") }));
}

/** What systemctl says, or null where there is none. */
export async function ask(args: string[]): Promise<string | null> {
  try {
    const systemctl = Bun.spawn(["systemctl", ...args], {
      stdout: "pipe",
      stderr: "ignore",
      stdin: "ignore",
      timeout: ANSWER_MS,
    });
    const said = await new Response(systemctl.stdout).text();
    await systemctl.exited;
    return said;
  } catch {
    return null;
  }
}

function asStatus(text: string): ServiceStatus {
  if (text === "active" || text === "reloading" || text === "activating") return "active";
  if (text === "inactive" || text === "deactivating") return "inactive";
  return text === "failed" ? "failed" : "unknown";
}
