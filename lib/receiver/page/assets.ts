// The script and the style sheet of the pages, bundled: by the build into the binary, or here where the receiver runs from its source.

import browser from "./browser/browser.html";

export interface Asset {
  body: Blob;
  type: string;
}

export interface Assets {
  /** By their path, which tells their content: a browser may keep them. */
  files: ReadonlyMap<string, Asset>;
  script: string;
  style: string;
}

export async function openAssets(): Promise<Assets> {
  const files = new Map<string, Asset>();
  const named = async (kind: "javascript" | "css"): Promise<string> => {
    const part = all.find(({ type }) => type.startsWith(`text/${kind}`))!;
    const path = `/assets/${Bun.hash(await part.body.arrayBuffer()).toString(36)}.${kind === "css" ? kind : "js"}`;
    files.set(path, part);
    return path;
  };
  const all = await parts();
  return { files, script: await named("javascript"), style: await named("css") };
}

async function parts(): Promise<Asset[]> {
  if (browser.files) {
    return browser.files.map(({ path, headers }) => ({ body: Bun.file(path), type: headers["content-type"] }));
  }
  const { outputs } = await Bun.build({ entrypoints: [browser.index], minify: true });
  return outputs.map((body) => ({ body, type: body.type }));
}
