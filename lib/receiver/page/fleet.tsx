/** @jsxImportSource hono/jsx */
// The first page: what needs you, and the fleet, worst first.

import { Ago, State } from "./parts.tsx";
import type { Page } from "./page.ts";
import { Live } from "./regions.tsx";
import { listHosts } from "../hosts.ts";

export const fleetPage: Page = {
  path: "/",
  async show({ reading, now }) {
    const hosts = await listHosts(reading.store.read);
    return {
      title: `${hosts.length} hosts`,
      content: (
        <table id="hosts">
          {hosts.map((host) => (
            <Live id={`host-${host.name}`} as="tbody" list="hosts">
              <tr>
                <td>
                  <State look={host.status === "online" ? "ok" : "bad"} word={host.status} />
                </td>
                <td>{host.name}</td>
                <td>
                  <Ago at={host.last_seen_at} now={now} />
                </td>
              </tr>
            </Live>
          ))}
        </table>
      ),
    };
  },
};
