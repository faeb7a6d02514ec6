// JSON that comes from outside: decoded, and not nested too deeply.
//
// JSON.parse takes some depths that JSON.stringify can't write again, and which ones depends on how much stack is left. So what is
// nested deeper than real data ever is gets refused where it comes in.

const UTF8 = new TextDecoder("utf-8", { fatal: true });

/** More levels of lists and maps than real data has. */
export const DEEPEST = 500;

/** The text of bytes, in the encoding that a byte order mark names, else in `charset`. @throws Error "not UTF-8", RangeError for an unknown charset. */
export function decodeText(bytes: Uint8Array, charset = "utf-8"): string {
  const [a, b, c, d] = bytes;
  // Its mark begins like that of UTF-16.
  if (a === 0xff && b === 0xfe && c === 0 && d === 0) return decodeUtf32(bytes, true);
  if (a === 0 && b === 0 && c === 0xfe && d === 0xff) return decodeUtf32(bytes, false);
  const utf16 = a === 0xff && b === 0xfe ? "utf-16le" : a === 0xfe && b === 0xff ? "utf-16be" : null;
  const label = utf16 ?? (a === 0xef && b === 0xbb && c === 0xbf ? "utf-8" : charset);
  const decoder = label === "utf-8" ? UTF8 : new TextDecoder(label as Bun.Encoding, { fatal: true });
  try {
    return decoder.decode(bytes);
  } catch {
    throw new Error(`not ${decoder.encoding.toUpperCase()}`);
  }
}

/** UTF-32 with its byte order mark, which PowerShell writes and TextDecoder doesn't know. */
function decodeUtf32(bytes: Uint8Array, isLittleEndian: boolean): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let text = "";
  try {
    for (let at = 4; at < bytes.length; at += 4) text += String.fromCodePoint(view.getUint32(at, isLittleEndian));
  } catch {
    throw new Error(`not UTF-32${isLittleEndian ? "LE" : "BE"}`);
  }
  return text;
}

/** The text of bytes whose charset is unknown: Windows-1252 where it isn't UTF-8. */
export function guessText(bytes: Uint8Array): string {
  try {
    return decodeText(bytes);
  } catch {
    return decodeText(bytes, "windows-1252");
  }
}

/** Parses JSON in UTF-8, or in UTF-16 with a byte order mark. @throws Error "not UTF-8" or "not JSON: …". */
export function parseJson(bytes: Uint8Array): unknown {
  const text = decodeText(bytes);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`not JSON: ${(error as Error).message}`, { cause: error });
  }
}

/** A replacer for JSON.stringify: half a surrogate pair becomes U+FFFD, since `"\ud83d"` stops jq and other readers. */
export function wellFormed(_key: string, value: unknown): unknown {
  return typeof value === "string" ? value.toWellFormed() : value;
}

/** Whether a value from JSON is nested deeper than so many lists and maps. */
export function isNestedDeeper(value: unknown, most: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (most === 0) return true;
  for (const inner of Array.isArray(value) ? value : Object.values(value)) {
    if (isNestedDeeper(inner, most - 1)) return true;
  }
  return false;
}
