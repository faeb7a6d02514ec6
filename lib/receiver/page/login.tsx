/** @jsxImportSource hono/jsx */
// The form that asks for the operator's token, and the end of a session.

import type { Context } from "hono";
import type { Bindings } from "../../http.ts";
import { Refusal, type refusalLog } from "../../refusal.ts";
import { allowanceInMemory } from "../rate-limit.ts";
import type { Sessions } from "../sessions.ts";
import { fieldOf, readForm, refusalOf } from "./form.ts";
import type { Shown } from "./page.ts";

type C = Context<{ Bindings: Bindings }>;

/** So many wrong tokens may come from an address in a minute. */
const MOST_WRONG = 5;

interface LoginOptions {
  sessions: Sessions;
  /** Whether a token is set. */
  isNeeded: () => boolean;
  /** The answer that shows a page. */
  show: (shown: Shown, answer?: Pick<Refusal, "status" | "headers">) => Response;
  logRefusal: ReturnType<typeof refusalLog>;
}

/** Answers /login and /logout. */
export function createLogin({
  sessions,
  isNeeded,
  show,
  logRefusal,
}: LoginOptions): (c: C, path: string) => Promise<Response> {
  const take = allowanceInMemory();

  async function logIn(c: C): Promise<Response> {
    const given = fieldOf(await readForm(c), "token");
    const ip = c.env.ip();
    const token = sessions.tokenOf(given);
    const wait = Math.ceil((await take(ip, { perMinute: MOST_WRONG, spend: !token })) / 1000);
    if (wait > 0) {
      const what = `${MOST_WRONG} wrong tokens came from this address within a minute: try again in ${wait} s`;
      throw new Refusal(429, "rate_limited", what, { headers: { "retry-after": String(wait) } });
    }
    if (token) return to(nextOf(c), await sessions.begin(token, c.env.isSecure()));
    throw new Refusal(401, "invalid_token", "the token is wrong", { headers: { "www-authenticate": "Bearer" } });
  }

  return async (c, path) => {
    const isForm = c.req.method === "POST";
    if (!isNeeded() || (!isForm && (await sessions.isOpen(c.req.raw)))) return to(nextOf(c));
    if (!isForm)
      return show(form(nextOf(c)), { status: 200, headers: isLinked(c) ? { refresh: `0;url=${again(c)}` } : {} });
    try {
      if (path === "/login") return await logIn(c);
      await readForm(c);
      return to("/login", await sessions.end(c.req.raw, c.env.isSecure()));
    } catch (error) {
      const refusal = refusalOf(error);
      logRefusal(refusal, c.env.ip(), { path, ...refusal.log });
      return show(form(nextOf(c), refusal.message), refusal);
    }
  };
}

function to(path: string, cookie?: string): Response {
  const headers = {
    location: path,
    "cache-control": "no-store",
    ...(cookie === undefined ? {} : { "set-cookie": cookie }),
  };
  return new Response(null, { status: 303, headers });
}

/**
 * Whether a link on another website led here: then the browser keeps a SameSite=Strict cookie back, also where there is a session, and
 * sends it when a page of this receiver asks once more. It says so in `Sec-Fetch-Site`, or without TLS in `Referer`.
 */
function isLinked({ req }: C): boolean {
  const site = req.header("sec-fetch-site");
  const from = URL.parse(req.header("referer") ?? "");
  const isOther = site === undefined ? from !== null && from.host !== req.header("host") : site === "cross-site";
  return isOther && req.query("again") === undefined;
}

const again = (c: C): string => `${addressOf(nextOf(c))}&again=1`;

const addressOf = (next: string): string => `/login?next=${encodeURIComponent(next)}`;

/** The page that was asked for: a path of this receiver, whatever stands there. */
function nextOf(c: C): string {
  const here = "http://page";
  const next = URL.parse(c.req.query("next") ?? "/", here);
  // A path that begins with two slashes names a host.
  return next?.origin === here ? next.pathname.replace(/^\/+/, "/") + next.search : "/";
}

function form(next: string, wrong?: string): Shown {
  return {
    title: "Log in",
    content: (
      <section class="form">
        <h1>Log in</h1>
        {wrong !== undefined && <p role="alert">{`${wrong[0]!.toUpperCase()}${wrong.slice(1)}.`}</p>}
        <form method="post" action={addressOf(next)}>
          <label for="token">The operator's token</label>
          <input id="token" name="token" type="password" autocomplete="current-password" required autofocus />
          <button>Log in</button>
        </form>
        <p class="dim">
          The receiver's configuration names its file: <code>auth.token_file</code>
        </p>
      </section>
    ),
  };
}
