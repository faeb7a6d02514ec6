// The way to the API of Proxmox VE. Nothing is ever sent but GET, and the token only to whom it is meant for: the server's
// certificate is judged before the request leaves.

import { readFileSync } from "node:fs";
import { type IncomingMessage, request } from "node:http";
import { type TLSSocket, connect } from "node:tls";
import { type Secret, without } from "../secret.ts";
import { textOf } from "../body.ts";
import { directly } from "../direct.ts";

/** How the API is reached. */
export interface ApiSettings {
  /** `https://127.0.0.1:8006` */
  endpoint: string;
  /** An API token: `user@realm!id=uuid`. */
  token: Secret[];
  ca_file?: string | undefined;
  /** SHA-256 of its certificate, hex, with or without colons. */
  fingerprint?: string | undefined;
}

const ANSWER_MS = 10_000;
const LARGEST_ANSWER = 32 << 20;

/** Asks; gives the parsed answer. @throws Error that names the endpoint and never the token. */
export type Api = (path: string, signal: AbortSignal) => Promise<unknown>;

/** @throws Error when `ca_file` can't be read. */
export function openApi(settings: ApiSettings): Api {
  const { endpoint, token, ca_file, fingerprint } = settings;
  const base = endpoint.replace(/\/+$/, "");
  const tls = ca_file === undefined ? {} : { tls: { ca: readFileSync(ca_file, "utf8") } };
  const secret = (token[0]?.reveal() ?? "").replace(/^PVEAPIToken=/, "");
  const headers = { accept: "application/json", authorization: `PVEAPIToken=${secret}` };
  return async (path, outer) => {
    const signal = AbortSignal.any([outer, AbortSignal.timeout(ANSWER_MS)]);
    const answer = await (
      fingerprint === undefined
        ? fetch(base + path, { headers, redirect: "manual", signal, ...tls, ...directly(base) }).then(read)
        : askPinned(new URL(base + path), { headers, fingerprint, signal })
    ).catch((error: unknown) => {
      throw new Error(`ask Proxmox at ${base}`, { cause: error });
    });
    if (answer.status !== 200) {
      throw new Error(`ask Proxmox at ${base}: ${without(token, refusal(path, answer))}`);
    }
    try {
      return JSON.parse(without(token, answer.text)) as unknown;
    } catch {
      throw new Error(`ask Proxmox at ${base}: ${path} is not answered in JSON`);
    }
  };
}

interface Answer {
  status: number;
  /** The words of its status line: Proxmox puts there what is wrong. */
  reason: string;
  text: string;
}

async function read({ status, statusText, body }: Response): Promise<Answer> {
  return { status, reason: statusText, text: await textOf(body, LARGEST_ANSWER) };
}

function refusal(path: string, { status, reason }: Answer): string {
  const what = `${path} is answered ${status}${reason ? ` ${reason}` : ""}`;
  if (status === 401) return `${what}: is the token right? (user@realm!id=uuid)`;
  if (status === 403)
    return `${what}: the token needs the role PVEAuditor on / (pveum acl modify / --tokens … --roles PVEAuditor)`;
  return what;
}

/**
 * Asks a server whose certificate is known by its fingerprint. `fetch` has no way to judge a certificate that it can't verify
 * before the request leaves, so the connection is made first, judged, and only then written to.
 */
async function askPinned(
  url: URL,
  { headers, fingerprint, signal }: { headers: Record<string, string>; fingerprint: string; signal: AbortSignal },
): Promise<Answer> {
  const socket = await connectPinned(url, fingerprint, signal);
  try {
    return await new Promise<Answer>((resolve, reject) => {
      const asking = request(
        {
          host: url.hostname,
          path: url.pathname + url.search,
          headers: { ...headers, host: url.host, connection: "close" },
          createConnection: () => socket,
          signal,
        },
        (answer) => void readMessage(answer).then(resolve, reject),
      );
      asking.on("error", reject);
      asking.end();
    });
  } finally {
    socket.destroy();
  }
}

async function connectPinned(url: URL, fingerprint: string, signal: AbortSignal): Promise<TLSSocket> {
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = connect({ host, port: Number(url.port || 443), rejectUnauthorized: false }, resolve);
  const stop = () => reject(signal.reason as Error);
  socket.on("error", reject);
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  try {
    await promise;
    const shown = socket.getPeerCertificate().fingerprint256;
    if (plain(shown) !== plain(fingerprint)) {
      throw new Error(`its certificate has the fingerprint ${shown}, not the one that is configured`);
    }
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

function plain(fingerprint: string): string {
  return fingerprint.replaceAll(":", "").toLowerCase();
}

async function readMessage(message: IncomingMessage): Promise<Answer> {
  const { statusCode = 0, statusMessage = "" } = message;
  return { status: statusCode, reason: statusMessage, text: await textOf(message, LARGEST_ANSWER) };
}
