// How operations say that they failed, in the fields of other programs.

import { expect, test } from "bun:test";
import { Observer } from "./kit.ts";

type Answer = { accepted: boolean; warnings?: string[] };

const FAILURES: object[] = [
  { isError: true },
  { is_error: "true" },
  { has_error: 1 },
  { failed: true },
  { succeeded: false },
  { status: "failed" },
  { status: "ERROR" },
  { status: "Timed out" },
  { status: 503 },
  { outcome: "failure" },
  { conclusion: "failure" },
  { level: "error" },
  { severity: "CRITICAL" },
  { log_level: "fatal" },
  { exit_code: 1 },
  { exitCode: "137" },
  { return_code: -9 },
  { status_code: 500 },
  { "http-status": "502" },
  { errors: [{ message: "no" }] },
  { result: { isError: true, content: [] } },
  { result: "error" },
  { isError: false, exit_code: 2 },
  { exception: "ValueError: no" },
  { timed_out: true },
  { Success: false },
  { phase: "Failed" },
  { conclusion: "startup_failure" },
  { status: "Failed with exit code 1" },
  { status: { code: 2, message: "no" } },
  { status: { code: "STATUS_CODE_ERROR" } },
];
const SUCCESSES: object[] = [
  { isError: false },
  { isError: null },
  { exception: null },
  { status: { code: 0 } },
  { failed: false },
  { status: "ok" },
  { status: "Completed" },
  { status: 200 },
  { status_code: 404 },
  { level: "warning" },
  { exit_code: 0 },
  { errors: [] },
  { result: { text: "error" } },
  { result: "42 rows" },
  { result: "an error in 3 rows" },
  { state: "failed" },
  { success: true, isError: true },
  { ok: true, exit_code: 1 },
];
const UNCLEAR: [field: string, value: unknown][] = [
  ["status", "half done"],
  ["status", "no error"],
  ["exit_code", "SIGKILL"],
  ["isError", { code: 1 }],
  ["status_code", 7],
  ["level", 50],
  ["errors", "many"],
];

test("other programs' signs of failure count, and the answer warns of fields that aren't understood", async () => {
  await using observer = await Observer.start();
  const operations = [...FAILURES, ...SUCCESSES, ...UNCLEAR.map(([field, value]) => ({ [field]: value }))];
  const body = operations.map((fields, index) => ({ endpoint: `call ${index}`, ...fields }));
  const answers = (await (await observer.post("/observer/event", body)).json()) as Answer[];
  const { events } = await observer.get<{ events: { success: boolean }[] }>("/observer/events");
  const seen = events.toReversed().map(({ success }, index) => ({ ...operations[index], "": success }));
  const expected = operations.map((fields, index) => ({ ...fields, "": index >= FAILURES.length }));
  expect(seen).toEqual(expected);
  const warned = answers.flatMap(({ warnings }, index) => (warnings ? [[index, warnings]] : []));
  const first = FAILURES.length + SUCCESSES.length;
  expect(warned).toEqual(
    UNCLEAR.map(([field], index) => [
      first + index,
      [`${field}: not understood as success or failure; send "success": true or false`],
    ]),
  );
  const single = await observer.post("/observer/event", { endpoint: "one", status: "half done" });
  expect(await single.json()).toMatchObject({ accepted: true, warnings: [expect.stringContaining("status: ")] });
});
