/** @jsxImportSource hono/jsx */
// The small parts that pages are made of.

import type { Child } from "hono/jsx";
import { cut, printable, printableLines, roughly, size } from "../../text.ts";
import { type Look, SHAPES } from "../fleet.ts";

/** A state: shape, word, and what follows quietly. */
export function State({ look, word, more }: { look: Look; word: string; more?: Child }) {
  return (
    <span class={`state ${look}`}>
      <span aria-hidden="true">{SHAPES[look]}</span> <b>{word}</b>
      {more !== undefined && <small> {more}</small>}
    </span>
  );
}

interface Times {
  /** Milliseconds since 1970; null is never. */
  at: number | null;
  now: number;
}

/** How long ago. The browser keeps it up to date: what a region's times say is no change of it (regions.tsx). */
export function Ago({ at, now }: Times) {
  if (at === null) return <span class="dim">never</span>;
  return <time {...timeOf(at, "ago")}>{`${roughly(now - at)} ago`}</time>;
}

/** For how long, in the same way. */
export function For({ at, now }: Times & { at: number }) {
  return <time {...timeOf(at, "for")}>{roughly(now - at)}</time>;
}

/** A moment: the time of day, with the date where it is not today. The browser shows it in its own zone. */
export function At({ at, now }: { at: number; now: number }) {
  return <time {...timeOf(at, "clock")}>{clock(at, now)}</time>;
}

const timeOf = (at: number, as: string) => {
  const datetime = `${new Date(at).toISOString().slice(0, 19)}Z`;
  return { datetime, title: datetime.replace("T", " ").replace("Z", " UTC"), "data-as": as };
};

function clock(at: number, now: number): string {
  const [date, time] = new Date(at).toISOString().split("T") as [string, string];
  const isToday = date === new Date(now).toISOString().slice(0, 10);
  return isToday ? time.slice(0, 5) : `${date} ${time.slice(0, 5)}`;
}

/** Foreign text in a line or two: nothing in it steers, and the rest of a long one is left out. */
export const brief = (text: string): string => printable(cut(text, 240));

/** How long ago a time of other programs is; what is none is shown as it is. */
export function When({ ts, now }: { ts: string; now: number }) {
  const at = Date.parse(ts);
  return Number.isNaN(at) ? <span class="dim">{brief(ts)}</span> : <Ago at={at} now={now} />;
}

/** What is shown of a text at once, and of one that is folded; in characters. */
const SHOWN = 400;
const FOLDED = 10_000;

/** A text from outside, with its line breaks; one of more than `most` characters is folded. */
export function Text({ text, most = SHOWN }: { text: string; most?: number }) {
  const all = text.replaceAll("\r\n", "\n");
  const [lines = ""] = /^(?:.*\n){0,5}.*/.exec(all.slice(0, most)) ?? [];
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
