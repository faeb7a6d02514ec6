// The way to a language model. What it is asked: review.test.ts, escalations.test.ts.

import { expect, test } from "bun:test";
import { BehindProxy, Folder, startRole, until } from "../kit.ts";
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
}, 60_000);

test("a proxy in the environment never sees what goes to a model on this machine", async () => {
  await using model = new BehindProxy({});
  using folder = new Folder();
  const config = folder.write(
    "observer.yaml",
    `listen: 127.0.0.1:0\npersist_path: ""\nllm: { url: "${model.url}", model: m, api_key: secret }\n`,
  );
  await using observer = await startRole("observer", ["--config", config], { env: model.env });
  const body = JSON.stringify({ file_path: "a", model: "m", response: "b", source_content: "c" });
  const review = await fetch(`${await observer.url()}/observer/review`, { method: "POST", body });
  expect([review.status, model.seen]).toEqual([200, ["server"]]);
});
