// One oracle for all roles. The load notes what it handed over and what was acknowledged; afterwards the role's own files are
// read by something that isn't the role, and compared:
//
//   acknowledged        there, exactly once, and whole
//   not acknowledged    absent, or there once and whole
//   there               was handed over by somebody

/** A thing as a role's files have it: under which key, and a digest of what of it was found. */
export type Found = readonly [key: string, digest: string];

/** What was handed over, and what of it was acknowledged. */
export class Ledger {
  readonly #attempted = new Map<string, string>();
  readonly #acknowledged = new Set<string>();

  /** Notes what is about to be handed over, with a digest of what it has to be. */
  attempt(key: string, digest: string): void {
    this.#attempted.set(key, digest);
  }

  /** Notes that it was acknowledged. */
  acknowledge(key: string): void {
    this.#acknowledged.add(key);
  }

  get attempts(): number {
    return this.#attempted.size;
  }

  get acknowledgements(): number {
    return this.#acknowledged.size;
  }

  /** What is wrong with what was found; nothing when all is well. */
  judge(found: Iterable<Found>): string[] {
    const complaints: string[] = [];
    const times = new Map<string, number>();
    for (const [key, digest] of found) {
      times.set(key, (times.get(key) ?? 0) + 1);
      const expected = this.#attempted.get(key);
      if (expected === undefined) complaints.push(`never handed over, but there: ${key}`);
      else if (expected !== digest) complaints.push(`not whole: ${key}`);
    }
    for (const [key, count] of times) if (count > 1) complaints.push(`there ${count} times: ${key}`);
    for (const key of this.#acknowledged) if (!times.has(key)) complaints.push(`acknowledged, and lost: ${key}`);
    return complaints;
  }
}

/** Tells two contents apart. */
export function digestOf(...parts: (string | Uint8Array)[]): string {
  const hasher = new Bun.CryptoHasher("sha1");
  for (const part of parts) hasher.update(`${part.length}:`).update(part);
  return hasher.digest("hex");
}
