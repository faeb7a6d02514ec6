// A webhook's body as data, and as text. It is unpacked, decoded by its charset, and read as what its content type says:
//
//   JSON (application/json, +json)   its value; what isn't JSON is refused
//   NDJSON                           a list of its lines' values
//   forms, also multipart            fields become keys; a field `payload` that holds JSON becomes the data itself
//   text, XML                        JSON where it is JSON, else the text
//   anything else                    the same, but what begins with a brace has to be JSON
//
// The charset is that of a byte order mark, else of the content type, else UTF-8. Text and forms that are not UTF-8 and name no
// charset are read as Windows-1252, the charset of old Windows programs; XML as its first line says. JSON has to be UTF-8 (RFC 8259).

import { inflateRawSync, unzipSync } from "node:zlib";
import { decodeText } from "../json.ts";
import { Refusal } from "../refusal.ts";
import { readJson } from "./numbers.ts";

const JSON_TYPE = /^(application|text)\/json$|\+json$/;
const BRACE = 0x7b;
const BRACKET = 0x5b;

const ENCODINGS = new Set(["", "identity", "gzip", "x-gzip", "deflate"]);

/** Returns what unpacks a body of this Content-Encoding, up to `cap` bytes (Refusal 413). Throws Refusal 415 for an unknown encoding. */
export function unpacking(encoding: string | null | undefined, cap: number): (body: Uint8Array) => Uint8Array {
  const name = (encoding ?? "").trim().toLowerCase();
  if (!ENCODINGS.has(name)) {
    const text = `content-encoding "${encoding}" is not understood: send gzip, deflate, or the body as it is`;
    throw new Refusal(415, "content_encoding", text);
  }
  if (name === "" || name === "identity") return (body) => body;
  return (body) => {
    // Some senders of deflate omit the zlib header (RFC 9110, section 8.4.1.2).
    const isBare = name === "deflate" && (body[0] ?? 0) % 16 !== 8;
    try {
      return (isBare ? inflateRawSync : unzipSync)(body, { maxOutputLength: cap });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ERR_BUFFER_TOO_LARGE") throw bad(`the body is not ${name}`);
      throw new Refusal(413, "too_large", `the body is over ${cap} bytes once it is unpacked`);
    }
  };
}

/** Reads an unpacked body as templates see it: its data, and its text for `{{ body }}`. An empty one is an empty object. Throws Refusal: 400, or 415 for a charset that is not known. */
export function readPayload(body: Uint8Array, contentType: string | null | undefined) {
  const type = contentType?.split(";")[0]!.trim().toLowerCase() ?? "";
  const charset = charsetOf(contentType);
  const text = () => decode(body, charset, true);
  if (body.length === 0) return { data: {}, text };
  if (type === "multipart/form-data") return { data: ofForm(parts(body, contentType!)), text };
  if (type === "application/x-www-form-urlencoded") {
    // `curl -d '{"a":1}'` says that it is a form. A form that begins with a brace would have it encoded.
    if (body[0] === BRACE) return { data: json(text()), text };
    const list = body[0] === BRACKET ? tryJson(text()) : undefined;
    return { data: list ?? ofForm(fields(body, charset)), text };
  }
  const given = decode(body, charset, !JSON_TYPE.test(type));
  return {
    data: /\/(x-)?(nd-?json|jsonl|json-?lines)$/.test(type) ? ofLines(given) : ofText(given, type),
    text: () => given,
  };
}

function bad(message: string): Refusal {
  return new Refusal(400, "bad_body", message);
}

function charsetOf(contentType: string | null | undefined): string | undefined {
  return /;\s*charset\s*=\s*["']?([^\s"';,]+)/i.exec(contentType ?? "")?.[1];
}

/** The text of a body; `guess`: where it is not UTF-8 and names no charset. */
function decode(bytes: Uint8Array, charset: string | undefined, guess: boolean): string {
  try {
    return decodeText(bytes, charset);
  } catch (error) {
    if (error instanceof RangeError) throw new Refusal(415, "charset", `the charset "${charset}" is not known`);
    if (guess && charset === undefined) return guessed(bytes);
    throw bad(`the body is ${(error as Error).message}`);
  }
}

function guessed(bytes: Uint8Array): string {
  const [, declared] = /^<\?xml\b[^>]*\bencoding\s*=\s*["'](?!utf)([\w.:-]+)/i.exec(latin1(bytes)) ?? [];
  try {
    return decodeText(bytes, declared ?? "windows-1252");
  } catch {
    return decodeText(bytes, "windows-1252");
  }
}

/** A character for each byte. */
function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

// JSON and text

function ofText(text: string, type: string): unknown {
  const begin = text.trimStart()[0];
  if (begin === undefined) return {};
  const isJson = JSON_TYPE.test(type) || (begin === "{" && !type.startsWith("text/"));
  return isJson ? json(text) : (tryJson(text) ?? text);
}

function ofLines(text: string): unknown[] {
  const lines = text.split("\n").map((line, at) => ({ line, at }));
  return lines.filter(({ line }) => line.trim() !== "").map(({ line, at }) => json(line, `line ${at + 1} of the body`));
}

function json(text: string, what = "the body"): unknown {
  try {
    return readJson(text);
  } catch (error) {
    // The runtime's message may quote a word of the body.
    const reason = (error as Error).message.replace(/^JSON Parse error: /, "").replace(/ ".*"$/s, "");
    throw bad(`${what} is not JSON: ${reason}`);
  }
}

function tryJson(text: string): unknown {
  try {
    return readJson(text);
  } catch {
    return undefined;
  }
}

// Forms

type Field = [name: string, value: string];

function fields(body: Uint8Array, charset: string | undefined): Field[] {
  const decoded = (text: string): string => {
    const bytes = text
      .replaceAll("+", " ")
      .replace(/%([0-9a-f]{2})/gi, (_all, hex) => String.fromCharCode(Number.parseInt(hex, 16)));
    return decode(Buffer.from(bytes, "latin1"), charset, true);
  };
  const pairs = latin1(body).trimEnd().split("&").filter(Boolean);
  return pairs.map((pair) => {
    const [name = "", ...value] = pair.split("=");
    return [decoded(name), decoded(value.join("="))];
  });
}

/** The parts of a multipart form (RFC 7578). The runtime's parser takes all text for UTF-8, and finds no part where lines end in LF. */
function parts(body: Uint8Array, contentType: string): Field[] {
  const boundary = parameter(contentType, "boundary") ?? fail("the content type names no boundary");
  const delimiter = new RegExp(`\\r?\\n--${RegExp.escape(boundary)}(--|[ \\t]*\\r?\\n)`);
  // What stands before the first delimiter and behind the last one is no part. Each delimiter leaves what ends it.
  const pieces = `\n${latin1(body)}`.split(delimiter);
  const end = pieces.indexOf("--");
  if (end < 0) fail("its last boundary is missing");
  const charset = charsetOf(contentType);
  return pieces.slice(2, end).flatMap((part, n) => (n % 2 === 0 ? partOf(part, charset) : []));

  function fail(why: string): never {
    throw bad(`the body is not the form it says it is: ${why}`);
  }
}

/** A part, given as latin1. A file gives its name, or its content if that is JSON. What has no name is left out. */
function partOf(part: string, charset: string | undefined): [] | [Field] {
  const [, head = "", content = ""] = /^(.*?)\r?\n\r?\n(.*)$/s.exec(part) ?? [];
  const type = /^content-type:(.*)$/im.exec(head)?.[1] ?? "";
  const decoded = (text: string) => decode(Buffer.from(text, "latin1"), charsetOf(type) ?? charset, true);
  const name = parameter(head, "name");
  if (name === undefined) return [];
  const file = /\bjson\b/.test(type) ? undefined : parameter(head, "filename\\*?");
  return [[decoded(name), decoded(file ?? content)]];
}

/** A parameter of a header, such as `boundary`. */
function parameter(header: string, name: string): string | undefined {
  const found = new RegExp(`;\\s*${name}\\s*=\\s*(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s;"]+))`, "i").exec(header);
  return found?.[1]?.replace(/\\(.)/g, "$1") ?? found?.[2];
}

/** Fields by their names, one that comes several times as a list; a list or an object of JSON in a field is data, too. */
function ofForm(form: Field[]): unknown {
  const payload = form.find(([name]) => name === "payload")?.[1];
  const data = payload === undefined ? undefined : tryJson(payload);
  if (data !== undefined) return data;
  const valueOf = ([, text]: Field) => (/^\s*[[{]/.test(text) ? (tryJson(text) ?? text) : text);
  const named = [...Map.groupBy(form, ([name]) => name)];
  return Object.fromEntries(named.map(([name, all]) => [name, all.length > 1 ? all.map(valueOf) : valueOf(all[0]!)]));
}
