/** @jsxImportSource hono/jsx */
// What an alert or an event says.

import type { Child } from "hono/jsx";
import { printable } from "../../text.ts";
import type { EventRow } from "../events.ts";
import { commandOf } from "../fleet.ts";
import { Text } from "./parts.tsx";

type Said = Pick<EventRow, "text" | "host" | "job">;

/** Its text: the name of its host or job is a link, and the command that helps stands apart. */
export function Told({ text, host, job }: Said) {
  const [what, command] = commandOf(text);
  return (
    <div class="told">
      <Named what={what} host={host} job={job} words={(text) => <Text text={text} />} />
      {command !== null && <code>{printable(command)}</code>}
    </div>
  );
}

/** A text with a link to its host or job. @param words shows the rest of it. */
export function Named({
  what,
  host,
  job,
  words,
}: Pick<Said, "host" | "job"> & { what: string; words: (text: string) => Child }) {
  const name = host ?? job;
  if (name === null) return <>{words(what)}</>;
  // "web-1: …" and "web-1 is …"; others, such as reminders, have the name later.
  const between = what.startsWith(name) ? /^(?:: | )/.exec(what.slice(name.length))?.[0] : undefined;
  return (
    <>
      <a href={host === null ? `/jobs/${name}` : `/hosts/${name}`}>{name}</a>
      {between ?? ": "}
      {words(between === undefined ? what : what.slice(name.length + between.length))}
    </>
  );
}
