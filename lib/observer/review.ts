// Reviews: judge a model's answer by the share of its claims that the source supports. A second model may be asked first; the
// heuristic judges when that model is unreachable, times out or gives an invalid answer.

import * as v from "valibot";
import { DEEPEST, isNestedDeeper } from "../json.ts";
import { Refusal, refuseFields } from "../refusal.ts";
import type { Config } from "./config.ts";
import { type Model, objectIn } from "./model.ts";

/** What a model answers. */
const ModelVerdict = v.object({
  verdict: v.picklist(["accept", "reject", "cycle"]),
  confidence: v.pipe(v.number(), v.minValue(0), v.maxValue(1)),
  /** The model's reason, or the rule that decided. */
  notes: v.optional(v.string(), ""),
});

/** The answer to a review. */
export type Verdict = v.InferOutput<typeof ModelVerdict> & { source: "heuristic" | "cloud" };

const words = v.nullish(v.string("expected text"), "");
const finite = (expected: string) => v.pipe(v.number(expected), v.finite(expected));
const count = v.pipe(finite("expected a number"), v.minValue(0, "expected 0 or more"));

/** A JSON object. Unknown fields are kept, because a request is stored with its verdict. */
function mapping<const E extends v.ObjectEntries>(entries: E) {
  const expected = "expected a JSON object";
  // v.looseObject takes a list for an object.
  const isNoList = v.check((value) => !Array.isArray(value), expected);
  return v.pipe(v.unknown(), isNoList, v.looseObject(entries, expected));
}

const ReviewInput = mapping({
  file_path: words,
  model: words,
  response: words,
  source_content: words,
  grounding_stats: v.nullish(
    mapping({
      total: v.nullish(count, null),
      grounded: v.nullish(count, null),
      groundedPct: v.nullish(finite("expected percent")),
    }),
  ),
  attempt: v.nullish(count, 1),
});
type ReviewInput = v.InferOutput<typeof ReviewInput>;

/** Validates a request. @throws Refusal that names every broken field. */
export function readReview(data: unknown): ReviewInput {
  const parsed = v.safeParse(ReviewInput, data);
  if (!parsed.success) {
    const fields = parsed.issues.map((issue) => ({ field: v.getDotPath(issue) ?? "", error: issue.message }));
    throw refuseFields(422, "invalid_review", fields);
  }
  // A deeply nested value may be parsed, but not written again.
  if (isNestedDeeper(parsed.output, DEEPEST))
    throw new Refusal(422, "too_deep", `nested more than ${DEEPEST} levels deep`);
  return parsed.output;
}

/** Judges by the share of claims that are grounded. */
export function judge({ grounding_stats: stats, attempt }: ReviewInput, limits: Config["review"]): Verdict {
  const { accept_from, reject_below, reject_from_attempt } = limits;
  const say = (verdict: Verdict["verdict"], confidence: number, notes: string): Verdict => ({
    verdict,
    confidence: Math.round(Math.min(Math.max(confidence, 0), 1) * 100) / 100,
    notes,
    source: "heuristic",
  });
  if (!stats || stats.total === 0) return say("cycle", 0.2, "no claims to judge by: try again");
  const percent = percentOf(stats);
  if (percent === null) return say("cycle", 0.2, "the share of grounded claims is unknown: try again");
  const seen = `${Math.round(percent * 10) / 10} % grounded`;
  if (percent >= accept_from)
    return say("accept", 0.6 + (percent - accept_from) / 200, `${seen}: at least ${accept_from} %`);
  if (percent < reject_below)
    return say("reject", 0.6 + (reject_below - percent) / 100, `${seen}: below ${reject_below} %`);
  const between = `${seen}: between ${reject_below} and ${accept_from} %`;
  if (attempt >= reject_from_attempt) return say("reject", 0.6, `${between}, at attempt ${attempt}`);
  return say("cycle", 0.5, `${between}: try again`);
}

/** `groundedPct`, or when it is absent the share that follows from the counts; null when it is unknown. */
function percentOf({ total, grounded, groundedPct }: NonNullable<ReviewInput["grounding_stats"]>): number | null {
  if (groundedPct !== undefined) return groundedPct;
  return total && grounded !== null ? (grounded / total) * 100 : null;
}

const SYSTEM = `You judge whether a model's answer about a file is grounded in that file's content. Reply with one JSON object and nothing else:
{"verdict":"accept" | "reject" | "cycle","confidence":0.0 to 1.0,"notes":"one sentence"}
accept: what it claims is in the source. reject: it invents. cycle: it should be tried again.`;
/** Characters of the answer and of the source that the model gets. */
const MOST_SHOWN = 24_000;

/** Asks the model once. Returns its verdict, or why there is none. */
export async function askModel(
  input: ReviewInput,
  model: Model,
  signal: AbortSignal,
): Promise<Verdict | { failed: string }> {
  const { file_path, model: author, response, source_content, grounding_stats, attempt } = input;
  const shown = [
    `File: ${file_path}\nAnswer by: ${author}\nAttempt: ${attempt}\nGrounding: ${JSON.stringify(grounding_stats ?? null)}`,
    `--- the answer ---\n${response.slice(0, MOST_SHOWN)}`,
    `--- the source ---\n${source_content.slice(0, MOST_SHOWN)}`,
  ];
  const answer = await model.ask(SYSTEM, shown.join("\n\n"), signal);
  if ("failed" in answer) return answer;
  const parsed = v.safeParse(ModelVerdict, objectIn(answer.text));
  if (!parsed.success) return { failed: "the model's answer has no verdict" };
  return { ...parsed.output, notes: parsed.output.notes.slice(0, 2000), source: "cloud" };
}
