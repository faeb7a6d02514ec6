// Which requests are admitted through an agent's doors, decided before a byte of the body is read:
//
//   no bearer token → 401 · unknown, revoked or malformed token, or its host is archived → 401
//   → over the allowance → 429 · bound to another sender → 401 → admitted, `last_used_at` stamped
//
// A 401 has no body and doesn't give the reason; the log does. Only admitted requests use up the allowance. Uploads have an
// allowance of their own, so that many small episodes don't keep the reports out.

import { isDiskFull } from "../files.ts";
import { bearerOf } from "../guard.ts";
import { Refusal, refusalLog } from "../refusal.ts";
import type { Log } from "../log.ts";
import type { Config } from "./config.ts";
import { type Queries, isAway, isBusy } from "../database.ts";
import type { Figures } from "./figures.ts";
import { formerNames, isToken, sha256 } from "./hosts.ts";
import type { Presence } from "./presence.ts";
import { type Allowance, allowanceOf } from "./rate-limit.ts";
import type { Store } from "./store.ts";

/** The host that an admitted request comes from. */
export interface Sender {
  /** The host's number and name. */
  host: number;
  name: string;
  token: number;
  ip: string;
  /** When the request was admitted, in milliseconds since 1970. */
  at: number;
}

/** What a request is for. */
export type Door = "report" | "upload" | "other";

type Settings = Pick<Config, "rate_limit_per_minute" | "auth">;

interface AdmissionOptions {
  store: Store;
  config: Settings;
  presence: Presence;
  figures: Figures;
  log: Log;
}

interface Token {
  token: number;
  host: number;
  name: string;
  fingerprint: string | null;
  agent_version: string | null;
}

/** Admits the requests of agents. */
export class Admission {
  #options: AdmissionOptions;
  #allowances: Record<"reports" | "uploads", Allowance>;
  #logRefusal: ReturnType<typeof refusalLog>;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    const { store } = options;
    this.#allowances = { reports: allowanceOf(store, "reports"), uploads: allowanceOf(store, "uploads") };
    this.#logRefusal = refusalLog(options.log);
  }

  /** Takes over what a reload changed. */
  configure(config: Settings): void {
    this.#options = { ...this.#options, config };
  }

  /**
   * Judges the credentials of a request, then does the work. The work stamps the token (`stamp`); where it fails that is done here.
   * @throws Refusal; what the work throws after the client went away.
   */
  async admit(
    { request, ip, door }: { request: Request; ip: string; door: Door },
    work: (sender: Sender) => Promise<Response>,
  ): Promise<Response> {
    const sender = await this.#judge(request, ip, door).catch((error: unknown) => {
      const refusal = asRefusal(error);
      if (refusal.status >= 500) this.#options.presence.storeFailed();
      this.#options.figures.refused(refusal.code).add();
      this.#logRefusal(refusal, ip);
      throw refusal;
    });
    try {
      return await work(sender);
    } catch (error) {
      if (door === "report") this.#options.presence.heard(sender.host);
      await this.#options.store.write((tx) => stamp(tx, sender), [sender.host]).catch(() => {});
      if (request.signal.aborted) throw error;
      const refusal = asRefusal(error);
      const { status, log, extra } = refusal;
      this.#logRefusal(refusal, ip, { host: sender.name, status, field: extra["field"], ...log });
      throw refusal;
    }
  }

  async #judge(request: Request, ip: string, door: Door): Promise<Sender> {
    const { store, config } = this.#options;
    const bearer = bearerOf(request);
    if (bearer === undefined) throw unauthorized("missing_bearer_token");
    const found = isToken(bearer) ? await findToken(store, bearer) : undefined;
    if (!found) throw unauthorized("invalid_token");
    const { token, host, name } = found;
    const fingerprint = config.auth.bind_fingerprint ? fingerprintOf(request, ip) : null;
    const bound = fingerprint === null || isBoundTo(found, fingerprint, { request, ip });
    const take = this.#allowances[door === "upload" ? "uploads" : "reports"];
    const wait = await take(token, { perMinute: config.rate_limit_per_minute, spend: bound });
    if (wait > 0) {
      // A host that tries to report is alive.
      if (door === "report") this.#options.presence.heard(host);
      throw tooMany(wait, "with this token", { host: name });
    }
    if (!bound) throw unauthorized("fingerprint_mismatch", name);
    if (fingerprint !== null && found.fingerprint !== fingerprint) await this.#bind(found, fingerprint);
    return { host, name, token, ip, at: Date.now() };
  }

  /** Of two first requests at once, one binds the token. */
  async #bind({ token, host, name, fingerprint: former }: Token, fingerprint: string): Promise<void> {
    const changed = await this.#options.store.write(
      (tx) =>
        tx.run(
          "UPDATE tokens SET fingerprint = $1 WHERE id = $2 AND (fingerprint IS NOT DISTINCT FROM $3 OR fingerprint = $1)",
          [fingerprint, token, former],
        ),
      [host],
    );
    if (changed === 0) throw unauthorized("fingerprint_mismatch", name);
  }
}

/** Notes that a token was used. */
export async function stamp(tx: Queries, { token, at }: Sender): Promise<void> {
  // A slow request may end after quicker ones that came later. A time that lies ahead is from before the clock was set back.
  await tx.run(
    `UPDATE tokens SET last_used_at = CASE WHEN last_used_at > $1 AND last_used_at <= $2 THEN last_used_at ELSE $1 END
     WHERE id = $3`,
    [at, Date.now(), token],
  );
}

function findToken({ read }: Store, token: string): Promise<Token | undefined> {
  return read.one<Token>(
    `SELECT t.id AS token, t.fingerprint, h.id AS host, h.name, h.agent_version FROM tokens t JOIN hosts h ON h.id = t.host
     WHERE t.sha256 = $1 AND t.revoked_at IS NULL AND h.archived_at IS NULL`,
    [sha256(token)],
  );
}

/** The address and the program without its versions, so that an upgrade keeps the token. `2:` tells it from those with versions. */
function fingerprintOf(request: Request, ip: string): string {
  const program = (request.headers.get("user-agent") ?? "").replace(/\/[^\s();]+|\bv?\d[\w.+-]*/gi, "");
  return `2:${sha256(`${ip}|${program}`)}`;
}

/** Whether a token may be used; one that was bound with a version also by that one, or by the version that its agent last reported. */
function isBoundTo(
  { fingerprint: bound, agent_version: agent }: Token,
  fingerprint: string,
  { request, ip }: { request: Request; ip: string },
): boolean {
  if (bound === null || bound === fingerprint) return true;
  if (bound.startsWith("2:")) return false;
  const sent = request.headers.get("user-agent") ?? "";
  return [sent, sent.replace(/\/\S+/, `/${agent}`)].some((program) => sha256(`${ip}|${program}`) === bound);
}

/** A 401 without the reason; the log has it. */
export function unauthorized(code: string, host?: string): Refusal {
  return new Refusal(401, code, "a host's token is required", {
    empty: true,
    headers: { "www-authenticate": "Bearer" },
    log: host === undefined ? {} : { host },
  });
}

/** @throws Refusal 403 where a request names another host than its sender. A name that the sender had before is its own. */
export async function mustBe({ read }: Store, { host, name }: Sender, named: string): Promise<void> {
  if (named === name) return;
  if ((await formerNames(read, host)).includes(named)) return;
  throw new Refusal(403, "not_your_host", "the token belongs to another host", { extra: { field: "host" } });
}

/** 429. */
export function tooMany(waitMs: number, whose: string, log: Record<string, unknown> = {}): Refusal {
  const seconds = Math.max(1, Math.ceil(waitMs / 1000));
  return new Refusal(429, "rate_limited", `too many requests ${whose}: one is free in ${seconds} s`, {
    headers: { "retry-after": String(seconds) },
    log,
  });
}

/** An error as the answer that makes an agent do the right thing. */
export function asRefusal(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  const log = { error };
  if (isDiskFull(error)) return new Refusal(507, "disk_full", "no space left here; send it again later", { log });
  if (isBusy(error)) {
    const why = isAway(error) ? "the database is away" : "the store is locked by another program";
    return new Refusal(503, "busy", `${why}; send it again later`, { headers: { "retry-after": "5" }, log });
  }
  return new Refusal(503, "store", "it could not be stored; send it again later", {
    headers: { "retry-after": "60" },
    log,
  });
}
