// The way to the receiver: proxies, Retry-After, answers without an end.

import { expect, test } from "bun:test";
import { openHub } from "../../lib/agent/hub.ts";
import { Secret } from "../../lib/secret.ts";
import { FakeHub, Lab } from "./kit.ts";
import { runRole, until } from "../kit.ts";

test("a proxy in the environment never sees what goes to this machine", async () => {
  using proxy = new FakeHub();
  using hub = new FakeHub();
  using node = new FakeHub({ "/status": () => Response.json({ data: {} }) });
  using place = new Lab(hub.url, {
    more: `proxmox: { endpoint: "${node.url}", node: pve1, token: root@pam!picket=00000000-0000 }\n`,
  });
  const env = { http_proxy: proxy.url, HTTP_PROXY: proxy.url, https_proxy: proxy.url, NO_PROXY: "", no_proxy: "" };
  const { code } = await runRole("agent", ["selftest", "--config", place.config], { env });
  expect([code, proxy.asked]).toEqual([0, []]);
  expect([hub.asked, node.asked.length > 0]).toEqual([["/v1/host-report"], true]);
});

test.each(["99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])(
  "Retry-After: %s is an hour, and not for ever",
  async (header) => {
    const away = () => new Response(null, { status: 503, headers: { "retry-after": header } });
    using fake = new FakeHub({ "/v1/ping": away });
    const hub = openHub({ url: fake.url, token: [new Secret("pk_x")], timeout_seconds: 5 });
    const refused = await hub.send({ method: "POST", path: "/v1/ping", what: "ping" }).catch((error: unknown) => error);
    expect(refused).toMatchObject({ status: 503, retryAfter: 3600 });
  },
);

test("an answer that goes on and on is given up, and the sample waits", async () => {
  const spaces = new Uint8Array(64 << 10).fill(32);
  const endless = () => new Response(new ReadableStream({ pull: (controller) => controller.enqueue(spaces) }));
  using place = new Lab(new FakeHub({ "/v1/host-report": endless }));
  await using agent = await place.start();
  await agent.said(/no answer from .*the answer is over 1 MiB/);
  await until("the sample waits", () => place.in("agent/queue").length === 1);
});
