// The observer's figures for /metrics.

import type { Loop } from "../loop.ts";
import type { Registry } from "../metrics.ts";
import type { Escalations } from "./escalations.ts";
import type { Books } from "./books.ts";

/** The sources of the figures. */
interface Counted {
  books: Books;
  escalations: Escalations;
  /** The background steps, by name. */
  steps: ReadonlyMap<string, Loop>;
}

/** Registers the counters and gauges. Returns the counter of reviews by verdict and source. */
export function createFigures(metrics: Registry, { books: { tally, clusters }, escalations, steps }: Counted) {
  metrics.counted("picket_operations_total", "Operations ever recorded.", () => tally.stats.total);
  metrics.counted("picket_operations_failed_total", "Failed operations ever recorded.", () => tally.stats.failures);
  metrics.gauge("picket_operations_by_source", "Operations ever recorded, by source.", () =>
    Object.entries(tally.stats.by_source).map(([source, count]) => [{ source }, count]),
  );
  metrics.gauge("picket_ring_size", "Newest operations kept in memory.", () => tally.ringSize);
  metrics.gauge("picket_clusters", "Clusters of failures.", () => clusters.size);
  metrics.counted("picket_escalations_total", "Escalations written since the start.", () => escalations.count);
  metrics.gauge("picket_escalations_waiting", "Escalations not yet delivered to the inbox.", () => escalations.waiting);
  metrics.gauge("picket_step_failures", "Failed passes of a background step since the start.", () =>
    [...steps].map(([step, loop]) => [{ step }, loop.stats().failures]),
  );
  metrics.gauge(
    "picket_step_running_seconds",
    "Running time of a background step's current pass; 0 between passes.",
    () => [...steps].map(([step, loop]) => [{ step }, loop.stats().running_for_seconds]),
  );
  const reviews = metrics.counters("picket_reviews_total", "Reviews by verdict and source.");
  for (const verdict of ["accept", "reject", "cycle"]) reviews({ verdict, source: "heuristic" });
  return reviews;
}
