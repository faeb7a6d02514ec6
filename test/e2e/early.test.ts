// Answers that a role decides on before the body has come: each client that people use sees them, whatever the size of its body.
// Not tested: links so slow that a body takes longer than the bound; bodies over the bound, which only clients see that look early.
// PICKET_EARLY_TRIES is how often each client asks for each answer (2), PICKET_EARLY_MB the size of the large body (12);
// PICKET_TEST_TARGET=binary asks the compiled program.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { start } from "../http-kit.ts";
import { type Daemon, Folder, certificates, have, startRole, until } from "../kit.ts";
import { Observer } from "../observer/kit.ts";
import { Hub, uploadHeaders } from "../receiver/kit.ts";
import { isRoot, smallDisk } from "./disk.ts";

const TRIES = Number(process.env["PICKET_EARLY_TRIES"] ?? 2);
const LARGE = Number(process.env["PICKET_EARLY_MB"] ?? 12) * 1e6;

interface Asked {
  method: string;
  url: string;
  /** The right answer. */
  status: number;
  headers: Record<string, string>;
  file: string;
  chunked: boolean;
}

const PYTHON = `
import json, ssl, sys, urllib.request as u
tries = int(sys.argv[2])
for ask in json.load(open(sys.argv[1])):
    data, seen = open(ask["file"], "rb").read(), []
    for _ in range(tries):
        body = (data[n:n + 65536] for n in range(0, len(data), 65536)) if ask["chunked"] else data
        request = u.Request(ask["url"], body, ask["headers"], method=ask["method"])
        try: seen.append(str(u.urlopen(request, context=ssl._create_unverified_context()).status))
        except u.HTTPError as e: e.read(); seen.append(str(e.code))
        except Exception as e: seen.append(repr(e))
    print(json.dumps(seen))
`;
const NODE = `
const { readFileSync } = require("fs");
const [asks, tries] = process.argv.slice(1);
(async () => {
  for (const { url, method, headers, file, chunked } of JSON.parse(readFileSync(asks))) {
    const data = readFileSync(file), seen = [];
    for (let n = 0; n < tries; n++) {
      const body = chunked ? new Blob([data]).stream() : data;
      const asking = fetch(url, { method, headers, body, duplex: "half" }).then(async (r) => (await r.text(), String(r.status)));
      seen.push(await asking.catch((e) => e.message + " " + e.cause?.code));
    }
    console.log(JSON.stringify(seen));
  }
})();
`;
const GO = `package main
import ("bytes"; "crypto/tls"; "encoding/json"; "fmt"; "io"; "net/http"; "os"; "strconv")
func main() {
	var asks []struct { Method, Url, File string; Headers map[string]string; Chunked bool }
	text, _ := os.ReadFile(os.Args[1])
	json.Unmarshal(text, &asks)
	tries, _ := strconv.Atoi(os.Args[2])
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, ask := range asks {
		data, _ := os.ReadFile(ask.File)
		seen := []string{}
		for n := 0; n < tries; n++ {
			var body io.Reader = bytes.NewReader(data)
			if ask.Chunked { body = io.MultiReader(body) }
			request, _ := http.NewRequest(ask.Method, ask.Url, body)
			for name, value := range ask.Headers { request.Header.Set(name, value) }
			answer, err := client.Do(request)
			if err == nil { _, err = io.ReadAll(answer.Body); answer.Body.Close() }
			if err != nil { seen = append(seen, err.Error()) } else { seen = append(seen, strconv.Itoa(answer.StatusCode)) }
		}
		line, _ := json.Marshal(seen)
		fmt.Println(string(line))
	}
}
`;

const flags = (name: string, headers: Record<string, string>): string[] =>
  Object.entries(headers).flatMap(([key, value]) => [name, `${key}: ${value}`]);

/** Runs a command, and gives what it printed. */
async function output(cmd: string[]): Promise<string> {
  const env = { ...process.env, NODE_TLS_REJECT_UNAUTHORIZED: "0", NODE_NO_WARNINGS: "1" };
  const child = Bun.spawn(["sh", "-c", 'exec "$@" 2>&1', "sh", ...cmd], { env, stdout: "pipe", stderr: "ignore" });
  return new Response(child.stdout).text();
}

/** A client that sends all requests by itself. */
const program =
  (...cmd: string[]) =>
  async (asks: Asked[], folder: Folder): Promise<string[][]> => {
    const [file, ...args] = [folder.write("asks.json", JSON.stringify(asks)), String(TRIES)];
    const lines = (await output([...cmd.map((one) => one.replace("@", folder.path)), file, ...args]))
      .trim()
      .split("\n");
    return lines.map((line) => JSON.parse(line) as string[]);
  };

/** A client that is run for each of them. */
const command =
  (cmd: (asked: Asked) => string[], status: RegExp) =>
  async (asks: Asked[]): Promise<string[][]> => {
    const all: string[][] = [];
    for (const asked of asks) all.push([...(await output(cmd(asked))).matchAll(status)].map(([, found]) => found!));
    return all;
  };
const curl = (more: Record<string, string>) =>
  command(
    ({ url, method, headers, file, chunked }) => [
      "curl",
      "-sk",
      "-w",
      "<%{http_code}>",
      "-X",
      method,
      "--data-binary",
      `@${file}`,
      ...flags("-H", { ...headers, ...more, ...(chunked ? { "transfer-encoding": "chunked" } : {}) }),
      ...Array.from({ length: TRIES }, () => ["-o", "/dev/null", url]).flat(),
    ],
    /<(\d+)>/g,
  );
/** It can't send a chunked body: then it sends the same one as it is. */
const wget = command(
  ({ url, method, headers, file }) => [
    "wget",
    "--no-check-certificate",
    "-t",
    "1",
    "-qSO",
    "/dev/null",
    `--method=${method}`,
    `--body-file=${file}`,
    ...flags("--header", headers),
    ...Array.from({ length: TRIES }, () => url),
  ],
  /HTTP\/1\.1 (?!100)(\d+)/g,
);

const CLIENTS = {
  curl: curl({}),
  "curl without Expect": curl({ expect: "" }),
  wget,
  python3: program("python3", "-c", PYTHON),
  node: program("node", "-e", NODE),
  go: program("@/client"),
};
const INSTALLED = Object.entries(CLIENTS).filter(([name]) => have(name.split(" ")[0]!, `early answers to ${name}`));

describe("answers before the end of the body", () => {
  const folder = new Folder();
  let collector: Daemon, fenced: Daemon, secure: Daemon, secureHub: Hub | undefined;
  let hub: Hub, limited: Hub, gated: Hub, full: Hub | undefined, observer: Observer;
  let disk: Awaited<ReturnType<typeof smallDisk>> | undefined;
  const json = { "content-type": "application/json" };

  beforeAll(async () => {
    mkdirSync(folder.at("plain"));
    const own = (name: string): Folder => Object.assign(Object.create(folder) as Folder, { path: folder.at(name) });
    for (const name of ["one", "two", "three"]) mkdirSync(folder.at(name));
    for (const [name, size] of [
      ["short", 3000],
      ["middle", 3.5e6],
      ["large", LARGE],
    ] as const)
      writeFileSync(folder.at(name), Buffer.alloc(size, 0x20));
    collector = await start(own("one"), "");
    fenced = await start(own("two"), "auth: { allowed_ips: [10.0.0.0/8] }\n");
    hub = await Hub.start({ hosts: ["web-1"], more: "max_episode_bytes: 1000\nrate_limit_per_minute: 100000" });
    limited = await Hub.start({ hosts: ["web-1"], more: "rate_limit_per_minute: 1" });
    const gate = `version_gate: { enabled: true, repo_path: ${folder.path} }`;
    gated = await Hub.start({ hosts: ["web-1"], more: `rate_limit_per_minute: 100000\n${gate}` });
    if (isRoot) {
      disk = await smallDisk(folder, "4m");
      full = await Hub.start({ hosts: ["web-1"], data: disk.path, more: "rate_limit_per_minute: 100000" });
    }
    const magic = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);
    writeFileSync(folder.at("zstd"), Buffer.concat([magic, Buffer.alloc(LARGE, 0x20)]));
    observer = await Observer.start({ more: "auth: { token: tell-me }" });
    if (have("openssl", "early answers over TLS")) {
      await certificates(folder);
      const tls = `tls: { cert_file: ${folder.at("server.pem")}, key_file: ${folder.at("server.key")} }`;
      secureHub = await Hub.start({ more: `max_episode_bytes: 1000\nrate_limit_per_minute: 100000\n${tls}` });
      secure = await start(own("three"), `${tls}\n`);
    }
    if (INSTALLED.some(([name]) => name === "go")) {
      writeFileSync(folder.at("main.go"), GO);
      const env = { ...process.env, GOFLAGS: "-mod=mod", GO111MODULE: "off" };
      expect(Bun.spawnSync(["go", "build", "-o", folder.at("client"), folder.at("main.go")], { env }).exitCode).toBe(0);
    }
  });
  afterAll(async () => {
    for (const one of [collector, fenced, hub, limited, gated, full, disk, observer, secure, secureHub])
      await one?.[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  });

  /** Where and how, and the right answer; `large` also with a body of that size, chunked, and short. */
  const asks = async (): Promise<Asked[]> => {
    const [open, address] = [await collector.url(), await fenced.url()];
    const bearer = hub.bearer();
    const upload = { ...bearer, ...uploadHeaders(Buffer.from("x")) };
    const operator = { authorization: "Bearer tell-me", ...json };
    const cases: [string, string, number, Record<string, string>, "large"?][] = [
      ["POST", `${open}/open`, 413, json, "large"],
      ["POST", `${open}/signed`, 401, json, "large"],
      ["POST", `${open}/nowhere`, 404, json],
      ["PUT", `${open}/open`, 405, json],
      ["POST", `${open}/open`, 415, { ...json, "content-encoding": "rot13" }],
      ["POST", `${address}/open`, 403, json, "large"],
      ["POST", `${hub.url}/v1/host-report`, 413, { ...bearer, ...json }, "large"],
      ["POST", `${hub.url}/agent/telemetry`, 413, { ...bearer, ...json }],
      ["PUT", `${hub.url}/v1/host-health/web-1`, 413, { ...bearer, ...json }],
      ["PUT", `${hub.url}/v1/host-health/web-2`, 403, { ...bearer, ...json }],
      ["POST", `${hub.url}/v1/host-report`, 401, json, "large"],
      ["POST", `${hub.url}/v1/ping`, 401, { authorization: "Bearer wrong" }],
      ["PUT", `${hub.url}/v1/episodes/web-1/a.tar.zst`, 413, upload, "large"],
      ["PUT", `${hub.url}/v1/episodes/web-1/a.tar.zst`, 400, bearer, "large"],
      ["PUT", `${hub.url}/v1/episodes/web-2/a.tar.zst`, 403, upload],
      ["PUT", `${hub.url}/v1/episodes/web-1/a.tar.zst`, 401, json],
      ["POST", `${limited.url}/v1/host-report`, 429, { ...limited.bearer(), ...json }, "large"],
      ["PUT", `${limited.url}/v1/episodes/web-1/a.tar.zst`, 429, limited.bearer()],
      ["POST", `${observer.url}/observer/event`, 413, operator, "large"],
      ["POST", `${observer.url}/v1/observer/review`, 413, operator],
      ["POST", `${observer.url}/observer/event`, 401, json, "large"],
      ["POST", `${observer.url}/observer/nothing`, 404, operator],
      ["POST", `${observer.url}/observer/stats`, 405, operator],
      ["POST", `${observer.url}/observer/event`, 415, { ...operator, "content-encoding": "gzip" }],
    ];
    const commit = { ...gated.bearer(), ...uploadHeaders(Buffer.from("x")), "x-code-commit": "c".repeat(40) };
    cases.push(["PUT", `${gated.url}/v1/episodes/web-1/a.tar.zst`, 503, commit, "large"]);
    if (full) cases.push(["PUT", `${full.url}/v1/episodes/web-1/a.tar.zst`, 507, { ...upload, ...full.bearer() }]);
    if (secure) {
      const url = (await secure.url()).replace("http:", "https:");
      for (const [path, status] of [
        ["/open", 413],
        ["/signed", 401],
        ["/nowhere", 404],
      ] as const)
        cases.push(["POST", url + path, status, json, "large"]);
    }
    if (secureHub) {
      const url = secureHub.url.replace("http:", "https:");
      const mine = { ...upload, ...secureHub.bearer() };
      cases.push(["POST", `${url}/v1/host-report`, 401, json], ["POST", `${url}/v1/host-report`, 413, mine]);
      cases.push(["PUT", `${url}/v1/episodes/web-1/a.tar.zst`, 413, mine, "large"]);
    }
    return cases.flatMap(([method, url, status, headers, large]) => {
      const one = (size: string, chunked = false): Asked => ({
        method,
        url,
        status,
        headers,
        chunked,
        file: folder.at(size),
      });
      const over = status === 413;
      if (!large) return [one(status === 507 ? "zstd" : over ? "large" : "middle")];
      return [one("large"), one("large", true), ...(over ? [] : [one("short"), one("middle")])];
    });
  };

  for (const [name, send] of INSTALLED) {
    test(`are seen by ${name}, every time`, async () => {
      const all = await asks();
      await limited.report();
      const seen = await send(all, folder);
      const wrong = all.flatMap(({ method, url, status, file, chunked }, n) => {
        const others = (seen[n] ?? []).filter((one) => one !== String(status));
        // A minute later one request is free again.
        if (status === 429 && others.length === 1 && /^4\d\d$/.test(others[0]!)) others.pop();
        const missed = TRIES - (seen[n]?.length ?? 0);
        const what = `${method} ${url} ${file.slice(folder.path.length + 1)}${chunked ? " chunked" : ""}`;
        return others.length === 0 && missed === 0
          ? []
          : [`${what}: not ${status}: ${others.join(", ")}; ${missed} missed`];
      });
      expect(wrong).toEqual([]);
      if (TRIES > 2) console.log(`${name}: ${seen.flat().length} early answers, all seen`);
    });
  }

  test("thrown away bodies don't stay in memory, and a small one keeps its connection", async () => {
    const peak = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${collector.child.pid}/status`, "utf8"))![1]) / 1024;
    expect(peak).toBeLessThan(250);
    const [small, large] = await Promise.all(
      ["short", "middle"].map(async (file) =>
        fetch(`${await collector.url()}/signed`, { method: "POST", body: Bun.file(folder.at(file)) }),
      ),
    );
    expect([small!.headers.get("connection"), large!.headers.get("connection")]).toEqual([null, "close"]);
  });
});

test("an agent sees the refusal of its upload, and puts the episode aside", async () => {
  await using hub = await Hub.start({ more: "max_episode_bytes: 100000" });
  using folder = new Folder();
  mkdirSync(folder.at("episodes", "ep-1"), { recursive: true });
  writeFileSync(
    folder.at("episodes", "ep-1", "noise"),
    crypto.getRandomValues(Buffer.alloc(65536 * 300).subarray(0, 65536)),
  );
  writeFileSync(
    folder.at("episodes", "ep-1", "more"),
    Buffer.concat(Array.from({ length: 300 }, () => crypto.getRandomValues(Buffer.alloc(65536)))),
  );
  writeFileSync(folder.at("episodes", "ep-1", "done.marker"), "");
  const config = folder.write(
    "agent.yaml",
    `receiver: { url: "${hub.url}", token: ${hub.tokens.get("web-1")} }\ndata_dir: ${folder.at("agent")}\ndocker: { enabled: false }\nship: { episodes_dir: ${folder.at("episodes")}, scan_seconds: 1 }\n`,
  );
  await using agent = await startRole("agent", ["--config", config]);
  await agent.said("413");
  await until("it is put aside", () => !existsSync(folder.at("episodes", "ep-1")));
});
