// Sessions of the pages. A login with the operator's token gives a signed cookie:
//
//   picket_<store>=<end>.<id>.<signature>     end: milliseconds since 1970, base 36; id: 16 random bytes; HMAC-SHA256 of both, base64url
//
// A browser sends a cookie to all ports of a machine: the name tells the receivers there apart.
// The key of the signature is made of a random one in the store, and of the token. So a session ends after 30 days, with its token
// ("auth.token"), with `sessions end` (another key), and at its logout, which the store remembers. Neither the store nor a backup of it
// makes a session without the token, and a login writes nothing: it works on a full disk.

import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { Refusal } from "../refusal.ts";
import { type Secret, secretEquals } from "../secret.ts";
import type { Queries } from "../database.ts";
import { type Store, getNote, setNote } from "./store.ts";

const COOKIE = /(?<=(?:^|;) *picket_[\da-f]{8}=)([\da-z]+\.[\w-]{22})\.([\w-]{43})(?= *(?:;|$))/g;
const LASTS_SECONDS = 30 * 86_400;

const NOTE = "sessions";

/** What the store has of them. */
interface Note {
  key: string;
  /** Those that were logged out: their ends, by what of them is signed. */
  over: Record<string, number>;
}

const newNote = (): Note => ({ key: randomBytes(32).toString("hex"), over: {} });

async function readNote(db: Queries): Promise<Note | null> {
  const text = await getNote(db, NOTE);
  return text === null ? null : (JSON.parse(text) as Note);
}

function sign({ key }: Note, token: Secret, signed: string): Buffer {
  const own = createHmac("sha256", key).update(token.reveal()).digest();
  return createHmac("sha256", own).update(signed).digest();
}

const endOf = (signed: string): number => Number.parseInt(signed, 36);

/** The sessions of a receiver; `tokens` gives the operator's present ones. */
export function createSessions(store: Store, tokens: () => readonly Secret[]) {
  /** The session that a request's cookie stands for; null where there is none. */
  async function find(request: Request): Promise<string | null> {
    const cookies = [...(request.headers.get("cookie") ?? "").matchAll(COOKIE)];
    const note = cookies.length > 0 ? await readNote(store.read) : null;
    if (!note) return null;
    // A browser sends several where one was set for the domain above, too.
    for (const [, signed = "", signature = ""] of cookies) {
      const given = Buffer.from(signature, "base64url");
      const isSigned = tokens().some((token) => timingSafeEqual(given, sign(note, token, signed)));
      if (isSigned && endOf(signed) > Date.now() && note.over[signed] === undefined) return signed;
    }
    return null;
  }
  return {
    isOpen: async (request: Request): Promise<boolean> => (await find(request)) !== null,
    /** The operator's token that a text is; undefined where it is none. */
    tokenOf: (given: string): Secret | undefined => tokens().find((token) => secretEquals(given, [token])),
    /** Begins one; gives the cookie. */
    async begin(token: Secret, isSecure: boolean): Promise<string> {
      const note = (await readNote(store.read)) ?? (await store.write(async (tx) => (await readNote(tx)) ?? renew(tx)));
      const end = Date.now() + LASTS_SECONDS * 1000;
      const signed = `${end.toString(36)}.${randomBytes(16).toString("base64url")}`;
      const value = `${signed}.${sign(note, token, signed).toString("base64url")}`;
      return cookie(note, { value, seconds: LASTS_SECONDS, isSecure });
    },
    /** Ends that of a request; gives the cookie that takes it from the browser. */
    async end(request: Request, isSecure: boolean): Promise<string> {
      const signed = await find(request);
      const note = await store.write((tx) => logOut(tx, signed));
      return cookie(note, { value: "", seconds: 0, isSecure });
    },
  };
}

export type Sessions = ReturnType<typeof createSessions>;

/** Ends all sessions. */
export const endSessions = (store: Store): Promise<unknown> => store.write(renew);

async function renew(tx: Queries): Promise<Note> {
  const note = newNote();
  await setNote(tx, NOTE, JSON.stringify(note));
  return note;
}

async function logOut(tx: Queries, signed: string | null): Promise<Note> {
  const note = (await readNote(tx)) ?? newNote();
  const ends = { ...note.over, ...(signed === null ? {} : { [signed]: endOf(signed) }) };
  const over = Object.fromEntries(Object.entries(ends).filter(([, end]) => end > Date.now()));
  await setNote(tx, NOTE, JSON.stringify({ ...note, over }));
  return note;
}

/** RFC 6265, with SameSite: no other website's request has it. */
function cookie(
  { key }: Note,
  { value, seconds, isSecure }: { value: string; seconds: number; isSecure: boolean },
): string {
  const name = `picket_${createHash("sha256").update(key).digest("hex").slice(0, 8)}`;
  return `${name}=${value}; Path=/; Max-Age=${seconds}; HttpOnly; SameSite=Strict${isSecure ? "; Secure" : ""}`;
}

const API = /^\/(v1|health|metrics)(\/|$)/;

/** Sends a browser without a session to the form that asks for the token; other clients are refused. */
export function toLogin(pathname: string, { code }: Refusal, { method, headers, url }: Request): Response | undefined {
  const isPage = !API.test(pathname) && /\btext\/html\b/.test(headers.get("accept") ?? "");
  if (code !== "missing_bearer_token" || !isPage) return;
  const next = method === "POST" ? "/" : pathname + new URL(url).search;
  const location = `/login?next=${encodeURIComponent(next)}`;
  return new Response(null, { status: 303, headers: { location, "cache-control": "no-store" } });
}
