// The forms that change hosts, as a browser without a script posts them.

import { expect, test } from "bun:test";
import { Hub, report } from "../kit.ts";

const post = (url: string, fields: Record<string, string>) =>
  fetch(url, {
    method: "POST",
    redirect: "manual",
    headers: { origin: new URL(url).origin },
    body: new URLSearchParams(fields),
  });

const plain = (html: string) => html.replaceAll("&quot;", '"').replaceAll("&#39;", "'");

test("a host is added with what is to be pasted there, shown once and logged nowhere", async () => {
  await using hub = await Hub.start({ hosts: ["web-1"] });
  const form = await (await fetch(`${hub.url}/hosts/add`)).text();
  expect(form).toContain('<form method="post" action="/hosts/add">');
  expect(form).toContain("which only this machine reaches");
  const added = await post(`${hub.url}/hosts/add`, { name: "nas", url: "https://hub.example.org" });
  const html = plain(await added.text());
  expect([added.status, added.headers.get("cache-control")]).toEqual([200, "no-store"]);
  const [, token] = /PICKET_TOKEN=(pk_[A-Za-z0-9]{40})\n/.exec(html)!;
  // The same as the command prints.
  const { stdout } = await hub.run("host", "add", "pi");
  const [lines] = /export PICKET_URL[^]*--token-stdin/.exec(stdout.replace(/pk_\w+/, token!))!;
  expect(html).toContain(`<pre>${lines}</pre>`);
  // A page that is kept up to date would lose it.
  expect(html).not.toContain("data-version");
  const hint = "<code>picket-agent ping</code> on that host says why";
  expect(await (await fetch(`${hub.url}/hosts/nas`)).text()).toContain(hint);
  hub.tokens.set("nas", token!);
  expect((await hub.report(report(), { host: "nas" })).status).toBe(200);
  expect(await (await fetch(`${hub.url}/hosts/nas`)).text()).not.toContain(hint);
  expect(await (await fetch(`${hub.url}/hosts/add`)).text()).toContain(
    "https://hub.example.org. Another one is remembered",
  );

  const wrong: [fields: Record<string, string>, said: string][] = [
    [{ name: "nas" }, 'host "nas" exists already: for a new token: picket-receiver token rotate nas'],
    [{ name: "" }, 'host "" is not a valid name: 1 to 128 letters'],
    [{ name: "../nas" }, 'host "../nas" is not a valid name'],
    [{ name: "<b>" }, 'host "&lt;b&gt;" is not a valid name'],
    [{ name: "other", url: "hub" }, 'the URL "hub" is no http or https URL: such as https://hub.example'],
    [{ name: "other", url: "https://hub.example/$(reboot)" }, "is no http or https URL"],
  ];
  for (const [fields, said] of wrong) {
    const refused = await post(`${hub.url}/hosts/add`, fields);
    expect([fields, refused.status, plain(await refused.text())]).toEqual([fields, 422, expect.stringContaining(said)]);
  }
  const foreign = await fetch(`${hub.url}/hosts/add`, {
    method: "POST",
    body: new URLSearchParams({ name: "theirs" }),
  });
  expect(foreign.status).toBe(403);
  await hub.daemon.said(/reason=foreign_origin ip=127.0.0.1 path=\/hosts\/add/);
  expect(hub.rows("SELECT name FROM hosts ORDER BY name")).toEqual(["nas", "pi", "web-1"].map((name) => ({ name })));
  expect(hub.daemon.log.join("\n")).not.toContain("pk_");
});

test("a host is paused for a while, and its pause is ended", async () => {
  await using hub = await Hub.start({ hosts: ["nas", "old"] });
  await hub.run("host", "archive", "old");
  const row = () =>
    hub.rows<{ paused_until: number | null; pause_reason: string }>("SELECT * FROM hosts WHERE name = 'nas'")[0]!;
  const paused = await post(`${hub.url}/hosts/nas/pause`, { duration: "2h", reason: " a new disk " });
  expect([paused.status, paused.headers.get("location")]).toEqual([303, "/hosts/nas"]);
  expect(row().pause_reason).toBe("a new disk");
  expect(row().paused_until! - Date.now()).toBeWithin(7_000_000, 7_200_001);
  const page = async () => plain(await (await fetch(`${hub.url}/hosts/nas`)).text());
  expect(await page()).toMatch(/paused.*: a new disk.*<form method="post" action="\/hosts\/nas\/resume">/);
  const resumed = await post(`${hub.url}/hosts/nas/resume`, {});
  expect([resumed.status, resumed.headers.get("location")]).toEqual([303, "/hosts/nas"]);
  expect(row().paused_until ?? 0).toBe(0);
  const after = await page();
  expect(after).toContain('<form method="post" action="/hosts/nas/pause">');
  expect(after).not.toMatch(/paused|1970/);
  const wrong: [path: string, fields: Record<string, string>, said: string][] = [
    ["nas/pause", {}, '"" is not a duration: such as 30m, 2h or 3d'],
    ["nas/pause", { duration: "0m" }, '"0m" is not a duration'],
    ["nas/pause", { duration: "999999999d" }, '"999999999d" is longer than a year'],
    ["none/pause", { duration: "1h" }, 'there is no host "none"'],
    ["old/pause", { duration: "1h" }, 'host "old" is archived'],
  ];
  for (const [path, fields, said] of wrong) {
    const refused = await post(`${hub.url}/hosts/${path}`, fields);
    expect([fields, refused.status, plain(await refused.text())]).toEqual([fields, 422, expect.stringContaining(said)]);
  }
});
