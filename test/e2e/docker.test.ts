// The agent beside real engines, Docker's and Podman's, each private: own folders, own socket, no bridge, no iptables. The image
// is Debian's busybox, imported from a small root file system: no registry.
// Not tested: published ports (they need a bridge), what a graphical Docker Desktop does, an engine without root.

import { describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import type { DockerContainer } from "../../lib/agent/docker.ts";
import { Folder, TARGETS, have, inboxLines, runRole, until } from "../kit.ts";
import { Hub, TELLS_SOON } from "../receiver/kit.ts";
import { printedBytes } from "../printed.ts";
import { isRoot } from "./disk.ts";

const BUSYBOX = "/bin/busybox";
/** What the containers are: name → arguments of `run`, command. Busy uses a tenth of a CPU; the eater keeps 20 MiB and more. */
const SLEEP = [BUSYBOX, "sleep", "100000"];
const LABELS = { "a,b": 'c=d,e="f"', lines: "one\ntwo", schön: "ü€😀", empty: "" };
const CONTAINERS: Record<string, { options: string[]; command: string[] }> = {
  busy: { options: ["--cpus", "0.1"], command: ["/bin/sh", "-c", "while :; do :; done"] },
  eater: {
    options: ["--memory", "256m"],
    command: [
      "/bin/sh",
      "-c",
      `x=$(${BUSYBOX} dd if=/dev/zero bs=1M count=20 2>/dev/null | ${BUSYBOX} tr '\\0' x); ${SLEEP.join(" ")} & wait`,
    ],
  },
  labelled: {
    options: Object.entries(LABELS).flatMap(([key, value]) => ["--label", `${key}=${value}`]),
    command: SLEEP,
  },
};

/** An engine that runs, and its command line. */
interface Engine extends AsyncDisposable {
  socket: string;
  cli: (...args: string[]) => Promise<string>;
}

async function output(cmd: string[], env: Record<string, string | undefined> = {}): Promise<string> {
  const child = Bun.spawn(cmd, { env: { ...process.env, ...env }, stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`${cmd.join(" ")}: ${code} ${stderr}`);
  return stdout.trim();
}

/** Makes the image `box`. */
async function importImage(folder: Folder, cli: Engine["cli"]): Promise<void> {
  mkdirSync(folder.at("root/bin"), { recursive: true });
  copyFileSync(BUSYBOX, folder.at("root", BUSYBOX));
  symlinkSync("busybox", folder.at("root/bin/sh"));
  await output(["tar", "-C", folder.at("root"), "-cf", folder.at("root.tar"), "."]);
  await cli("import", folder.at("root.tar"), "box");
}

/** Waits until the engine answers; its log when it ends instead. */
async function answers(cli: Engine["cli"], child: Bun.Subprocess, log: string): Promise<void> {
  await until("the engine answers", async () => {
    if (child.exitCode !== null) throw new Error(`it ended: ${readFileSync(log, "utf8").trim().split("\n").at(-1)}`);
    return cli("version").catch(() => "");
  });
}

/** In a new mount namespace: lets go of what other tests have mounted. A file system stays, with its errors, until its last copy is unmounted. */
const RELEASE_MOUNTS = `for mount in $(findmnt -rno TARGET | grep '^${tmpdir()}/'); do umount -l "$mount"; done 2>/dev/null`;

/** dockerd in a mount namespace of its own, so that no mount of it stays behind. */
async function startDocker(folder: Folder): Promise<Engine> {
  const socket = folder.at("docker.sock");
  const log = folder.at("dockerd.log");
  const pidfile = folder.at("dockerd.pid");
  const flags = `--data-root ${folder.at("data")} --exec-root ${folder.at("exec")} --pidfile ${pidfile} -H unix://${socket}`;
  const off = "--bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false";
  const child = Bun.spawn(
    [
      ..."unshare --mount --propagation private sh -c".split(" "),
      `${RELEASE_MOUNTS}; exec dockerd "$@"`,
      "dockerd",
      ...`${flags} ${off}`.split(" "),
    ],
    { stdin: "ignore", stdout: Bun.file(log), stderr: Bun.file(log) },
  );
  const cli = (...args: string[]) =>
    output(["docker", ...args], { DOCKER_HOST: `unix://${socket}`, HOME: folder.path });
  const stop = async () => {
    const all = await cli("ps", "-aq").catch(() => "");
    if (all) await cli("rm", "-f", ...all.split("\n")).catch(() => "");
    child.kill();
    await child.exited;
  };
  try {
    await answers(cli, child, log);
    await importImage(folder, cli);
  } catch (error) {
    await stop();
    throw error;
  }
  return { socket, cli, [Symbol.asyncDispose]: stop };
}

/** Podman's service; with runc, which works in more places than crun. */
async function startPodman(folder: Folder): Promise<Engine> {
  const socket = folder.at("podman.sock");
  const log = folder.at("podman.log");
  const places = ["--root", folder.at("data"), "--runroot", folder.at("run"), "--tmpdir", folder.at("tmp")];
  const how = [
    "--storage-driver",
    "vfs",
    "--cgroup-manager",
    "cgroupfs",
    "--events-backend",
    "file",
    "--runtime",
    "runc",
  ];
  const podman = ["podman", ...places, ...how];
  const child = Bun.spawn([...podman, "system", "service", "--time", "0", `unix://${socket}`], {
    stdin: "ignore",
    stdout: Bun.file(log),
    stderr: Bun.file(log),
  });
  const cli = (...args: string[]) => output([...podman, ...args]);
  const stop = async () => {
    await cli("rm", "-af", "-t", "0").catch(() => "");
    child.kill();
    await child.exited;
    // Each container's keeper still cleans up in the folder that is about to go.
    await until("its processes are gone", async () => !(await output(["pgrep", "-f", folder.path]).catch(() => "")));
  };
  try {
    await until("the service listens", () =>
      output(["curl", "-sf", "--unix-socket", socket, "http://d/_ping"]).catch(() => ""),
    );
    await answers(cli, child, log);
    await importImage(folder, cli);
  } catch (error) {
    await stop();
    throw error;
  }
  return { socket, cli, [Symbol.asyncDispose]: stop };
}

/** Whether the engine starts here and runs a container; else says why it isn't tried. */
async function works(
  name: string,
  programs: string[],
  start: (folder: Folder) => Promise<Engine>,
  options: string[],
): Promise<boolean> {
  const what = `the agent beside a real ${name}`;
  if (!isRoot) console.log(`skipped: ${what}: needs root`);
  if (!isRoot || !programs.every((program) => have(program, what))) return false;
  using folder = new Folder();
  try {
    await using engine = await start(folder);
    await engine.cli("run", "--rm", ...options, "box", "/bin/sh", "-c", ":");
    return true;
  } catch (error) {
    console.log(`skipped: ${what}: it doesn't run here: ${String(error)}`);
    return false;
  }
}

/** What the agent would send. */
async function selftest(
  folder: Folder,
  socket: string,
  target: "source" | "binary",
): Promise<Map<string, DockerContainer>> {
  const config = folder.write(
    "agent.yaml",
    `receiver: { url: "https://hub.example", token: t }\ndata_dir: ${folder.at("agent")}\ndocker: { socket: ${socket} }\n`,
  );
  const { code, stdout, stderr } = await runRole("agent", ["selftest", "docker", "--config", config], { target });
  expect([code, stderr]).toEqual([0, expect.not.stringContaining("containers")]);
  const rows = JSON.parse(stdout) as DockerContainer[];
  return new Map(rows.map((row) => [row.name, row]));
}

/** The limits of an unprivileged place: a container may not ask for more than its maker has. */
const ULIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
const NO_NETWORK = ["--network", "none"];
const HAS_DOCKER = await works("Docker", ["dockerd", "docker", "busybox"], startDocker, NO_NETWORK);
const HAS_PODMAN = await works("Podman", ["podman", "runc", "busybox", "curl"], startPodman, [
  ...NO_NETWORK,
  ...ULIMITS,
]);

/** A line of `docker stats`, by name. */
async function stats(cli: Engine["cli"]): Promise<Map<string, { cpu: number; memory: string }>> {
  const lines = await cli("stats", "--no-stream", "--format", "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}");
  return new Map(
    lines.split("\n").map((line) => {
      const [name = "", cpu = "", memory = ""] = line.split("|");
      return [name, { cpu: Number.parseFloat(cpu), memory }];
    }),
  );
}

const memoryOf = (row: DockerContainer | undefined) =>
  `${printedBytes(row!.metrics!.memory_usage_mb!)} / ${printedBytes(row!.metrics!.memory_limit_mb!)}`;

/**
 * A tenth of a CPU, give or take: so much even a machine with other work to do gives a container. The agent's sample and the
 * engine's are of different seconds; what a wrong formula makes of it is further off (0.2, 20, 100).
 */
const isATenthOfACpu = (percent: number | null | undefined) =>
  typeof percent === "number" && percent > 2 && percent < 15;

describe.skipIf(!HAS_DOCKER)("Docker", () => {
  test("every kind of container, as the engine itself tells it", async () => {
    using folder = new Folder();
    await using engine = await startDocker(folder);
    const { cli } = engine;
    const run = (name: string, options: string[], command = SLEEP) =>
      cli("run", "-d", "--name", name, ...options, "box", ...command);
    for (const [name, { options, command }] of Object.entries(CONTAINERS))
      await run(name, [...NO_NETWORK, ...options], command);
    const check = (command: string, every: string) => [
      ...NO_NETWORK,
      "--health-cmd",
      command,
      "--health-interval",
      every,
      "--health-retries",
      "1",
    ];
    await run("starting", check(`${BUSYBOX} true`, "1h"));
    await run("healthy", check(`${BUSYBOX} true`, "1s"));
    await run("sick", check(`${BUSYBOX} false`, "1s"));
    await run("host", [
      "--network",
      "host",
      "--expose",
      "80",
      "--expose",
      "53/udp",
      "--expose",
      "9000-9002",
      "--expose",
      "132/sctp",
    ]);
    await run("paused", NO_NETWORK);
    await cli("pause", "paused");
    await cli("create", "--name", "made", ...NO_NETWORK, "box", "/bin/sh");
    await run("ended", NO_NETWORK, ["/bin/sh", "-c", "exit 7"]);
    const inspect = (name: string, format: string) => cli("inspect", "--format", format, name);
    await until("one has ended", async () => (await inspect("ended", "{{.State.Status}}")) === "exited");
    await until(
      "health is known",
      async () =>
        (await Promise.all(["healthy", "sick"].map((name) => inspect(name, "{{.State.Health.Status}}")))).join() ===
        "healthy,unhealthy",
    );
    for (const target of TARGETS) {
      // Memory is compared where nothing moves it: a new container's takes a while to settle.
      const still = ["paused", "labelled", "starting", "host", "eater"];
      const { rows, printed } = await until(
        "memory stands still",
        async () => {
          const before = await stats(cli);
          const read = await selftest(folder, engine.socket, target);
          const after = await stats(cli);
          const same = still.every((name) => before.get(name)!.memory === after.get(name)!.memory);
          return same && { rows: read, printed: after };
        },
        90,
      );
      for (const name of still) {
        expect([name, memoryOf(rows.get(name))]).toEqual([name, printed.get(name)!.memory]);
        expect([name, rows.get(name)!.metrics!.cpu_percent]).toEqual([name, 0]);
      }
      // In the order and with the words of the engine.
      const ps = (await cli("ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}} {{.State}} {{.Image}}")).split(
        "\n",
      );
      expect([...rows.values()].map((row) => `${row.name} ${row.container_id} ${row.state} ${row.image}`)).toEqual(ps);
      expect(Object.fromEntries([...rows].map(([name, { health_status }]) => [name, health_status]))).toMatchObject({
        starting: "starting",
        healthy: "healthy",
        sick: "unhealthy",
        busy: null,
        paused: null,
        ended: null,
      });
      expect(rows.get("labelled")!.labels).toEqual(LABELS);
      expect(rows.get("ended")!.status).toMatch(/^Exited \(7\) /);
      for (const [name, row] of rows) {
        const [started, finished] = (await inspect(name, "{{json .State.StartedAt}} {{json .State.FinishedAt}}")).split(
          " ",
        );
        const never = '"0001-01-01T00:00:00Z"';
        expect([
          name,
          JSON.stringify(row.started_at ?? JSON.parse(never)),
          JSON.stringify(row.finished_at ?? JSON.parse(never)),
        ]).toEqual([name, started!, finished!]);
      }
      expect([...rows].filter(([, { metrics }]) => metrics === null).map(([name]) => name)).toEqual(["ended", "made"]);
      expect(rows.get("eater")!.metrics).toMatchObject({ memory_limit_mb: 256 });
      expect(rows.get("eater")!.metrics!.memory_usage_mb).toBeGreaterThan(20);
      const use = [rows.get("busy")!.metrics!.cpu_percent, printed.get("busy")!.cpu];
      expect([use, use.every(isATenthOfACpu)]).toEqual([use, true]);
    }
  });

  test("a restart loop and a container that fails are a line each and a line when they are over; exit code 0 is none", async () => {
    using folder = new Folder();
    await using engine = await startDocker(folder);
    await using hub = await Hub.start({ hosts: ["nas"], more: TELLS_SOON, target: "binary" });
    const config = folder.write(
      "hub.yaml",
      `receiver: { url: "${hub.url}", token: ${hub.tokens.get("nas")} }\ndata_dir: ${folder.at("agent")}\ndocker: { socket: ${engine.socket} }\n`,
    );
    const look = async () => {
      const { code } = await runRole("agent", ["selftest", "hub", "--config", config], { target: "binary" });
      expect(code).toBe(0);
    };
    const texts = () => inboxLines(hub.inbox, "ops").map(({ payload }) => payload!);
    const told = (what: RegExp) => until(String(what), () => texts().some((text) => what.test(text)));
    const run = (name: string, ...args: string[]) => engine.cli("run", "-d", "--name", name, ...NO_NETWORK, ...args);
    const wait = `while [ ! -e /go ]; do ${BUSYBOX} sleep 0.1; done`;
    await run("done", "box", "/bin/sh", "-c", wait);
    await run("fails", "box", "/bin/sh", "-c", `${wait}; [ -e /again ] || exit 7; ${SLEEP.join(" ")}`);
    await run("loops", "--restart", "always", "box", "/bin/sh", "-c", `[ -e /go ] || exit 1; ${SLEEP.join(" ")}`);
    await look();
    const touch = (name: string, file: string) => engine.cli("exec", name, "/bin/sh", "-c", `: > ${file}`);
    await touch("done", "/go");
    await touch("fails", "/go");
    await engine.cli("wait", "done", "fails");
    await until("it is told to loop", async () => {
      await look();
      return texts().some((text) => text.startsWith("nas: container loops restarts again and again: 3 times"));
    });
    await told(/^nas: container fails has stopped \(Exited \(7\)/);
    await engine.cli("cp", config, "fails:/again");
    await engine.cli("start", "fails");
    await look();
    await told(/^nas: container fails is well again$/);
    // Docker shows a container as exited for a moment before it waits for its next start.
    // A disk that another test fills is a line, too.
    expect(texts().filter((text) => /container (?!loops)/.test(text))).toEqual([
      expect.stringMatching(/^nas: container fails has stopped \(Exited \(7\) .* ago\); docker logs --tail 50 fails$/),
      "nas: container fails is well again",
    ]);
    expect(texts().filter((text) => text.includes("loops restarts"))).toHaveLength(1);
  });

  test("containers that come and go all the while are no trouble", async () => {
    using folder = new Folder();
    await using engine = await startDocker(folder);
    await engine.cli("run", "-d", "--name", "stays", ...NO_NETWORK, "box", ...SLEEP);
    const over = new AbortController();
    let gone = 0;
    const churn = (async () => {
      while (!over.signal.aborted) {
        await engine.cli("run", "--rm", ...NO_NETWORK, "box", "/bin/sh", "-c", ":");
        gone++;
      }
    })();
    for (let round = 0; round < 5; round++) {
      const rows = await selftest(folder, engine.socket, "source");
      expect(rows.get("stays")!.metrics!.memory_usage_mb).toBeGreaterThan(0);
    }
    await until("some have gone", () => gone > 3);
    over.abort();
    await churn;
  });
});

describe.skipIf(!HAS_PODMAN)("Podman", () => {
  test("its containers, with health and CPU use, which its own API gets wrong", async () => {
    using folder = new Folder();
    await using engine = await startPodman(folder);
    const { cli } = engine;
    const run = (name: string, options: string[], command = SLEEP) =>
      cli("run", "-d", "--name", name, ...NO_NETWORK, ...ULIMITS, ...options, "localhost/box", ...command);
    for (const [name, { options, command }] of Object.entries(CONTAINERS)) await run(name, options, command);
    // Without systemd nothing checks by itself.
    await run("healthy", ["--health-cmd", `${BUSYBOX} true`, "--health-interval", "disable"]);
    await cli("healthcheck", "run", "healthy");
    await cli("create", "--name", "made", ...NO_NETWORK, "localhost/box", "/bin/sh");
    await run("ended", [], ["/bin/sh", "-c", "exit 7"]);
    await until(
      "one has ended",
      async () => (await cli("inspect", "--format", "{{.State.Status}}", "ended")) === "exited",
    );
    const rows = await selftest(folder, engine.socket, "source");
    expect(
      Object.fromEntries([...rows].map(([name, { state, health_status }]) => [name, [state, health_status]])),
    ).toEqual({
      busy: ["running", null],
      eater: ["running", null],
      labelled: ["running", null],
      healthy: ["running", "healthy"],
      made: ["created", null],
      ended: ["exited", null],
    });
    expect(rows.get("labelled")).toMatchObject({ image: "localhost/box", image_tag: "latest", labels: LABELS });
    expect(rows.get("ended")).toMatchObject({ metrics: null, finished_at: expect.stringMatching(/Z$/) });
    // Podman prints decimal units, and CPU use since the container's start.
    const printed = await stats(cli);
    const [usage = ""] = printed.get("labelled")!.memory.split(" / ");
    expect(usage).toBe(
      `${Number(((rows.get("labelled")!.metrics!.memory_usage_mb! * 2 ** 20) / 1000).toPrecision(4))}kB`,
    );
    const use = [rows.get("busy")!.metrics!.cpu_percent, printed.get("busy")!.cpu];
    expect([use, use.every(isATenthOfACpu)]).toEqual([use, true]);
  });
});
