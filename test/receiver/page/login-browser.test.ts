// The login in a real browser: at an address that is not the browser's own machine, where it says less of itself, and at one that is.

import { expect } from "bun:test";
import type { Page } from "playwright-core";
import { faultsOf, inBrowser } from "../../browser.ts";
import { Hub } from "../kit.ts";

const TOKEN = "the-operators-own-token";

const browserTest = inBrowser("the login in a browser");

async function logIn(page: Page, token = TOKEN): Promise<void> {
  await page.getByLabel("The operator's token").fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
}

for (const script of [true, false])
  browserTest(`log in, add a host, log out ${script ? "with" : "without"} script`, async (open) => {
    await using hub = await Hub.start({ more: `auth: { token: ${TOKEN} }` });
    const url = hub.url.replace("127.0.0.1", "hub.example.org");
    await using page = await open(`${url}/hosts/add`, { script, expected: /401/ });
    expect(await faultsOf(page)).toEqual([]);
    await logIn(page, "wrong");
    await page.getByRole("alert").getByText("The token is wrong").waitFor();
    await logIn(page);
    await page.waitForURL(`${url}/hosts/add`);
    expect(await page.context().cookies()).toEqual([
      expect.objectContaining({
        name: expect.stringMatching(/^picket_/),
        httpOnly: true,
        sameSite: "Strict",
        secure: false,
        path: "/",
      }),
    ]);
    await page.getByLabel("Its name").fill("nas");
    await page.getByRole("button", { name: "Add" }).click();
    await page.getByText(/export PICKET_TOKEN=pk_/).waitFor();
    expect(await faultsOf(page)).toEqual([]);
    await page.getByRole("button", { name: "Log out" }).click();
    await page.waitForURL(`${url}/login`);
    await page.goto(url);
    expect(page.url()).toBe(`${url}/login?next=%2F`);
  });

browserTest("an open page whose session is over goes to the login, and back", async (open) => {
  await using hub = await Hub.start({ more: `auth: { token: ${TOKEN} }` });
  await using page = await open(`${hub.url}/?at=home`, { expected: /401/ });
  await logIn(page);
  await page.waitForURL(`${hub.url}/?at=home`);
  await hub.run("sessions", "end");
  await page.waitForURL(`${hub.url}/login?next=%2F%3Fat%3Dhome`);
  await logIn(page);
  await page.waitForURL(`${hub.url}/?at=home`);
});

for (const [what, home, own] of [
  ["TLS, or on its own machine", "other.localhost", "hub.localhost"],
  ["neither", "home.example.org", "hub.example.net"],
] as const)
  browserTest(`a link on another website leads to the page, and not to the login: with ${what}`, async (open) => {
    await using hub = await Hub.start({ more: `auth: { token: ${TOKEN} }` });
    const url = hub.url.replace("127.0.0.1", own);
    await using page = await open(`${url}/?at=home`, { expected: /asks another place/ });
    await logIn(page);
    await page.waitForURL(`${url}/?at=home`);
    const html = `<link rel="icon" href="data:,"><a href="${url}/?at=work">nas</a>`;
    const headers = { "content-type": "text/html" };
    const other = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(html, { headers }) });
    await page.goto(`http://${home}:${other.port}/`);
    await page.getByText("nas").click();
    await page.waitForURL(`${url}/?at=work`);
    await other.stop(true);
  });
