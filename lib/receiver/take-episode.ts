// Stores an uploaded episode, in this order:
//
//   headers (400) → commit (400, 412, 503) → length (413) → body, hashed while it is written beside its target
//   → hash, length and magic number (400) → its name, unless that is taken → a line in the index → 201
//
// Either its name or its line decides which bytes an episode has. If it is taken, the same bytes are a retry after a lost answer: 200, and a line that a crash prevented is added now. Other
// bytes are 409 and change nothing. The body is hashed in that case, too: only a client that has sent these bytes learns that they
// are here.

import { NAME_SEGMENT } from "../config.ts";
import { chunksOf, tooLarge } from "../body.ts";
import { Refusal } from "../refusal.ts";
import { hashOf } from "./episode-check.ts";
import type { EpisodeIndex } from "./episode-index.ts";
import type { EpisodeKey, EpisodeStore, StoredEpisode } from "./episodes.ts";
import type { VersionGate } from "./version-gate.ts";

/** A zstd frame begins with one of these (RFC 8878, sections 3.1.1 and 3.1.2): data, or what decoders skip. */
const MAGIC = new Set([0xfd2fb528, ...Array.from({ length: 16 }, (_, n) => 0x184d2a50 + n)]);

/** An upload may be slow, but ends when nothing comes for this long. */
const STALLED_MS = 30_000;

export interface Taking {
  episodes: EpisodeStore;
  index: EpisodeIndex;
  gate: VersionGate;
  maxBytes: number;
  /** Makes uploads of one name wait for each other until its line is in the index. */
  inTurn: Turns;
}

/** Runs pieces of work of one key one after the other. */
export type Turns = <T>(key: string, work: () => Promise<T>) => Promise<T>;

/** No work under way. */
export function createTurns(): Turns {
  const last = new Map<string, Promise<unknown>>();
  return async (key, work) => {
    const before = last.get(key) ?? Promise.resolve();
    const turn = before.then(work, work);
    const settled = turn.catch(() => {});
    last.set(key, settled);
    try {
      return await turn;
    } finally {
      if (last.get(key) === settled) last.delete(key);
    }
  };
}

/** The result: 201 `stored`, 200 `known`. */
export interface TakenEpisode {
  outcome: "stored" | "known";
  sha256: string;
  size: number;
  /** Whether its header named a commit. */
  stamped: boolean;
}

/** The headers of an upload. */
type Announced = ReturnType<typeof readHeaders>;

/** The name in the last segment of an upload's path. @throws Refusal 400. */
export function episodeName(file: string): string {
  const name = file.endsWith(".tar.zst") ? file.slice(0, -".tar.zst".length) : "";
  if (NAME_SEGMENT.test(name)) return name;
  throw broken(
    "episode",
    "expected NAME.tar.zst: 1 to 128 letters, digits, dots, dashes and underscores, starting with a letter or digit",
  );
}

/** Stores an upload. @throws Refusal 400, 409, 412, 413, 503; what the file system throws. */
export async function takeEpisode(taking: Taking, key: EpisodeKey, request: Request): Promise<TakenEpisode> {
  const { episodes, gate, maxBytes } = taking;
  const announced = readHeaders(request);
  await gate.check(announced.commit);
  if (announced.commit !== null && !/^[0-9a-f]{40}$/.test(announced.commit)) {
    throw broken("X-Code-Commit", "expected a commit of 40 lower-case hex digits");
  }
  if (announced.length !== null && announced.length > maxBytes) throw overCap(maxBytes);
  const isNoted = await refuseOther(taking, key, announced);
  const turn = <T>(work: () => Promise<T>) => taking.inTurn(`${key.host}/${key.episode}`, work);
  if (await episodes.find(key)) {
    const size = await readThrough(request, { announced, maxBytes, write: null });
    return turn(() => compare(taking, key, announced, size));
  }
  const upload = await episodes.upload(key, announced.sha256);
  try {
    const size = await readThrough(request, { announced, maxBytes, write: (chunk) => upload.write(chunk) });
    return await turn(async () => {
      if ((await upload.commit()) === "taken") return compare(taking, key, announced, size);
      const added = await addRow(taking, key, announced, { size, at: upload.at });
      // A noted one was lost, and is back.
      const outcome = added === "added" || isNoted ? "stored" : "known";
      return { outcome, sha256: announced.sha256, size, stamped: announced.commit !== null };
    });
  } finally {
    await upload.abort();
  }
}

function readHeaders({ headers }: Request) {
  const sha256 = headers.get("x-content-sha256")?.toLowerCase() ?? null;
  if (sha256 === null) throw broken("X-Content-SHA256", "is missing: send the body's SHA-256 in hex");
  if (!/^[0-9a-f]{64}$/.test(sha256)) throw broken("X-Content-SHA256", "expected 64 hex digits");
  const type = headers.get("content-type");
  if (type === null) throw broken("Content-Type", "is missing: send application/zstd");
  if (type.split(";")[0]?.trim().toLowerCase() !== "application/zstd")
    throw broken("Content-Type", "expected application/zstd");
  const encoding = headers.get("content-encoding");
  if (encoding !== null && encoding !== "" && encoding.toLowerCase() !== "identity") {
    throw broken("Content-Encoding", "expected none: send the archive as it is");
  }
  const schema = headers.get("x-schema-version");
  if (schema === null) throw broken("X-Schema-Version", "is missing: send 1");
  if (schema !== "1") throw broken("X-Schema-Version", "expected 1");
  const commit = headers.get("x-code-commit") ?? headers.get("x-cis490-code-commit");
  const length = headers.get("content-length");
  return { sha256, schema: 1, commit, length: length === null ? null : Number(length) };
}

/** Reads the body to its end, and writes it; gives its size. */
async function readThrough(
  request: Request,
  {
    announced,
    maxBytes,
    write,
  }: { announced: Announced; maxBytes: number; write: ((chunk: Uint8Array) => Promise<void>) | null },
): Promise<number> {
  const hasher = new Bun.CryptoHasher("sha256");
  let size = 0;
  let head = Buffer.alloc(0);
  for await (const chunk of chunksOf(request, STALLED_MS)) {
    size += chunk.length;
    if (size > maxBytes) throw overCap(maxBytes);
    if (head.length < 4) {
      head = Buffer.concat([head, chunk.subarray(0, 4)]);
      if (head.length >= 4 && !MAGIC.has(head.readUInt32LE())) throw broken("body", "is not zstd");
    }
    hasher.update(chunk);
    if (write) await write(chunk);
  }
  if (announced.length !== null && size !== announced.length) {
    throw broken("Content-Length", `says ${announced.length}, ${size} bytes came`);
  }
  if (head.length < 4) throw broken("body", size === 0 ? "is empty" : "is not zstd");
  const sha256 = hasher.digest("hex");
  if (sha256 !== announced.sha256)
    throw broken("X-Content-SHA256", `does not match: the ${size} bytes that came have ${sha256}`);
  return size;
}

/** Compares an upload with the episode that has its name. */
async function compare(taking: Taking, key: EpisodeKey, announced: Announced, size: number): Promise<TakenEpisode> {
  const there = await taking.episodes.find(key);
  if (!there) throw new Error(`compare episode "${key.host}/${key.episode}": it was removed meanwhile`);
  const row = await taking.index.find(key);
  const noted = { sha256: await hashOf(taking.episodes.open(there)), size: there.size };
  // A client that gets 200 may delete its own copy.
  if (row && row.removed_at === undefined && noted.sha256 !== row.sha256) {
    const what = `episode "${key.episode}" is damaged here: keep yours; its operator has to move the file away`;
    throw new Refusal(500, "damaged", what);
  }
  if (noted.sha256 !== announced.sha256) throw otherBytes(key, noted);
  // The process that stored it may have died before its name was on the disk.
  await taking.episodes.sync(there);
  await addRow(taking, key, announced, there);
  return { outcome: "known", sha256: noted.sha256, size, stamped: announced.commit !== null };
}

/**
 * Refuses other bytes under a name that the index has, also where the episode was removed: a name means the same bytes for ever.
 * Gives whether the index has it, and not as removed.
 */
async function refuseOther({ index }: Taking, key: EpisodeKey, announced: Announced): Promise<boolean> {
  const row = await index.find(key);
  if (row && row.sha256 !== announced.sha256) throw otherBytes(key, row);
  return row !== null && row.removed_at === undefined;
}

function otherBytes({ episode }: EpisodeKey, { sha256, size }: { sha256: string; size: number }): Refusal {
  const what = `episode "${episode}" is here already with other bytes: nothing was changed`;
  return new Refusal(409, "conflict", what, { extra: { sha256, size } });
}

/** Adds the episode's line, unless the index has it. */
async function addRow(
  taking: Taking,
  key: EpisodeKey,
  announced: Announced,
  { size, at }: Pick<StoredEpisode, "size" | "at">,
): Promise<"added" | "known"> {
  const { host, episode } = key;
  const { sha256, schema, commit } = announced;
  const received_at = new Date().toISOString();
  const row = { received_at, host, episode, sha256, size, schema, commit: commit ?? undefined };
  const added = await taking.index.add(row, at);
  if (added !== "other") return added;
  await refuseOther(taking, key, announced);
  throw new Error(`note episode "${host}/${episode}": its line was changed meanwhile`);
}

function broken(field: string, what: string): Refusal {
  return new Refusal(400, "bad_upload", `${field} ${what}`, { extra: { field } });
}

function overCap(maxBytes: number): Refusal {
  return tooLarge(`an episode may have ${maxBytes} bytes at most`, maxBytes);
}
