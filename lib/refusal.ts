// An answer that refuses a request: JSON with the reason in words and as a code, thrown by whatever finds the reason.

import { type Log, seldom } from "./log.ts";

/** Refuses with JSON `{error, code, …extra}`, or with nothing but the status where `empty` says so. */
export class Refusal extends Error {
  readonly status: number;
  readonly code: string;
  /** Further members of the JSON. */
  readonly extra: Record<string, unknown> = {};
  readonly headers: Record<string, string> = {};
  readonly empty: boolean = false;
  /** Fields for the log alone. */
  readonly log: Record<string, unknown> = {};

  constructor(
    status: number,
    code: string,
    message: string,
    more: Partial<Pick<Refusal, "extra" | "headers" | "empty" | "log">> = {},
  ) {
    super(message);
    this.status = status;
    this.code = code;
    Object.assign(this, more);
  }

  response(): Response {
    const { status, headers, message: error, code, extra } = this;
    if (this.empty) return new Response(null, { status, headers });
    return Response.json({ error, code, ...extra }, { status, headers });
  }
}

/** A field that breaks a contract; `field` is empty where all of the value does. */
export interface BrokenField {
  field: string;
  error: string;
}

/** Refuses valid JSON that breaks its contract: the message names the first fields, the answer all of them. */
export function refuseFields(status: number, code: string, fields: BrokenField[]): Refusal {
  const named = fields.map(({ field, error }) => (field === "" ? error : `${field}: ${error}`));
  return new Refusal(status, code, named.slice(0, 5).join("; "), { extra: { field: fields[0]?.field, fields } });
}

/** 405 with `Allow`. */
export function wrongMethod(method: string, allow: string): Refusal {
  return new Refusal(405, "method_not_allowed", `${method} is not possible here, only ${allow}`, {
    headers: { allow },
  });
}

export function unknownPath(): Refusal {
  return new Refusal(404, "not_found", "nothing is served at this path");
}

/** Logs a refusal at most once a minute per address and reason. */
export function refusalLog(log: Log): (refusal: Refusal, ip: string, more?: Record<string, unknown>) => void {
  const rare = seldom(log);
  return ({ status, code, log: own }, ip, more = own) => {
    const fields = { reason: code, ip, ...more };
    if (status < 500) rare.warn(`${code} ${ip}`, "request refused", fields);
    else rare.error(`${code} ${ip}`, "request failed", fields);
  };
}
