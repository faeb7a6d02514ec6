// Times in the reader's own zone, and how long ago something was.

/** What the server's `roughly` says (lib/text.ts). */
import { roughly } from "../../../text.ts";

/** How far this clock is ahead of the receiver's, in milliseconds. */
let ahead = 0;

export function showTimes(within: Element): void {
  const now = Date.now() - ahead;
  for (const one of within.querySelectorAll<HTMLTimeElement>("time[data-as]")) {
    const at = Date.parse(one.dateTime);
    const text = one.dataset["as"] === "ago" ? `${roughly(now - at)} ago` : clock(at, now);
    if (one.textContent !== text) one.textContent = text;
  }
  const zone = document.getElementById("zone");
  if (zone) zone.textContent = `Times are in ${Intl.DateTimeFormat().resolvedOptions().timeZone}`;
}

function clock(at: number, now: number): string {
  const date = new Date(at);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return date.toDateString() === new Date(now).toDateString() ? time : `${date.toLocaleDateString()} ${time}`;
}
