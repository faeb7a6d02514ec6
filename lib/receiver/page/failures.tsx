/** @jsxImportSource hono/jsx */
// The failures that an observer has grouped by their cause, the latest first; and each of them with its examples.

import type { Child } from "hono/jsx";
import { Refusal } from "../../refusal.ts";
import { printable } from "../../text.ts";
import { type Cluster, type Failure, type Known, type State as Standing, stateOf } from "../failures.ts";
import type { Look } from "../fleet.ts";
import type { Asked, Page } from "./page.ts";
import { Ago, State, Text, When, brief } from "./parts.tsx";
import { Live } from "./regions.tsx";

const LOOKS: Record<Standing, Look> = { escalated: "bad", new: "warn", known: "off", quiet: "off" };
/** What is to be seen to comes first. */
const ORDER = Object.keys(LOOKS);

export const failuresPage: Page = {
  path: "/failures",
  async show(asked) {
    const { now } = asked;
    const known = await sourceOf(asked).list();
    const { clusters, total } = known.value ?? { clusters: [], total: 0 };
    const rank = (one: Cluster): number => ORDER.indexOf(stateOf(one, now));
    const title = known.problem === null ? headlineOf(clusters.map((one) => stateOf(one, now))) : UNKNOWN;
    return {
      title,
      content: (
        <section class="whole">
          <Live id="headline" as="h1">
            {title}
            <Problem known={known} now={now} />
            {total > clusters.length && <small>{`The latest ${clusters.length} of ${total} failures`}</small>}
          </Live>
          <ol id="failures" class="log">
            {clusters
              .toSorted((a, b) => rank(a) - rank(b))
              .map((one) => (
                <Live id={`failure-${Bun.hash(one.fingerprint).toString(36)}`} as="li" list="failures">
                  <Row cluster={one} now={now} name={<Name cluster={one} />} />
                </Live>
              ))}
          </ol>
        </section>
      ),
    };
  },
};

export const failurePage: Page = {
  path: "/failures/:fingerprint",
  async show(asked) {
    const { now, params } = asked;
    const fingerprint = params["fingerprint"]!;
    const known = await sourceOf(asked).one(fingerprint);
    const failure = known.value;
    if (failure === null && known.problem === null) {
      throw new Refusal(404, "unknown_failure", `the observer knows no failure "${brief(fingerprint)}"`);
    }
    const title = failure ? `${brief(failure.endpoint)} fails` : UNKNOWN;
    return {
      title,
      content: (
        <section class="whole">
          <a href="/failures">All failures</a>
          <Live id="headline" as="h1">
            <bdi>{title}</bdi>
            <Problem known={known} now={now} />
          </Live>
          {failure && <Details failure={failure} now={now} />}
        </section>
      ),
    };
  },
};

function sourceOf({ failures }: Asked): Asked["failures"] {
  if (failures.isThere()) return failures;
  throw new Refusal(404, "no_observer", 'no observer is asked for failures: set "observer.url", and reload');
}

function headlineOf(states: Standing[]): string {
  const count = (wanted: Standing): number => states.filter((one) => one === wanted).length;
  const [escalated, fresh] = [count("escalated"), count("new")];
  const words = [
    escalated > 0 && `${escalated} ${escalated === 1 ? "failure is" : "failures are"} escalated`,
    fresh > 0 && `${fresh} ${fresh === 1 ? "is" : "are"} new`,
  ].filter(Boolean);
  return words.length > 0 ? words.join(", ") : states.length > 0 ? "No failure is new" : "No failures";
}

const UNKNOWN = "What fails now is not known";

/** Why the observer does not say what fails now, and how old is what is shown. */
function Problem<T>({ known: { problem, at }, now }: { known: Known<T>; now: number }) {
  if (problem === null) return null;
  return (
    <small>
      {printable(problem)}
      {at > 0 && (
        <>
          . What it said <Ago at={at} now={now} />:
        </>
      )}
    </small>
  );
}

function Row({ cluster, now, name, about }: { cluster: Cluster; now: number; name?: Child; about?: Child }) {
  const { count, shape, last_at } = cluster;
  const state = stateOf(cluster, now);
  return (
    <>
      <State look={LOOKS[state]} word={state} />
      <div class="told">
        {name}
        <Text text={shape} />
        {about}
      </div>
      <div class="aside">
        <span>{count === 1 ? "once" : `${count} times`}</span>
        <span>
          last <When ts={last_at} now={now} />
        </span>
      </div>
    </>
  );
}

/** A link to all that is known of it. */
function Name({ cluster: { fingerprint, endpoint } }: { cluster: Cluster }) {
  return (
    <div>
      <a href={`/failures/${encodeURIComponent(fingerprint)}`}>
        <bdi>{brief(endpoint)}</bdi>
      </a>
    </div>
  );
}

function Details({ failure, now }: { failure: Failure; now: number }) {
  const { fingerprint, why, first_at, by_source, examples } = failure;
  const sources = Object.entries(by_source).map(([source, count]) => `${brief(source)} ${count}`);
  const about = (
    <p class="about">
      {sources.join(", ")}; first <When ts={first_at} now={now} />. {brief(fingerprint)} is one failure because{" "}
      {printable(why)}
    </p>
  );
  return (
    <>
      <ol id="failure" class="log">
        <Live id="failure-0" as="li" list="failure">
          <Row cluster={failure} now={now} about={about} />
        </Live>
      </ol>
      <h2>Examples</h2>
      <ol id="examples" class="log">
        {examples.map(({ timestamp, source, error, input_summary, output_summary, id }, index) => (
          <Live id={`example-${index}`} as="li" list="examples">
            <When ts={timestamp} now={now} />
            <div class="told">
              <Text text={error} />
              <Labelled name="Input" text={input_summary} />
              <Labelled name="Output" text={output_summary} />
              <p class="about">
                <bdi>{brief(source)}</bdi> <bdi>{brief(id)}</bdi>
              </p>
            </div>
          </Live>
        ))}
      </ol>
    </>
  );
}

function Labelled({ name, text }: { name: string; text: string }) {
  if (text === "") return null;
  return (
    <>
      <p class="about">{name}</p>
      <Text text={text} />
    </>
  );
}
