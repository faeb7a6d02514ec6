/** @jsxImportSource hono/jsx */
// The small parts that pages are made of.

import { printableLines, roughly, size } from "../../text.ts";
import { type Look, SHAPES } from "../fleet.ts";

/** A state: shape, word, and what follows quietly. */
export function State({ look, word, more }: { look: Look; word: string; more?: string | undefined }) {
  return (
    <span class={`state ${look}`}>
      <span aria-hidden="true">{SHAPES[look]}</span> <b>{word}</b>
      {more !== undefined && <span class="dim"> {more}</span>}
    </span>
  );
}

/** How long ago; the browser keeps it up to date. @param at milliseconds since 1970. */
export function Ago({ at, now }: { at: number | null; now: number }) {
  if (at === null) return <span class="dim">never</span>;
  return (
    <time datetime={new Date(at).toISOString()} title={utc(at)} data-as="ago">
      {`${roughly(now - at)} ago`}
    </time>
  );
}

/** A moment: the time of day, with the date where it is not today. The browser shows it in its own zone. */
export function At({ at, now }: { at: number; now: number }) {
  return (
    <time datetime={new Date(at).toISOString()} title={utc(at)} data-as="clock">
      {clock(at, now)}
    </time>
  );
}

const utc = (at: number): string => new Date(at).toISOString().replace("T", " ").replace(/\..*/, " UTC");

function clock(at: number, now: number): string {
  const [date, time] = new Date(at).toISOString().split("T") as [string, string];
  const isToday = date === new Date(now).toISOString().slice(0, 10);
  return isToday ? time.slice(0, 5) : `${date} ${time.slice(0, 5)}`;
}

/** What is shown of a text at once, and of one that is folded; in characters. */
const SHOWN = 400;
const FOLDED = 10_000;

/** A text from outside, with its line breaks; a long one is folded. */
export function Text({ text }: { text: string }) {
  const all = text.replaceAll("\r\n", "\n");
  const [lines = ""] = /^(?:.*\n){0,5}.*/.exec(all.slice(0, SHOWN)) ?? [];
  if (lines.length === all.length) return <Words text={all} />;
  // Ends with a word, unless that is a very long one.
  const begin = all[lines.length] === "\n" ? lines : lines.replace(/\s\S{0,40}$/, "");
  const rest = all.slice(begin.length, FOLDED);
  return (
    <details class="text">
      <summary>
        <Words text={begin} />
        <span class="more"></span>
      </summary>
      <Words text={rest.replace(/^\n/, "")} />
      {all.length > FOLDED && <p class="dim">The rest of {size(Buffer.byteLength(all))} is not shown.</p>}
    </details>
  );
}

function Words({ text }: { text: string }) {
  return (
    <span class="words" dir="auto">
      {printableLines(text)}
    </span>
  );
}
