/** @jsxImportSource hono/jsx */
// The parts of a page that change while it is open. Each is an element with an id. A page's HTML is whole without a script; live.ts sends
// the regions whose HTML is another than before, and the browser puts each in its place.

import { raw } from "hono/html";
import type { Child, JSX, JSXNode } from "hono/jsx";

/** A page as it was rendered at one moment. */
export interface Rendered {
  html: string;
  /** The HTML of each region by its id, in the page's order. */
  regions: Map<string, string>;
  /** The ids of the regions of each list, in order, by the id of the list's element. */
  lists: Map<string, string[]>;
  /** Stands for all regions: the same where the page is. */
  version: string;
}

const empty = (): Rendered => ({ html: "", regions: new Map(), lists: new Map(), version: "" });

/** Rendering is synchronous: one at a time. */
let now = empty();

/** What a time says without a script: it is another at each rendering, and the browser says it by itself. */
const TIMES = /(<time [^>]*>)[^<]+/g;

type Attributes = Omit<JSX.HTMLAttributes, "id" | "children">;

/**
 * An element that follows what happens. Regions do not lie within each other.
 * @param list the id of the element that it is a child of, where the children come, go and change places. Regions are the last children
 *   of such an element.
 */
export function Live({
  id,
  as = "div",
  list,
  children,
  ...attributes
}: Attributes & { id: string; as?: string; list?: string; children?: Child }) {
  const Tag = as as "div";
  const html = htmlOf(
    <Tag id={id} data-live={list ?? ""} {...attributes}>
      {children}
    </Tag>,
  );
  now.regions.set(id, html.replace(TIMES, "$1"));
  if (list !== undefined) now.lists.getOrInsertComputed(list, () => []).push(id);
  return raw(html);
}

/** Tells the browser what it shows, and the time here. The last part of a page: it stands for those before it. */
export function Version({ build }: { build: string }) {
  now.version = Bun.hash(`${build}${[...now.regions.values()].join("")}`).toString(36);
  return <template id="version" data-version={now.version} data-now={Date.now()}></template>;
}

/** Renders a page with its regions. */
export function rendered(page: () => unknown): Rendered {
  now = empty();
  now.html = htmlOf(page());
  return now;
}

/** Without asynchronous components it is a string at once. */
const htmlOf = (node: unknown): string => (node as JSXNode).toString() as string;
