// The series of each host in /metrics, and what lies in etc/ for Prometheus and Grafana, by a real Prometheus.

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, ROOT, freePort, have, until } from "../kit.ts";
import { Hub, report } from "./kit.ts";

const DISKS = [
  {
    mount: "/",
    device: "/dev/sda1",
    fstype: "ext4",
    used_gb: 3.6,
    total_gb: 4,
    used_percent: 91,
    inodes_used_percent: 12,
    read_only: false,
  },
  { mount: '/srv/a "b"', device: "/dev/sdb", fstype: "xfs", used_gb: 1, total_gb: 4, used_percent: 25 },
];
const { metrics } = report()["host"] as { metrics: object };
const FULL = report({ host: { metrics: { ...metrics, memory_used_mb: 512, network_rx_bytes: 7 }, disks: DISKS } });

async function series(hub: Hub): Promise<string[]> {
  const text = await (await fetch(`${hub.url}/metrics`)).text();
  return text.split("\n").filter((line) => line.startsWith("picket_host_"));
}

test("a host that has reported has the figures of its last report", async () => {
  await using hub = await Hub.start({ hosts: ["nas", "pi", "web-1"] });
  await hub.report(FULL, { host: "nas" });
  await hub.report(report(), { host: "web-1" });
  await hub.run("host", "archive", "web-1");
  const all = await series(hub);
  for (const sample of [
    'up{host="nas"} 1',
    'alerts_open{host="nas"} ',
    'cpu_ratio{host="nas"} 0.125',
    'memory_used_bytes{host="nas"} 536870912',
    'network_receive_bytes_total{host="nas"} 7',
    'disk_used_ratio{host="nas",mount="/"} 0.91',
    'disk_inodes_used_ratio{host="nas",mount="/"} 0.12',
    'disk_used_ratio{host="nas",mount="/srv/a \\"b\\""} 0.25',
    "series_left_out 0",
  ]) {
    expect(all.filter((line) => line.startsWith(`picket_host_${sample}`))).toHaveLength(1);
  }
  expect(all.join("\n")).not.toMatch(/"pi"|"web-1"|NaN|null/);
});

test("the first 500 hosts by name have series", async () => {
  await using hub = new Hub();
  await hub.addHost("nas");
  hub.change((db) => {
    const add = db.query("INSERT INTO hosts (name, status, created_at, last_seen_at) VALUES (?, 'offline', 1, 1)");
    for (let n = 0; n < 502; n++) add.run(`pi-${1000 + n}`);
  });
  await hub.up();
  const all = await series(hub);
  expect(all.filter((line) => line.startsWith("picket_host_up"))).toHaveLength(500);
  expect(all).toContain('picket_host_up{host="pi-1499"} 0');
  expect(all).toContain("picket_host_series_left_out 2");
});

describe.skipIf(!have("prometheus", "etc/prometheus.yaml and etc/grafana.json"))("a real Prometheus", () => {
  test("scrapes as etc/prometheus.yaml says, raises its rules, and has data for each panel of etc/grafana.json", async () => {
    await using hub = await Hub.start({ hosts: ["nas"] });
    await hub.report(FULL, { host: "nas" });
    await hub.run("host", "set", "nas", "--interval", "1");
    using folder = new Folder();
    const [port, read] = [freePort(), (name: string) => readFileSync(join(ROOT, "etc", name), "utf8")];
    folder.write("prometheus-rules.yaml", read("prometheus-rules.yaml").replaceAll(/for: \d+m/g, "for: 0s"));
    // Only the receiver runs, whatever else does on this machine.
    const scrape = read("prometheus.yaml").replaceAll(/127\.0\.0\.1:(\d+)/g, (_, role) =>
      role === "18791" ? new URL(hub.url).host : `127.0.0.1:${freePort()}`,
    );
    const config = folder.write(
      "prometheus.yaml",
      `global: { scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }\n${scrape}`,
    );
    const daemon = Bun.spawn(
      [
        "prometheus",
        `--config.file=${config}`,
        `--storage.tsdb.path=${folder.at("data")}`,
        `--web.listen-address=127.0.0.1:${port}`,
      ],
      { stdout: "ignore", stderr: "ignore" },
    );
    try {
      interface Answer {
        result?: unknown[];
        alerts?: { state: string; labels: { alertname: string } }[];
      }
      const ask = async (path: string): Promise<Answer> => {
        const answer = await fetch(`http://127.0.0.1:${port}/api/v1/${path}`).catch(() => null);
        return answer?.ok ? ((await answer.json()) as { data: Answer }).data : {};
      };
      const find = async (expr: string) =>
        ((await ask(`query?query=${encodeURIComponent(expr)}`)).result ?? []).length > 0;
      await until("a host has series", () => find('picket_host_up{host="nas"}'));
      const { panels } = JSON.parse(read("grafana.json")) as { panels: { targets: { expr: string }[] }[] };
      for (const expr of panels.flatMap(({ targets }) => targets.map((target) => target.expr))) {
        const now = expr.replaceAll("$host", ".*").replaceAll("[5m]", "[1m]");
        await hub.report(FULL, { host: "nas" });
        await until(`"${expr}" has data`, () => find(now));
      }
      await until("the rules find a full disk, a silent host, and roles that do not run", async () => {
        const firing = ((await ask("alerts")).alerts ?? []).filter(({ state }) => state === "firing");
        const names = new Set(firing.map(({ labels }) => labels.alertname));
        return ["PicketDown", "PicketDiskFull", "PicketHostOffline", "PicketAlertOpen"].every((name) =>
          names.has(name),
        );
      });
    } finally {
      daemon.kill();
      await daemon.exited;
    }
  });
});
