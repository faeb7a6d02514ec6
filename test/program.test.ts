// Programs that are asked: their answers, and what becomes of one that hangs.

import { expect, test } from "bun:test";
import { answerOf, outputOf } from "../lib/program.ts";
import { Folder, until } from "./kit.ts";

test("a program's exit code and output, and its environment", async () => {
  const command = ["sh", "-c", 'echo "$TZ $HOME"; exit 3'];
  const { code, text } = await answerOf(command, { env: { TZ: "UTC" } });
  expect([code, text]).toEqual([3, `UTC ${process.env["HOME"]}\n`]);
  expect(await outputOf(["no-such-program"])).toBeNull();
});

test("a program that hangs is killed, also one whose child holds its output open", async () => {
  using folder = new Folder();
  const script = `trap '' TERM; sleep 20 & echo $! > ${folder.at("child")}; echo $$ > ${folder.at("pid")}; wait`;
  const failed = await answerOf(["sh", "-c", script], { ms: 300 }).catch(String);
  expect(failed).toBe("Error: sh was ended by SIGKILL, after at most 0.3 s");
  const pidIn = async (name: string) => Number(await Bun.file(folder.at(name)).text());
  const pid = await pidIn("pid");
  await until("it is gone", () => Bun.spawnSync(["kill", "-0", String(pid)], { stderr: "ignore" }).exitCode !== 0);
  process.kill(await pidIn("child"));
});
