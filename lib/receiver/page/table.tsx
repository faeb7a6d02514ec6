/** @jsxImportSource hono/jsx */
// Tables of what a host has.

import type { Child } from "hono/jsx";
import { Text } from "./parts.tsx";

/** A column's head, and what its cells hold: a number aligned to the right, or what may go where there is little room. */
export type Column = [head: string, kind?: "num" | "minor" | "num minor"];

export function Table({ columns, rows }: { columns: readonly Column[]; rows: readonly Child[][] }) {
  return (
    <table>
      <thead>
        <tr>
          {columns.map(([head, kind]) => (
            <th scope="col" class={kind}>
              {head}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map((cells) => (
          <tr>
            {cells.map((cell, n) => (
              <td class={columns[n]![1]}>{cell}</td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** A name from outside. */
export const Name = ({ text }: { text: string }) => <Text text={text} most={80} />;
