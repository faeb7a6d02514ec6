// The read routes: figures, the newest operations, clusters, playbooks.

import { Hono } from "hono";
import type { Bindings } from "../http.ts";
import { Refusal } from "../refusal.ts";
import type { Books } from "./books.ts";
import { type Cluster, MOST_CLUSTERS } from "./clusters.ts";
import { SOURCES, type Operation } from "./operation.ts";
import type { Counted } from "./spells.ts";
import type { Playbook } from "./playbooks.ts";
import { RING_SIZE } from "./tally.ts";

/** /stats, /events, /clusters, /clusters/{fingerprint}, /playbooks. */
export function readingRoutes({ tally, clusters }: Books, playbooks: () => Playbook[]): Hono<{ Bindings: Bindings }> {
  const app = new Hono<{ Bindings: Bindings }>();
  app.get("/stats", () => Response.json(tally.stats));
  app.get("/events", (c) => {
    const wanted = readQuery(queryOf(c.req.url));
    const events = [...tally.newest().filter(wanted.fits).take(wanted.limit)];
    return Response.json({ events, ring_size: tally.ringSize });
  });
  app.get("/clusters", async (c) => {
    const limit = limitOf(queryOf(c.req.url), MOST_CLUSTERS);
    await clusters.analyze();
    const all = clusters.list();
    return Response.json({ clusters: all.slice(0, limit).map(summaryOf), total: all.length });
  });
  app.get("/clusters/:fingerprint", async (c) => {
    await clusters.analyze();
    const cluster = clusters.get(c.req.param("fingerprint"));
    if (!cluster) throw new Refusal(404, "unknown_cluster", "no failure has this fingerprint");
    return Response.json(detailsOf(cluster));
  });
  app.get("/playbooks", () => Response.json({ playbooks: playbooks() }));
  return app;
}

/** A cluster in a list. */
export function summaryOf({ fingerprint, parts, count, first_at, last_at, by_source, spells, runs }: Cluster) {
  return {
    fingerprint,
    endpoint: parts.endpoint,
    shape: parts.shape,
    count,
    first_at: new Date(first_at).toISOString(),
    last_at: new Date(last_at).toISOString(),
    by_source,
    level: Math.max(spells.at(-1)?.reached ?? 0, runs.at(-1)?.reached ?? 0),
  };
}

/** A cluster with its examples and the reason for which its failures belong together. */
export function detailsOf(cluster: Cluster) {
  const { parts, examples, spells, runs } = cluster;
  const why =
    parts.by === "sig_hash"
      ? "they have the same sig_hash"
      : "they have the same endpoint, and the same error text apart from its numbers, ids, paths, quoted strings and times";
  return {
    ...summaryOf(cluster),
    why,
    parts,
    spell: countedOf(spells.at(-1)),
    run: countedOf(runs.at(-1)),
    examples,
  };
}

function countedOf(counted: Counted | undefined) {
  if (!counted) return null;
  const { begin, end, count, reached } = counted;
  return { begin: new Date(begin).toISOString(), end: new Date(end).toISOString(), count, level: reached };
}

/** The query of a URL. `new URL` could throw: the URL begins with the client's Host header, which may be any text. */
function queryOf(url: string): URLSearchParams {
  const start = url.indexOf("?");
  return new URLSearchParams(start < 0 ? "" : url.slice(start));
}

function bad(field: string, expected: string): never {
  throw new Refusal(400, "bad_query", `${field}: ${expected}`, { extra: { field } });
}

/** ?limit=, `most` without it. */
function limitOf(params: URLSearchParams, most: number): number {
  const limit = Number(params.get("limit") || most);
  if (!Number.isInteger(limit) || limit < 1) bad("limit", `expected a whole number from 1 to ${most}`);
  return Math.min(limit, most);
}

/** ?source=&success=&endpoint=&since=&limit=; what it doesn't know is refused. */
function readQuery(params: URLSearchParams) {
  const known = ["source", "success", "endpoint", "since", "limit"];
  for (const name of params.keys()) {
    if (!known.includes(name)) bad(name, `unknown; expected one of ${known.join(", ")}`);
  }
  const given = (name: string) => params.get(name) || null;
  const [source, success, endpoint, since] = known.map(given);
  if (source && !(SOURCES as readonly string[]).includes(source))
    bad("source", `expected one of ${SOURCES.join(", ")}`);
  if (success && success !== "true" && success !== "false") bad("success", "expected true or false");
  const from = since ? Date.parse(since) : null;
  // Date.parse takes "5" for a year.
  if (since && (Number.isNaN(from) || !/^\d{4}-\d\d-\d\d/.test(since)))
    bad("since", "expected a time such as 2026-01-31T12:00:00Z");
  return {
    limit: limitOf(params, RING_SIZE),
    fits: (operation: Operation) =>
      (!source || operation.source === source) &&
      (!success || String(operation.success) === success) &&
      (!endpoint || operation.endpoint === endpoint) &&
      (from === null || Date.parse(operation.timestamp) >= from),
  };
}
