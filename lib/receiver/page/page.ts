// What a page is: a path, what it shows, and its forms. Each page is a module of its own; site.tsx serves them.

import type { Child } from "hono/jsx";
import type { Failures } from "../failures.ts";
import type { InboxEnd } from "../inbox-end.ts";
import type { Reading } from "../reading.ts";

/** The paths of all pages, as Hono writes them. `/hosts/*` is `/hosts`, too. */
export const SITE = [
  "/",
  "/assets/*",
  "/live",
  "/login",
  "/logout",
  "/hosts/*",
  "/alerts/*",
  "/events",
  "/jobs/*",
  "/episodes",
  "/inbox/*",
  "/failures/*",
];

/** What pages are made from. */
export interface Sources {
  reading: Reading;
  /** Null where events go to no inbox. */
  inbox: InboxEnd | null;
  failures: Failures;
}

/** What is asked of a page. */
export interface Asked extends Sources {
  /** The parameters of its path, decoded. */
  params: Record<string, string>;
  query: URLSearchParams;
  /** Milliseconds since 1970. */
  now: number;
}

/** What a page shows. */
export interface Shown {
  /** In words what needs you, for the tab; "Picket" is added. */
  title: string;
  content: Child;
}

/** What a form does; gives the path to go to, or what is shown once. @throws Refusal, which is shown as a page. */
export type Form = (asked: Asked, fields: FormData) => Promise<string | Shown>;

export interface Page {
  /** As Hono writes paths: `/hosts/:id`. */
  path: string;
  /** @throws Refusal, which is shown as a page. */
  show: (asked: Asked) => Promise<Shown>;
  /** By the path that they are posted to. */
  forms?: Record<string, Form>;
}
