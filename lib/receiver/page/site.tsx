/** @jsxImportSource hono/jsx */
// Serves the pages: to those who may read, with headers that let a page load and run nothing from elsewhere.

import type { Context } from "hono";
import { streamSSE } from "hono/streaming";
import { type Bindings, pathOf } from "../../http.ts";
import type { Log } from "../../log.ts";
import { openFailures } from "../failures.ts";
import { openInboxEnd } from "../inbox-end.ts";
import { Refusal, refusalLog, unknownPath } from "../../refusal.ts";
import type { Reading } from "../reading.ts";
import type { Sessions } from "../sessions.ts";
import { files, paths } from "./assets.ts";
import { alertsPage } from "./alerts.tsx";
import { episodesPage } from "./episodes.tsx";
import { containerPage } from "./container.tsx";
import { eventsPage } from "./events.tsx";
import { failurePage, failuresPage } from "./failures.tsx";
import { fleetPage } from "./fleet.tsx";
import { readForm, refusalOf } from "./form.ts";
import { hostPage } from "./host.tsx";
import { inboxPage, openIn } from "./inbox.tsx";
import { jobPage } from "./job.tsx";
import { jobsPage } from "./jobs.tsx";
import { addHostPage } from "./host-forms.tsx";
import { Layout } from "./layout.tsx";
import { type Moment, createLive } from "./live.ts";
import { createLogin } from "./login.tsx";
import type { Asked, Form, Page, Shown, Sources } from "./page.ts";
import { rendered } from "./regions.tsx";

const PAGES: readonly Page[] = [
  fleetPage,
  addHostPage,
  hostPage,
  containerPage,
  alertsPage,
  eventsPage,
  jobsPage,
  jobPage,
  episodesPage,
  inboxPage,
  failuresPage,
  failurePage,
];

const HEADERS = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};
const PAGE_HEADERS = { ...HEADERS, "content-type": "text/html; charset=utf-8", "cache-control": "no-store" };
const ASSET_HEADERS = { ...HEADERS, "cache-control": "public, max-age=31536000, immutable" };

type C = Context<{ Bindings: Bindings }>;

interface SiteOptions {
  reading: Reading;
  sessions: Sessions;
  log: Log;
}

/** The site; gives what answers its paths. The guard has judged who asks (../../guard.ts). */
export function createSite({ reading, sessions, log }: SiteOptions): (c: C) => Promise<Response> {
  const { store, news } = reading;
  const { notify } = reading.config();
  const inbox = notify ? openInboxEnd(notify) : null;
  const failures = openFailures(() => reading.config().observer, reading.stopping);
  const sources = { reading, inbox, failures };
  const logRefusal = refusalLog(log);
  const needsLogin = () => reading.config().auth.token.length > 0;

  async function moment({ title, content }: Shown, path: string, isLive = true): Promise<Moment> {
    const frame = {
      title,
      path,
      assets: paths,
      isLive,
      counts: await countsOf(sources),
      hasLogout: needsLogin(),
    };
    return { ...rendered(() => <Layout {...frame}>{content}</Layout>), title };
  }
  async function render(address: string): Promise<Moment> {
    const { pathname, searchParams: query } = new URL(address, "http://page");
    const { value, params } = find(SHOWN, pathname);
    return moment(await value({ ...sources, params, query, now: Date.now() }), pathname);
  }
  const changes = async () => `${await store.otherChanges()} ${await inbox?.version()} ${failures.version()}`;
  const live = createLive({ ...reading, log, render, changes });
  const login = createLogin({
    sessions,
    isNeeded: needsLogin,
    show({ title, content }, answer) {
      // Nothing of the fleet: no links with counts.
      const frame = { title, path: "/login", assets: paths, isLive: false, counts: new Map(), hasLogout: false };
      return html(rendered(() => <Layout {...frame}>{content}</Layout>).html, answer);
    },
    logRefusal,
  });

  async function answer(c: C, path: string): Promise<Response> {
    if (c.req.method !== "POST") return html((await render(path + new URL(c.req.url).search)).html);
    const { value: form, params } = find(FORMS, path);
    const query = new URL(c.req.url).searchParams;
    const done = await form({ ...sources, params, query, now: Date.now() }, await readForm(c));
    news.emit("change");
    return typeof done === "string" ? c.redirect(done, 303) : html((await moment(done, path, false)).html);
  }

  return async (c) => {
    const path = pathOf(c.req.url);
    const file = files.get(path);
    if (file) return new Response(file.body, { headers: { ...ASSET_HEADERS, "content-type": file.type } });
    // No page, which would show something of the fleet: an asset needs no session.
    if (path.startsWith("/assets/")) throw unknownPath();
    if (path === "/login") return login(c, path);
    // The streams of the session end.
    if (path === "/logout") return login(c, path).finally(() => news.emit("event"));
    try {
      if (path === "/live") return stream(c, live);
      return await answer(c, path);
    } catch (error) {
      const refusal = refusalOf(error);
      if (refusal.status === 403 || refusal.status >= 500) logRefusal(refusal, c.env.ip(), { path, ...refusal.log });
      return html((await moment(refused(refusal), path, false)).html, refusal);
    }
  };
}

function stream(c: C, live: ReturnType<typeof createLive>): Response {
  const address = c.req.query("of") ?? "/";
  c.env.idle(0);
  // nginx would collect the events until its buffer is full.
  c.header("x-accel-buffering", "no");
  return streamSSE(c, (out) => live.stream(address, out, c.env.mayGoOn));
}

/** What GET shows, and what POST does, by path. */
const SHOWN = PAGES.map(({ path, show }) => [new URLPattern({ pathname: path }), show] as const);
const FORMS = PAGES.flatMap(({ forms = {} }) =>
  Object.entries<Form>(forms).map(([path, form]) => [new URLPattern({ pathname: path }), form] as const),
);

function find<T>(all: readonly (readonly [URLPattern, T])[], pathname: string): { value: T; params: Asked["params"] } {
  for (const [pattern, value] of all) {
    const found = pattern.exec({ pathname });
    if (!found) continue;
    const params = Object.entries(found.pathname.groups).map(([name, text = ""]) => [name, decodeURIComponent(text)]);
    return { value, params: Object.fromEntries(params) as Asked["params"] };
  }
  throw unknownPath();
}

function html(text: string, { status, headers }: Pick<Refusal, "status" | "headers"> = { status: 200, headers: {} }) {
  return new Response(`<!doctype html>${text}`, { status, headers: { ...headers, ...PAGE_HEADERS } });
}

function refused({ status, message }: Refusal): Shown {
  return {
    title: status === 404 ? "Not found" : "Not possible",
    content: (
      <section>
        <h1>{status === 404 ? "There is no such page" : "That was not possible"}</h1>
        <p>{message}</p>
      </section>
    ),
  };
}

/** What is to be seen to, for the links to the pages. */
async function countsOf({ reading, inbox, failures }: Sources): Promise<Map<string, number>> {
  const open = await reading.store.read.one<{ alerts: number }>(
    "SELECT COUNT(*) AS alerts FROM alerts WHERE closed_at IS NULL AND acknowledged_at IS NULL",
  );
  return new Map([
    ["/", 0],
    ["/alerts", open?.alerts ?? 0],
    ...(inbox ? [["/inbox", openIn(await inbox.look()).length] as const] : []),
    ["/events", 0],
    ["/jobs", 0],
    ["/episodes", 0],
    ...(failures.isThere() ? [["/failures", failures.count(Date.now())] as const] : []),
  ]);
}
