// The way to a language model. What it is asked: review.test.ts, escalations.test.ts.

import { expect, test } from "bun:test";
import { until } from "../kit.ts";
import { Witness } from "./kit.ts";

test("a key that is changed in its file is used after a reload", async () => {
  const keys: (string | null)[] = [];
  await using lab = new Witness();
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      keys.push(request.headers.get("authorization"));
      const content = `{"verdict":"accept","confidence":1,"notes":""}`;
      return Response.json({ choices: [{ message: { content } }] });
    },
  });
  try {
    lab.folder.write("key", "first-key\n");
    const llm = `llm: { url: "http://127.0.0.1:${server.port}", model: m, api_key_file: ${lab.folder.at("key")} }\n`;
    lab.configure(llm);
    await lab.up();
    const daemon = lab.daemon;
    await lab.post("/observer/review", "{}");
    lab.folder.write("key", "second-key\n");
    daemon.child.kill("SIGHUP");
    await until("the new key", async () => {
      await lab.post("/observer/review", "{}");
      return keys.includes("Bearer second-key");
    });
    expect(keys[0]).toBe("Bearer first-key");
  } finally {
    await server.stop(true);
  }
});
