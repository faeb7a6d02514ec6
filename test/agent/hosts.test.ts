// Whole hosts: the files that a kernel shows of them (fixtures/hosts/NAME.txt) and what is reported (NAME.json), also in words
// (NAME.words). Single figures: host.test.ts. PICKET_GOLDEN=write writes the reports anew, to be read before they are committed.

import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as v from "valibot";
import type { Space } from "../../lib/agent/disks.ts";
import { inWords } from "../../lib/agent/host-words.ts";
import { HostReader } from "../../lib/agent/host.ts";
import { HOST_LISTS, Report } from "../../lib/report.ts";
import { Folder } from "../kit.ts";

const FIXTURES = join(import.meta.dir, "fixtures/hosts");

/** Sections that begin with `== PATH`: a file of the host; `later PATH`: what it holds ten seconds later; `statfs`: sizes in GiB. */
function parse(text: string) {
  const sections = text.split(/^== /m).slice(1);
  return sections.map((section): [string, string] => {
    const end = section.indexOf("\n");
    return [section.slice(0, end), section.slice(end + 1)];
  });
}

function spacesOf(text: string): Map<string, Space> {
  const GIB = 2 ** 30;
  return new Map(
    text.split("\n").map((line) => {
      const [mount = "", ...figures] = line.split(" ");
      const [total = 0, used = 0, free = 0, inodes = 0, freeInodes = 0] = figures.map(Number);
      return [mount, { total: total * GIB, used: used * GIB, free: free * GIB, inodes, freeInodes }];
    }),
  );
}

/** What the file holds; PICKET_GOLDEN=write replaces it. */
function golden(name: string, now: string): string {
  if (process.env["PICKET_GOLDEN"] === "write") writeFileSync(join(FIXTURES, name), `${now}\n`);
  return readFileSync(join(FIXTURES, name), "utf8");
}

test.each(readdirSync(FIXTURES).filter((name) => name.endsWith(".txt")))("%s", async (name) => {
  using folder = new Folder();
  const write = (path: string, content: string) => {
    mkdirSync(dirname(folder.at(path)), { recursive: true });
    writeFileSync(folder.at(path), content);
  };
  const sections = parse(readFileSync(join(FIXTURES, name), "utf8"));
  const spaces = spacesOf(sections.find(([path]) => path === "statfs")?.[1] ?? "");
  for (const [path, content] of sections) if (!/^(later |statfs)/.test(path)) write(path, content);
  let now = 0;
  const reader = new HostReader({
    root: folder.path,
    disks: ["*"],
    omit: ["smart"],
    space: (mount) => spaces.get(mount)!,
    clock: () => now,
  });
  for (const [path, content] of sections) if (path.startsWith("later ")) write(path.slice(6), content);
  now = 10_000;
  const { host } = await reader.read();
  expect(host).toEqual(JSON.parse(golden(name.replace("txt", "json"), JSON.stringify(host, null, 2))));
  expect(inWords(host)).toBe(golden(name.replace("txt", "words"), inWords(host)).trimEnd());
  // The receiver takes all of it.
  const taken = v.parse(Report, { recorded_at: "2026-01-31T12:00:00Z", host }).host;
  const unknown = Object.fromEntries(Object.keys(HOST_LISTS).map((list) => [list, null]));
  expect<object>({ ...taken, facts: host.facts }).toEqual({ ...unknown, ...host });
});
