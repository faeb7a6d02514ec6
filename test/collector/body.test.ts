// Bodies as their senders write them, through the running collector: types, charsets, encodings, forms.
// Not tested here: signatures (signature.test.ts), bodies at random (test/fuzz/template.test.ts).

import { afterAll, beforeAll, expect, test } from "bun:test";
import { deflateRawSync, deflateSync, gzipSync } from "node:zlib";
import { inboxesIn } from "../inbox-kit.ts";
import { type Daemon, Folder, inboxLines, startRole } from "../kit.ts";

let folder: Folder;
let daemon: Daemon;
let url: string;
beforeAll(async () => {
  folder = new Folder();
  const route = (name: string, template: string) => ({ path: `/${name}`, recipient: "bob", type: "INFO", template });
  const routes = [
    route("json", "{{ json . }}"),
    route("body", "{{ body }}"),
    route("fixed", "hit"),
    route("field", "{{ .title }}"),
    route("nested", "{{ (fromJson .Message).AlarmName }} {{ .data.msg }}"),
  ];
  const config = { agent: "a", ...inboxesIn(folder).settings, webhook: { listen: "127.0.0.1:0", routes } };
  daemon = await startRole("collector", ["--config", folder.write("c.yaml", JSON.stringify(config))]);
  url = await daemon.url();
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

interface Answered {
  status: number;
  /** The event's text, or the error. */
  text: string | undefined;
}

async function send(path: string, body: string | Uint8Array, type = "", encoding = ""): Promise<Answered> {
  const headers = { "content-type": type, ...(encoding && { "content-encoding": encoding }) };
  const answer = await fetch(url + path, { method: "POST", body: Buffer.from(body), headers });
  if (answer.status === 202) return { status: 202, text: inboxLines(folder.at("inbox"), "bob").at(-1)!["payload"] };
  return { status: answer.status, text: ((await answer.json()) as { error: string }).error };
}

const FORM = "application/x-www-form-urlencoded";
const latin = (text: string) => Buffer.from(text, "latin1");
const utf16 = (text: string, mark = "") => Buffer.from(mark + text, "utf16le");
const swapped = (bytes: Buffer) => Buffer.from(bytes).swap16();
const part = (head: string, text: string) => `--xx\r\nContent-Disposition: form-data; ${head}\r\n\r\n${text}\r\n`;
const multipart = (...parts: string[]) => `${parts.join("")}--xx--\r\n`;

const TAKEN: [what: string, path: string, body: string | Uint8Array, type: string, payload: string][] = [
  ["a byte order mark", "/json", '\ufeff{"a":1}', "application/json", '{"a":1}'],
  ["JSON in Latin-1", "/json", latin('{"a":"Größe"}'), "application/json; charset=ISO-8859-1", '{"a":"Größe"}'],
  ["a quoted charset", "/json", latin('"é\x80"'), 'application/json;charset="windows-1252"', '"é€"'],
  ["Shift_JIS", "/json", Buffer.from([0x22, 0x93, 0xfa, 0x96, 0x7b, 0x22]), "text/plain; charset=Shift_JIS", '"日本"'],
  ["UTF-16 by its charset", "/json", utf16('{"a":"ö"}'), "application/json; charset=utf-16le", '{"a":"ö"}'],
  ["UTF-16 by its mark", "/json", utf16('{"a":"ö"}', "\ufeff"), "application/json", '{"a":"ö"}'],
  ["UTF-16, the other end first", "/json", swapped(utf16('{"a":"ö"}', "\ufeff")), "text/plain", '{"a":"ö"}'],
  ["a mark against the charset", "/json", '\ufeff"ö"', "application/json; charset=latin1", '"ö"'],
  ["nothing, as JSON", "/json", "", "application/json", "{}"],
  ["nothing, as a form of parts", "/json", "", "multipart/form-data; boundary=xx", "{}"],
  ["nothing, as lines", "/json", "", "application/x-ndjson", "{}"],
  ["single quotes", "/json", latin('"é"'), "application/json; charset='latin1'", '"é"'],
  ["Cyrillic", "/body", Buffer.from([0xcf, 0xf0, 0xe8]), "text/plain; charset=windows-1251", "При"],
  ["US-ASCII", "/json", '"a"', "application/json; charset=us-ascii", '"a"'],
  ["no type", "/json", '{"a":1.50}', "", '{"a":1.50}'],
  ["another name of JSON", "/json", '{"a":1}', "application/vnd.api+json", '{"a":1}'],
  ["nothing but blanks", "/json", " \r\n", "application/json", "{}"],
  ["a text", "/json", "Backup of web-1 done", "text/plain", '"Backup of web-1 done"'],
  ["a text that begins with a bracket", "/json", "[web] is down", "text/plain", '"[web] is down"'],
  ["a text in Latin-1", "/body", latin("Größe"), "text/plain", "Größe"],
  ["a text that begins with a brace", "/body", "{web} is down", "text/plain", "{web} is down"],
  ["lines of JSON that are called a text", "/body", '{"a":1}\n{"a":2}', "text/plain", '{"a":1}\n{"a":2}'],
  ["UTF-32", "/json", Buffer.concat([Buffer.of(0xff, 0xfe, 0, 0, 0x31, 0xf6, 1, 0)]), "text/plain", '"😱"'],
  ["XML", "/body", "<app><user id='1'>x</user></app>\n", "application/xml", "<app><user id='1'>x</user></app>\n"],
  [
    "XML in the encoding that it declares",
    "/body",
    latin('<?xml version="1.0" encoding="windows-1251"?><a>\xcf\xf0\xe8</a>'),
    "text/xml",
    '<?xml version="1.0" encoding="windows-1251"?><a>При</a>',
  ],
  ["a picture, for a fixed text", "/fixed", Buffer.from([0x89, 0x50, 0, 0xff, 0x81]), "image/png", "hit"],
  ["NDJSON", "/json", '{"a":1}\r\n\n{"a":2.0}\n', "application/x-ndjson", '[{"a":1},{"a":2.0}]'],
  ["JSON lines", "/json", '{"a":1}', "application/jsonl; charset=utf-8", '[{"a":1}]'],
  [
    "a form",
    "/json",
    "t=Gr%C3%B6%C3%9Fe+x%3D&n=1&n=2&e&=&x=a=b",
    FORM,
    '{"t":"Größe x=","n":["1","2"],"e":"","":"","x":"a=b"}',
  ],
  ["a form in Latin-1", "/json", "t=Gr%F6%DFe", `${FORM}; charset=iso-8859-1`, '{"t":"Größe"}'],
  ["a form in Latin-1 that doesn't say so", "/json", "t=Gr%F6%DFe", FORM, '{"t":"Größe"}'],
  ["a form in Shift_JIS", "/json", "t=%93%FA%96%7B", `${FORM}; charset=shift_jis`, '{"t":"日本"}'],
  ["JSON in a form's field", "/json", "data=%7B%22a%22%3A1.0%7D&t=%7Bx", FORM, '{"data":{"a":1.0},"t":"{x"}'],
  ["JSON in a form's payload", "/json", "x=1&payload=%7B%22a%22%3A1.0%7D", FORM, '{"a":1.0}'],
  ["a form's text", "/body", "Backup of web-1 done", FORM, "Backup of web-1 done"],
  [
    "JSON in a part",
    "/nested",
    multipart(part('name="data"', '{"msg":"timeout"}'), part('name="Message"', '{"AlarmName":"disk"}')),
    "multipart/form-data; boundary=xx",
    "disk timeout",
  ],
  [
    "a file of JSON beside a picture",
    "/json",
    multipart(
      part('name="payload"; filename="p.json"\r\nContent-Type: application/json', '{"event":"play"}'),
      part('name="thumb"; filename="t.jpg"\r\nContent-Type: image/jpeg', "xx"),
    ),
    "multipart/form-data; boundary=xx",
    '{"event":"play"}',
  ],
  [
    "a picture's name",
    "/json",
    multipart(part('name="thumb"; filename="t.jpg"\r\nContent-Type: image/jpeg', "xx")),
    "multipart/form-data; boundary=xx",
    '{"thumb":"t.jpg"}',
  ],
  [
    "parts in charsets of their own",
    "/json",
    latin(
      multipart(
        part('name="a"\r\nContent-Type: text/plain; charset=windows-1251', "\xcf\xf0\xe8"),
        part('name="b"', "Gr\xf6\xdfe"),
        part("name=c", "Gr\xc3\xb6\xc3\x9fe\r\n\r\n--xy"),
        part('name="\xc3\xa4\\""; filename="\xe9.bin"\r\ncontent-type: image/png', "\0\xff"),
      ),
    ),
    "multipart/form-data; boundary=xx",
    '{"a":"При","b":"Größe","c":"Größe\\r\\n\\r\\n--xy","ä\\"":"é.bin"}',
  ],
  [
    "parts whose lines end in LF, around an odd boundary, between other texts",
    "/json",
    `before\n${multipart(part('name="a"', "1"), part("", "no name"), part('name="a"', "2")).replaceAll("\r", "").replaceAll("--xx", "--x (y)+?")}after`,
    'multipart/form-data; charset=utf-8; boundary="x (y)+?"',
    '{"a":["1","2"]}',
  ],
];

test.each(TAKEN)("%s", async (_what, path, body, type, payload) => {
  expect(await send(path, body, type)).toEqual({ status: 202, text: payload });
});

const REFUSED: [what: string, body: string | Uint8Array, type: string, status: number, says: string][] = [
  ["a charset that isn't known", '"x"', "application/json; charset=utf-7", 415, 'the charset "utf-7" is not known'],
  ["a form's charset that isn't known", "a=b", `${FORM}; charset=x-own`, 415, 'the charset "x-own" is not known'],
  ["JSON in Latin-1 that doesn't say so", latin('"é"'), "application/json", 400, "the body is not UTF-8"],
  ["not what its charset says", Buffer.from([0x22, 0x83]), "text/plain; charset=shift_jis", 400, "not SHIFT_JIS"],
  ["a comma too many", '{"a":"x",}', "application/json", 400, "the body is not JSON: "],
  ["a line break within a text", '{"a":"x\ny"}', "application/json", 400, "the body is not JSON: "],
  ["half an object, without a type", '{"a"', "", 400, "the body is not JSON: "],
  [
    "an error is no word of the body",
    '{"a": hunter2}',
    "application/json",
    400,
    "the body is not JSON: Unexpected identifier",
  ],
  ["a line of NDJSON", '{"a":1}\n\n{"a"\n', "application/x-ndjson", 400, "line 3 of the body is not JSON: "],
  ["JSON that is cut off, from a sender that calls it a form", '{"text":', FORM, 400, "the body is not JSON"],
  ["a form of parts without a boundary", "x", "multipart/form-data", 400, "not the form it says it is"],
  ["a form of parts that is cut off", part('name="a"', "1"), "multipart/form-data; boundary=xx", 400, "last boundary"],
  ["a form of parts around another boundary", multipart(), "multipart/form-data; boundary=x", 400, "last boundary"],
];

test.each(REFUSED)("refused: %s", async (_what, body, type, status, says) => {
  const answer = await send("/json", body, type);
  expect(answer).toEqual({ status, text: expect.stringContaining(says) });
  expect(answer.text).not.toContain("hunter2");
});

test("packed bodies are unpacked, up to the same limit", async () => {
  const [body, type] = [Buffer.from('{"a":1}'), "application/json"];
  for (const [encoding, packed] of [
    ["gzip", gzipSync(body)],
    ["X-GZIP", gzipSync(body)],
    ["gzip", Buffer.concat([gzipSync('{"a"'), gzipSync(":1}")])],
    ["deflate", deflateSync(body)],
    ["deflate", deflateRawSync(body)],
    ["identity", body],
  ] as const)
    expect([encoding, await send("/json", packed, type, encoding)]).toEqual([
      encoding,
      { status: 202, text: '{"a":1}' },
    ]);
  const text = (size: number) => gzipSync(Buffer.alloc(size, "x"));
  expect((await send("/fixed", text(1 << 20), "text/plain", "gzip")).status).toBe(202);
  for (const packed of [text((1 << 20) + 1), text(256 << 20)])
    expect((await send("/fixed", packed, "text/plain", "gzip")).status).toBe(413);
  for (const packed of [body, gzipSync(body).subarray(0, 12), new Uint8Array()])
    expect(await send("/json", packed, type, "gzip")).toEqual({ status: 400, text: "the body is not gzip" });
  for (const encoding of ["br", "zstd", "gzip, gzip", "__proto__", "constructor"])
    expect((await send("/json", body, type, encoding)).status).toBe(415);
});

test("a field of a text is an error that says so", async () => {
  expect(await send("/field", "down", "text/plain")).toEqual({
    status: 500,
    text: expect.stringContaining("can't take field title of a string"),
  });
});
