// What etc/ has for containers: the image is built with the pinned Bun.
// Not tested: that it runs. Its bases come from a registry. It was built and run by hand on own ones, with Docker 20.10.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import pkg from "../package.json";
import { ROOT } from "./kit.ts";

const read = (name: string): string => readFileSync(join(ROOT, "etc", name), "utf8");

test("the image is built with the pinned Bun, and without what only tests need", () => {
  expect(read("Dockerfile")).toContain(`ARG BUILD=oven/bun:${pkg.engines.bun}\n`);
  expect(readFileSync(join(ROOT, ".dockerignore"), "utf8")).toMatch(/\.env\n[^]*node_modules\n/);
});
