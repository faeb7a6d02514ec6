// The heartbeat: a report at once, then one every interval. Reports that could not be sent are queued on disk and sent later,
// oldest first; the live report takes precedence.
//
//   accepted         the interval in the answer is adopted; queued reports follow, one at a time
//   no answer, 5xx   the report is queued; Retry-After is obeyed
//   401, 403         on the first report the agent exits, so that a wrong token shows at once; later reports are queued and
//                    retried with exponential backoff, from 2 s up to the interval, so that a new token works soon
//   400, 413, 422    if the receiver itself answers so, it will never accept this report: it is logged and dropped
//   not queued       a report that can't be written to disk is lost and counted
//   not collected    a required source failed: it is logged, and this report is skipped

import { HttpError, TransportError, serverTime } from "../client.ts";
import { duration } from "../text.ts";
import { type Log, errorChain, type Seldom, seldom } from "../log.ts";
import type { Backlog } from "./backlog.ts";
import { type Hub, refused } from "./hub.ts";
import type { Report } from "./report.ts";

/** The usual envelope, also meant by an answer without these fields. Any other is logged, on the first report too. */
const USUAL_ENVELOPE = JSON.stringify({ blocked: false, desired_generation: 0, has_signed_ops: false });
const SHORTEST_SECONDS = 60;
const LONGEST_SECONDS = 3600;
/** From rejected credentials to the next report; doubled each time, up to the interval. */
const FIRST_RETRY_SECONDS = 2;
/** Between queued reports, in seconds: together with the live reports this stays within 60 requests a minute. */
const DRAIN_SECONDS = 1.3;
/** After a queued report could not be sent, in seconds. */
const DRAIN_RETRY_SECONDS = 5;
/** Clocks may differ by this much. */
const CLOCK_MS = 60_000;

/** A receiver's routes for reports, by the configured protocol. */
export const REPORT_PATHS = { report: "/v1/host-report", telemetry: "/agent/telemetry" } as const;

interface ReporterOptions {
  hub: Hub;
  backlog: Backlog;
  collect: (interval: number) => Promise<Report>;
  /** Seconds, until the receiver sets another interval. */
  interval: number;
  protocol: keyof typeof REPORT_PATHS;
  log: Log;
}

/** Sends reports, and counts the results. */
export class Reporter {
  #options: ReporterOptions;
  #interval: number;
  /** The interval in the last answer. */
  #asked = 0;
  #envelope = USUAL_ENVELOPE;
  /** No report is sent before. By `performance.now()`, so that setting the clock doesn't lengthen the wait. */
  #notBefore = 0;
  /** Consecutive reports with rejected credentials. */
  #refusals = 0;
  #clockRight = true;
  #drainFailed = false;
  #seldom: Seldom;
  /** Whether the last report arrived. */
  connected = false;
  /** Why reports wait; null when they arrive. */
  trouble: string | null = null;
  /** Reports that arrived, queued ones included. */
  sent = 0;
  /** Reports that the receiver rejected for good. */
  rejected = 0;
  /** What the receiver said when it rejected the last report. */
  rejection: string | null;
  /** Reports that could be neither sent nor queued: the disk is full or read-only. */
  lost = 0;
  /** Reports that were skipped because a required source failed. */
  skipped = 0;

  constructor(options: ReporterOptions) {
    this.#options = options;
    this.#interval = options.interval;
    this.rejection = options.backlog.rejection;
    this.#seldom = seldom(options.log);
  }

  /** Applies a reloaded configuration. A configured interval that has not changed keeps the receiver's. */
  configure({ interval, protocol }: Pick<ReporterOptions, "interval" | "protocol">): void {
    if (interval !== this.#options.interval) this.#interval = interval;
    this.#options = { ...this.#options, interval, protocol };
    // The receiver may be another one now.
    this.#notBefore = 0;
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

  /** Collects a report and sends or queues it. @throws HttpError 401, 403 when `first`. */
  async round({ first = false } = {}): Promise<void> {
    const { collect, backlog, log } = this.#options;
    let report: Report;
    try {
      report = await collect(this.#interval);
    } catch (error) {
      this.skipped++;
      return this.#seldom.warn("collect", `no report this time: ${errorChain(error)}`);
    }
    if (performance.now() < this.#notBefore) return this.#queue(report);
    try {
      await this.#send(report);
      if (!this.connected && !first) log.info("the receiver answers again", { queued: backlog.count });
      this.connected = true;
      this.#refusals = 0;
    } catch (error) {
      this.connected = false;
      const refused = error instanceof HttpError && error.refusesCredentials;
      if (refused && first) throw error;
      this.#refusals = refused ? this.#refusals + 1 : 0;
      if (this.#logFailure(error) === "retry") this.#queue(report);
    }
  }

  /** Queues a report. If that fails it is lost, and reporting continues. */
  #queue(report: Report): void {
    const { backlog } = this.#options;
    const before = backlog.dropped;
    try {
      backlog.add(report);
      if (backlog.dropped > before)
        this.#seldom.warn("full", `the queue is full: ${backlog.dropped} reports dropped so far, the oldest first`);
    } catch (error) {
      this.lost++;
      this.#seldom.warn("queue", `a report could be neither sent nor queued: ${errorChain(error)}`);
    }
  }

  /** Seconds until the next queued report is sent; infinite while there is none, or while live reports don't arrive. */
  get drainPause(): number {
    if (!this.connected || this.#options.backlog.count === 0) return Infinity;
    const held = (this.#notBefore - performance.now()) / 1000;
    return Math.max(this.#drainFailed ? DRAIN_RETRY_SECONDS : DRAIN_SECONDS, held);
  }

  /** Sends the oldest queued report. */
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
        this.#drainFailed = this.#logFailure(error) === "retry";
        if (this.#drainFailed) return;
      }
    }
    backlog.remove(oldest);
  }

  async #send(report: Report): Promise<void> {
    const { hub, protocol } = this.#options;
    const path = REPORT_PATHS[protocol];
    const { status, headers, body } = await hub.ask({ method: "POST", path, what: "report", json: report });
    // Another program's 200 must not end the report: it would be lost, and this host offline at its receiver.
    if (protocol === "report" && !("poll_interval_seconds" in body || "blocked" in body))
      throw new TransportError(
        `report: answered ${status}, but without "poll_interval_seconds": is the URL a receiver's?`,
      );
    this.sent++;
    this.trouble = null;
    this.#note(null);
    this.#compareClocks(serverTime(headers));
    this.#adopt(body);
  }

  /** Keeps why the last report was rejected, for the doctor and the status line. */
  #note(rejection: string | null): void {
    if (rejection === this.rejection) return;
    this.rejection = rejection;
    try {
      this.#options.backlog.rejection = rejection;
    } catch (error) {
      this.#seldom.warn("rejection", `the rejection is not noted for the doctor: ${errorChain(error)}`);
    }
  }

  /** Logs when this host's clock is wrong, and when it is right again: the receiver accepts reports of a slow clock. */
  #compareClocks(server: number | null): void {
    const off = clockOff(server);
    if ((off === null) === this.#clockRight) return;
    this.#clockRight = off === null;
    if (off === null) this.#options.log.info("this host's clock agrees with the receiver's again");
    else this.#options.log.warn(off);
  }

  /** Applies the interval in an answer; logs a change of the rest. */
  #adopt(answer: Record<string, unknown>): void {
    const { poll_interval_seconds: asked, blocked = false, desired_generation = 0, has_signed_ops = false } = answer;
    if (typeof asked === "number" && Number.isFinite(asked)) {
      const interval = Math.min(Math.max(asked, SHORTEST_SECONDS), LONGEST_SECONDS);
      if (interval !== asked && asked !== this.#asked)
        this.#options.log.warn(
          `the receiver asks for a report every ${asked} s; this agent sends one every ${interval} s`,
        );
      this.#asked = asked;
      if (interval !== this.#interval) this.#options.log.info("interval adopted", { seconds: interval, asked });
      this.#interval = interval;
    }
    const envelope = JSON.stringify({ blocked, desired_generation, has_signed_ops });
    if (envelope === this.#envelope) return;
    this.#options.log.info("the receiver's envelope changed", { envelope });
    this.#envelope = envelope;
  }

  /** Logs a failure, and decides whether the report is sent again. */
  #logFailure(error: unknown): "retry" | "drop" {
    if (!(error instanceof HttpError)) {
      this.trouble = `receiver unreachable: ${errorChain(error)}`;
      this.#seldom.warn("transport", errorChain(error));
      return "retry";
    }
    this.trouble = error.message;
    if (error.retryAfter !== null) this.#notBefore = performance.now() + error.retryAfter * 1000;
    if (error.refusesCredentials) {
      this.trouble = `the receiver rejects ${refused(error).what}`;
      this.#seldom.warn(
        "credentials",
        `${error.message}: the receiver rejects ${refused(error).what}, reports are queued`,
      );
      return "retry";
    }
    if (error.foreign || ![400, 413, 422].includes(error.status)) {
      this.#seldom.warn(String(error.status), error.message);
      return "retry";
    }
    this.rejected++;
    this.trouble = null;
    this.#note(error.message);
    const off = clockOff(error.serverTime);
    const why = off === null ? "" : `: ${off}`;
    this.#seldom.warn(`drop ${error.status}`, `${error.message}: this report is dropped${why}`);
    return "drop";
  }
}

/** Describes how much this host's clock differs from the receiver's; null if they agree, or if the answer has no time. */
function clockOff(server: number | null): string | null {
  if (server === null) return null;
  const ahead = Date.now() - server;
  if (Math.abs(ahead) < CLOCK_MS) return null;
  return `this host's clock is ${duration(Math.abs(ahead))} ${ahead > 0 ? "ahead of" : "behind"} the receiver's`;
}
