// Chance that can be had again: all of a run's randomness comes from one seed, and everybody who draws has a stream of their
// own, named, so that how fast one of them draws changes nothing for the others.

/** A stream of random numbers (mulberry32: 32 bits of state, good enough to pick faults and sizes by). */
export class Chance {
  readonly seed: number;
  #state: number;

  constructor(seed: number) {
    this.seed = seed >>> 0;
    this.#state = this.seed;
  }

  /** From 0 to below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number, both ends included. */
  between(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  pick<T>(all: readonly T[]): T {
    return all[this.between(0, all.length - 1)]!;
  }

  /** A copy in another order. */
  shuffled<T>(all: readonly T[]): T[] {
    const copy = [...all];
    for (let at = copy.length - 1; at > 0; at--) {
      const other = this.between(0, at);
      [copy[at], copy[other]] = [copy[other]!, copy[at]!];
    }
    return copy;
  }

  /** Text of so many characters; some of them are line breaks, quotes and letters of several bytes. */
  text(length: number): string {
    return Array.from({ length }, () => this.pick(LETTERS)).join("");
  }

  /** Bytes that don't compress. */
  bytes(length: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; at++) bytes[at] = this.between(0, 255);
    return bytes;
  }

  /** A stream of its own for this name. */
  fork(name: string): Chance {
    return new Chance(Bun.hash.xxHash32(name, this.seed));
  }
}

const LETTERS = ["a", "e", "n", "x", "0", "7", " ", "{", "}", "[", ",", ":", "\n", '"', "\\", "ü", "€", "😀"];

/** The seed from PICKET_FAULT_SEED, else a new one. @throws Error when what is given is no number. */
export function chooseSeed(): number {
  const given = process.env["PICKET_FAULT_SEED"];
  if (given === undefined || given === "") return crypto.getRandomValues(new Uint32Array(1))[0]!;
  if (!/^\d+$/.test(given)) throw new Error(`PICKET_FAULT_SEED "${given}": expected a whole number`);
  return Number(given) >>> 0;
}
