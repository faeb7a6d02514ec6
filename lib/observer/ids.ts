// Remembers which ids were recorded, so that an operation that is sent again is not counted again: at least the newest million,
// at most two, in flat memory.
//
// Each id is its 64-bit hash in an open-addressed table. When a table has taken a million, it becomes the former one, and the
// former one is forgotten. Two ids share a hash once in some ten million full tables.

const GENERATION = 1_000_000;
const SMALLEST = 1024;

/** A set of ids that forgets the oldest. */
export class RecentIds {
  #now = new Table();
  #former = new Table();

  /** Whether an id is among those remembered. */
  has(id: string): boolean {
    const hash = hashOf(id);
    return this.#now.has(hash) || this.#former.has(hash);
  }

  /** Remembers one. */
  add(id: string): void {
    this.#addHash(hashOf(id));
  }

  /** All hashes, oldest generation first, for a snapshot. */
  export(): string {
    const all = [...this.#former.hashes(), ...this.#now.hashes()];
    return Buffer.from(new BigUint64Array(all).buffer).toString("base64");
  }

  /** Takes back what `export` gave. */
  import(text: string): void {
    const bytes = Buffer.from(text, "base64");
    const whole = new Uint8Array(bytes.length - (bytes.length % 8));
    whole.set(bytes.subarray(0, whole.length));
    for (const hash of new BigUint64Array(whole.buffer)) this.#addHash(hash);
  }

  #addHash(hash: bigint): void {
    if (this.#now.count >= GENERATION) {
      this.#former = this.#now;
      this.#now = new Table();
    }
    this.#now.add(hash);
  }
}

function hashOf(id: string): bigint {
  const hash = Bun.hash.wyhash(id);
  // 0 is an empty slot.
  return hash === 0n ? 1n : hash;
}

class Table {
  #slots = new BigUint64Array(SMALLEST);
  count = 0;

  has(hash: bigint): boolean {
    return this.#slots[this.#find(hash)] === hash;
  }

  add(hash: bigint): void {
    if (this.count * 2 >= this.#slots.length) this.#grow();
    const at = this.#find(hash);
    if (this.#slots[at] === hash) return;
    this.#slots[at] = hash;
    this.count++;
  }

  hashes(): bigint[] {
    return [...this.#slots].filter((hash) => hash !== 0n);
  }

  /** The slot that holds the hash, or the empty one where it would go. */
  #find(hash: bigint): number {
    const mask = this.#slots.length - 1;
    let at = Number(hash & 0xffffffffn) & mask;
    while (this.#slots[at] !== 0n && this.#slots[at] !== hash) at = (at + 1) & mask;
    return at;
  }

  #grow(): void {
    const hashes = this.hashes();
    this.#slots = new BigUint64Array(this.#slots.length * 2);
    for (const hash of hashes) this.#slots[this.#find(hash)] = hash;
  }
}
