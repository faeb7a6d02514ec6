// Clusters: failures that belong together by their fingerprint, and when each has to be escalated.
//
// A cluster's failures come in spells: a spell begins with the first failure after a silence of `cooldown`. Within a spell
// `threshold` failures inside `window` make it due at level 1; 10 and 100 times `threshold` failures of the spell make it due at
// levels 10 and 100. All of it follows from the operations and their own times, so that reading the log again gives the same.
//
// Adding a failure only notes it; `analyze` sorts what was noted into clusters, in slices, so that requests aren't held up.

import { type Operation, timeOf } from "./operation.ts";
import { type Fingerprint, fingerprintOf } from "./fingerprint.ts";
import { inSlices } from "./slices.ts";

/** When a cluster is escalated. */
interface EscalationRules {
  threshold: number;
  windowMs: number;
  cooldownMs: number;
}

export const LEVELS = [1, 10, 100] as const;
/** How many times the threshold was reached. */
export type Level = (typeof LEVELS)[number];

/** A failure, as an example. */
export interface Example {
  timestamp: string;
  source: string;
  error: string;
  input_summary: string;
  output_summary: string;
  id?: string;
}

/** Failures of one fingerprint. Times in milliseconds since 1970, of the operations themselves. */
export interface Cluster {
  fingerprint: string;
  parts: Fingerprint["parts"];
  count: number;
  first_at: number;
  last_at: number;
  by_source: Record<string, number>;
  /** Newest first. */
  examples: Example[];
  spell: Spell;
}

/** Failures without a long silence between them. */
interface Spell {
  begin: number;
  count: number;
  /** Times of the newest failures, ascending, as many as the threshold. */
  recent: number[];
  /** The highest level that was reached. */
  reached: Level | 0;
}

/** So many clusters are kept; the ones that have been silent for longest go. */
const MOST_CLUSTERS = 10_000;
const EXAMPLES = 5;
const LARGEST_TEXT = 1000;
const LARGEST_SIGNATURE = 256;
/** So many failures, and so many characters of them, wait to be sorted; then each that comes has the oldest few sorted at once. */
const MOST_WAITING = 20_000;
const MOST_WAITING_CHARACTERS = 16 << 20;
const FEW = 10;
/** Texts whose fingerprint is known: what repeats is mostly the very same text. */
const KNOWN_TEXTS = 5000;

type Waiting = Pick<Operation, "timestamp" | "endpoint" | "source" | "input_summary" | "output_summary"> & {
  error: string;
  sig_hash?: string;
  id?: string;
  at: number;
};

/** All clusters. */
export class Clusters {
  #rules: EscalationRules;
  #clusters = new Map<string, Cluster>();
  #waiting: Waiting[] = [];
  #waitingCharacters = 0;
  #known = new Map<string, Fingerprint>();

  constructor(rules: EscalationRules) {
    this.#rules = rules;
  }

  /** Changes when clusters are escalated; what was reached stays reached. */
  set rules(rules: EscalationRules) {
    this.#rules = rules;
  }

  get size(): number {
    return this.#clusters.size;
  }

  /** How many failures wait to be sorted. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Notes a failure; successes are none of its business. */
  add(operation: Operation): void {
    if (operation.success) return;
    const { timestamp, endpoint, source, input_summary, output_summary, error = "", sig_hash, id } = operation;
    const at = timeOf(operation);
    const failure: Waiting = {
      timestamp,
      endpoint,
      source,
      input_summary: cut(input_summary),
      output_summary: error === "" ? output_summary.slice(0, 16_384) : cut(output_summary),
      error: error.slice(0, 16_384),
      at,
      ...(sig_hash === undefined ? {} : { sig_hash: shortSignature(sig_hash) }),
      ...(id === undefined ? {} : { id }),
    };
    this.#waitingCharacters += charactersOf(failure);
    this.#waiting.push(failure);
    if (this.#fullness >= 1) this.#sortFew();
  }

  /** Whether so many failures wait that whoever brings more should wait for `relieve`. */
  get crowded(): boolean {
    return this.#fullness >= 1 / 4;
  }

  /** Sorts, in slices, until it is no longer crowded. */
  async relieve(): Promise<void> {
    const turn = inSlices();
    while (this.crowded) {
      this.#sortFew();
      await turn();
    }
  }

  /** Sorts what was noted. */
  analyzeNow(): void {
    while (this.#waiting.length > 0) this.#sortFew();
  }

  /** The same in slices, with room for others in between. */
  async analyze(alive?: () => void): Promise<void> {
    const turn = inSlices(alive);
    while (this.#waiting.length > 0) {
      this.#sortFew();
      await turn();
    }
  }

  get(fingerprint: string): Cluster | undefined {
    return this.#clusters.get(fingerprint);
  }

  /** All, the latest failure first. */
  list(): Cluster[] {
    return [...this.#clusters.values()].toSorted((a, b) => b.last_at - a.last_at);
  }

  /** What a snapshot keeps. */
  get state(): Cluster[] {
    this.analyzeNow();
    return [...this.#clusters.values()];
  }

  set state(clusters: Cluster[]) {
    this.#waiting = [];
    this.#waitingCharacters = 0;
    this.#clusters = new Map(clusters.map((cluster) => [cluster.fingerprint, cluster]));
  }

  /** How much of what may wait does: 1 is all of it. */
  get #fullness(): number {
    return Math.max(this.#waiting.length / MOST_WAITING, this.#waitingCharacters / MOST_WAITING_CHARACTERS);
  }

  #sortFew(): void {
    for (const failure of this.#waiting.splice(0, FEW)) {
      this.#waitingCharacters -= charactersOf(failure);
      this.#sort(failure);
    }
  }

  #sort(failure: Waiting): void {
    const { fingerprint, parts } = this.#fingerprint(failure);
    const { at, source } = failure;
    let cluster = this.#clusters.get(fingerprint);
    if (!cluster) {
      if (this.#clusters.size >= MOST_CLUSTERS) this.#forgetOldest();
      cluster = {
        fingerprint,
        parts,
        count: 0,
        first_at: at,
        last_at: at,
        by_source: {},
        examples: [],
        spell: spellAt(at),
      };
      this.#clusters.set(fingerprint, cluster);
    }
    if (at - cluster.last_at >= this.#rules.cooldownMs) cluster.spell = spellAt(at);
    cluster.count++;
    cluster.first_at = Math.min(cluster.first_at, at);
    cluster.last_at = Math.max(cluster.last_at, at);
    cluster.by_source[source] = (cluster.by_source[source] ?? 0) + 1;
    cluster.examples.unshift(exampleOf(failure));
    if (cluster.examples.length > EXAMPLES) cluster.examples.pop();
    this.#count(cluster.spell, at);
  }

  /** Counts a failure in its spell, and what level that reaches. */
  #count(spell: Spell, at: number): void {
    const { threshold, windowMs } = this.#rules;
    spell.count++;
    const after = spell.recent.findLastIndex((time) => time <= at);
    spell.recent.splice(after + 1, 0, at);
    if (spell.recent.length > threshold) spell.recent.splice(0, spell.recent.length - threshold);
    const dense = spell.recent.length >= threshold && spell.recent.at(-1)! - spell.recent[0]! <= windowMs;
    if (spell.reached === 0 && dense) spell.reached = 1;
    if (spell.reached === 0) return;
    spell.reached = LEVELS.findLast((level) => level === 1 || spell.count >= level * threshold) ?? 1;
  }

  #fingerprint({ endpoint, error, output_summary, sig_hash }: Waiting): Fingerprint {
    // Texts may be long, and are many: their hash is kept.
    const text = `${endpoint}\n${sig_hash ?? ""}\n${error || output_summary}`;
    const key = new Bun.CryptoHasher("sha1").update(text).digest("base64");
    const known = this.#known.get(key);
    if (known) return known;
    const found = fingerprintOf({ endpoint, error, output_summary, sig_hash });
    if (this.#known.size >= KNOWN_TEXTS) this.#known.clear();
    this.#known.set(key, found);
    return found;
  }

  /** A tenth at a time, because finding them means looking at all. */
  #forgetOldest(): void {
    const oldest = [...this.#clusters.values()].toSorted((a, b) => a.last_at - b.last_at).slice(0, MOST_CLUSTERS / 10);
    for (const { fingerprint } of oldest) this.#clusters.delete(fingerprint);
  }
}

function charactersOf({ error, output_summary, input_summary }: Waiting): number {
  return error.length + output_summary.length + input_summary.length;
}

function spellAt(begin: number): Spell {
  return { begin, count: 0, recent: [], reached: 0 };
}

function exampleOf({ timestamp, source, error, input_summary, output_summary, id }: Waiting): Example {
  return {
    timestamp,
    source,
    error: cut(error),
    input_summary,
    output_summary: cut(output_summary),
    ...(id === undefined ? {} : { id }),
  };
}

/** A signature that is long is known by its hash, so that what is kept of a cluster stays small. */
function shortSignature(signature: string): string {
  if (signature.length <= LARGEST_SIGNATURE) return signature;
  return new Bun.CryptoHasher("sha256").update(signature).digest("hex");
}

function cut(text: string): string {
  return text.length > LARGEST_TEXT ? `${text.slice(0, LARGEST_TEXT)}…` : text;
}
