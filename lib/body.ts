// The body of somebody's answer. Who answers may be broken, or not be who we think: what goes on and on isn't read to its end.

/**
 * Reads a body as text (UTF-8).
 * @param body of a `Response` or an `IncomingMessage`; null is an empty one.
 * @param most in bytes; whole MiB, for the error.
 * @throws Error when it is longer, or breaks off.
 */
export async function textOf(body: AsyncIterable<Uint8Array> | null, most: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body ?? []) {
    bytes += chunk.length;
    if (bytes > most) throw new Error(`the answer is over ${most >> 20} MiB`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}
