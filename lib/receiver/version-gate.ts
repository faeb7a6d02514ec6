// Accepts only episodes of the newest commits of a repository.
//
// The list of commits comes from Forgejo, else from `git log` in a clone, and is cached for a few seconds. If both fail, the last
// list stays in force, and `source` is `kept`. Before the first list every episode gets 503, so that agents retry it instead of
// moving it to quarantine.

import * as v from "valibot";
import { deadline, openClient } from "../client.ts";
import { Refusal } from "../refusal.ts";
import { type Log, errorChain } from "../log.ts";
import type { Config } from "./config.ts";

/** A list is cached this long, in milliseconds. */
const CACHE_MS = 5000;
/** A source's timeout. */
const SOURCE_MS = 4000;
/** Forgejo's default limit of commits a page. */
const PAGE = 50;
/** Longer than any page, in bytes. */
const LARGEST_ANSWER = 16 << 20;

type GateSettings = Config["version_gate"];

/** The source of the current list. `kept`: both sources fail, and the last list stays in force. */
export type GateSource = "off" | "forgejo" | "git" | "kept" | "none";

export class VersionGate {
  #settings: GateSettings;
  #log: Log;
  #commits: string[] | null = null;
  #source: GateSource = "none";
  #askedAt = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | null = null;

  constructor(settings: GateSettings, log: Log) {
    this.#settings = settings;
    this.#log = log;
  }

  /** Applies a reloaded configuration. */
  configure(settings: GateSettings): void {
    const sources = ({ forgejo, repo_path, window }: GateSettings) =>
      JSON.stringify([forgejo?.url, forgejo?.repo, repo_path, window]);
    // The list of another repository is invalid now.
    if (sources(settings) !== sources(this.#settings)) {
      this.#commits = null;
      this.#source = "none";
      this.#asking = null;
    }
    this.#settings = settings;
    this.#askedAt = Number.NEGATIVE_INFINITY;
  }

  get source(): GateSource {
    return this.#settings.enabled ? this.#source : "off";
  }

  /** Checks an episode's commit. @throws Refusal 400 (missing, malformed), 412 (not in the window), 503 (no list yet). */
  async check(commit: string | null): Promise<void> {
    const { enabled, remediation } = this.#settings;
    if (!enabled) return;
    if (commit === null || !/^[0-9a-f]{40}$/.test(commit)) {
      const what = commit === null ? "is missing" : "is not a commit of 40 hex digits";
      throw new Refusal(400, commit === null ? "unstamped" : "bad_header", `X-Code-Commit ${what}`, {
        extra: { field: "X-Code-Commit", remediation },
      });
    }
    await this.refresh();
    if (this.#commits === null) {
      throw new Refusal(503, "no_commit_list", "which commits are allowed is not known yet; send it again later", {
        headers: { "retry-after": "5" },
      });
    }
    if (this.#commits.includes(commit)) return;
    throw new Refusal(
      412,
      "commit_outside_window",
      `commit ${commit} is not among the newest ${this.#settings.window}`,
      {
        extra: { remediation, your_commit: commit, head_commit: this.#commits[0] ?? null },
      },
    );
  }

  /** Refreshes the list if it is old. Never throws: a failure shows in `source`. */
  async refresh(): Promise<void> {
    if (!this.#settings.enabled) return;
    if (performance.now() - this.#askedAt < CACHE_MS) return;
    if (!this.#asking) {
      const asking = this.#ask().finally(() => {
        if (this.#asking === asking) this.#asking = null;
      });
      this.#asking = asking;
    }
    await this.#asking;
  }

  async #ask(): Promise<void> {
    const settings = this.#settings;
    const { forgejo, repo_path: path, window } = settings;
    const failures: string[] = [];
    const ask = (name: string, list: Promise<string[]>): Promise<string[] | null> =>
      list.catch((error: unknown) => {
        failures.push(`${name}: ${errorChain(error)}`);
        return null;
      });
    let source: GateSource = "forgejo";
    let commits = forgejo ? await ask(source, askForgejo(forgejo, window)) : null;
    if (commits === null && path !== undefined) commits = await ask((source = "git"), askGit(path, window));
    // The configuration was reloaded meanwhile: the answer is for the old one.
    if (settings !== this.#settings) return;
    if (commits === null) source = this.#commits === null ? "none" : "kept";
    this.#commits = commits ?? this.#commits;
    this.#become(source, failures);
    this.#askedAt = performance.now();
  }

  #become(source: GateSource, failures: string[]): void {
    if (source === this.#source && this.#askedAt > 0) return;
    this.#source = source;
    const fields = {
      source,
      head: this.#commits?.[0],
      ...(failures.length > 0 ? { failed: failures.join("; ") } : {}),
    };
    if (failures.length > 0) this.#log.warn("version gate", fields);
    else this.#log.info("version gate", fields);
  }
}

const Commits = v.array(v.object({ sha: v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/)) }));

/** `GET /repos/{owner}/{repo}/commits` of Forgejo's and Gitea's API: the default branch, newest first. */
async function askForgejo(
  { url, repo, token }: NonNullable<GateSettings["forgejo"]>,
  window: number,
): Promise<string[]> {
  const commits: string[] = [];
  const [secret] = token;
  const client = openClient({
    url,
    headers: { accept: "application/json", ...(secret ? { authorization: `token ${secret.reveal()}` } : {}) },
    secrets: token,
    timeoutMs: SOURCE_MS,
    largestAnswer: LARGEST_ANSWER,
  });
  using late = deadline(SOURCE_MS);
  for (let page = 1; commits.length < window; page++) {
    const query = `limit=${PAGE}&page=${page}&stat=false&verification=false&files=false`;
    const path = `/api/v1/repos/${repo}/commits?${query}`;
    const { json } = await client.ask({ what: "list commits", path, signal: late.signal });
    const found = v.safeParse(Commits, json);
    if (!found.success) throw new Error("list commits: the answer isn't a list of commits");
    const fresh = found.output.map(({ sha }) => sha).filter((sha) => !commits.includes(sha));
    if (fresh.length === 0) break;
    commits.push(...fresh);
  }
  return oneOrMore(commits.slice(0, window));
}

function oneOrMore(commits: string[]): string[] {
  if (commits.length === 0) throw new Error("it has no commits");
  return commits;
}

/** The newest commits of a clone's HEAD. */
async function askGit(path: string, window: number): Promise<string[]> {
  // The clone usually belongs to another user than the service, and git rejects that by default.
  const own = ["-c", `safe.directory=${path}`, "-c", "core.fsmonitor=false", "-c", "log.showSignature=false"];
  const git = Bun.spawn(["git", "-C", path, ...own, "log", "--format=%H", "-n", String(window)], {
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
    // In a process group, so that its children are killed, too.
    detached: true,
  });
  const answer = Promise.all([new Response(git.stdout).text(), new Response(git.stderr).text(), git.exited]);
  const { promise: late, reject } = Promise.withResolvers<never>();
  // Doesn't wait for git's end: on a hanging disk it can't be killed.
  const timer = setTimeout(() => {
    reject(new Error(`git did not answer within ${SOURCE_MS / 1000} s`));
    endGroup(git.pid);
  }, SOURCE_MS);
  const [out, err, code] = await Promise.race([answer, late]).finally(() => clearTimeout(timer));
  if (code !== 0) throw new Error(err.trim().split("\n")[0] || `git ended with ${code}`);
  return oneOrMore(out.split("\n").filter((line) => /^[0-9a-f]{40}$/.test(line)));
}

function endGroup(leader: number): void {
  try {
    process.kill(-leader, "SIGKILL");
  } catch {
    // It has exited already.
  }
}
