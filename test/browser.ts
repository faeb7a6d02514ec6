// A real browser for tests: Debian's Chromium, driven by playwright-core, and axe-core's judgement of a page.
// A page that logs an error, breaks its Content-Security-Policy or asks anything of another place fails its test.

import { afterAll, test } from "bun:test";
import axe from "axe-core";
import { type Browser, type Page, chromium } from "playwright-core";
import { have } from "./kit.ts";

const CHROMIUM = "chromium";

export interface Sight {
  /** Whether the page's script runs. Default: true. */
  script?: boolean;
  dark?: boolean;
  width?: number;
  height?: number;
  /** Errors that the test is about. */
  expected?: RegExp;
}

/** Opens an address, in a session of its own. Close it (`await using`) before its receiver: a stream that breaks off is an error. */
export type Open = (url: string, sight?: Sight) => Promise<Page>;

/** Starts the browser, as a user of this machine would. */
export function startBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: Bun.which(CHROMIUM)!,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-background-networking",
      "--disable-component-update",
      // A browser trusts less what isn't its own machine.
      "--host-resolver-rules=MAP *.example.org 127.0.0.1, MAP *.example.net 127.0.0.1",
    ],
  });
}

/** What declares the tests of a file that share a browser; said and skipped where there is none. */
export function inBrowser(subject: string): (name: string, work: (open: Open) => Promise<void>) => void {
  if (!have(CHROMIUM, subject)) return (name) => test.skip(name, () => {});
  let started: Promise<Browser> | undefined;
  afterAll(async () => (await started)?.close());
  return (name, work) =>
    test(name, async () => {
      const problems: string[] = [];
      const pages: Page[] = [];
      try {
        await work(async (url, sight = {}) => {
          const page = await openPage(await (started ??= startBrowser()), url, sight, problems);
          pages.push(page);
          return page;
        });
      } finally {
        await Promise.all(pages.map((page) => page.context().close()));
      }
      if (problems.length > 0) throw new Error(`the browser reports:\n${problems.join("\n")}`);
    });
}

async function openPage(browser: Browser, url: string, sight: Sight, problems: string[]): Promise<Page> {
  const context = await browser.newContext({
    javaScriptEnabled: sight.script ?? true,
    colorScheme: sight.dark ? "dark" : "light",
    viewport: { width: sight.width ?? 1280, height: sight.height ?? 900 },
    reducedMotion: "reduce",
    // Those of a machine in CI, whoever runs it.
    locale: "en-GB",
    timezoneId: "UTC",
  });
  const page = await context.newPage();
  const note = (text: string) => void (sight.expected?.test(text) || problems.push(`${page.url()}: ${text}`));
  page.on("console", (said) => void (said.type() === "error" && note(`${said.text()} ${said.location().url}`)));
  page.on("pageerror", (error) => note(error.stack ?? String(error)));
  page.on("dialog", (dialog) => {
    note(`a dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("request", (asked) => {
    const { protocol, origin } = new URL(asked.url());
    if (protocol !== "data:" && origin !== new URL(url).origin) note(`asks another place: ${asked.url()}`);
  });
  await page.goto(url, { waitUntil: "load" });
  return page;
}

/** What axe-core finds that is serious or critical, a line each. @param rules only these; all where none are given. */
export async function faultsOf(page: Page, ...rules: string[]): Promise<string[]> {
  const only = rules.length > 0 ? JSON.stringify(rules) : undefined;
  await page.evaluate(axe.source);
  // A page without script has no timers; axe's short ones only let a page breathe.
  const { violations } = await page.evaluate<axe.AxeResults>(`(async () => {
    const wait = window.setTimeout;
    window.setTimeout = (next, ms) => void (ms > 1000 || Promise.resolve().then(next));
    try {
      return await axe.run(document, { resultTypes: ["violations"], iframes: false, preload: false, runOnly: ${only} });
    } finally {
      window.setTimeout = wait;
    }
  })()`);
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(({ html }) => html.slice(0, 160)).join(" ; ")}`);
}

/** What is wider than the page: elements that make it scroll sideways, as many as three. */
export async function tooWide(page: Page): Promise<string[]> {
  return page.evaluate<string[]>(`(() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const wide = [...document.body.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > width + 1);
    return ["the page is " + document.documentElement.scrollWidth + " wide"].concat(wide.slice(-3).map((one) => one.outerHTML.slice(0, 160)));
  })()`);
}
