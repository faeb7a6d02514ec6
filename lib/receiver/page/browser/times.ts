// Times in the reader's own zone, and how long ago something was, by the receiver's clock.

/** What the server's `roughly` says (lib/text.ts). */
import { roughly } from "../../../text.ts";

/** How far this clock is ahead of the receiver's, in milliseconds. */
const ahead = Date.now() - Number(document.getElementById("version")?.dataset["now"] ?? Date.now());

/** Shows all times of an element that changed. */
export function showTimes(within: Element): void {
  const now = Date.now() - ahead;
  showSpans(within);
  for (const one of within.querySelectorAll<HTMLTimeElement>("time")) {
    const at = new Date(one.dateTime);
    one.title = at.toLocaleString();
    if (one.dataset["as"] === "clock") one.textContent = clock(at, new Date(now));
  }
  const zone = document.getElementById("zone");
  if (zone) zone.textContent = `Times are in ${Intl.DateTimeFormat().resolvedOptions().timeZone}`;
}

/** Brings up to date how long ago things were. */
export function showSpans(within: Element): void {
  const now = Date.now() - ahead;
  for (const one of within.querySelectorAll<HTMLTimeElement>("time:not([data-as=clock])")) {
    const span = roughly(now - Date.parse(one.dateTime));
    const text = one.dataset["as"] === "ago" ? `${span} ago` : span;
    if (one.textContent !== text) one.textContent = text;
  }
}

function clock(at: Date, now: Date): string {
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return at.toDateString() === now.toDateString() ? time : `${at.toLocaleDateString()} ${time}`;
}
