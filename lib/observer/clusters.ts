// Clusters: failures with the same fingerprint.
//
// `add` only queues a failure. `analyze` sorts the queue into clusters, in slices, so that requests are answered meanwhile.

import * as v from "valibot";
import { type Operation, timeOf } from "./operation.ts";
import { type Fingerprint, endpointShape, fingerprintOf } from "./fingerprint.ts";
import { Count, type EscalationRules, Instant, Run, Spell, countInRun, countInSpell } from "./spells.ts";
import { inSlices } from "../loop.ts";
import { cut } from "../text.ts";

/** A failure, as an example. */
const Example = v.object({
  timestamp: v.string(),
  source: v.string(),
  error: v.string(),
  input_summary: v.string(),
  output_summary: v.string(),
  id: v.optional(v.string()),
});
type Example = v.InferOutput<typeof Example>;

/** Failures with one fingerprint. Times are the operations' own. */
const Cluster = v.pipe(
  v.object({
    fingerprint: v.string(),
    parts: v.object({ by: v.picklist(["sig_hash", "error"]), endpoint: v.string(), shape: v.string() }),
    count: Count,
    first_at: Instant,
    last_at: Instant,
    by_source: v.record(v.string(), Count),
    /** Newest first. */
    examples: v.array(Example),
    /** 0.1.0 had a single one. */
    spell: v.optional(v.omit(Spell, ["end"])),
    spells: v.optional(v.array(Spell)),
    runs: v.optional(v.array(Run), []),
  }),
  v.transform(({ spell, ...cluster }) => {
    const { spells = spell ? [{ ...spell, end: cluster.last_at }] : [] } = cluster;
    return { ...cluster, spells };
  }),
);
export type Cluster = v.InferOutput<typeof Cluster>;

/** What a snapshot keeps. */
export const ClustersState = v.object({
  clusters: v.array(Cluster),
  /** How often each endpoint that has failed has succeeded since. */
  successes: v.optional(v.record(v.string(), Count), {}),
});
type ClustersState = v.InferOutput<typeof ClustersState>;

/** Above this number clusters are dropped: those with a single failure first, then those whose last failure is oldest. */
export const MOST_CLUSTERS = 10_000;
const EXAMPLES = 5;
const LARGEST_TEXT = 1000;
const LARGEST_SIGNATURE = 256;
/** The longest error or output that is fingerprinted. */
const LARGEST_READ = 16_384;
/** Limits of the queue. When it is full, adding a failure sorts the oldest few at once. */
const MOST_WAITING = 20_000;
const MOST_WAITING_CHARACTERS = 16 << 20;
const FEW = 10;
/** How many fingerprints and shapes are cached by their text: failures that repeat mostly have identical texts. */
const MOST_CACHED = 5000;

/** A failure in the queue. */
interface Failure extends Example {
  endpoint: string;
  sig_hash: string | undefined;
  at: number;
  /** The number of the last success of its endpoint before it. */
  after: number;
}

export class Clusters {
  /** When clusters are escalated. After a change a level that a spell has reached stays. */
  rules: EscalationRules;
  #clusters = new Map<string, Cluster>();
  #waiting: Failure[] = [];
  #waitingCharacters = 0;
  #fingerprints = new Map<string, Fingerprint>();
  #successes = new Map<string, number>();
  #shapes = new Map<string, string>();

  constructor(rules: EscalationRules) {
    this.rules = rules;
  }

  get size(): number {
    return this.#clusters.size;
  }

  /** Queues an operation that failed. One that succeeded ends the run of its endpoint's failures. */
  add(operation: Operation): void {
    const shape = cached(this.#shapes, operation.endpoint, endpointShape);
    const after = this.#successes.get(shape);
    if (operation.success) {
      if (after !== undefined) this.#successes.set(shape, after + 1);
      return;
    }
    if (after === undefined) this.#successes.set(shape, 0);
    const { timestamp, endpoint, source, input_summary, output_summary, error = "", sig_hash, id } = operation;
    const failure: Failure = {
      timestamp,
      endpoint,
      source,
      input_summary: cut(input_summary, LARGEST_TEXT),
      output_summary: error === "" ? output_summary.slice(0, LARGEST_READ) : cut(output_summary, LARGEST_TEXT),
      error: error.slice(0, LARGEST_READ),
      at: timeOf(operation),
      after: after ?? 0,
      sig_hash: sig_hash && shortSignature(sig_hash),
      id,
    };
    this.#waitingCharacters += charactersOf(failure);
    this.#waiting.push(failure);
    if (this.fullness >= 1) this.#sortFew();
  }

  /** How full the queue is: 1 at its limit. */
  get fullness(): number {
    return Math.max(this.#waiting.length / MOST_WAITING, this.#waitingCharacters / MOST_WAITING_CHARACTERS);
  }

  /** Sorts the queue in slices, until it is no fuller than `rest`. `alive` is called after each slice. */
  async analyze(alive?: () => void, rest = 0): Promise<void> {
    const turn = inSlices(alive);
    while (this.fullness > rest) {
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

  /** All that a snapshot keeps, while the queue is empty. */
  get state(): ClustersState {
    return { clusters: [...this.#clusters.values()], successes: Object.fromEntries(this.#successes) };
  }

  set state({ clusters, successes }: ClustersState) {
    this.#successes = new Map(Object.entries(successes));
    this.#clusters = new Map(clusters.map((cluster) => [cluster.fingerprint, cluster]));
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
      if (this.#clusters.size >= MOST_CLUSTERS) this.#forget();
      const times = { first_at: at, last_at: at };
      cluster = { fingerprint, parts, count: 0, ...times, by_source: {}, examples: [], spells: [], runs: [] };
      this.#clusters.set(fingerprint, cluster);
    }
    cluster.count++;
    cluster.first_at = Math.min(cluster.first_at, at);
    cluster.last_at = Math.max(cluster.last_at, at);
    cluster.by_source[source] = (cluster.by_source[source] ?? 0) + 1;
    cluster.examples.unshift(exampleOf(failure));
    if (cluster.examples.length > EXAMPLES) cluster.examples.pop();
    countInSpell(cluster.spells, at, this.rules);
    countInRun(cluster.runs, failure, this.rules);
  }

  #fingerprint(failure: Failure): Fingerprint {
    const { endpoint, error, output_summary, sig_hash } = failure;
    // The cache's key is a hash, because texts may be long.
    const text = `${endpoint}\n${sig_hash ?? ""}\n${error || output_summary}`;
    const key = new Bun.CryptoHasher("sha1").update(text).digest("base64");
    return cached(this.#fingerprints, key, () => fingerprintOf(failure));
  }

  /** Drops a tenth at a time, because finding them means sorting all. */
  #forget(): void {
    const rank = ({ count, last_at }: Cluster) => (count === 1 ? 0 : Number.MAX_SAFE_INTEGER) + last_at;
    const least = [...this.#clusters.values()].toSorted((a, b) => rank(a) - rank(b)).slice(0, MOST_CLUSTERS / 10);
    for (const { fingerprint } of least) this.#clusters.delete(fingerprint);
    const failing = new Set([...this.#clusters.values()].map(({ parts }) => parts.endpoint));
    for (const shape of this.#successes.keys()) if (!failing.has(shape)) this.#successes.delete(shape);
  }
}

function cached<T>(cache: Map<string, T>, key: string, make: (key: string) => T): T {
  let value = cache.get(key);
  if (value !== undefined) return value;
  if (cache.size >= MOST_CACHED) cache.clear();
  cache.set(key, (value = make(key)));
  return value;
}

function charactersOf({ error, output_summary, input_summary }: Failure): number {
  return error.length + output_summary.length + input_summary.length;
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
