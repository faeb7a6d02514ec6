// A language model behind an OpenAI-compatible server (such as a local Ollama), at temperature 0, with a timeout, a size limit and
// an hourly budget of calls. `ask` never throws: it returns the answer or the reason why there is none.

import { HttpError, TransportError, openClient } from "../client.ts";
import { errorChain } from "../log.ts";
import type { Config } from "./config.ts";

type ModelSettings = NonNullable<Config["llm"]>;

/** Whether both settings are equal, keys included: a secret's JSON is always the same. */
export function sameModel(a: ModelSettings | undefined, b: ModelSettings | undefined): boolean {
  const keys = (settings: ModelSettings | undefined) => settings?.api_key.map((key) => key.reveal());
  return Bun.deepEquals(keys(a), keys(b)) && JSON.stringify(a) === JSON.stringify(b);
}

/** The answer, or why there is none; `late`: it timed out. */
export type Answer = { text: string } | { failed: string; late?: true };

const HOUR_MS = 3_600_000;
const LARGEST_ANSWER = 1 << 20;

/** Asks the model, and counts the calls. */
export class Model {
  #settings: ModelSettings;
  /** When the last hour's calls were made, on the monotonic clock. */
  #calls: number[] = [];
  /** Why the last call had no answer; null when it had one. */
  failing: string | null = null;

  constructor(settings: ModelSettings) {
    this.#settings = settings;
  }

  /** Asks once. Never throws. */
  async ask(system: string, user: string, signal: AbortSignal): Promise<Answer> {
    const answer = await this.#ask(system, user, signal);
    this.failing = "failed" in answer ? answer.failed : null;
    return answer;
  }

  async #ask(system: string, user: string, signal: AbortSignal): Promise<Answer> {
    const { url, model, api_key, timeout_seconds, calls_per_hour } = this.#settings;
    const now = performance.now();
    this.#calls = this.#calls.filter((at) => at > now - HOUR_MS);
    if (this.#calls.length >= calls_per_hour)
      return { failed: `the budget of ${calls_per_hour} calls an hour is used up` };
    this.#calls.push(now);
    const key = api_key[0]?.reveal();
    const server = openClient({
      url: endpointOf(url),
      headers: key === undefined ? {} : { authorization: `Bearer ${key}` },
      secrets: api_key,
      timeoutMs: timeout_seconds * 1000,
      largestAnswer: LARGEST_ANSWER,
    });
    const says = (role: string, content: string) => ({ role, content });
    const json = { model, temperature: 0, stream: false, messages: [says("system", system), says("user", user)] };
    try {
      const { body } = await server.ask({ what: "ask the model", method: "POST", path: "", json, signal });
      const content = contentOf(body);
      return content === null ? { failed: "the model server's answer has no message" } : { text: content };
    } catch (error) {
      if (error instanceof HttpError) return { failed: `the model server answers ${error.status}` };
      if (error instanceof TransportError && error.late)
        return { failed: `the model did not answer within ${timeout_seconds} s`, late: true };
      return { failed: `the model is unreachable: ${errorChain(error)}` };
    }
  }
}

function endpointOf(url: string): string {
  if (url.endsWith("/chat/completions")) return url;
  return /\/v\d+$/.test(url) ? `${url}/chat/completions` : `${url}/v1/chat/completions`;
}

function contentOf({ choices }: { choices?: unknown }): string | null {
  const content = (choices as { message?: { content?: unknown } | null }[] | undefined)?.[0]?.message?.content;
  const answer = typeof content === "string" ? withoutThoughts(content) : "";
  return answer === "" ? null : answer;
}

/** An answer without the thoughts before it. Some servers leave out the tag that begins them; what never ends is no answer. */
function withoutThoughts(text: string): string {
  const TAG = "(?:think(?:ing)?|thought|reason(?:ing)?|reflection)";
  const [rest = ""] = text.split(new RegExp(`</${TAG}>`, "i")).slice(-1);
  return rest.replace(new RegExp(`<${TAG}>[^]*$`, "i"), "").trim();
}

/** The last JSON object in an answer, which may have text around it or a code block; null if there is none. */
export function objectIn(text: string): Record<string, unknown> | null {
  const end = text.lastIndexOf("}");
  // Verdicts are small and flat: it is enough to try the last 20 opening braces.
  for (let begin = text.lastIndexOf("{", end), tries = 0; begin >= 0 && tries < 20; tries++) {
    try {
      const value: unknown = JSON.parse(text.slice(begin, end + 1));
      if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
    } catch {
      // An inner brace.
    }
    begin = begin === 0 ? -1 : text.lastIndexOf("{", begin - 1);
  }
  return null;
}
