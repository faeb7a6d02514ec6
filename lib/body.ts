// The body of a request: read within its cap, and read on after a refusal.
//
// Most clients look for an answer only when they have sent their body, and Bun resets the connection of one that still sends when
// its answer ends: Python, wget, and Node and Go now and then, never saw a 401 or a 413, and sent the same again. So a refusal waits
// until the body has come and is thrown away, within bounds. One that is larger is refused at once: who looks early sees it.

import { parseJson } from "./json.ts";
import { Refusal } from "./refusal.ts";

/** How much of a refused body is read and thrown away, in bytes, for how long, and how long the next piece is waited for, in milliseconds. */
const READ_ON = { bytes: 256 << 20, ms: 30_000, pauseMs: 2000 };
/** After a refused body that was larger the connection is closed, in bytes. */
const KEEP_BYTES = 64 << 10;

/** The whole body as it came. Throws Refusal 413 over `cap` bytes, before reading where Content-Length says so. */
export async function readBody(request: Request, cap: number): Promise<Uint8Array> {
  const length = request.headers.get("content-length");
  if (Number(length) > cap) throw tooLarge(`the body is over ${cap} bytes`, cap);
  const body = length === null ? await readChunks(request, cap) : await request.bytes();
  await refuseCutOff(request);
  return body;
}

/** The first `most` bytes of the body; `readOn` reads the rest. Throws Refusal 400 where the client went away. */
export async function readStart(request: Request, most: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of chunksOf(request)) {
    chunks.push(chunk);
    size += chunk.length;
    if (size >= most) break;
  }
  await refuseCutOff(request);
  return Buffer.concat(chunks).subarray(0, most);
}

async function refuseCutOff({ signal }: Request): Promise<void> {
  // Bun takes a line end behind a body and a second request for an error, and ends the connection; that is seen a turn later.
  await nextTurn();
  if (!signal.aborted) return;
  const why = "more than the body came before the answer, or the client went away";
  throw new Refusal(400, "cut_off", why, { log: { why } });
}

let turn: Promise<unknown> | null = null;

/** Resolves at the end of this turn of the event loop; its requests share one wait. */
function nextTurn(): Promise<unknown> {
  return (turn ??= new Promise(setImmediate).finally(() => (turn = null)));
}

/** The body as JSON. Throws Refusal as `readBody`, 400 for another body, and 415 for an encoded one. */
export async function readJson(request: Request, cap: number): Promise<unknown> {
  const encoding = request.headers.get("content-encoding") || "identity";
  if (encoding.toLowerCase() !== "identity") {
    throw new Refusal(
      415,
      "content_encoding",
      `content-encoding "${encoding}" is not understood: send the body as it is`,
    );
  }
  const body = await readBody(request, cap);
  try {
    return parseJson(body);
  } catch (error) {
    throw new Refusal(400, "bad_json", `the body is ${(error as Error).message}`);
  }
}

async function readChunks(request: Request, cap: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of chunksOf(request)) {
    size += chunk.length;
    if (size > cap) throw tooLarge(`the body is over ${cap} bytes`, cap);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** The body, chunk by chunk; after an early end the rest can still be read. Throws Refusal 408 when nothing comes for so many milliseconds. */
export async function* chunksOf({ body }: Request, pauseMs?: number): AsyncGenerator<Uint8Array> {
  const reader = body?.getReader() as ReadableStreamDefaultReader<Uint8Array> | undefined;
  if (!reader) return;
  let timer: Timer | undefined;
  let isLate = false;
  const late = (): void => {
    isLate = true;
    reader.releaseLock();
  };
  try {
    for (;;) {
      if (pauseMs !== undefined) timer = setTimeout(late, pauseMs);
      const { done, value } = await reader.read();
      clearTimeout(timer);
      if (done) return;
      yield value;
    }
  } catch (error) {
    if (!isLate) throw error;
    throw new Refusal(408, "stalled", `nothing came for ${pauseMs! / 1000} s`, { headers: { connection: "close" } });
  } finally {
    clearTimeout(timer);
    reader.releaseLock();
  }
}

export function tooLarge(what: string, cap: number): Refusal {
  return new Refusal(413, "too_large", what, { extra: { limit_bytes: cap } });
}

/** Reads what a refused request still sends. Past the bounds the client is answered at once, which Bun ends with the next byte that comes. */
export async function readOn(request: Request, { headers }: Response): Promise<void> {
  const { body } = request;
  // One that was read as a whole stays locked.
  if (!body || body.locked || Number(request.headers.get("content-length")) > READ_ON.bytes) return;
  const end = performance.now() + READ_ON.ms;
  let size = 0;
  try {
    for await (const { length } of chunksOf(request, READ_ON.pauseMs)) {
      size += length;
      if (size > READ_ON.bytes || performance.now() > end) return;
    }
  } catch {
    return;
  }
  if (size > KEEP_BYTES) headers.set("connection", "close");
}
