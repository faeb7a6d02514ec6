// The script and the style sheet of the pages.

import { bundled } from "./bundle.ts" with { type: "macro" };

export interface Asset {
  body: string;
  type: string;
}

const script: Asset = { body: bundled("browser.ts"), type: "text/javascript; charset=utf-8" };
const style: Asset = { body: bundled("page.css"), type: "text/css; charset=utf-8" };

const pathOf = ({ body }: Asset, extension: string) => `/assets/${Bun.hash(body).toString(36)}.${extension}`;

/** Their paths tell their content: a browser may keep them. */
export const paths = { script: pathOf(script, "js"), style: pathOf(style, "css") };
export const files: ReadonlyMap<string, Asset> = new Map([
  [paths.script, script],
  [paths.style, style],
]);
