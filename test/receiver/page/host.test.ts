// The page of a host and that of a container, as they are sent: read without a script.

import { expect, test } from "bun:test";
import { faultsOf, inBrowser, tooWide } from "../../browser.ts";
import { Hub, container, report } from "../kit.ts";

const ODD = `<script>alert(1)</script>"'\u202egnp`;
const page = async (hub: Hub, path: string): Promise<string> => (await fetch(hub.url + path)).text();

/** The text of a page's elements, without tags. */
const textOf = (html: string): string =>
  html
    .replace(/<svg.*?<\/svg>/gs, "")
    .replace(/<[^>]*>/g, " ")
    .replace(/\s+/g, " ");

test("the page of a host shows all that it has", async () => {
  await using hub = await Hub.start({ hosts: ["nas"] });
  const sent = report({ containers: [container("caddy"), container("db", { health_status: "unhealthy" })] });
  Object.assign(sent["host"] as object, {
    disks: [{ mount: "/srv", device: "/dev/sda1", fstype: "ext4", used_gb: 95, total_gb: 100, used_percent: 95 }],
    devices: [{ name: "sda", read_bytes: 2048, write_bytes: 4096, busy_ms: 36_000 }],
    interfaces: [{ name: "enp3s0", rx_bytes: 1024, tx_bytes: 2048, up: true, speed_mbit: 2500 }],
    temperatures: [{ chip: "coretemp", label: "Core 0", celsius: 52, high: 80, critical: 100 }],
    units: [{ name: "smbd.service", state: "failed", detail: "exit 1" }],
    processes: [{ name: "postgres", pid: 42, cpu_percent: 12, memory_mb: 512 }],
    pools: [{ name: "tank", kind: "zfs", state: "degraded", detail: "sdc is missing" }],
    smart: [{ device: "/dev/sda", model: "WD Red", passed: false, errors: 24 }],
    power: [{ name: "ups", kind: "ups", state: "charging", percent: 98 }],
  });
  sent["guests"] = [{ vmid: 101, name: "dns", kind: "lxc", status: "running", spec: { cores: 2 } }];
  expect((await hub.report(sent, { host: "nas" })).status).toBe(200);
  const checks = [{ name: "clock", state: "red", detail: "42 s behind", fix: "timedatectl set-ntp true" }];
  await fetch(`${hub.url}/v1/host-health/nas`, {
    method: "PUT",
    headers: hub.bearer("nas"),
    body: JSON.stringify({ state: "red", checks }),
  });
  await hub.ship("run-7", new Uint8Array([0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3]), { host: "nas" });
  const html = await page(hub, "/hosts/nas");
  const text = textOf(html);
  for (const shown of [
    "nas ✕ critical",
    "Debian GNU/Linux 12",
    "pool tank is degraded: sdc is missing zpool status tank",
    "caddy docker.io/library/nginx:1.27 ● running",
    "▲ unhealthy",
    "/srv /dev/sda1, ext4 95 % 100.0 GB",
    "sda 2.0 KB 4.0 KB 1 %",
    "enp3s0 up 2500 Mbit/s 1.0 KB 2.0 KB",
    "coretemp Core 0 52 °C 80 °C 100 °C",
    "smbd.service ▲ failed exit 1",
    "postgres 42 12 % 512.0 MB",
    "✕ failing 24",
    "ups ups charging 98 %",
    "dns lxc 101 ● running 2",
    "✕ clock 42 s behind timedatectl set-ntp true",
    "run-7",
  ]) {
    expect(text).toContain(shown);
  }
  expect(html).toContain("<title>nas: pool tank is degraded: sdc is missing · Picket</title>");
  for (const plot of ["cpu", "memory", "disk", "network", "load", "temperature"])
    expect(html).toContain(`plot-${plot}`);
});

test("foreign text is shown as text, and a long one is cut", async () => {
  await using hub = await Hub.start({ hosts: ["nas"] });
  const labels = { [ODD]: ODD, long: "A".repeat(10_000) };
  const odd = container(ODD, { image: ODD, state: ODD.slice(0, 30), labels, ports: [ODD] });
  expect((await hub.report(report({ containers: [odd] }), { host: "nas" })).status).toBe(200);
  await fetch(`${hub.url}/v1/host-health/nas`, {
    method: "PUT",
    headers: hub.bearer("nas"),
    body: JSON.stringify([ODD]),
  });
  const html = await page(hub, "/hosts/nas");
  const link = /href="(\/hosts\/nas\/containers\/[^"]+)"/.exec(html)![1]!;
  const one = await page(hub, link);
  for (const shown of [html, one]) {
    expect(shown).not.toContain("<script>");
    expect(shown).toContain("&lt;script&gt;");
    expect(shown).not.toContain("\u202e");
  }
  expect(one).toContain(`>${"A".repeat(80)}<`);
  const byName = await page(hub, `/hosts/nas/containers/${encodeURIComponent(ODD)}`);
  expect(/<title>.*?<\/title>/.exec(byName)).toEqual(/<title>.*?<\/title>/.exec(one));
  expect((await fetch(`${hub.url}/hosts/nas/containers/none`)).status).toBe(404);
});

test("a plot has the range of the address, and a gap where nothing was reported", async () => {
  await using hub = await Hub.start({ hosts: ["nas"] });
  for (const minutes of [50, 49, 48, 20, 19, 0]) {
    const sent = report({ sent_at: new Date().toISOString() }, minutes * 60_000);
    expect((await hub.report(sent, { host: "nas" })).status).toBe(200);
  }
  const curve = (html: string) => /id="plot-cpu".*?class="mean line-0" d="([^"]*)"/s.exec(html)![1]!;
  const hour = await page(hub, "/hosts/nas?range=hour");
  expect(hour).toContain('<a href="/hosts/nas?range=hour" aria-current="true">');
  expect(
    curve(hour)
      .split("M")
      .slice(1)
      .map((run) => run.split("L").length),
  ).toEqual([3, 2, 1]);
  // A day's points are ten minutes apart.
  expect(curve(await page(hub, "/hosts/nas?range=day")).split("L").length).toBeLessThan(5);
  const ago = (minutes: number) => new Date(Date.now() - minutes * 60_000).toISOString();
  const zoomed = await page(hub, `/hosts/nas?from=${ago(30)}&to=${ago(10)}`);
  expect(zoomed).not.toContain('aria-current="true"');
  expect(curve(zoomed).split("M")).toHaveLength(2);
  const none = await page(hub, `/hosts/nas?from=${ago(40)}&to=${ago(30)}`);
  expect(none).toContain("No figures in this time");
  // What is no range is the usual one.
  expect(await page(hub, `/hosts/nas?range=x&from=1&to=${ago(0)}`)).toContain('?range=hour" aria-current="true"');
});

test("the rate of a counter is unknown where the host began anew, and in a minute that is not over", async () => {
  await using hub = await Hub.start({ hosts: ["nas"] });
  for (const [minutes, bytes] of [
    [4, 1000],
    [3, 7000],
    [2, 500],
    [1, 6500],
    [0, 12_500],
  ] as const) {
    const metrics = { network_rx_bytes: bytes, network_tx_bytes: 2 * bytes };
    const sent = report({ sent_at: new Date().toISOString(), host: { metrics } }, minutes * 60_000);
    expect((await hub.report(sent, { host: "nas" })).status).toBe(200);
  }
  const html = await page(hub, "/hosts/nas?range=hour");
  expect(textOf(html)).toContain("Network 100 bytes/s in, 200 bytes/s out");
  const { at, lines } = JSON.parse(/id="plot-network".*?data-plot="(.*?)"/.exec(html)![1]!.replaceAll("&quot;", '"'));
  for (const { mean } of lines as { mean: (number | null)[] }[]) {
    const known = mean.flatMap((rate, n) => (rate === null ? [] : [{ rate, end: (at[n] + 30) * 1000 }]));
    expect(known.length).toBeGreaterThanOrEqual(2);
    expect(known.filter(({ rate, end }) => rate <= 0 || end > Date.now())).toEqual([]);
  }
});

const browse = inBrowser("the page of a host");

browse("a selected part of a plot becomes the range of the page, and back is back", async (open) => {
  await using hub = await Hub.start({ hosts: ["nas"] });
  for (const minutes of [30, 20, 10, 0]) {
    await hub.report(report({ sent_at: new Date().toISOString() }, minutes * 60_000), { host: "nas" });
  }
  const seen = await open(`${hub.url}/hosts/nas`, { dark: true });
  await seen.waitForSelector(".uplot canvas");
  expect(await seen.isVisible(".drawing")).toBe(false);
  const { x, y, width, height } = (await (await seen.$("figure:has(#plot-cpu) .u-over"))!.boundingBox())!;
  const across = (part: number) => seen.mouse.move(x + width * part, y + height / 2);
  await across(0.99);
  await seen.waitForFunction("document.querySelector('figure:has(#plot-cpu) output').textContent.includes('13 %')");
  await across(0.3);
  await seen.mouse.down();
  await across(0.8);
  await seen.mouse.up();
  await seen.waitForSelector(".ranges:not(:has([aria-current]))");
  expect(new URL(seen.url()).search).toMatch(/^\?from=.*Z&to=.*Z$/);
  await seen.waitForSelector("figure:has(#plot-cpu) .uplot canvas");
  await seen.goBack();
  await seen.waitForSelector(".ranges [aria-current]");
  // A figure that is reported while the page is open.
  const metrics = { cpu_percent: 77, memory_used_mb: 1024, memory_total_mb: 4096 };
  await hub.report(report({ host: { metrics } }), { host: "nas" });
  await seen.waitForSelector("#plot-cpu :text('77 %')");
  expect(await seen.locator("figure:has(#plot-cpu) .uplot").count()).toBe(1);
  expect(await faultsOf(seen)).toEqual([]);
  await seen.close();
});

browse(
  "without a script the plots are drawings, and a phone shows the page without scrolling sideways",
  async (open) => {
    await using hub = await Hub.start({ hosts: ["nas"] });
    const names = ["A".repeat(255), ODD, "caddy"];
    await hub.report(report({ containers: names.map((name) => container(name)) }), { host: "nas" });
    const seen = await open(`${hub.url}/hosts/nas`, { script: false, width: 360 });
    expect(await seen.isVisible("#plot-cpu .drawing")).toBe(true);
    expect(await tooWide(seen)).toEqual([]);
    expect(await faultsOf(seen)).toEqual([]);
    await seen.close();
  },
);
