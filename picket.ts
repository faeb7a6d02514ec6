#!/usr/bin/env bun
// picket: the four programs in one.
//
//   picket collector read ops       the role is the first word,
//   picket-collector read ops       or the name that the program is called by: a link to it
//
// Only the chosen role's code is loaded. In its help and its errors a role is called picket-<role> either way.

import { basename } from "node:path";
import { nearest } from "./lib/nearest.ts";
import type { Called } from "./lib/service.ts";
import { ownCommand, ownLink } from "./lib/unit.ts";
import { versionLine } from "./lib/version.ts";

const ROLES = {
  collector: () => import("./collector.ts"),
  agent: () => import("./agent.ts"),
  receiver: () => import("./receiver.ts"),
  observer: () => import("./observer.ts"),
};

const HELP = `picket: four small daemons that keep watch over a small fleet

usage: picket ROLE [COMMAND] [FLAGS]    a link named picket-ROLE is called without the role

  collector   webhooks and dropped files in, inbox lines out
  agent       reports this host to its receiver, and ships finished episode folders
  receiver    stores every host's reports and episodes, alerts an inbox when a host goes silent
  observer    records operations, and escalates failures that repeat
  try         run all four roles in a temporary folder, and show what they do

  --version   print version and commit
  --help      print this; picket ROLE --help shows what a role can do

example: picket collector example > collector.yaml && picket collector --config collector.yaml`;

type Role = keyof typeof ROLES;
const isRole = (word: string): word is Role => Object.hasOwn(ROLES, word);

async function main(): Promise<number> {
  const argv = process.argv.slice(2);
  const [, named = ""] = /^picket-(.*)$/.exec(basename(process.argv0)) ?? [];
  if (isRole(named)) {
    const link = ownLink();
    return start(named, { argv, command: link === null ? [...ownCommand(), named] : [link] });
  }
  const [word = "", ...rest] = argv;
  if (isRole(word)) return start(word, { argv: rest, command: [...ownCommand(), word] });
  if (word === "try") return (await import("./demo.ts")).start(rest);
  if (word === "--help" || word === "-h") console.log(HELP);
  else if (word === "--version") console.log(versionLine("picket"));
  else return wrongUsage(word);
  return 0;
}

async function start(role: Role, called: Called): Promise<never> {
  const program = await ROLES[role]();
  return program.start(called);
}

function wrongUsage(word: string): number {
  if (word === "") console.error(HELP);
  else {
    const near = nearest(word, [...Object.keys(ROLES), "try", "--help", "--version"]);
    console.error(`picket: error: unknown role "${word}"`);
    console.error(near ? `hint: did you mean "${near}"?` : `hint: picket --help lists the roles`);
  }
  return 2;
}

process.exit(await main());
