// Remembers the ids of recorded operations, so that one that is sent again isn't counted again: at least the newest million,
// at most two million.
//
// Each id is kept as 52 bits of its hash, which fit into a plain number. A set with a million ids becomes the former set, and the one
// before it is dropped. One new id in some two billion is mistaken for a known one.

const GENERATION = 1_000_000;
const LOW_52_BITS = 0xf_ffff_ffff_ffffn;

/** A set of ids that forgets the oldest. */
export class RecentIds {
  #now = new Set<number>();
  #former = new Set<number>();

  /** Whether an id is remembered. */
  has(id: string): boolean {
    const hash = hashOf(id);
    return this.#now.has(hash) || this.#former.has(hash);
  }

  /** Remembers an id. */
  add(id: string): void {
    this.#add(hashOf(id));
  }

  /** All hashes for a snapshot, in base64, older set first: 8 bytes each, the lowest first. */
  export(): string {
    const bytes = Buffer.alloc(8 * (this.#former.size + this.#now.size));
    let end = 0;
    for (const hashes of [this.#former, this.#now]) {
      for (const hash of hashes) end = bytes.writeBigUInt64LE(BigInt(hash), end);
    }
    return bytes.toString("base64");
  }

  /** Adds the hashes of an `export`, also one by 0.1.0, which kept 64 bits. */
  import(text: string): void {
    const bytes = Buffer.from(text, "base64");
    for (let at = 0; at + 8 <= bytes.length; at += 8) this.#add(short(bytes.readBigUInt64LE(at)));
  }

  #add(hash: number): void {
    if (this.#now.size >= GENERATION) {
      this.#former = this.#now;
      this.#now = new Set();
    }
    this.#now.add(hash);
  }
}

function hashOf(id: string): number {
  return short(Bun.hash.wyhash(id));
}

function short(hash: bigint): number {
  return Number(hash & LOW_52_BITS);
}
