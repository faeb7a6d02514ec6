// Templates against Go's own answers (test/collector/fixtures/template), and what is ours alone.

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import examples from "@octokit/webhooks-examples/api.github.com/index.json";
import { compactJson, readJson } from "../../lib/collector/numbers.ts";
import { type RenderContext, TemplateError, compileTemplate } from "../../lib/collector/template.ts";
import answers from "./fixtures/template/answers.json";
import cases from "./fixtures/template/cases.json";
import { have } from "../kit.ts";

interface Case {
  template: string;
  data: unknown;
  missing?: "error";
  /** Why it differs from Go's answer on purpose, and what is wanted instead. */
  differs?: string;
  want?: string | null;
}

const CONTEXT: RenderContext = {
  missing: "zero",
  header: (name) => (name === "X-GitHub-Event" ? "push" : undefined),
  query: (name) => (name === "env" ? "prod" : undefined),
  body: () => "the body",
};

/** The text, or null where it is refused; anything but a TemplateError fails the test. */
function render(template: string, json: string, missing: "zero" | "error" = "zero"): string | null {
  try {
    return compileTemplate(template).render(readJson(json), { ...CONTEXT, missing });
  } catch (error) {
    if (error instanceof TemplateError) return null;
    throw error;
  }
}

test("every template of the table renders as in Go, or differs as documented", () => {
  expect(cases.length).toBe(answers.length);
  expect(cases.length).toBeGreaterThan(500);
  const wrong = (cases as Case[]).flatMap(({ template, data, missing, differs, want }, at) => {
    const got = render(template, JSON.stringify(data), missing);
    const expected = differs === undefined ? answers[at] : want;
    return got === expected ? [] : [{ template, got, expected }];
  });
  expect(wrong).toEqual([]);
});

test("a case marked as different does differ", () => {
  const same = (cases as Case[]).filter(({ differs, want }, at) => differs !== undefined && want === answers[at]);
  expect(same).toEqual([]);
});

test.skipIf(!have("go", "asking Go for the answers again"))("the answers are what Go says", async () => {
  const folder = join(import.meta.dir, "fixtures/template");
  const go = Bun.spawn(["go", "run", join(folder, "answers.go")], {
    stdin: Bun.file(join(folder, "cases.json")),
    stdout: "pipe",
  });
  expect(JSON.parse(await new Response(go.stdout).text())).toEqual(answers);
});

describe("functions that Go does not have", () => {
  const data = `{"s":"  Grüße  ","l":["a",1.50,true,null],"e":"","n":12345678901234567890,"m":{"b":1e3,"a":[]},"u":"😀😀😀"}`;
  test.each([
    ["{{ json . }}", compactJson(readJson(data))],
    ["{{ .m | json }}", `{"b":1e3,"a":[]}`],
    ["{{ json .nope }}", "null"],
    ["{{ .n }} {{ index .l 1 }} {{ .m.b }}", "12345678901234567890 1.50 1e3"],
    ["{{ eq .n 12345678901234567890 }} {{ eq .n 12345678901234567891 }} {{ eq .m.b 1000 }}", "true false true"],
    ['{{ default "x" .e }}{{ .nope | default "y" }}{{ default "z" .s }}', "xy  Grüße  "],
    ["{{ lower .s }}|{{ upper .s }}|{{ trim .s }}", "  grüße  |  GRÜSSE  |Grüße"],
    ['{{ join ", " .l }}', "a, 1.50, true, <no value>"],
    ['{{ join .l "-" }}|{{ .l | join "+" }}|{{ join "," .nope }}', "a-1.50-true-<no value>|a+1.50+true+<no value>|"],
    ["{{ trunc 2 .u }}|{{ .u | trunc -1 }}|{{ trunc 9 .u }}|{{ trunc 3 .n }}", "😀😀|😀|😀😀😀|123"],
    ['{{ header "X-GitHub-Event" }}|{{ header "X-Other" }}|{{ query "env" }}|{{ query "x" }}', "push||prod|"],
    ["{{ len .u }}", "12"],
    ["{{ body }} {{ len body }}", "the body 8"],
    [
      '{{ (fromJson `{"a":[1.50]}`).a }} {{ fromJson .l }} {{ fromJson .nope }}',
      '[1.50] ["a",1.50,true,null] <no value>',
    ],
  ])("%s", (template, expected) => {
    expect(render(template, data)).toBe(expected);
  });

  test.each([
    "{{ join 1 2 }}",
    "{{ trunc `a` .s }}",
    "{{ header }}",
    "{{ header 1 }}",
    "{{ default 1 }}",
    "{{ lower 1 2 }}",
    "{{ fromJson .s }}",
    "{{ body 1 }}",
  ])("%s is refused", (template) => {
    expect(render(template, data)).toBeNull();
  });
});

describe("errors", () => {
  test.each([
    [
      "one\n two {{ lowr .x }}",
      'function "lowr" is not defined, did you mean "lower"? (line 2, column 9 of the template)',
    ],
    ["{{ if .a }}x", "{{if}} has no {{end}}"],
    ["{{ $x }}", 'undefined variable "$x"'],
    ["{{ .a", "unclosed action"],
    ['{{ "a }}', "unterminated quoted string"],
    ["{{ end }}", "unexpected {{end}}"],
    ['a\n{{ template "slack.title" . }}', 'template "slack.title" is not defined (line 2, column 1 of the template)'],
    ['{{ define "a" }}{{ template "b" }}{{ end }}', 'template "b" is not defined (line 1, column 17'],
    ["{{ len }}", "wrong number of arguments for len: want 1, found 0"],
  ])("%p says what and where", (template, message) => {
    expect(() => compileTemplate(template)).toThrow(message);
  });
});

describe("limits", () => {
  const run = (template: string, data: unknown) => () => compileTemplate(template).render(data, CONTEXT);
  test("output is cut at 64 KiB, counted in bytes, between characters", () => {
    const mark = " … [cut at 64 KiB]";
    expect(run("{{ . }}", "x".repeat(65_536))()).toBe("x".repeat(65_536));
    expect(run("{{ . }}", "x".repeat(65_537))()).toBe("x".repeat(65_536 - 20) + mark);
    for (const [data, kept] of [
      ["ü", 32_757],
      ["€", 21_838],
      ["😀", 16_378],
    ] as const) {
      expect(run("a{{ . }}", data.repeat(40_000))()).toBe(`a${data.repeat(kept)}${mark}`);
    }
    expect(run("{{ json . }}", { a: "x".repeat(1 << 20) })()).toStartWith('{"a":"xxx');
    expect(run("{{ range . }}{{ $ }}{{ end }}", Array(2000).fill("x"))()).toEndWith(mark);
    expect(run('{{ printf "%99999999d" 1 }}', null)().length).toBeLessThanOrEqual(65_536);
  });
  test("loops and recursion end", () => {
    const list = Array.from({ length: 2000 }, () => 0);
    expect(run("{{ range . }}{{ range $ }}{{ end }}{{ end }}", list)).toThrow("too many steps");
    expect(run('{{ define "T" }}{{ template "T" . }}{{ end }}{{ template "T" . }}', 1)).toThrow("too deeply");
    expect(() => compileTemplate("{{ if 1 }}".repeat(100_000))).toThrow("nested too deeply");
    expect(() => compileTemplate(`{{ ${"(".repeat(100_000)} }}`)).toThrow("nested too deeply");
  });
  test("JSON nested beyond reason is an error, not a crash", () => {
    for (const text of [
      "[".repeat(1 << 20),
      `${"[".repeat(500_000)}1.5${"]".repeat(500_000)}`,
      '{"a":'.repeat(200_000),
    ]) {
      expect(() => readJson(text)).toThrow();
    }
  });
  test("prototypes are neither read nor touched", () => {
    const data = `{"__proto__":{"x":1.50},"constructor":{"prototype":{"x":2}}}`;
    expect(
      render(
        "{{ .__proto__.x }}{{ .constructor.prototype }}{{ .toString }}{{ .hasOwnProperty }}{{ range $k, $v := . }}{{ $k }}{{ end }}",
        data,
      ),
    ).toBe("<no value>".repeat(4));
    expect(({} as Record<string, unknown>)["x"]).toBeUndefined();
  });
});

test("numbers print as they stood in the JSON", () => {
  for (const text of [
    "0",
    "-0",
    "1",
    "1.0",
    "1.50",
    "1e3",
    "1E+3",
    "12345678",
    "12345678901234567890",
    "-1.5e-10",
    "0.1",
    "123456789012345678",
  ]) {
    expect(render("{{ . }}", text)).toBe(text);
    expect(render("{{ .a }}|{{ index .b 0 }}", `{"a": ${text} ,"b":[ ${text} ]}`)).toBe(`${text}|${text}`);
    expect(render("{{ json . }}", `{"a":${text}}`)).toBe(`{"a":${text}}`);
  }
});

test.each([
  ["{{ range . }}{{ . }} {{ end }}", "[1.0,2.50]", "1.0 2.50 "],
  ["{{ range $i, $v := . }}{{ $v }} {{ end }}", "[1.0,2.50]", "1.0 2.50 "],
  ["{{ with .a }}{{ . }}{{ end }}", '{"a":1.0}', "1.0"],
  ["{{ $x := .a }}{{ $x }}", '{"a":1.0}', "1.0"],
  ['{{ define "T" }}{{ . }}{{ end }}{{ template "T" .a }}', '{"a":1.0}', "1.0"],
  ["{{ print .a }}{{ slice .l 1 }}{{ index .l 0 }}", '{"a":1.0,"l":[1e2,2.0]}', "1.0[2.0]1e2"],
  ["{{ or .z .a }}{{ and .t .a }}{{ .z | default .a }}", '{"z":0,"t":true,"a":1.0}', "1.01.01.0"],
  ["{{ (index .l 0).n }}", '{"l":[{"n":1.0}]}', "1.0"],
  ["{{ .l }}", '{"l":[{"n":1.0}]}', '[{"n":1.0}]'],
  ['{{ printf "%v" .l }}', '{"l":[1.0]}', "[1.0]"],
])("wherever a number is looked at, it is as it stood: %s", (template, json, expected) => {
  expect(render(template, json)).toBe(expected);
});

test("every payload of GitHub's is printed whole by json", () => {
  for (const { examples: payloads } of examples) {
    for (const payload of payloads) {
      const text = JSON.stringify(payload);
      if (Buffer.byteLength(text) <= 65_536) expect(render("{{ json . }}", text)).toBe(text);
    }
  }
});

test("random templates are refused or rendered, and cause no other error", () => {
  const words = [
    "{{",
    "}}",
    "{{-",
    "-}}",
    " ",
    ".",
    ".a",
    ".a.b",
    "$",
    "$x",
    ":=",
    "=",
    "|",
    "(",
    ")",
    ",",
    '"s"',
    "`r`",
    "'c'",
    "1",
    "-1.5",
    "0x",
    "if",
    "else",
    "end",
    "range",
    "with",
    "define",
    "template",
    "block",
    "break",
    "continue",
    "nil",
    "true",
    "len",
    "index",
    "printf",
    "eq",
    "and",
    "json",
    "\n",
    "/*",
    "*/",
    "\\",
    "é",
    "\0",
    '"%d"',
  ];
  const data = `{"a":{"b":[1,2.50,"x"]}}`;
  let seed = 20_261_121;
  const random = (below: number) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return Math.floor((seed / 2_147_483_648) * below);
  };
  for (let n = 0; n < 20_000; n++) {
    const template = Array.from({ length: random(14) }, () => words[random(words.length)]).join(random(2) ? " " : "");
    render(template, data);
  }
});
