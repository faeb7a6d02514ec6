// Remembers which ids were recorded, so that an operation that is sent again is not counted again: at least the newest million,
// at most two.
//
// Of each id 52 bits of its hash are kept, as much as a plain number holds. When a set has taken a million, it becomes the former one,
// and the former one is forgotten. A new id is taken for a known one once in some two billion.

const GENERATION = 1_000_000;
const HALF = 2 ** 32;
const HIGH_BITS = 0xf_ffff;

/** A set of ids that forgets the oldest. */
export class RecentIds {
  #now = new Set<number>();
  #former = new Set<number>();

  /** Whether an id is among those remembered. */
  has(id: string): boolean {
    const hash = hashOf(id);
    return this.#now.has(hash) || this.#former.has(hash);
  }

  /** Remembers one. */
  add(id: string): void {
    this.#add(hashOf(id));
  }

  /** All hashes, oldest generation first, for a snapshot: 8 bytes each, the low half first. */
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

  /** Takes back what `export` gave, here or in 0.1.0, which kept 64 bits. */
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
