// How deep a value from JSON is nested. JSON.parse takes some depths that JSON.stringify can't write again, and which ones depends
// on how much stack is left: what is deeper than anybody means it is refused where it comes in.

/** Nobody's data is nested this deep. */
export const DEEPEST = 500;

/** Whether a value from JSON is nested deeper than so many lists and maps. */
export function isNestedDeeper(value: unknown, most: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (most === 0) return true;
  for (const inner of Object.values(value)) if (isNestedDeeper(inner, most - 1)) return true;
  return false;
}

/** Whether a JSON text has so many brackets that it may be: quick, so that only few values have to be looked through. */
export function mayBeNestedDeeper(text: string, most: number): boolean {
  let left = most;
  for (const bracket of ["[", "{"]) {
    for (let at = text.indexOf(bracket); at >= 0 && left >= 0; at = text.indexOf(bracket, at + 1)) left--;
  }
  return left < 0;
}
