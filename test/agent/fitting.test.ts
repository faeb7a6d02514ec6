// Odd figures and containers never cost a report: they are null or left out, and the log names them. The receiver is a real one.

import { expect, test } from "bun:test";
import { existsSync, mkdirSync } from "node:fs";
import { Folder, have, runRole } from "../kit.ts";
import { Hub } from "../receiver/kit.ts";
import { FakeHub } from "./kit.ts";

type Shown = {
  metrics: Record<string, unknown>;
  facts: Record<string, unknown>;
  containers: object[];
  guests: object[];
};

const ID = (n: number) => n.toString(16).padStart(64, "0");

/** The answers of an engine: all that is odd of a container, and of its figures. */
const LIST = [
  { Id: ID(1), Names: null, Image: null, State: null, Status: null, Ports: null, Labels: null },
  { Id: ID(2), Names: ["/odd"], Image: "x:1", State: "running", Labels: ["a"], Ports: [{}] },
  { Id: ID(3), Names: ["/numbers"], Image: "x", State: "running", Labels: { n: 5, none: null, yes: "yes" } },
  {
    Id: ID(4),
    Names: [`/${"long".repeat(100)}`],
    Image: `${"long/".repeat(100)}x:${"t".repeat(200)}`,
    State: "s".repeat(99),
  },
  { Id: "", Names: ["/nameless"] },
  null,
  { Id: ID(5), Names: ["/fine"], State: "running", Labels: { a: "b" } },
];
const STATS = {
  cpu_stats: { cpu_usage: { total_usage: 3e9 }, system_cpu_usage: 20e9, online_cpus: 1e300 },
  precpu_stats: { cpu_usage: { total_usage: 1e9 }, system_cpu_usage: 1e9 },
  memory_stats: { usage: -5, limit: 2 ** 64 },
  networks: { eth0: { rx_bytes: -1, tx_bytes: 1.5 } },
};

/** Runs a program that sees other files in place of some of the kernel's. */
const seeing = (files: Record<string, string>) => {
  const mounts = Object.entries(files).map(([path, file]) => `mount --bind ${file} ${path}`);
  return ["unshare", "-m", "sh", "-c", `${mounts.join(" && ")} && exec "$@"`, "sh"];
};
const CPUSETS = ["/sys/fs/cgroup/cpuset.cpus.effective", "/sys/fs/cgroup/cpuset/cpuset.effective_cpus"].filter(
  existsSync,
);
const canSee = process.getuid?.() === 0 && have("unshare", "other files of the kernel");

test.skipIf(!canSee)(
  "the receiver takes a report of odd figures, containers and guests, and the agent says what is missing",
  async () => {
    using folder = new Folder();
    await using hub = await Hub.start();
    using _ = Bun.serve({
      unix: folder.at("docker.sock"),
      fetch(request) {
        const { pathname } = new URL(request.url);
        if (pathname === "/version") return Response.json({ Version: "v".repeat(99) });
        if (pathname === "/containers/json") return Response.json(LIST);
        return Response.json(pathname.endsWith("/stats") ? STATS : { State: { StartedAt: "s".repeat(99) } });
      },
    });
    using pve = new FakeHub({
      "/status": () => Response.json({ data: { cpuinfo: { cpus: 1792 } } }),
      "/lxc": () =>
        Response.json({
          data: [{ vmid: 101, name: "n".repeat(300), status: "running", cpus: -1 }, { name: "no number" }, null],
        }),
      "/qemu": () => Response.json({ data: [] }),
      "/storage": () => Response.json({ data: [{}, { storage: "tank", content: "backup" }] }),
      "/config": () => Response.json({ data: { cores: 1e300, memory: "much", rootfs: "a:b,size=9T" } }),
      "/content": () =>
        Response.json({ data: [{ volid: 7 }, { volid: "tank:a", vmid: 101, size: "x", verification: 5 }] }),
    });
    mkdirSync(folder.at("agent"));
    const config = folder.write(
      "agent.yaml",
      `receiver: { url: "${hub.url}", token: ${hub.tokens.get("web-1")} }\ndata_dir: ${folder.at("agent")}
docker: { socket: "unix://${folder.at("docker.sock")}" }\nproxmox: { endpoint: "${pve.url}", node: pve1, token: "root@pam!x=1" }\n`,
    );
    const cpus = Array.from({ length: 1792 }, (_, n) => `cpu${n} 1 0 0 1 0 0 0 0 0 0\n`).join("");
    const wrap = seeing({
      "/proc/stat": folder.write("stat", `cpu  1 0 0 1 0 0 0 0 0 0\n${cpus}btime 1700000000\n`),
      "/proc/loadavg": folder.write("loadavg", "-1.5 0 0 1/2 3\n"),
      "/proc/uptime": folder.write("uptime", "-50.1 0\n"),
      ...Object.fromEntries(CPUSETS.map((path) => [path, folder.write("cpuset", "0-1791\n")])),
      "/etc/os-release": folder.write("os", `PRETTY_NAME="${"long ".repeat(50)}"\n`),
    });
    const { code, stdout, stderr } = await runRole("agent", ["selftest", "--config", config], { wrap });
    expect([code, stdout]).toEqual([0, expect.stringContaining("/v1/host-report: 200")]);
    const seen = await hub.get<Shown>("/v1/hosts/web-1");
    expect(seen).toMatchObject({
      metrics: {
        load_average: null,
        uptime_seconds: null,
        network_rx_bytes: expect.any(Number),
      },
      facts: { os: expect.stringMatching(/^long /) },
      guests: [{ vmid: 101, status: "running", spec: { cores: null, disk_gb: 9216 } }],
    });
    expect(seen.facts).not.toContainKey("cpu_count");
    expect(seen.containers.map((one) => (one as { name: string }).name).toSorted()).toEqual(
      [ID(1).slice(0, 12), "fine", "long".repeat(100).slice(0, 255), "numbers", "odd"].toSorted(),
    );
    expect(seen.containers).toContainEqual(
      expect.objectContaining({ name: "numbers", labels: { n: "", none: "", yes: "yes" } }),
    );
    for (const said of [
      /host\.metrics\.load_average: expected .*: -1\.5 is sent as null/,
      /host\.facts\.cpu_count: .*: 1792 is sent as null/,
      "a container left out: ",
      "an entry of /lxc left out: ",
    ]) {
      expect(stderr).toMatch(said);
    }
  },
);
