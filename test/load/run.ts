// The long load, drawn into test/load/README.md and load.svg.

import { cpus, release } from "node:os";
import { join } from "node:path";
import { Fleet, KINDS, type Kind, type Look, type Name, REMEMBERED_HOURS, SERVICES, most, steady } from "./load.ts";

const SECONDS = Number(process.env["PICKET_LOAD_SECONDS"] ?? 3600);
const MOST_SECONDS = 20;

await using fleet = new Fleet();
await fleet.start();
const limit = await most(fleet, MOST_SECONDS);
const half = Object.fromEntries(KINDS.map((kind) => [kind, limit[kind] / 2])) as Record<Kind, number>;
fleet.tidy();
const looks = await steady(fleet, half, { seconds: SECONDS, looks: 60 });
const { failures } = fleet;

/** Means of the first and of the last third. */
function thirds(figure: (look: Look) => number): [number, number] {
  const third = Math.floor(looks.length / 3);
  const mean = (some: Look[]) => some.reduce((sum, look) => sum + figure(look), 0) / some.length;
  return [mean(looks.slice(0, third)), mean(looks.slice(-third))];
}

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];

/** One panel of lines, each as a share of its own highest value, or of a common one. */
function panel(y: number, title: string, lines: { name: string; values: number[] }[], unit: string): string {
  const highest = Math.max(...lines.flatMap(({ values }) => values), 1);
  const paths = lines.map(({ name, values }, index) => {
    const points = values.map(
      (value, at) => `${60 + (at / (values.length - 1)) * 640},${y + 140 - (value / highest) * 120}`,
    );
    const label = `<text x="710" y="${y + 30 + index * 18}" fill="${COLOURS[index]}">${name}</text>`;
    return `<polyline fill="none" stroke="${COLOURS[index]}" stroke-width="1.5" points="${points.join(" ")}"/>${label}`;
  });
  return `<text x="60" y="${y + 12}" font-weight="bold">${title}</text><text x="4" y="${y + 26}">${Math.round(highest)} ${unit}</text><text x="44" y="${y + 144}">0</text><path d="M60 ${y + 20}V${y + 140}H700" fill="none" stroke="#888"/>${paths.join("")}`;
}

const panels = [
  panel(
    10,
    "acknowledged a second",
    KINDS.filter((kind) => kind !== "drops" && kind !== "episodes").map((name) => ({
      name,
      values: looks.map(({ rates }) => rates[name]),
    })),
    "/s",
  ),
  panel(
    180,
    "resident memory",
    SERVICES.map((name) => ({ name, values: looks.map(({ memory }) => memory[name]) })),
    "MiB",
  ),
  panel(350, "99th percentile of an answer", [{ name: "all", values: looks.map(({ p99 }) => p99) }], "ms"),
];
const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 510" font-family="sans-serif" font-size="12"><rect width="820" height="510" fill="white"/>${panels.join("")}<text x="300" y="506">${looks.at(-1)!.at} seconds</text></svg>\n`;
await Bun.write(join(import.meta.dir, "load.svg"), svg);

const row = (what: string, [first, last]: [number, number], unit: string) =>
  `| ${what} | ${Math.round(first * 10) / 10} ${unit} | ${Math.round(last * 10) / 10} ${unit} | ${first === 0 ? "" : (last / first).toFixed(2)} |`;
const rateOf = (kind: Kind) =>
  row(
    `${kind} (half of ${Math.round(limit[kind])}/s)`,
    thirds(({ rates }) => rates[kind]),
    "/s",
  );
const memoryOf = (name: Name) =>
  row(
    `memory of the ${name}`,
    thirds(({ memory }) => memory[name]),
    "MiB",
  );
const descriptorsOf = (name: Name) =>
  row(
    `descriptors of the ${name}`,
    thirds(({ descriptors }) => descriptors[name]),
    "",
  );
const text = `# Everything at once

\`PICKET_LOAD_SECONDS=${SECONDS} bun run load\`, ${new Date().toISOString().slice(0, 10)}, Bun ${Bun.version}, Linux ${release()}, ${cpus().length} cores; the program that makes the load runs on the
same machine. It first sends as much as possible for ${MOST_SECONDS} s, then half of that for ${SECONDS} s. ${failures} answers failed (not 2xx, or none). An operation is an array of ten.
Delivery ids are remembered for ${REMEMBERED_HOURS * 60} minutes (\`dedupe_hours: ${REMEMBERED_HOURS}\`): until then the collector's memory grows, by some 110 bytes each.

| what | first third | last third | ratio |
| --- | --- | --- | --- |
${[
  ...KINDS.map(rateOf),
  row(
    "99th percentile of an answer",
    thirds(({ p99 }) => p99),
    "ms",
  ),
  ...SERVICES.map(memoryOf),
  ...SERVICES.map(descriptorsOf),
].join("\n")}

![rates, memory and answers over time](load.svg)
`;
await Bun.write(join(import.meta.dir, "README.md"), text);
console.log(text);
