// Where a request goes in person. fetch obeys http_proxy and https_proxy, which many a shell has set for the world outside; what is
// on this machine is not out there: a proxy would read the token, which is why http is refused to anybody but this machine.

import { isLoopback } from "./config.ts";

/** What `fetch` is told besides for this URL: no proxy for this machine. (Bun takes false for none; its types know only text.) */
export function directly(url: string): { proxy?: string } {
  return isLoopback(new URL(url).hostname) ? { proxy: false as unknown as string } : {};
}
