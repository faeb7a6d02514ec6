// `mcp` judged by the official conformance suite and the inspector's command line, both from npm.
// The suite speaks HTTP only: a bridge of the official SDK's transports carries its messages to the program's stdio.
// Not tested: scenarios that call tools, prompts and pages of the suite's own example server, and those about HTTP.

import { expect, test } from "bun:test";
import { cpSync, symlinkSync } from "node:fs";
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import type { JSONRPCMessage } from "@modelcontextprotocol/sdk/types.js";
import { append, environment } from "./mcp-kit.ts";
import { Folder, ROOT, command } from "../kit.ts";

const MODULES = join(ROOT, "node_modules/@modelcontextprotocol");
const SCENARIOS = [
  "server-initialize",
  "ping",
  "tools-list",
  "resources-list",
  "resources-subscribe",
  "resources-unsubscribe",
];

/** Serves the program over HTTP: a process for each session. */
async function bridge(folder: Folder): Promise<AsyncDisposable & { url: string }> {
  const [program = "", ...args] = await command("collector", "binary");
  const sessions = new Map<string, StreamableHTTPServerTransport>();
  const open = async (): Promise<StreamableHTTPServerTransport> => {
    const http = new StreamableHTTPServerTransport({
      sessionIdGenerator: () => crypto.randomUUID(),
      onsessioninitialized: (id) => void sessions.set(id, http),
    });
    const env = environment(folder);
    const stdio = new StdioClientTransport({ command: program, args: [...args, "mcp"], env, stderr: "ignore" });
    Object.assign(http, {
      onmessage: (message: JSONRPCMessage) => void stdio.send(message),
      onclose: () => void stdio.close(),
    });
    Object.assign(stdio, { onmessage: (message: JSONRPCMessage) => void http.send(message) });
    await http.start();
    await stdio.start();
    return http;
  };
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const id = String(request.headers["mcp-session-id"]);
    await (sessions.get(id) ?? (await open())).handleRequest(request, response);
  };
  const server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`,
    async [Symbol.asyncDispose]() {
      await Promise.all([...sessions.values()].map((session) => session.close()));
      server.closeAllConnections();
      server.close();
    },
  };
}

test("the official conformance suite's scenarios for any server pass", async () => {
  using folder = new Folder();
  append(folder, [{ payload: "hello" }]);
  await using served = await bridge(folder);
  for (const scenario of SCENARIOS) {
    const words = [
      process.execPath,
      join(MODULES, "conformance/dist/index.js"),
      "server",
      "--url",
      served.url,
      "--scenario",
      scenario,
    ];
    const run = Bun.spawn(words, { cwd: folder.path, stdout: "pipe", stderr: "pipe" });
    const [out, errors] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text()]);
    expect(`${scenario}: ${await run.exited}${out.includes("0 failed") ? "" : `\n${out}${errors}`}`).toBe(
      `${scenario}: 0`,
    );
  }
});

test("the inspector's command line lists and calls tools", async () => {
  using folder = new Folder();
  append(folder, [{ payload: "is the build green?" }]);
  // It looks for the package.json of the inspector, two folders above.
  const cli = join(MODULES, "inspector-cli");
  cpSync(cli, folder.at("inspector/cli"), { recursive: true });
  cpSync(join(cli, "package.json"), folder.at("inspector/package.json"));
  symlinkSync(join(ROOT, "node_modules"), folder.at("node_modules"));
  const [program = "", ...args] = await command("collector", "binary");
  const inspect = async (...method: string[]): Promise<unknown> => {
    const words = [process.execPath, folder.at("inspector/cli/build/index.js"), program, ...args, "mcp", ...method];
    const run = Bun.spawn(words, { env: environment(folder), cwd: folder.path, stdout: "pipe", stderr: "pipe" });
    const [out, errors] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text()]);
    expect(`${await run.exited} ${errors}`).toStartWith("0 ");
    return JSON.parse(out) as unknown;
  };
  const { tools } = (await inspect("--method", "tools/list")) as { tools: { name: string }[] };
  expect(tools.map(({ name }) => name)).toContain("wait_for_event");
  const called = await inspect("--method", "tools/call", "--tool-name", "read_inbox", "--tool-arg", "peek=true");
  expect(called).toMatchObject({
    content: [{ type: "text", text: expect.stringContaining("> is the build green?") as string }],
  });
  const read = await inspect("--method", "resources/read", "--uri", "inbox://bob");
  expect(read).toMatchObject({
    contents: [{ uri: "inbox://bob", text: expect.stringContaining("> is the build green?") as string }],
  });
});
