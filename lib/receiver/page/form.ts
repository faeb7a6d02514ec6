// A form that a page of this receiver sent.

import type { Context } from "hono";
import { readBody } from "../../body.ts";
import { UsageError } from "../../command-line.ts";
import type { Bindings } from "../../http.ts";
import { Refusal } from "../../refusal.ts";
import { asRefusal } from "../admission.ts";
import { DatabaseError } from "../../database.ts";

const CAP = 64 << 10;

/**
 * Its fields. @throws Refusal 403 where another website may have sent it: a browser adds what lets this one in, be it a session or that
 * it is on this machine.
 */
export async function readForm({ req, env }: Context<{ Bindings: Bindings }>): Promise<FormData> {
  if (!env.isSameOrigin()) {
    const what =
      "this form was not sent by a page of this receiver: open the page again. Behind a proxy, hand on the Host header";
    throw new Refusal(403, "foreign_origin", what);
  }
  const body = await readBody(req.raw, CAP);
  if (body.length === 0) return new FormData();
  const headers = { "content-type": req.header("content-type") ?? "" };
  try {
    return (await new Response(Buffer.from(body), { headers }).formData()) as FormData;
  } catch {
    throw new Refusal(400, "bad_form", "the body is not a form");
  }
}

/** A field's text; "" where it is missing. */
export function fieldOf(fields: FormData, name: string): string {
  const value = fields.get(name);
  return typeof value === "string" ? value.trim() : "";
}

/** An error as what a page says: of a command's wrong use, or of the store. @throws others. */
export function refusalOf(error: unknown): Refusal {
  if (error instanceof Refusal || error instanceof DatabaseError) return asRefusal(error);
  if (!(error instanceof UsageError)) throw error;
  const { message, hint } = error;
  return new Refusal(422, "not_possible", hint === undefined ? message : `${message}: ${hint}`);
}
