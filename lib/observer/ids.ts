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
    const [low, high] = hashOf(id);
    return this.#now.has(low, high) || this.#former.has(low, high);
  }

  /** Remembers one. */
  add(id: string): void {
    const [low, high] = hashOf(id);
    this.#addHash(low, high);
  }

  /** All hashes, oldest generation first, for a snapshot. */
  export(): string {
    const former = this.#former.hashes();
    const now = this.#now.hashes();
    return Buffer.concat([former, now].map(({ buffer }) => new Uint8Array(buffer))).toString("base64");
  }

  /** Takes back what `export` gave. */
  import(text: string): void {
    const bytes = Buffer.from(text, "base64");
    const whole = new Uint8Array(bytes.length - (bytes.length % 8));
    whole.set(bytes.subarray(0, whole.length));
    const halves = new Uint32Array(whole.buffer);
    for (let at = 0; at < halves.length; at += 2) this.#addHash(halves[at]!, halves[at + 1]!);
  }

  #addHash(low: number, high: number): void {
    if (this.#now.count >= GENERATION) {
      this.#former = this.#now;
      this.#now = new Table();
    }
    this.#now.add(low, high);
  }
}

const whole = new BigUint64Array(1);
const halves = new Uint32Array(whole.buffer);

/** Both halves of a hash, low first: with bigints each look into a table would leave one behind for the collector. */
function hashOf(id: string): readonly [low: number, high: number] {
  whole[0] = Bun.hash.wyhash(id);
  const low = halves[0]!;
  const high = halves[1]!;
  // 0 is an empty slot.
  return low === 0 && high === 0 ? [1, 0] : [low, high];
}

/** Hashes, each in two neighbouring slots. */
class Table {
  #slots = new Uint32Array(2 * SMALLEST);
  count = 0;

  has(low: number, high: number): boolean {
    const at = this.#find(low, high);
    return this.#slots[at] === low && this.#slots[at + 1] === high;
  }

  add(low: number, high: number): void {
    if (this.count * 4 >= this.#slots.length) this.#grow();
    const at = this.#find(low, high);
    if (this.#slots[at] === low && this.#slots[at + 1] === high) return;
    this.#slots[at] = low;
    this.#slots[at + 1] = high;
    this.count++;
  }

  /** All of them, without the empty slots between. */
  hashes(): Uint32Array<ArrayBuffer> {
    const all = new Uint32Array(2 * this.count);
    let end = 0;
    for (let at = 0; at < this.#slots.length; at += 2) {
      const low = this.#slots[at]!;
      const high = this.#slots[at + 1]!;
      if (low === 0 && high === 0) continue;
      all[end++] = low;
      all[end++] = high;
    }
    return all;
  }

  /** The slots that hold the hash, or the empty ones where it would go. */
  #find(low: number, high: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let at = (2 * low) & mask;
    while (!(slots[at] === low && slots[at + 1] === high) && (slots[at] !== 0 || slots[at + 1] !== 0)) {
      at = (at + 2) & mask;
    }
    return at;
  }

  #grow(): void {
    const hashes = this.hashes();
    this.#slots = new Uint32Array(this.#slots.length * 2);
    for (let from = 0; from < hashes.length; from += 2) {
      const at = this.#find(hashes[from]!, hashes[from + 1]!);
      this.#slots[at] = hashes[from]!;
      this.#slots[at + 1] = hashes[from + 1]!;
    }
  }
}
