// Go's text/template for data that came as JSON. A template is compiled once.
//
// Deliberate differences from Go:
//   - a number prints as it stands in the JSON (12345678, not 1.2345678e+07), compares with any number literal, counts as a
//     position for index and slice, and fits every verb of printf that takes numbers
//   - a list or map prints as compact JSON
//   - a chain through a missing or null key is a missing value as a whole; Go stops with an error at null
//   - strings are text: \xff in a literal is the character U+00FF, not a byte
//   - printf has no %c, %U and argument indexes (`%[1]d`), and numbers have no hexadecimal fractions
//   - `{{ template "x" }}` without a definition is an error when the template is compiled, not when it is rendered
//   - no methods, no `call`; `__proto__` and `constructor` are missing keys; output is cut at 64 KiB
// Added to Go 1.19: json, fromJson, body, default, lower, upper, trim, join, trunc, header, query.

import { compile } from "./template/compile.ts";
import { MAX_OUTPUT_BYTES, type RenderContext, renderAll } from "./template/render.ts";
import { TemplateError, fail } from "./template/source.ts";

export { MAX_OUTPUT_BYTES, type RenderContext, TemplateError };

/** Compiles a template. Throws TemplateError with line and column. */
export function compileTemplate(source: string) {
  const failAt = (message: string, at: number) => fail(source, message, at);
  const template = notTooDeep(() => compile(source));
  return {
    /** The text for this data. Throws TemplateError. */
    render(data: unknown, context: RenderContext): string {
      return notTooDeep(() => renderAll(template, data, { context, fail: failAt }));
    },
    toJSON: () => source,
  };

  /** Running out of stack means that the template or the data is nested too deeply. */
  function notTooDeep<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (error instanceof RangeError) return failAt("nested too deeply", 0);
      throw error;
    }
  }
}
