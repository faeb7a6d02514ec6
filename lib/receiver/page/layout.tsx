/** @jsxImportSource hono/jsx */
// What all pages have in common: the head, the links to the others, the foot.

import type { Child } from "hono/jsx";
import { Live, Version } from "./regions.tsx";

/** A fence's picket. In place: a browser asks for /favicon.ico otherwise. */
const ICON =
  "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath fill='%232f7d4f' d='M5 15V5l3-4 3 4v10zM1 8h14v2H1z'/%3E%3C/svg%3E";

/** The pages that are linked from each. */
const PAGES = [
  ["/", "Fleet"],
  ["/alerts", "Alerts"],
  ["/events", "Events"],
  ["/jobs", "Jobs"],
  ["/episodes", "Episodes"],
  ["/inbox", "Inbox"],
  ["/failures", "Failures"],
] as const;

export interface Frame {
  title: string;
  path: string;
  /** Whether it is kept up to date: not what is shown once. */
  isLive: boolean;
  /** Whether there is a session to end. */
  hasLogout: boolean;
  /** What is to be seen to on a page, by its path; a page without an entry is not linked. */
  counts: ReadonlyMap<string, number>;
  /** The paths of the script and the style sheet. */
  assets: { script: string; style: string };
  children: Child;
}

/** A page, whole. */
export function Layout({ title, path, isLive, hasLogout, counts, assets, children }: Frame) {
  return (
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        {/* The header says no-referrer: with that alone a browser would not say in Origin who sends a form. */}
        <meta name="referrer" content="same-origin" />
        <meta name="color-scheme" content="light dark" />
        <title>{`${title} · Picket`}</title>
        <link rel="icon" href={ICON} />
        <link rel="stylesheet" href={assets.style} />
        <script type="module" src={assets.script}></script>
      </head>
      <body>
        <header>
          <strong>Picket</strong>
          <Live id="pages" as="nav" aria-label="pages">
            {PAGES.filter(([to]) => counts.has(to)).map(([to, name]) => (
              <a href={to} aria-current={isWithin(path, to) ? "page" : undefined}>
                {name}
                {counts.get(to)! > 0 && <span class="count"> {counts.get(to)}</span>}
              </a>
            ))}
          </Live>
        </header>
        <p id="stale" role="status" hidden></p>
        <main>{children}</main>
        <footer>
          <span id="zone">Times are in UTC</span>
          {hasLogout && (
            <form method="post" action="/logout">
              <button>Log out</button>
            </form>
          )}
        </footer>
        {isLive && <Version build={assets.script + assets.style} />}
      </body>
    </html>
  );
}

const isWithin = (path: string, page: string): boolean =>
  page === "/" ? path === "/" : `${path}/`.startsWith(`${page}/`);
