// Figures in Prometheus' text format 0.0.4: counters, gauges, histograms. Labels are the caller's, who keeps them few.

import { readdirSync, readFileSync } from "node:fs";
import { commit, version } from "./version.ts";

/** Label names and values of one sample. */
export type Labels = Readonly<Record<string, string>>;

export class Counter {
  value = 0;
  add(by = 1): void {
    this.value += by;
  }
}

interface Family {
  type: "counter" | "gauge" | "histogram";
  help: string;
  samples: () => string[];
}

/** The figures of one daemon. A name is registered once; a second time throws. */
export class Registry {
  #families = new Map<string, Family>();
  #before: (() => Promise<void>)[] = [];

  /** A counter; its name ends in `_total`. It starts at 0, so that it is there before anything happened. */
  counter(name: string, help: string): Counter {
    return this.counters(name, help)({});
  }

  /** Counters that differ in their labels. Ask once for each and keep it: the labels are rendered when it is made. */
  counters(name: string, help: string): (labels: Labels) => Counter {
    const counts = new Map<string, Counter>();
    this.#register(name, {
      type: "counter",
      help,
      samples: () => [...counts].map(([labels, { value }]) => `${name}${labels} ${value}`),
    });
    return (labels) => {
      const key = render(labels);
      let count = counts.get(key);
      if (!count) counts.set(key, (count = new Counter()));
      return count;
    };
  }

  /** A gauge whose value is asked for at each scrape; NaN leaves the sample out. */
  gauge(name: string, help: string, value: () => number | [Labels, number][]): void {
    this.#asked("gauge", name, help, value);
  }

  /** A counter that is kept elsewhere. */
  counted(name: string, help: string, value: () => number | [Labels, number][]): void {
    this.#asked("counter", name, help, value);
  }

  #asked(type: Family["type"], name: string, help: string, value: () => number | [Labels, number][]): void {
    const samples = (): string[] => {
      const now = value();
      const all: [Labels, number][] = typeof now === "number" ? [[{}, now]] : now;
      return all.filter(([, one]) => !Number.isNaN(one)).map(([labels, one]) => `${name}${render(labels)} ${one}`);
    };
    this.#register(name, { type, help, samples });
  }

  /** A histogram with these upper bounds, ascending. */
  histogram(name: string, help: string, bounds: readonly number[]) {
    const counts = new Float64Array(bounds.length + 1);
    let sum = 0;
    this.#register(name, {
      type: "histogram",
      help,
      samples() {
        let total = 0;
        const buckets = [...bounds, Number.POSITIVE_INFINITY].map((bound, index) => {
          total += counts[index]!;
          return `${name}_bucket{le="${bound === Number.POSITIVE_INFINITY ? "+Inf" : bound}"} ${total}`;
        });
        return [...buckets, `${name}_sum ${sum}`, `${name}_count ${total}`];
      },
    });
    return {
      observe(value: number): void {
        let index = 0;
        while (index < bounds.length && value > bounds[index]!) index++;
        counts[index]!++;
        sum += value;
      },
    };
  }

  /** Reads what the figures of a scrape are taken from. */
  beforeRender(read: () => Promise<void>): void {
    this.#before.push(read);
  }

  /** The text that `GET /metrics` answers. */
  async render(): Promise<string> {
    for (const read of this.#before) await read();
    let text = "";
    for (const [name, { type, help, samples }] of this.#families) {
      text += `# HELP ${name} ${help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")}\n# TYPE ${name} ${type}\n`;
      for (const sample of samples()) text += `${sample}\n`;
    }
    return text;
  }

  #register(name: string, family: Family): void {
    if (this.#families.has(name)) throw new Error(`register metric "${name}": the name is taken`);
    this.#families.set(name, family);
  }
}

/** The metrics of the process itself, with the names that Prometheus' client libraries use. */
export function processMetrics(registry: Registry, role: string): void {
  const started = Date.now() / 1000 - performance.now() / 1000;
  registry.gauge("picket_build_info", "Which build this is; always 1.", () => [
    [{ role, version, commit, bun: Bun.version }, 1],
  ]);
  registry.gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.", () => started);
  registry.gauge("process_resident_memory_bytes", "Resident memory.", () => process.memoryUsage.rss());
  const descriptors = known(() => readdirSync("/proc/self/fd").length);
  registry.gauge("process_open_fds", "Open file descriptors.", descriptors);
  const limits = /^Max open files\s+(\d+)/m;
  const limit = known(() => Number(limits.exec(readFileSync("/proc/self/limits", "utf8"))?.[1]));
  registry.gauge("process_max_fds", "Limit of open file descriptors.", limit);
  registry.counted("process_cpu_seconds_total", "CPU time in user and kernel mode.", () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  });
}

/** NaN where a system can't tell. */
function known(figure: () => number): () => number {
  return () => {
    try {
      return figure();
    } catch {
      return Number.NaN;
    }
  };
}

function render(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function escape(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
