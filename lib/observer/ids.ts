// Remembers the ids of recorded operations, so that one that is sent again isn't counted again: at least the newest million,
// at most two million.
//
// Each id is kept as 52 bits of its hash, which fit into a plain number. A set with a million ids becomes the former set, and the one
// before it is dropped. One new id in some two billion is mistaken for a known one.

const GENERATION = 1_000_000;
const HALF = 2 ** 32;
const HIGH_BITS = 0xf_ffff;

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

  /** All hashes for a snapshot, in base64, older set first: 8 bytes each, the low half first. */
  export(): string {
    const all = new Uint32Array(2 * (this.#former.size + this.#now.size));
    let end = 0;
    for (const hashes of [this.#former, this.#now]) {
      for (const hash of hashes) {
        all[end++] = hash % HALF;
        all[end++] = hash / HALF;
      }
    }
    return Buffer.from(all.buffer).toString("base64");
  }

  /** Adds the hashes of an `export`, also one by 0.1.0, which kept 64 bits. */
  import(text: string): void {
    const bytes = Buffer.from(text, "base64");
    for (let at = 0; at + 8 <= bytes.length; at += 8)
      this.#add(joined(bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)));
  }

  #add(hash: number): void {
    if (this.#now.size >= GENERATION) {
      this.#former = this.#now;
      this.#now = new Set();
    }
    this.#now.add(hash);
  }
}

const whole = new BigUint64Array(1);
const halves = new Uint32Array(whole.buffer);

function hashOf(id: string): number {
  whole[0] = Bun.hash.wyhash(id);
  return joined(halves[0]!, halves[1]!);
}

function joined(low: number, high: number): number {
  return low + (high & HIGH_BITS) * HALF;
}
