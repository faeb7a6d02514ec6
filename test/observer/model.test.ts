// The way to a language model. What it is asked: review.test.ts, escalations.test.ts.

import { expect, test } from "bun:test";
import { until } from "../kit.ts";
import { Observer } from "./kit.ts";

test("a key that is changed in its file is used after a reload", async () => {
  const keys: (string | null)[] = [];
  await using observer = new Observer();
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
    observer.folder.write("key", "first-key\n");
    const llm = `llm: { url: "http://127.0.0.1:${server.port}", model: m, api_key_file: ${observer.folder.at("key")} }\n`;
    observer.configure(llm);
    await observer.up();
    const daemon = observer.daemon;
    await observer.post("/observer/review", "{}");
    observer.folder.write("key", "second-key\n");
    daemon.child.kill("SIGHUP");
    await until("the new key", async () => {
      await observer.post("/observer/review", "{}");
      return keys.includes("Bearer second-key");
    });
    expect(keys[0]).toBe("Bearer first-key");
  } finally {
    await server.stop(true);
  }
});
