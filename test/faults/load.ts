// Clients as they are: they try again, or give up.

import type { Handover, World } from "./world.ts";

const PATIENCE_MS = 5000;
/** How long a client waits at most before its next request: many at once without a pause would only fill the CPU. */
export const MOST_PAUSE_MS = 40;

/** Sends until it is acknowledged, so many times at most; gives whether it was. Each answer and no answer is noted. */
export async function send(
  { port }: Pick<World, "port">,
  { request, attempt, answered }: Handover,
  { stop, tries }: { stop?: AbortSignal; tries: number },
): Promise<boolean> {
  attempt();
  for (let n = 0; n < tries; n++) {
    if (stop?.aborted) return false;
    const status = await statusOf(port, request);
    answered(status);
    if (status >= 200 && status < 300) return true;
    await Bun.sleep(10);
  }
  return false;
}

/** The status of an answer, 0 where there is none. */
async function statusOf(port: number, { method, path, headers, body }: Handover["request"]): Promise<number> {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, {
      method,
      headers: headers ?? {},
      body: (body ?? null) as Bun.BodyInit | null,
      keepalive: false,
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    await answer.arrayBuffer();
    return answer.status;
  } catch {
    return 0;
  }
}
