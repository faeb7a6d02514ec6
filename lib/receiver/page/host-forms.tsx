/** @jsxImportSource hono/jsx */
// What is done to hosts here: pause and resume, and add one.

import { type Host, addHost, findActiveHost } from "../hosts.ts";
import { pause, pauseEnd, resume } from "../pause.ts";
import { checkUrl, pasted, publicUrl } from "../public-url.ts";
import { fieldOf } from "./form.ts";
import type { Page } from "./page.ts";
import { Live } from "./regions.tsx";

const DURATIONS = [
  ["30m", "30 minutes"],
  ["2h", "2 hours"],
  ["8h", "8 hours"],
  ["1d", "a day"],
  ["3d", "3 days"],
  ["7d", "a week"],
] as const;

/** A region: the form that pauses a host, or the one that ends its pause. */
export function Pause({ host }: { host: Pick<Host, "name" | "status" | "paused_until"> }) {
  const { name, status, paused_until: until } = host;
  return (
    <Live id="pause">
      {status === "archived" ? null : until !== null && until > 0 ? (
        <form method="post" action={`/hosts/${name}/resume`}>
          <button>Resume</button>
        </form>
      ) : (
        <form method="post" action={`/hosts/${name}/pause`}>
          <label>
            Raise no events for{" "}
            <select name="duration">
              {DURATIONS.map(([value, shown]) => (
                <option value={value}>{shown}</option>
              ))}
            </select>
          </label>{" "}
          <label>
            because of <input name="reason" maxlength={200} placeholder="a new disk" />
          </label>{" "}
          <button>Pause</button>
        </form>
      )}
    </Live>
  );
}

/** The form that adds a host. Those of `Pause` are posted to here, too. */
export const addHostPage: Page = {
  path: "/hosts/add",
  async show({ reading }) {
    const { url, isLocal } = await publicUrl(reading.store.read, reading.config());
    return {
      title: "Add a host",
      content: (
        <section class="form">
          <h1>Add a host</h1>
          <form method="post" action="/hosts/add">
            <label for="name">Its name</label>
            <input
              id="name"
              name="name"
              required
              maxlength={128}
              pattern="[A-Za-z0-9][A-Za-z0-9._\-]*"
              autocapitalize="none"
              autocomplete="off"
              spellcheck={false}
              title="letters, digits, dots, dashes and underscores, starting with a letter or digit"
              autofocus
            />
            <label for="url">How it reaches this receiver</label>
            <input id="url" name="url" type="url" placeholder={url} />
            <button>Add</button>
          </form>
          <p class="dim">
            {isLocal
              ? `Without a URL: ${url}, which only this machine reaches.`
              : `Without a URL: ${url}. Another one is remembered.`}
          </p>
        </section>
      ),
    };
  },
  forms: {
    "/hosts/:id/pause": ({ reading, params: { id = "" } }, fields) =>
      reading.store.write(async (tx) => {
        const until = pauseEnd(fieldOf(fields, "duration"));
        const host = await findActiveHost(tx, id);
        await pause(tx, { host: host.id }, { until, reason: fieldOf(fields, "reason").slice(0, 200) || null });
        return `/hosts/${host.name}`;
      }),
    "/hosts/:id/resume": ({ reading, params: { id = "" } }) =>
      reading.store.write(async (tx) => {
        const host = await findActiveHost(tx, id);
        await resume(tx, { host: host.id });
        return `/hosts/${host.name}`;
      }),
    async "/hosts/add"({ reading }, fields) {
      const name = fieldOf(fields, "name");
      const given = fieldOf(fields, "url") || undefined;
      checkUrl(given, "the URL");
      const [token, { url, isLocal }] = await reading.store.write(
        async (tx) => [await addHost(tx, name, Date.now()), await publicUrl(tx, reading.config(), given)] as const,
      );
      return {
        title: `${name} is added`,
        content: (
          <section class="form">
            <h1>{name} is added</h1>
            <p>Paste on that host, as root. The token is not shown again.</p>
            <pre>{pasted(url, token)}</pre>
            {isLocal && <p>That URL is this machine's own. On another host, put in the one that it can reach.</p>}
            <p>
              <a href={`/hosts/${name}`}>{name}</a> is pending until its first report. For another token:{" "}
              <code>picket-receiver token rotate {name}</code>
            </p>
          </section>
        ),
      };
    },
  },
};
