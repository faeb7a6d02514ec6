// What etc/ has for containers: the image is built with the pinned Bun, the files are what Docker Compose and Kubernetes take, and the roles
// accept the configurations in them.
// Not tested: that they run. Their images come from registries. The image was built and run by hand, on an own base, with Docker 20.10.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse, parseAllDocuments } from "yaml";
import pkg from "../package.json";
import { Folder, ROOT, have, runRole } from "./kit.ts";

const read = (name: string): string => readFileSync(join(ROOT, "etc", name), "utf8");

type Environment = Record<string, string>;

/** Whether a role accepts a configuration, with these variables. */
async function check(role: string, env: Environment, text = "") {
  using folder = new Folder();
  const outcome = await runRole(role, ["--check", "--config", folder.write("c.yaml", text)], {
    env: { ...env, STATE_DIRECTORY: folder.path },
  });
  expect(outcome).toEqual({ code: 0, stdout: "ok\n", stderr: "" });
}

test("the image is built with the pinned Bun, and without what only tests need", () => {
  expect(read("Dockerfile")).toContain(`ARG BUILD=oven/bun:${pkg.engines.bun}\n`);
  expect(readFileSync(join(ROOT, ".dockerignore"), "utf8")).toMatch(/\.env\n[^]*node_modules\n/);
});

interface Compose {
  services: Record<string, { command?: string | string[]; environment: Environment }>;
}

/** The compose file, with a value for each variable that it takes from .env. */
const compose = parse(read("compose.yaml").replaceAll(/(?<!\$)\$[A-Z0-9_]+/g, "value"), { merge: true }) as Compose;

test.each(["receiver", "collector"])("the %s of compose.yaml accepts its environment", async (role) => {
  const { command, environment } = compose.services[role]!;
  expect(command).toBe(role);
  await check(role, environment);
});

test.skipIf(!have("docker-compose", "compose.yaml is what Compose takes"))(
  "compose.yaml is what Compose takes, with the variables that its head makes",
  async () => {
    const [, names = ""] = /for name in ([A-Z0-9_ ]+);/.exec(read("compose.yaml"))!;
    using folder = new Folder();
    const values = names.split(" ").map((name) => `${name}=${name}\n`);
    const file = folder.write("env", values.join(""));
    const run = await Bun.$`docker-compose --env-file ${file} -f etc/compose.yaml config`.cwd(ROOT).quiet();
    expect(run.stderr.toString()).toBe("");
    for (const name of names.split(" ")) expect(run.stdout.toString()).toContain(name);
  },
);

test.skipIf(!have("caddy", "the balancer of compose.yaml"))("Caddy takes the balancer's configuration", async () => {
  const { CADDYFILE } = compose.services["balancer"]!.environment;
  const run = await Bun.$`caddy validate --adapter caddyfile --config - < ${Buffer.from(CADDYFILE!)}`.quiet();
  expect(run.stderr.toString() + run.stdout.toString()).toContain("Valid configuration");
});

const KINDS: Record<string, string> = {
  ConfigMap: "core/v1",
  Service: "core/v1",
  Deployment: "apps/v1",
  Ingress: "networking/v1",
};

test("kubernetes.yaml has nothing that Kubernetes does not know, and the roles accept their configurations", async () => {
  const objects = parseAllDocuments(read("kubernetes.yaml")).map((one) => one.toJS() as Kubernetes);
  type Kubernetes = { kind: string; data?: Environment };
  // What is written out in TypeScript may have no field that its type does not have.
  const lines = objects.map((one, index) => {
    const type = `import("${join(ROOT, "node_modules/kubernetes-types", KINDS[one.kind]!)}").${one.kind}`;
    return `export const object${index}: ${type} = ${JSON.stringify(one)};\n`;
  });
  using folder = new Folder();
  const file = folder.write("kubernetes.ts", lines.join(""));
  const run =
    await Bun.$`bun x tsc --ignoreConfig --noEmit --strict --skipLibCheck --moduleResolution bundler --module preserve ${file}`
      .cwd(ROOT)
      .nothrow()
      .quiet();
  expect(run.stdout.toString()).toBe("");
  const { "receiver.yaml": receiver, "collector.yaml": collector } = objects.find(({ data }) => data)!.data!;
  const s3 = { AWS_ACCESS_KEY_ID: "k", AWS_SECRET_ACCESS_KEY: "s" };
  await check("receiver", { ...s3, PICKET_RECEIVER_AUTH__TOKEN: "t" }, receiver);
  await check("collector", { PICKET_COLLECTOR_WEBHOOK__ROUTES__0__VERIFY__SECRET: "t" }, collector);
});
