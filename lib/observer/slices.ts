// Long work in slices: one text may take milliseconds to be understood, thousands of them wait, and requests want their turn meanwhile.

/** How long a slice is. A step of the work that takes longer is a slice of its own. */
const SLICE_MS = 10;

/**
 * A function to be awaited between the steps of a long work: when a slice is over, others get their turn.
 * @param alive is called at the end of each slice.
 */
export function inSlices(alive: () => void = () => {}): () => Promise<void> {
  let end = performance.now() + SLICE_MS;
  return async () => {
    if (performance.now() < end) return;
    alive();
    await new Promise<void>((next) => setImmediate(next));
    end = performance.now() + SLICE_MS;
  };
}
