// JSON that comes from outside: in UTF-8, and not nested too deeply.
//
// JSON.parse takes some depths that JSON.stringify can't write again, and which ones depends on how much stack is left. So what is
// nested deeper than real data ever is gets refused where it comes in.

const UTF8 = new TextDecoder("utf-8", { fatal: true });

/** More levels of lists and maps than real data has. */
export const DEEPEST = 500;

/** The text of bytes in UTF-8. @throws Error "not UTF-8". */
export function decodeUtf8(bytes: Uint8Array): string {
  try {
    return UTF8.decode(bytes);
  } catch {
    throw new Error("not UTF-8");
  }
}

/** Parses JSON in UTF-8. @throws Error "not UTF-8" or "not JSON: …". */
export function parseJson(bytes: Uint8Array): unknown {
  const text = decodeUtf8(bytes);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`not JSON: ${(error as Error).message}`, { cause: error });
  }
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
