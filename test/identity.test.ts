import { expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { identityOf } from "../lib/identity.ts";
import { Folder } from "./kit.ts";

test("whose inbox it is: the flag, two variables, two files; the first that is set", () => {
  using folder = new Folder();
  mkdirSync(folder.at("claude"));
  const [home, claude] = [folder.path, folder.at("claude")];
  folder.write(".ping-agent", "from-home\n");
  folder.write("claude/ping-agent", "  from-claude\r\n");
  const set = { HOME: home, CLAUDE_HOME: claude, PING_AGENT_IDENTITY: "second", PICKET_IDENTITY: "first" };
  expect(identityOf("flag", set)).toBe("flag");
  expect(identityOf("", set)).toBe("first");
  expect(identityOf(undefined, { ...set, PICKET_IDENTITY: "" })).toBe("second");
  expect(identityOf(undefined, { HOME: home, CLAUDE_HOME: claude })).toBe("from-claude");
  folder.write("claude/ping-agent", "\n");
  expect(identityOf(undefined, { HOME: home, CLAUDE_HOME: claude })).toBe("from-home");
  expect(() => identityOf(undefined, { HOME: claude })).toThrow("nothing says whose inbox");
  expect(() => identityOf("../x", set)).toThrow('--as: "../x" is not the name');
  expect(() => identityOf(undefined, { HOME: home, PICKET_IDENTITY: "a b" })).toThrow('$PICKET_IDENTITY: "a b"');
});
