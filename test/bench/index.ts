// All measurements in one run, written to docs/benchmarks.md.
//   bun run bench
// PICKET_BENCH_… variables of single measurements (rounds, seconds, sizes) are taken, and told in the file.

import { cpus, release } from "node:os";
import { join } from "node:path";
import { drops } from "./drops.ts";
import { postgresPrograms } from "../postgres.ts";
import { ROOT, type Section } from "./kit.ts";
import { mcp } from "./mcp.ts";
import { memory } from "./memory.ts";
import { operations, remembering, replaying, statsUnderLoad } from "./operations.ts";
import { pages } from "./pages.ts";
import { reporting } from "./reporting.ts";
import { reading, reports } from "./reports.ts";
import { fleet, scaleInbox, scaleReports } from "./scale.ts";
import { shipping } from "./shipping.ts";
import { start } from "./start.ts";
import { uploads } from "./uploads.ts";
import { webhooks } from "./webhooks.ts";

function version(cmd: string[]): string {
  const run = Bun.spawnSync(cmd, { stderr: "pipe" });
  return `${run.stdout.toString()}${run.stderr.toString()}`.trim().split("\n")[0] ?? "";
}

/** For programs that don't say their version. */
function debianVersion(name: string): string {
  return version(["dpkg-query", "-W", "-f", "${Package} ${Version}", name]);
}

function table({ title, command, text, rows }: Section): string {
  const lines = rows.map(({ what, figure, ratio = "", aim = "" }) => `| ${what} | ${figure} | ${ratio} | ${aim} |`);
  return [
    `## ${title}`,
    "",
    `\`${command}\``,
    "",
    text,
    "",
    "| what | figure | ratio | aim |",
    "| --- | --- | --- | --- |",
    ...lines,
  ].join("\n");
}

await Bun.$`${process.execPath} build.ts`.cwd(ROOT).quiet();
const postgres = postgresPrograms("figures of PostgreSQL");
const sections = [
  await webhooks(),
  await drops(),
  await reports(),
  ...(postgres === null ? [] : [await scaleReports(postgres), await fleet(postgres), await scaleInbox(postgres)]),
  await uploads(),
  await reading(),
  await pages(),
  await reporting(),
  await shipping(),
  await operations(),
  await replaying(),
  await remembering(),
  await statsUnderLoad(),
  await start(),
  await memory(),
  await mcp(),
];
const peers = [
  `Bun ${Bun.version}`,
  Bun.which("wrk") ? version(["wrk", "-v"]).replace(/ \[.*/, "") : "",
  Bun.which("webhook") ? version(["webhook", "-version"]) : "",
  Bun.which("nginx") ? version(["nginx", "-v"]) : "",
  Bun.which("prometheus-pushgateway") ? version(["prometheus-pushgateway", "--version"]).replace(/ \(.*/, "") : "",
  Bun.which("prometheus-node-exporter") ? version(["prometheus-node-exporter", "--version"]).replace(/ \(.*/, "") : "",
  Bun.which("tar") ? version(["tar", "--version"]) : "",
  Bun.which("zstd") ? `zstd ${/v[\d.]+/.exec(version(["zstd", "--version"]))?.[0] ?? ""}` : "",
  Bun.which("jq") ? version(["jq", "--version"]) : "",
  Bun.which("curl") ? version(["curl", "--version"]).replace(/ \(.*/, "") : "",
  Bun.which("node") ? `Node ${version(["node", "--version"])}` : "",
  version(["dd", "--version"]),
  Bun.which("chromium") ? debianVersion("chromium") : "",
  postgres === null ? "" : version([join(postgres, "postgres"), "--version"]),
  Bun.which("victoria-metrics") ? debianVersion("victoria-metrics") : "",
  `Linux ${release()}`,
  `${cpus().length} cores (${cpus()[0]?.model ?? "unknown"})`,
];
const settings = Object.entries(process.env)
  .filter(([name]) => name.startsWith("PICKET_BENCH_") && name !== "PICKET_BENCH_DIR")
  .map(([name, value]) => `${name}=${value} `);
const head = `# Benchmarks

One run on one machine. \`${settings.join("")}bun run bench\` repeats it. Compare the ratios, not the figures: the programs ran in turn
on the same machine, whose syncs are faster than those of most disks. ${new Date().toISOString().slice(0, 10)}; ${peers.filter(Boolean).join(", ")}.

Not measured: a network between the programs, slow disks, more than one recipient at a time.
`;
const notes = await Bun.file(join(ROOT, "test/bench/NOTES.md"))
  .text()
  .catch(() => "");
await Bun.write(
  join(ROOT, "docs/benchmarks.md"),
  [head, ...sections.map(table), notes].filter(Boolean).join("\n\n").trimEnd() + "\n",
);
