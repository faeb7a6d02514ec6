// The URL under which others reach this receiver: given and remembered, else what the configuration says. And what is pasted on a host
// that is to report there.

import { hostname } from "node:os";
import { isLoopback } from "../config.ts";
import { UsageError } from "../service.ts";
import type { Config } from "./config.ts";
import type { Queries } from "../database.ts";
import { getNote, setNote } from "./store.ts";

/** The note of the last one that was given. */
const PUBLIC_URL = "public_url";

/** @throws UsageError where one that is given is no URL. */
export function checkUrl(given: string | undefined, what = "--url"): void {
  if (given === undefined || (/^https?:\/\/[\w.~:/@%[\]-]+$/.test(given) && URL.canParse(given))) return;
  throw new UsageError(`${what} "${given}" is no http or https URL`, "such as https://hub.example");
}

/** The URL without a slash at its end, and whether only this machine reaches it. Remembers one that is `given`. */
export async function publicUrl(
  tx: Queries,
  { listen, tls }: Pick<Config, "listen" | "tls">,
  given?: string,
): Promise<{ url: string; isLocal: boolean }> {
  if (given !== undefined) await setNote(tx, PUBLIC_URL, given);
  const known = given ?? (await getNote(tx, PUBLIC_URL));
  if (known !== null) return { url: known.replace(/\/+$/, ""), isLocal: false };
  const isLocal = isLoopback(listen.host);
  const host = isLocal ? String(listen) : `${hostname()}:${listen.port}`;
  return { url: `${tls ? "https" : "http"}://${host}`, isLocal };
}

/** Where `publicUrl` is local. */
export const LOCAL_URL = "That address is this machine's own; for other hosts: --url https://…";

const INSTALL = 'echo "$PICKET_TOKEN" | ./install.sh agent --url "$PICKET_URL" --token-stdin';

/** What is pasted on a host: its token, and a command that uses it. */
export const pasted = (url: string, token: string, command = INSTALL): string =>
  `export PICKET_URL=${url}\nexport PICKET_TOKEN=${token}\n${command}`;
