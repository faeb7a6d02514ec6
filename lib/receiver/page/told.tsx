/** @jsxImportSource hono/jsx */
// What an alert or an event says.

import { cut, printable } from "../../text.ts";
import type { EventRow } from "../events.ts";
import { commandOf } from "../fleet.ts";

/** A longer text can be opened. */
const MOST = 400;

/** Its text: the name of its host or job is a link, and the command that helps stands apart. */
export function Told({ type, text, host, job }: Pick<EventRow, "type" | "text" | "host" | "job">) {
  const [what, command] = commandOf({ type, text });
  const name = host ?? job;
  return (
    <div class="told">
      {name === null ? (
        <Long text={what} />
      ) : (
        <>
          {!startsWith(what, name) && <span class="dim">about </span>}
          <a href={host === null ? `/jobs/${name}` : `/hosts/${name}`}>{name}</a>
          {startsWith(what, name) ? <Long text={what.slice(name.length)} /> : <Long text={`: ${what}`} />}
        </>
      )}
      {command !== null && <code>{printable(command)}</code>}
    </div>
  );
}

/** `web-1` starts "web-1: …" and "web-1 is …", not "web-10: …". */
const startsWith = (text: string, name: string): boolean =>
  text.startsWith(name) && /^[: ]/.test(text.slice(name.length));

/** Foreign text; where it is long its rest can be opened. */
function Long({ text }: { text: string }) {
  if (text.length <= MOST) return <>{printable(text)}</>;
  return (
    <details>
      <summary>{printable(cut(text, MOST)).replace(/^: /, "")}</summary>
      {printable(text.slice(MOST))}
    </details>
  );
}
