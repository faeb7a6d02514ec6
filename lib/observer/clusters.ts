// Clusters: failures with the same fingerprint, and when each cluster is due for escalation.
//
// A cluster's failures come in spells: a spell begins with the first failure after a silence of `cooldown`. Within a spell
// `threshold` failures inside `window` make the cluster due at level 1; 10 and 100 times `threshold` failures make it due at levels
// 10 and 100. Only the operations and their own times decide, so reading the log again gives the same result.
//
// `add` only queues a failure. `analyze` sorts the queue into clusters, in slices, so that requests are answered meanwhile.

import { type Operation, timeOf } from "./operation.ts";
import { type Fingerprint, fingerprintOf } from "./fingerprint.ts";
import { inSlices } from "../loop.ts";
import { cut } from "../text.ts";

/** When a cluster is escalated. */
export interface EscalationRules {
  threshold: number;
  windowMs: number;
  cooldownMs: number;
}

export const LEVELS = [1, 10, 100] as const;
/** By how many times the threshold the spell has reached it. */
export type Level = (typeof LEVELS)[number];

/** A failure, as an example. */
export interface Example {
  timestamp: string;
  source: string;
  error: string;
  input_summary: string;
  output_summary: string;
  id?: string | undefined;
}

/** Failures with one fingerprint. Times are the operations' own, in milliseconds since 1970. */
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
  /** Times of the newest failures, ascending; at most `threshold` of them. */
  recent: number[];
  /** The highest level that was reached. */
  reached: Level | 0;
}

/** Above this number the clusters whose last failure is oldest are dropped. */
const MOST_CLUSTERS = 10_000;
const EXAMPLES = 5;
const LARGEST_TEXT = 1000;
const LARGEST_SIGNATURE = 256;
/** The longest error or output that is fingerprinted. */
const LARGEST_READ = 16_384;
/** Limits of the queue. When it is full, adding a failure sorts the oldest few at once. */
const MOST_WAITING = 20_000;
const MOST_WAITING_CHARACTERS = 16 << 20;
const FEW = 10;
/** How many fingerprints are cached by their text: failures that repeat mostly have identical texts. */
const MOST_CACHED = 5000;

/** A failure in the queue. */
interface Failure extends Example {
  endpoint: string;
  sig_hash: string | undefined;
  at: number;
}

export class Clusters {
  #rules: EscalationRules;
  #clusters = new Map<string, Cluster>();
  #waiting: Failure[] = [];
  #waitingCharacters = 0;
  #cached = new Map<string, Fingerprint>();

  constructor(rules: EscalationRules) {
    this.#rules = rules;
  }

  /** Changes when clusters are escalated; a level that a spell has reached stays. */
  set rules(rules: EscalationRules) {
    this.#rules = rules;
  }

  get size(): number {
    return this.#clusters.size;
  }

  /** The length of the queue. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Queues an operation that failed; ignores one that succeeded. */
  add(operation: Operation): void {
    if (operation.success) return;
    const { timestamp, endpoint, source, input_summary, output_summary, error = "", sig_hash, id } = operation;
    const failure: Failure = {
      timestamp,
      endpoint,
      source,
      input_summary: cut(input_summary, LARGEST_TEXT),
      output_summary: error === "" ? output_summary.slice(0, LARGEST_READ) : cut(output_summary, LARGEST_TEXT),
      error: error.slice(0, LARGEST_READ),
      at: timeOf(operation),
      sig_hash: sig_hash && shortSignature(sig_hash),
      id,
    };
    this.#waitingCharacters += charactersOf(failure);
    this.#waiting.push(failure);
    if (this.#fullness >= 1) this.#sortFew();
  }

  /** Backpressure: sorts in slices until the queue is less than a quarter full. */
  async relieve(): Promise<void> {
    const turn = inSlices();
    while (this.#fullness >= 1 / 4) {
      this.#sortFew();
      await turn();
    }
  }

  /** Sorts the queue. */
  analyzeNow(): void {
    while (this.#waiting.length > 0) this.#sortFew();
  }

  /** Sorts the queue in slices. `alive` is called after each. */
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

  /** All clusters, the one with the latest failure first. */
  list(): Cluster[] {
    return [...this.#clusters.values()].toSorted((a, b) => b.last_at - a.last_at);
  }

  /** All clusters, for a snapshot. */
  get state(): Cluster[] {
    this.analyzeNow();
    return [...this.#clusters.values()];
  }

  set state(clusters: Cluster[]) {
    this.#waiting = [];
    this.#waitingCharacters = 0;
    this.#clusters = new Map(clusters.map((cluster) => [cluster.fingerprint, cluster]));
  }

  /** How full the queue is: 1 at its limit. */
  get #fullness(): number {
    return Math.max(this.#waiting.length / MOST_WAITING, this.#waitingCharacters / MOST_WAITING_CHARACTERS);
  }

  #sortFew(): void {
    for (const failure of this.#waiting.splice(0, FEW)) {
      this.#waitingCharacters -= charactersOf(failure);
      this.#sort(failure);
    }
  }

  #sort(failure: Failure): void {
    const { fingerprint, parts } = this.#fingerprint(failure);
    const { at, source } = failure;
    let cluster = this.#clusters.get(fingerprint);
    if (!cluster) {
      if (this.#clusters.size >= MOST_CLUSTERS) this.#forgetOldest();
      const times = { first_at: at, last_at: at };
      cluster = { fingerprint, parts, count: 0, ...times, by_source: {}, examples: [], spell: spellAt(at) };
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

  /** Counts a failure in its spell, and raises the spell's level. */
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

  #fingerprint({ endpoint, error, output_summary, sig_hash }: Failure): Fingerprint {
    // The cache's key is a hash, because texts may be long.
    const text = `${endpoint}\n${sig_hash ?? ""}\n${error || output_summary}`;
    const key = new Bun.CryptoHasher("sha1").update(text).digest("base64");
    const cached = this.#cached.get(key);
    if (cached) return cached;
    const found = fingerprintOf({ endpoint, error, output_summary, sig_hash });
    if (this.#cached.size >= MOST_CACHED) this.#cached.clear();
    this.#cached.set(key, found);
    return found;
  }

  /** Drops a tenth at a time, because finding the oldest means sorting all. */
  #forgetOldest(): void {
    const oldest = [...this.#clusters.values()].toSorted((a, b) => a.last_at - b.last_at).slice(0, MOST_CLUSTERS / 10);
    for (const { fingerprint } of oldest) this.#clusters.delete(fingerprint);
  }
}

function charactersOf({ error, output_summary, input_summary }: Failure): number {
  return error.length + output_summary.length + input_summary.length;
}

function spellAt(begin: number): Spell {
  return { begin, count: 0, recent: [], reached: 0 };
}

function exampleOf({ timestamp, source, error, input_summary, output_summary, id }: Failure): Example {
  return {
    timestamp,
    source,
    error: cut(error, LARGEST_TEXT),
    input_summary,
    output_summary: cut(output_summary, LARGEST_TEXT),
    id,
  };
}

/** A long signature is replaced by its hash, so that a cluster stays small. */
function shortSignature(signature: string): string {
  if (signature.length <= LARGEST_SIGNATURE) return signature;
  return new Bun.CryptoHasher("sha256").update(signature).digest("hex");
}
