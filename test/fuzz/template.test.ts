// Templates and payloads at random. Not tested here: that the text is Go's; see test/collector/template.test.ts.

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { readPayload } from "../../lib/collector/body.ts";
import { Refusal } from "../../lib/refusal.ts";
import { readJson } from "../../lib/collector/numbers.ts";
import { MAX_OUTPUT_BYTES, TemplateError, compileTemplate } from "../../lib/collector/template.ts";
import { TIMEOUT_MS, cpuMs, json, mutated, prototypesUntouched, runs, strangeJson, text } from "./kit.ts";

const ASKED = { header: () => "h", query: () => undefined, body: () => "b" };
/** Far more than a rendering may cost. */
const LONG_MS = 5000;

const FUNCTIONS =
  "and or not eq ne lt le gt ge len index slice print printf println html js urlquery json default lower upper trim join trunc header query fromJson body nope".split(
    " ",
  );

const { pipe: pipeline, nodes } = fc.letrec<{
  operand: string;
  command: string;
  pipe: string;
  node: string;
  nodes: string;
}>((tie) => ({
  operand: fc.oneof(
    { maxDepth: 3, depthIdentifier: "t" },
    fc.constantFrom(".", "$", "$x", ".a", ".a.b", ".__proto__", ".constructor", "$.list", "nil", "true", "1", "-0x13"),
    fc.constantFrom("1e999", "'x'", '"%d %999999v %q"', "`raw`", '"\\u0041"', "99999999999999999999", "1i"),
    text().map((given) => JSON.stringify(given)),
    tie("pipe").map((inner) => `(${inner})`),
    tie("pipe").map((inner) => `(${inner}).a`),
  ),
  command: fc
    .tuple(fc.oneof(fc.constantFrom(...FUNCTIONS), tie("operand")), fc.array(tie("operand"), { maxLength: 3 }))
    .map(([name, operands]) => [name, ...operands].join(" ")),
  pipe: fc
    .tuple(fc.constantFrom("", "", "$x := ", "$x = "), fc.array(tie("command"), { minLength: 1, maxLength: 4 }))
    .map(([set, commands]) => set + commands.join(" | ")),
  node: fc.oneof(
    { maxDepth: 3, depthIdentifier: "t" },
    text(),
    tie("pipe").map((inner) => `{{ ${inner} }}`),
    tie("pipe").map((inner) => `{{- ${inner} -}}`),
    fc
      .tuple(fc.constantFrom("if", "with", "range", "range $i, $x :=", "block"), tie("pipe"), tie("nodes"))
      .map(([kind, inner, body]) => `{{${kind === "block" ? 'block "b"' : kind} ${inner}}}${body}{{end}}`),
    fc
      .tuple(tie("pipe"), tie("nodes"))
      .map(([inner, body]) => `{{if ${inner}}}${body}{{else if .a}}${body}{{else}}x{{end}}`),
    tie("nodes").map((body) => `{{define "d"}}${body}{{template "d" .}}{{end}}{{template "d" .}}`),
    fc.constantFrom("{{break}}", "{{continue}}", "{{/* c */}}", "{{end}}", "{{else}}", "{{", "}}", '{{template "x"}}'),
  ),
  nodes: fc.array(tie("node"), { maxLength: 3, depthIdentifier: "t" }).map((all) => all.join("")),
}));

const payload = fc.oneof(
  fc.tuple(json, json).map(([a, list]) => JSON.stringify({ a, list: [list, a], b: { a } })),
  strangeJson(),
);

/** Renders; anything but a text of bounded length or a TemplateError fails, and so does what takes too long. */
function judge(source: string, body: string, missing: "zero" | "error"): void {
  const before = cpuMs();
  try {
    const out = compileTemplate(source).render(dataFrom(body), { ...ASKED, missing });
    if (Buffer.byteLength(out) > MAX_OUTPUT_BYTES) throw new Error(`gave ${Buffer.byteLength(out)} bytes`);
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
  }
  if (cpuMs() - before > LONG_MS) throw new Error("took too long");
}

function dataFrom(body: string): unknown {
  try {
    return readJson(body);
  } catch {
    return {};
  }
}

test(
  "a template of any shape, over any data, gives a text or a TemplateError",
  () => {
    fc.assert(fc.property(nodes, payload, fc.constantFrom("zero" as const, "error" as const), judge), runs());
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

test(
  "a pipeline within what most templates look like, and templates with bytes turned, are no different",
  () => {
    const source = fc.oneof(
      pipeline.map((inner) => `{{ range .list }}{{ ${inner} }}{{ end }}`),
      mutated(nodes).map((bytes) => Buffer.from(bytes).toString()),
    );
    fc.assert(
      fc.property(source, payload, (template, body) => judge(template, body, "zero")),
      runs(),
    );
  },
  TIMEOUT_MS,
);

const wide = JSON.stringify({
  list: Array(150_000).fill(0),
  map: Object.fromEntries(Array.from({ length: 50_000 }, (_, n) => [n, 0])),
});
const deep = (depth: number): string => "[".repeat(depth) + "]".repeat(depth);
test.each([
  ["a value that doubles", '{{$x := "aaaaaaaa"}}{{range .list}}{{$x = print $x $x}}{{end}}', wide],
  ["a value that doubles and is escaped", '{{$x := "&"}}{{range .list}}{{$x = printf "%q%q" $x $x}}{{end}}', wide],
  ["escapes of escapes", '{{$x := "\\"a"}}{{range .list}}{{$x = json $x}}{{end}}', wide],
  ["the whole body, for each of its elements", "{{range .list}}{{$y := json $}}{{end}}", wide],
  ["whether a large map is empty, for each element", "{{range .list}}{{if $.map}}{{end}}{{end}}", wide],
  ["how large a map is, for each element", "{{range .list}}{{if eq (len $.map) 1}}{{end}}{{end}}", wide],
  ["a loop that is left at once, for each element", "{{range .list}}{{range $.map}}{{break}}{{end}}{{end}}", wide],
  ["a slice of it, for each element", "{{range .list}}{{$y := slice $.list 1}}{{end}}", wide],
  ["a cut of a long text, for each element", "{{$s := json .}}{{range .list}}{{$y := trunc 1 $s}}{{end}}", wide],
  ["two that call each other", '{{define "a"}}{{template "a" .}}{{template "a" .}}{{end}}{{template "a" .}}', "{}"],
  ["a number of a billion places", '{{printf "%999999999d|%.999999999f" 1 1.0}}', "{}"],
  ["a body that is nothing but brackets", "{{ . }}{{ json . }}", deep(40_000)],
  ["a template that is nothing but brackets", `{{${"(".repeat(100_000)}1${")".repeat(100_000)}}}`, "{}"],
  ["a pipeline without end", `{{1${"|print".repeat(100_000)}}}`, "{}"],
  ["conditions without end", `{{if 0}}${"{{else if 0}}".repeat(50_000)}{{end}}`, "{}"],
  ["conditions in conditions", "{{if 1}}".repeat(50_000) + "{{end}}".repeat(50_000), "{}"],
])("in bounded time and memory: %s", (_what, source, body) => {
  const before = process.memoryUsage.rss();
  judge(source, body, "zero");
  expect((process.memoryUsage.rss() - before) / 2 ** 20).toBeLessThan(800);
});

test(
  "a body under any content type is data or a Refusal",
  () => {
    const type = fc.oneof(
      fc.constantFrom(
        undefined,
        "",
        "application/json",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=latin1",
        "multipart/form-data",
        "multipart/form-data; boundary=b",
        'multipart/form-data; boundary="',
        "text/plain",
      ),
      fc.string({ maxLength: 30 }).filter((one) => /^[\x20-\x7e]*$/.test(one)),
    );
    const body = mutated(
      fc.oneof(
        payload,
        fc.constant("payload=%7B%22a%22%3A1%7D&b=2&__proto__=x&b=3"),
        fc.constant("payload=%zz&=&&=&a=%F0%28"),
        fc.constant(
          '--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx\r\n--b\r\ncontent-disposition: form-data; name="__proto__"; filename="../x"\r\n\r\ny\r\n--b--\r\n',
        ),
        fc.uint8Array({ maxLength: 200 }),
      ),
    );
    fc.assert(
      fc.property(body, type, (bytes, contentType) => {
        try {
          JSON.stringify(readPayload(bytes, contentType).data);
        } catch (error) {
          if (!(error instanceof Refusal)) throw error;
        }
      }),
      runs(),
    );
    prototypesUntouched();
  },
  TIMEOUT_MS,
);
