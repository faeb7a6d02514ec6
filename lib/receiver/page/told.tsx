/** @jsxImportSource hono/jsx */
// What an alert or an event says.

import { printable } from "../../text.ts";
import type { EventRow } from "../events.ts";
import { commandOf } from "../fleet.ts";
import { Text } from "./parts.tsx";

/** Its text: the name of its host or job is a link, and the command that helps stands apart. */
export function Told({ text, host, job }: Pick<EventRow, "text" | "host" | "job">) {
  const [what, command] = commandOf(text);
  const name = host ?? job;
  // "web-1: …" and "web-1 is …"; others, such as reminders, have the name later.
  const between = name !== null && what.startsWith(name) ? /^(?:: | )/.exec(what.slice(name.length))?.[0] : undefined;
  return (
    <div class="told">
      {name !== null && <a href={host === null ? `/jobs/${name}` : `/hosts/${name}`}>{name}</a>}
      {name !== null && (between ?? ": ")}
      <Text text={between === undefined ? what : what.slice(name!.length + between.length)} />
      {command !== null && <code>{printable(command)}</code>}
    </div>
  );
}
