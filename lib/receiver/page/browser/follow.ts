// Keeps the page up to date (../live.ts says what comes), and says when it can't.

import { Idiomorph } from "idiomorph";

interface Update {
  title: string;
  version: string;
  regions: Record<string, string>;
  lists: Record<string, string[]>;
}

/** Without a sign of life for so long what is shown is old: two of the stream's, in milliseconds. */
const OLD_MS = 35_000;
const AGAIN_MS = 5000;

/** What a reader has opened stays open. */
const MORPHING = {
  ignoreActiveValue: true,
  callbacks: {
    beforeAttributeUpdated: (name: string, { tagName }: Element) => !(name === "open" && tagName === "DETAILS"),
  },
};

/** @param shown called for each element that changed. @returns what shows this page with another query. */
export function followPage(shown: (element: Element) => void): (query: string) => void {
  // What is shown once, such as a token, is not followed.
  if (versionShown() === undefined) return (query) => location.assign(query);
  let stream: EventSource | null = null;
  let heard = Date.now();
  let opened = heard;
  let updates = 0;

  const alive = () => {
    heard = Date.now();
    sayOld(null);
  };

  function open(): void {
    stream?.close();
    opened = Date.now();
    stream = new EventSource(`/live?of=${encodeURIComponent(location.pathname + location.search)}`);
    stream.addEventListener("hello", (event) => {
      const { version } = JSON.parse(event.data as string) as Update;
      if (version === versionShown()) alive();
      else void fetchPage();
    });
    stream.addEventListener("alive", alive);
    stream.addEventListener("update", (event) => {
      updates++;
      apply(JSON.parse(event.data as string) as Update, shown);
      alive();
    });
  }

  /** After a restart of the receiver, or a sleep of this machine: all of the page anew. */
  async function fetchPage(): Promise<void> {
    const before = updates;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      // Where the session is over, to the form that asks for the token.
      if (answer.redirected) return location.reload();
      // A proxy says that the receiver is away, or it can't answer now.
      if (answer.status >= 500) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      // What came meanwhile may be newer than this page.
      if (updates !== before) return await fetchPage();
      // Another version of the receiver: another script, too.
      if (scriptOf(page) !== scriptOf(document)) return location.reload();
      document.title = page.title;
      void Idiomorph.morph(document.body, page.body, MORPHING);
      shown(document.body);
      alive();
    } catch {
      // Not reachable now: the stream tries again, too.
    }
  }

  async function showAddress(): Promise<void> {
    await fetchPage();
    open();
  }

  open();
  addEventListener("popstate", () => void showAddress());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stream?.close();
    else open();
  });
  setInterval(() => {
    if (document.hidden) return;
    if (Date.now() - heard > OLD_MS) sayOld(heard);
    // A connection that a sleep has cut looks open for many minutes.
    if (Date.now() - Math.max(heard, opened) > OLD_MS) open();
    // A browser gives up where the answer was an error: the session is over, or the page is gone.
    if (stream?.readyState === EventSource.CLOSED) void fetchPage().then(open);
  }, AGAIN_MS);
  return (query) => {
    history.pushState(null, "", query);
    void showAddress();
  };
}

const scriptOf = (page: Document) => page.querySelector<HTMLScriptElement>("script[src]")?.getAttribute("src");

const versionShown = () => document.getElementById("version")?.dataset["version"];

function apply({ title, version, regions, lists }: Update, shown: (element: Element) => void): void {
  document.title = `${title} · Picket`;
  const fresh = new Map<string, Element>();
  for (const [id, html] of Object.entries(regions)) {
    const old = document.getElementById(id);
    if (old) void Idiomorph.morph(old, html, MORPHING);
    else fresh.set(id, elementOf(html));
  }
  for (const [id, ids] of Object.entries(lists)) order(id, ids, fresh);
  for (const id of Object.keys(regions)) {
    const element = document.getElementById(id);
    if (element) shown(element);
  }
  const mark = document.getElementById("version");
  if (mark) mark.dataset["version"] = version;
}

/** Brings the regions of a list into their order; those that are no longer in it go. */
function order(list: string, ids: string[], fresh: ReadonlyMap<string, Element>): void {
  const parent = document.getElementById(list);
  if (!parent) return;
  const wanted = new Set(ids);
  for (const child of parent.querySelectorAll(":scope > [data-live]")) if (!wanted.has(child.id)) child.remove();
  let at = parent.querySelector(":scope > [data-live]");
  for (const id of ids) {
    const element = fresh.get(id) ?? document.getElementById(id);
    if (!element) continue;
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
}

function elementOf(html: string): Element {
  // A row of a table is only parsed in a template.
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild!;
}

/** @param since when the page was last up to date; null where it is. */
function sayOld(since: number | null): void {
  const line = document.getElementById("stale");
  if (!line) return;
  line.hidden = since === null;
  if (since !== null) {
    line.textContent = `The receiver does not answer: this is how things were at ${new Date(since).toLocaleTimeString()}.`;
  }
}
