// The observer's figures for /metrics.

import type { Loop } from "../loop.ts";
import type { Registry } from "../metrics.ts";
import type { Escalations } from "./escalations.ts";
import type { Ledger } from "./recorder.ts";

/** The sources of the figures. */
interface Counted {
  ledger: Ledger;
  escalations: Escalations;
  /** The background steps, by name. */
  steps: ReadonlyMap<string, Loop>;
}

/** Registers the counters and gauges. Returns the counter of reviews by verdict and source. */
export function createFigures(metrics: Registry, { ledger, escalations, steps }: Counted) {
  const { clusters } = ledger;
  metrics.counted("picket_operations_total", "Operations ever recorded.", () => ledger.tally.total);
  metrics.counted(
    "picket_operations_failed_total",
    "Failed operations ever recorded.",
    () => ledger.tally.stats.failures,
  );
  metrics.gauge("picket_operations_by_source", "Operations ever recorded, by source.", () =>
    Object.entries(ledger.tally.stats.by_source).map(([source, count]) => [{ source }, count]),
  );
  metrics.gauge("picket_ring_size", "Newest operations kept in memory.", () => ledger.tally.ringSize);
  metrics.gauge("picket_clusters", "Clusters of failures.", () => clusters.size);
  metrics.counted("picket_escalations_total", "Escalations written since the start.", () => escalations.count);
  metrics.gauge("picket_escalations_waiting", "Escalations not yet delivered to the inbox.", () => escalations.waiting);
  const ofSteps = (figure: (loop: Loop) => number) => (): [{ step: string }, number][] =>
    [...steps].map(([step, loop]) => [{ step }, figure(loop)]);
  metrics.gauge(
    "picket_step_failures",
    "Failed passes of a background step since the start.",
    ofSteps((loop) => loop.stats().failures),
  );
  metrics.gauge(
    "picket_step_running_seconds",
    "Running time of a background step's current pass; 0 between passes.",
    ofSteps((loop) => loop.stats().running_for_seconds),
  );
  const reviews = metrics.counters("picket_reviews_total", "Reviews by verdict and source.");
  for (const verdict of ["accept", "reject", "cycle"]) reviews({ verdict, source: "heuristic" });
  return { reviews };
}
