/** @jsxImportSource hono/jsx */
// The episodes that hosts shipped, newest first.

import { size } from "../../text.ts";
import type { IndexRow, Place } from "../episode-index.ts";
import { Filters, Paging, ROWS, choicesOf, endOf } from "./lists.tsx";
import type { Page } from "./page.ts";
import { At } from "./parts.tsx";
import { Live } from "./regions.tsx";

const PATH = "/episodes";

export const episodesPage: Page = {
  path: PATH,
  async show({ reading, query, now }) {
    const { index, store } = reading;
    const asked = { host: query.get("host") || null, before: placeOf(query) };
    const rows = await index.before({ ...asked, limit: ROWS + 1 });
    const shown = rows.slice(0, ROWS);
    const { episodes, bytes } = await index.totals();
    const title = `${episodes} episode${episodes === 1 ? "" : "s"}`;
    const choices = [
      ...(await choicesOf(store.read)).filter(({ name }) => name === "host"),
      { name: "until", label: "Until (UTC)", options: null },
    ];
    return {
      title: "Episodes",
      content: (
        <section class="whole">
          <Live id="headline" as="h1">
            {title} {episodes > 0 && <small>{size(bytes)}</small>}
          </Live>
          <Filters path={PATH} query={query} choices={choices} />
          <Live id="none" as="p" class="none">
            {shown.length === 0 && (query.size > 0 ? "There are no such episodes." : "There are no episodes yet.")}
          </Live>
          <ol class="log" id="episodes">
            {shown.map((row) => (
              <Episode row={row} now={now} />
            ))}
          </ol>
          <Paging path={PATH} query={query} older={rows.length > ROWS ? textOf(shown.at(-1)!) : null} />
        </section>
      ),
    };
  },
};

/** A place in the list, as the address has it. Names have no slash. */
const textOf = ({ received_at, host, episode }: Place): string => [received_at, host, episode].join("/");

/** Where a page begins: behind the last row of the one before, or at the end of a day. */
function placeOf(query: URLSearchParams): Place | null {
  const [received_at = "", host = "", episode = ""] = query.get("before")?.split("/") ?? [];
  if (received_at !== "") return { received_at, host, episode };
  const end = endOf(query);
  return end === null ? null : { received_at: new Date(end).toISOString(), host: "", episode: "" };
}

function Episode({ row, now }: { row: IndexRow; now: number }) {
  const { received_at, host, episode, commit } = row;
  const file = `${episode}.tar.zst`;
  return (
    // Of an index that may have been written by hand.
    <Live id={`episode-${Bun.hash(`${host}/${episode}`).toString(36)}`} as="li" list="episodes">
      <At at={Date.parse(received_at)} now={now} />
      <a href={`/hosts/${encodeURIComponent(host)}`}>{host}</a>
      <div class="told">
        <b>{episode}</b>{" "}
        {commit === undefined ? (
          <span class="dim">without commit</span>
        ) : (
          <code title={commit}>{commit.slice(0, 12)}</code>
        )}
      </div>
      <span class="num">{size(row.size)}</span>
      <a href={`/v1/episodes/${encodeURIComponent(host)}/${encodeURIComponent(file)}`} download={file}>
        Download
      </a>
    </Live>
  );
}
