// The heartbeat: a report at once, then one every interval. What could not be sent waits on disk and goes out afterwards,
// oldest first, while the live report always goes first.
//
//   sent             the envelope's interval is adopted; waiting samples follow, one at a time
//   no answer, 5xx   the sample waits · 429, 503 and Retry-After: nothing is sent before that
//   401, 403         on the very first report the agent exits (a wrong token shows at once); later everything is held and retried
//                    with exponential backoff, from 2 s up to the interval: a token that you fix is noticed soon
//   400, 413, 422    the receiver will never take this sample: it is logged and dropped
//   not kept         a sample that has to wait and can't be written to disk is lost and counted
//   not collected    a required source failed: it is logged, and this report is skipped

import { HttpError, serverTime } from "../client.ts";
import { duration } from "../text.ts";
import { type Log, errorChain, type Seldom, seldom } from "../log.ts";
import type { Backlog } from "./backlog.ts";
import type { Hub } from "./hub.ts";
import type { Report } from "./report.ts";

/** The usual envelope, and the meaning of one without these fields. Anything else is logged, on the first report too. */
const NOTHING_ASKED = JSON.stringify({ blocked: false, desired_generation: 0, has_signed_ops: false });
const SHORTEST_SECONDS = 60;
const LONGEST_SECONDS = 3600;
/** From refused credentials to the next report; doubled each time, up to the interval. */
const FIRST_RETRY_SECONDS = 2;
/** Waiting samples go out this far apart, in seconds: beside the live report they stay within 60 requests a minute. */
const DRAIN_SECONDS = 1.3;
/** After a waiting sample could not be sent, in seconds. */
const DRAIN_AGAIN_SECONDS = 5;

/** Clocks may differ by so much. */
const CLOCK_MS = 60_000;

/** The doors of a receiver, by the protocol that is configured. */
export const REPORT_PATHS = { report: "/v1/host-report", telemetry: "/agent/telemetry" } as const;

interface ReporterOptions {
  hub: Hub;
  backlog: Backlog;
  collect: (interval: number) => Promise<Report>;
  /** Seconds, until the receiver says otherwise. */
  interval: number;
  protocol: keyof typeof REPORT_PATHS;
  log: Log;
}

/** Reports, and remembers how it went. */
export class Reporter {
  #options: ReporterOptions;
  #interval: number;
  #envelope = NOTHING_ASKED;
  /** Nothing is sent before, by `performance.now()`: a clock that is set must not make a wait of seconds one of a day. */
  #notBefore = 0;
  /** How many reports in a row had their credentials refused. */
  #refusals = 0;
  #clockRight = true;
  #drainFailed = false;
  #seldom: Seldom;
  /** Whether the last report arrived. */
  connected = false;
  /** Reports that arrived, waiting ones included. */
  sent = 0;
  /** Samples that the receiver refused. */
  refused = 0;
  /** Samples that could be neither sent nor kept: the disk is full or read-only. */
  unkept = 0;
  /** Reports that were skipped because a required source failed. */
  skipped = 0;

  constructor(options: ReporterOptions) {
    this.#options = options;
    this.#interval = options.interval;
    this.#seldom = seldom(options.log);
  }

  /** Applies a reloaded configuration; the interval only where it differs from the one configured before. */
  configure({ interval, protocol }: Pick<ReporterOptions, "interval" | "protocol">): void {
    if (interval !== this.#options.interval) this.#interval = interval;
    this.#options = { ...this.#options, interval, protocol };
  }

  /** Seconds from one report to the next while they arrive. */
  get interval(): number {
    return this.#interval;
  }

  /** Seconds until the next report. */
  get pause(): number {
    if (this.#refusals === 0) return this.#interval;
    return Math.min(FIRST_RETRY_SECONDS * 2 ** (this.#refusals - 1), this.#interval);
  }

  /** Collects a report and sends it; one that can't be sent waits. @throws HttpError 401, 403 when `first`. */
  async round({ first = false } = {}): Promise<void> {
    const { collect, backlog, log } = this.#options;
    let report: Report;
    try {
      report = await collect(this.#interval);
    } catch (error) {
      this.skipped++;
      return this.#seldom.warn("collect", `no report this time: ${errorChain(error)}`);
    }
    if (performance.now() < this.#notBefore) return this.#keep(report);
    try {
      await this.#send(report);
      if (!this.connected && !first) log.info("the receiver answers again", { waiting: backlog.count });
      this.connected = true;
      this.#refusals = 0;
    } catch (error) {
      this.connected = false;
      const refused = error instanceof HttpError && error.refusesCredentials;
      if (refused && first) throw error;
      this.#refusals = refused ? this.#refusals + 1 : 0;
      if (this.#judge(error) === "wait") this.#keep(report);
    }
  }

  /** Queues a sample. One that can't be queued is lost; reporting goes on. */
  #keep(report: Report): void {
    const { backlog } = this.#options;
    const before = backlog.dropped;
    try {
      backlog.add(report);
      if (backlog.dropped > before)
        this.#seldom.warn("full", `the queue is full: ${backlog.dropped} samples dropped so far, the oldest ones`);
    } catch (error) {
      this.unkept++;
      this.#seldom.warn("keep", `a sample that can't be sent is lost: ${errorChain(error)}`);
    }
  }

  /** Seconds until the next waiting sample is sent; infinite while none waits, or while the live reports don't arrive. */
  get drainPause(): number {
    if (!this.connected || this.#options.backlog.count === 0) return Infinity;
    const held = (this.#notBefore - performance.now()) / 1000;
    return Math.max(this.#drainFailed ? DRAIN_AGAIN_SECONDS : DRAIN_SECONDS, held);
  }

  /** Sends the oldest sample that waits. */
  async drain(): Promise<void> {
    const { backlog } = this.#options;
    const { oldest } = backlog;
    if (!oldest || !this.connected || performance.now() < this.#notBefore) return;
    this.#drainFailed = false;
    const report = backlog.read(oldest);
    if (report) {
      try {
        await this.#send({ ...(report as Report), sent_at: new Date().toISOString() });
      } catch (error) {
        // The live reports find out whether the receiver is back.
        this.#drainFailed = this.#judge(error) === "wait";
        if (this.#drainFailed) return;
      }
    }
    backlog.remove(oldest);
  }

  async #send(report: Report): Promise<void> {
    const { hub, protocol } = this.#options;
    const path = REPORT_PATHS[protocol];
    const { headers, body } = await hub.ask({ method: "POST", path, what: "report", json: report });
    this.sent++;
    this.#compareClocks(serverTime(headers));
    this.#adopt(body);
  }

  /** Logs when this host's clock is wrong, and when it is right again: a receiver takes reports of a clock that is behind. */
  #compareClocks(there: number | null): void {
    const off = clockOff(there);
    if ((off === null) === this.#clockRight) return;
    this.#clockRight = off === null;
    if (off === null) this.#options.log.info("this host's clock agrees with the receiver's again");
    else this.#options.log.warn(off);
  }

  /** Applies the control envelope. */
  #adopt(envelope: Record<string, unknown>): void {
    const { poll_interval_seconds: asked, blocked = false, desired_generation = 0, has_signed_ops = false } = envelope;
    if (typeof asked === "number" && Number.isFinite(asked)) {
      const interval = Math.min(Math.max(asked, SHORTEST_SECONDS), LONGEST_SECONDS);
      if (interval !== this.#interval) this.#options.log.info("interval adopted", { seconds: interval, asked });
      this.#interval = interval;
    }
    const said = JSON.stringify({ blocked, desired_generation, has_signed_ops });
    if (said === this.#envelope) return;
    this.#options.log.info("the receiver's envelope changed", { envelope: said });
    this.#envelope = said;
  }

  /** Logs what went wrong, and decides whether the sample waits or is dropped. */
  #judge(error: unknown): "wait" | "drop" {
    if (!(error instanceof HttpError)) {
      this.#seldom.warn("transport", errorChain(error));
      return "wait";
    }
    if (error.retryAfter !== null) this.#notBefore = performance.now() + error.retryAfter * 1000;
    if (error.refusesCredentials) {
      this.#seldom.warn("credentials", `${error.message}: the token is refused, everything is held`);
      return "wait";
    }
    if (![400, 413, 422].includes(error.status)) {
      this.#seldom.warn(String(error.status), error.message);
      return "wait";
    }
    this.refused++;
    const off = clockOff(error.serverTime);
    this.#seldom.warn(
      `drop ${error.status}`,
      `${error.message}: this sample is dropped${off === null ? "" : `: ${off}`}`,
    );
    return "drop";
  }
}

/** How far this host's clock is off, in words; null where it agrees with the receiver's, or the receiver doesn't say. */
function clockOff(there: number | null): string | null {
  if (there === null) return null;
  const ahead = Date.now() - there;
  if (Math.abs(ahead) < CLOCK_MS) return null;
  return `this host's clock is ${duration(Math.abs(ahead))} ${ahead > 0 ? "ahead of" : "behind"} the receiver's`;
}
